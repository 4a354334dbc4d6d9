//! `retune data`

mod check;
mod clean;
mod dedupe;
mod page;
mod review;
mod show;
mod split;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use retune::data::RoleOverrides;
use retune::train::Recipe;
use serde_json::Value;

use crate::console::Failure;
use crate::inputs::load_recipe;

/// `retune data`
#[derive(Debug, Args)]
pub struct Data {
    /// What to do.
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What can be done with data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say what is wrong, odd or worth knowing about data, before anything is trained on it.
    Check(check::Check),
    /// Repair what needs nobody's judgement, into a new file with a list of every change.
    Clean(clean::Clean),
    /// Find copies and near copies within files and across training, validation and test; write files without them.
    Dedupe(dedupe::Dedupe),
    /// Rank the training rows by how doubtful their labels are, for a person to decide on.
    Review(review::Review),
    /// Show what data holds: columns, classes, lengths or sizes, and some rows.
    Show(show::Show),
    /// Cut a file into training, validation and test files.
    Split(split::Split),
}

/// Runs the command.
pub fn run(arguments: &Data) -> Result<ExitCode, Failure> {
    match &arguments.command {
        DataCommand::Check(check) => check::run(check),
        DataCommand::Clean(clean) => clean::run(clean),
        DataCommand::Dedupe(dedupe) => dedupe::run(dedupe),
        DataCommand::Review(review) => review::run(review),
        DataCommand::Show(show) => show::run(show),
        DataCommand::Split(split) => split::run(split),
    }
}

/// What the columns of a data file are for, as far as it is said.
#[derive(Debug, Args)]
pub struct Columns {
    /// The column of texts [default: found by name and content].
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
    /// The column of second texts, for pairs.
    #[arg(long, value_name = "COLUMN")]
    pub text_pair_column: Option<String>,
    /// The column of labels or numbers [default: found by name and content].
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,
}

impl Columns {
    /// What was said, for reading a data file.
    pub fn roles(&self) -> RoleOverrides {
        RoleOverrides {
            text_column: self.text_column.clone(),
            text_pair_column: self.text_pair_column.clone(),
            label_columns: self.label_column.clone().into_iter().collect(),
            ..RoleOverrides::default()
        }
    }
}

/// A data file or a recipe, and what the columns are for.
#[derive(Debug, Args)]
pub struct Source {
    /// A data file (CSV, TSV, JSON Lines, Parquet), a folder of pictures, or a recipe (.toml) for all of its files.
    #[arg(value_name = "FILE_OR_RECIPE")]
    pub path: PathBuf,
    /// Changes to the recipe.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// What the columns of a data file are for.
    #[command(flatten)]
    pub columns: Columns,
}

impl Source {
    /// The recipe with all changes, if it is one.
    pub fn recipe(&self) -> Result<Option<Recipe>, Failure> {
        if self.path.extension().is_none_or(|extension| extension != "toml") {
            return Ok(None);
        }
        let columns = [
            ("data.text_column", &self.columns.text_column),
            ("data.text_pair_column", &self.columns.text_pair_column),
            ("data.label_column", &self.columns.label_column),
        ];
        let quoted = |(key, column): (&str, &Option<String>)| {
            Some(format!("{key}={}", Value::String(column.clone()?)))
        };
        let mut overrides: Vec<String> = columns.into_iter().filter_map(quoted).collect();
        overrides.extend(self.overrides.iter().cloned());
        Ok(Some(load_recipe(&self.path, &overrides)?))
    }

    /// What the columns of a data file are for, as far as it was said.
    pub fn roles(&self) -> Result<RoleOverrides, Failure> {
        if let Some(change) = self.overrides.first() {
            return Err(Failure::usage(format!(
                "\"{change}\" changes a recipe, but {} is a data file; use --text-column and --label-column",
                self.path.display()
            )));
        }
        Ok(self.columns.roles())
    }
}
