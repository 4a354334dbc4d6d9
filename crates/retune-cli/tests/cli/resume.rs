//! Kill at any moment, resume, and get the very bits of the run that nobody stopped.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::workspace::Workspace;

/// Two stages and more, dropout on, three micro-batches a step (the last step of an epoch has fewer), checkpoints and
/// evaluations at steps that share no factor with an epoch's.
const LONG_RUN: &[&str] = &[
    "strategy.method=gradual",
    "num_train_epochs=120",
    "per_device_train_batch_size=4",
    "gradient_accumulation_steps=4",
    "group_by_length=true",
    "save_steps=7",
    "eval_steps=11",
    "save_total_limit=2",
    "load_best_model_at_end=false",
    "schedule.name=cosine",
    "schedule.warmup_ratio=0.1",
    "record_dynamics=true",
];

pub fn start(workspace: &Workspace, arguments: &[&str]) -> Child {
    workspace.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

pub fn start_fit(workspace: &Workspace, folder: &str, overrides: &[&str]) -> Child {
    let output = format!("output_dir={folder}");
    start(workspace, &[&["fit", "recipe.toml", output.as_str()], overrides].concat())
}

/// The last step in the log so far, and whether training is over.
pub fn standing(workspace: &Workspace, folder: &str) -> (u64, bool) {
    let log = std::fs::read_to_string(workspace.path(folder).join("log.jsonl")).unwrap_or_default();
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let step =
        events.iter().filter(|line| line["event"] == "step_ended").filter_map(|line| line["step"].as_u64());
    (step.max().unwrap_or(0), events.iter().any(|line| line["event"] == "run_ended"))
}

/// Waits until the log shows `reached`, or the program ended of itself.
pub fn wait_until(child: &mut Child, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !reached() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the run makes no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What must be equal in two runs, whatever interrupted one of them.
#[track_caller]
pub fn assert_same_run(workspace: &Workspace, expected: &str, actual: &str) {
    let last = |folder: &str| {
        let entries = std::fs::read_dir(workspace.path(folder).join("checkpoints")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("step-")).max().unwrap()
    };
    assert_eq!(last(expected), last(actual));
    let checkpoint = format!("checkpoints/{}", last(expected));
    for file in [
        "model.safetensors".to_owned(),
        "predictions/test.jsonl".to_owned(),
        format!("{checkpoint}/model.safetensors"),
        format!("{checkpoint}/optimizer.safetensors"),
    ] {
        let bytes = |folder: &str| workspace.bytes(&format!("{folder}/{file}"));
        assert!(bytes(expected) == bytes(actual), "{file} differs");
    }
    let dynamics = |folder: &str| std::fs::read(workspace.path(folder).join("training_dynamics.csv")).ok();
    assert!(dynamics(expected) == dynamics(actual), "training_dynamics.csv differs");
    let metrics = |folder: &str| {
        let metrics = workspace.json(&format!("{folder}/metrics.json"));
        let results = metrics.as_object().unwrap().clone().into_iter();
        results.filter(|(name, _)| !name.starts_with("train_")).collect::<Vec<_>>()
    };
    assert_eq!(metrics(expected), metrics(actual));
    let told = |folder: &str| {
        let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
        let losses = log.iter().filter(|line| line["event"] == "step_ended");
        losses.map(|line| (line["step"].clone(), line["loss"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(expected), told(actual));
}

/// Kills the run each time it gets to the next of `points` (shares of its steps), resumes it, and lets it end at last.
fn kill_and_resume(workspace: &Workspace, folder: &str, total: u64, points: &[f64]) -> usize {
    let mut child = start_fit(workspace, folder, LONG_RUN);
    let mut kills = 0;
    for point in points {
        let step = (point * total as f64) as u64;
        wait_until(&mut child, || standing(workspace, folder).0 >= step);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
        child = start(workspace, &["resume", folder]);
    }
    assert!(child.wait().unwrap().success());
    kills
}

#[test]
fn a_run_killed_again_and_again_ends_in_the_same_bits() {
    let workspace = Workspace::new();
    workspace.fit("whole", LONG_RUN);
    let total = standing(&workspace, "whole").0;
    let kills = kill_and_resume(&workspace, "killed", total, &[0.005, 0.2, 0.45, 0.7]);
    assert!(kills > 0, "the run was over before it could be killed");
    assert_same_run(&workspace, "whole", "killed");
}

#[test]
fn a_run_killed_while_its_artifact_is_written_ends_in_the_same_bits() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=gradual", "save_steps=5"];
    workspace.fit("whole", &overrides);
    let mut child = start_fit(&workspace, "killed", &overrides);
    wait_until(&mut child, || standing(&workspace, "killed").1);
    child.kill().unwrap();
    child.wait().unwrap();
    workspace.retune(&["resume", "killed"]).succeeded();
    assert_same_run(&workspace, "whole", "killed");
}

#[test]
fn every_optimizer_and_schedule_state_survives_a_kill() {
    for overrides in [
        ["optimizer.name=sgd", "learning_rate=0.02", "optimizer.nesterov=true", "schedule.name=one_cycle"],
        ["optimizer.name=adamw", "precision=bf16", "gradient_checkpointing=true", "strategy.method=gradual"],
        [
            "optimizer.name=adafactor",
            "ema_decay=0.9",
            "schedule.name=reduce_on_plateau",
            "schedule.patience=1",
        ],
        ["optimizer.name=lion", "learning_rate=1e-4", "strategy.method=lora", "schedule.name=constant"],
        [
            "optimizer.name=rmsprop",
            "optimizer.momentum=0.9",
            "learning_rate=1e-4",
            "strategy.method=fine_tune",
        ],
    ] {
        let workspace = Workspace::new();
        let overrides = [&overrides[..], &["save_steps=3", "eval_steps=4", "num_train_epochs=10"]].concat();
        workspace.fit("whole", &overrides);
        let mut child = start_fit(&workspace, "killed", &overrides);
        wait_until(&mut child, || standing(&workspace, "killed").0 >= 8);
        child.kill().unwrap();
        child.wait().unwrap();
        workspace.retune(&["resume", "killed"]).succeeded();
        assert_same_run(&workspace, "whole", "killed");
    }
}

#[test]
fn a_termination_signal_writes_a_checkpoint_and_exits_with_4() {
    let workspace = Workspace::new();
    workspace.fit("whole", LONG_RUN);
    let mut child = start_fit(&workspace, "stopped", LONG_RUN);
    wait_until(&mut child, || standing(&workspace, "stopped").0 >= 3);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let log = workspace.json_lines("stopped/log.jsonl");
    let ended = log.last().unwrap();
    assert_eq!((&ended["event"], &ended["reason"]), (&"run_ended".into(), &"interrupted".into()));
    let checkpoint = format!("stopped/checkpoints/step-{:08}/progress.json", ended["step"].as_u64().unwrap());
    assert!(workspace.path(&checkpoint).is_file(), "{checkpoint} is missing");
    assert!(!workspace.path("stopped/model.safetensors").exists());
    workspace.retune(&["resume", "stopped"]).succeeded();
    assert_same_run(&workspace, "whole", "stopped");
}

#[test]
fn a_run_whose_data_changed_is_not_resumed() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    let weights = workspace.bytes("run/model.safetensors");
    workspace.write("train.csv", &workspace.read("train.csv").replacen("the", "my", 1));
    workspace.retune(&["resume", "run"]).exited(1).saying(&["train.csv", "changed"]);
    assert!(workspace.bytes("run/model.safetensors") == weights);
}

#[test]
fn a_folder_without_a_run_is_not_resumed() {
    let workspace = Workspace::new();
    workspace.retune(&["resume", "model"]).exited(1).saying(&["model", "recipe.lock.toml"]);
}

#[test]
fn resuming_a_finished_run_changes_none_of_its_results() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    workspace.fit("whole", &[]);
    workspace.retune(&["resume", "run"]).succeeded();
    assert_same_run(&workspace, "whole", "run");
}

#[test]
fn verify_resume_finds_the_same_weights() {
    let workspace = Workspace::new();
    workspace.retune(&["verify-resume", "recipe.toml"]).succeeded();
}
