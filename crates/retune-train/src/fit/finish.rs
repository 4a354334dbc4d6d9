//! What a run leaves: the final model's measurements, its detectors' warnings, the artifact with its certificates.

use retune_data::Target;
use retune_nn::{ParameterStore, Trainable};
use retune_tasks::metrics::{EvaluationOptions, EvaluationReport, fit_temperature};
use retune_tasks::{ClassificationTask, ProblemType};
use serde_json::{Map, Value, json};

use super::begin::UNTRAINED;
use super::predictions::write_predictions;
use crate::artifact::{ArtifactConfig, Certificate, merge_adapters, thresholds_json, write_adapter};
use crate::copies::Copies;
use crate::evaluate::{Evaluation, evaluate_logits};
use crate::event::Event;
use crate::image_artifact::ImageArtifact;
use crate::modality::ModalTrainee;
use crate::prepare::{Prepared, context_threads};
use crate::recipe::NearCopies;
use crate::state::{Progress, unexpected_movement};
use crate::trainee::{Split, Trainee};
use crate::trainer::Trainer;
use crate::{RunFolder, TrainError};

/// Key biases shift all scores of a softmax alike: their gradient is zero in theory, so they may well stay.
const UNMOVED_IN_THEORY: &[&str] = &[".key.bias", ".k_lin.bias"];

pub(super) fn watch_movement(trainer: &mut Trainer<'_>, before: &[u64]) {
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
pub(super) fn finish(
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
    if let Some(dynamics) = &trainer.progress.dynamics {
        let label = |target: &Target| match target {
            Target::Class(class) => task.labels.name(*class).unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        let labels = split_targets(trainee, Split::Train).into_iter().map(label);
        dynamics.write(folder, trainee.lines(Split::Train).into_iter().zip(labels))?;
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
    let data = &prepared.recipe.data;
    if split == Split::Validation && data.validation_split.is_some() && data.near_copies == NearCopies::Apart
    {
        message.push_str(", and data.near_copies = \"together\" keeps them on one side");
    }
    trainer.emit(&Event::warning("copies-across-splits", message));
    Ok(metrics)
}

fn read_untrained(folder: &RunFolder) -> Result<Map<String, Value>, TrainError> {
    let missing = || TrainError::io(&folder.path(UNTRAINED))(std::io::ErrorKind::NotFound.into());
    folder.read_json(UNTRAINED)?.ok_or_else(missing)
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
            let artifact =
                ImageArtifact { trainee: image, task, temperature, precision: context.precision() };
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
