//! `retune eval`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use retune::data::Target;
use retune::tasks::ProblemType;
use retune::tasks::metrics::{
    Bootstrap, Comparison, EvaluationOptions, EvaluationReport, Verdict, compare_classification,
    compare_multi_label, compare_regression,
};
use retune::train::{Evaluation, ModalPredictor, ReadData};
use serde_json::{Value, json};

use super::predict::{all_logits, data_recipe, open, require_model, with_views};
use crate::console::{Failure, print_line};

/// `retune eval`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune eval runs/support-tickets --data examples/support-tickets/test.csv
  retune eval runs/gradual --data test.csv --against runs/full")]
pub struct Eval {
    /// The model: a run folder, or any folder with a fine-tuned model.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The labelled data; the test data of the run (else its validation data) if absent.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Another model to compare with on the same rows: better, worse, or within noise.
    #[arg(long, value_name = "MODEL")]
    pub against: Option<PathBuf>,
    /// Average the probabilities of several views of each picture: flip, five_crop or ten_crop; none overrules what the
    /// model was trained with (augmentation.test_time).
    #[arg(long, value_name = "VIEWS")]
    pub tta: Option<String>,
    /// Rows computed at once; the result does not depend on it.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Keys of a recipe's data section, such as max_length=512 or label_column=intent.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

struct Measured {
    predictor: ModalPredictor,
    data: ReadData,
    evaluation: Evaluation,
}

/// Runs the command.
pub fn run(arguments: &Eval) -> Result<ExitCode, Failure> {
    let (data, mut overrides) = data_of(&arguments.model, arguments.data.as_deref())?;
    overrides.extend(with_views(&arguments.overrides, arguments.tta.as_deref()));
    let first = measure(&arguments.model, &data, &overrides, arguments.batch_size)?;
    let against = arguments.against.as_deref();
    let second = against.map(|model| measure(model, &data, &overrides, arguments.batch_size)).transpose()?;
    let comparison = second.as_ref().map(|second| compare(&first, second)).transpose()?;
    if arguments.json {
        let mut json = Value::Object(first.evaluation.report.to_json("eval_"));
        json["eval_loss"] = json!(first.evaluation.loss);
        json["data"] = json!(data);
        if let Some(comparison) = &comparison {
            json["against"] = serde_json::to_value(comparison).map_err(Failure::other)?;
        }
        print_line(json);
        return Ok(ExitCode::SUCCESS);
    }
    print_line(format_args!(
        "{} on {} ({} rows)",
        arguments.model.display(),
        data.display(),
        first.data.len()
    ));
    print_report(&first.evaluation);
    if let (Some(comparison), Some(against)) = (&comparison, against) {
        print_line(sentence(comparison, against));
    }
    Ok(ExitCode::SUCCESS)
}

/// The data to evaluate on, with the column settings of the model's own run.
fn data_of(model: &Path, data: Option<&Path>) -> Result<(PathBuf, Vec<String>), Failure> {
    require_model(model)?;
    let lock = std::fs::read_to_string(model.join("recipe.lock.toml")).ok();
    let lock: Option<toml::Table> = lock.and_then(|text| text.parse().ok());
    let section = lock.as_ref().and_then(|lock| lock.get("data")?.as_table());
    let named = |key: &str| Some(section?.get(key)?.as_str()?.to_owned());
    let path = match data {
        Some(path) => path.to_owned(),
        None => named("test").or_else(|| named("validation")).map(PathBuf::from).ok_or_else(|| {
            Failure::usage(format!("{} records no test data; name a file with --data", model.display()))
        })?,
    };
    let kept = [
        "text_column",
        "text_pair_column",
        "image_column",
        "label_separator",
        "encoding",
        "format",
        "delimiter",
    ];
    let mut overrides: Vec<String> =
        kept.iter().filter_map(|key| Some(format!("data.{key}={}", Value::String(named(key)?)))).collect();
    for key in ["has_header", "columns", "label_column"] {
        if let Some(value) = section.and_then(|section| section.get(key)) {
            overrides.push(format!("data.{key}={value}"));
        }
    }
    Ok((path, overrides))
}

fn measure(model: &Path, data: &Path, overrides: &[String], batch_size: usize) -> Result<Measured, Failure> {
    let recipe = data_recipe(model, data, overrides)?;
    let predictor = open(model, &recipe, overrides)?;
    let read = predictor.read(&recipe, data, true)?;
    if read.targets().into_iter().any(|target| *target == Target::None) {
        return Err(Failure::usage(format!(
            "{}: no label column; name it with label_column=NAME",
            data.display()
        )));
    }
    let logits = all_logits(&predictor, &read, batch_size)?;
    let options = EvaluationOptions { temperature: predictor.temperature(), ..EvaluationOptions::default() };
    let evaluation = predictor.measure(&read, &logits, &options)?;
    Ok(Measured { predictor, data: read, evaluation })
}

fn compare(first: &Measured, second: &Measured) -> Result<Comparison, Failure> {
    let (task, other) = (first.predictor.task(), second.predictor.task());
    if task.problem_type != other.problem_type || task.labels != other.labels {
        return Err(Failure::usage(
            "the two models do not answer with the same labels, so they cannot be compared",
        ));
    }
    let bootstrap = Bootstrap::default();
    let metric = task.default_metric();
    let table = |measured: &Measured| {
        let targets: Vec<&Target> = measured.data.targets();
        (targets.into_iter().cloned().collect::<Vec<_>>(), measured.evaluation.logits.clone())
    };
    let ((targets, logits), (_, other_logits)) = (table(first), table(second));
    let targets: Vec<&Target> = targets.iter().collect();
    let compared = match task.problem_type {
        ProblemType::SingleLabelClassification => compare_classification(
            &task.classification(&targets, &logits),
            &task.classification(&targets, &other_logits),
            metric,
            &bootstrap,
        ),
        ProblemType::MultiLabelClassification => compare_multi_label(
            &task.multi_label(&targets, &logits),
            &task.multi_label(&targets, &other_logits),
            metric,
            &bootstrap,
        ),
        ProblemType::Regression => compare_regression(
            &task.regression(&targets, &logits),
            &task.regression(&targets, &other_logits),
            metric,
            &bootstrap,
        ),
    };
    compared.map_err(Failure::other)
}

fn sentence(comparison: &Comparison, against: &Path) -> String {
    let verdict = match comparison.verdict {
        Verdict::Better => "better than",
        Verdict::Worse => "worse than",
        Verdict::WithinNoise => "within noise of",
    };
    let number =
        |value: Option<f64>| value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
    let interval = comparison.interval.map_or_else(String::new, |interval| {
        format!(", 95% interval {:+.4} to {:+.4}", interval.low, interval.high)
    });
    let p_value = comparison.p_value.map_or_else(String::new, |p| format!(", p = {p:.3}"));
    format!(
        "{verdict} {}: {} {} against {} (difference {}{interval}{p_value})",
        against.display(),
        comparison.metric,
        number(comparison.value),
        number(comparison.against),
        number(comparison.difference),
    )
}

fn print_report(evaluation: &Evaluation) {
    let report: &EvaluationReport = &evaluation.report;
    let width = report.scores.iter().map(|score| score.metric.display_name.len()).max().unwrap_or(0).max(4);
    print_line(format_args!("{:width$}  {:>8.4}", "Loss", evaluation.loss));
    for score in &report.scores {
        let Some(value) = score.value else { continue };
        let interval = score.interval.map_or_else(String::new, |interval| {
            format!("   95% interval {:.4} to {:.4}", interval.low, interval.high)
        });
        print_line(format_args!("{:width$}  {value:>8.4}{interval}", score.metric.display_name));
    }
}
