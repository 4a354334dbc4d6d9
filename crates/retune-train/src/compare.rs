//! Which strategy, which depth, which checkpoint: decided on validation data, with as little training as that takes.
//!
//! First the features of the frozen backbone are scored at every cut. Then the strategies run under one budget, those that
//! fall behind are dropped early (successive halving: Jamieson and Talwalkar 2016, <https://arxiv.org/abs/1502.07943>; not
//! before their last stage), and the rest end as whole runs in folders of their own. Test data is never read.

mod arm;
mod choice;
mod cuts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::TrainError;
use crate::event::Event;
use crate::features::FeatureCache;
use crate::fit::FitOptions;
use crate::plan::{stage_steps, steps_per_epoch};
use crate::prepare::{Prepared, prepare};
use crate::recipe::{LearningRate, Method, Recipe, SearchWord};
use crate::trainee::{Split, Trainee};
use arm::Arm;
pub use choice::{Choice, StrategyResult};
pub use cuts::CutScore;

/// What is compared, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareOptions {
    /// The strategies; those that the modality has if empty.
    pub methods: Vec<Method>,
    /// The checkpoints, of which the one with the best features is trained; the recipe's own if empty.
    pub models: Vec<String>,
    /// What a strategy may cost; the recipe's own length if `None`.
    pub budget: Option<Budget>,
    /// Seeds that each strategy runs with.
    pub seeds: usize,
    /// Whether each strategy searches for its learning rate; else it takes the method's usual one.
    pub search_rates: bool,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { methods: Vec::new(), models: Vec::new(), budget: None, seeds: 1, search_rates: true }
    }
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Optimizer steps of each strategy that is not dropped.
    Steps(u64),
    /// Seconds of the whole comparison: strategies that are not done by then are judged where they stand.
    Seconds(f64),
}

/// What was seen, and what was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StrategyComparison {
    /// Checkpoints with their features' scores, the best first.
    pub models: Vec<ModelScore>,
    /// The metric that judges.
    pub metric: String,
    /// Validation samples.
    pub samples: usize,
    /// Optimizer steps of a strategy that was not dropped.
    pub steps: u64,
    /// The strategies, the chosen one first, those that were dropped first last.
    pub strategies: Vec<StrategyResult>,
    /// Which one is chosen, and why.
    pub choice: Choice,
    /// Seconds of the comparison.
    pub seconds: f64,
    /// Seconds that whole runs of all strategies would have taken, at the pace that each was seen to have.
    pub seconds_of_whole_runs: f64,
}

/// A checkpoint that may be trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelScore {
    /// Its name or path.
    pub model: String,
    /// Its cuts, from the input to the head. Empty where nothing was scored.
    pub cuts: Vec<CutScore>,
}

impl ModelScore {
    /// The cut whose features classify best, by the linear probe, then by evidence.
    pub fn best_cut(&self) -> Option<&CutScore> {
        self.cuts.iter().max_by(|a, b| {
            a.linear_probe.total_cmp(&b.linear_probe).then(a.log_evidence.total_cmp(&b.log_evidence))
        })
    }
}

/// Strategies are judged after a quarter and after half of the budget.
const RUNGS: [u64; 3] = [2, 4, 8];
/// Evaluations over the budget; rungs are counted in them.
const EVALUATIONS: u64 = 8;

/// Compares strategies for a recipe, whose own strategy does not matter. Runs are written to `folder`, one for each
/// strategy and seed.
///
/// # Errors
/// If there is no validation data, a strategy is not available for the model, or a run fails. `Ok(None)` if a stop was asked
/// for.
pub fn compare_strategies(
    recipe: &Recipe,
    folder: &Path,
    options: &CompareOptions,
    fit_options: &FitOptions<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<Option<StrategyComparison>, TrainError> {
    let started = Instant::now();
    let base = base_recipe(recipe);
    let (models, prepared) = score_models(&base, options, fit_options, tell)?;
    let samples = prepared.trainee.samples(Split::Validation);
    let steps = total_steps(&prepared, options);
    let methods = methods(&prepared, options);
    let last_n = depth(&models[0], prepared.store.groups().len() - 1);
    let metric = prepared.recipe.train.metric_for_best_model.as_deref().unwrap_or_default();
    let metric = metric.strip_prefix("eval_").unwrap_or(metric).to_owned();
    let mut base = base;
    base.model.name_or_path.clone_from(&models[0].model);
    base.train.max_steps = Some(steps);
    base.train.eval_steps = Some(steps.div_ceil(EVALUATIONS));
    base.train.save_steps = Some(steps);
    base.strategy.gradual_epochs = None;
    drop(prepared);
    let deadline = match options.budget {
        Some(Budget::Seconds(seconds)) => Some((started, seconds)),
        _ => None,
    };
    let mut arms = methods
        .into_iter()
        .map(|method| {
            let last_n = (method == Method::LastN).then_some(last_n);
            Arm::new(&base, (method, last_n), folder, options, fit_options)
        })
        .collect::<Result<Vec<Arm>, TrainError>>()?;
    let mut kept = arms.len();
    for (rung, evaluations) in RUNGS.into_iter().enumerate() {
        let target = (base.train.eval_steps.unwrap_or(1) * evaluations).min(steps);
        for arm in &mut arms[..kept] {
            if !arm.advance(target, deadline, fit_options)? {
                return Ok(None);
            }
            tell(&arm.standing(&metric, target, steps));
        }
        arms[..kept].sort_by(Arm::order);
        if rung + 1 < RUNGS.len() && kept > 2 {
            // Of what has stages to come the best is not known yet; of the rest at least one goes on.
            arms[..kept].sort_by_key(|arm| !arm.has_stages_to_come());
            let unknown = arms[..kept].iter().filter(|arm| arm.has_stages_to_come()).count();
            let left = kept.div_ceil(2).max(unknown + 1).min(kept);
            for arm in &mut arms[left..kept] {
                arm.dropped_at = Some(target);
                tell(&format!("{} is dropped", arm.name()));
            }
            kept = left;
        }
    }
    let results: Vec<StrategyResult> =
        arms.iter().map(|arm| arm.result(&metric)).collect::<Result<_, TrainError>>()?;
    let seconds_of_whole_runs = arms.iter().map(|arm| arm.seconds_of_whole_run(steps)).sum();
    let (strategies, choice) = choice::choose(results, &arms, &metric)?;
    Ok(Some(StrategyComparison {
        models,
        metric,
        samples,
        steps,
        strategies,
        choice,
        seconds: started.elapsed().as_secs_f64(),
        seconds_of_whole_runs,
    }))
}

/// The recipe without what belongs to one strategy, and without test data.
fn base_recipe(recipe: &Recipe) -> Recipe {
    let mut base = recipe.clone();
    let default = Recipe::default();
    base.data.test = None;
    base.stage.clear();
    base.strategy.method = Method::Head;
    base.strategy.last_n = None;
    base.strategy.freeze_epochs = None;
    base.strategy.base_lr = None;
    base.strategy.gradual_epochs = None;
    base.strategy.gradual_patience = None;
    base.strategy.target_modules = None;
    base.strategy.group_learning_rates.clear();
    base.optimizer.learning_rate = None;
    base.train.average_checkpoints = None;
    base.train.early_stopping_patience = None;
    base.train.tensorboard = default.train.tensorboard;
    base.train.record_dynamics = default.train.record_dynamics;
    base
}

/// Scores the candidates' features, the best first, and gives what the best is prepared as.
fn score_models(
    base: &Recipe,
    options: &CompareOptions,
    fit_options: &FitOptions<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<(Vec<ModelScore>, Prepared), TrainError> {
    let names = match options.models.as_slice() {
        [] => std::slice::from_ref(&base.model.name_or_path),
        names => names,
    };
    let mut best: Option<(f64, Prepared)> = None;
    let mut scored: Vec<(f64, ModelScore)> = Vec::new();
    for name in names {
        let mut recipe = base.clone();
        recipe.model.name_or_path.clone_from(name);
        let mut note = |event: Event| {
            if let Event::Note { message } | Event::Warning { message, .. } = &event {
                tell(message);
            }
        };
        let prepared = prepare(&recipe, &fit_options.prepare, &mut note)?;
        if prepared.trainee.samples(Split::Validation) == 0 {
            return Err(TrainError::Setting(
                "strategies are compared on validation data, and there is none; set data.validation or \
                 data.validation_split"
                    .to_owned(),
            ));
        }
        let features = Arc::new(FeatureCache::new(&recipe, &fit_options.prepare.resolve.cache_dir));
        let cuts = cuts::score_cuts(&prepared, &features)?;
        features.finish();
        let score = ModelScore { model: name.clone(), cuts };
        let value = score.best_cut().map_or(f64::NEG_INFINITY, |cut| cut.linear_probe);
        if best.as_ref().is_none_or(|(best, _)| value > *best) {
            best = Some((value, prepared));
        }
        scored.push((value, score));
    }
    if scored.len() > 1 && scored.iter().all(|(_, score)| score.cuts.is_empty()) {
        return Err(TrainError::Setting(
            "checkpoints are ranked by their features at a cut, which these models do not have; compare them one by one"
                .to_owned(),
        ));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let Some((_, prepared)) = best else {
        return Err(TrainError::Setting("there is no model to compare strategies on".to_owned()));
    };
    Ok((scored.into_iter().map(|(_, score)| score).collect(), prepared))
}

/// Optimizer steps of a whole run.
fn total_steps(prepared: &Prepared, options: &CompareOptions) -> u64 {
    let per_epoch = steps_per_epoch(&prepared.recipe, prepared.trainee.samples(Split::Train));
    match options.budget {
        Some(Budget::Steps(steps)) => steps.max(EVALUATIONS),
        _ => prepared.stages.iter().map(|stage| stage_steps(stage, per_epoch)).sum::<u64>().max(EVALUATIONS),
    }
}

fn methods(prepared: &Prepared, options: &CompareOptions) -> Vec<Method> {
    let is_text = prepared.trainee.text().is_some();
    match options.methods.as_slice() {
        [] => [Method::Head, Method::LastN, Method::Gradual, Method::Full, Method::Lora]
            .into_iter()
            .filter(|method| is_text || *method != Method::Lora)
            .collect(),
        methods => methods.to_vec(),
    }
}

/// How many groups of the backbone `last_n` trains: those above the best cut, at least one and not all; a third of them
/// where nothing was scored.
fn depth(model: &ModelScore, backbone: usize) -> usize {
    let most = backbone.saturating_sub(1).max(1);
    model.best_cut().map_or(backbone.div_ceil(3), |cut| cut.last_n).clamp(1, most)
}

/// A strategy's recipe.
fn arm_recipe(base: &Recipe, (method, last_n): (Method, Option<usize>), search_rates: bool) -> Recipe {
    let mut recipe = base.clone();
    recipe.strategy.method = method;
    recipe.strategy.last_n = last_n;
    recipe.optimizer.learning_rate = search_rates.then_some(LearningRate::Search(SearchWord::Auto));
    recipe
}

/// Where the runs of a strategy and seed go.
fn arm_folder(folder: &Path, name: &str, seed: u64) -> PathBuf {
    folder.join(format!("{name}-seed-{seed}"))
}
