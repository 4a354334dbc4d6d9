//! The sections of a recipe as types. What each key means is said once, in [`super::keys`].

use std::collections::BTreeMap;
use std::str::FromStr;

use retune_data::image::Interpolation;
use retune_models::{LoraConfig, LoraTarget};
use retune_nn::OptimizerKind;
use retune_tasks::ProblemType;
use retune_tasks::metrics::ThresholdGoal;
use serde::{Deserialize, Serialize};

/// `[model]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A folder or a hub id.
    pub name_or_path: String,
    /// Where to look next if the hub does not answer.
    pub mirrors: Vec<String>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Whether the backbone may lack weights in the checkpoint.
    pub allow_missing: bool,
    /// Whether the checkpoint may hold weights that the model has no place for.
    pub allow_unused: bool,
    /// The network of a bare image checkpoint.
    pub architecture: Option<String>,
    /// The labels of a bare image checkpoint's outputs, in order.
    pub labels: Option<Vec<String>>,
    /// Dropout before the classifier; the configuration's if unset.
    pub classifier_dropout: Option<f32>,
    /// The licence that the model card names; none if unset.
    pub license: Option<String>,
    /// The languages that the model card names.
    pub language: Option<OneOrMore>,
}

/// `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// The training file.
    pub train: Option<String>,
    /// The validation file.
    pub validation: Option<String>,
    /// The test file.
    pub test: Option<String>,
    /// The share of the training rows that becomes the validation split.
    pub validation_split: Option<f64>,
    /// A person's decisions about rows of the training file.
    pub review: Option<String>,
    /// The column of texts.
    pub text_column: Option<String>,
    /// The column of second texts, for pairs.
    pub text_pair_column: Option<String>,
    /// The column of pictures or of paths to them.
    pub image_column: Option<String>,
    /// The column of labels or numbers.
    pub label_column: Option<OneOrMore>,
    /// The character that joins several labels in one cell; found out if unset.
    pub label_separator: Option<char>,
    /// The column of names that the predictions carry.
    pub id_column: Option<String>,
    /// The column of groups that no split may cut through.
    pub group_column: Option<String>,
    /// The column of times by which the validation split is held out.
    pub time_column: Option<String>,
    /// The columns' names, for a file without a header.
    pub columns: Option<Vec<String>>,
    /// Whether the first row is a header; found out if unset.
    pub has_header: Option<bool>,
    /// The field separator; found out if unset.
    pub delimiter: Option<String>,
    /// The character encoding; found out if unset.
    pub encoding: Option<String>,
    /// The file format; by the file's name if unset.
    pub format: Option<String>,
    /// What to do with a row that cannot be read.
    pub on_bad_row: BadRowPolicy,
    /// What to do with a row without a label.
    pub missing_label: MissingPolicy,
    /// What empty cells of a column are filled with.
    pub fill_missing: BTreeMap<String, String>,
    /// Columns whose empty cells have their row left out.
    pub drop_missing: Vec<String>,
    /// The greatest number of tokens of a sample; the model's if unset.
    pub max_length: Option<usize>,
    /// What to do with a text that is longer.
    pub over_length: OverLength,
    /// Tokens that neighbouring windows share.
    pub stride: Option<usize>,
    /// Height and width of the network's input; the checkpoint's if unset.
    pub image_size: Option<usize>,
    /// The share of a scaled picture's shorter side that is kept in evaluation.
    pub crop_pct: Option<f64>,
    /// How pictures are scaled.
    pub interpolation: Option<Interpolation>,
    /// What pictures are converted to.
    pub channels: Option<Channels>,
    /// The mean of each channel.
    pub image_mean: Option<Vec<f32>>,
    /// The standard deviation of each channel.
    pub image_std: Option<Vec<f32>>,
    /// Threads that make pictures ready; as many as `train.threads` if unset.
    pub workers: Option<usize>,
}

/// What pictures are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// One channel.
    #[serde(alias = "gray")]
    Grey,
    /// Red, green and blue.
    Rgb,
    /// Red, green, blue and opacity.
    Rgba,
}

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// One name, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// `"label"`.
    One(String),
    /// `["toxic", "insult"]`.
    More(Vec<String>),
}

impl OneOrMore {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::More(names) => names,
        }
    }
}

impl From<Vec<String>> for OneOrMore {
    fn from(mut names: Vec<String>) -> Self {
        if names.len() == 1 { Self::One(names.remove(0)) } else { Self::More(names) }
    }
}

/// What to do with a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRowPolicy {
    /// Stop.
    #[default]
    Refuse,
    /// Leave it out and count it.
    Skip,
}

/// What to do with a row without a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Stop.
    #[default]
    Refuse,
    /// Leave it out and count it.
    Drop,
}

/// What to do with a text that is longer than the greatest length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// Keep the beginning.
    #[default]
    Truncate,
    /// Keep the end.
    Tail,
    /// Keep the beginning and the end.
    HeadTail,
    /// Cut into overlapping windows and average their logits.
    Window,
    /// Stop.
    Refuse,
}

/// `[task]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskSection {
    /// `auto`, `text-classification` or `image-classification`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of target; by the data if unset.
    pub problem_type: Option<ProblemType>,
    /// Probability that is spread evenly over all classes.
    pub label_smoothing: f32,
    /// The weight of each class in the loss.
    pub class_weights: ClassWeights,
    /// The exponent of the focal loss; 0 for plain cross-entropy.
    pub focal_gamma: f32,
    /// What decision thresholds are tuned for on the validation data.
    pub tune_thresholds: ThresholdTuning,
}

impl Default for TaskSection {
    fn default() -> Self {
        Self {
            kind: "auto".to_owned(),
            problem_type: None,
            label_smoothing: 0.0,
            class_weights: ClassWeights::default(),
            focal_gamma: 0.0,
            tune_thresholds: ThresholdTuning::default(),
        }
    }
}

/// What decision thresholds are tuned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdTuning {
    /// They are not: a label is predicted from 0.5 on.
    #[default]
    None,
    /// F1.
    F1,
    /// Balanced accuracy.
    BalancedAccuracy,
}

impl ThresholdTuning {
    /// The goal, if there is one.
    pub(crate) fn goal(self) -> Option<ThresholdGoal> {
        match self {
            Self::None => None,
            Self::F1 => Some(ThresholdGoal::F1),
            Self::BalancedAccuracy => Some(ThresholdGoal::BalancedAccuracy),
        }
    }
}

/// The weight of each class in the loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "WrittenClassWeights", into = "WrittenClassWeights")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// Inversely proportional to the class's frequency, as in scikit-learn.
    Balanced,
    /// By label; a label that is not listed weighs 1.
    Table(BTreeMap<String, f64>),
}

/// A word or a table, as TOML has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenClassWeights {
    Rule(ClassWeightsRule),
    Table(BTreeMap<String, f64>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassWeightsRule {
    None,
    Balanced,
}

impl From<WrittenClassWeights> for ClassWeights {
    fn from(written: WrittenClassWeights) -> Self {
        match written {
            WrittenClassWeights::Rule(ClassWeightsRule::None) => Self::None,
            WrittenClassWeights::Rule(ClassWeightsRule::Balanced) => Self::Balanced,
            WrittenClassWeights::Table(weights) => Self::Table(weights),
        }
    }
}

impl From<ClassWeights> for WrittenClassWeights {
    fn from(weights: ClassWeights) -> Self {
        match weights {
            ClassWeights::None => Self::Rule(ClassWeightsRule::None),
            ClassWeights::Balanced => Self::Rule(ClassWeightsRule::Balanced),
            ClassWeights::Table(weights) => Self::Table(weights),
        }
    }
}

/// `[strategy]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrategySection {
    /// Which layer groups train, and when.
    pub method: Method,
    /// How many backbone groups train below the head (`last_n`).
    pub last_n: Option<usize>,
    /// Factor on the learning rate per layer group towards the input.
    pub learning_rate_decay: Option<f64>,
    /// Learning rates of the layer groups that match a pattern.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub group_learning_rates: BTreeMap<String, f64>,
    /// Epochs that the head trains alone (`fine_tune`).
    pub freeze_epochs: Option<u32>,
    /// The head's learning rate in the first stage (`fine_tune`).
    pub base_lr: Option<f64>,
    /// The epochs at which the next groups are unfrozen (`gradual`).
    pub gradual_epochs: Option<Vec<u32>>,
    /// Evaluations without improvement before the next groups are unfrozen (`gradual`).
    pub gradual_patience: Option<u32>,
    /// LoRA's rank.
    pub r: usize,
    /// LoRA's branch is scaled by `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Dropout on the LoRA branch's input.
    pub lora_dropout: f32,
    /// The layers that LoRA adapts; the family's usual ones if unset.
    pub target_modules: Option<LoraTarget>,
}

impl StrategySection {
    /// The adapters, if the method is LoRA.
    pub fn lora(&self) -> Option<LoraConfig> {
        (self.method == Method::Lora).then(|| LoraConfig {
            r: self.r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules: self.target_modules.clone(),
        })
    }
}

impl Default for StrategySection {
    fn default() -> Self {
        Self {
            method: Method::Full,
            last_n: None,
            learning_rate_decay: None,
            group_learning_rates: BTreeMap::new(),
            freeze_epochs: None,
            base_lr: None,
            gradual_epochs: None,
            gradual_patience: None,
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.05,
            target_modules: None,
        }
    }
}

/// The strategies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The head alone: feature extraction.
    Head,
    /// The head and the last `last_n` groups of the backbone.
    LastN,
    /// From the head downwards, stage by stage (Howard and Ruder 2018).
    Gradual,
    /// Everything from the first step.
    #[default]
    Full,
    /// Low-rank adapters and the head (Hu et al. 2021).
    Lora,
    /// The recipe's `[[stage]]` tables.
    Stages,
    /// fastai's `fine_tune`: the head, then everything at spread rates.
    FineTune,
    /// The one that a comparison before the first step chooses.
    Auto,
}

impl Method {
    /// The word that the recipe uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::LastN => "last_n",
            Self::Gradual => "gradual",
            Self::Full => "full",
            Self::Lora => "lora",
            Self::Stages => "stages",
            Self::FineTune => "fine_tune",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for Method {
    type Err = String;

    /// A strategy that can be run, by the word that the recipe uses.
    fn from_str(word: &str) -> Result<Self, String> {
        let known = [Self::Head, Self::LastN, Self::Gradual, Self::Full, Self::Lora, Self::FineTune];
        known.into_iter().find(|method| method.name() == word).ok_or_else(|| {
            let names = known.map(Self::name).join(", ");
            format!("\"{word}\" is no strategy that can be compared; there are {names}")
        })
    }
}

/// `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// The update rule.
    pub name: OptimizerKind,
    /// The base learning rate; [`super::Recipe::learning_rate`] resolves it.
    pub learning_rate: Option<LearningRate>,
    /// Weight decay on matrices.
    pub weight_decay: f64,
    /// The greatest global norm of the gradient; 0 turns clipping off.
    pub max_grad_norm: Option<f64>,
    /// Decay of the first moment (AdamW, Adam, Lion).
    pub adam_beta1: Option<f64>,
    /// Decay of the second moment (AdamW, Adam, Lion).
    pub adam_beta2: Option<f64>,
    /// Added to the denominator.
    pub adam_epsilon: Option<f64>,
    /// Momentum (SGD, RMSprop).
    pub momentum: Option<f64>,
    /// Nesterov's momentum (SGD).
    pub nesterov: Option<bool>,
    /// Decay of the squared average (RMSprop).
    pub alpha: Option<f64>,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            name: OptimizerKind::AdamW,
            learning_rate: None,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            adam_beta1: None,
            adam_beta2: None,
            adam_epsilon: None,
            momentum: None,
            nesterov: None,
            alpha: None,
        }
    }
}

/// A base learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LearningRate {
    /// This one.
    Value(f64),
    /// `"auto"`: the one that a search before the first step finds.
    Search(SearchWord),
}

/// The word that asks for a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchWord {
    /// `auto`.
    Auto,
}

/// `[schedule]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSection {
    /// The shape.
    pub name: ScheduleName,
    /// Share of the stage's steps over which the rate rises from 0.
    pub warmup_ratio: f64,
    /// Steps over which the rate rises from 0; wins over `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    /// Waves (cosine: 0.5) or hard restarts (cosine_with_restarts: 1).
    pub num_cycles: Option<f64>,
    /// Exponent of the polynomial (1).
    pub power: Option<f64>,
    /// Factor per step (exponential) or per `step_size` (step: 0.1).
    pub gamma: Option<f64>,
    /// Steps between two drops (step).
    pub step_size: Option<u64>,
    /// Where the polynomial ends, as a share of the learning rate (1e-7).
    pub lr_end: Option<f64>,
    /// Share of the steps that rise (slanted_triangular: 0.1).
    pub cut_frac: Option<f64>,
    /// How much smaller the lowest rate is than the highest (slanted_triangular: 32).
    pub ratio: Option<f64>,
    /// Share of the steps that rise (one_cycle: 0.3).
    pub pct_start: Option<f64>,
    /// How much smaller the first rate is than the highest (one_cycle: 25).
    pub div_factor: Option<f64>,
    /// How much smaller the last rate is than the first (one_cycle: 1e4).
    pub final_div_factor: Option<f64>,
    /// Evaluations without improvement that are tolerated (reduce_on_plateau: 10).
    pub patience: Option<u32>,
    /// What the rate is then multiplied by (reduce_on_plateau: 0.1).
    pub factor: Option<f64>,
}

/// The schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Constant after warm-up.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// Down to 0 in a line.
    #[default]
    Linear,
    /// Down to 0 in half a cosine wave (Loshchilov and Hutter 2017).
    Cosine,
    /// Cosine with hard restarts.
    CosineWithRestarts,
    /// Down to `lr_end` as a power.
    Polynomial,
    /// Times `gamma` per step.
    Exponential,
    /// Times `gamma` every `step_size` steps.
    Step,
    /// Up and down in cosines (Smith and Topin 2018).
    OneCycle,
    /// A short rise and a long fall (Howard and Ruder 2018).
    SlantedTriangular,
    /// Times `factor` when the metric stops improving.
    #[serde(alias = "reduce_lr_on_plateau")]
    ReduceOnPlateau,
}

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
    /// bfloat16 with f32 accumulation.
    Bf16,
    /// The fastest that the machine has.
    Auto,
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

/// One `[[stage]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageSection {
    /// What the log and the report call it.
    pub name: Option<String>,
    /// What trains: `all`, `head`, `last:N`, or patterns of layer-group names.
    pub train: Vec<String>,
    /// Passes over the training data.
    pub num_train_epochs: Option<f64>,
    /// Optimizer steps; wins over `num_train_epochs`.
    pub max_steps: Option<u64>,
    /// The base learning rate; `[optimizer]`'s if unset.
    pub learning_rate: Option<f64>,
    /// Factor per layer group towards the input; `[strategy]`'s if unset.
    pub learning_rate_decay: Option<f64>,
    /// Evaluations without improvement before the next stage begins; `[train]`'s if unset.
    pub early_stopping_patience: Option<u32>,
    /// The schedule; `[schedule]` if unset.
    pub schedule: Option<ScheduleSection>,
}
