//! What the loop trains, whatever its modality.

use retune_autograd::Var;
use retune_data::Target;
use retune_nn::Forward;
use serde::{Deserialize, Serialize};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What stages, stopping and the best model are judged on.
    Validation,
    /// What the final result is measured on, once.
    Test,
}

impl Split {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The prefix of its keys in `metrics.json`.
    pub fn metric_prefix(self) -> &'static str {
        match self {
            Self::Train => "train_",
            Self::Validation => "eval_",
            Self::Test => "test_",
        }
    }
}

/// A model with encoded data: all that the loop needs to know of a modality.
pub trait Trainee: Send + Sync {
    /// Samples of a split; 0 if there is no such split.
    fn samples(&self, split: Split) -> usize;

    /// The size of a sample in the modality's unit (tokens), for batches of like lengths and throughput.
    fn length(&self, split: Split, sample: u32) -> u32;

    /// What a sample should be answered with.
    fn target(&self, split: Split, sample: u32) -> &Target;

    /// Where a sample comes from, as `file:line`.
    fn origin(&self, split: Split, sample: u32) -> String;

    /// Logits [samples, outputs]. `first_occurrence` is the place of the first of them in the step's effective batch,
    /// which keys their randomness.
    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var;
}
