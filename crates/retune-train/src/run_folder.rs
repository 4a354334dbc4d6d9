//! The run folder: where everything of a run lies, and its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TrainError;
use crate::event::{Event, Listener};

/// A run folder on disk.
#[derive(Clone, Debug)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The resolved recipe with hashes and versions.
    pub const LOCK: &'static str = "recipe.lock.toml";
    /// The events, one JSON object a line.
    pub const LOG: &'static str = "log.jsonl";
    /// The final metrics.
    pub const METRICS: &'static str = "metrics.json";
    /// What a search for the learning rate found.
    pub const LEARNING_RATE: &'static str = "learning_rate.json";
    /// What a comparison of strategies found.
    pub const COMPARISON: &'static str = "comparison.json";
    /// What training saw of each sample (`train.record_dynamics`).
    pub const DYNAMICS: &'static str = "training_dynamics.csv";
    /// The folder of the runs that were compared.
    pub const STRATEGIES: &'static str = "strategies";
    /// What became of the checkpoint's tensors.
    pub const LOAD_REPORT: &'static str = "load_report.json";

    /// Every file that a run writes into its root, but for the tokenizer's.
    const FILES: &'static [&'static str] = &[
        Self::LOCK,
        Self::LOG,
        Self::METRICS,
        Self::LEARNING_RATE,
        Self::COMPARISON,
        "comparison.html",
        Self::DYNAMICS,
        Self::LOAD_REPORT,
        "certificate.json",
        "config.json",
        "model.safetensors",
        "README.md",
        "report.html",
    ];

    /// A folder that may hold a run.
    pub fn open(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether a new run may be written here.
    ///
    /// # Errors
    /// If the folder holds a run or other files already, unless `overwrite`.
    pub fn require_free(&self, overwrite: bool) -> Result<(), TrainError> {
        let is_free = std::fs::read_dir(&self.root).map_or(true, |mut entries| entries.next().is_none());
        if is_free || overwrite {
            return Ok(());
        }
        let problem = if self.path(Self::LOCK).is_file() {
            "already holds a run; go on with `retune resume`, choose another train.output_dir, or set \
             train.overwrite_output_dir = true"
        } else {
            "is not empty; choose another train.output_dir, or set train.overwrite_output_dir = true"
        };
        Err(TrainError::run_folder(&self.root, problem))
    }

    /// Makes the folder for a new run, rid of what an earlier run left.
    ///
    /// # Errors
    /// As [`RunFolder::require_free`], or if it cannot be written.
    pub fn create(root: impl Into<PathBuf>, overwrite: bool) -> Result<Self, TrainError> {
        let folder = Self::open(root);
        folder.require_free(overwrite)?;
        let root = &folder.root;
        std::fs::create_dir_all(root).map_err(TrainError::io(root))?;
        // Only what a run writes is removed: other files in the folder are the user's.
        for name in ["checkpoints", "predictions", "adapter", "tensorboard", Self::STRATEGIES] {
            let path = folder.path(name);
            if path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
            }
        }
        for name in Self::FILES {
            let path = folder.path(name);
            if path.is_file() {
                std::fs::remove_file(&path).map_err(TrainError::io(&path))?;
            }
        }
        Ok(folder)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Where the best weights lie.
    pub(crate) fn best_weights(&self) -> Result<PathBuf, TrainError> {
        let folder = self.checkpoints().join("best");
        std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
        Ok(folder.join("model.safetensors"))
    }

    /// Bytes of the log so far.
    pub(crate) fn log_length(&self) -> u64 {
        std::fs::metadata(self.path(Self::LOG)).map_or(0, |metadata| metadata.len())
    }

    /// Reads what was written as JSON; none if it was not written.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TrainError> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| TrainError::run_folder(&path, error.to_string()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainError::io(&path)(error)),
        }
    }

    /// Writes a value as indented JSON.
    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let path = self.path(name);
        let mut json = serde_json::to_vec_pretty(value)
            .map_err(|error| TrainError::io(&path)(std::io::Error::other(error)))?;
        json.push(b'\n');
        Ok(retune_checkpoint::write_atomic(&path, |file| file.write_all(&json))?)
    }
}

/// Writes every event to `log.jsonl` as it happens.
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    failure: Option<std::io::Error>,
}

impl LogFile {
    /// Opens the log, cut to `keep` bytes.
    pub(crate) fn open(folder: &RunFolder, keep: u64) -> Result<Self, TrainError> {
        let path = folder.path(RunFolder::LOG);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        file.set_len(keep).map_err(TrainError::io(&path))?;
        Ok(Self { file, path, failure: None })
    }

    /// The first failure to write, if any.
    pub(crate) fn check(&mut self) -> Result<(), TrainError> {
        match self.failure.take() {
            Some(error) => Err(TrainError::io(&self.path)(error)),
            None => Ok(()),
        }
    }
}

impl Listener for LogFile {
    fn on_event(&mut self, event: &Event) {
        let written = serde_json::to_vec(event).map_err(std::io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        });
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }
}
