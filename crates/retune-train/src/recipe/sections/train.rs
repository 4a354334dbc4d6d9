//! `[train]`: lengths, batches, evaluation, saving.

use serde::{Deserialize, Serialize};

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the training data; may be fractional.
    pub num_train_epochs: f64,
    /// Optimizer steps; wins over `num_train_epochs`.
    pub max_steps: Option<u64>,
    /// Samples per training batch; [`TrainSection::AUTO`] until preparation has chosen.
    #[serde(with = "auto_batch_size")]
    pub per_device_train_batch_size: usize,
    /// Samples per evaluation batch.
    pub per_device_eval_batch_size: usize,
    /// Batches per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Samples per optimizer step, where the batch size is chosen.
    pub total_train_batch_size: Option<usize>,
    /// Bytes that the process may hold; what the machine has left if unset.
    pub max_memory_bytes: Option<u64>,
    /// Bytes of tensors that a batch's forward and backward may take; a larger one is split.
    pub max_step_bytes: Option<u64>,
    /// The numbers that are computed with.
    pub precision: Precision,
    /// Steps between evaluations; every epoch if unset.
    pub eval_steps: Option<u64>,
    /// Steps between log lines.
    pub logging_steps: u64,
    /// Steps between checkpoints; every epoch if unset.
    pub save_steps: Option<u64>,
    /// Checkpoints that are kept.
    pub save_total_limit: Option<usize>,
    /// Whether the artifact is the best model rather than the last.
    pub load_best_model_at_end: bool,
    /// The metric that says which model is best; the task's if unset.
    pub metric_for_best_model: Option<String>,
    /// The metric's direction; its own if unset.
    pub greater_is_better: Option<bool>,
    /// Evaluations without improvement before training stops.
    pub early_stopping_patience: Option<u32>,
    /// What the metric must gain to count as improved.
    pub early_stopping_threshold: f64,
    /// Whether texts of like length share a batch.
    pub group_by_length: bool,
    /// How often each training row is drawn.
    pub sampling: Sampling,
    /// Whether blocks recompute their activations in backward.
    pub gradient_checkpointing: bool,
    /// Where the features below the deepest layer group that trains are kept.
    pub feature_cache: FeatureCacheMode,
    /// Bytes of features in memory at most.
    pub feature_cache_bytes: u64,
    /// Bytes of features on disk at most, those of other runs included.
    pub feature_cache_disk_bytes: u64,
    /// Decay of the weights' moving average; none if unset.
    pub ema_decay: Option<f64>,
    /// How many of the last checkpoints are averaged; none if unset.
    pub average_checkpoints: Option<usize>,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; the machine's cores if unset.
    pub threads: Option<usize>,
    /// The run folder.
    pub output_dir: String,
    /// Whether a run folder that exists may be replaced.
    pub overwrite_output_dir: bool,
    /// Whether TensorBoard event files are written.
    pub tensorboard: bool,
    /// Whether margins and forgetting events of every training sample are recorded.
    pub record_dynamics: bool,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 16,
            per_device_eval_batch_size: 32,
            gradient_accumulation_steps: 1,
            total_train_batch_size: None,
            max_memory_bytes: None,
            max_step_bytes: None,
            precision: Precision::F32,
            eval_steps: None,
            logging_steps: 10,
            save_steps: None,
            save_total_limit: Some(2),
            load_best_model_at_end: true,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            group_by_length: false,
            sampling: Sampling::default(),
            gradient_checkpointing: false,
            feature_cache: FeatureCacheMode::default(),
            feature_cache_bytes: 2 << 30,
            feature_cache_disk_bytes: 16 << 30,
            ema_decay: None,
            average_checkpoints: None,
            seed: 42,
            threads: None,
            output_dir: "runs/retune".to_owned(),
            overwrite_output_dir: false,
            tensorboard: false,
            record_dynamics: false,
        }
    }
}

impl TrainSection {
    /// The batch size that stands for `"auto"`.
    pub const AUTO: usize = 0;

    /// Samples of an optimizer step where the batch size is chosen.
    pub fn total_batch_size(&self) -> usize {
        self.total_train_batch_size.unwrap_or(Self::default().per_device_train_batch_size)
    }
}

/// A batch size, or the word `auto`.
mod auto_batch_size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::TrainSection;

    const WORD: &str = "auto";

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(usize),
        Word(String),
    }

    pub fn serialize<S: Serializer>(size: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        match *size {
            TrainSection::AUTO => serializer.serialize_str(WORD),
            size => serializer.serialize_u64(size as u64),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(size) => Ok(size),
            Written::Word(word) if word == WORD => Ok(TrainSection::AUTO),
            Written::Word(word) => Err(de::Error::custom(format!("\"{word}\" is no batch size"))),
        }
    }
}

/// The numbers that are computed with. Weights are always kept in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// Products of numbers rounded to bf16, summed in f32; what products read again in backward is kept in bf16.
    Bf16,
    /// What is right everywhere: f32.
    Auto,
}

impl Precision {
    /// What the operands of products are rounded to.
    pub fn of_products(self) -> retune_tensor::Precision {
        match self {
            Self::F32 | Self::Auto => retune_tensor::Precision::F32,
            Self::Bf16 => retune_tensor::Precision::Bf16,
        }
    }
}

/// How often each training row is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Once in every epoch.
    #[default]
    Uniform,
    /// So that every class comes equally often.
    Balanced,
}

/// Where features of frozen layer groups are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureCacheMode {
    /// In memory, and on disk for other runs.
    #[default]
    Auto,
    /// In memory alone.
    Memory,
    /// On disk alone.
    Disk,
    /// Nowhere: they are computed in every epoch.
    Off,
}
