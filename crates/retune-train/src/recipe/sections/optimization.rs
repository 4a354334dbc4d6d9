//! `[optimizer]` and `[schedule]`: the update rule, and the learning rate over a stage.

use retune_nn::OptimizerKind;
use serde::{Deserialize, Serialize};

/// `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// The update rule.
    pub name: OptimizerKind,
    /// The base learning rate; [`crate::Recipe::learning_rate`] resolves it.
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
