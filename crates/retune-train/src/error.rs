//! What can stop a run.

use std::path::PathBuf;

use retune_checkpoint::CheckpointError;
use retune_data::DataError;
use retune_models::ModelError;
use retune_tasks::metrics::MetricsError;

use crate::recipe::RecipeError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A value of the recipe does not fit the model, the data or this machine.
    #[error("{0}")]
    Setting(String),
    /// The data is refused.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be built or loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The predictions cannot be measured.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The loss or a gradient is not a finite number. The weights are those before the step.
    #[error(
        "{what} is not finite at step {step}: stopped before the weights changed. The batch holds {samples}. Lower the \
         learning rate, set optimizer.max_grad_norm, or look at those samples"
    )]
    NotFinite {
        /// The loss, or the gradient of a parameter.
        what: String,
        /// The optimizer step.
        step: u64,
        /// The batch's samples by file and line.
        samples: String,
    },
    /// The run folder cannot be used.
    #[error("{}: {problem}", path.display())]
    RunFolder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file of the run folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn run_folder(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::RunFolder { path: path.into(), problem: problem.into() }
    }

    /// The exit code of the command line: 2 for a wrong recipe, 3 for refused data, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe(_) | Self::Setting(_) => 2,
            Self::Model(ModelError::LoraTarget { .. } | ModelError::LoraRank { .. }) => 2,
            Self::Data(error) if error.is_refusal() => 3,
            Self::Data(DataError::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => 1,
            Self::Data(_) => 2,
            _ => 1,
        }
    }
}
