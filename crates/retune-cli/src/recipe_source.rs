//! Where a recipe comes from: its file with the command line's changes, or the command line alone.

use std::path::{Path, PathBuf};

use clap::Args;
use retune::train::{Recipe, Split, TrainError, examine_recipe, expand_folders};
use serde_json::Value;

use crate::console::Failure;
use crate::inputs::load_recipe;

/// A recipe, or a model and its data.
#[derive(Debug, Args)]
pub struct RecipeSource {
    /// The recipe (TOML). Without one, name --model and --train: the rest is inferred and printed.
    #[arg(value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Changes to the recipe: a key by its last name where that is unique, or by its path.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The model: a folder or a hub id (model.name_or_path).
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The training data (data.train).
    #[arg(long, value_name = "FILE")]
    pub train: Option<String>,
    /// The validation data (data.validation).
    #[arg(long, value_name = "FILE")]
    pub validation: Option<String>,
    /// The test data (data.test).
    #[arg(long, value_name = "FILE")]
    pub test: Option<String>,
}

impl RecipeSource {
    /// The recipe file with the command line's changes, or one made of the command line alone; and whether it is the
    /// latter. `others` are further options of the command, each with the key of the recipe that it sets.
    pub fn read(&self, others: &[(&str, &Option<String>)]) -> Result<(Recipe, bool), Failure> {
        let own = [
            ("model.name_or_path", &self.model),
            ("data.train", &self.train),
            ("data.validation", &self.validation),
            ("data.test", &self.test),
        ];
        let given = |(key, value): &(&str, &Option<String>)| {
            value.as_ref().map(|value| format!("{key}={}", Value::String(value.clone())))
        };
        let mut overrides: Vec<String> = own.iter().chain(others).filter_map(given).collect();
        // Without a recipe the first positional argument is a change already.
        let first = self.recipe.as_deref();
        let first_change =
            first.filter(|path| !path.is_file()).and_then(Path::to_str).filter(|text| text.contains('='));
        overrides.extend(first_change.map(str::to_owned));
        overrides.extend(self.overrides.iter().cloned());
        match first.filter(|_| first_change.is_none()) {
            Some(path) => Ok((load_recipe(path, &overrides)?, false)),
            None if self.model.is_some() && self.train.is_some() => {
                let recipe = Recipe::parse("", "command line", &overrides).map_err(TrainError::from)?;
                Ok((inferred(recipe)?, true))
            }
            None => Err(Failure::usage("name a recipe, or a model and its data: --model DIR --train FILE")),
        }
    }
}

/// Completes a recipe that nobody wrote: a validation split, and columns and task as the data has them.
fn inferred(mut recipe: Recipe) -> Result<Recipe, Failure> {
    expand_folders(&mut recipe, false)?;
    if recipe.data.validation.is_none() && recipe.data.validation_split.is_none() {
        recipe.data.validation_split = Some(0.1);
    }
    recipe.check().map_err(TrainError::from)?;
    let examination = examine_recipe(&recipe)?;
    if let Some(train) = examination.files.iter().find(|file| file.split == Some(Split::Train)) {
        let roles = &train.roles;
        recipe.data.text_column = roles.text.clone();
        recipe.data.image_column = roles.image.clone();
        recipe.data.text_pair_column = roles.text_pair.clone();
        if !roles.labels.is_empty() {
            recipe.data.label_column = Some(roles.labels.clone().into());
        }
        roles.reasons.iter().for_each(|reason| eprintln!("{reason}"));
    }
    eprintln!("no recipe given; this one is used:\n\n{}", recipe.to_short_toml().map_err(TrainError::from)?);
    Ok(recipe)
}
