//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::recipe_source::RecipeSource;

/// Fine-tune pretrained models on your own data.
#[derive(Debug, Parser)]
#[command(name = "retune", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong use or recipe, 3 data refused, 4 stopped by a signal \
                        with a checkpoint written."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a model: recipe in, run folder out.
    Fit(Fit),
    /// Go on with a run that was stopped or killed, to the very weights it would have had.
    Resume(Resume),
    /// Answer new data with a fine-tuned model, one JSON object a row.
    Predict(crate::commands::predict::Predict),
    /// Measure a model on labelled data, with intervals, and compare it with another.
    Eval(crate::commands::eval::Eval),
    /// Say what a recipe will do and cost, without training.
    Plan(crate::commands::plan::Plan),
    /// Find a learning rate by short bursts of training, judged on validation data.
    LrFind(crate::commands::lr_find::LrFind),
    /// Compare what to train (head, last layers, everything, adapters) under one budget, and pick one.
    CompareStrategies(crate::commands::compare_strategies::CompareStrategies),
    /// Show a model's layer groups, its parameters, and what a strategy would train.
    Inspect(crate::commands::inspect::Inspect),
    /// Look at data before training on it.
    Data(crate::commands::data::Data),
    /// Change a checkpoint's file format, every tensor kept.
    Convert(crate::commands::convert::Convert),
    /// Write pooled features of texts.
    Embed(crate::commands::embed::Embed),
    /// Time training steps on random input of a given shape: what this machine needs for a model.
    Bench(crate::commands::bench::Bench),
    /// Prove that a killed and resumed run gives the weights of an uninterrupted one.
    VerifyResume(crate::commands::verify_resume::VerifyResume),
    /// Show and remove the features that runs have kept on disk.
    Cache(crate::commands::cache::Cache),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Prints completions for a shell.
pub fn print_completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Arguments::command(), "retune", &mut std::io::stdout());
}

/// `retune fit`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune fit examples/support-tickets/recipe.toml
  retune fit recipe.toml learning_rate=3e-5 strategy.method=gradual output_dir=runs/gradual
  retune fit --model path/to/model --train reviews.csv
  retune fit recipe.toml --seeds 3")]
pub struct Fit {
    /// The recipe.
    #[command(flatten)]
    pub source: RecipeSource,
    /// A person's decisions on `retune data review`'s queue (data.review).
    #[arg(long, value_name = "FILE")]
    pub apply_review: Option<String>,
    /// Where the run is written (train.output_dir).
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<String>,
    /// Train once for each of N seeds and report mean and interval.
    #[arg(long, value_name = "N", conflicts_with = "folds")]
    pub seeds: Option<usize>,
    /// Cross-validate over K folds of the training data and report mean and interval.
    #[arg(long, value_name = "K")]
    pub folds: Option<usize>,
    /// Print the result as one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub json: bool,
}

/// `retune resume`
#[derive(Debug, Args)]
pub struct Resume {
    /// The run folder.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Print the result as one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub json: bool,
}
