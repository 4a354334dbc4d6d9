//! `retune lr-find`: a learning rate from evidence.

use std::process::ExitCode;

use clap::Args;
use retune::train::{
    LearningRateOptions, LearningRateSearch, RateOutcome, RateProbe, find_learning_rate, prepare,
};

use super::fit::prepare_options;
use crate::console::{Failure, print_line, tell};
use crate::format::{Align, Table, counted, duration, learning_rate};
use crate::recipe_source::RecipeSource;

/// `retune lr-find`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune lr-find recipe.toml
  retune lr-find recipe.toml strategy.method=lora --burst-steps 16 --orders 3
  retune lr-find --model path/to/model --train reviews.csv
  retune fit recipe.toml learning_rate=auto       search at the beginning of a run")]
pub struct LrFind {
    /// Where the search begins: its recipe.
    #[command(flatten)]
    pub source: RecipeSource,
    /// Optimizer steps of a burst; a quarter of them warms up.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub burst_steps: u16,
    /// Orders of the training data that rates near the best are tried on.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    pub orders: u8,
    /// Validation samples that judge, at most.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub held_out: u32,
    /// The stage that is searched, counted from 1 [default: the one that trains the most layer groups].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub stage: Option<u16>,
    /// Try other rates for the head and the layers below too, where the recipe sets none.
    #[arg(long)]
    pub layer_groups: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &LrFind) -> Result<ExitCode, Failure> {
    let (recipe, _) = arguments.source.read(&[])?;
    let prepare_options = prepare_options()?;
    let prepared = prepare(&recipe, &prepare_options, &mut tell)?;
    let options = LearningRateOptions {
        burst_steps: u64::from(arguments.burst_steps),
        orders: usize::from(arguments.orders),
        held_out: arguments.held_out as usize,
        stage: arguments.stage.map(|stage| usize::from(stage) - 1),
        layer_groups: arguments.layer_groups,
        ..LearningRateOptions::default()
    };
    let found = find_learning_rate(&prepared, &options, &prepare_options.resolve.cache_dir, &mut tell)?;
    if arguments.json {
        print_line(serde_json::to_string(&found).map_err(Failure::other)?);
    } else {
        print_line(to_text(&found));
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(found: &LearningRateSearch) -> String {
    let mut table = Table::new([
        ("learning rate", Align::Right),
        ("held-out loss", Align::Right),
        ("above the best", Align::Right),
        ("", Align::Left),
    ]);
    for probe in &found.probes {
        table.row([
            learning_rate(probe.learning_rate),
            probe.loss.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.4}")),
            above_best(probe),
            match probe.outcome {
                RateOutcome::Best => "best",
                RateOutcome::WithinNoise => "within noise of the best",
                RateOutcome::Worse => "",
                RateOutcome::WorseThanUntrained => "worse than no training",
                RateOutcome::Diverged => "diverged",
            }
            .to_owned(),
        ]);
    }
    let mut text = format!(
        "stage {}: bursts of {}, judged on {}; before training the loss is {:.4}\n{table}\n",
        found.stage,
        counted(found.burst_steps as usize, "step"),
        counted(found.held_out_samples, "validation sample"),
        found.loss_before,
    );
    for probe in &found.layer_groups {
        let change = match (probe.difference, probe.standard_error) {
            (Some(difference), Some(error)) => format!("loss {difference:+.4} ± {error:.4}"),
            _ => "diverged".to_owned(),
        };
        let verdict = if probe.helps { "helps" } else { "not shown to help" };
        text.push_str(&format!("with {}: {change}, {verdict}\n", probe.setting));
    }
    let range = match found.low < found.high {
        true => format!("from {} to {}", learning_rate(found.low), learning_rate(found.high)),
        false => format!("only {}", learning_rate(found.best)),
    };
    text.push_str(&format!(
        "within noise of the best: {range}\nsuggestion: learning_rate = {} ({}, {})",
        learning_rate(found.learning_rate),
        counted(found.steps as usize, "step"),
        duration(found.seconds),
    ));
    text
}

fn above_best(probe: &RateProbe) -> String {
    match (probe.above_best, probe.standard_error) {
        (Some(_), Some(_)) if probe.outcome == RateOutcome::Best => String::new(),
        (Some(difference), Some(error)) => format!("{difference:.4} ± {error:.4}"),
        _ => String::new(),
    }
}
