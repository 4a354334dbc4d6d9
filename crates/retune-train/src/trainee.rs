//! What the loop trains, whatever its modality.

use retune_autograd::Var;
use retune_data::{AheadRequest, ReadAhead, Target};
use retune_nn::{Forward, Randomness};
use retune_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::stages::Stage;

/// Threads that make samples ready ahead of the step, with a message about the key that says how many there are.
pub(crate) fn read_ahead<R: AheadRequest, T: Send + 'static>(
    workers: usize,
    what: &str,
    make: impl Fn(&R) -> T + Send + Sync + 'static,
) -> Result<ReadAhead<R, T>, TrainError> {
    ReadAhead::new(workers, make).map_err(|source| {
        TrainError::Setting(format!("cannot start {workers} threads for {what} ({source}); set data.workers"))
    })
}

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

/// Whom a training sample was mixed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// The other's place in the batch; its own if it was not mixed.
    pub partner: usize,
    /// The share that is its own, and the weight of its own target.
    pub share: f32,
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

    /// Makes ready for a stage, in which training samples may look otherwise than in the one before.
    fn enter_stage(&self, stage: &Stage) {
        let _ = stage;
    }

    /// Makes the samples of a batch ready for [`logits`](Self::logits), and begins with those of the batch that comes
    /// next. A modality whose samples are in memory has nothing to do.
    ///
    /// # Errors
    /// If a sample cannot be read.
    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        let _ = (batch, next);
        Ok(())
    }

    /// Whom each sample of a training batch is mixed with in [`logits`](Self::logits), where samples are mixed.
    fn mixed(&self, batch: &Fetch<'_>) -> Option<Vec<Mixed>> {
        let _ = batch;
        None
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

    /// What a training step's loss is of: logits [samples, outputs], each with the share that its loss has. Those of
    /// [`logits`](Self::logits) come first with share 1, then those of auxiliary heads.
    fn trained_logits<'s>(&'s self, forward: &mut Forward<'s>, batch: SampleBatch<'_>) -> Vec<(Var, f32)> {
        vec![(self.logits(forward, batch.split, batch.samples, batch.first_occurrence), 1.0)]
    }

    /// How many different rows of its largest table the training data looks up; `None` where that is not known.
    fn rows_looked_up(&self) -> Option<usize> {
        None
    }

    /// How its path is cut, if it can be: then what a frozen prefix computes is kept and used again.
    fn cut(&self) -> Option<&dyn Cut> {
        None
    }
}

/// A hash of an encoded sample.
pub type SampleHash = [u8; 16];

/// A model whose path can be cut below a layer group (`cut` is the group's index). While nothing below a cut trains, a
/// sample's values there, its *features*, are a function of the sample alone.
pub trait Cut: Send + Sync {
    /// Whether the features of a split are worth keeping: a sample takes the same path below the cut each time, or one of
    /// few, and that path costs more than reading its end back. `is_training` says whether the samples are learned from
    /// or evaluated.
    fn is_worth_keeping(&self, split: Split, is_training: bool, cut: usize) -> bool;

    /// In how many ways a sample of the split is seen, each with features of its own: more than one where augmentation
    /// draws from a fixed set of views.
    fn views(&self, split: Split) -> usize {
        let _ = split;
        1
    }

    /// The number of values of a sample's features, as the run sees the split: training data in training, other data in
    /// evaluation.
    fn feature_len(&self, split: Split, sample: u32, cut: usize) -> usize;

    /// The width of a row of features: a sample's are one or several rows.
    fn feature_width(&self, cut: usize) -> usize;

    /// What the path depends on beside weights, instruction set and sample: the family and its sizes.
    fn signature(&self) -> String;

    /// A hash of all that goes in at the bottom: of the encoded sample, not of its row in a file, and of the view of it
    /// that the step with this randomness asks for (`None` in evaluation).
    fn sample_hash(&self, split: Split, sample: u32, randomness: Option<Randomness>) -> SampleHash;

    /// The features of samples, one sample after the other, in the view that the pass's randomness asks for. No sample's
    /// may depend on the others.
    fn features<'s>(&'s self, forward: &mut Forward<'s>, split: Split, samples: &[u32], cut: usize) -> Var;

    /// Logits [samples, outputs] from what [`features`](Self::features) gave, as a tensor of one axis; the same bits as
    /// [`Trainee::logits`].
    fn logits_from_features<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        features: &Tensor,
        samples: SampleBatch<'_>,
        cut: usize,
    ) -> Var;
}

/// Samples of a batch, with the place of the first in the step's effective batch.
#[derive(Clone, Copy, Debug)]
pub struct SampleBatch<'a> {
    /// The split they are of.
    pub split: Split,
    /// Their indices.
    pub samples: &'a [u32],
    /// The occurrence of the first, which keys their randomness.
    pub first_occurrence: u32,
}
