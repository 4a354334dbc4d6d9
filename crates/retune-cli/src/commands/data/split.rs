//! `retune data split`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retune::data::{ReadOptions, RoleOverrides};
use retune::train::{SplitBy, SplitFile, split_file, write_split};
use serde_json::json;

use crate::console::{Failure, print_line};
use crate::format::counted;

/// `retune data split`
#[derive(Debug, Args)]
#[command(
    after_help = "Rows are placed by a hash of what they say, not by chance: the same file gives the same split, \
shuffled or not, and equal texts stay together. By default each class keeps its share in every part; with --by-hash a row \
never moves when others are appended.

Examples:
  retune data split reviews.csv --output data/ --test 0.2 --validation 0.1
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
    /// The share of the rows that becomes the test file; 0 for none.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub test: f64,
    /// The share of the rows that becomes the validation file; 0 for none.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub validation: f64,
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
    /// The column of texts [default: found by name and content].
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
    /// The column of labels or numbers [default: found by name and content].
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Split) -> Result<ExitCode, Failure> {
    let Split { test, validation, .. } = *arguments;
    if !(test >= 0.0 && validation >= 0.0 && test + validation > 0.0 && test + validation < 1.0) {
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
        seed: arguments.seed,
    };
    let roles = RoleOverrides {
        text_column: arguments.text_column.clone(),
        label_columns: arguments.label_column.clone().into_iter().collect(),
        ..RoleOverrides::default()
    };
    let tables = split_file(&arguments.path, &ReadOptions::default(), &roles, &how)?;
    let paths = write_split(&tables, &arguments.output)?;
    let parts = tables.iter().zip(&paths);
    if arguments.json {
        let parts = parts
            .map(|((split, table), path)| json!({ "split": split, "rows": table.rows.len(), "file": path }));
        print_line(json!({ "parts": parts.collect::<Vec<_>>() }));
    } else {
        for ((_, table), path) in parts {
            print_line(format_args!("{}: {}", path.display(), counted(table.rows.len(), "row")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
