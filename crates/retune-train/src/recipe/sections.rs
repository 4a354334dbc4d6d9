//! The sections of a recipe as types, a file for each table. What each key means is said once, in [`super::keys`].

mod data;
mod model;
mod optimization;
mod strategy;
mod task;
mod train;

use serde::{Deserialize, Serialize};

pub use data::{BadRowPolicy, Channels, DataSection, MissingPolicy, NearCopies, OverLength, TokenCacheMode};
pub use model::ModelSection;
pub use optimization::{LearningRate, OptimizerSection, ScheduleName, ScheduleSection, SearchWord};
pub use strategy::{Method, StageSection, StrategySection};
pub use task::{ClassWeights, TaskSection, ThresholdTuning};
pub use train::{FeatureCacheMode, Precision, Sampling, TrainSection};

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
