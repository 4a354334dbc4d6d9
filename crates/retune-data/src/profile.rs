//! What a person wants to see of a table first: its columns, how often each class stands there, how long texts and how
//! large pictures are, and some rows of each class. Counts and excerpts, no judgement; that is the checks'.

use crate::check::example_key;
use crate::dataset::{is_missing_label, label_names};
use crate::error::DataError;
use crate::finding::excerpt;
use crate::image::Picture;
use crate::length::{LengthPolicy, OverLength};
use crate::roles::{Modality, Roles, TargetKind};
use crate::table::{Table, Value};
use crate::tokenize::TextTokenizer;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Examples of a column.
const EXAMPLES: usize = 3;
/// Characters of an example of a column.
const EXAMPLE: usize = 48;
/// Characters of a row's content.
const CONTENT: usize = 600;
/// A histogram has about so many bins.
const BINS: usize = 16;
/// Tokens of a text that is not cut.
const UNCUT: usize = 1 << 24;

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnRole {
    /// The text, or the first of a pair.
    Text,
    /// The second text of a pair.
    TextPair,
    /// The picture.
    Image,
    /// The label, or one of several.
    Label,
    /// The identifier.
    Id,
}

impl ColumnRole {
    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            ColumnRole::Text => "text",
            ColumnRole::TextPair => "text pair",
            ColumnRole::Image => "image",
            ColumnRole::Label => "label",
            ColumnRole::Id => "id",
        }
    }
}

/// What a column's cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// All cells are empty.
    Empty,
    /// Texts.
    Text,
    /// Whole numbers, perhaps written as text.
    Integer,
    /// Numbers.
    Number,
    /// True or false.
    Bool,
    /// Lists.
    List,
    /// Pictures.
    Picture,
    /// Of several kinds.
    Mixed,
}

impl ColumnKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ColumnKind::Empty => "empty",
            ColumnKind::Text => "text",
            ColumnKind::Integer => "integer",
            ColumnKind::Number => "number",
            ColumnKind::Bool => "bool",
            ColumnKind::List => "list",
            ColumnKind::Picture => "picture",
            ColumnKind::Mixed => "mixed",
        }
    }
}

/// A column at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnProfile {
    /// Its name.
    pub name: String,
    /// What it is for; `None` for columns that only go along.
    pub role: Option<ColumnRole>,
    /// What its cells are.
    pub kind: ColumnKind,
    /// Rows without a value.
    pub missing: usize,
    /// Different values.
    pub distinct: usize,
    /// Its most frequent values if values repeat, else the first ones; shortened.
    pub examples: Vec<String>,
    /// The least and the greatest number.
    pub range: Option<(f64, f64)>,
}

/// How some lengths are distributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub least: usize,
    /// 5 of 100 are no greater; nearest rank, as are the others.
    pub p5: usize,
    /// The median.
    pub p50: usize,
    /// 95 of 100 are no greater.
    pub p95: usize,
    /// 99 of 100 are no greater.
    pub p99: usize,
    /// The greatest.
    pub greatest: usize,
    /// A histogram: bins of one width up to the 99th percentile, and one for what is beyond.
    pub bins: Vec<Bin>,
}

/// A bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The least value that it counts.
    pub from: usize,
    /// The least value that it no longer counts; `None` if it has no upper end.
    pub to: Option<usize>,
    /// How many it counts.
    pub count: usize,
}

/// A class with some of its rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassProfile {
    /// The label.
    pub label: String,
    /// Rows that have it.
    pub rows: usize,
    /// Some of them, spread evenly.
    pub examples: Vec<RowProfile>,
}

/// A row as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowProfile {
    /// Its line.
    pub line: u64,
    /// Its text, shortened, or its picture's name.
    pub content: String,
    /// Its picture's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<PathBuf>,
}

/// How large pictures are and what they are made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PictureProfile {
    /// Pictures that were opened.
    pub count: usize,
    /// Widths in pixels.
    pub widths: Distribution,
    /// Heights in pixels.
    pub heights: Distribution,
    /// The most frequent sizes (width, height) and how many pictures have them.
    pub sizes: Vec<(usize, usize, usize)>,
    /// How many sizes there are.
    pub different_sizes: usize,
    /// Pictures of each colour mode: grey, RGB, RGBA.
    pub modes: Vec<(&'static str, usize)>,
}

/// A table at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableProfile {
    /// The file.
    pub path: PathBuf,
    /// What its samples are.
    pub modality: Modality,
    /// Its rows.
    pub rows: usize,
    /// Its columns in order.
    pub columns: Vec<ColumnProfile>,
    /// The kind of target.
    pub target_kind: Option<TargetKind>,
    /// Its classes, the most frequent first; none for a regression and without labels.
    pub classes: Vec<ClassProfile>,
    /// Some rows of a table without classes.
    pub examples: Vec<RowProfile>,
    /// How the numbers of a regression are distributed: least, median, greatest.
    pub target_range: Option<(f64, f64, f64)>,
    /// Lengths of the texts in characters.
    pub characters: Option<Distribution>,
    /// Lengths of the texts in tokens, special ones included.
    pub tokens: Option<Distribution>,
    /// The pictures.
    pub pictures: Option<PictureProfile>,
}

impl Distribution {
    /// Of lengths in any order; `None` of none.
    pub fn of(mut lengths: Vec<usize>) -> Option<Self> {
        lengths.sort_unstable();
        let (&least, &greatest) = (lengths.first()?, lengths.last()?);
        let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
        let count = lengths.len();
        let mean = lengths.iter().sum::<usize>() as f64 / count as f64;
        let (p5, p50, p95, p99) = (rank(5), rank(50), rank(95), rank(99));
        let bins = bins(&lengths, p99);
        Some(Self { count, mean, least, p5, p50, p95, p99, greatest, bins })
    }
}

/// Bins of a round width over sorted lengths, up to `last`; what is beyond is one more.
fn bins(sorted: &[usize], last: usize) -> Vec<Bin> {
    let least = sorted.first().copied().unwrap_or(0);
    let wanted = (last + 1 - least.min(last)).div_ceil(BINS).max(1);
    let round = |width: &usize| *width >= wanted;
    let powers = (0..18).map(|power| 10_usize.pow(power));
    let width = powers.flat_map(|power| [power, 2 * power, 5 * power]).find(round).unwrap_or(wanted);
    let below = |value: usize| sorted.partition_point(|length| *length < value);
    let mut from = least / width * width;
    let mut bins = Vec::new();
    while from <= last {
        bins.push(Bin { from, to: Some(from + width), count: below(from + width) - below(from) });
        from += width;
    }
    let beyond = sorted.len() - below(from);
    if beyond > 0 {
        bins.push(Bin { from, to: None, count: beyond });
    }
    bins
}

/// Looks at a table: `rows_per_class` rows of each class, and lengths in tokens where there is a tokenizer. Pictures must
/// have been opened.
///
/// # Errors
/// If the tokenizer fails.
pub fn profile_table(
    table: &Table,
    roles: &Roles,
    tokenizer: Option<&TextTokenizer>,
    rows_per_class: usize,
) -> Result<TableProfile, DataError> {
    let is_text = roles.modality == Modality::Text;
    let texts: Vec<String> = if is_text {
        table.rows.iter().map(|row| example_key(&row.values, roles)).collect()
    } else {
        Vec::new()
    };
    let characters = texts.iter().map(|text| text.chars().filter(|c| *c != '\u{1F}').count()).collect();
    let tokens = match tokenizer.filter(|_| is_text) {
        Some(tokenizer) => Distribution::of(token_lengths(&texts, tokenizer)?),
        None => None,
    };
    let classes = classes(table, roles, rows_per_class);
    let examples = if classes.is_empty() {
        spread(&(0..table.rows.len()).collect::<Vec<usize>>(), rows_per_class)
            .map(|row| row_profile(table, roles, row))
            .collect()
    } else {
        Vec::new()
    };
    Ok(TableProfile {
        path: table.path.clone(),
        modality: roles.modality,
        rows: table.rows.len(),
        columns: (0..table.columns.len()).map(|column| column_profile(table, roles, column)).collect(),
        target_kind: roles.target_kind,
        classes,
        examples,
        target_range: target_range(table, roles),
        characters: Distribution::of(characters),
        tokens,
        pictures: pictures(table, roles),
    })
}

fn token_lengths(texts: &[String], tokenizer: &TextTokenizer) -> Result<Vec<usize>, DataError> {
    let policy = LengthPolicy { max_length: UNCUT, over_length: OverLength::Truncate };
    let length = |text: &String| {
        let (first, second) = match text.split_once('\u{1F}') {
            Some((first, second)) => (first, Some(second)),
            None => (text.as_str(), None),
        };
        Ok(tokenizer.encode(first, second, &policy)?.original_length)
    };
    texts.iter().map(length).collect()
}

fn column_profile(table: &Table, roles: &Roles, column: usize) -> ColumnProfile {
    let mut kinds: BTreeMap<u8, ColumnKind> = BTreeMap::new();
    let mut values: HashMap<String, (usize, usize)> = HashMap::new();
    let (mut missing, mut range) = (0, None::<(f64, f64)>);
    for (index, row) in table.rows.iter().enumerate() {
        let value = &row.values[column];
        if value.is_blank() {
            missing += 1;
            continue;
        }
        let number = value.as_number().filter(|number| number.is_finite());
        if let Some(number) = number {
            range = Some(range.map_or((number, number), |(low, high)| (low.min(number), high.max(number))));
        }
        let kind = match (value, number) {
            (Value::List(_), _) => ColumnKind::List,
            (Value::Picture(_), _) => ColumnKind::Picture,
            (Value::Bool(_), _) => ColumnKind::Bool,
            (_, Some(number)) if number.fract() == 0.0 => ColumnKind::Integer,
            (_, Some(_)) => ColumnKind::Number,
            (_, None) => ColumnKind::Text,
        };
        kinds.insert(kind as u8, kind);
        let text = value.as_text().unwrap_or_default();
        values.entry(text.trim().to_owned()).or_insert((0, index)).0 += 1;
    }
    let kind = match kinds.into_values().collect::<Vec<_>>()[..] {
        [] => ColumnKind::Empty,
        [kind] => kind,
        [ColumnKind::Integer, ColumnKind::Number] => ColumnKind::Number,
        _ => ColumnKind::Mixed,
    };
    let distinct = values.len();
    let mut examples: Vec<(String, (usize, usize))> = values.into_iter().collect();
    examples.sort_by_key(|(_, (rows, first))| (std::cmp::Reverse(*rows), *first));
    let role = [
        (roles.labels.contains(&column), ColumnRole::Label),
        (roles.text_pair == Some(column), ColumnRole::TextPair),
        (roles.id == Some(column), ColumnRole::Id),
        (roles.content == column && roles.modality == Modality::Text, ColumnRole::Text),
        (roles.content == column && roles.modality == Modality::Image, ColumnRole::Image),
    ];
    ColumnProfile {
        name: table.columns[column].clone(),
        role: role.into_iter().find(|(is, _)| *is).map(|(_, role)| role),
        kind,
        missing,
        distinct,
        examples: examples.into_iter().take(EXAMPLES).map(|(text, _)| excerpt(&text, EXAMPLE)).collect(),
        range: range.filter(|_| matches!(kind, ColumnKind::Integer | ColumnKind::Number)),
    }
}

fn classes(table: &Table, roles: &Roles, rows_per_class: usize) -> Vec<ClassProfile> {
    let mut rows_of: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (row, names) in label_names(table, roles).into_iter().enumerate() {
        for name in names.into_iter().filter(|name| !is_missing_label(&Value::Text(name.clone()))) {
            let rows = rows_of.entry(name).or_default();
            if rows.last() != Some(&row) {
                rows.push(row);
            }
        }
    }
    let mut classes: Vec<ClassProfile> = rows_of
        .into_iter()
        .map(|(label, rows)| ClassProfile {
            label,
            rows: rows.len(),
            examples: spread(&rows, rows_per_class).map(|row| row_profile(table, roles, row)).collect(),
        })
        .collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.rows));
    classes
}

/// Some of the rows, from the first to the last at even distances.
fn spread(rows: &[usize], wanted: usize) -> impl Iterator<Item = usize> + '_ {
    let shown = wanted.min(rows.len());
    (0..shown).map(move |place| rows[place * (rows.len() - 1) / (shown - 1).max(1)])
}

fn row_profile(table: &Table, roles: &Roles, row: usize) -> RowProfile {
    let row = &table.rows[row];
    let picture = match &row.values[roles.content] {
        Value::Picture(picture) => Some(&**picture),
        _ => None,
    };
    let content = match picture {
        Some(picture) => picture_name(table, picture),
        None => excerpt(&example_key(&row.values, roles).replace('\u{1F}', " ↔ "), CONTENT),
    };
    RowProfile { line: row.line, content, picture: picture.and_then(Picture::path).map(PathBuf::from) }
}

/// A picture's path within its table's folder, or what messages call it.
fn picture_name(table: &Table, picture: &Picture) -> String {
    let inside = picture.path().and_then(|path| path.strip_prefix(&table.path).ok());
    inside.map_or_else(|| picture.to_string(), |path| path.display().to_string())
}

fn target_range(table: &Table, roles: &Roles) -> Option<(f64, f64, f64)> {
    let &column = roles.labels.first().filter(|_| roles.target_kind == Some(TargetKind::Regression))?;
    let mut numbers: Vec<f64> = table.rows.iter().filter_map(|row| row.values[column].as_number()).collect();
    numbers.retain(|number| number.is_finite());
    numbers.sort_by(f64::total_cmp);
    Some((*numbers.first()?, numbers[(numbers.len() - 1) / 2], *numbers.last()?))
}

fn pictures(table: &Table, roles: &Roles) -> Option<PictureProfile> {
    const SIZES: usize = 8;
    let facts = table.rows.iter().filter_map(|row| match &row.values[roles.content] {
        Value::Picture(picture) => picture.facts,
        _ => None,
    });
    let facts: Vec<_> = facts.collect();
    let mut sizes: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut modes: BTreeMap<usize, usize> = BTreeMap::new();
    for facts in &facts {
        *sizes.entry((facts.width, facts.height)).or_default() += 1;
        *modes.entry(facts.channels).or_default() += 1;
    }
    let mut frequent: Vec<(usize, usize, usize)> =
        sizes.iter().map(|(&(width, height), &pictures)| (width, height, pictures)).collect();
    frequent.sort_by_key(|(_, _, pictures)| std::cmp::Reverse(*pictures));
    frequent.truncate(SIZES);
    let mode = |channels: usize| match channels {
        1 => "grey",
        4 => "RGBA",
        _ => "RGB",
    };
    Some(PictureProfile {
        count: facts.len(),
        widths: Distribution::of(facts.iter().map(|facts| facts.width).collect())?,
        heights: Distribution::of(facts.iter().map(|facts| facts.height).collect())?,
        sizes: frequent,
        different_sizes: sizes.len(),
        modes: modes.into_iter().map(|(channels, pictures)| (mode(channels), pictures)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_bytes};
    use crate::roles::{RoleOverrides, infer_roles};
    use std::path::Path;

    fn profile(text: &str) -> TableProfile {
        let table =
            read_bytes(Path::new("t.csv"), text.as_bytes().to_vec(), &ReadOptions::default()).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        profile_table(&table, &roles, None, 2).unwrap()
    }

    #[test]
    fn columns_tell_what_they_hold() {
        let found = profile("id,text,age,label\n1,aa,3,x\n2,bbbb,,y\n3,c,2.5,x\n4,dd,3,x\n");
        let said: Vec<_> = found
            .columns
            .iter()
            .map(|column| (column.role, column.kind, column.missing, column.distinct))
            .collect();
        assert_eq!(
            said,
            [
                (Some(ColumnRole::Id), ColumnKind::Integer, 0, 4),
                (Some(ColumnRole::Text), ColumnKind::Text, 0, 4),
                (None, ColumnKind::Number, 1, 2),
                (Some(ColumnRole::Label), ColumnKind::Text, 0, 2),
            ]
        );
        assert_eq!(
            (found.columns[2].range, &found.columns[2].examples[..]),
            (Some((2.5, 3.0)), &["3".to_owned(), "2.5".to_owned()][..])
        );
        let class = &found.classes[0];
        assert_eq!((class.label.as_str(), class.rows), ("x", 3));
        assert_eq!(
            class.examples.iter().map(|row| (row.line, row.content.as_str())).collect::<Vec<_>>(),
            [(2, "aa"), (5, "dd")]
        );
        let lengths = found.characters.unwrap();
        assert_eq!((lengths.least, lengths.p50, lengths.greatest, lengths.mean), (1, 2, 4, 2.25));
    }

    #[test]
    fn bins_count_everything_once_and_have_round_ends() {
        let lengths: Vec<usize> = (0..1000).map(|n| n % 300).chain([5000, 7000]).collect();
        let found = Distribution::of(lengths).unwrap();
        assert_eq!(found.bins.iter().map(|bin| bin.count).sum::<usize>(), 1002);
        assert_eq!((found.bins[0], found.bins.len()), (Bin { from: 0, to: Some(20), count: 80 }, 16));
        assert_eq!(found.bins.last(), Some(&Bin { from: 300, to: None, count: 2 }));
        assert_eq!(Distribution::of(vec![7, 7]).unwrap().bins, [Bin { from: 7, to: Some(8), count: 2 }]);
        assert_eq!(Distribution::of(vec![]), None);
    }

    #[test]
    fn a_table_without_classes_shows_rows_of_its_whole_length() {
        let rows: String = (0..50).map(|n| format!("text number {n},{}.5\n", n * 7)).collect();
        let found = profile(&format!("text,score\n{rows}"));
        assert_eq!(found.target_range, Some((0.5, 168.5, 343.5)));
        assert_eq!(found.examples.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 51]);
    }
}
