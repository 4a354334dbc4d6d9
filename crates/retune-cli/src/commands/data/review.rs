//! `retune data review`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retune::train::review;
use serde_json::json;

use super::super::fit::prepare_options;
use super::Source;
use crate::console::{Failure, print_line, tell};
use crate::format::{count, percent};

/// At most this many rows are shown.
const SHOWN: usize = 10;
/// Characters of a text that are shown.
const EXCERPT: usize = 70;

/// `retune data review`
#[derive(Debug, Args)]
#[command(
    after_help = "Every training row is judged by a linear classifier on the pretrained model's features that was \
fitted without it. The file lists the most doubtful first. Look at each, write `keep`, `drop` or `relabel` into the column \
`decision` (and another label into `new_label` if the suggested one is not right either), leave it empty where you do not \
know, and train with your decisions:

  retune data review recipe.toml --output review.csv
  retune fit recipe.toml --apply-review review.csv

A row that is suspect is not wrong yet: rare but right examples look the same to a classifier. That is why a person decides."
)]
pub struct Review {
    /// The recipe whose training file is judged.
    #[command(flatten)]
    pub source: Source,
    /// The file to write: .csv, .tsv or .jsonl.
    #[arg(long, value_name = "FILE", default_value = "review.csv")]
    pub output: PathBuf,
    /// The parts that the rows are cut into; each is judged by the others.
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub folds: usize,
    /// Judge by what this run saw in training too: the folder of a fit of the same file with train.record_dynamics = true.
    #[arg(long, value_name = "RUN")]
    pub dynamics: Option<PathBuf>,
    /// How many rows to list [default: those that are suspect].
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Review) -> Result<ExitCode, Failure> {
    let Some(recipe) = arguments.source.recipe()? else {
        return Err(Failure::usage("a review needs a recipe, which names the model to judge by"));
    };
    if arguments.output.exists() {
        return Err(Failure::usage(format!(
            "{} is there already, perhaps with decisions; choose another --output",
            arguments.output.display()
        )));
    }
    let judges = (arguments.folds, arguments.dynamics.as_deref());
    let found = review(&recipe, &prepare_options()?, judges, &mut tell)?;
    let rows = arguments.rows.unwrap_or(found.suspects());
    found.write(&arguments.output, rows)?;
    if arguments.json {
        print_line(json!({
            "file": found.path,
            "rows": found.queue.len(),
            "suspects": found.suspects(),
            "agreement": found.agreement,
            "better_judge": found.better_judge,
            "ridge": found.ridge,
            "written": arguments.output,
            "queue": serde_json::to_value(&found.queue).map_err(Failure::other)?,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    print_line(format_args!(
        "{}: {} of {} rows are suspect; the classifier that judges gives {} of all rows the label that they have",
        found.path.display(),
        count(found.suspects()),
        count(found.queue.len()),
        percent(found.agreement),
    ));
    if let Some(accuracy) = found.better_judge {
        print_line(format_args!(
            "in the order of the run's margins, which answers {} of its validation rows rightly: more than that classifier",
            percent(accuracy)
        ));
    }
    for judged in found.queue.iter().take(SHOWN.min(rows)) {
        let excerpt: String = found.content(judged).chars().take(EXCERPT).collect();
        print_line(format_args!(
            "line {}: \"{}\", rather \"{}\"? ({} against {})  {}",
            judged.line,
            judged.label,
            judged.suggested,
            percent(judged.confidence),
            percent(judged.suggested_confidence),
            excerpt.replace('\n', " "),
        ));
    }
    print_line(format_args!(
        "written: {} with {} rows to decide on",
        arguments.output.display(),
        count(rows.min(found.queue.len()))
    ));
    Ok(ExitCode::SUCCESS)
}
