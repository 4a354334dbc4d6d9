//! The recipe: the user's TOML file as types.
//!
//! Names are Hugging Face's. Every field is documented in [`keys`], from which `docs/recipe.md` is made; reading, with
//! its errors by line, is in [`parse`]. Nothing here opens a data file or knows a model.

mod augmentation;
mod check;
mod error;
pub mod keys;
mod overrides;
pub mod parse;
mod places;
mod reference;
mod sections;
mod stage_target;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use augmentation::{AugmentationSection, TestTime};
pub use error::RecipeError;
pub use places::Places;
pub use reference::render_reference;
pub use sections::{
    BadRowPolicy, Channels, ClassWeights, DataSection, FeatureCacheMode, LearningRate, Method, MissingPolicy,
    ModelSection, NearCopies, OneOrMore, OptimizerSection, OverLength, Precision, Sampling, ScheduleName,
    ScheduleSection, SearchWord, StageSection, StrategySection, TaskSection, ThresholdTuning, TokenCacheMode,
    TrainSection,
};
pub(crate) use stage_target::StageTarget;

/// A recipe. Serialized as TOML it is `recipe.lock.toml`; options that are not set are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// `[model]`: the checkpoint to start from.
    pub model: ModelSection,
    /// `[data]`: files, columns, and what to do with rows that do not fit.
    pub data: DataSection,
    /// `[augmentation]`: random views of training pictures.
    #[serde(skip_serializing_if = "AugmentationSection::is_default")]
    pub augmentation: AugmentationSection,
    /// `[task]`: what is learned.
    pub task: TaskSection,
    /// `[strategy]`: what trains, when, at which share of the learning rate.
    pub strategy: StrategySection,
    /// `[optimizer]`: the update rule.
    pub optimizer: OptimizerSection,
    /// `[schedule]`: the learning rate over a stage.
    pub schedule: ScheduleSection,
    /// `[train]`: lengths, batches, evaluation, saving.
    pub train: TrainSection,
    /// `[[stage]]`: the explicit list of stages of `method = "stages"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<StageSection>,
    /// Where each key was set, for messages. Not part of the recipe.
    #[serde(skip)]
    pub places: Places,
}

impl Recipe {
    /// An error about a key, given by its path (`train.precision`), at the line or override that set it.
    pub fn error(&self, path: &str, problem: impl Into<String>) -> RecipeError {
        RecipeError::Value { place: self.places.of(path), key: keys::spoken(path), problem: problem.into() }
    }

    /// The base learning rate: the recipe's, else the usual one for the method and the optimizer, which is also where a
    /// search begins.
    ///
    /// For AdamW, Adam, RMSprop and Adafactor: `full`, `last_n`, `stages` and `fine_tune` 5e-5, `gradual` 1e-4, `lora`
    /// 3e-4, `head` 1e-3. Lion's steps are signs and its authors advise a rate 3 to 10 times smaller: a fifth. SGD's
    /// steps shrink with the gradient: a hundred times as much.
    pub fn learning_rate(&self) -> f64 {
        use retune_nn::OptimizerKind::{Adafactor, Adam, AdamW, Lion, RmsProp, Sgd};
        let by_method = match self.strategy.method {
            Method::Full | Method::LastN | Method::Stages | Method::FineTune | Method::Auto => 5e-5,
            Method::Gradual => 1e-4,
            Method::Lora => 3e-4,
            Method::Head => 1e-3,
        };
        let by_optimizer = match self.optimizer.name {
            AdamW | Adam | RmsProp | Adafactor => 1.0,
            Lion => 0.2,
            Sgd => 100.0,
        };
        match self.optimizer.learning_rate {
            Some(LearningRate::Value(rate)) => rate,
            Some(LearningRate::Search(_)) | None => by_method * by_optimizer,
        }
    }

    /// Whether the learning rate is to be searched for.
    pub fn searches_learning_rate(&self) -> bool {
        matches!(self.optimizer.learning_rate, Some(LearningRate::Search(_)))
    }

    /// Takes `data.train`, `data.validation`, `data.test` and the model's folder relative to the recipe's folder where
    /// they exist there; else they stay as written, relative to the working directory. `output_dir` always is.
    pub fn resolve_paths(&mut self, recipe_directory: &Path) {
        let resolve = |path: &mut String| {
            let there = recipe_directory.join(path.as_str());
            if !path.is_empty() && there.exists() {
                *path = there.to_string_lossy().into_owned();
            }
        };
        let data = &mut self.data;
        let files = [&mut data.train, &mut data.validation, &mut data.test, &mut data.review];
        for path in files.into_iter().chain([&mut self.augmentation.paraphrases]).flatten() {
            resolve(path);
        }
        resolve(&mut self.model.name_or_path);
    }

    /// The recipe as TOML without what is a default.
    ///
    /// # Errors
    /// As [`Recipe::to_toml`].
    pub fn to_short_toml(&self) -> Result<String, RecipeError> {
        let parse = |text: String| text.parse::<toml::Table>().unwrap_or_default();
        let (mut table, defaults) = (parse(self.to_toml()?), parse(Self::default().to_toml()?));
        for (name, section) in &mut table {
            let (Some(section), Some(default)) =
                (section.as_table_mut(), defaults.get(name).and_then(toml::Value::as_table))
            else {
                continue;
            };
            section.retain(|key, value| default.get(key) != Some(value));
        }
        table.retain(|_, section| section.as_table().is_none_or(|section| !section.is_empty()));
        Ok(table.to_string())
    }

    /// The recipe as TOML, as `recipe.lock.toml` has it.
    ///
    /// # Errors
    /// If a number does not fit TOML's (an integer above 2⁶³ − 1, possible only for a recipe made in code).
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        toml::to_string(self).map_err(|error| RecipeError::Unwritable { reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests;
