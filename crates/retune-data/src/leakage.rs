//! What is wrong *between* the tables of a run: shared texts, and labels that training never shows. Shared pictures
//! are found where pictures are opened.

use crate::check::{example_key, label_vocabulary, words};
use crate::error::nearest;
use crate::finding::{Finding, count, excerpt};
use crate::roles::{Modality, Roles, TargetKind};
use crate::table::{Table, Value};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Compares the training table with validation or test, and finds: texts that stand in both, exactly or but for
/// case, punctuation and spacing; labels that training lacks; the same file given twice.
///
/// `roles` belong to the table beside them.
pub fn check_splits(training: (&Table, &Roles), other: (&Table, &Roles)) -> Vec<Finding> {
    let mut findings = Vec::new();
    if training.1.modality == Modality::Text {
        let mut shared = SharedTexts::new(other.0, other.1.clone());
        shared.observe(training);
        shared.finish(&training.0.path, &mut findings);
    }
    unseen_labels(training, other, &mut findings);
    findings
}

/// Finds values of a column of groups (a patient, an author) that stand in both tables. A table without the column has
/// none.
pub fn check_groups(training: &Table, other: &Table, column: &str) -> Vec<Finding> {
    let (Ok(there), Ok(here)) = (training.column_index(column), other.column_index(column)) else {
        return Vec::new();
    };
    let group = |value: &Value| {
        let text = value.as_text().unwrap_or_default().trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let known: HashSet<String> = training.rows.iter().filter_map(|row| group(&row.values[there])).collect();
    let shared: Vec<(u64, String)> = other
        .rows
        .iter()
        .filter_map(|row| Some((row.line, group(&row.values[here])?)))
        .filter(|(_, group)| known.contains(group))
        .collect();
    let Some((line, first)) = shared.first() else { return Vec::new() };
    let groups: HashSet<&String> = shared.iter().map(|(_, group)| group).collect();
    let message = format!(
        "{} in {} of its {} stand in {} too, such as `{first}`",
        count(groups.len(), "group"),
        shared.len(),
        count(other.rows.len(), "row"),
        name(&training.path)
    );
    let finding = Finding::warning("leaked-group", &other.path, message).at_line(*line).in_column(column);
    vec![finding.suggest("split by group: `retune data split --group-column`")]
}

/// Looks for the texts of a validation or test table among training texts that come piece by piece: exactly, or but for
/// case, punctuation and spacing.
pub struct SharedTexts<'a> {
    table: &'a Table,
    roles: Roles,
    /// Where each text stands in the other table.
    exact: HashMap<String, Vec<usize>>,
    loose: HashMap<String, Vec<usize>>,
    /// The line among the training texts, of each row of the other table.
    exact_lines: Vec<Option<u64>>,
    loose_lines: Vec<Option<u64>>,
}

impl<'a> SharedTexts<'a> {
    /// Looks for the texts of a table.
    pub fn new(table: &'a Table, roles: Roles) -> Self {
        let rows = table.rows.len();
        let (mut exact, mut loose) =
            (HashMap::<String, Vec<usize>>::new(), HashMap::<String, Vec<usize>>::new());
        for (index, row) in table.rows.iter().enumerate() {
            let key = example_key(&row.values, &roles);
            let normalized = words(&key);
            if !normalized.is_empty() {
                loose.entry(normalized).or_default().push(index);
                exact.entry(key).or_default().push(index);
            }
        }
        SharedTexts {
            table,
            roles,
            exact,
            loose,
            exact_lines: vec![None; rows],
            loose_lines: vec![None; rows],
        }
    }

    /// Looks among some training texts.
    pub fn observe(&mut self, training: (&Table, &Roles)) {
        for row in &training.0.rows {
            let key = example_key(&row.values, training.1);
            for &index in self.loose.get(&words(&key)).into_iter().flatten() {
                self.loose_lines[index].get_or_insert(row.line);
            }
            for &index in self.exact.get(&key).into_iter().flatten() {
                self.exact_lines[index].get_or_insert(row.line);
            }
        }
    }

    /// What was found, `training` being the training file. Returns the lines of the table whose texts are shared, each with
    /// the line there.
    pub fn finish(self, training: &Path, findings: &mut Vec<Finding>) -> HashMap<u64, u64> {
        let (mut same, mut alike) = (Vec::new(), Vec::new());
        for (index, row) in self.table.rows.iter().enumerate() {
            let key = || example_key(&row.values, &self.roles);
            if let Some(line) = self.exact_lines[index] {
                same.push((row.line, line, key()));
            } else if let Some(line) = self.loose_lines[index] {
                alike.push((row.line, line, key()));
            }
        }
        tell_of_shared(self.table, &name(training), (&same, &alike), findings);
        same.iter().chain(&alike).map(|(line, there, _)| (*line, *there)).collect()
    }
}

/// A shared text: its line, the line in the training file, the text.
type Shared = (u64, u64, String);

fn tell_of_shared(
    other: &Table,
    file: &str,
    (same, alike): (&[Shared], &[Shared]),
    findings: &mut Vec<Finding>,
) {
    let total = other.rows.len();
    let path = &other.path;
    if let Some((line, there, text)) = same.first() {
        let message = if same.len() == total {
            format!("every text stands in {file} too")
        } else {
            let shown = excerpt(text, 40);
            format!(
                "shares {} of its {total} with {file}, such as “{shown}” on line {there} there",
                count(same.len(), "text")
            )
        };
        let advice = "the metrics on them measure memory; remove them from one side";
        findings.push(Finding::warning("leaked-text", path, message).at_line(*line).suggest(advice));
    }
    if let Some((line, there, text)) = alike.first() {
        let message = format!(
            "shares {} of its {total} with {file} but for case, punctuation or spacing, such as “{}” on line {there} there",
            count(alike.len(), "text"),
            excerpt(text, 40)
        );
        let advice = "the metrics on them measure memory; remove them from one side";
        findings.push(Finding::warning("leaked-near-text", path, message).at_line(*line).suggest(advice));
    }
}

fn unseen_labels(training: (&Table, &Roles), other: (&Table, &Roles), findings: &mut Vec<Finding>) {
    if other.1.labels.is_empty() || training.1.target_kind == Some(TargetKind::Regression) {
        return;
    }
    let known = label_vocabulary(training.0, training.1);
    let file = name(&training.0.path);
    let mut unseen: Vec<(String, (usize, u64))> = label_vocabulary(other.0, other.1)
        .into_iter()
        .filter(|(label, _)| !known.contains_key(label))
        .collect();
    unseen.sort_by_key(|(_, (_, line))| *line);
    for (label, (rows, line)) in unseen {
        let message = format!("the label `{label}` ({}) does not occur in {file}", count(rows, "row"));
        let finding = Finding::error("unseen-label", &other.0.path, message)
            .at_line(line)
            .in_column(other.0.columns[other.1.labels[0]].clone());
        findings.push(match nearest(&label, known.keys().map(String::as_str)) {
            Some(near) => finding.suggest(format!("did you mean `{near}`?")),
            None => finding.suggest("no model can learn it from there"),
        });
    }
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
