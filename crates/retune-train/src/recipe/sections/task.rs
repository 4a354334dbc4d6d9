//! `[task]`: what is learned, and what the loss makes of it.

use std::collections::BTreeMap;

use retune_tasks::ProblemType;
use retune_tasks::metrics::ThresholdGoal;
use serde::{Deserialize, Serialize};

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
