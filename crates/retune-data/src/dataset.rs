//! Examples ready to encode: texts or pictures with typed targets, and the way back to their source rows.
//!
//! [`Dataset`] holds what is the same for every modality; an [`Example`] is what differs.

use crate::error::DataError;
use crate::finding::{Finding, count};
use crate::labels::LabelSet;
use crate::roles::{Modality, Roles, TargetKind};
use crate::similar::Contents;
use crate::table::{Row, Table, Value};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// At most this many bad labels or missing texts are listed.
const EXAMPLES: usize = 5;

/// What an example should be answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A class.
    Class(u32),
    /// Any number of classes, ascending.
    Classes(Vec<u32>),
    /// A number.
    Value(f32),
    /// Several numbers, one per output.
    Values(Vec<f32>),
    /// Unknown, as in data to predict on.
    None,
}

impl Target {
    /// The classes it names; none for numbers.
    pub fn classes(&self) -> &[u32] {
        match self {
            Self::Class(class) => std::slice::from_ref(class),
            Self::Classes(classes) => classes,
            _ => &[],
        }
    }
}

/// One sample of a dataset, whatever its modality.
pub trait Example: Clone {
    /// Its row in the file, counted from 0 over the rows read.
    fn id(&self) -> u64;

    /// Its row's line in the file.
    fn line(&self) -> u64;

    /// What it should be answered with.
    fn target(&self) -> &Target;

    /// Gives everything that makes two examples the same to `feed`, piece by piece.
    fn content(&self, feed: &mut dyn FnMut(&[u8]));

    /// What examples say, to find those that are alike.
    fn contents(examples: &[Self]) -> Contents;

    /// What stood in the cell of its content column before it was moved here, as JSON.
    fn content_cell(&self) -> Json;

    /// The same for the second text of a pair.
    fn pair_cell(&self) -> Option<Json> {
        None
    }
}

/// One text (or pair) with its target.
#[derive(Debug, Clone, PartialEq)]
pub struct TextExample {
    /// The row's index in the file, counted from 0 over the rows read.
    pub id: u64,
    /// The row's line in the file.
    pub line: u64,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// What it should be answered with.
    pub target: Target,
}

impl Example for TextExample {
    fn id(&self) -> u64 {
        self.id
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn content(&self, feed: &mut dyn FnMut(&[u8])) {
        feed(self.text.as_bytes());
        feed(&[0]);
        feed(self.text_pair.as_deref().unwrap_or_default().as_bytes());
    }

    fn contents(examples: &[Self]) -> Contents {
        let text_of = |example: &Self| match &example.text_pair {
            Some(pair) => format!("{}\u{1f}{pair}", example.text),
            None => example.text.clone(),
        };
        Contents::Texts(examples.iter().map(text_of).collect())
    }

    fn content_cell(&self) -> Json {
        self.text.as_str().into()
    }

    fn pair_cell(&self) -> Option<Json> {
        self.text_pair.as_deref().map(Json::from)
    }
}

/// What to do with a row whose content or label is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// Refuse the file and list such rows.
    #[default]
    Refuse,
    /// Leave such rows out and say so.
    Drop,
}

/// How a table becomes a dataset.
#[derive(Debug, Clone, Default)]
pub struct DatasetOptions {
    /// The labels to use: the model's own, or the training set's for validation and test. `None` collects them.
    pub labels: Option<LabelSet>,
    /// What to do with rows without content or label.
    pub on_missing: OnMissing,
}

/// A table's rows as examples, in file order.
#[derive(Debug, Clone)]
pub struct Dataset<E> {
    /// The examples.
    pub examples: Vec<E>,
    /// The classes; empty for regression and without labels.
    pub labels: LabelSet,
    /// Names of the outputs of a regression: the label columns.
    pub value_names: Vec<String>,
    /// What was left out, and other remarks.
    pub findings: Vec<Finding>,
    /// The source with its content cells moved into the examples.
    table: Table,
    roles: Roles,
}

/// Texts with their targets.
pub type TextDataset = Dataset<TextExample>;

impl TextDataset {
    /// Turns a table into examples. A file without a label column gives [`Target::None`] throughout.
    ///
    /// # Errors
    /// [`DataError::Refused`] for missing texts or labels (unless dropped), labels that are not numbers in a
    /// regression, and labels that `options.labels` lacks.
    pub fn new(table: Table, roles: Roles, options: &DatasetOptions) -> Result<Self, DataError> {
        let pair = roles.text_pair;
        Dataset::build(table, roles, options, |rows, targets, roles| {
            let example = |(id, (row, target)): (u64, (&mut Row, Target))| {
                let mut take = |column: usize| match std::mem::take(&mut row.values[column]) {
                    Value::Text(text) => text,
                    other => other.as_text().map(|text| text.into_owned()).unwrap_or_default(),
                };
                let text = take(roles.content);
                TextExample { id, line: row.line, text, text_pair: pair.map(take), target }
            };
            (0..).zip(rows.iter_mut().zip(targets)).map(example).collect()
        })
    }
}

impl<E: Example> Dataset<E> {
    /// Resolves labels and targets of a table's rows; `examples` moves the content out of the rows' cells.
    pub(crate) fn build(
        mut table: Table,
        roles: Roles,
        options: &DatasetOptions,
        examples: impl FnOnce(&mut [Row], Vec<Target>, &Roles) -> Vec<E>,
    ) -> Result<Self, DataError> {
        let mut findings = Vec::new();
        drop_missing(&mut table, &roles, options.on_missing, &mut findings)?;
        let names = label_names(&table, &roles);
        let labels = match (&options.labels, roles.target_kind) {
            (_, None | Some(TargetKind::Regression)) => LabelSet::default(),
            (Some(labels), _) => labels.clone(),
            (None, _) if roles.labels.len() > 1 => LabelSet::from_names(label_columns(&table, &roles)),
            (None, _) => LabelSet::from_names(names.iter().flatten()),
        };
        let targets = targets(&table, &roles, &names, &labels)?;
        let examples = examples(&mut table.rows, targets, &roles);
        Ok(Dataset { examples, labels, value_names: value_names(&table, &roles), findings, table, roles })
    }

    /// A dataset without examples: what is known of a table beside its rows. Where several columns are labels, they are
    /// the classes.
    pub(crate) fn without_rows(table: &Table, roles: Roles) -> Self {
        let are_classes = roles.labels.len() > 1 && roles.target_kind != Some(TargetKind::Regression);
        let labels = match are_classes {
            true => LabelSet::from_names(label_columns(table, &roles)),
            false => LabelSet::default(),
        };
        let (value_names, table) = (value_names(table, &roles), table.select(&[]));
        Dataset { examples: Vec::new(), labels, value_names, findings: Vec::new(), table, roles }
    }

    /// Takes over the columns of a later piece of the same file, which may have more of them at the end.
    pub(crate) fn widen(&mut self, columns: &[String]) {
        columns.clone_into(&mut self.table.columns);
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// True without examples.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The file the examples came from.
    pub fn path(&self) -> &Path {
        &self.table.path
    }

    /// The roles the columns were given.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// All columns of an example's source row, in file order.
    pub fn source_columns(&self, index: usize) -> Map<String, Json> {
        let (Some(row), Some(example)) = (self.table.rows.get(index), self.examples.get(index)) else {
            return Map::new();
        };
        let cells = self.table.columns.iter().zip(&row.values).enumerate();
        cells
            .map(|(column, (name, value))| {
                let json = match example.pair_cell() {
                    _ if column == self.roles.content => example.content_cell(),
                    Some(pair) if Some(column) == self.roles.text_pair => pair,
                    _ => value.to_json(),
                };
                (name.clone(), json)
            })
            .collect()
    }

    /// The source's columns in file order.
    pub fn column_names(&self) -> &[String] {
        &self.table.columns
    }

    /// A source cell of an example, such as the column that groups a split.
    pub fn source_value(&self, index: usize, column: usize) -> Option<&Value> {
        self.table.rows.get(index)?.values.get(column)
    }

    /// The index of a source column.
    ///
    /// # Errors
    /// [`DataError::UnknownColumn`].
    pub fn column_index(&self, name: &str) -> Result<usize, DataError> {
        self.table.column_index(name)
    }

    /// A dataset of some of the examples, in the order given; ids and lines stay those of the file.
    pub fn select(&self, indices: &[usize]) -> Dataset<E> {
        Dataset {
            examples: indices.iter().filter_map(|&index| self.examples.get(index).cloned()).collect(),
            labels: self.labels.clone(),
            value_names: self.value_names.clone(),
            findings: Vec::new(),
            table: self.table.select(indices),
            roles: self.roles.clone(),
        }
    }

    /// Examples per class, in [`LabelSet`] order.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.labels.len()];
        for example in &self.examples {
            example.target().classes().iter().for_each(|&class| counts[class as usize] += 1);
        }
        counts
    }
}

/// The names of the label columns.
fn label_columns<'a>(table: &'a Table, roles: &'a Roles) -> impl Iterator<Item = &'a String> {
    roles.labels.iter().map(|&column| &table.columns[column])
}

/// Names of the outputs of a regression.
fn value_names(table: &Table, roles: &Roles) -> Vec<String> {
    match roles.target_kind {
        Some(TargetKind::Regression) => label_columns(table, roles).cloned().collect(),
        _ => Vec::new(),
    }
}

/// Label names that stand for "missing" in data made with Python.
pub(crate) fn is_nan_label(text: &str) -> bool {
    matches!(text.trim(), "nan" | "NaN" | "NAN")
}

/// True when a label cell holds no label. An empty list is the multi-label way to say "none of them".
pub(crate) fn is_missing_label(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_nan(),
        Value::Text(text) => text.trim().is_empty() || is_nan_label(text),
        other => other.is_blank(),
    }
}

fn drop_missing(
    table: &mut Table,
    roles: &Roles,
    policy: OnMissing,
    findings: &mut Vec<Finding>,
) -> Result<(), DataError> {
    let contents: Vec<usize> = [Some(roles.content), roles.text_pair].into_iter().flatten().collect();
    let (empty, is_empty) = match roles.modality {
        Modality::Text => ("empty-text", "the text is empty"),
        Modality::Image => ("missing-picture", "the row names no picture"),
    };
    let problems =
        [(empty, is_empty, contents), ("missing-label", "the label is missing", roles.labels.clone())];
    let mut refused = Vec::new();
    for (code, message, columns) in problems {
        let is_missing = |value: &Value| {
            if code == empty { value.is_blank() } else { is_missing_label(value) }
        };
        let mut missing = 0usize;
        for row in &table.rows {
            let Some(&column) = columns.iter().find(|&&column| is_missing(&row.values[column])) else {
                continue;
            };
            missing += 1;
            if policy == OnMissing::Refuse && missing <= EXAMPLES {
                let finding = Finding::error(code, &table.path, message).at_line(row.line);
                refused.push(finding.in_column(table.columns[column].clone()));
            }
        }
        if missing == 0 {
            continue;
        }
        match policy {
            OnMissing::Refuse => {
                let total = format!("{} in all: {message}", count(missing, "row"));
                let finding = Finding::error(code, &table.path, total);
                refused
                    .push(finding.suggest("fill them in, or set missing_label = \"drop\" to leave them out"));
            }
            OnMissing::Drop => {
                table.rows.retain(|row| !columns.iter().any(|&column| is_missing(&row.values[column])));
                let total = format!("{} left out: {message}", count(missing, "row"));
                findings.push(Finding::warning(code, &table.path, total));
            }
        }
    }
    if refused.is_empty() && table.rows.is_empty() {
        refused.push(Finding::error("no-rows", &table.path, "no row has both content and a label"));
    }
    if refused.is_empty() { Ok(()) } else { Err(DataError::Refused(refused)) }
}

/// Each row's label names, trimmed; empty for regression.
pub(crate) fn label_names(table: &Table, roles: &Roles) -> Vec<Vec<String>> {
    let trimmed = |value: &Value| value.as_text().map(|text| text.trim().to_owned());
    let names = |values: &[Value]| -> Vec<String> {
        if roles.labels.len() > 1 {
            let set = |&&column: &&usize| {
                values[column].as_number() == Some(1.0) || values[column] == Value::Bool(true)
            };
            return roles.labels.iter().filter(set).map(|&column| table.columns[column].clone()).collect();
        }
        let Some(&column) = roles.labels.first() else { return Vec::new() };
        match (&values[column], roles.target_kind) {
            (Value::List(labels), Some(TargetKind::MultiLabel)) => {
                labels.iter().filter_map(trimmed).collect()
            }
            (Value::Text(text), Some(TargetKind::MultiLabel)) => match roles.label_separator {
                Some(separator) => {
                    let pieces = text.split(separator).map(str::trim);
                    pieces.filter(|piece| !piece.is_empty()).map(str::to_owned).collect()
                }
                None => vec![text.trim().to_owned()],
            },
            (value, _) => trimmed(value).into_iter().collect(),
        }
    };
    if matches!(roles.target_kind, None | Some(TargetKind::Regression)) {
        return vec![Vec::new(); table.rows.len()];
    }
    table.rows.iter().map(|row| names(&row.values)).collect()
}

fn targets(
    table: &Table,
    roles: &Roles,
    names: &[Vec<String>],
    labels: &LabelSet,
) -> Result<Vec<Target>, DataError> {
    let mut refused: Vec<Finding> = Vec::new();
    let mut refuse = |code, message: String, line| {
        if refused.len() < EXAMPLES {
            refused.push(Finding::error(code, &table.path, message).at_line(line));
        }
    };
    let mut targets = Vec::with_capacity(table.rows.len());
    for (row, names) in table.rows.iter().zip(names) {
        let mut classes = Vec::with_capacity(names.len());
        for name in names {
            match labels.index(name) {
                Some(class) => classes.push(class),
                None => refuse("unknown-label", labels.unknown(&table.path, name), row.line),
            }
        }
        targets.push(match roles.target_kind {
            None => Target::None,
            Some(TargetKind::SingleLabel) => {
                classes.first().map_or(Target::None, |&class| Target::Class(class))
            }
            Some(TargetKind::MultiLabel) => {
                classes.sort_unstable();
                classes.dedup();
                Target::Classes(classes)
            }
            Some(TargetKind::Regression) => {
                let mut values = Vec::with_capacity(roles.labels.len());
                for &column in &roles.labels {
                    let number = row.values[column].as_number().map(|number| number as f32);
                    match number.filter(|number| number.is_finite()) {
                        Some(number) => values.push(number),
                        None => {
                            let cell = row.values[column].as_text().unwrap_or_default().into_owned();
                            refuse("not-a-number", format!("`{cell}` is not a finite number"), row.line);
                        }
                    }
                }
                match values.as_slice() {
                    [value] => Target::Value(*value),
                    _ => Target::Values(values),
                }
            }
        });
    }
    if refused.is_empty() { Ok(targets) } else { Err(DataError::Refused(refused)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_bytes};
    use crate::roles::{RoleOverrides, infer_roles};

    fn dataset(text: &str, options: &DatasetOptions) -> Result<TextDataset, String> {
        let name = if text.starts_with('{') { "t.jsonl" } else { "t.csv" };
        let table = read_bytes(Path::new(name), text.as_bytes().to_vec(), &ReadOptions::default()).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        TextDataset::new(table, roles, options).map_err(|error| error.to_string())
    }

    #[test]
    fn examples_keep_their_lines_targets_and_source_columns() {
        let dataset = dataset("id,text,label\n7,\"a\nb\",x \n8,c,y\n", &DatasetOptions::default()).unwrap();
        assert_eq!(dataset.labels.names(), ["x", "y"]);
        assert_eq!(dataset.examples[1].line, 4);
        assert_eq!(dataset.examples[0].target, Target::Class(0));
        assert_eq!(
            serde_json::to_string(&dataset.source_columns(0)).unwrap(),
            r#"{"id":"7","text":"a\nb","label":"x "}"#
        );
        assert_eq!(dataset.class_counts(), [1, 1]);
    }

    #[test]
    fn the_models_labels_win_and_an_unknown_one_is_named() {
        let labels = Some(LabelSet::from_names(["refund", "shipping"]));
        let options = DatasetOptions { labels, ..Default::default() };
        let error = dataset("text,label\na,refund\nb,Refund\n", &options).unwrap_err();
        assert_eq!(
            error,
            "t.csv:3: error[unknown-label]: t.csv has the label `Refund`, unknown to the model (did you mean \
             `refund`?); its labels are: refund, shipping"
        );
    }

    #[test]
    fn missing_labels_are_refused_or_dropped() {
        let text = "text,label\na,x\nb,\nc,nan\n,y\nd,y\n";
        let error = dataset(text, &DatasetOptions::default()).unwrap_err();
        assert!(error.contains("t.csv:3: error[missing-label]") && error.contains("t.csv:4:"), "{error}");
        let options = DatasetOptions { on_missing: OnMissing::Drop, ..Default::default() };
        let dataset = dataset(text, &options).unwrap();
        assert_eq!(dataset.examples.iter().map(|example| example.line).collect::<Vec<_>>(), [2, 6]);
        assert_eq!(dataset.findings.len(), 2);
    }

    #[test]
    fn multi_label_targets_are_sorted_sets() {
        let text = "{\"text\":\"a\",\"labels\":[\"y\",\"x\",\"y\"]}\n{\"text\":\"b\",\"labels\":[]}\n";
        let dataset = dataset(text, &DatasetOptions::default()).unwrap();
        assert_eq!(dataset.examples[0].target, Target::Classes(vec![0, 1]));
        assert_eq!(dataset.examples[1].target, Target::Classes(vec![]));
    }

    #[test]
    fn numbers_become_values_and_texts_without_labels_none() {
        let regression = dataset("text,score\na,1.5\nb,-2\n", &DatasetOptions::default()).unwrap();
        assert_eq!(regression.examples[1].target, Target::Value(-2.0));
        assert!(regression.labels.is_empty());
        let unlabelled = dataset("text\na\nb\n", &DatasetOptions::default()).unwrap();
        assert_eq!(unlabelled.examples[0].target, Target::None);
    }
}
