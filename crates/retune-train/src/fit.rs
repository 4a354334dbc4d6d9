//! A whole run: prepare, train, measure, write the artifact; and going on with one that was stopped.

mod begin;
mod finish;
mod lock;
mod predictions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retune_nn::{Optimizer, OptimizerConfig, ParameterStore};
use serde_json::{Map, Value};

use crate::compare::{CompareOptions, compare_strategies};
use crate::event::{Event, Listener};
use crate::features::FeatureCache;
use crate::learning_rate::{LearningRateOptions, Searched, search};
use crate::prepare::{PrepareOptions, Prepared, prepare};
use crate::recipe::{LearningRate, Method, Recipe};
use crate::run_folder::LogFile;
use crate::stages::plan_stages;
use crate::state::{fingerprints, newest_checkpoint, read_progress, restore};
use crate::trainer::{LossFunction, Outcome, StopFlag, Trainer};
use crate::{RunFolder, TrainError};
use begin::{begin, forecast, tell_of_forecast};
use finish::{finish, watch_movement};
use lock::{read_lock, write_lock};

/// What the caller decides about a run, beside the recipe.
pub struct FitOptions<'a> {
    /// How models are found and which kernels run.
    pub prepare: PrepareOptions,
    /// Asks the run to stop.
    pub stop: StopFlag,
    /// Instead of the task's loss.
    pub loss: Option<&'a LossFunction<'a>>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Its folder.
    pub folder: PathBuf,
    /// How training ended.
    pub outcome: Outcome,
    /// What `metrics.json` holds; empty if the run was interrupted.
    pub metrics: Map<String, Value>,
    /// Optimizer steps made.
    pub steps: u64,
    /// Whether the recipe asks for TensorBoard files.
    pub tensorboard: bool,
}

/// Runs a recipe from the beginning.
///
/// # Errors
/// Whatever is wrong with recipe, model or data, before the first step; later a loss that is not finite, or a file that
/// cannot be written.
pub fn fit(
    recipe: &Recipe,
    options: &FitOptions<'_>,
    listeners: Vec<&mut dyn Listener>,
) -> Result<RunSummary, TrainError> {
    let mut listeners = listeners;
    let mut recipe = recipe.clone();
    make_paths_absolute(&mut recipe);
    let overwrite = recipe.train.overwrite_output_dir;
    RunFolder::open(&recipe.train.output_dir).require_free(overwrite)?;
    // There is no log before the run folder is made, and no folder before all is known to be right.
    let mut unlogged = Vec::new();
    let mut tell = |event: Event| {
        listeners.iter_mut().for_each(|listener| listener.on_event(&event));
        unlogged.push(event);
    };
    let mut folder = None;
    if recipe.strategy.method == Method::Auto {
        let made = RunFolder::create(&recipe.train.output_dir, overwrite)?;
        recipe = choose_strategy(&recipe, &made, options, &mut tell)?;
        folder = Some(made);
    }
    let prepared = prepare(&recipe, &options.prepare, &mut tell)?;
    let folder = match folder {
        Some(folder) => folder,
        None => RunFolder::create(&prepared.recipe.train.output_dir, overwrite)?,
    };
    write_lock(&folder, &prepared, options)?;
    folder.write_json(RunFolder::LOAD_REPORT, &prepared.load_report)?;
    Run { prepared, folder, options, resume_from: None, unlogged }.execute(listeners)
}

/// Goes on with the run in a folder from its newest checkpoint, or from the beginning if it has none.
///
/// # Errors
/// If the folder holds no run, or the data, the weights or the kernels are not those of the run.
pub fn resume(
    root: &Path,
    options: &FitOptions<'_>,
    listeners: Vec<&mut dyn Listener>,
) -> Result<RunSummary, TrainError> {
    let mut listeners = listeners;
    let folder = RunFolder::open(root);
    let lock = read_lock(&folder)?;
    let mut recipe = lock.recipe.clone();
    recipe.train.output_dir = root.display().to_string();
    let directory = PathBuf::from(&lock.lock.model_directory);
    let isa = lock.lock.isa.parse().map_err(|error: retune_kernels::KernelError| {
        TrainError::Setting(format!("{}: {error}", folder.path(RunFolder::LOCK).display()))
    })?;
    let prepare_options = PrepareOptions {
        isa: Some(isa),
        fold: lock.lock.fold,
        model_directory: directory.exists().then_some(directory),
        resolve: options.prepare.resolve.clone(),
        obeys_record: true,
    };
    let prepared = {
        let mut tell = |event: Event| listeners.iter_mut().for_each(|listener| listener.on_event(&event));
        prepare(&recipe, &prepare_options, &mut tell)?
    };
    for (path, recorded) in &lock.lock.sha256 {
        match prepared.hashes.get(path) {
            Some(now) if now == recorded => {}
            Some(_) => {
                return Err(TrainError::run_folder(
                    path,
                    "has changed since the run began, so it cannot go on bit for bit; restore the file, or begin anew \
                     with `retune fit`",
                ));
            }
            None => return Err(TrainError::run_folder(path, "belongs to the run and is no longer read")),
        }
    }
    let resume_from = newest_checkpoint(&folder.checkpoints())?;
    if resume_from.is_none() && folder.path(RunFolder::METRICS).is_file() {
        return Err(TrainError::run_folder(
            root,
            "is a finished run without checkpoints: there is nothing to go on with",
        ));
    }
    Run { prepared, folder, options, resume_from, unlogged: Vec::new() }.execute(listeners)
}

/// Compares strategies in a folder below the run's, and gives the recipe of the one that was chosen.
fn choose_strategy(
    recipe: &Recipe,
    folder: &RunFolder,
    options: &FitOptions<'_>,
    tell: &mut dyn FnMut(Event),
) -> Result<Recipe, TrainError> {
    let below = folder.path(RunFolder::STRATEGIES);
    let compared = CompareOptions::default();
    let mut note = |line: &str| tell(Event::note(line));
    let found = compare_strategies(recipe, &below, &compared, options, &mut note)?.ok_or_else(|| {
        TrainError::run_folder(
            folder.root(),
            "was stopped while strategies were compared, so that there is no run to go on with; begin anew with \
             train.overwrite_output_dir = true",
        )
    })?;
    folder.write_json(RunFolder::COMPARISON, &found)?;
    tell(Event::note(format!("strategy {}: {}", found.choice.name, found.choice.reason)));
    let mut recipe = recipe.clone();
    recipe.strategy.method = found.choice.method;
    recipe.strategy.last_n = found.choice.last_n;
    recipe.optimizer.learning_rate = Some(LearningRate::Value(found.choice.learning_rate));
    Ok(recipe)
}

fn make_paths_absolute(recipe: &mut Recipe) {
    let data = &mut recipe.data;
    let files = [&mut data.train, &mut data.validation, &mut data.test, &mut data.review];
    for path in files.into_iter().chain([&mut recipe.augmentation.paraphrases]).flatten() {
        // A path that does not exist is reported by the reader, with its own words.
        if let Ok(absolute) = std::fs::canonicalize(&*path) {
            *path = absolute.display().to_string();
        }
    }
}

/// A prepared run on its way.
struct Run<'a> {
    prepared: Prepared,
    folder: RunFolder,
    options: &'a FitOptions<'a>,
    resume_from: Option<PathBuf>,
    /// What was told before there was a log.
    unlogged: Vec<Event>,
}

impl Run<'_> {
    fn execute(self, mut listeners: Vec<&mut dyn Listener>) -> Result<RunSummary, TrainError> {
        let Self { mut prepared, folder, options, resume_from, unlogged } = self;
        let forecast = if resume_from.is_none() { forecast(&prepared)? } else { None };
        // Taken out, so that the trained values are held once.
        let store = std::mem::take(&mut prepared.store);
        let features = Arc::new(FeatureCache::new(&prepared.recipe, &options.prepare.resolve.cache_dir));
        let progress = resume_from.as_deref().map(read_progress).transpose()?.unwrap_or_default();
        let mut log = LogFile::open(&folder, progress.log_bytes)?;
        unlogged.iter().for_each(|event| log.on_event(event));
        if prepared.recipe.searches_learning_rate() {
            let mut tell = |event: Event| {
                listeners.iter_mut().for_each(|listener| listener.on_event(&event));
                log.on_event(&event);
            };
            if !search_learning_rate((&mut prepared, &store), &folder, options, &features, &mut tell)? {
                let outcome = Outcome::Interrupted;
                let tensorboard = prepared.recipe.train.tensorboard;
                let folder = folder.root().to_owned();
                return Ok(RunSummary { folder, outcome, metrics: Map::new(), steps: 0, tensorboard });
            }
        }
        let Prepared { recipe, task, trainee, stages, .. } = &prepared;
        let before = fingerprints(&store);
        let average = recipe.train.ema_decay.map(|_| store.clone());
        let mut heard_by: Vec<&mut dyn Listener> = Vec::with_capacity(listeners.len() + 1);
        for listener in &mut listeners {
            heard_by.push(&mut **listener);
        }
        heard_by.push(&mut log);
        let mut trainer = Trainer {
            recipe,
            stages,
            trainee,
            task,
            loss: options.loss,
            context: prepared.context.clone(),
            store,
            average,
            optimizer: Optimizer::new(optimizer_config(recipe)),
            progress,
            folder: &folder,
            listeners: heard_by,
            stop: options.stop.clone(),
            features,
        };
        match &resume_from {
            Some(checkpoint) => resume_trainer(&mut trainer, checkpoint)?,
            None => begin(&mut trainer, &prepared, &folder, forecast.as_ref())?,
        }
        let outcome = trainer.run()?;
        if outcome != Outcome::Interrupted {
            tell_of_forecast(&mut trainer, &folder)?;
        }
        let seconds = trainer.progress.seconds;
        let steps = trainer.progress.step;
        trainer.emit(&Event::RunEnded { step: steps, seconds, reason: outcome.name().to_owned() });
        let mut metrics = Map::new();
        if outcome != Outcome::Interrupted {
            trainer.average_checkpoints()?;
            trainer.load_best()?;
            watch_movement(&mut trainer, &before);
            metrics = finish(&mut trainer, &prepared, &folder)?;
        }
        drop(trainer);
        log.check()?;
        let tensorboard = recipe.train.tensorboard;
        Ok(RunSummary { folder: folder.root().to_owned(), outcome, metrics, steps, tensorboard })
    }
}

/// Searches for the learning rate that the recipe leaves open and records it before it takes effect. `false` if a stop was
/// asked for: then nothing is decided.
fn search_learning_rate(
    (prepared, store): (&mut Prepared, &ParameterStore),
    folder: &RunFolder,
    options: &FitOptions<'_>,
    features: &Arc<FeatureCache>,
    tell: &mut dyn FnMut(Event),
) -> Result<bool, TrainError> {
    let searched = Searched { prepared, store, loss: options.loss, stop: &options.stop, features };
    let Some(found) = search(&searched, &LearningRateOptions::default(), tell)? else { return Ok(false) };
    prepared.recipe.optimizer.learning_rate = Some(LearningRate::Value(found.learning_rate));
    prepared.stages = plan_stages(&prepared.recipe, &store.groups())?;
    folder.write_json(RunFolder::LEARNING_RATE, &found)?;
    let mut lock = read_lock(folder)?;
    lock.recipe.optimizer.learning_rate = prepared.recipe.optimizer.learning_rate;
    lock.write(folder)?;
    tell(Event::LearningRateFound {
        learning_rate: found.learning_rate,
        low: found.low,
        high: found.high,
        steps: found.steps,
        seconds: found.seconds,
    });
    Ok(true)
}

pub(crate) fn optimizer_config(recipe: &Recipe) -> OptimizerConfig {
    let section = &recipe.optimizer;
    let defaults = OptimizerConfig::new(section.name);
    OptimizerConfig {
        kind: section.name,
        beta1: section.adam_beta1.unwrap_or(defaults.beta1),
        beta2: section.adam_beta2.unwrap_or(defaults.beta2),
        eps: section.adam_epsilon.unwrap_or(defaults.eps),
        momentum: section.momentum.unwrap_or(defaults.momentum),
        nesterov: section.nesterov.unwrap_or(defaults.nesterov),
        alpha: section.alpha.unwrap_or(defaults.alpha),
    }
}

fn resume_trainer(trainer: &mut Trainer<'_>, checkpoint: &Path) -> Result<(), TrainError> {
    // A checkpoint written at the very end of training has no current stage.
    if let Some(stage) = trainer.stages.get(trainer.progress.stage) {
        let trainable = Trainer::stage_trainable(&trainer.store, stage);
        trainer.optimizer.set_trainable(&trainer.store, &trainable);
    }
    restore(checkpoint, &mut trainer.store, trainer.average.as_mut(), &mut trainer.optimizer)?;
    let (step, total_steps) = (trainer.progress.step, trainer.total_steps());
    trainer.emit(&Event::RunResumed { step, total_steps });
    Ok(())
}
