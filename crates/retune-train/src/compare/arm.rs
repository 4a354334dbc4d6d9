//! One strategy of a comparison: its runs, which stop at every rung and go on where they stopped.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::Instant;

use retune_tasks::metrics::{Interval, Metric};
use serde_json::{Map, Value};

use super::choice::StrategyResult;
use super::{CompareOptions, arm_folder, arm_recipe};
use crate::TrainError;
use crate::event::Event;
use crate::fit::{FitOptions, fit, resume};
use crate::plan::{measure_step, stage_steps, steps_per_epoch};
use crate::prepare::prepare;
use crate::recipe::{Method, Recipe};
use crate::trainee::{Split, Trainee};
use crate::trainer::{Outcome, StopFlag};

/// A strategy with its runs.
pub(super) struct Arm {
    pub method: Method,
    last_n: Option<usize>,
    runs: Vec<ArmRun>,
    /// The step after which its last stage begins.
    last_stage_begins: u64,
    /// Bytes of a step's memory, by the plan.
    memory_bytes: u64,
    trained_parameters: usize,
    artifact_bytes: u64,
    greater_is_better: bool,
    /// The step at which it was dropped.
    pub dropped_at: Option<u64>,
}

/// A run of a strategy.
struct ArmRun {
    recipe: Recipe,
    folder: PathBuf,
    steps: u64,
    seconds: f64,
    /// The best validation metric so far, with its loss.
    best: Option<(f64, f64)>,
    learning_rate: f64,
    metrics: Map<String, Value>,
    is_over: bool,
}

impl Arm {
    pub fn new(
        base: &Recipe,
        (method, last_n): (Method, Option<usize>),
        folder: &Path,
        options: &CompareOptions,
        fit_options: &FitOptions<'_>,
    ) -> Result<Self, TrainError> {
        let recipe = arm_recipe(base, (method, last_n), options.search_rates);
        let prepared = prepare(&recipe, &fit_options.prepare, &mut |_| {})?;
        let costs: Vec<_> = prepared.stages.iter().map(|stage| measure_step(&prepared, stage)).collect();
        let trained_parameters =
            costs.iter().map(|cost| (cost.gradient_bytes / 4) as usize).max().unwrap_or(0);
        let per_epoch = steps_per_epoch(&prepared.recipe, prepared.trainee.samples(Split::Train));
        let (_, earlier) = prepared.stages.split_last().unzip();
        let shipped = if method == Method::Lora { trained_parameters } else { prepared.store.elements() };
        let metric = prepared.recipe.train.metric_for_best_model.as_deref().unwrap_or_default();
        let metric = Metric::find(metric.strip_prefix("eval_").unwrap_or(metric));
        let greater_is_better =
            recipe.train.greater_is_better.unwrap_or(metric.is_some_and(|metric| metric.better(1.0, 0.0)));
        let runs = (0..options.seeds.max(1) as u64)
            .map(|index| {
                let mut recipe = recipe.clone();
                recipe.train.seed += index;
                let folder = arm_folder(folder, method.name(), recipe.train.seed);
                recipe.train.output_dir = folder.display().to_string();
                ArmRun {
                    learning_rate: recipe.learning_rate(),
                    recipe,
                    folder,
                    steps: 0,
                    seconds: 0.0,
                    best: None,
                    metrics: Map::new(),
                    is_over: false,
                }
            })
            .collect();
        Ok(Self {
            method,
            last_n,
            runs,
            last_stage_begins: earlier
                .unwrap_or_default()
                .iter()
                .map(|stage| stage_steps(stage, per_epoch))
                .sum(),
            memory_bytes: costs.iter().map(|cost| cost.bytes()).max().unwrap_or(0),
            trained_parameters,
            artifact_bytes: 4 * shipped as u64,
            greater_is_better,
            dropped_at: None,
        })
    }

    /// What a table calls it.
    pub fn name(&self) -> String {
        match self.last_n {
            Some(count) => format!("{} = {count}", self.method.name()),
            None => self.method.name().to_owned(),
        }
    }

    /// Trains to a step. `false` if a stop was asked for.
    pub fn advance(
        &mut self,
        target: u64,
        deadline: Option<(Instant, f64)>,
        options: &FitOptions<'_>,
    ) -> Result<bool, TrainError> {
        for run in &mut self.runs {
            if !run.is_over {
                run.advance(target, deadline, options)?;
            }
            if options.stop.is_set() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The mean over seeds of the best metric so far and of its loss.
    fn best(&self) -> Option<(f64, f64)> {
        let bests: Option<Vec<(f64, f64)>> = self.runs.iter().map(|run| run.best).collect();
        let bests = bests.filter(|bests| !bests.is_empty())?;
        let count = bests.len() as f64;
        let sum = bests.iter().fold((0.0, 0.0), |sum, best| (sum.0 + best.0, sum.1 + best.1));
        Some((sum.0 / count, sum.1 / count))
    }

    /// Whether its last stage has not begun: where a strategy of several stages stands says little about where it ends.
    pub fn has_stages_to_come(&self) -> bool {
        self.runs
            .iter()
            .any(|run| !run.is_over && run.steps <= self.last_stage_begins && self.last_stage_begins > 0)
    }

    /// The better first.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self.best(), other.best()) {
            (Some(own), Some(others)) => {
                let by_metric = own.0.total_cmp(&others.0);
                let by_metric = if self.greater_is_better { by_metric.reverse() } else { by_metric };
                by_metric.then(own.1.total_cmp(&others.1))
            }
            (own, others) => others.is_some().cmp(&own.is_some()),
        }
    }

    /// A line about where it stands.
    pub fn standing(&self, metric: &str, target: u64, steps: u64) -> String {
        match self.best() {
            Some((value, loss)) => format!(
                "{}: {metric} {value:.3}, loss {loss:.4} after {} of {steps} steps",
                self.name(),
                self.runs.iter().map(|run| run.steps).max().unwrap_or(target)
            ),
            None => format!("{}: not evaluated yet", self.name()),
        }
    }

    /// Seconds of whole runs at the pace so far.
    pub fn seconds_of_whole_run(&self, steps: u64) -> f64 {
        self.runs.iter().map(|run| run.seconds * (steps as f64 / run.steps.max(1) as f64).max(1.0)).sum()
    }

    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.runs.iter().map(|run| run.folder.as_path())
    }

    pub fn result(&self, metric: &str) -> Result<StrategyResult, TrainError> {
        let is_whole = self.dropped_at.is_none() && self.runs.iter().all(|run| !run.metrics.is_empty());
        let count = self.runs.len().max(1) as f64;
        let (value, loss) = self.best().unwrap_or((f64::NAN, f64::NAN));
        let mean = |key: &str| -> Option<f64> {
            let values: Option<Vec<f64>> =
                self.runs.iter().map(|run| run.metrics.get(key).and_then(Value::as_f64)).collect();
            values.map(|values| values.iter().sum::<f64>() / count)
        };
        let end = |place: usize| -> Option<f64> {
            let key = format!("eval_{metric}_ci95");
            let ends: Option<Vec<f64>> =
                self.runs.iter().map(|run| run.metrics.get(&key)?.get(place)?.as_f64()).collect();
            ends.map(|ends| ends.iter().sum::<f64>() / count)
        };
        let interval = end(0).zip(end(1)).map(|(low, high)| Interval { low, high });
        Ok(StrategyResult {
            name: self.name(),
            method: self.method,
            last_n: self.last_n,
            learning_rates: self.runs.iter().map(|run| run.learning_rate).collect(),
            value: mean(&format!("eval_{metric}")).filter(|_| is_whole).unwrap_or(value),
            interval: interval.filter(|_| is_whole),
            loss: mean("eval_loss").filter(|_| is_whole).unwrap_or(loss),
            worst_class: if is_whole {
                self.runs.first().and_then(|run| worst_class(&run.metrics))
            } else {
                None
            },
            seconds: self.runs.iter().map(|run| run.seconds).sum::<f64>() / count,
            steps: self.runs.iter().map(|run| run.steps).max().unwrap_or(0),
            memory_bytes: self.memory_bytes,
            trained_parameters: self.trained_parameters,
            artifact_bytes: self.artifact_bytes,
            dropped_at: self.dropped_at,
            is_whole,
            on_the_frontier: false,
            folders: self.runs.iter().map(|run| run.folder.clone()).collect(),
        })
    }
}

/// The class with the lowest recall on validation data, and that recall.
fn worst_class(metrics: &Map<String, Value>) -> Option<(String, f64)> {
    let classes = metrics.get("eval_per_class")?.as_array()?;
    let recall =
        |class: &Value| Some((class.get("label")?.as_str()?.to_owned(), class.get("recall")?.as_f64()?));
    classes.iter().filter_map(recall).min_by(|a, b| a.1.total_cmp(&b.1))
}

impl ArmRun {
    fn advance(
        &mut self,
        target: u64,
        deadline: Option<(Instant, f64)>,
        options: &FitOptions<'_>,
    ) -> Result<(), TrainError> {
        let started = Instant::now();
        let stop = StopFlag::default();
        let recipe = self.recipe.clone();
        let (mut loss, mut best, mut found) = (None, None, None);
        let mut watch = |event: &Event| {
            let is_late = deadline.is_some_and(|(since, seconds)| since.elapsed().as_secs_f64() >= seconds);
            match event {
                Event::EvalEnded { step, metrics, .. } => {
                    loss = metrics.get("loss").and_then(Value::as_f64);
                    if *step >= target {
                        stop.stop();
                    }
                }
                Event::BestModel { value, .. } => best = Some((*value, loss.unwrap_or(f64::NAN))),
                Event::LearningRateFound { learning_rate, .. } => found = Some(*learning_rate),
                _ => {}
            }
            // What was never evaluated could not be judged.
            if options.stop.is_set() || is_late && loss.is_some() {
                stop.stop();
            }
        };
        let fit_options =
            FitOptions { prepare: options.prepare.clone(), stop: stop.clone(), loss: options.loss };
        let summary = if self.steps == 0 {
            fit(&recipe, &fit_options, vec![&mut watch])?
        } else {
            resume(&self.folder, &fit_options, vec![&mut watch])?
        };
        self.seconds += started.elapsed().as_secs_f64();
        self.steps = summary.steps;
        self.best = best.or(self.best);
        self.learning_rate = found.unwrap_or(self.learning_rate);
        if summary.outcome != Outcome::Interrupted {
            self.is_over = true;
            self.metrics = summary.metrics;
        }
        Ok(())
    }
}
