//! What a plan promises: memory that is known beforehand, batches that fit it, and a forecast that is held against what
//! the run took.

use serde_json::Value;

use crate::images;
use crate::workspace::Workspace;

fn plan(workspace: &Workspace, overrides: &[&str]) -> Value {
    let arguments = [&["plan", "recipe.toml", "--json"][..], overrides].concat();
    serde_json::from_str(&workspace.retune(&arguments).succeeded().stdout).unwrap()
}

/// Bytes that forward and backward of the largest batch take.
fn step_bytes(workspace: &Workspace, overrides: &[&str]) -> u64 {
    plan(workspace, overrides)["plan"]["stages"][0]["cost"]["peak_activation_bytes"].as_u64().unwrap()
}

fn events(workspace: &Workspace, folder: &str, kind: &str) -> Vec<Value> {
    let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
    log.into_iter().filter(|line| line["event"] == kind).collect()
}

/// The greatest difference of any weight, as a share of the greatest weight of its tensor.
fn difference(workspace: &Workspace, first: &str, second: &str) -> f32 {
    let tensors = |folder: &str| workspace.tensors(&format!("{folder}/model.safetensors"));
    let (first, second) = (tensors(first), tensors(second));
    let of = |(name, a): (&String, &Vec<f32>)| {
        let scale = a.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        a.iter().zip(&second[name]).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
    };
    first.iter().map(of).fold(0.0, f32::max)
}

/// SGD's update is linear in the gradient; Adam's divides by it and would magnify rounding where it is near zero.
const PLAIN: &[&str] =
    &["optimizer.name=sgd", "learning_rate=0.05", "max_steps=12", "load_best_model_at_end=false"];

#[test]
fn a_batch_that_does_not_fit_is_split_and_gives_the_same_gradient() {
    let workspace = Workspace::new();
    workspace.fit("whole", PLAIN);
    // Dropout is on: a sample keeps its place in the step, which keys its mask.
    let limit = format!("max_step_bytes={}", step_bytes(&workspace, &[]) * 6 / 10);
    let overrides = [PLAIN, &[&limit]].concat();
    workspace.fit("split", &overrides).saying(&["they are split"]);
    let split = events(&workspace, "split", "batch_split");
    assert!(
        !split.is_empty() && split.iter().all(|event| event["parts"].as_u64().unwrap() >= 2),
        "{split:?}"
    );
    let difference = difference(&workspace, "whole", "split");
    assert!(difference > 0.0 && difference < 2e-5, "{difference:e}");
    assert_eq!(events(&workspace, "whole", "batch_split").len(), 0);
}

#[test]
fn the_batch_size_is_chosen_by_memory_and_the_step_stays_what_it_was() {
    let workspace = Workspace::new();
    let auto = ["per_device_train_batch_size=auto"];
    let roomy = workspace.fit("roomy", &auto);
    roomy.saying(&["per_device_train_batch_size = 16"]);
    let limit = format!("max_step_bytes={}", step_bytes(&workspace, &["per_device_train_batch_size=4"]));
    workspace.fit("chosen", &[&auto[..], &["total_train_batch_size=12", &limit]].concat());
    let lock = workspace.read("chosen/recipe.lock.toml");
    for line in ["per_device_train_batch_size = 4", "gradient_accumulation_steps = 3"] {
        assert!(lock.contains(line), "{line} is missing in {lock}");
    }
    workspace.fit("explicit", &["per_device_train_batch_size=4", "gradient_accumulation_steps=3"]);
    let weights = |folder: &str| workspace.bytes(&format!("{folder}/model.safetensors"));
    assert!(weights("chosen") == weights("explicit"));
    // 60 rows in steps of 12, two epochs.
    assert_eq!(workspace.json("chosen/metrics.json")["train_steps"], 10);
    workspace.retune(&["fit", "recipe.toml", "total_train_batch_size=12"]).exited(2).saying(&["auto"]);
    workspace
        .retune(&["fit", "recipe.toml", "per_device_train_batch_size=auto", "gradient_accumulation_steps=2"])
        .exited(2)
        .saying(&["total_train_batch_size"]);
}

#[test]
fn a_run_that_cannot_fit_is_refused_before_it_begins_with_what_would_help() {
    let workspace = Workspace::new();
    let refused = workspace.retune(&["fit", "recipe.toml", "max_memory_bytes=1000000"]).exited(2);
    refused.saying(&["not even one sample", "gradient_checkpointing", "lora"]);
    assert!(!workspace.path("run").exists());
}

#[test]
fn batches_that_batch_normalization_sees_whole_are_not_split() {
    let workspace = images::workspace();
    let limit = format!("max_step_bytes={}", step_bytes(&workspace, &[]) / 2);
    let refused = workspace.retune(&["fit", "recipe.toml", &limit]).exited(2);
    refused.saying(&["batch normalization (bn1)", "gradient_accumulation_steps", "gradient_checkpointing"]);
    let auto = ["fit", "recipe.toml", &limit, "per_device_train_batch_size=auto", "total_train_batch_size=8"];
    workspace.retune(&auto).exited(2).saying(&["batch normalization"]);
    // Frozen it is no obstacle.
    let head = ["strategy.method=head", "num_train_epochs=1"];
    let limit = format!("max_step_bytes={}", step_bytes(&workspace, &head) / 2);
    workspace.fit("head", &[&head[..], &[&limit]].concat());
    assert!(!events(&workspace, "head", "batch_split").is_empty());
}

#[test]
fn a_step_in_bf16_takes_less_memory_and_its_price_is_told() {
    let workspace = Workspace::new();
    workspace.retune(&["plan", "recipe.toml", "precision=bf16"]).succeeded().saying(&["up to twice as long"]);
    let bytes = |precision: &str| step_bytes(&workspace, &[&format!("precision={precision}")]);
    let [single, half] = ["f32", "bf16"].map(bytes);
    assert!(half < single, "{half} bytes beside {single}");
}

#[test]
fn a_model_and_its_data_are_planned_without_a_recipe() {
    let workspace = Workspace::new();
    let from_recipe = plan(&workspace, &[]);
    let arguments = [
        "plan",
        "--model",
        "model",
        "--train",
        "train.csv",
        "--validation",
        "validation.csv",
        "per_device_train_batch_size=8",
    ];
    let said =
        workspace.retune(&[&arguments[..], &["--json"]].concat()).succeeded().saying(&["no recipe given"]);
    let inferred: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(inferred["plan"]["steps_per_epoch"], from_recipe["plan"]["steps_per_epoch"]);
    workspace.retune(&["plan", "--model", "model"]).exited(2).saying(&["--train FILE"]);
}

#[test]
fn a_plan_that_is_confirmed_shows_predicted_beside_measured() {
    let workspace = Workspace::new();
    let mut command = workspace.command(&["plan", "recipe.toml", "--confirm", "--json"]);
    // The allocator gives freed memory back at once, not at some moment between the two readings.
    let output = command.env("MIMALLOC_PURGE_DELAY", "0").output().unwrap();
    let confirmed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [predicted, measured] = ["predicted_resident_bytes", "resident_bytes"]
        .map(|key| confirmed["confirmation"][key].as_f64().unwrap());
    // The tiny model takes no more than the program itself, of whose pages the system may take some back meanwhile.
    assert!((predicted - measured).abs() < 0.1 * measured + 16e6, "{predicted} beside {measured}");
    assert!(confirmed["confirmation"]["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(confirmed["confirmation"]["samples"], 8);
    let text = workspace.retune(&["plan", "recipe.toml", "--confirm"]).succeeded().stdout;
    for words in ["predicted", "measured", "off by", "kept for the backward pass", "s a step"] {
        assert!(text.contains(words), "{words} is missing in {text}");
    }
    let groups = confirmed["plan"]["stages"][0]["activations"].as_array().unwrap().len();
    assert_eq!(groups, 3, "embeddings with the first block, the second, the head");
}

#[test]
fn a_run_says_at_its_end_what_was_predicted_and_what_it_took() {
    let workspace = images::workspace();
    let said = workspace.fit("run", &["num_train_epochs=6"]);
    said.saying(&["predicted", "measured", "resident"]);
    let compared = events(&workspace, "run", "forecast_compared");
    assert_eq!((compared.len(), &compared[0]["steps"]), (1, &18.into()));
    for key in ["predicted_step_seconds", "step_seconds", "predicted_seconds", "seconds"] {
        assert!(compared[0][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(workspace.read("run/report.html").contains("Before the first step"));
}
