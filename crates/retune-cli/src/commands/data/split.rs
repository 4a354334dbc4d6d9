//! `retune data split`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use retune::data::ReadOptions;
use retune::train::{SplitBy, SplitFile, split_file, write_split};
use serde_json::json;

use super::Columns;
use crate::console::{Failure, print_line};
use crate::format::counted;

/// `retune data split`
#[derive(Debug, Args)]
#[command(
    after_help = "Rows are placed by a hash of what they say, not by chance: the same file gives the same split, \
shuffled or not, and equal texts and near copies stay together. By default each class keeps its share in every part; with \
--by-hash a row never moves when others are appended, so that near copies are then held apart unless --near-copies says \
otherwise. With --folds every row that is not in the test file is once in a validation file: fold-1/train.csv, \
fold-1/validation.csv and so on.

Examples:
  retune data split reviews.csv --output data/ --test 0.2 --validation 0.1
  retune data split reviews.csv --output folds/ --folds 5
  retune data split patients.csv --output data/ --group-column patient
  retune data split tickets.csv --output data/ --by-time received_at"
)]
pub struct Split {
    /// The data file, or a folder of pictures.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// The folder that train, validation and test files are written to.
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// The share of the rows that becomes the test file; 0 for none [default: 0.1, with --folds 0].
    #[arg(long, value_name = "SHARE")]
    pub test: Option<f64>,
    /// The share of the rows that becomes the validation file; 0 for none [default: 0.1].
    #[arg(long, value_name = "SHARE", conflicts_with = "folds")]
    pub validation: Option<f64>,
    /// Write K pairs of training and validation files for cross-validation.
    #[arg(long, value_name = "K", conflicts_with = "by_time")]
    pub folds: Option<usize>,
    /// What becomes of near copies, which `retune data dedupe` finds [default: together, with --by-hash apart].
    #[arg(long, value_name = "WHERE", conflicts_with = "by_time")]
    pub near_copies: Option<NearCopies>,
    /// Keep rows with equal values in this column (a patient, an author) in one part.
    #[arg(long, value_name = "COLUMN", conflicts_with = "by_time")]
    pub group_column: Option<String>,
    /// The latest rows by this column are the test file, those before them validation.
    #[arg(long, value_name = "COLUMN", conflicts_with = "by_hash")]
    pub by_time: Option<String>,
    /// Place each row by its hash alone: shares are met on average, and no row ever moves.
    #[arg(long)]
    pub by_hash: bool,
    /// Another seed gives another split.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// What the columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What becomes of near copies when a file is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NearCopies {
    /// They stay in one part.
    Together,
    /// They are placed like other rows.
    Apart,
}

/// Runs the command.
pub fn run(arguments: &Split) -> Result<ExitCode, Failure> {
    let test = arguments.test.unwrap_or(if arguments.folds.is_some() { 0.0 } else { 0.1 });
    let validation = arguments.validation.unwrap_or(if arguments.folds.is_some() { 0.0 } else { 0.1 });
    let held_out = test + validation;
    let is_cut = held_out > 0.0 || arguments.folds.is_some();
    if !(test >= 0.0 && validation >= 0.0 && is_cut && held_out < 1.0) {
        return Err(Failure::usage(format!(
            "--test {test} --validation {validation}: the shares must be at least 0 and leave something to train on"
        )));
    }
    let by = match &arguments.by_time {
        Some(column) => SplitBy::Time { column: column.clone() },
        None if arguments.by_hash => SplitBy::Hash,
        None => SplitBy::Class,
    };
    let how = SplitFile {
        validation,
        test,
        by,
        group_column: arguments.group_column.clone(),
        near_copies_together: match arguments.near_copies {
            Some(near_copies) => near_copies == NearCopies::Together,
            None => !arguments.by_hash,
        },
        folds: arguments.folds,
        seed: arguments.seed,
    };
    let parts = split_file(&arguments.path, &ReadOptions::default(), &arguments.columns.roles(), &how)?;
    let paths = write_split(&parts, &arguments.output)?;
    let parts = parts.iter().zip(&paths);
    if arguments.json {
        let parts = parts.map(|(part, path)| {
            let mut written = json!({ "split": part.split, "rows": part.table.rows.len(), "file": path });
            if let Some(fold) = part.fold {
                written["fold"] = json!(fold);
            }
            written
        });
        print_line(json!({ "parts": parts.collect::<Vec<_>>() }));
    } else {
        for (part, path) in parts {
            print_line(format_args!("{}: {}", path.display(), counted(part.table.rows.len(), "row")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
