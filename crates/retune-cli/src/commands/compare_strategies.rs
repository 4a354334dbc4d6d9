//! `retune compare-strategies`: what to train, from evidence.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::write_atomic;
use retune::train::recipe::Method;
use retune::train::{
    Budget, CompareOptions, ModelScore, RunFolder, StrategyComparison, StrategyResult, compare_strategies,
};

use super::fit::options as fit_options;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, bytes, count, counted, duration, learning_rates, percent};
use crate::inputs::load_recipe;

/// `retune compare-strategies`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune compare-strategies recipe.toml
  retune compare-strategies recipe.toml --methods head,full,lora --budget 10m --seeds 3
  retune compare-strategies recipe.toml --model bert-base-uncased --model path/to/minilm
  retune fit recipe.toml strategy.method=auto        compare, then run what was chosen")]
pub struct CompareStrategies {
    /// The recipe (TOML). Its strategy does not matter, its length and everything else does.
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Changes to the recipe: a key by its last name where that is unique, or by its path.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The strategies [default: head,last_n,gradual,full, and for texts lora].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<Method>,
    /// A checkpoint to choose from; may be given several times [default: the recipe's].
    #[arg(long = "model", value_name = "MODEL")]
    pub models: Vec<String>,
    /// What it may cost: steps of a whole run (200), or a time for everything (90s, 10m, 2h) [default: the recipe's length].
    #[arg(long, value_name = "LIMIT", value_parser = budget)]
    pub budget: Option<Budget>,
    /// Seeds that each strategy runs with.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub seeds: u8,
    /// Take each method's usual learning rate instead of searching for one.
    #[arg(long)]
    pub usual_rates: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn budget(text: &str) -> Result<Budget, String> {
    let wrong = || "write steps of a run (200), or a time for everything (90s, 10m, 2h)".to_owned();
    if let Ok(steps) = text.parse::<u64>() {
        return if steps > 0 { Ok(Budget::Steps(steps)) } else { Err(wrong()) };
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number.is_finite() && number > 0.0 { Ok(Budget::Seconds(number * factor)) } else { Err(wrong()) }
}

/// Runs the command.
pub fn run(arguments: &CompareStrategies) -> Result<ExitCode, Failure> {
    let recipe = load_recipe(&arguments.recipe, &arguments.overrides)?;
    let folder = RunFolder::open(&recipe.train.output_dir);
    folder.require_free(recipe.train.overwrite_output_dir)?;
    let options = CompareOptions {
        methods: arguments.methods.clone(),
        models: arguments.models.clone(),
        budget: arguments.budget,
        seeds: usize::from(arguments.seeds),
        search_rates: !arguments.usual_rates,
    };
    let mut tell = |line: &str| eprintln!("{line}");
    let Some(found) = compare_strategies(&recipe, folder.root(), &options, &fit_options()?, &mut tell)?
    else {
        eprintln!("stopped; nothing was chosen");
        return Ok(ExitCode::from(1));
    };
    let json = serde_json::to_string_pretty(&found).map_err(Failure::other)?;
    let path = folder.path(RunFolder::COMPARISON);
    write_atomic(&path, |file| writeln!(file, "{json}")).map_err(Failure::other)?;
    retune_report::write_comparison(folder.root()).map_err(Failure::other)?;
    let page = folder.path("comparison.html");
    if arguments.json {
        print_line(json);
    } else {
        print_line(to_text(&found));
        print_line(format_args!("written to {} and {}", path.display(), page.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(found: &StrategyComparison) -> String {
    let mut parts: Vec<String> = found.models.iter().filter_map(cuts_text).collect();
    parts.push(strategies_text(found));
    parts.push(found.choice.reason.clone());
    parts.push(format!(
        "{} in all; whole runs of every strategy would have taken about {} ({:.0}%)",
        duration(found.seconds),
        duration(found.seconds_of_whole_runs),
        100.0 * found.seconds / found.seconds_of_whole_runs.max(1e-9),
    ));
    parts.join("\n\n")
}

/// What the features of a checkpoint say.
fn cuts_text(model: &ModelScore) -> Option<String> {
    let best = model.best_cut()?;
    let mut table = Table::new([
        ("features below", Align::Left),
        ("last_n", Align::Right),
        ("linear probe", Align::Right),
        ("nearest neighbours", Align::Right),
        ("log evidence", Align::Right),
        ("H-score", Align::Right),
        ("", Align::Left),
    ]);
    for cut in &model.cuts {
        let probe = match cut.linear_probe_interval {
            Some(interval) => format!(
                "{} ({}–{})",
                percent(cut.linear_probe),
                percent(interval.low),
                percent(interval.high)
            ),
            None => percent(cut.linear_probe),
        };
        let mark = if cut == best { "best" } else { "" };
        table.row([
            cut.below.clone(),
            cut.last_n.to_string(),
            probe,
            percent(cut.nearest_neighbours),
            format!("{:.4}", cut.log_evidence),
            format!("{:.3}", cut.h_score),
            mark.to_owned(),
        ]);
    }
    Some(format!("{}\n{table}", model.model))
}

fn strategies_text(found: &StrategyComparison) -> String {
    let mut table = Table::new([
        ("strategy", Align::Left),
        (found.metric.as_str(), Align::Right),
        ("95% interval", Align::Right),
        ("loss", Align::Right),
        ("worst class", Align::Left),
        ("time", Align::Right),
        ("memory", Align::Right),
        ("trains", Align::Right),
        ("to store", Align::Right),
        ("learning rate", Align::Left),
        ("", Align::Left),
    ]);
    for result in &found.strategies {
        let interval = result.interval;
        table.row([
            result.name.clone(),
            format!("{:.3}", result.value),
            interval.map_or_else(String::new, |ends| format!("{:.3}–{:.3}", ends.low, ends.high)),
            format!("{:.4}", result.loss),
            result
                .worst_class
                .as_ref()
                .map_or_else(String::new, |(label, recall)| format!("{label} {}", percent(*recall))),
            duration(result.seconds),
            bytes(result.memory_bytes),
            count(result.trained_parameters),
            bytes(result.artifact_bytes),
            learning_rates(result.learning_rates.iter().copied()),
            note(found, result),
        ]);
    }
    format!(
        "judged on {}; a whole run has {}\n{table}",
        counted(found.samples, "validation sample"),
        counted(found.steps as usize, "step"),
    )
}

fn note(found: &StrategyComparison, result: &StrategyResult) -> String {
    let mut notes = Vec::new();
    if result.name == found.choice.name {
        notes.push("chosen".to_owned());
    }
    if result.on_the_frontier {
        notes.push("on the frontier".to_owned());
    }
    match result.dropped_at {
        Some(step) => notes.push(format!("dropped after step {step}")),
        None if !result.is_whole => notes.push(format!("stopped at step {}", result.steps)),
        None => {}
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_steps_or_a_time() {
        assert_eq!(budget("200"), Ok(Budget::Steps(200)));
        assert_eq!(budget("90s"), Ok(Budget::Seconds(90.0)));
        assert_eq!(budget("1.5h"), Ok(Budget::Seconds(5400.0)));
        for wrong in ["", "0", "-3m", "ten minutes", "5d", "m", "1é"] {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
    }
}
