//! What is wrong with data and what each of its columns is for, without a model: all files of a recipe, or one file.
//!
//! A file that is refused does not hide what is wrong with the others.

use std::path::{Path, PathBuf};

use retune_data::{
    CheckOptions, DataError, DatasetOptions, Finding, OnMissing, ReadOptions, RoleOverrides, Roles, Severity,
    Table, TargetKind, TextDataset, check_splits, check_table, infer_roles, read_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::prepare::{read_options, role_overrides};
use crate::recipe::{MissingPolicy, Recipe};
use crate::trainee::Split;

/// What was found in one or several data files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DataExamination {
    /// What is wrong, odd or worth knowing, the worst first.
    pub findings: Vec<Finding>,
    /// The files that could be read.
    pub files: Vec<FileSummary>,
}

/// A data file at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct FileSummary {
    /// The split that a recipe makes of it.
    pub split: Option<Split>,
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub rows: usize,
    /// Its columns in order.
    pub columns: Vec<String>,
    /// What its columns are for.
    pub roles: RoleSummary,
    /// Rows of each class; none for a regression and without labels.
    pub classes: Vec<ClassCount>,
}

/// The columns' roles by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoleSummary {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The label columns.
    pub labels: Vec<String>,
    /// The identifier.
    pub id: Option<String>,
    /// The kind of target.
    pub target_kind: Option<TargetKind>,
    /// Why each role was given, one sentence each.
    pub reasons: Vec<String>,
}

/// How often a class stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The label.
    pub label: String,
    /// Rows that have it.
    pub rows: usize,
}

impl DataExamination {
    /// Whether any finding refuses the data.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Reads a file; if its content is refused, the reasons are findings.
    fn read(&mut self, path: &Path, options: &ReadOptions) -> Result<Option<Table>, TrainError> {
        match read_table(path, options) {
            Ok(table) => Ok(Some(table)),
            Err(DataError::Refused(findings)) => {
                self.findings.extend(findings);
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Checks a table and adds its summary.
    fn add(&mut self, split: Option<Split>, table: &Table, roles: &Roles, missing: MissingPolicy) {
        let is_training = split.is_none_or(|split| split == Split::Train);
        let check = CheckOptions { is_training, ..CheckOptions::default() };
        self.findings.extend(check_table(table, roles, &check));
        // Rows without text or label are findings already; the others are counted.
        let options = DatasetOptions { labels: None, on_missing: OnMissing::Drop };
        let classes = match TextDataset::new(table.clone(), roles.clone(), &options) {
            Ok(dataset) => {
                let counts = dataset.class_counts();
                let names = dataset.labels.names().iter().cloned();
                names.zip(counts).map(|(label, rows)| ClassCount { label, rows }).collect()
            }
            Err(error) => {
                let findings = error.findings().to_vec();
                self.findings.extend(findings);
                Vec::new()
            }
        };
        self.files.push(FileSummary {
            split,
            path: table.path.clone(),
            rows: table.rows.len(),
            columns: table.columns.clone(),
            roles: RoleSummary::new(table, roles),
            classes,
        });
        apply_missing_policy(&mut self.findings, missing);
    }

    fn finish(mut self) -> Self {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self
    }
}

impl RoleSummary {
    fn new(table: &Table, roles: &Roles) -> Self {
        let name = |column: usize| table.columns[column].clone();
        Self {
            text: name(roles.content),
            text_pair: roles.text_pair.map(name),
            labels: roles.labels.iter().map(|&column| name(column)).collect(),
            id: roles.id.map(name),
            target_kind: roles.target_kind,
            reasons: roles.reasons.clone(),
        }
    }
}

/// Rows without text or label are warnings where the recipe leaves them out.
pub(crate) fn apply_missing_policy(findings: &mut [Finding], policy: MissingPolicy) {
    if policy == MissingPolicy::Refuse {
        return;
    }
    for finding in
        findings.iter_mut().filter(|finding| matches!(finding.code, "empty-text" | "missing-label"))
    {
        finding.severity = Severity::Warning;
    }
}

/// Examines all data files of a recipe.
///
/// # Errors
/// If a file cannot be opened, or the recipe names columns that are not there.
pub fn examine_recipe(recipe: &Recipe) -> Result<DataExamination, TrainError> {
    let (options, overrides) = (read_options(recipe)?, role_overrides(recipe));
    let missing = recipe.data.missing_label;
    let train_path =
        recipe.data.train.as_deref().ok_or_else(|| {
            TrainError::Setting("data.train is missing: name the file to train on".to_owned())
        })?;
    let mut examination = DataExamination::default();
    let train = match examination.read(Path::new(train_path), &options)? {
        None => None,
        Some(table) => {
            let roles = infer_roles(&table, &overrides)?;
            if roles.labels.is_empty() {
                return Err(TrainError::Setting(format!(
                    "{train_path} has no column that looks like a label; name it with data.label_column. Its columns \
                     are {}",
                    table.columns.join(", ")
                )));
            }
            examination.add(Some(Split::Train), &table, &roles, missing);
            Some((table, roles))
        }
    };
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        let Some(path) = path else { continue };
        let Some(table) = examination.read(Path::new(path), &options)? else { continue };
        let roles = match &train {
            Some((train, roles)) => roles.in_table(train, &table, true)?,
            None => infer_roles(&table, &overrides)?,
        };
        if let Some((train, train_roles)) = &train {
            examination.findings.extend(check_splits((train, train_roles), (&table, &roles)));
        }
        examination.add(Some(split), &table, &roles, missing);
    }
    Ok(examination.finish())
}

/// Examines one data file.
///
/// # Errors
/// If it cannot be opened, no column can be the text, or a column named is not there.
pub fn examine_file(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
) -> Result<DataExamination, TrainError> {
    let mut examination = DataExamination::default();
    if let Some(table) = examination.read(path, options)? {
        let roles = infer_roles(&table, overrides)?;
        examination.add(None, &table, &roles, MissingPolicy::Refuse);
    }
    Ok(examination.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_the_recipe_leaves_out_do_not_refuse_the_file() {
        let found = || {
            let path = Path::new("t.csv");
            vec![
                Finding::error("missing-label", path, "the label is missing"),
                Finding::error("x", path, "y"),
            ]
        };
        let severities = |policy| {
            let mut findings = found();
            apply_missing_policy(&mut findings, policy);
            findings.iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(MissingPolicy::Refuse), [Severity::Error, Severity::Error]);
        assert_eq!(severities(MissingPolicy::Drop), [Severity::Warning, Severity::Error]);
    }
}
