//! What the loop trains, whatever its modality.

use retune_autograd::Var;
use retune_data::Target;
use retune_nn::{Forward, Randomness};
use serde::{Deserialize, Serialize};

use crate::TrainError;

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

/// A batch that will be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Fetch<'a> {
    /// The split.
    pub split: Split,
    /// Its samples.
    pub samples: &'a [u32],
    /// The place of the first of them in the step's effective batch.
    pub first_occurrence: u32,
    /// What the samples' randomness is keyed by; `None` in evaluation.
    pub randomness: Option<Randomness>,
}

impl<'a> Fetch<'a> {
    /// Training samples.
    pub fn training(samples: &'a [u32], first_occurrence: u32, randomness: Randomness) -> Self {
        Self { split: Split::Train, samples, first_occurrence, randomness: Some(randomness) }
    }

    /// Samples in evaluation.
    pub fn evaluation(split: Split, samples: &'a [u32]) -> Self {
        Self { split, samples, first_occurrence: 0, randomness: None }
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

    /// Makes the samples of a batch ready for [`logits`](Self::logits), and begins with those of the batch that comes
    /// next. A modality whose samples are in memory has nothing to do.
    ///
    /// # Errors
    /// If a sample cannot be read.
    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        let _ = (batch, next);
        Ok(())
    }

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
