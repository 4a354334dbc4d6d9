//! `retune fit`

use std::process::ExitCode;

use retune::checkpoint::{ResolveOptions, write_atomic};
use retune::kernels::Isa;
use retune::train::{FitOptions, Outcome, PrepareOptions, Recipe, RunSummary, StopFlag, TrainError, fit};
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
    let others = [("data.review", &arguments.apply_review), ("train.output_dir", &arguments.output)];
    let (recipe, is_inferred) = arguments.source.read(&others)?;
    let options = options()?;
    if arguments.seeds.is_some() || arguments.folds.is_some() {
        return super::repeat::run(arguments, &recipe, options);
    }
    let summary = train(&recipe, &options)?;
    if is_inferred && summary.outcome != Outcome::Interrupted {
        let path = summary.folder.join("recipe.toml");
        let text = recipe.to_short_toml().map_err(TrainError::from)?;
        write_atomic(&path, |file| file.write_all(text.as_bytes())).map_err(Failure::other)?;
        eprintln!("the recipe that was inferred is in {}", path.display());
    }
    conclude(&summary, arguments.json)
}

/// One run with its progress on the console.
pub fn train(recipe: &Recipe, options: &FitOptions<'_>) -> Result<RunSummary, Failure> {
    let mut console = Console::new();
    Ok(fit(recipe, options, vec![&mut console])?)
}

/// Writes the report and the model card of a run; exit code 4 if it was stopped.
pub fn report(summary: &RunSummary) -> Result<ExitCode, Failure> {
    let folder = &summary.folder;
    if summary.outcome == Outcome::Interrupted {
        eprintln!("stopped after step {}; go on with: retune resume {}", summary.steps, folder.display());
        return Ok(ExitCode::from(4));
    }
    if summary.tensorboard {
        let events =
            retune_report::write_tensorboard(folder, &folder.join("tensorboard")).map_err(Failure::other)?;
        eprintln!("TensorBoard events: {}", events.display());
    }
    retune_report::write_report(folder).map_err(Failure::other)?;
    retune_report::write_comparison(folder).map_err(Failure::other)?;
    retune_report::write_model_card(folder).map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the report and says what came of a run.
pub fn conclude(summary: &RunSummary, as_json: bool) -> Result<ExitCode, Failure> {
    let code = report(summary)?;
    if summary.outcome == Outcome::Interrupted {
        return Ok(code);
    }
    let folder = &summary.folder;
    let shown = folder.display();
    if as_json {
        print_line(result_json(summary));
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = retune_report::headline(folder).map_err(Failure::other)?;
    print_line(verdict.sentence);
    print_line(verdict.conclusion);
    print_line(format_args!("model   {shown}"));
    print_line(format_args!("report  {}", folder.join("report.html").display()));
    print_line(format_args!("next    retune predict --model {shown} --data NEW_DATA --output answers.jsonl"));
    Ok(ExitCode::SUCCESS)
}

fn result_json(summary: &RunSummary) -> Value {
    let metrics: &Map<String, Value> = &summary.metrics;
    json!({ "run": summary.folder, "steps": summary.steps, "outcome": summary.outcome.name(), "metrics": metrics })
}
