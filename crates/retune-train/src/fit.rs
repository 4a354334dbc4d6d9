//! A whole run: prepare, train, measure, write the artifact; and going on with one that was stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use retune_checkpoint::ensure_space;
use retune_data::{Severity, Target};
use retune_nn::{Optimizer, OptimizerConfig, ParameterStore, Trainable};
use retune_tasks::metrics::{EvaluationOptions, EvaluationReport, fit_temperature};
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::artifact::{ArtifactConfig, Certificate, merge_adapters, thresholds_json, write_adapter};
use crate::compare::{CompareOptions, compare_strategies};
use crate::copies::Copies;
use crate::evaluate::{Evaluation, evaluate_logits};
use crate::event::{Event, Listener, RunStarted};
use crate::explain::{Explanation, write_heat_maps};
use crate::features::FeatureCache;
use crate::forecast::{Forecast, input_seconds};
use crate::image_artifact::ImageArtifact;
use crate::learning_rate::{LearningRateOptions, Searched, search};
use crate::memory::resident_bytes;
use crate::modality::ModalTrainee;
use crate::plan::{disk_bytes, plan_run};
use crate::prepare::{PrepareOptions, Prepared, context_threads, prepare};
use crate::rates::MachineRates;
use crate::recipe::{LearningRate, Method, Recipe};
use crate::run_folder::LogFile;
use crate::stages::plan_stages;
use crate::state::{Progress, fingerprints, newest_checkpoint, read_progress, restore, unexpected_movement};
use crate::trainee::{Split, Trainee};
use crate::trainer::{LossFunction, Outcome, StopFlag, Trainer, metric_values};
use crate::{RunFolder, TrainError};

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

/// `recipe.lock.toml`: the resolved recipe, and what the result depends on beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lock {
    lock: LockSection,
    #[serde(flatten)]
    recipe: Recipe,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LockSection {
    version: String,
    isa: String,
    model_directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fold: Option<(usize, usize)>,
    sha256: BTreeMap<String, String>,
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
    for path in files.into_iter().flatten() {
        // A path that does not exist is reported by the reader, with its own words.
        if let Ok(absolute) = std::fs::canonicalize(&*path) {
            *path = absolute.display().to_string();
        }
    }
}

fn write_lock(folder: &RunFolder, prepared: &Prepared, options: &FitOptions<'_>) -> Result<(), TrainError> {
    let isa = prepared.context.kernels().map_or_else(String::new, |cpu| cpu.isa().to_string());
    let directory = std::fs::canonicalize(&prepared.model_directory);
    let lock = Lock {
        lock: LockSection {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isa,
            model_directory: directory
                .unwrap_or_else(|_| prepared.model_directory.clone())
                .display()
                .to_string(),
            fold: options.prepare.fold,
            sha256: prepared.hashes.clone(),
        },
        recipe: prepared.recipe.clone(),
    };
    lock.write(folder)
}

impl Lock {
    fn write(&self, folder: &RunFolder) -> Result<(), TrainError> {
        let path = folder.path(RunFolder::LOCK);
        let text = toml::to_string_pretty(self)
            .map_err(|error| TrainError::io(&path)(std::io::Error::other(error)))?;
        Ok(retune_checkpoint::write_atomic(&path, |file| file.write_all(text.as_bytes()))?)
    }
}

fn read_lock(folder: &RunFolder) -> Result<Lock, TrainError> {
    let path = folder.path(RunFolder::LOCK);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            TrainError::run_folder(folder.root(), "holds no run: recipe.lock.toml is missing")
        } else {
            TrainError::io(&path)(error)
        }
    })?;
    toml::from_str(&text).map_err(|error| TrainError::run_folder(&path, format!("cannot be read: {error}")))
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

/// Tells what begins, checks the disk, and measures the untrained head.
fn begin(
    trainer: &mut Trainer<'_>,
    prepared: &Prepared,
    folder: &RunFolder,
    forecast: Option<&Forecast>,
) -> Result<(), TrainError> {
    let trainee = &prepared.trainee;
    let started = RunStarted {
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        isa: prepared.context.kernels().map_or_else(String::new, |cpu| cpu.isa().to_string()),
        threads: context_threads(&prepared.context),
        model: prepared.recipe.model.name_or_path.clone(),
        task: task_name(prepared),
        train_samples: trainee.samples(Split::Train),
        eval_samples: trainee.samples(Split::Validation),
        test_samples: trainee.samples(Split::Test),
        total_steps: trainer.total_steps(),
        parameters: trainer.store.elements(),
        seed: prepared.recipe.train.seed,
    };
    trainer.emit(&Event::RunStarted(Box::new(started)));
    for finding in &prepared.findings {
        let event = match finding.severity {
            Severity::Info => Event::note(finding.to_string()),
            _ => Event::warning(finding.code, finding.to_string()),
        };
        trainer.emit(&event);
    }
    for (split, report) in &prepared.lengths {
        if report.truncated + report.windowed > 0 {
            trainer.emit(&Event::warning("over-length", format!("{}: {report}", split.name())));
        }
    }
    ensure_space(folder.root(), disk_bytes(&prepared.recipe, &trainer.store))?;
    if let Some(forecast) = forecast {
        folder.write_json(FORECAST, forecast)?;
    }
    let options = quick_options();
    let mut baselines = Map::new();
    for split in [Split::Validation, Split::Test] {
        if trainee.samples(split) == 0 {
            continue;
        }
        let evaluation = trainer.evaluate(split, &options)?;
        baselines.insert(
            split.metric_prefix().to_owned(),
            Value::Object(metric_values(&evaluation.report, evaluation.loss)),
        );
    }
    folder.write_json(UNTRAINED, &baselines)?;
    if trainee.samples(Split::Validation) == 0 {
        trainer.emit(&Event::warning(
            "no-validation-data",
            "there is no validation data: no best model is kept and nothing stops early; set data.validation or \
             data.validation_split",
        ));
    }
    Ok(())
}

/// The recipe's task; for pictures what `auto` found, which the report needs to know.
fn task_name(prepared: &Prepared) -> String {
    match &prepared.trainee {
        ModalTrainee::Text(_) => prepared.recipe.task.kind.clone(),
        image => image.task_name().to_owned(),
    }
}

/// What was predicted before the first step, kept to be held against what the run took.
const FORECAST: &str = "checkpoints/forecast.json";

/// Runs of less arithmetic are over before their forecast was worth measuring the machine for.
const WORTH_A_FORECAST: f64 = 2e10;

/// What a run will take; nothing for one that is over at once.
fn forecast(prepared: &Prepared) -> Result<Option<Forecast>, TrainError> {
    let resident = resident_bytes();
    let plan = plan_run(prepared);
    let Some(cpu) = prepared.context.kernels() else { return Ok(None) };
    if plan.training_operations + plan.evaluation_operations < WORTH_A_FORECAST {
        return Ok(None);
    }
    let input = input_seconds(&prepared.trainee, Split::Train)?;
    Ok(Some(Forecast::new(prepared, &plan, &MachineRates::measure(cpu), input, resident)))
}

/// Tells what was predicted beside what was measured.
fn tell_of_forecast(trainer: &mut Trainer<'_>, folder: &RunFolder) -> Result<(), TrainError> {
    let path = folder.path(FORECAST);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(TrainError::io(&path)(error)),
    };
    let forecast: Forecast =
        serde_json::from_slice(&bytes).map_err(|error| TrainError::run_folder(&path, error.to_string()))?;
    let Progress { timings, peak_resident_bytes, .. } = &trainer.progress;
    let compared = forecast.compare(timings, *peak_resident_bytes);
    trainer.emit(&Event::ForecastCompared(compared));
    Ok(())
}

/// What the head answered before training, kept from the beginning of the run for its report.
const UNTRAINED: &str = "checkpoints/untrained.json";

fn quick_options() -> EvaluationOptions {
    let mut options = EvaluationOptions::default();
    options.bootstrap.resamples = 0;
    options
}

/// Key biases shift all scores of a softmax alike: their gradient is zero in theory, so they may well stay.
const UNMOVED_IN_THEORY: &[&str] = &[".key.bias", ".k_lin.bias"];

fn watch_movement(trainer: &mut Trainer<'_>, before: &[u64]) {
    let stages: Vec<Trainable> =
        trainer.stages.iter().map(|stage| Trainer::stage_trainable(&trainer.store, stage)).collect();
    let ever = Trainable::new(&trainer.store, |id, _| stages.iter().any(|stage| stage.slot(id).is_some()));
    let (mut stuck, moved) = unexpected_movement(&trainer.store, &ever, before);
    stuck.retain(|name| !UNMOVED_IN_THEORY.iter().any(|end| name.ends_with(end)));
    // The best model may be that of an early stage, in which groups that trained later had not moved yet.
    let best_is_last = trainer.progress.best.as_ref().is_none_or(|best| best.step == trainer.progress.step);
    if let (Some(first), true) = (stuck.first(), best_is_last) {
        let message = format!(
            "{} trainable parameters never moved, the first is {first}: is the learning rate too small?",
            stuck.len()
        );
        trainer.emit(&Event::warning("parameter-never-moved", message));
    }
    if let Some(first) = moved.first() {
        let message =
            format!("{} frozen parameters changed, the first is {first}; please report this", moved.len());
        trainer.emit(&Event::warning("frozen-parameter-moved", message));
    }
}

/// Measures the final model, writes predictions, metrics and the artifact.
fn finish(
    trainer: &mut Trainer<'_>,
    prepared: &Prepared,
    folder: &RunFolder,
) -> Result<Map<String, Value>, TrainError> {
    let Prepared { trainee, recipe, .. } = prepared;
    let mut task = prepared.task.clone();
    let untrained = read_untrained(folder)?;
    let mut metrics = Map::new();
    metrics.insert("train_loss".into(), json!(mean_loss(&trainer.progress)));
    metrics.insert("train_runtime".into(), json!(trainer.progress.seconds));
    let samples = trainer.progress.samples as f64;
    metrics.insert("train_samples_per_second".into(), json!(samples / trainer.progress.seconds.max(1e-9)));
    metrics.insert("train_steps".into(), json!(trainer.progress.step));
    if let Some(best) = &trainer.progress.best {
        metrics.insert("best_step".into(), json!(best.step));
        metrics.insert("best_metric".into(), json!({"name": best.metric, "value": best.value}));
    }
    let mut options = EvaluationOptions { ..EvaluationOptions::default() };
    options.bootstrap.seed = recipe.train.seed;
    let targets = split_targets(trainee, Split::Train);
    match task.problem_type {
        ProblemType::SingleLabelClassification => options.majority_class = majority_class(&task, &targets),
        ProblemType::Regression => options.mean_target = mean_target(&targets),
        ProblemType::MultiLabelClassification => {}
    }
    let mut temperature = None;
    for split in [Split::Validation, Split::Test] {
        if trainee.samples(split) == 0 {
            continue;
        }
        options.temperature = temperature;
        let targets = split_targets(trainee, split);
        let measure = |task: &ClassificationTask, logits, options: &EvaluationOptions| {
            Evaluation::measure(&prepared.context, task, &targets, logits, options)
        };
        let mut evaluation = trainer.evaluate(split, &options)?;
        if split == Split::Validation && task.problem_type == ProblemType::SingleLabelClassification {
            let table = task.classification(&targets, &evaluation.logits);
            if let Some(fitted) = fit_temperature(&table)? {
                temperature = Some(fitted.temperature);
                metrics.insert("temperature".into(), json!(fitted.temperature));
                options.temperature = temperature;
                evaluation = measure(&task, evaluation.logits, &options)?;
            }
        }
        if let (Split::Validation, Some(goal)) = (split, recipe.task.tune_thresholds.goal()) {
            task.thresholds = Some(task.tune_thresholds(&targets, &evaluation.logits, goal));
            metrics.extend(thresholds_json(&task).map(|value| ("thresholds".to_owned(), value)));
        }
        if task.thresholds.is_some() {
            let untuned = evaluation.report;
            evaluation = measure(&task, evaluation.logits, &options)?;
            evaluation.report.add_baseline("untuned", &untuned);
        }
        let prefix = split.metric_prefix();
        metrics.extend(evaluation.report.to_json(prefix));
        metrics.insert(format!("{prefix}loss"), json!(evaluation.loss));
        if let Some(Value::Object(baseline)) = untrained.get(prefix) {
            for (name, value) in baseline {
                metrics.insert(format!("{prefix}{name}_untrained_head_baseline"), value.clone());
            }
        }
        warn_about_result(trainer, &task, split, &evaluation);
        let copies = Copies::find(trainee, split, context_threads(&prepared.context));
        metrics.insert(format!("{prefix}copies"), json!(copies.count()));
        if copies.count() > 0 {
            metrics.extend(measure_clean(
                trainer,
                (prepared, &task),
                split,
                (&evaluation, &copies),
                &options,
            )?);
        }
        let model = (&trainer.context, &trainer.store);
        write_predictions(folder, model, trainee, &task, split, (&evaluation, &copies))?;
    }
    trainer.tell_of_features();
    let certificates = write_artifact(trainer, (prepared, &task), folder, temperature)?;
    folder.write_json("certificate.json", &certificates)?;
    folder.write_json(RunFolder::METRICS, &metrics)?;
    Ok(metrics)
}

/// The result on those samples of a split that are no copies of what the model learned from or was chosen by.
fn measure_clean(
    trainer: &mut Trainer<'_>,
    (prepared, task): (&Prepared, &ClassificationTask),
    split: Split,
    (whole, copies): (&Evaluation, &Copies),
    options: &EvaluationOptions,
) -> Result<Map<String, Value>, TrainError> {
    let Prepared { trainee, context, .. } = prepared;
    let name = split.name();
    let (count, samples) = (copies.count(), trainee.samples(split));
    let clean = copies.clean();
    let mut message = format!(
        "{count} of {samples} {name} samples are copies or near copies of what the model learned from or was chosen by"
    );
    let mut metrics = Map::new();
    if !clean.is_empty() {
        let outputs = task.outputs();
        let logits = clean.iter().flat_map(|&sample| &whole.logits[sample * outputs..(sample + 1) * outputs]);
        let targets: Vec<&Target> =
            clean.iter().map(|&sample| trainee.target(split, sample as u32)).collect();
        let evaluation = Evaluation::measure(context, task, &targets, logits.copied().collect(), options)?;
        let prefix = format!("{}clean_", split.metric_prefix());
        metrics = evaluation.report.to_json(&prefix);
        metrics.insert(format!("{prefix}loss"), json!(evaluation.loss));
        let main = task.default_metric();
        if let (Some(all), Some(clean)) = (whole.report.value(main), evaluation.report.value(main)) {
            message.push_str(&format!("; {main} is {all:.3} on all and {clean:.3} on the others"));
        }
    }
    message.push_str("; `retune data dedupe` lists them");
    trainer.emit(&Event::warning("copies-across-splits", message));
    Ok(metrics)
}

fn read_untrained(folder: &RunFolder) -> Result<Map<String, Value>, TrainError> {
    let path = folder.path(UNTRAINED);
    let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| TrainError::run_folder(&path, error.to_string()))
}

fn mean_loss(progress: &Progress) -> f64 {
    progress.loss_sum / progress.step.max(1) as f64
}

fn split_targets(trainee: &ModalTrainee, split: Split) -> Vec<&Target> {
    (0..trainee.samples(split) as u32).map(|sample| trainee.target(split, sample)).collect()
}

fn majority_class(task: &ClassificationTask, targets: &[&Target]) -> Option<u32> {
    let mut counts = vec![0_usize; task.outputs()];
    for target in targets {
        if let Target::Class(class) = target {
            counts[*class as usize] += 1;
        }
    }
    // The first of equals, so that the baseline does not depend on chance.
    let most = counts.iter().max()?;
    counts.iter().position(|count| count == most).map(|class| class as u32)
}

fn mean_target(targets: &[&Target]) -> Option<f64> {
    let values: Vec<f64> = targets
        .iter()
        .filter_map(|target| if let Target::Value(value) = target { Some(f64::from(*value)) } else { None })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Detectors of a model that learned nothing.
fn warn_about_result(
    trainer: &mut Trainer<'_>,
    task: &ClassificationTask,
    split: Split,
    evaluation: &Evaluation,
) {
    if task.problem_type != ProblemType::SingleLabelClassification {
        return;
    }
    let outputs = task.outputs();
    let classes: Vec<usize> = evaluation.logits.chunks(outputs).map(|logits| task.class(logits)).collect();
    if let Some(first) = classes.first()
        && classes.len() > 1
        && classes.iter().all(|class| class == first)
    {
        let label = task.labels.name(*first as u32).unwrap_or_default();
        let message =
            format!("on the {} data the model answers \"{label}\" whatever it is asked", split.name());
        trainer.emit(&Event::warning("constant-predictor", message));
    }
    if let Some((accuracy, majority)) = no_better_than_majority(&evaluation.report) {
        let message = format!(
            "on the {} data accuracy {accuracy:.3} is not distinguishable from always answering with the most frequent \
             class ({majority:.3})",
            split.name()
        );
        trainer.emit(&Event::warning("no-better-than-majority", message));
    }
}

fn no_better_than_majority(report: &EvaluationReport) -> Option<(f64, f64)> {
    let score = report.scores.iter().find(|score| score.metric.name == "accuracy")?;
    let majority = score.baselines.iter().find(|(name, _)| name == "majority")?.1;
    (score.interval?.low <= majority).then_some((score.value?, majority))
}

/// One row per sample: target, prediction, scores, loss and the source's columns.
fn write_predictions(
    folder: &RunFolder,
    model: (&Context, &ParameterStore),
    trainee: &ModalTrainee,
    task: &ClassificationTask,
    split: Split,
    (evaluation, copies): (&Evaluation, &Copies),
) -> Result<(), TrainError> {
    let predictions = folder.path("predictions");
    std::fs::create_dir_all(&predictions).map_err(TrainError::io(&predictions))?;
    let thumbnails = write_thumbnails(&predictions, trainee, split, &evaluation.losses)?;
    let heat_maps = match trainee.image() {
        Some(image) => write_heat_maps(&predictions, model, image, task, split, evaluation)?,
        None => BTreeMap::new(),
    };
    let path = predictions.join(format!("{}.jsonl", split.name()));
    retune_checkpoint::write_atomic(&path, |file| {
        let rows = evaluation.logits.chunks(task.outputs()).zip(&evaluation.losses);
        for (index, (logits, loss)) in rows.enumerate() {
            let mut prediction = task.prediction(logits);
            let mut row = trainee.source_row(split, index);
            let columns = row.shift_remove("columns");
            if let Some(name) = thumbnails.get(&index) {
                row.insert("thumbnail".to_owned(), json!(name));
            }
            if let Some(Explanation { file, output }) = heat_maps.get(&index) {
                row.insert("heat_map".to_owned(), json!(file));
                row.insert("heat_map_of".to_owned(), json!(task.labels.names()[*output]));
            }
            let answer = [
                ("target", task.target_json(trainee.target(split, index as u32))),
                ("prediction", json!(prediction.shift_remove("label"))),
                ("score", json!(prediction.shift_remove("score"))),
                ("scores", json!(prediction.shift_remove("scores"))),
                ("logits", json!(logits)),
                ("loss", json!(loss)),
                ("copy_of", copies.of(index).clone()),
                ("columns", json!(columns)),
            ];
            row.extend(answer.map(|(name, value)| (name.to_owned(), value)));
            serde_json::to_writer(&mut *file, &row)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Pictures of a split that the report can show.
const THUMBNAILS: usize = 32;

/// Writes small copies of the pictures with the greatest losses; their names by sample.
fn write_thumbnails(
    predictions: &Path,
    trainee: &ModalTrainee,
    split: Split,
    losses: &[f32],
) -> Result<BTreeMap<usize, String>, TrainError> {
    let Some(image) = trainee.image() else { return Ok(BTreeMap::new()) };
    let folder = predictions.join("thumbnails");
    std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
    let mut worst: Vec<usize> = (0..losses.len()).collect();
    worst.sort_by(|&a, &b| losses[b].total_cmp(&losses[a]));
    let mut names = BTreeMap::new();
    for &index in worst.iter().take(THUMBNAILS) {
        let Some(bytes) = image.thumbnail(split, index) else { continue };
        let name = format!("{}-{index:06}.jpg", split.name());
        retune_checkpoint::write_atomic(&folder.join(&name), |file| file.write_all(&bytes))?;
        names.insert(index, format!("thumbnails/{name}"));
    }
    Ok(names)
}

/// Samples that certificates compare.
const CERTIFIED_SAMPLES: usize = 32;

/// Writes the artifact and proves that it answers as the trained model, and that batches do not matter.
fn write_artifact(
    trainer: &mut Trainer<'_>,
    (prepared, task): (&Prepared, &ClassificationTask),
    folder: &RunFolder,
    temperature: Option<f64>,
) -> Result<Vec<Certificate>, TrainError> {
    let Prepared { trainee, recipe, context, .. } = prepared;
    let split = [Split::Validation, Split::Test, Split::Train]
        .into_iter()
        .find(|&split| trainee.samples(split) > 0)
        .unwrap_or(Split::Train);
    let samples: Vec<u32> = (0..trainee.samples(split).min(CERTIFIED_SAMPLES) as u32).collect();
    let logits = |store: &ParameterStore, batch_size| {
        evaluate_logits(context, store, trainee, split, &samples, batch_size)
    };
    let outputs = task.outputs();
    let trained = logits(&trainer.store, recipe.train.per_device_eval_batch_size)?;
    let alone = logits(&trainer.store, 1)?;
    let mut certificates =
        vec![Certificate::compare("evaluated one sample at a time", outputs, &trained, &alone)];
    if certificates[0].max_logit_difference > 0.0 {
        trainer.emit(&Event::warning(
            "batch-dependent-evaluation",
            "logits of a sample depend on the batch it is in; please report this",
        ));
    }
    match trainee {
        ModalTrainee::Text(text) => {
            let mut store = trainer.store.clone();
            if let (Some(lora), Some(cpu)) = (&prepared.lora, context.kernels()) {
                let linears = text.model.linears();
                let adapted = linears.iter().filter_map(|linear| Some((linear.weight(), linear.low_rank()?)));
                store = merge_adapters(cpu, adapted, &trainer.store);
                let merged = logits(&store, 8)?;
                certificates.push(Certificate::compare("adapters merged", outputs, &trained, &merged));
                let base = &recipe.model.name_or_path;
                write_adapter(folder, &trainer.store, &text.model, lora, base)?;
            }
            let config =
                ArtifactConfig { base: &prepared.config, model: &text.model, task, recipe, temperature };
            config.write(folder, &store, &prepared.model_directory)?;
        }
        ModalTrainee::Image(image) => {
            let artifact = ImageArtifact { trainee: image, task, temperature };
            let (mut store, mut answers) = (trainer.store.clone(), trained);
            if let (Some(lora), Some(cpu)) = (&prepared.lora, context.kernels()) {
                let adapted = image.model.adapted_layers().iter();
                let adapted = adapted.map(|layer| (layer.weight, &layer.low_rank));
                store = merge_adapters(cpu, adapted, &trainer.store);
                let merged = logits(&store, 8)?;
                certificates.push(Certificate::compare("adapters merged", outputs, &answers, &merged));
                answers = merged;
                artifact.write_adapter(folder, &trainer.store, lora, &recipe.model.name_or_path)?;
            }
            artifact.write(folder, &store, &prepared.model_directory)?;
            if let Some(certificate) = artifact.certify(context, folder, (split, &samples), &answers)? {
                certificates.push(certificate);
            }
        }
    }
    Ok(certificates)
}
