//! `recipe.lock.toml`: written before the first step, obeyed by a run that goes on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FitOptions;
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::{RunFolder, TrainError};

/// `recipe.lock.toml`: the resolved recipe, and what the result depends on beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lock {
    pub(super) lock: LockSection,
    #[serde(flatten)]
    pub(super) recipe: Recipe,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LockSection {
    version: String,
    pub(super) isa: String,
    pub(super) model_directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fold: Option<(usize, usize)>,
    pub(super) sha256: BTreeMap<String, String>,
}

pub(super) fn write_lock(
    folder: &RunFolder,
    prepared: &Prepared,
    options: &FitOptions<'_>,
) -> Result<(), TrainError> {
    let isa = prepared.context.kernels().map_or_else(String::new, |cpu| cpu.isa().to_string());
    let directory = std::fs::canonicalize(&prepared.model_directory);
    let lock = Lock {
        lock: LockSection {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isa,
            model_directory: directory
                .unwrap_or_else(|_| prepared.model_directory.clone())
                .display()
                .to_string(),
            fold: options.prepare.fold,
            sha256: prepared.hashes.clone(),
        },
        recipe: prepared.recipe.clone(),
    };
    lock.write(folder)
}

impl Lock {
    pub(super) fn write(&self, folder: &RunFolder) -> Result<(), TrainError> {
        let path = folder.path(RunFolder::LOCK);
        let text = toml::to_string_pretty(self)
            .map_err(|error| TrainError::io(&path)(std::io::Error::other(error)))?;
        Ok(retune_checkpoint::write_atomic(&path, |file| file.write_all(text.as_bytes()))?)
    }
}

pub(super) fn read_lock(folder: &RunFolder) -> Result<Lock, TrainError> {
    let path = folder.path(RunFolder::LOCK);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            TrainError::run_folder(folder.root(), "holds no run: recipe.lock.toml is missing")
        } else {
            TrainError::io(&path)(error)
        }
    })?;
    toml::from_str(&text).map_err(|error| TrainError::run_folder(&path, format!("cannot be read: {error}")))
}
