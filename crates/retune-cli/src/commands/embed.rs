//! `retune embed`: one feature vector per text, to NPY, Parquet or JSON Lines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use retune::autograd::Pooling;
use retune::checkpoint::write_atomic;
use retune::data::{EncodedDataset, FeatureColumn, Row, Table, TextDataset, Value as Cell, write_parquet};
use retune::train::{PredictOptions, Predictor, Recipe, TrainError};
use serde_json::{Value, json};

use super::fit::isa;
use super::predict::data_recipe;
use crate::console::{Failure, Progress, print_line};
use crate::format::{count, counted, duration};
use crate::inputs::find_model;

/// The column of vectors in JSON Lines and Parquet.
const FEATURES: &str = "features";

/// `retune embed`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune embed --model runs/tickets --data new.csv --output features.npy
  retune embed --model path/to/model --data reviews.csv --output reviews.parquet --pooling cls
  retune embed --model path/to/model --data texts.jsonl --output vectors.jsonl --normalize max_length=128

NPY holds float32 [rows, hidden] in the order of the data; Parquet and JSON Lines keep the data's columns and add the
column \"features\".")]
pub struct Embed {
    /// The model: a folder or a hub id. It needs no fitted head.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// The texts: CSV, TSV, JSON Lines or Parquet.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// The file to write: .npy, .parquet or .jsonl.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// How the tokens of a text become one vector.
    #[arg(long, value_enum, default_value_t = PoolingChoice::Mean)]
    pub pooling: PoolingChoice,
    /// The column of texts [default: found by name and content].
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
    /// The column of second texts, for pairs.
    #[arg(long, value_name = "COLUMN")]
    pub text_pair_column: Option<String>,
    /// Texts that are computed at once; no vector depends on it.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Divide every vector by its length, so that products are cosines.
    #[arg(long)]
    pub normalize: bool,
    /// Another place to look for the model, such as pypi:NAME; may be given several times.
    #[arg(long, value_name = "MIRROR")]
    pub mirror: Vec<String>,
    /// Keys of a recipe's data section, such as max_length=128, over_length=head_tail or missing_label=drop.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How the tokens of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolingChoice {
    /// The mean of all tokens.
    Mean,
    /// The first token's (BERT's CLS).
    Cls,
    /// The greatest value of each feature over all tokens.
    Max,
}

impl PoolingChoice {
    fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::Cls => Pooling::First,
            Self::Max => Pooling::Max,
        }
    }
}

/// The formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputFormat {
    Npy,
    Parquet,
    JsonLines,
}

impl OutputFormat {
    fn of(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
        match extension.as_deref() {
            Some("npy") => Ok(Self::Npy),
            Some("parquet" | "pq") => Ok(Self::Parquet),
            Some("jsonl" | "ndjson") => Ok(Self::JsonLines),
            _ => Err(Failure::usage(format!(
                "{}: features are written as .npy, .parquet or .jsonl; choose such a name for --output",
                path.display()
            ))),
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Embed) -> Result<ExitCode, Failure> {
    let format = OutputFormat::of(&arguments.output)?;
    let recipe = read_recipe(arguments)?;
    let files = find_model(&arguments.model, &arguments.mirror)?;
    let predictor = Predictor::open(&files.directory, &predict_options(&recipe, &arguments.overrides)?)?;
    let dataset = predictor.read(&recipe, &arguments.data, false)?;
    dataset.findings.iter().for_each(|finding| eprintln!("{finding}"));
    if format != OutputFormat::Npy && dataset.source_columns(0).contains_key(FEATURES) {
        return Err(Failure::usage(format!(
            "{} has a column \"{FEATURES}\" already; rename it, or write .npy",
            arguments.data.display()
        )));
    }
    let encoded = predictor.encode_dataset(&dataset)?;
    tell_lengths(&encoded);
    let started = Instant::now();
    let width = predictor.hidden_size();
    let mut features = compute(&predictor, &encoded, arguments);
    let seconds = started.elapsed().as_secs_f64();
    if arguments.normalize {
        normalize(&mut features, width);
    }
    let values = FeatureColumn { name: FEATURES, width, values: &features };
    match format {
        OutputFormat::Npy => write_npy(&arguments.output, &values)?,
        OutputFormat::JsonLines => write_json_lines(&arguments.output, &dataset, &values)?,
        OutputFormat::Parquet => {
            write_parquet(&arguments.output, &source_table(&dataset), &values).map_err(TrainError::from)?;
        }
    }
    report(arguments, &encoded, width, seconds);
    Ok(ExitCode::SUCCESS)
}

/// A recipe whose `[data]` section the command line fills.
fn read_recipe(arguments: &Embed) -> Result<Recipe, Failure> {
    let columns = [
        ("data.text_column", &arguments.text_column),
        ("data.text_pair_column", &arguments.text_pair_column),
    ];
    let quoted =
        |(key, column): (&str, &Option<String>)| Some(format!("{key}={}", Value::String(column.clone()?)));
    let mut overrides: Vec<String> = columns.into_iter().filter_map(quoted).collect();
    overrides.extend(arguments.overrides.iter().cloned());
    data_recipe(Path::new(&arguments.model), &arguments.data, &overrides)
}

/// Settings of the command line win over those that the model was trained with.
fn predict_options(recipe: &Recipe, overrides: &[String]) -> Result<PredictOptions, Failure> {
    let keys = overrides.iter().filter_map(|change| change.split_once('='));
    let sets_over_length = keys.map(|(key, _)| key.trim()).any(|key| key.ends_with("over_length"));
    Ok(PredictOptions {
        max_length: recipe.data.max_length,
        over_length: sets_over_length.then_some(recipe.data.over_length),
        stride: recipe.data.stride,
        threads: recipe.train.threads,
        isa: isa()?,
        test_time: None,
        features_only: true,
    })
}

/// The source's columns, every cell a text.
fn source_table(dataset: &TextDataset) -> Table {
    let cell = |value: Value| match value {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text),
        other => Cell::Text(other.to_string()),
    };
    let rows = dataset.examples.iter().enumerate().map(|(index, example)| Row {
        line: example.line,
        values: dataset.source_columns(index).into_iter().map(|(_, value)| cell(value)).collect(),
    });
    Table {
        path: dataset.path().to_path_buf(),
        columns: dataset.source_columns(0).into_iter().map(|(name, _)| name).collect(),
        rows: rows.collect(),
        findings: Vec::new(),
    }
}

/// Says what became of long texts: never silent.
fn tell_lengths(encoded: &EncodedDataset) {
    let report = &encoded.report;
    if report.truncated > 0 {
        eprintln!("warning: {report}");
    }
    if report.windowed > 0 {
        eprintln!(
            "warning: {} longer than max_length = {}; their features are those of their first {} tokens",
            if report.windowed == 1 {
                "1 text is".to_owned()
            } else {
                format!("{} texts are", count(report.windowed))
            },
            report.max_length,
            report.max_length,
        );
    }
}

/// The features of all texts, [texts, hidden].
fn compute(predictor: &Predictor, encoded: &EncodedDataset, arguments: &Embed) -> Vec<f32> {
    let pooling = arguments.pooling.pooling();
    let progress = Progress::new(encoded.len() as u64, "texts");
    let mut features = Vec::with_capacity(encoded.len() * predictor.hidden_size());
    let batch_size = arguments.batch_size as usize;
    for start in (0..encoded.len()).step_by(batch_size) {
        let batch = encoded.encodings(start..(start + batch_size).min(encoded.len()));
        features.extend(predictor.features(&batch.iter().collect::<Vec<_>>(), pooling));
        progress.advance(batch.len() as u64);
    }
    features
}

/// Divides every vector by its Euclidean length; a vector of zeros stays.
fn normalize(features: &mut [f32], width: usize) {
    for vector in features.chunks_mut(width.max(1)) {
        let sum: f64 = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        let length = sum.sqrt().max(1e-12);
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// The first bytes of a NumPy file, format version 1.0:
/// <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn npy_header(rows: usize, width: usize) -> Vec<u8> {
    /// Magic string, version, and the length of what follows.
    const BEFORE: usize = 10;
    const ALIGNMENT: usize = 64;
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Blanks and a line end fill up to where the values are aligned.
    let length = (BEFORE + dictionary.len() + 1).next_multiple_of(ALIGNMENT) - BEFORE;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{dictionary:<padded$}\n", padded = length - 1).bytes());
    header
}

fn write_npy(path: &Path, features: &FeatureColumn<'_>) -> Result<(), Failure> {
    let rows = features.values.len() / features.width.max(1);
    let header = npy_header(rows, features.width);
    write_atomic(path, |writer| {
        writer.write_all(&header)?;
        write_values(writer, features.values)
    })
    .map_err(TrainError::from)?;
    Ok(())
}

fn write_values(writer: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * 4096);
    for chunk in values.chunks(4096) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

/// The columns of each row and its vector, one JSON object a line.
fn write_json_lines(path: &Path, dataset: &TextDataset, features: &FeatureColumn<'_>) -> Result<(), Failure> {
    write_atomic(path, |writer| {
        for (index, vector) in features.values.chunks(features.width.max(1)).enumerate() {
            let mut row = dataset.source_columns(index);
            row.insert(FEATURES.to_owned(), vector.iter().map(|&value| shortest(value)).collect());
            serde_json::to_writer(&mut *writer, &row)?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    })
    .map_err(TrainError::from)?;
    Ok(())
}

/// A number in the shortest decimal form that gives the same `f32` again.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn report(arguments: &Embed, encoded: &EncodedDataset, width: usize, seconds: f64) {
    let rows = encoded.len();
    let output = arguments.output.display();
    if arguments.json {
        print_line(json!({
            "output": output.to_string(),
            "rows": rows,
            "hidden_size": width,
            "pooling": match arguments.pooling {
                PoolingChoice::Mean => "mean",
                PoolingChoice::Cls => "cls",
                PoolingChoice::Max => "max",
            },
            "normalized": arguments.normalize,
            "tokens": encoded.report.tokens,
            "truncated": encoded.report.truncated,
            "seconds": seconds,
        }));
        return;
    }
    print_line(format_args!(
        "{output}: {} of {} features in {}, {:.1} texts/s",
        counted(rows, "vector"),
        count(width),
        duration(seconds),
        rows as f64 / seconds.max(1e-9),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numpy_header_is_padded_to_64_bytes_and_says_the_shape() {
        let header = npy_header(12, 384);
        assert!(header.starts_with(b"\x93NUMPY\x01\x00"));
        assert_eq!(header.len() % 64, 0);
        assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
        let text = String::from_utf8_lossy(&header[10..]);
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (12, 384), }"), "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn vectors_are_divided_by_their_length() {
        let mut features = vec![3.0, 4.0, 0.0, 0.0];
        normalize(&mut features, 2);
        assert_eq!(features, [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn numbers_are_written_no_longer_than_they_need_be() {
        assert_eq!(shortest(0.1).to_string(), "0.1");
        assert_eq!(shortest(f32::NAN), Value::Null);
    }
}
