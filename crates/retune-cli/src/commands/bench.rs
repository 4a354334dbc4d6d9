//! `retune bench`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use retune::tensor::Precision;
use retune::train::{BenchInput, BenchOptions, bench};
use serde_json::json;

use crate::console::{Failure, print_line};

/// `retune bench`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune bench path/to/bert-base --batch-size 8 --length 128 --steps 10
  retune bench path/to/model --batch-size 32 --lengths lengths.json --json
  retune bench resnet50 --image-size 224 --batch-size 8")]
pub struct Bench {
    /// A folder with config.json, or with --image-size also a weight file or the name of an architecture; weights are
    /// read if there are any, else initialized.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Samples in a batch.
    #[arg(long, default_value_t = 8)]
    pub batch_size: usize,
    /// Tokens in every sequence.
    #[arg(long, default_value_t = 128)]
    pub length: u32,
    /// A JSON array of lengths, cut into batches in order, instead of one length.
    #[arg(long, value_name = "FILE", conflicts_with = "length")]
    pub lengths: Option<PathBuf>,
    /// Square pictures of this many pixels a side instead of text.
    #[arg(long, value_name = "PIXELS", conflicts_with_all = ["length", "lengths"])]
    pub image_size: Option<usize>,
    /// The architecture of weights that have no config.json.
    #[arg(long, value_name = "NAME", requires = "image_size")]
    pub architecture: Option<String>,
    /// What the operands of products are rounded to.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    pub precision: String,
    /// Training steps; the first is left out of the median.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: u16,
    /// Worker threads [default: all cores].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Keep each block as its input only and compute it again in backward.
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Bench) -> Result<ExitCode, Failure> {
    let before = process_age_seconds();
    let options = BenchOptions {
        model: arguments.model.clone(),
        batch_size: arguments.batch_size,
        input: match (arguments.image_size, &arguments.lengths) {
            (Some(size), _) => BenchInput::Images { size, architecture: arguments.architecture.clone() },
            (None, Some(path)) => BenchInput::Tokens(read_lengths(path)?),
            (None, None) => BenchInput::Tokens(vec![arguments.length; arguments.batch_size]),
        },
        steps: usize::from(arguments.steps),
        threads: arguments.threads,
        isa: super::fit::isa()?,
        precision: if arguments.precision == "bf16" { Precision::Bf16 } else { Precision::F32 },
        gradient_checkpointing: arguments.gradient_checkpointing,
    };
    let result = bench(&options)?;
    let mut json = serde_json::to_value(&result).map_err(Failure::other)?;
    json["startup_seconds"] = json!(before + result.startup_seconds);
    json["peak_rss_bytes"] = json!(peak_rss_bytes());
    if arguments.json {
        print_line(json);
        return Ok(ExitCode::SUCCESS);
    }
    print_line(format_args!(
        "{:.3} s a step (median of {}), {:.1} samples/s, {:.0}% of this machine's matrix-product rate, {} MiB resident, \
         loss {:.5} before the first step",
        result.median_step_seconds,
        result.step_seconds.len(),
        result.samples_per_second,
        100.0 * result.fraction_of_gemm_rate,
        peak_rss_bytes().unwrap_or(0) / (1 << 20),
        result.initial_eval_loss,
    ));
    Ok(ExitCode::SUCCESS)
}

fn read_lengths(path: &Path) -> Result<Vec<u32>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let lengths: Result<Vec<u32>, _> = serde_json::from_str::<Vec<u32>>(&text);
    match lengths {
        Ok(lengths) if lengths.iter().all(|&length| length > 0) => Ok(lengths),
        _ => Err(Failure::usage(format!("{}: expected a JSON array of positive lengths", path.display()))),
    }
}

/// Seconds since this process began, where the system tells.
fn process_age_seconds() -> f64 {
    let age = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The 22nd field, counted behind the parenthesized name, is the start in ticks of 10 ms.
        let start: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Some(now - start / 100.0)
    };
    age().unwrap_or(0.0)
}

/// The largest resident memory of this process so far, where the system tells.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
