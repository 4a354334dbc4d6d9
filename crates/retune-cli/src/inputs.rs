//! What commands are given by name: recipes and models.

use std::path::{Path, PathBuf};

use retune::checkpoint::{CheckpointError, resolve};
use retune::train::{Recipe, TrainError};

use crate::commands::fit::prepare_options;
use crate::console::Failure;

/// Reads a recipe file with the command line's changes; its paths are relative to its folder.
pub fn load_recipe(path: &Path, overrides: &[String]) -> Result<Recipe, Failure> {
    let mut recipe = Recipe::load(path, overrides).map_err(TrainError::from)?;
    recipe.resolve_paths(path.parent().unwrap_or(Path::new("")));
    Ok(recipe)
}

/// Where a model's files are.
#[derive(Debug)]
pub struct ModelFiles {
    /// The folder with `config.json` and the tokenizer.
    pub directory: PathBuf,
    /// The weights: that folder, or one file of it that was named.
    pub weights: PathBuf,
    /// Where they came from, in words.
    pub origin: String,
}

/// Finds a model by folder, weight file or hub id. What is being tried is told on standard error.
pub fn find_model(name: &str, mirrors: &[String]) -> Result<ModelFiles, Failure> {
    let path = Path::new(name);
    if path.is_dir() {
        let directory = path.to_path_buf();
        return Ok(ModelFiles { weights: directory.clone(), directory, origin: "local folder".to_owned() });
    }
    if path.is_file() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let directory = folder.unwrap_or(Path::new(".")).to_path_buf();
        return Ok(ModelFiles { directory, weights: path.to_path_buf(), origin: "local file".to_owned() });
    }
    let mut options = prepare_options()?.resolve;
    options.mirrors = mirrors
        .iter()
        .map(|mirror| mirror.parse())
        .collect::<Result<_, CheckpointError>>()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let found = resolve(name, &options, &mut |message| eprintln!("{message}")).map_err(TrainError::from)?;
    Ok(ModelFiles {
        weights: found.directory.clone(),
        directory: found.directory,
        origin: found.origin.to_string(),
    })
}
