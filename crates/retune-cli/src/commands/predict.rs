//! `retune predict`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::write_atomic;
use retune::train::{ModalPredictor, PredictOptions, ReadData, Recipe, TrainError};
use serde_json::{Map, Value, json};

use crate::console::{Failure, Progress, print_line};

/// `retune predict`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune predict --model runs/support-tickets --data new.csv --output answers.jsonl
  retune predict --model runs/support-tickets --data new.csv --output answers.jsonl --logits max_length=512
  retune predict --model runs/ants-bees --data folder/of/pictures --output answers.jsonl --tta flip
  retune predict --model weights.pth model.architecture=resnet18 --data pictures.csv --logits")]
pub struct Predict {
    /// The model: a run folder, any folder with a fine-tuned model, or a file of image weights (with
    /// model.architecture).
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// The data: CSV, TSV, JSON Lines, Parquet, or a folder of pictures; labels are not needed.
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// Where the answers go, one JSON object a row; standard output if absent.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Add the raw logits, in the order of id2label.
    #[arg(long)]
    pub logits: bool,
    /// Divide the logits by the temperature that was fitted on validation data before scoring.
    #[arg(long)]
    pub calibrated: bool,
    /// Average the probabilities of several views of each picture: flip, five_crop or ten_crop; none overrules what the
    /// model was trained with (augmentation.test_time).
    #[arg(long, value_name = "VIEWS")]
    pub tta: Option<String>,
    /// Rows computed at once; answers do not depend on it.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Keys of a recipe's data section, such as max_length=512, over_length=window or text_column=message.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print a summary as one JSON object on standard output.
    #[arg(long, requires = "output")]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Predict) -> Result<ExitCode, Failure> {
    let overrides = with_views(&arguments.overrides, arguments.tta.as_deref());
    let recipe = data_recipe(&arguments.model, &arguments.data, &overrides)?;
    let predictor = open(&arguments.model, &recipe, &overrides)?;
    let temperature = if arguments.calibrated {
        predictor.temperature().ok_or_else(|| {
            Failure::usage(format!(
                "{} has no fitted temperature; leave --calibrated out",
                arguments.model.display()
            ))
        })?
    } else {
        1.0
    };
    let data = predictor.read(&recipe, &arguments.data, false)?;
    for finding in data.findings() {
        eprintln!("{finding}");
    }
    let logits = all_logits(&predictor, &data, arguments.batch_size)?;
    let outputs = predictor.task().outputs();
    let mut rows = logits.chunks(outputs).enumerate().map(|(index, logits)| {
        let answer = predictor.task().prediction_at(logits, temperature);
        let mut row = beside(data.source_columns(index), answer);
        if arguments.logits {
            row.insert("logits".to_owned(), json!(logits));
        }
        Value::Object(row)
    });
    match &arguments.output {
        Some(path) => {
            write_atomic(path, |file| rows.try_for_each(|row| writeln!(file, "{row}")))
                .map_err(Failure::other)?;
            if arguments.json {
                print_line(json!({ "rows": data.len(), "output": path.to_string_lossy() }));
            } else {
                eprintln!("{} rows answered, written to {}", data.len(), path.display());
            }
        }
        None => rows.for_each(print_line),
    }
    Ok(ExitCode::SUCCESS)
}

/// The source's columns and the answer in one object. A source column that is called as a part of the answer is kept
/// as `input_…`.
fn beside(columns: Map<String, Value>, answer: Map<String, Value>) -> Map<String, Value> {
    let reserved: BTreeSet<&str> = answer.keys().map(String::as_str).chain(["logits"]).collect();
    let mut row = Map::new();
    for (name, value) in columns {
        let name = if reserved.contains(name.as_str()) { format!("input_{name}") } else { name };
        row.insert(name, value);
    }
    row.extend(answer);
    row
}

/// Overrides with the views that are averaged, if the command line names them.
pub fn with_views(overrides: &[String], views: Option<&str>) -> Vec<String> {
    let views = views.map(|views| format!("augmentation.test_time={views}"));
    overrides.iter().cloned().chain(views).collect()
}

/// A recipe whose `[data]` section the command line fills.
pub fn data_recipe(model: &Path, data: &Path, overrides: &[String]) -> Result<Recipe, Failure> {
    let text = |path: &Path| Value::String(path.display().to_string()).to_string();
    let mut all = vec![format!("model.name_or_path={}", text(model)), format!("data.train={}", text(data))];
    all.extend_from_slice(overrides);
    Recipe::parse("", "command line", &all).map_err(|error| TrainError::from(error).into())
}

/// Refuses a path that is neither a folder nor a file of weights.
pub fn require_model(model: &Path) -> Result<(), Failure> {
    if model.exists() {
        return Ok(());
    }
    Err(Failure::usage(format!("{}: no such model folder", model.display())))
}

/// Opens a model; settings of the command line win over those it was trained with.
pub fn open(model: &Path, recipe: &Recipe, overrides: &[String]) -> Result<ModalPredictor, Failure> {
    let sets = |key: &str| {
        overrides.iter().filter_map(|text| text.split_once('=')).any(|(name, _)| name.trim().ends_with(key))
    };
    let options = PredictOptions {
        max_length: recipe.data.max_length,
        over_length: (sets("over_length") || sets("stride")).then_some(recipe.data.over_length),
        stride: recipe.data.stride,
        test_time: sets("test_time").then_some(recipe.augmentation.test_time),
        threads: recipe.train.threads,
        isa: super::fit::isa()?,
        features_only: false,
    };
    require_model(model)?;
    Ok(ModalPredictor::open(model, recipe, &options)?)
}

/// Logits of all rows, [rows, outputs], with progress on a terminal.
pub fn all_logits(
    predictor: &ModalPredictor,
    data: &ReadData,
    batch_size: usize,
) -> Result<Vec<f32>, Failure> {
    if let Some(truncation) = data.truncation() {
        eprintln!("warning: {truncation}");
    }
    let progress = Progress::new(data.len() as u64, "rows");
    Ok(predictor.logits(data, batch_size, |done| progress.advance(done as u64))?)
}
