//! What is wrong with data and what each of its columns is for, without a model: all files of a recipe, or one file.
//!
//! A file that is refused does not hide what is wrong with the others.

use std::path::{Path, PathBuf};

use retune_data::image::{ImageDataset, PictureOptions, check_pictures, open_pictures, split_folders};
use retune_data::{
    CheckOptions, DataError, Dataset, DatasetOptions, Example, Finding, Modality, OnBadRow, OnMissing,
    ReadOptions, RoleOverrides, Roles, Severity, Table, TargetKind, TextDataset, check_groups, check_splits,
    check_table, infer_modality, infer_roles, read_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::prepare::{
    available_threads, expand_folders, read_options, require_labels, role_overrides, training_path,
};
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
    /// Empty cells of each column that has some.
    pub missing: Vec<MissingCells>,
    /// What its columns are for.
    pub roles: RoleSummary,
    /// Rows of each class; none for a regression and without labels.
    pub classes: Vec<ClassCount>,
}

/// The columns' roles by name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoleSummary {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
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

/// Empty cells of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingCells {
    /// The column.
    pub column: String,
    /// Rows without a value there.
    pub rows: usize,
}

impl MissingCells {
    /// Of all columns of a table that have some.
    pub(crate) fn of(table: &Table) -> Vec<Self> {
        let blank = |column: usize| table.rows.iter().filter(|row| row.values[column].is_blank()).count();
        let counted = table.columns.iter().enumerate();
        counted
            .map(|(column, name)| Self { column: name.clone(), rows: blank(column) })
            .filter(|missing| missing.rows > 0)
            .collect()
    }
}

impl DataExamination {
    /// Whether any finding refuses the data.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Makes findings of the reasons for which a content is refused.
    fn accept<T>(&mut self, result: Result<T, DataError>) -> Result<Option<T>, TrainError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(DataError::Refused(findings)) => {
                self.findings.extend(findings);
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Reads a file and finds its roles, or takes them from the training file; pictures are opened.
    fn read(
        &mut self,
        path: &Path,
        options: &ReadOptions,
        overrides: &RoleOverrides,
        training: Option<(&Table, &Roles)>,
    ) -> Result<Option<(Table, Roles)>, TrainError> {
        let Some(mut table) = self.accept(read_table(path, options))? else { return Ok(None) };
        let roles = match training {
            Some((train, roles)) => roles.in_table(train, &table, true)?,
            None => inferred_roles(&table, overrides)?,
        };
        if roles.modality == Modality::Image {
            let threads = available_threads();
            let listed = table.findings.len();
            // What is broken is listed either way, and the others are looked at all the same.
            let all = PictureOptions { on_bad_row: OnBadRow::Skip, threads, ..PictureOptions::default() };
            if self.accept(open_pictures(&mut table, &roles, &all))?.is_none() {
                self.findings.append(&mut table.findings);
                return Ok(None);
            }
            if options.on_bad_row == OnBadRow::Refuse {
                table.findings.retain(|finding| finding.code != "skipped-rows");
                let found = table.findings[listed..].iter_mut();
                found.filter(|finding| finding.severity == Severity::Warning).for_each(|finding| {
                    finding.severity = Severity::Error;
                });
            }
        }
        Ok(Some((table, roles)))
    }

    /// Checks a table and adds its summary.
    fn add(&mut self, split: Option<Split>, table: &Table, roles: &Roles, missing: MissingPolicy) {
        let is_training = split.is_none_or(|split| split == Split::Train);
        let check = CheckOptions { is_training, ..CheckOptions::default() };
        self.findings.extend(check_table(table, roles, &check));
        // Rows without text or label are findings already; the others are counted.
        let options = DatasetOptions { labels: None, on_missing: OnMissing::Drop };
        let (table_, roles_) = (table.clone(), roles.clone());
        let counted = match roles.modality {
            Modality::Text => {
                TextDataset::new(table_, roles_, &options).map(|dataset| class_counts(&dataset))
            }
            Modality::Image => {
                ImageDataset::from_pictures(table_, roles_, &options).map(|dataset| class_counts(&dataset))
            }
        };
        let classes = match counted {
            Ok(counts) => counts,
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
            missing: MissingCells::of(table),
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

fn class_counts<E: Example>(dataset: &Dataset<E>) -> Vec<ClassCount> {
    let names = dataset.labels.names().iter().cloned();
    names.zip(dataset.class_counts()).map(|(label, rows)| ClassCount { label, rows }).collect()
}

impl RoleSummary {
    fn new(table: &Table, roles: &Roles) -> Self {
        let name = |column: usize| table.columns[column].clone();
        Self {
            text: (roles.modality == Modality::Text).then(|| name(roles.content)),
            text_pair: roles.text_pair.map(name),
            image: (roles.modality == Modality::Image).then(|| name(roles.content)),
            labels: roles.labels.iter().map(|&column| name(column)).collect(),
            id: roles.id.map(name),
            target_kind: roles.target_kind,
            reasons: roles.reasons.clone(),
        }
    }
}

/// What a table's columns are for where no model says whether they hold texts or pictures.
pub(crate) fn inferred_roles(table: &Table, overrides: &RoleOverrides) -> Result<Roles, TrainError> {
    let modality = match (overrides.modality, &overrides.text_column) {
        (Modality::Text, None) => infer_modality(table),
        (given, _) => given,
    };
    Ok(infer_roles(table, &RoleOverrides { modality, ..overrides.clone() })?)
}

/// The roles that a recipe gives to columns, without a look at its model.
pub(crate) fn recipe_roles(recipe: &Recipe) -> RoleOverrides {
    let mut overrides = role_overrides(recipe);
    let names_pictures = recipe.data.image_column.is_some() || recipe.model.architecture.is_some();
    if names_pictures || recipe.task.kind == "image-classification" {
        overrides.modality = Modality::Image;
    }
    overrides
}

/// The recipe of a folder of pictures that has its splits in folders.
pub(crate) fn folder_recipe(path: &Path) -> Result<Option<Recipe>, TrainError> {
    if !path.is_dir() || !matches!(split_folders(path)?, Some([Some(_), ..])) {
        return Ok(None);
    }
    let mut recipe = Recipe::default();
    recipe.data.train = Some(path.display().to_string());
    Ok(Some(recipe))
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
    let mut recipe = recipe.clone();
    expand_folders(&mut recipe, false)?;
    let (options, overrides) = (read_options(&recipe)?, recipe_roles(&recipe));
    let missing = recipe.data.missing_label;
    let mut examination = DataExamination::default();
    let train = examination.read(training_path(&recipe)?, &options, &overrides, None)?;
    if let Some((table, roles)) = &train {
        require_labels(table, roles)?;
        examination.findings.extend(check_pictures((table, roles), None));
        examination.add(Some(Split::Train), table, roles, missing);
    }
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        let Some(path) = path else { continue };
        let training = train.as_ref().map(|(table, roles)| (table, roles));
        let Some((table, roles)) = examination.read(Path::new(path), &options, &overrides, training)? else {
            continue;
        };
        if let Some(training) = training {
            examination.findings.extend(check_splits(training, (&table, &roles)));
            if let Some(column) = &recipe.data.group_column {
                examination.findings.extend(check_groups(training.0, &table, column));
            }
            examination.findings.extend(check_pictures(training, Some((&table, &roles))));
        }
        examination.add(Some(split), &table, &roles, missing);
    }
    Ok(examination.finish())
}

/// Examines one data file, or a folder of pictures with its splits.
///
/// # Errors
/// If it cannot be opened, no column can be the text, or a column named is not there.
pub fn examine_file(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
) -> Result<DataExamination, TrainError> {
    if let Some(recipe) = folder_recipe(path)? {
        return examine_recipe(&recipe);
    }
    let mut examination = DataExamination::default();
    if let Some((table, roles)) = examination.read(path, options, overrides, None)? {
        examination.findings.extend(check_pictures((&table, &roles), None));
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
