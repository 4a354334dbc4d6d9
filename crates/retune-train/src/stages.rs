//! From a strategy to stages: which layer groups train when, for how long, and at which learning rates.
//!
//! Knows the recipe and the names of the layer groups; no model and no data.

mod lengths;
mod pattern;

use retune_nn::LayerGroup;

use crate::recipe::{Method, Recipe, RecipeError, ScheduleName, ScheduleSection, StageTarget};
use lengths::{Length, divide, equal_epochs};
use pattern::{matches, no_such_group};

/// A span of training with one fixed set of trainable layer groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What the log and the report call it.
    pub name: String,
    /// Whether each layer group trains, in depth order; the head is the last.
    pub trainable_groups: Vec<bool>,
    /// Whether of the backbone's groups only the adapters train (`lora`).
    pub adapters_only: bool,
    /// Its greatest length in passes over the training data, unless `max_steps` is set.
    pub epochs: f64,
    /// Its greatest length in optimizer steps; goes before `epochs`.
    pub max_steps: Option<u64>,
    /// The base learning rate of each layer group; 0 for those that do not train.
    pub learning_rates: Vec<f64>,
    /// Its schedule, which spans its greatest length.
    pub schedule: ScheduleSection,
    /// Evaluations without improvement after which the stage ends.
    pub early_stopping_patience: Option<u32>,
    /// Height and width of the pictures it trains on, if they are not those of evaluation.
    pub image_size: Option<usize>,
}

/// The stages of a recipe on a model with these layer groups (depth order, the head last).
///
/// - `head`, `last_n`, `full`, `lora`: one stage.
/// - `gradual` (Howard and Ruder 2018, section 3.3): the head, then further groups from the top, until the last stage
///   trains everything. With `gradual_epochs` there is a stage from each of those epochs on; else there are as many
///   stages as whole epochs, at least two, at most one per group, of equal length (the later ones longer if it does
///   not divide). Where there are fewer stages than groups, several groups join at a time, spread evenly.
/// - `fine_tune` (fastai's `Learner.fine_tune`): the head for `freeze_epochs` at `base_lr`, then everything for
///   `num_train_epochs`, from `base_lr / 2` for the head down to a hundredth of that in geometric steps.
/// - `stages`: the recipe's `[[stage]]` tables. Those without a length share what the others leave of `[train]`'s.
///
/// Except in `fine_tune`, a group's rate is the base rate times `learning_rate_decay` for each group between it and the
/// head's end; `group_learning_rates` go before.
///
/// # Errors
/// If the recipe names a layer group that is not there, trains more groups than there are, leaves a stage without
/// length, or never trains the head.
pub fn plan_stages(recipe: &Recipe, groups: &[LayerGroup]) -> Result<Vec<Stage>, RecipeError> {
    if groups.is_empty() {
        return Err(recipe.error("model.name_or_path", "the model has no layer groups"));
    }
    let planner = Planner { recipe, groups };
    for pattern in recipe.strategy.group_learning_rates.keys() {
        if !groups.iter().any(|group| matches(pattern, &group.name)) {
            let path = format!("strategy.group_learning_rates.{pattern}");
            return Err(recipe.error(&path, no_such_group(groups)));
        }
    }
    Ok(match recipe.strategy.method {
        Method::Head => planner.single("head", &planner.top(1)),
        Method::LastN => planner.last_n()?,
        Method::Full => planner.single("all", &planner.top(groups.len())),
        Method::Lora => {
            let mut stages = planner.single("lora", &planner.top(groups.len()));
            stages.iter_mut().for_each(|stage| stage.adapters_only = true);
            stages
        }
        Method::Gradual => planner.gradual()?,
        Method::FineTune => planner.fine_tune(),
        Method::Stages => planner.explicit()?,
        Method::Auto => {
            let problem = "\"auto\" is decided by `retune fit` when it begins; see what it would choose with `retune \
                           compare-strategies`, or name a method";
            return Err(recipe.error("strategy.method", problem));
        }
    })
}

struct Planner<'a> {
    recipe: &'a Recipe,
    groups: &'a [LayerGroup],
}

impl Planner<'_> {
    /// The head and the groups next to it, `count` in all.
    fn top(&self, count: usize) -> Vec<bool> {
        (0..self.groups.len()).map(|group| group + count >= self.groups.len()).collect()
    }

    fn decay(&self) -> f64 {
        self.recipe.strategy.learning_rate_decay.unwrap_or(1.0)
    }

    /// The rates of the groups that train: explicit, else by distance from the head.
    fn rates(&self, trainable: &[bool], by_distance: impl Fn(usize) -> f64) -> Vec<f64> {
        let last = self.groups.len() - 1;
        let rate = |(group, &trains): (usize, &bool)| match trains {
            false => 0.0,
            true => self.explicit_rate(&self.groups[group].name).unwrap_or_else(|| by_distance(last - group)),
        };
        trainable.iter().enumerate().map(rate).collect()
    }

    /// The exact name's rate, else the longest matching pattern's.
    fn explicit_rate(&self, group: &str) -> Option<f64> {
        let rates = &self.recipe.strategy.group_learning_rates;
        let by_pattern = || {
            let fitting = rates.iter().filter(|(pattern, _)| matches(pattern, group));
            fitting.max_by_key(|(pattern, _)| pattern.len()).map(|(_, &rate)| rate)
        };
        rates.get(group).copied().or_else(by_pattern)
    }

    /// A stage with the recipe's own schedule and patience.
    fn stage(&self, name: &str, trainable: &[bool], length: Length) -> Stage {
        let (base, decay) = (self.recipe.learning_rate(), self.decay());
        Stage {
            name: name.to_owned(),
            trainable_groups: trainable.to_vec(),
            adapters_only: false,
            epochs: length.epochs,
            max_steps: length.max_steps,
            learning_rates: self.rates(trainable, |distance| base * decay.powf(distance as f64)),
            schedule: self.recipe.schedule.clone(),
            early_stopping_patience: self.recipe.train.early_stopping_patience,
            image_size: None,
        }
    }

    fn single(&self, name: &str, trainable: &[bool]) -> Vec<Stage> {
        let train = &self.recipe.train;
        vec![self.stage(
            name,
            trainable,
            Length { epochs: train.num_train_epochs, max_steps: train.max_steps },
        )]
    }

    fn last_n(&self) -> Result<Vec<Stage>, RecipeError> {
        let backbone = self.groups.len() - 1;
        let count = self.recipe.strategy.last_n.unwrap_or(0);
        if count > backbone {
            let problem = format!("{count} is more than the {backbone} groups that the backbone has");
            return Err(self.recipe.error("strategy.last_n", problem));
        }
        let name = if count == 0 { "head".to_owned() } else { format!("head and last {count}") };
        Ok(self.single(&name, &self.top(count + 1)))
    }

    fn gradual(&self) -> Result<Vec<Stage>, RecipeError> {
        let (strategy, train) = (&self.recipe.strategy, &self.recipe.train);
        let backbone = self.groups.len() - 1;
        let epochs = match &strategy.gradual_epochs {
            Some(unfreezings) if unfreezings.len() > backbone => {
                let problem = format!(
                    "unfreezes {} times, but the backbone has only {backbone} groups",
                    unfreezings.len()
                );
                return Err(self.recipe.error("strategy.gradual_epochs", problem));
            }
            Some(unfreezings) => {
                let starts = std::iter::once(0.0).chain(unfreezings.iter().map(|&epoch| f64::from(epoch)));
                let ends = unfreezings.iter().map(|&epoch| f64::from(epoch)).chain([train.num_train_epochs]);
                starts.zip(ends).map(|(start, end)| end - start).collect()
            }
            None => {
                let most = train.max_steps.unwrap_or(u64::MAX).min(self.groups.len() as u64) as usize;
                let count = (train.num_train_epochs as usize).max(2).min(most).max(1);
                equal_epochs(train.num_train_epochs, count)
            }
        };
        let unfreezings = epochs.len() - 1;
        let lengths = divide(&epochs, train.max_steps);
        let stages = lengths.into_iter().enumerate().map(|(index, length)| {
            // Rounded to the nearest, so that the groups join evenly; everything in the last stage.
            let unfrozen = if index == unfreezings {
                backbone
            } else {
                (2 * backbone * index + unfreezings) / (2 * unfreezings)
            };
            let name = match backbone - unfrozen {
                0 => "all".to_owned(),
                deepest if unfrozen > 0 => format!("from {}", self.groups[deepest].name),
                _ => "head".to_owned(),
            };
            let mut stage = self.stage(&name, &self.top(unfrozen + 1), length);
            if index < unfreezings {
                stage.early_stopping_patience = strategy.gradual_patience.or(stage.early_stopping_patience);
            }
            stage
        });
        Ok(stages.collect())
    }

    fn fine_tune(&self) -> Vec<Stage> {
        /// The lowest group's rate is this much smaller than the head's: fastai's `lr_mult`.
        const SPREAD: f64 = 100.0;
        let (strategy, train) = (&self.recipe.strategy, &self.recipe.train);
        let base = strategy.base_lr.unwrap_or(10.0 * self.recipe.learning_rate());
        let lengths = divide(
            &[f64::from(strategy.freeze_epochs.unwrap_or(1)), train.num_train_epochs],
            train.max_steps,
        );
        let all = self.groups.len();
        let backbone = (all - 1).max(1) as f64;
        let mut stages = Vec::new();
        for ((name, count, highest, pct_start, div_factor), length) in
            [("head", 1, base, 0.99, 25.0), ("all", all, base / 2.0, 0.3, 5.0)].into_iter().zip(lengths)
        {
            if length.epochs <= 0.0 || length.max_steps == Some(0) {
                continue;
            }
            let mut stage = self.stage(name, &self.top(count), length);
            stage.learning_rates =
                self.rates(&stage.trainable_groups, |distance| match strategy.learning_rate_decay {
                    Some(decay) => highest * decay.powf(distance as f64),
                    None => highest * SPREAD.powf(-(distance as f64) / backbone),
                });
            if stage.schedule.name == ScheduleName::OneCycle {
                fill_one_cycle(&mut stage.schedule, pct_start, div_factor);
            }
            stages.push(stage);
        }
        stages
    }

    fn explicit(&self) -> Result<Vec<Stage>, RecipeError> {
        let lengths = lengths::of_explicit_stages(self.recipe)?;
        let mut stages = Vec::new();
        for (index, (section, length)) in self.recipe.stage.iter().zip(lengths).enumerate() {
            let trainable = self.targets(index, &section.train)?;
            let name = section.name.clone().unwrap_or_else(|| format!("stage {}", index + 1));
            let mut stage = self.stage(&name, &trainable, length);
            let base = section.learning_rate.unwrap_or_else(|| self.recipe.learning_rate());
            let decay = section.learning_rate_decay.unwrap_or_else(|| self.decay());
            stage.learning_rates = self.rates(&trainable, |distance| base * decay.powf(distance as f64));
            if let Some(schedule) = &section.schedule {
                stage.schedule = schedule.clone();
            }
            stage.early_stopping_patience = section.early_stopping_patience.or(stage.early_stopping_patience);
            if let Some(size) = section.image_size {
                stage.name = format!("{name}, {size} pixels");
            }
            stage.image_size = section.image_size;
            stages.push(stage);
        }
        if !stages.iter().any(|stage| stage.trainable_groups.last() == Some(&true)) {
            let problem = "no stage trains the head; write \"head\" or \"all\" in one of them";
            return Err(self.recipe.error("stage", problem));
        }
        Ok(stages)
    }

    /// The groups that the targets of one `[[stage]]` name.
    fn targets(&self, stage: usize, targets: &[String]) -> Result<Vec<bool>, RecipeError> {
        let path = format!("stage.{stage}.train");
        let mut trainable = vec![false; self.groups.len()];
        for written in targets {
            let chosen = match StageTarget::parse(written)
                .map_err(|problem| self.recipe.error(&path, problem))?
            {
                StageTarget::All => self.top(self.groups.len()),
                StageTarget::Head => self.top(1),
                StageTarget::Last(count) if count < self.groups.len() => self.top(count + 1),
                StageTarget::Last(count) => {
                    let backbone = self.groups.len() - 1;
                    let problem = format!("{count} is more than the {backbone} groups that the backbone has");
                    return Err(self.recipe.error(&path, problem));
                }
                StageTarget::Pattern(pattern) => {
                    self.groups.iter().map(|group| matches(&pattern, &group.name)).collect()
                }
            };
            if !chosen.contains(&true) {
                return Err(self
                    .recipe
                    .error(&path, format!("\"{written}\" {}", no_such_group(self.groups))));
            }
            trainable.iter_mut().zip(chosen).for_each(|(trains, chosen)| *trains |= chosen);
        }
        Ok(trainable)
    }
}

/// fastai's constants for what the recipe leaves open: the end is 1e5 below the peak, however low the start.
fn fill_one_cycle(schedule: &mut ScheduleSection, pct_start: f64, div_factor: f64) {
    let first = *schedule.div_factor.get_or_insert(div_factor);
    schedule.pct_start.get_or_insert(pct_start);
    schedule.final_div_factor.get_or_insert((1e5 / first).max(1.0));
}

#[cfg(test)]
mod tests;
