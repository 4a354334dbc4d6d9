//! The files of a recipe, or one file, at a glance: what `retune data show` prints and the data page draws.

use std::path::Path;

use retune_data::{
    OnBadRow, ReadOptions, RoleOverrides, Roles, Table, TableProfile, TextTokenizer, profile_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::data_check::{folder_recipe, recipe_roles};
use crate::dedupe::read_rows;
use crate::prepare::{expand_folders, read_options, training_path};
use crate::recipe::Recipe;
use crate::trainee::Split;

/// A data file at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct FileOverview {
    /// The split that a recipe makes of it.
    pub split: Option<Split>,
    /// What it holds.
    #[serde(flatten)]
    pub profile: TableProfile,
}

/// How a file is looked at.
#[derive(Default)]
pub struct OverviewOptions<'a> {
    /// Counts tokens.
    pub tokenizer: Option<&'a TextTokenizer>,
    /// Rows of each class that are shown.
    pub rows_per_class: usize,
}

/// Looks at all data files of a recipe. What cannot be read is left out.
///
/// # Errors
/// If a file cannot be opened, or the recipe names columns that are not there.
pub fn overview_recipe(
    recipe: &Recipe,
    options: &OverviewOptions<'_>,
) -> Result<Vec<FileOverview>, TrainError> {
    let mut recipe = recipe.clone();
    expand_folders(&mut recipe, false)?;
    let read = ReadOptions { on_bad_row: OnBadRow::Skip, ..read_options(&recipe)? };
    let overrides = recipe_roles(&recipe);
    let (train, roles) = read_rows(training_path(&recipe)?, &read, &overrides, None)?;
    let profile =
        |table: &Table, roles: &Roles| profile_table(table, roles, options.tokenizer, options.rows_per_class);
    let mut files = vec![FileOverview { split: Some(Split::Train), profile: profile(&train, &roles)? }];
    for (split, path) in [(Split::Validation, &recipe.data.validation), (Split::Test, &recipe.data.test)] {
        let Some(path) = path else { continue };
        let (table, roles) = read_rows(Path::new(path), &read, &overrides, Some((&train, &roles)))?;
        files.push(FileOverview { split: Some(split), profile: profile(&table, &roles)? });
    }
    Ok(files)
}

/// Looks at one data file, or a folder of pictures with its splits. What cannot be read is left out.
///
/// # Errors
/// If it cannot be opened, no column can be the text, or a column named is not there.
pub fn overview_file(
    path: &Path,
    read: &ReadOptions,
    overrides: &RoleOverrides,
    options: &OverviewOptions<'_>,
) -> Result<Vec<FileOverview>, TrainError> {
    if let Some(recipe) = folder_recipe(path)? {
        return overview_recipe(&recipe, options);
    }
    let read = ReadOptions { on_bad_row: OnBadRow::Skip, ..read.clone() };
    let (table, roles) = read_rows(path, &read, overrides, None)?;
    let profile = profile_table(&table, &roles, options.tokenizer, options.rows_per_class)?;
    Ok(vec![FileOverview { split: None, profile }])
}
