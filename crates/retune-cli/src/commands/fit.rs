//! `retune fit`

use std::path::Path;
use std::process::ExitCode;

use retune::checkpoint::{ResolveOptions, write_atomic};
use retune::kernels::Isa;
use retune::train::{
    FitOptions, Outcome, PrepareOptions, Recipe, RunSummary, Split, StopFlag, TrainError, examine_recipe,
    expand_folders, fit,
};
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
    let (recipe, is_inferred) = read_recipe(arguments)?;
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

/// The recipe file with the command line's changes, or one made of the command line alone; and whether it is the latter.
fn read_recipe(arguments: &Fit) -> Result<(Recipe, bool), Failure> {
    let given = |key: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!("{key}={}", toml_string(value)))
    };
    let mut overrides: Vec<String> = [
        given("model.name_or_path", &arguments.model),
        given("data.train", &arguments.train),
        given("data.validation", &arguments.validation),
        given("data.test", &arguments.test),
        given("data.review", &arguments.apply_review),
        given("train.output_dir", &arguments.output),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Without a recipe the first positional argument is a change already.
    let first = arguments.recipe.as_deref();
    let first_change =
        first.filter(|path| !path.is_file()).and_then(Path::to_str).filter(|text| text.contains('='));
    overrides.extend(first_change.map(str::to_owned));
    overrides.extend(arguments.overrides.iter().cloned());
    match first.filter(|_| first_change.is_none()) {
        Some(path) => {
            let mut recipe = Recipe::load(path, &overrides).map_err(TrainError::from)?;
            recipe.resolve_paths(path.parent().unwrap_or(Path::new("")));
            Ok((recipe, false))
        }
        None if arguments.model.is_some() && arguments.train.is_some() => {
            let recipe = Recipe::parse("", "command line", &overrides).map_err(TrainError::from)?;
            Ok((inferred(recipe)?, true))
        }
        None => {
            let usage = "name a recipe, or a model and its data: retune fit --model DIR --train FILE";
            Err(Failure::usage(usage))
        }
    }
}

/// Completes a recipe that nobody wrote: a validation split, and columns and task as the data has them.
fn inferred(mut recipe: Recipe) -> Result<Recipe, Failure> {
    expand_folders(&mut recipe, false)?;
    if recipe.data.validation.is_none() && recipe.data.validation_split.is_none() {
        recipe.data.validation_split = Some(0.1);
    }
    recipe.check().map_err(TrainError::from)?;
    let examination = examine_recipe(&recipe)?;
    if let Some(train) = examination.files.iter().find(|file| file.split == Some(Split::Train)) {
        let roles = &train.roles;
        recipe.data.text_column = roles.text.clone();
        recipe.data.image_column = roles.image.clone();
        recipe.data.text_pair_column = roles.text_pair.clone();
        if !roles.labels.is_empty() {
            recipe.data.label_column = Some(roles.labels.clone().into());
        }
        roles.reasons.iter().for_each(|reason| eprintln!("{reason}"));
    }
    eprintln!("no recipe given; this one is used:\n\n{}", recipe.to_short_toml().map_err(TrainError::from)?);
    Ok(recipe)
}

fn toml_string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
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
