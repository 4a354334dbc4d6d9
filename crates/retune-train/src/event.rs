//! Events: the one channel through which a run tells what happens. Console, `log.jsonl`, TensorBoard and a library
//! user's own hooks are listeners; the loop prints nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::forecast::ForecastComparison;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins.
    RunStarted(Box<RunStarted>),
    /// A run goes on from a checkpoint.
    RunResumed {
        /// The optimizer step it goes on from.
        step: u64,
        /// Planned optimizer steps.
        total_steps: u64,
    },
    /// A stage begins.
    StageEntered {
        /// Index of the stage, from 0.
        stage: usize,
        /// Its name.
        name: String,
        /// Optimizer steps made before it.
        step: u64,
        /// Epochs made before it.
        epoch: f64,
        /// Layer groups that train.
        trainable_groups: Vec<String>,
        /// Layer groups that do not.
        frozen_groups: Vec<String>,
        /// Values that train.
        trainable_parameters: usize,
        /// Values in all.
        total_parameters: usize,
    },
    /// Optimizer steps were made.
    StepEnded {
        /// Index of the stage.
        stage: usize,
        /// Optimizer steps made so far.
        step: u64,
        /// Epochs made so far.
        epoch: f64,
        /// Mean training loss since the last such event.
        loss: f64,
        /// Norm of all gradients before clipping, in the last step.
        grad_norm: f64,
        /// Learning rate of each trainable layer group in the last step.
        learning_rates: BTreeMap<String, f64>,
        /// Tokens since the last such event.
        tokens: u64,
        /// Samples since the last such event.
        samples: u64,
        /// Seconds since the last such event.
        seconds: f64,
    },
    /// A batch would have needed more memory than there is room for, and was split before it was computed.
    BatchSplit {
        /// Index of the stage.
        stage: usize,
        /// The optimizer step that it belongs to.
        step: u64,
        /// Its samples.
        samples: usize,
        /// Bytes that it would have needed beside weights, gradients and optimizer state.
        needed_bytes: u64,
        /// Into how many batches it was split.
        parts: usize,
    },
    /// A split was evaluated.
    EvalEnded {
        /// Index of the stage.
        stage: usize,
        /// Optimizer steps made so far.
        step: u64,
        /// Epochs made so far.
        epoch: f64,
        /// Which split.
        split: String,
        /// Metric values by name.
        metrics: Map<String, Value>,
        /// Seconds it took.
        seconds: f64,
    },
    /// The best model so far was kept.
    BestModel {
        /// Optimizer steps made so far.
        step: u64,
        /// The metric that judges.
        metric: String,
        /// Its value.
        value: f64,
    },
    /// What was computed below the deepest layer group that trains, and what was found there, since the last such event.
    FeaturesCached {
        /// Index of the stage.
        stage: usize,
        /// Optimizer steps made so far.
        step: u64,
        /// The layer group below which everything is frozen.
        below: String,
        /// Samples whose features were computed.
        computed: u64,
        /// Samples whose features were there.
        reused: u64,
        /// How many of those came from disk.
        from_disk: u64,
        /// Seconds that computing took.
        computed_seconds: f64,
        /// Seconds that computing the reused ones would have taken at the same rate, less those of looking up.
        saved_seconds: Option<f64>,
        /// Bytes of features in memory.
        memory_bytes: u64,
        /// Bytes of features on disk.
        disk_bytes: u64,
    },
    /// A search before the first step found a learning rate, which the run now has.
    LearningRateFound {
        /// The rate.
        learning_rate: f64,
        /// The lowest rate that was within noise of the best.
        low: f64,
        /// The highest such rate.
        high: f64,
        /// Optimizer steps that the search made, none of which the run kept.
        steps: u64,
        /// Seconds that it took.
        seconds: f64,
    },
    /// A checkpoint is on disk.
    CheckpointWritten {
        /// Optimizer steps it holds.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// Something the user should know.
    Warning {
        /// A stable name of the kind of warning.
        code: &'static str,
        /// What, and what to do.
        message: String,
    },
    /// Where something came from, or what is being tried.
    Note {
        /// The message.
        message: String,
    },
    /// What was predicted before the first step, beside what the run took.
    ForecastCompared(ForecastComparison),
    /// Training is over.
    RunEnded {
        /// Optimizer steps made.
        step: u64,
        /// Seconds of training and evaluation.
        seconds: f64,
        /// Why: `completed`, `early_stopping`, `interrupted`.
        reason: String,
    },
}

/// What [`Event::RunStarted`] says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunStarted {
    /// Seconds since 1970.
    pub time: u64,
    /// Version of Retune.
    pub version: String,
    /// The kernels' instruction set.
    pub isa: String,
    /// Worker threads.
    pub threads: usize,
    /// Model name or path.
    pub model: String,
    /// The task.
    pub task: String,
    /// Training samples.
    pub train_samples: usize,
    /// Validation samples.
    pub eval_samples: usize,
    /// Test samples.
    pub test_samples: usize,
    /// Planned optimizer steps.
    pub total_steps: u64,
    /// Values of the model.
    pub parameters: usize,
    /// The run's seed.
    pub seed: u64,
}

impl Event {
    /// A warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::Warning { code, message: message.into() }
    }

    /// A note.
    pub fn note(message: impl Into<String>) -> Self {
        Self::Note { message: message.into() }
    }
}

/// Hears what happens in a run.
pub trait Listener {
    /// Called for every event, in order, between steps.
    fn on_event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Listener for F {
    fn on_event(&mut self, event: &Event) {
        self(event);
    }
}
