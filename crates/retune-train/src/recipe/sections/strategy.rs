//! `[strategy]` and `[[stage]]`: what trains, when, at which share of the learning rate.

use std::collections::BTreeMap;
use std::str::FromStr;

use retune_models::{LoraConfig, LoraTarget};
use serde::{Deserialize, Serialize};

use super::ScheduleSection;

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
    /// Height and width of the pictures it trains on; those of evaluation if unset.
    pub image_size: Option<usize>,
    /// Evaluations without improvement before the next stage begins; `[train]`'s if unset.
    pub early_stopping_patience: Option<u32>,
    /// The schedule; `[schedule]` if unset.
    pub schedule: Option<ScheduleSection>,
}
