//! Which column is the text or the picture, which the label, and what task that makes: inferred with reasons, or as
//! told.

use crate::error::DataError;
use crate::image::{PictureSource, has_picture_extension};
use crate::table::{Table, Value};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

/// Separators that join several labels in one text cell.
const LABEL_SEPARATORS: [char; 3] = ['|', ';', ','];
/// A numeric label column with more distinct values than this is a quantity, not a class.
const MAX_NUMERIC_CLASSES: usize = 20;

const TEXT_NAMES: &[&str] = &[
    "text",
    "sentence",
    "message",
    "review",
    "content",
    "body",
    "comment",
    "tweet",
    "utterance",
    "document",
    "question",
    "query",
    "sentence1",
    "premise",
    "question1",
    "text_a",
];
/// First and second text of the usual pair datasets.
const PAIR_NAMES: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("query", "document"),
    ("query", "passage"),
];
/// Columns that hold pictures or paths to them.
const PICTURE_NAMES: &[&str] = &[
    "image",
    "img",
    "picture",
    "photo",
    "image_path",
    "img_path",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "image_file",
    "image_name",
    "file",
    "path",
];
const LABEL_NAMES: &[&str] = &[
    "label",
    "labels",
    "target",
    "targets",
    "class",
    "category",
    "intent",
    "sentiment",
    "topic",
    "y",
    "tag",
    "tags",
    "score",
    "rating",
    "stars",
    "gold_label",
];
const ID_NAMES: &[&str] =
    &["id", "idx", "index", "guid", "uuid", "uid", "row_id", "column_1", "unnamed: 0", "pair_id"];

/// What kind of target the label column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// One class per row.
    SingleLabel,
    /// Any number of classes per row.
    MultiLabel,
    /// One or several numbers per row.
    Regression,
}

/// What the samples of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Texts, or pairs of texts.
    #[default]
    Text,
    /// Pictures: paths to their files, or the pictures themselves.
    Image,
}

impl Modality {
    /// What a sample's content is called in messages.
    pub fn noun(self) -> &'static str {
        match self {
            Modality::Text => "text",
            Modality::Image => "picture",
        }
    }
}

/// Columns and task as the recipe names them; what is `None` is inferred.
#[derive(Debug, Clone, Default)]
pub struct RoleOverrides {
    /// What the samples are.
    pub modality: Modality,
    /// The column of pictures or of their paths.
    pub image_column: Option<String>,
    /// The text column's name.
    pub text_column: Option<String>,
    /// The second text's column.
    pub text_pair_column: Option<String>,
    /// The label column, or several: numbers for a regression with several outputs, 0/1 for multi-label.
    pub label_columns: Vec<String>,
    /// The identifier column.
    pub id_column: Option<String>,
    /// The kind of target.
    pub target_kind: Option<TargetKind>,
    /// What joins several labels in one cell.
    pub label_separator: Option<char>,
    /// The data is to predict on: it has no labels, or they do not matter.
    pub unlabelled: bool,
}

/// The columns' roles, as indices into [`Table::columns`].
#[derive(Debug, Clone, PartialEq)]
pub struct Roles {
    /// What the samples are.
    pub modality: Modality,
    /// What a sample is: its text, or its picture.
    pub content: usize,
    /// The second text of a pair.
    pub text_pair: Option<usize>,
    /// The label columns; none in data without labels.
    pub labels: Vec<usize>,
    /// The identifier.
    pub id: Option<usize>,
    /// The kind of target; `None` without labels.
    pub target_kind: Option<TargetKind>,
    /// What joins several labels in one cell; `None` when cells hold lists or one label.
    pub label_separator: Option<char>,
    /// Why each role was given, one sentence each, for the user.
    pub reasons: Vec<String>,
}

impl Roles {
    /// The same roles in another file (validation, test, new data), found there by name.
    ///
    /// # Errors
    /// [`DataError::UnknownColumn`] when a content column is missing there, or a label column while
    /// `require_labels`.
    pub fn in_table(&self, from: &Table, to: &Table, require_labels: bool) -> Result<Roles, DataError> {
        let find = |index: usize| to.column_index(&from.columns[index]);
        let labels = self.labels.iter().map(|&index| find(index)).collect::<Result<Vec<usize>, _>>();
        let labels = if require_labels { labels? } else { labels.unwrap_or_default() };
        Ok(Roles {
            modality: self.modality,
            content: find(self.content)?,
            text_pair: self.text_pair.map(find).transpose()?,
            target_kind: self.target_kind.filter(|_| !labels.is_empty()),
            labels,
            id: self.id.and_then(|index| find(index).ok()),
            label_separator: self.label_separator,
            reasons: Vec::new(),
        })
    }
}

/// Infers the roles of a table's columns, obeying what is already known.
///
/// # Errors
/// [`DataError::UnknownColumn`] for a name that isn't there, [`DataError::Roles`] when no column can be the text or
/// the picture.
pub fn infer_roles(table: &Table, overrides: &RoleOverrides) -> Result<Roles, DataError> {
    let mut reasons = Vec::new();
    let named = |name: &Option<String>| name.as_deref().map(|name| table.column_index(name)).transpose();
    let is_text = overrides.modality == Modality::Text;
    let mut content = named(if is_text { &overrides.text_column } else { &overrides.image_column })?;
    let mut text_pair = if is_text { named(&overrides.text_pair_column)? } else { None };
    let mut id = named(&overrides.id_column)?;
    let mut labels = overrides
        .label_columns
        .iter()
        .map(|name| table.column_index(name))
        .collect::<Result<Vec<usize>, _>>()?;
    let profiles: Vec<Profile> = (0..table.columns.len()).map(|column| Profile::of(table, column)).collect();
    let taken = |column: usize, others: &[Option<usize>], labels: &[usize]| {
        others.contains(&Some(column)) || labels.contains(&column)
    };

    if id.is_none() {
        id = (0..table.columns.len()).find(|&column| {
            !taken(column, &[content, text_pair], &labels)
                && ID_NAMES.contains(&lower(table, column).as_str())
                && profiles[column].looks_like_an_id()
        });
        if let Some(column) = id {
            reasons.push(format!(
                "`{}` is an identifier: its name, and no value repeats",
                table.columns[column]
            ));
        }
    }
    if overrides.unlabelled {
        labels.clear();
    } else if labels.is_empty() {
        let by_name = LABEL_NAMES.iter().find_map(|name| {
            (0..table.columns.len()).find(|&column| {
                lower(table, column) == *name && !taken(column, &[content, text_pair, id], &[])
            })
        });
        let by_content = || {
            let mut candidates: Vec<usize> = (0..table.columns.len())
                .filter(|&column| !taken(column, &[content, text_pair, id], &[]))
                .filter(|&column| profiles[column].looks_like_a_label())
                .collect();
            candidates.sort_by_key(|&column| (profiles[column].distinct < 2, profiles[column].distinct));
            candidates.first().copied()
        };
        if let Some(column) = by_name {
            reasons.push(format!("`{}` is the label: its name", table.columns[column]));
            labels.push(column);
        } else if let Some(column) = by_content().filter(|_| table.columns.len() > 1) {
            let distinct = profiles[column].distinct;
            reasons.push(format!(
                "`{}` is the label: few distinct short values ({distinct})",
                table.columns[column]
            ));
            labels.push(column);
        }
    }
    if is_text && content.is_none() && text_pair.is_none() {
        let pair = PAIR_NAMES.iter().find_map(|(first, second)| {
            let find = |name: &str| {
                (0..table.columns.len())
                    .find(|&column| lower(table, column) == name && !taken(column, &[id], &labels))
            };
            Some((find(first)?, find(second)?))
        });
        if let Some((first, second)) = pair {
            let names = (&table.columns[first], &table.columns[second]);
            reasons.push(format!("`{}` and `{}` are a text pair: their names", names.0, names.1));
            (content, text_pair) = (Some(first), Some(second));
        }
    }
    if content.is_none() {
        let free = |column: &usize| !taken(*column, &[text_pair, id], &labels);
        let columns = || (0..table.columns.len()).filter(free);
        let known = if is_text { TEXT_NAMES } else { PICTURE_NAMES };
        let by_name = known.iter().find_map(|name| columns().find(|&column| lower(table, column) == *name));
        let by_content = || match overrides.modality {
            Modality::Text => columns()
                .filter(|&column| profiles[column].texts > 0)
                .max_by(|&a, &b| profiles[a].mean_length.total_cmp(&profiles[b].mean_length)),
            Modality::Image => columns().find(|&column| holds_pictures(table, column)),
        };
        content = by_name.or_else(by_content);
        if let Some(column) = content {
            let why = match overrides.modality {
                _ if by_name.is_some() => "its name",
                Modality::Text => "the longest texts",
                Modality::Image => "its values are pictures or end as their files do",
            };
            let noun = overrides.modality.noun();
            reasons.push(format!("`{}` is the {noun}: {why}", table.columns[column]));
        }
    }
    let Some(content) = content else {
        let (what, key) = match overrides.modality {
            Modality::Text => ("text", "text_column"),
            Modality::Image => ("pictures or their files", "image_column"),
        };
        return Err(DataError::Roles {
            path: table.path.clone(),
            message: format!(
                "no column looks like {what} among {}; name it with {key}",
                table.columns.join(", ")
            ),
        });
    };
    let mut all: Vec<usize> = labels.iter().copied().chain([content]).chain(text_pair).collect();
    let roles = all.len();
    all.sort_unstable();
    all.dedup();
    if all.len() < roles {
        return Err(DataError::Roles {
            path: table.path.clone(),
            message: format!(
                "one column has two roles among {}, text pair and label",
                overrides.modality.noun()
            ),
        });
    }
    let (target_kind, label_separator) =
        target_kind(table, (content, &labels), &profiles, overrides, &mut reasons)?;
    Ok(Roles {
        modality: overrides.modality,
        content,
        text_pair,
        labels,
        id,
        target_kind,
        label_separator,
        reasons,
    })
}

fn target_kind(
    table: &Table,
    (content, labels): (usize, &[usize]),
    profiles: &[Profile],
    overrides: &RoleOverrides,
    reasons: &mut Vec<String>,
) -> Result<(Option<TargetKind>, Option<char>), DataError> {
    let Some(&column) = labels.first() else { return Ok((None, None)) };
    let name = &table.columns[column];
    let profile = &profiles[column];
    let separator = overrides.label_separator.or_else(|| separator(table, column));
    let inferred = if let Some(why) = classes_by_format(table, content) {
        (TargetKind::SingleLabel, why.to_owned())
    } else if labels.len() > 1 {
        let indicators = labels.iter().all(|&column| profiles[column].is_indicator());
        let (kind, why) = if indicators {
            (TargetKind::MultiLabel, "several label columns of 0 and 1")
        } else {
            (TargetKind::Regression, "several label columns of numbers")
        };
        (kind, why.to_owned())
    } else if profile.lists > 0 {
        (TargetKind::MultiLabel, format!("`{name}` holds lists"))
    } else if let Some(separator) = separator {
        (TargetKind::MultiLabel, format!("`{name}` joins labels with `{separator}`"))
    } else if profile.is_mostly_numeric() && (profile.fractions || profile.distinct > MAX_NUMERIC_CLASSES) {
        let why = if profile.fractions { "numbers with fractions" } else { "many distinct numbers" };
        (TargetKind::Regression, format!("`{name}` holds {why}"))
    } else {
        (TargetKind::SingleLabel, format!("`{name}` holds one of {} values", profile.distinct))
    };
    let kind = overrides.target_kind.unwrap_or(inferred.0);
    if overrides.target_kind.is_none() {
        let words = match kind {
            TargetKind::SingleLabel => "single-label classification",
            TargetKind::MultiLabel => "multi-label classification",
            TargetKind::Regression => "regression",
        };
        reasons.push(format!("the task is {words}: {}", inferred.1));
    }
    let clash = match kind {
        // A cell that is no number among numbers is refused with its line when the targets are read.
        TargetKind::Regression if labels.iter().any(|&column| profiles[column].numbers == 0) => {
            Some("regression needs numbers")
        }
        TargetKind::SingleLabel if labels.len() > 1 => {
            Some("single-label classification takes one label column")
        }
        TargetKind::MultiLabel if labels.len() > 1 && !labels.iter().all(|&c| profiles[c].is_indicator()) => {
            Some("several multi-label columns must hold 0 and 1")
        }
        _ => None,
    };
    if let Some(clash) = clash {
        let names: Vec<&str> = labels.iter().map(|&column| table.columns[column].as_str()).collect();
        let message = format!("{clash}, which label column `{}` does not fit", names.join("`, `"));
        return Err(DataError::Roles { path: table.path.clone(), message });
    }
    Ok((
        Some(kind),
        separator.filter(|_| kind == TargetKind::MultiLabel && labels.len() == 1 && profile.lists == 0),
    ))
}

/// Why the labels are classes, numbers or not, whatever they look like: the way that the pictures are kept in.
fn classes_by_format(table: &Table, content: usize) -> Option<&'static str> {
    let first = table.rows.first().map(|row| &row.values[content]);
    match first {
        Some(Value::Picture(picture)) if matches!(picture.source, PictureSource::Pixels(_)) => {
            Some("its format numbers classes")
        }
        Some(_) if table.path.is_dir() => Some("each class has a folder of its own"),
        _ => None,
    }
}

/// What a table's samples are: pictures if a column is called so and holds their paths, or holds pictures.
pub fn infer_modality(table: &Table) -> Modality {
    let pictures = (0..table.columns.len()).any(|column| holds_pictures(table, column));
    if pictures { Modality::Image } else { Modality::Text }
}

/// Whether nearly all cells of a column are pictures, or name files that end as pictures do.
fn holds_pictures(table: &Table, column: usize) -> bool {
    let cells = table.rows.iter().map(|row| &row.values[column]).filter(|value| !value.is_blank());
    let (mut filled, mut pictures) = (0_usize, 0_usize);
    for value in cells {
        filled += 1;
        pictures += usize::from(match value {
            Value::Picture(_) => true,
            Value::Text(text) => has_picture_extension(Path::new(text.trim())),
            _ => false,
        });
    }
    filled > 0 && pictures * 10 >= filled * 9
}

/// The character that plausibly joins labels: it stands in some cells, and the pieces repeat across cells.
fn separator(table: &Table, column: usize) -> Option<char> {
    LABEL_SEPARATORS.into_iter().find(|&separator| {
        let mut pieces: HashSet<&str> = HashSet::new();
        let (mut cells, mut joined, mut total) = (0usize, 0usize, 0usize);
        for row in &table.rows {
            let Value::Text(text) = &row.values[column] else { continue };
            cells += 1;
            joined += usize::from(text.contains(separator));
            for piece in text.split(separator).map(str::trim) {
                total += 1;
                // A label is a word or three; a piece of prose is not.
                if piece.is_empty() || piece.split_whitespace().count() > 4 {
                    return false;
                }
                pieces.insert(piece);
            }
        }
        joined > 0 && joined * 20 >= cells && total >= 2 * pieces.len()
    })
}

fn lower(table: &Table, column: usize) -> String {
    table.columns[column].to_lowercase()
}

/// What a column's cells are like.
#[derive(Debug, Default)]
struct Profile {
    filled: usize,
    texts: usize,
    numbers: usize,
    lists: usize,
    fractions: bool,
    indicators: usize,
    distinct: usize,
    mean_length: f64,
}

impl Profile {
    fn of(table: &Table, column: usize) -> Self {
        let mut profile = Profile::default();
        let mut distinct: HashSet<String> = HashSet::new();
        let mut characters = 0usize;
        for row in &table.rows {
            let value = &row.values[column];
            if value.is_blank() {
                continue;
            }
            profile.filled += 1;
            match value {
                Value::List(_) => profile.lists += 1,
                Value::Text(text) => {
                    characters += text.chars().count();
                    profile.texts += usize::from(value.as_number().is_none());
                }
                _ => {}
            }
            if let Some(number) = value.as_number() {
                profile.numbers += 1;
                profile.fractions |= number.fract() != 0.0;
                profile.indicators += usize::from(number == 0.0 || number == 1.0);
            } else if matches!(value, Value::Bool(_)) {
                profile.indicators += 1;
            }
            if let Some(text) = value.as_text() {
                distinct.insert(text.trim().to_owned());
            }
        }
        profile.distinct = distinct.len();
        profile.mean_length = characters as f64 / profile.filled.max(1) as f64;
        profile
    }

    /// All numbers but for slips, which are refused with their lines when the targets are read.
    fn is_mostly_numeric(&self) -> bool {
        self.filled > 0 && (self.filled - self.numbers) * 20 <= self.filled
    }

    fn is_indicator(&self) -> bool {
        self.filled > 0 && self.indicators == self.filled
    }

    fn looks_like_an_id(&self) -> bool {
        self.filled > 0 && self.distinct == self.filled && self.lists == 0
    }

    fn looks_like_a_label(&self) -> bool {
        let repeats = self.distinct * 2 <= self.filled;
        self.filled > 0 && repeats && (self.lists == self.filled || self.mean_length <= 40.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_bytes};

    fn table(text: &str) -> Table {
        let name = if text.starts_with('{') { "t.jsonl" } else { "t.csv" };
        read_bytes(Path::new(name), text.as_bytes().to_vec(), &ReadOptions::default()).unwrap()
    }

    fn infer(text: &str) -> Roles {
        infer_roles(&table(text), &RoleOverrides::default()).unwrap()
    }

    #[test]
    fn names_decide_and_reasons_are_given() {
        let roles = infer(
            "id,message,intent\n1,hello you,greet\n2,go away now,leave\n3,hi there,greet\n4,bye,leave\n",
        );
        assert_eq!((roles.content, roles.labels.as_slice(), roles.id), (1, &[2][..], Some(0)));
        assert_eq!(roles.target_kind, Some(TargetKind::SingleLabel));
        assert_eq!(
            roles.reasons,
            [
                "`id` is an identifier: its name, and no value repeats",
                "`intent` is the label: its name",
                "`message` is the text: its name",
                "the task is single-label classification: `intent` holds one of 2 values",
            ]
        );
    }

    #[test]
    fn without_names_the_longest_column_is_the_text_and_the_repeating_one_the_label() {
        let roles = infer(
            "ham,how are you today\nspam,you have won a prize\nham,see you at eight\nspam,call now to win\n",
        );
        assert_eq!((roles.content, roles.labels.as_slice()), (1, &[0][..]));
    }

    #[test]
    fn pairs_are_found_by_their_names() {
        let roles = infer("premise,hypothesis,label\na b,c d,0\ne f,g h,1\n");
        assert_eq!((roles.content, roles.text_pair), (0, Some(1)));
    }

    #[test]
    fn fractions_or_many_numbers_make_a_regression() {
        assert_eq!(infer("text,score\na,1.5\nb,2\n").target_kind, Some(TargetKind::Regression));
        assert_eq!(infer("text,score\na,1\nb,2\n").target_kind, Some(TargetKind::SingleLabel));
        let slip: String = (0..40).map(|row| format!("t,{row}.5\n")).collect();
        assert_eq!(infer(&format!("text,score\n{slip}u,n/a\n")).target_kind, Some(TargetKind::Regression));
    }

    #[test]
    fn lists_and_joined_labels_make_multi_label() {
        let roles = infer("text,tags\na,x|y\nb,x\nc,y|x\nd,y\n");
        assert_eq!((roles.target_kind, roles.label_separator), (Some(TargetKind::MultiLabel), Some('|')));
        let roles = infer("{\"text\":\"a\",\"tags\":[\"x\"]}\n{\"text\":\"b\",\"tags\":[]}\n");
        assert_eq!((roles.target_kind, roles.label_separator), (Some(TargetKind::MultiLabel), None));
        let roles = infer("text,category\na,\"Rock, Pop\"\nb,Jazz\nc,Folk\n");
        assert_eq!(roles.target_kind, Some(TargetKind::SingleLabel));
    }

    #[test]
    fn data_to_predict_on_may_hold_what_looks_like_labels() {
        let table = table("text,label\na b,1\nc d,1\n");
        let roles = infer_roles(&table, &RoleOverrides { unlabelled: true, ..Default::default() }).unwrap();
        assert_eq!((roles.content, roles.labels.len(), roles.target_kind), (0, 0, None));
    }

    #[test]
    fn overrides_are_obeyed_and_checked() {
        let table = table("a,b\nhello,1\nbye,0\n");
        let overrides = RoleOverrides { text_column: Some("c".into()), ..Default::default() };
        assert!(infer_roles(&table, &overrides).unwrap_err().to_string().contains("no column `c`"));
        let overrides = RoleOverrides {
            label_columns: vec!["a".into()],
            text_column: Some("a".into()),
            ..Default::default()
        };
        assert!(infer_roles(&table, &overrides).unwrap_err().to_string().contains("two roles"));
        let overrides = RoleOverrides {
            text_column: Some("b".into()),
            label_columns: vec!["a".into()],
            target_kind: Some(TargetKind::Regression),
            ..Default::default()
        };
        assert!(
            infer_roles(&table, &overrides).unwrap_err().to_string().contains("regression needs numbers")
        );
    }
}
