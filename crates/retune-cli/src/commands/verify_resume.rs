//! `retune verify-resume`

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use retune::checkpoint::hash_file;
use retune::nn::random_key;
use serde_json::json;

use crate::console::{Failure, print_line};

/// `retune verify-resume`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  retune verify-resume examples/support-tickets/recipe.toml num_train_epochs=1 save_steps=5 --kills 3")]
pub struct VerifyResume {
    /// The recipe.
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Changes to the recipe.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// How often the second run is killed.
    #[arg(long, default_value_t = 3)]
    pub kills: u64,
    /// Chooses the steps at which it is killed.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where the two runs are written; must not hold runs yet.
    #[arg(long, value_name = "FOLDER", default_value = "runs/verify-resume")]
    pub output: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: one run to its end, one killed and resumed at random steps; their weights must be equal.
pub fn run(arguments: &VerifyResume) -> Result<ExitCode, Failure> {
    let whole = arguments.output.join("uninterrupted");
    let killed = arguments.output.join("killed");
    eprintln!("the run without interruption");
    wait(fit(arguments, &whole)?)?;
    let steps = last_step(&whole).ok_or_else(|| Failure::other("the uninterrupted run logged no step"))?;
    let mut kill_steps: Vec<u64> = (0..arguments.kills)
        .map(|kill| u64::from(random_key(&[arguments.seed, kill])[0]) % steps.max(1))
        .collect();
    kill_steps.sort_unstable();
    let mut child = fit(arguments, &killed)?;
    for step in &kill_steps {
        if kill_after(&mut child, &killed, *step)? {
            eprintln!("killed after step {step}, resuming");
            child = resume(&killed)?;
        }
    }
    wait(child)?;
    let hash = |folder: &Path| {
        hash_file(&folder.join("model.safetensors")).map(|hash| hash.sha256).map_err(Failure::other)
    };
    let (first, second) = (hash(&whole)?, hash(&killed)?);
    let equal = first == second;
    if arguments.json {
        print_line(json!({ "equal": equal, "kills": kill_steps, "sha256": [first, second] }));
    } else {
        print_line(format_args!("uninterrupted  {first}\nkilled         {second}"));
        print_line(if equal { "equal: the resumed run has the very same weights" } else { "DIFFERENT" });
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command() -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Failure::other)?);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    Ok(command)
}

fn fit(arguments: &VerifyResume, output: &Path) -> Result<Child, Failure> {
    // Logged at every step, so that the second run can be killed at any.
    let logging = "train.logging_steps=1";
    command()?
        .arg("fit")
        .arg(&arguments.recipe)
        .args(&arguments.overrides)
        .arg(logging)
        .arg("--output")
        .arg(output)
        .spawn()
        .map_err(Failure::other)
}

fn resume(run: &Path) -> Result<Child, Failure> {
    command()?.arg("resume").arg(run).spawn().map_err(Failure::other)
}

fn wait(mut child: Child) -> Result<(), Failure> {
    let status = child.wait().map_err(Failure::other)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::other(format!("the run ended with {status}; run the same `retune fit` by hand to see why")))
}

/// The last step that a run logged.
fn last_step(run: &Path) -> Option<u64> {
    let log = std::fs::read_to_string(run.join("log.jsonl")).ok()?;
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["event"] == "step_ended")
        .filter_map(|event| event["step"].as_u64())
        .max()
}

/// Kills a run once it has logged a step. False if it ended before.
fn kill_after(child: &mut Child, run: &Path, step: u64) -> Result<bool, Failure> {
    loop {
        if child.try_wait().map_err(Failure::other)?.is_some() {
            return Ok(false);
        }
        if last_step(run).is_some_and(|done| done >= step) {
            child.kill().map_err(Failure::other)?;
            child.wait().map_err(Failure::other)?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
