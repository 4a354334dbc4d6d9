//! Repairs that need nobody's judgement: bytes and garbled characters, white space, spellings of one label, rows that
//! cannot be used, copies. Each is listed with its line, what stood there and what stands there now.
//!
//! What is doubtful stays as it is: equal texts with different labels, words that give a label away, outliers.

use crate::check::{example_key, garbled_piece, label_key};
use crate::dataset::{is_missing_label, label_names};
use crate::encoding::decode_repaired;
use crate::error::{DataError, nearest};
use crate::finding::{Finding, Severity, count};
use crate::read::{Format, ReadOptions, UNREADABLE, format_of, read_bytes};
use crate::roles::{Modality, Roles, TargetKind};
use crate::table::{Row, Table, Value};
use encoding_rs::WINDOWS_1252;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file of which more than this share of rows cannot be used has another fault than its rows.
const MOST_UNUSABLE: f64 = 0.5;
/// A text that was read in the wrong encoding and written again may have been so several times.
const GARBLED_TIMES: usize = 3;

/// A kind of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fix {
    /// Bytes of another encoding are written as UTF-8.
    Encoding,
    /// A row that cannot be read is left out.
    Unreadable,
    /// UTF-8 that was read as Windows-1252 becomes what it was.
    Mojibake,
    /// White space at the ends of cells is taken away.
    Whitespace,
    /// Spellings of one label become the most frequent of them.
    LabelTwins,
    /// A row without content or label is left out.
    Unusable,
    /// A row that says what an earlier one says, with the same label, is left out.
    Duplicates,
}

impl Fix {
    /// All of them, in the order in which they are made.
    pub const ALL: [Fix; 7] = [
        Fix::Encoding,
        Fix::Unreadable,
        Fix::Mojibake,
        Fix::Whitespace,
        Fix::LabelTwins,
        Fix::Unusable,
        Fix::Duplicates,
    ];

    /// Its name, such as `label-twins`.
    pub fn name(self) -> &'static str {
        match self {
            Fix::Encoding => "encoding",
            Fix::Unreadable => "unreadable",
            Fix::Mojibake => "mojibake",
            Fix::Whitespace => "whitespace",
            Fix::LabelTwins => "label-twins",
            Fix::Unusable => "unusable",
            Fix::Duplicates => "duplicates",
        }
    }
}

impl FromStr for Fix {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let names = Fix::ALL.map(Fix::name);
        Fix::ALL.into_iter().find(|fix| fix.name() == name).ok_or_else(|| {
            let hint = nearest(name, names).map(|known| format!(" (did you mean `{known}`?)"));
            let known = names.join(", ");
            DataError::Setting(format!(
                "no repair is called `{name}`{}; known are {known}",
                hint.unwrap_or_default()
            ))
        })
    }
}

/// One thing that was repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The kind of repair.
    pub fix: Fix,
    /// The file, or the picture's own.
    pub file: PathBuf,
    /// Its line there; `None` when it is about the whole file.
    pub line: Option<u64>,
    /// The cell's column; `None` when it is about the row or the file.
    pub column: Option<String>,
    /// What stood there.
    pub before: Option<String>,
    /// What stands there now; `None` when the row was left out.
    pub after: Option<String>,
    /// Why.
    pub reason: String,
}

/// Reads a data file as it is meant: an encoding is found out, rows that cannot be read are left out, and both are listed.
/// `encoding` of the options is obeyed.
///
/// # Errors
/// As [`crate::read_table`]; [`DataError::Refused`] when the encoding cannot be told.
pub fn read_repaired(
    path: &Path,
    options: &ReadOptions,
    without: &[Fix],
) -> Result<(Table, Vec<Change>), DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::reading(path, source))?;
    let mut changes = Vec::new();
    let (mut options, mut bytes) = (options.clone(), bytes);
    let format = format_of(path, &bytes, &options);
    options.list_all_bad_rows = true;
    let is_text = !matches!(format, Format::Parquet | Format::Cifar10 | Format::Cifar100 | Format::Idx);
    if is_text && !without.contains(&Fix::Encoding) {
        let repaired = decode_repaired(path, bytes, options.encoding.take().as_deref())?;
        changes = repaired.1;
        bytes = repaired.0.into_bytes();
    }
    let lines: Vec<String> = match std::str::from_utf8(&bytes) {
        Ok(text) if is_text => text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect(),
        _ => Vec::new(),
    };
    if !without.contains(&Fix::Unreadable) {
        options.on_bad_row = crate::read::OnBadRow::Skip;
    }
    let mut table = read_bytes(path, bytes, &options)?;
    table.findings.retain(|finding| {
        if finding.severity == Severity::Warning && UNREADABLE.contains(&finding.code) {
            let line = finding.line.and_then(|line| lines.get(line.checked_sub(1)? as usize));
            changes.push(Change {
                fix: Fix::Unreadable,
                file: finding.file.clone(),
                line: finding.line,
                column: finding.column.clone(),
                before: line.cloned(),
                after: None,
                reason: finding.message.clone(),
            });
            return false;
        }
        finding.code != "skipped-rows"
    });
    Ok((table, changes))
}

/// Repairs a table in place, but for the kinds in `without`. What it did is listed in order; doing it again does nothing.
///
/// # Errors
/// [`DataError::Refused`] when more than half of the rows cannot be used: then a column's role is wrong, not the rows.
pub fn clean_table(table: &mut Table, roles: &Roles, without: &[Fix]) -> Result<Vec<Change>, DataError> {
    let mut changes = Vec::new();
    for fix in Fix::ALL.into_iter().filter(|fix| !without.contains(fix)) {
        match fix {
            Fix::Encoding | Fix::Unreadable => {}
            Fix::Mojibake => {
                let reason = "UTF-8 that was read as Windows-1252";
                each_text(table, (fix, reason), ungarbled, &mut changes);
            }
            Fix::Whitespace => {
                let trimmed = |text: &str| (trim(text) != text).then(|| trim(text).to_owned());
                each_text(table, (fix, "white space at the ends"), trimmed, &mut changes);
            }
            Fix::LabelTwins => unite_labels(table, roles, &mut changes),
            Fix::Unusable => leave_out_unusable(table, roles, &mut changes)?,
            Fix::Duplicates => leave_out_copies(table, roles, &mut changes),
        }
    }
    Ok(changes)
}

fn about(table: &Table, row: &Row, fix: Fix, reason: impl Into<String>) -> Change {
    let (file, line) = (table.path.clone(), Some(row.line));
    Change { fix, file, line, column: None, before: None, after: None, reason: reason.into() }
}

/// Changes the texts for which `repaired` has another, in cells and in their lists.
fn each_text(
    table: &mut Table,
    (fix, reason): (Fix, &str),
    repaired: impl Fn(&str) -> Option<String>,
    changes: &mut Vec<Change>,
) {
    for row in &mut table.rows {
        for (column, value) in row.values.iter_mut().enumerate() {
            let mut change = |text: &mut String| {
                let Some(better) = repaired(text) else { return };
                let before = std::mem::replace(text, better);
                changes.push(Change {
                    fix,
                    file: table.path.clone(),
                    line: Some(row.line),
                    column: Some(table.columns[column].clone()),
                    before: Some(before),
                    after: Some(text.clone()),
                    reason: reason.to_owned(),
                });
            };
            match value {
                Value::Text(text) => change(text),
                Value::List(values) => values.iter_mut().for_each(|value| {
                    if let Value::Text(text) = value {
                        change(text);
                    }
                }),
                _ => {}
            }
        }
    }
}

/// A text without white space, byte order marks and spaces of no width at its ends.
fn trim(text: &str) -> &str {
    text.trim_matches(|character: char| {
        character.is_whitespace() || matches!(character, '\u{FEFF}' | '\u{200B}')
    })
}

/// A garbled text as it was meant, if it can be told.
fn ungarbled(text: &str) -> Option<String> {
    let mut current = text.to_owned();
    for _ in 0..GARBLED_TIMES {
        if garbled_piece(&current).is_none() {
            break;
        }
        let next = read_again(&current);
        if next == current {
            break;
        }
        current = next;
    }
    (current != text).then_some(current)
}

/// The text with every run of characters that is UTF-8 in Windows-1252 read as UTF-8.
fn read_again(text: &str) -> String {
    let bytes: Vec<(char, Option<u8>)> =
        text.chars().map(|character| (character, byte_of(character))).collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&(character, byte)) = bytes.get(at) {
        let length = match byte {
            Some(0xC2..=0xDF) => 2,
            Some(0xE0..=0xEF) => 3,
            Some(0xF0..=0xF4) => 4,
            _ => 1,
        };
        let piece: Option<Vec<u8>> =
            bytes.get(at..at + length).and_then(|run| run.iter().map(|(_, byte)| *byte).collect());
        let meant = piece.filter(|piece| piece.len() > 1).and_then(|piece| String::from_utf8(piece).ok());
        match meant.filter(|meant| meant.chars().all(is_plausible)) {
            Some(meant) => {
                out.push_str(&meant);
                at += length;
            }
            None => {
                out.push(character);
                at += 1;
            }
        }
    }
    out
}

/// The byte that a character beyond ASCII has in Windows-1252.
fn byte_of(character: char) -> Option<u8> {
    let mut buffer = [0; 4];
    let (bytes, _, unmappable) = WINDOWS_1252.encode(character.encode_utf8(&mut buffer));
    match *bytes {
        [byte] if byte >= 0x80 && !unmappable => Some(byte),
        _ => None,
    }
}

/// What garbled texts were meant to say: Latin letters, punctuation and signs, emoji.
fn is_plausible(character: char) -> bool {
    matches!(character, '\u{A0}'..='\u{24F}' | '\u{2000}'..='\u{2BFF}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{1F000}'..)
}

/// Gives every label the spelling that most rows have; of spellings as frequent the first by code points.
fn unite_labels(table: &mut Table, roles: &Roles, changes: &mut Vec<Change>) {
    if roles.labels.len() != 1 || roles.target_kind == Some(TargetKind::Regression) {
        return;
    }
    let column = roles.labels[0];
    let mut spellings: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for name in label_names(table, roles).into_iter().flatten() {
        if !is_missing_label(&Value::Text(name.clone())) {
            *spellings.entry(label_key(&name)).or_default().entry(name).or_default() += 1;
        }
    }
    let mut spelled: HashMap<String, (String, usize)> = HashMap::new();
    for names in spellings.into_values().filter(|names| names.len() > 1) {
        let Some((best, rows)) = names.iter().min_by_key(|(name, rows)| (std::cmp::Reverse(**rows), *name))
        else {
            continue;
        };
        let other = |name: &&String| *name != best;
        let known = names.keys().filter(other).map(|name| (name.clone(), (best.clone(), *rows)));
        spelled.extend(known);
    }
    if spelled.is_empty() {
        return;
    }
    // A file that keeps types has the label as it is written elsewhere.
    let written: HashMap<String, Value> = table
        .rows
        .iter()
        .map(|row| &row.values[column])
        .filter_map(|value| Some((value.as_text()?.trim().to_owned(), value.clone())))
        .collect();
    for row in &mut table.rows {
        let value = &mut row.values[column];
        let before = value.as_text().unwrap_or_default().into_owned();
        let mut reasons = Vec::new();
        let mut better = |name: &str| -> Option<String> {
            let (best, rows) = spelled.get(name.trim())?;
            reasons.push(format!("`{best}` is the label's spelling in {}", count(*rows, "row")));
            Some(best.clone())
        };
        match &mut *value {
            Value::List(values) => {
                for item in values {
                    if let Some(best) = item.as_text().and_then(|text| better(&text)) {
                        *item = Value::Text(best);
                    }
                }
            }
            cell => {
                let separator =
                    roles.label_separator.filter(|_| roles.target_kind == Some(TargetKind::MultiLabel));
                if let Some(separator) = separator {
                    let pieces = before
                        .split(separator)
                        .map(|piece| better(piece).unwrap_or_else(|| piece.to_owned()));
                    let joined = pieces.collect::<Vec<_>>().join(&separator.to_string());
                    if joined != before {
                        *cell = Value::Text(joined);
                    }
                } else if let Some(best) = better(&before) {
                    *cell = written.get(&best).cloned().unwrap_or(Value::Text(best));
                }
            }
        }
        let after = value.as_text().map(|text| text.into_owned());
        if let Some(reason) = reasons.into_iter().next() {
            changes.push(Change {
                column: Some(table.columns[column].clone()),
                fix: Fix::LabelTwins,
                file: table.path.clone(),
                line: Some(row.line),
                before: Some(before),
                after,
                reason,
            });
        }
    }
}

/// Why a row cannot be learned from, and in which column.
fn unusable(row: &Row, roles: &Roles) -> Option<(usize, &'static str)> {
    let content = [Some(roles.content), roles.text_pair].into_iter().flatten();
    for column in content {
        if row.values[column].is_blank() {
            let reasons = ["the text is empty", "the row names no picture"];
            return Some((column, reasons[usize::from(roles.modality == Modality::Image)]));
        }
    }
    roles.labels.iter().find_map(|&column| {
        let value = &row.values[column];
        if is_missing_label(value) {
            return Some((column, "the label is missing"));
        }
        let is_number = value.as_number().is_some_and(f64::is_finite);
        (roles.target_kind == Some(TargetKind::Regression) && !is_number)
            .then_some((column, "the label is not a number"))
    })
}

fn leave_out_unusable(table: &mut Table, roles: &Roles, changes: &mut Vec<Change>) -> Result<(), DataError> {
    let found: Vec<Option<(usize, &str)>> = table.rows.iter().map(|row| unusable(row, roles)).collect();
    let dropped = found.iter().flatten().count();
    if dropped as f64 > MOST_UNUSABLE * table.rows.len() as f64 {
        let message = format!("{dropped} of {} cannot be used", count(table.rows.len(), "row"));
        let worst = found.iter().flatten().next().map_or("", |(column, _)| table.columns[*column].as_str());
        let finding = Finding::error("unusable-rows", &table.path, message).in_column(worst);
        return Err(DataError::refused(finding.suggest("is it the right column? name it")));
    }
    for (row, found) in table.rows.iter().zip(&found) {
        let Some((column, reason)) = found else { continue };
        let shown =
            if *column == roles.content { roles.labels.first().copied() } else { Some(roles.content) };
        let before = shown.and_then(|column| row.values[column].as_text()).map(|text| text.into_owned());
        let column = Some(table.columns[*column].clone());
        changes.push(Change { column, before, ..about(table, row, Fix::Unusable, *reason) });
    }
    let mut found = found.into_iter();
    table.rows.retain(|_| found.next().flatten().is_none());
    Ok(())
}

fn leave_out_copies(table: &mut Table, roles: &Roles, changes: &mut Vec<Change>) {
    let key = |row: &Row| match &row.values[roles.content] {
        Value::Picture(picture) => picture.facts.map(|facts| format!("{:?}", facts.sha256)),
        _ => Some(example_key(&row.values, roles)).filter(|key| !key.trim().is_empty()),
    };
    let labels = |row: &Row| -> Vec<String> {
        let cells = roles.labels.iter().map(|&column| row.values[column].as_text().unwrap_or_default());
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let mut first_of: HashMap<(String, Vec<String>), (u64, String)> = HashMap::new();
    let mut keep = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let Some(key) = key(row) else {
            keep.push(true);
            continue;
        };
        let content = row.values[roles.content].as_text().unwrap_or_default().into_owned();
        let own = (row.line, content.clone());
        let first = first_of.entry((key, labels(row))).or_insert_with(|| own);
        keep.push(first.0 == row.line);
        if first.0 != row.line {
            let place = match roles.modality {
                Modality::Text => format!("line {}", first.0),
                Modality::Image => first.1.clone(),
            };
            let same = if roles.labels.is_empty() { "" } else { ", with its label" };
            let reason = format!("{} of {place} again{same}", roles.modality.noun());
            changes.push(Change {
                column: Some(table.columns[roles.content].clone()),
                before: Some(content),
                ..about(table, row, Fix::Duplicates, reason)
            });
        }
    }
    let mut keep = keep.into_iter();
    table.rows.retain(|_| keep.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{RoleOverrides, infer_roles};

    fn cleaned(name: &str, bytes: &[u8], without: &[Fix]) -> (Table, Vec<Change>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (mut table, mut changes) = read_repaired(&path, &ReadOptions::default(), without).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        changes.extend(clean_table(&mut table, &roles, without).unwrap());
        let again = clean_table(&mut table.clone(), &roles, without).unwrap();
        assert!(again.is_empty(), "{again:?}");
        (table, changes)
    }

    fn said(changes: &[Change]) -> Vec<(&str, u64, Option<&str>, Option<&str>)> {
        let line = |change: &Change| change.line.unwrap_or(0);
        changes
            .iter()
            .map(|change| {
                (change.fix.name(), line(change), change.before.as_deref(), change.after.as_deref())
            })
            .collect()
    }

    #[test]
    fn each_fault_is_repaired_on_its_line_and_the_rest_is_left() {
        let text = "text,label\n\
                    the first,food\n\
                    cafÃ© â€œau laitâ€\u{9d},food\n\
                    \x20padded ,travel\n\
                    shouted,Food\n\
                    no label,\n\
                    too,many,fields\n\
                    the first,food\n\
                    the first,travel\n\
                    ,travel\n\
                    last,travel\n";
        let (table, changes) = cleaned("t.csv", text.as_bytes(), &[]);
        assert_eq!(
            said(&changes),
            [
                ("unreadable", 7, Some("too,many,fields"), None),
                ("mojibake", 3, Some("cafÃ© â€œau laitâ€\u{9d}"), Some("café “au lait”")),
                ("whitespace", 4, Some(" padded "), Some("padded")),
                ("label-twins", 5, Some("Food"), Some("food")),
                ("unusable", 6, Some("no label"), None),
                ("unusable", 10, Some("travel"), None),
                ("duplicates", 8, Some("the first"), None),
            ]
        );
        assert_eq!(changes.last().unwrap().reason, "text of line 2 again, with its label");
        let lines: Vec<u64> = table.rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 9, 11]);
    }

    #[test]
    fn a_repair_that_is_not_wanted_is_not_made() {
        let (table, changes) =
            cleaned("t.csv", b"text,label\na b ,x\na b,x\nc,X\nd,x\n", &[Fix::Whitespace, Fix::LabelTwins]);
        assert_eq!((changes.len(), table.rows.len()), (0, 4));
        assert!("label-twin".parse::<Fix>().unwrap_err().to_string().contains("did you mean `label-twins`?"));
    }

    #[test]
    fn latin_1_lines_become_utf_8_and_utf_8_lines_stay() {
        let bytes = b"text,label\nun caf\xE9 noir,a\nun caf\xC3\xA9 cr\xC3\xA8me,b\nrien,a\n";
        let (table, changes) = cleaned("t.csv", bytes, &[]);
        assert_eq!(table.rows[0].values[0], "un café noir".into());
        assert_eq!(table.rows[1].values[0], "un café crème".into());
        assert_eq!(said(&changes), [("encoding", 2, Some("un caf\u{FFFD} noir,a"), Some("un café noir,a"))]);
    }

    #[test]
    fn bytes_that_do_not_look_like_western_text_are_refused_rather_than_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        // "привет мир" in Windows-1251, "łódź" in Windows-1250.
        for bytes in
            [&b"text,label\n\xEF\xF0\xE8\xE2\xE5\xF2 \xEC\xE8\xF0,a\n"[..], b"text,label\npo\xB3o\xBFony,a\n"]
        {
            std::fs::write(&path, bytes).unwrap();
            let error = read_repaired(&path, &ReadOptions::default(), &[]).unwrap_err();
            assert!(error.is_refusal() && error.to_string().contains("t.csv:2: error[encoding]"), "{error}");
        }
        let options = ReadOptions { encoding: Some("windows-1250".into()), ..ReadOptions::default() };
        let (table, _) = read_repaired(&path, &options, &[]).unwrap();
        assert_eq!(table.rows[0].values[0], "położony".into());
    }

    #[test]
    fn words_of_any_language_are_no_mojibake() {
        for text in [
            "Çà et là, voilà\u{A0}»",
            "ÂME",
            "Ärger, Öl, Übel",
            "naïve façade — “quoted”…",
            "São João",
            "10 €",
        ] {
            assert_eq!(ungarbled(text), None, "{text}");
        }
        assert_eq!(ungarbled("ðŸ˜€ Å“uvre donâ€™t").as_deref(), Some("😀 œuvre don’t"));
        assert_eq!(ungarbled("cafÃƒÂ©").as_deref(), Some("café"));
    }

    #[test]
    fn labels_in_lists_and_joined_labels_are_united_too() {
        let joined = b"text,tags\na,x|y\nb,X\nc,y|x\nd,y|x\ne,x\n";
        let (_, changes) = cleaned("t.csv", joined, &[]);
        assert_eq!(said(&changes), [("label-twins", 3, Some("X"), Some("x"))]);
        let lists = b"{\"text\":\"a\",\"tags\":[\"x\",\"y\"]}\n{\"text\":\"b\",\"tags\":[\"Y\"]}\n{\"text\":\"c\",\"tags\":[\"y\"]}\n";
        let (table, changes) = cleaned("t.jsonl", lists, &[]);
        assert_eq!(said(&changes), [("label-twins", 2, Some("[\"Y\"]"), Some("[\"y\"]"))]);
        assert_eq!(table.rows[1].values[1], Value::List(vec!["y".into()]));
    }

    #[test]
    fn a_file_of_which_most_would_go_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        std::fs::write(&path, "text,label\na,\nb,\nc,x\n").unwrap();
        let (mut table, _) = read_repaired(&path, &ReadOptions::default(), &[]).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        let error = clean_table(&mut table, &roles, &[]).unwrap_err().to_string();
        assert!(
            error.contains("error[unusable-rows]: column `label`: 2 of 3 rows cannot be used"),
            "{error}"
        );
    }
}
