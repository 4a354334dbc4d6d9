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
        shared_texts(training, other, &mut findings);
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

fn shared_texts(training: (&Table, &Roles), other: (&Table, &Roles), findings: &mut Vec<Finding>) {
    let file = name(&training.0.path);
    let mut exact: HashMap<String, u64> = HashMap::new();
    let mut loose: HashMap<String, u64> = HashMap::new();
    for row in &training.0.rows {
        let key = example_key(&row.values, training.1);
        loose.entry(words(&key)).or_insert(row.line);
        exact.entry(key).or_insert(row.line);
    }
    let (mut same, mut alike) = (Vec::new(), Vec::new());
    for row in &other.0.rows {
        let key = example_key(&row.values, other.1);
        let normalized = words(&key);
        if normalized.is_empty() {
            continue;
        }
        if let Some(line) = exact.get(&key) {
            same.push((row.line, *line, key));
        } else if let Some(line) = loose.get(&normalized) {
            alike.push((row.line, *line, key));
        }
    }
    let total = other.0.rows.len();
    let path = &other.0.path;
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
