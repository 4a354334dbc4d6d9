//! The fast checks that run before every fit: what is wrong or odd in one table, given its columns' roles.
//!
//! Everything here is one pass over the rows or a hash map. Each kind of finding is given by a few examples with
//! their lines and, when there are more, a count.

use crate::dataset::{is_missing_label, label_names};
use crate::finding::{Finding, Severity, count, excerpt};
use crate::roles::{Modality, Roles, TargetKind};
use crate::table::{Table, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use unicode_normalization::UnicodeNormalization;

/// At most this many examples of one kind.
const EXAMPLES: usize = 3;
/// A class is said to leak when its name stands in this share of its own texts …
const LEAK_WITHIN: f64 = 0.95;
/// … and in at most this share of the others.
const LEAK_BEYOND: f64 = 0.01;
/// A marker is looked for in classes of so many rows, with so many others, …
const MARKER_ROWS: usize = 20;
/// … where there are at most so many classes, …
const MARKER_CLASSES: usize = 50;
/// … in about so many rows, spread evenly.
const MARKER_SAMPLE: usize = 10_000;
/// Cells that tools and people write for "missing".
const MISSING_WORDS: &[&str] =
    &["na", "n/a", "null", "none", "nil", "?", "-", "#n/a", "missing", "undefined"];

/// Thresholds of the checks.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// A longer text, in characters, is reported.
    pub max_characters: usize,
    /// Whether the table is to train on; then classes are counted.
    pub is_training: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { max_characters: 50_000, is_training: true }
    }
}

/// Checks one table. The worst findings come first; within a severity they keep the order of the checks.
pub fn check_table(table: &Table, roles: &Roles, options: &CheckOptions) -> Vec<Finding> {
    let mut report = Report { table, findings: table.findings.clone() };
    if roles.modality == Modality::Text {
        texts(&mut report, roles, options);
        duplicates(&mut report, roles);
    }
    columns(&mut report, roles);
    if !roles.labels.is_empty() {
        labels(&mut report, roles, options);
    }
    let mut findings = report.findings;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

struct Report<'a> {
    table: &'a Table,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Reports rows of one kind: the first few one by one, then how many there are.
    fn group(
        &mut self,
        severity: Severity,
        code: &'static str,
        column: Option<usize>,
        what: &str,
        suggestion: &str,
        rows: &[(u64, String)],
    ) {
        let column = column.map(|column| self.table.columns[column].clone());
        for (line, message) in rows.iter().take(EXAMPLES) {
            let finding =
                Finding::new(severity, code, &self.table.path, message).at_line(*line).suggest(suggestion);
            self.push(Finding { column: column.clone(), ..finding });
        }
        if rows.len() > EXAMPLES {
            let message = format!("{} in all: {what}", count(rows.len(), "row"));
            let finding = Finding::new(severity, code, &self.table.path, message).suggest(suggestion);
            self.push(Finding { column, ..finding });
        }
    }
}

fn text_columns(roles: &Roles) -> impl Iterator<Item = usize> {
    [Some(roles.content), roles.text_pair].into_iter().flatten()
}

fn texts(report: &mut Report<'_>, roles: &Roles, options: &CheckOptions) {
    let table = report.table;
    for column in text_columns(roles) {
        let (mut empty, mut long, mut garbled, mut replaced) = (vec![], vec![], vec![], vec![]);
        let mut looks_like_id = 0usize;
        for row in &table.rows {
            let Some(text) = row.values[column].as_text().filter(|text| !text.trim().is_empty()) else {
                empty.push((row.line, "the text is empty".to_owned()));
                continue;
            };
            let characters = text.chars().count();
            if characters > options.max_characters {
                long.push((row.line, format!("the text has {characters} characters")));
            }
            if let Some(piece) = garbled_piece(&text) {
                garbled.push((row.line, format!("“{}” is garbled", excerpt(piece, 24))));
            } else if let Some(at) = text.find('\u{FFFD}') {
                let around = &text[floor(&text, at.saturating_sub(12))..];
                replaced.push((row.line, format!("“{}” has a replacement character", excerpt(around, 24))));
            }
            looks_like_id += usize::from(is_identifier(&text));
        }
        let column_ = Some(column);
        report.group(
            Severity::Error,
            "empty-text",
            column_,
            "the text is empty",
            "fill it in, or set missing_label = \"drop\"",
            &empty,
        );
        let advice = "is a quote missing, or is it a document to be cut? see over_length";
        report.group(Severity::Warning, "long-text", column_, "the text is very long", advice, &long);
        let advice = "it is UTF-8 that was read as Windows-1252; export the data again";
        report.group(Severity::Warning, "mojibake", column_, "the text is garbled", advice, &garbled);
        let advice = "characters were lost when the file was written; export the data again";
        report.group(
            Severity::Warning,
            "replacement-character",
            column_,
            "characters were lost",
            advice,
            &replaced,
        );
        if looks_like_id * 20 >= table.rows.len() * 19 && table.rows.len() >= 5 {
            let message = "the values look like identifiers, not like text";
            report.push(
                Finding::warning("id-as-text", &table.path, message)
                    .in_column(table.columns[column].clone())
                    .suggest("name the text column with text_column"),
            );
        }
    }
}

fn columns(report: &mut Report<'_>, roles: &Roles) {
    let table = report.table;
    if table.rows.len() < 2 {
        return;
    }
    for (column, name) in table.columns.iter().enumerate() {
        let first = &table.rows[0].values[column];
        if roles.labels.contains(&column) || table.rows.iter().any(|row| row.values[column] != *first) {
            continue;
        }
        let is_text = roles.content == column;
        let severity = if is_text { Severity::Error } else { Severity::Info };
        let shown = first.as_text().map_or("missing".to_owned(), |text| format!("“{}”", excerpt(&text, 30)));
        let finding =
            Finding::new(severity, "constant-column", &table.path, format!("every value is {shown}"))
                .in_column(name.clone());
        report.push(if is_text { finding.suggest("is it the right text_column?") } else { finding });
    }
}

fn duplicates(report: &mut Report<'_>, roles: &Roles) {
    let table = report.table;
    let names = label_names(table, roles);
    let mut first_of: HashMap<String, usize> = HashMap::new();
    let (mut same, mut conflicting) = (vec![], vec![]);
    for (index, row) in table.rows.iter().enumerate() {
        let key = example_key(&row.values, roles);
        if key.trim().is_empty() {
            continue;
        }
        let first = *first_of.entry(key).or_insert(index);
        if first == index {
            continue;
        }
        let first_line = table.rows[first].line;
        let differ =
            roles.labels.iter().any(|&column| table.rows[first].values[column] != row.values[column])
                && (names[first] != names[index] || roles.target_kind == Some(TargetKind::Regression));
        if differ {
            let label = |index: usize| {
                let cells = roles.labels.iter().map(|&column| &table.rows[index].values[column]);
                cells.filter_map(Value::as_text).collect::<Vec<_>>().join(", ")
            };
            conflicting.push((
                row.line,
                format!(
                    "the text of line {first_line} with another label: `{}`, there `{}`",
                    label(index),
                    label(first)
                ),
            ));
        } else {
            same.push((row.line, format!("the text of line {first_line} again")));
        }
    }
    let advice = "decide which is right, or remove both";
    let what = "equal texts with different labels";
    report.group(Severity::Warning, "conflicting-labels", None, what, advice, &conflicting);
    let advice = "copies count more than once in training and in every metric";
    report.group(Severity::Info, "duplicate-text", None, "copies of earlier rows", advice, &same);
}

fn labels(report: &mut Report<'_>, roles: &Roles, options: &CheckOptions) {
    let table = report.table;
    let column = roles.labels[0];
    let mut missing = vec![];
    let mut looks_missing = vec![];
    for row in &table.rows {
        for &column in &roles.labels {
            match &row.values[column] {
                value if is_missing_label(value) => {
                    let what = if value.is_blank() { "the label is missing" } else { "the label is NaN" };
                    missing.push((row.line, what.to_owned()));
                }
                Value::Text(text) if MISSING_WORDS.contains(&text.trim().to_lowercase().as_str()) => {
                    looks_missing
                        .push((row.line, format!("is the label `{}` a missing value?", text.trim())));
                }
                _ => {}
            }
        }
    }
    let advice = "fill it in, or set missing_label = \"drop\"";
    report.group(Severity::Error, "missing-label", Some(column), "the label is missing", advice, &missing);
    if roles.target_kind == Some(TargetKind::Regression) {
        return;
    }
    let advice = "leave the cell empty if it is";
    report.group(
        Severity::Warning,
        "label-looks-missing",
        Some(column),
        "labels that may mean “missing”",
        advice,
        &looks_missing,
    );

    let names: Vec<Vec<String>> = label_names(table, roles)
        .into_iter()
        .map(|names| names.into_iter().filter(|name| !is_missing_label(&Value::Text(name.clone()))).collect())
        .collect();
    let mut classes: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (row, names) in table.rows.iter().zip(&names) {
        for name in names {
            classes.entry(name).or_insert((0, row.line)).0 += 1;
        }
    }
    twins(report, column, &classes);
    if options.is_training {
        class_counts(report, roles, column, &classes);
        if roles.modality == Modality::Text {
            leaked_labels(report, roles, &names, &classes);
            markers(report, roles, &names, &classes);
        }
    }
}

fn twins(report: &mut Report<'_>, column: usize, classes: &BTreeMap<&str, (usize, u64)>) {
    let mut by_key: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in classes.keys() {
        by_key.entry(label_key(name)).or_default().push(name);
    }
    for mut twins in by_key.into_values().filter(|names| names.len() > 1) {
        twins.sort_by_key(|name| std::cmp::Reverse(classes[name].0));
        let spelled: Vec<String> =
            twins.iter().map(|name| format!("`{name}` ({})", count(classes[name].0, "row"))).collect();
        let rare = twins[twins.len() - 1];
        let mut message = format!("{} look like one label", spelled.join(" and "));
        if twins.iter().all(|name| name.nfc().eq(twins[0].nfc())) {
            message.push_str(" in different Unicode forms");
        }
        let finding = Finding::warning("label-twins", &report.table.path, message)
            .at_line(classes[rare].1)
            .in_column(report.table.columns[column].clone())
            .suggest(format!("write `{}` everywhere, if they are one", twins[0]));
        report.push(finding);
    }
}

fn class_counts(
    report: &mut Report<'_>,
    roles: &Roles,
    column: usize,
    classes: &BTreeMap<&str, (usize, u64)>,
) {
    let path = &report.table.path;
    let name = report.table.columns[column].clone();
    if roles.target_kind == Some(TargetKind::SingleLabel) && classes.len() == 1 {
        let only = classes.keys().next().copied().unwrap_or_default();
        let finding = Finding::error(
            "single-class",
            path,
            format!("every label is `{only}`: there is nothing to learn"),
        );
        report.push(finding.in_column(name).suggest("is it the right label_column?"));
        return;
    }
    let rare: Vec<(&str, u64)> =
        classes.iter().filter(|(_, (rows, _))| *rows < 2).map(|(name, (_, line))| (*name, *line)).collect();
    if let Some(&(_, line)) = rare.first() {
        let shown: Vec<String> = rare.iter().take(8).map(|(name, _)| format!("`{name}`")).collect();
        let more = if rare.len() > shown.len() { ", …" } else { "" };
        let message =
            format!("{} with a single example: {}{more}", count(rare.len(), "class"), shown.join(", "));
        let finding = Finding::warning("rare-class", path, message).at_line(line).in_column(name.clone());
        report.push(finding.suggest("it can be in training or in validation, not in both"));
    }
    // Rows per class near one: the column names rows, not classes.
    if roles.target_kind == Some(TargetKind::SingleLabel)
        && report.table.rows.len() >= 20
        && classes.len() * 2 > report.table.rows.len()
    {
        let message = format!("{} different labels in {} rows", classes.len(), report.table.rows.len());
        let finding = Finding::error("too-many-classes", path, message).in_column(name);
        report.push(finding.suggest("is it the right label_column?"));
    }
}

fn leaked_labels(
    report: &mut Report<'_>,
    roles: &Roles,
    names: &[Vec<String>],
    classes: &BTreeMap<&str, (usize, u64)>,
) {
    let table = report.table;
    let wordy = |name: &&&str| name.chars().filter(|c| c.is_alphabetic()).count() >= 3;
    let candidates: Vec<(&str, String)> = classes
        .keys()
        .filter(wordy)
        .map(|name| (*name, words(name)))
        .filter(|(_, words)| !words.is_empty())
        .collect();
    // With hundreds of classes each text would be searched hundreds of times.
    if candidates.len() > 200 || classes.len() < 2 {
        return;
    }
    let mut within: HashMap<&str, (usize, usize)> = HashMap::new();
    for (row, names) in table.rows.iter().zip(names) {
        let text: String = text_columns(roles)
            .filter_map(|column| row.values[column].as_text())
            .fold(String::from(" "), |all, text| all + &words(&text) + " ");
        for (name, words) in &candidates {
            if text.contains(&format!(" {words} ")) {
                let counts = within.entry(name).or_default();
                if names.iter().any(|own| own == name) { counts.0 += 1 } else { counts.1 += 1 }
            }
        }
    }
    for (name, _) in &candidates {
        let (rows, line) = classes[name];
        let others = table.rows.len() - rows;
        let (own, other) = within.get(name).copied().unwrap_or_default();
        if rows >= 5
            && others >= 5
            && own as f64 >= LEAK_WITHIN * rows as f64
            && other as f64 <= LEAK_BEYOND * others as f64
        {
            let message = format!(
                "the label `{name}` stands in {own} of its own {rows} texts and in {other} of the {others} others"
            );
            let finding = Finding::warning("label-in-text", &table.path, message).at_line(line);
            report.push(finding.suggest("if the text was made from the label, the result will mean nothing"));
        }
    }
}

/// Words that say the label without being its name: in nearly all texts of one class and in nearly none of the others.
fn markers(
    report: &mut Report<'_>,
    roles: &Roles,
    names: &[Vec<String>],
    classes: &BTreeMap<&str, (usize, u64)>,
) {
    let table = report.table;
    let is_small = |rows: usize| rows < MARKER_ROWS || table.rows.len() - rows < MARKER_ROWS;
    if roles.target_kind != Some(TargetKind::SingleLabel) || classes.len() > MARKER_CLASSES {
        return;
    }
    // Rows with the word in all classes, and in each.
    let mut everywhere: HashMap<String, usize> = HashMap::new();
    let mut within: HashMap<(usize, String), usize> = HashMap::new();
    let place: HashMap<&str, usize> =
        classes.keys().enumerate().map(|(place, name)| (*name, place)).collect();
    let mut rows_of = vec![0; classes.len()];
    let step = table.rows.len().div_ceil(MARKER_SAMPLE).max(1);
    for (row, names) in table.rows.iter().zip(names).step_by(step) {
        let Some(&class) = names.first().and_then(|name| place.get(name.as_str())) else { continue };
        let text: String = text_columns(roles)
            .filter_map(|column| row.values[column].as_text())
            .fold(String::new(), |all, text| all + &words(&text) + " ");
        rows_of[class] += 1;
        let different: HashSet<&str> = text.split_whitespace().collect();
        for word in different {
            *everywhere.entry(word.to_owned()).or_default() += 1;
            *within.entry((class, word.to_owned())).or_default() += 1;
        }
    }
    let total: usize = rows_of.iter().sum();
    for (class, (name, &(rows, line))) in classes.iter().enumerate() {
        if is_small(rows) || rows_of[class] == 0 || rows_of[class] == total {
            continue;
        }
        let own_words = words(name);
        let mut found: Vec<(&str, usize, usize)> = within
            .iter()
            .filter(|((of, word), _)| *of == class && !own_words.split(' ').any(|own| own == word))
            .map(|((_, word), &own)| (word.as_str(), own, everywhere[word] - own))
            .filter(|&(_, own, other)| {
                own as f64 >= LEAK_WITHIN * rows_of[class] as f64
                    && other as f64 <= LEAK_BEYOND * (total - rows_of[class]) as f64
            })
            .collect();
        found.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let Some((word, own, other)) = found.first() else { continue };
        let message = format!(
            "the word “{word}” stands in {own} of {} texts of the label `{name}` and in {other} of {} others",
            rows_of[class],
            total - rows_of[class]
        );
        let finding = Finding::warning("marker-in-text", &table.path, message).at_line(line);
        report.push(
            finding.suggest("if it was written with the label, the result will mean nothing; take it out"),
        );
    }
}

/// What makes two rows the same example: their texts.
pub(crate) fn example_key(values: &[Value], roles: &Roles) -> String {
    let mut key = String::new();
    for column in text_columns(roles) {
        key.push_str(&values[column].as_text().unwrap_or_default());
        key.push('\u{1F}');
    }
    key.pop();
    key
}

/// Lower-case words without punctuation, in compatibility form: the same for texts that differ in dress only.
pub(crate) fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.nfkc().flat_map(char::to_lowercase) {
        if character.is_alphanumeric() {
            out.push(character);
        } else if !out.ends_with(' ') && !out.is_empty() {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// The same for names that a person would take for one: case, spaces, underscores, Unicode form, `1` and `1.0`.
pub(crate) fn label_key(name: &str) -> String {
    if let Some(number) = Value::Text(name.to_owned()).as_number() {
        return number.to_string();
    }
    let folded: String =
        name.nfkc().flat_map(char::to_lowercase).map(|c| if c == '_' { ' ' } else { c }).collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first piece of UTF-8 that was decoded as Windows-1252, such as `Ã©` for `é`. Only the leading characters
/// are looked for that stand in no language before the symbols that follow them here.
pub(crate) fn garbled_piece(text: &str) -> Option<&str> {
    if text.is_ascii() {
        return None;
    }
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        let garbled = matches!(
            (character, next),
            ('Ã', Some('\u{A0}'..='\u{BF}' | 'Ÿ'))
                | ('Â', Some('\u{A0}'..='\u{BF}'))
                | ('â', Some('€'))
                | ('ï', Some('»' | '¿'))
                | ('ð', Some('Ÿ'))
        );
        if garbled {
            return Some(&text[floor(text, at.saturating_sub(8))..]);
        }
    }
    None
}

/// The character boundary at or before a byte.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One token with a digit, of letters, digits and what joins them: `4711`, `ORD-2024/17`, a UUID.
fn is_identifier(text: &str) -> bool {
    let text = text.trim();
    text.chars().any(|c| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '#' | '/'))
}

/// Labels of a table, by name, without missing ones.
pub(crate) fn label_vocabulary(table: &Table, roles: &Roles) -> HashMap<String, (usize, u64)> {
    let mut vocabulary: HashMap<String, (usize, u64)> = HashMap::new();
    let mut seen: HashSet<String> = HashSet::new();
    for (row, names) in table.rows.iter().zip(label_names(table, roles)) {
        seen.clear();
        for name in names {
            if !is_missing_label(&Value::Text(name.clone())) && seen.insert(name.clone()) {
                vocabulary.entry(name).or_insert((0, row.line)).0 += 1;
            }
        }
    }
    vocabulary
}
