//! What a run tells and measures before its first step: what begins, what it will take, what the untrained head answers.

use std::time::{SystemTime, UNIX_EPOCH};

use retune_checkpoint::ensure_space;
use retune_data::Severity;
use retune_tasks::metrics::EvaluationOptions;
use serde_json::{Map, Value};

use crate::event::{Event, RunStarted};
use crate::forecast::{Forecast, input_seconds};
use crate::modality::ModalTrainee;
use crate::plan::{disk_bytes, plan_run};
use crate::prepare::{Prepared, context_threads};
use crate::rates::MachineRates;
use crate::state::Progress;
use crate::trainee::{Split, Trainee};
use crate::trainer::{Trainer, metric_values};
use crate::{RunFolder, TrainError};

/// Tells what begins, checks the disk, and measures the untrained head.
pub(super) fn begin(
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
pub(super) fn forecast(prepared: &Prepared) -> Result<Option<Forecast>, TrainError> {
    let plan = plan_run(prepared);
    let Some(cpu) = prepared.context.kernels() else { return Ok(None) };
    if plan.training_operations + plan.evaluation_operations < WORTH_A_FORECAST {
        return Ok(None);
    }
    let input = input_seconds(&prepared.trainee, Split::Train)?;
    let rates = MachineRates::measure(cpu, prepared.context.precision());
    Ok(Some(Forecast::new(prepared, &plan, &rates, input)))
}

/// Tells what was predicted beside what was measured.
pub(super) fn tell_of_forecast(trainer: &mut Trainer<'_>, folder: &RunFolder) -> Result<(), TrainError> {
    let Some(forecast) = folder.read_json::<Forecast>(FORECAST)? else { return Ok(()) };
    let Progress { timings, peak_resident_bytes, .. } = &trainer.progress;
    let compared = forecast.compare(timings, *peak_resident_bytes);
    trainer.emit(&Event::ForecastCompared(compared));
    Ok(())
}

/// What the head answered before training, kept from the beginning of the run for its report.
pub(super) const UNTRAINED: &str = "checkpoints/untrained.json";

fn quick_options() -> EvaluationOptions {
    let mut options = EvaluationOptions::default();
    options.bootstrap.resamples = 0;
    options
}
