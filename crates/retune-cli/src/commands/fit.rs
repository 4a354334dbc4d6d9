//! `retune fit`

use std::path::Path;
use std::process::ExitCode;

use retune::checkpoint::ResolveOptions;
use retune::kernels::Isa;
use retune::train::{FitOptions, Outcome, PrepareOptions, Recipe, RunSummary, StopFlag, fit};
use serde_json::{Map, Value, json};

use crate::arguments::Fit;
use crate::console::{Console, Failure, print_line};

/// The environment variable that forces the kernels' instruction set.
pub const ISA_VARIABLE: &str = "RETUNE_ISA";

/// Options of a run of the command line: the environment's caches and hub, a signal as stop.
pub fn options() -> Result<FitOptions<'static>, Failure> {
    let stop = StopFlag::default();
    let flag = stop.clone();
    // Without a handler a signal ends the process at once, and the last checkpoint is what resume finds.
    let _ = ctrlc::set_handler(move || {
        if flag.is_set() {
            std::process::exit(4);
        }
        eprintln!("stopping at the next step; once more stops at once");
        flag.stop();
    });
    Ok(FitOptions { prepare: prepare_options()?, stop, loss: None })
}

/// How models are found and which kernels run, by the environment.
pub fn prepare_options() -> Result<PrepareOptions, Failure> {
    let resolve = ResolveOptions::from_environment(|name| std::env::var(name).ok());
    Ok(PrepareOptions { isa: isa()?, ..PrepareOptions::new(resolve) })
}

/// The instruction set that the environment forces, if any.
pub fn isa() -> Result<Option<Isa>, Failure> {
    let name = std::env::var(ISA_VARIABLE).ok().filter(|name| !name.is_empty());
    name.map(|name| name.parse())
        .transpose()
        .map_err(|error| Failure::usage(format!("{ISA_VARIABLE}: {error}")))
}

/// Runs the command.
pub fn run(arguments: &Fit) -> Result<ExitCode, Failure> {
    let recipe = read_recipe(arguments)?;
    let options = options()?;
    let mut console = Console::new();
    let summary = fit(&recipe, &options, vec![&mut console])?;
    drop(console);
    conclude(&summary, arguments.json)
}

/// The recipe file with the command line's changes, or one made of the command line alone.
fn read_recipe(arguments: &Fit) -> Result<Recipe, Failure> {
    let mut overrides = Vec::new();
    let quoted = |key: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!("{key}={}", toml_string(value)))
    };
    overrides.extend(quoted("model.name_or_path", &arguments.model));
    overrides.extend(quoted("data.train", &arguments.train));
    overrides.extend(quoted("data.validation", &arguments.validation));
    overrides.extend(quoted("data.test", &arguments.test));
    overrides.extend(quoted("train.output_dir", &arguments.output));
    // Without a recipe the first positional argument may be a change already.
    let recipe_path = arguments.recipe.as_deref();
    let first_change = recipe_path.filter(|path| !path.is_file()).and_then(Path::to_str);
    let first_change = first_change.filter(|text| text.contains('='));
    overrides.extend(first_change.map(str::to_owned));
    overrides.extend(arguments.overrides.iter().cloned());
    let recipe = match recipe_path.filter(|_| first_change.is_none()) {
        Some(path) => Recipe::load(path, &overrides).map(|mut recipe| {
            recipe.resolve_paths(path.parent().unwrap_or(Path::new("")));
            recipe
        }),
        None if arguments.model.is_some() && arguments.train.is_some() => {
            Recipe::parse("", "command line", &overrides)
        }
        None => {
            return Err(Failure::usage(
                "name a recipe, or a model and its data: retune fit --model DIR --train FILE",
            ));
        }
    };
    recipe.map_err(|error| Failure::from(retune::train::TrainError::from(error)))
}

fn toml_string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Writes the report and says what came of a run.
pub fn conclude(summary: &RunSummary, as_json: bool) -> Result<ExitCode, Failure> {
    let folder = &summary.folder;
    let shown = folder.display();
    if summary.outcome == Outcome::Interrupted {
        eprintln!("stopped after step {}; go on with: retune resume {shown}", summary.steps);
        return Ok(ExitCode::from(4));
    }
    retune_report::write_report(folder).map_err(Failure::other)?;
    retune_report::write_model_card(folder).map_err(Failure::other)?;
    if as_json {
        print_line(result_json(summary));
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = retune_report::headline(folder).map_err(Failure::other)?;
    print_line(verdict.sentence);
    print_line(verdict.conclusion);
    print_line(format_args!("model   {shown}"));
    print_line(format_args!("report  {}", folder.join("report.html").display()));
    print_line(format_args!("next    retune predict --model {shown} --data NEW_FILE --output answers.jsonl"));
    Ok(ExitCode::SUCCESS)
}

fn result_json(summary: &RunSummary) -> Value {
    let metrics: &Map<String, Value> = &summary.metrics;
    json!({ "run": summary.folder, "steps": summary.steps, "outcome": summary.outcome.name(), "metrics": metrics })
}
