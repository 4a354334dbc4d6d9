//! Every strategy trains what it says and nothing else: frozen parameters keep every bit of the checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::Workspace;

/// The layer group of a parameter of the tiny BERT.
fn group(name: &str) -> &'static str {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    match name {
        name if name.starts_with("embeddings.") => "embeddings",
        name if name.starts_with("encoder.layer.0.") => "encoder.layer.0",
        name if name.starts_with("encoder.layer.1.") => "encoder.layer.1",
        name if name.starts_with("pooler.") || name.starts_with("classifier.") => "head",
        name => panic!("no group for {name}"),
    }
}

/// Trains with these overrides and gives, by name, whether each parameter of the checkpoint changed.
fn changed(workspace: &Workspace, overrides: &[&str]) -> BTreeMap<String, bool> {
    let overrides = [overrides, &["load_best_model_at_end=false"]].concat();
    let said = workspace.fit("run", &overrides);
    for detector in ["never moved", "frozen parameters changed"] {
        assert!(!said.stderr.contains(detector), "{}", said.stderr);
    }
    let base = workspace.tensors("model/model.safetensors");
    let trained = workspace.tensors("run/model.safetensors");
    let expected: BTreeSet<&str> =
        base.keys().map(String::as_str).chain(["classifier.bias", "classifier.weight"]).collect();
    assert_eq!(trained.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    base.into_iter()
        .map(|(name, values)| (bits(&values) != bits(&trained[&name]), name))
        .map(|(c, n)| (n, c))
        .collect()
}

/// Checks that exactly the parameters of these layer groups changed.
#[track_caller]
fn assert_trains(overrides: &[&str], groups: &[&str]) {
    let workspace = Workspace::new();
    for (name, changed) in changed(&workspace, overrides) {
        // A key's bias shifts all scores of a query alike: its gradient is zero but for rounding.
        if !name.ends_with("key.bias") || !groups.contains(&group(&name)) {
            assert_eq!(changed, groups.contains(&group(&name)), "{name} with {overrides:?}");
        }
    }
    let log = workspace.json_lines("run/log.jsonl");
    let told: BTreeSet<&str> = log
        .iter()
        .filter(|line| line["event"] == "stage_entered")
        .flat_map(|line| line["trainable_groups"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(told, groups.iter().copied().collect::<BTreeSet<_>>());
}

const ALL: &[&str] = &["embeddings", "encoder.layer.0", "encoder.layer.1", "head"];

#[test]
fn head_trains_the_head_alone() {
    assert_trains(&["strategy.method=head"], &["head"]);
}

#[test]
fn last_n_trains_the_head_and_the_last_groups() {
    assert_trains(&["strategy.method=last_n", "last_n=1"], &["encoder.layer.1", "head"]);
    assert_trains(&["strategy.method=last_n", "last_n=0"], &["head"]);
}

#[test]
fn full_trains_everything() {
    assert_trains(&["strategy.method=full"], ALL);
}

#[test]
fn gradual_ends_with_everything_trained() {
    assert_trains(&["strategy.method=gradual", "num_train_epochs=4"], ALL);
}

#[test]
fn gradual_unfreezes_at_the_given_epochs() {
    let overrides = ["strategy.method=gradual", "gradual_epochs=[1]", "num_train_epochs=2"];
    let workspace = Workspace::new();
    workspace.fit("run", &overrides);
    let log = workspace.json_lines("run/log.jsonl");
    let stages: Vec<u64> = log
        .iter()
        .filter(|line| line["event"] == "stage_entered")
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(stages, [0, 8]);
}

#[test]
fn fine_tune_trains_the_head_first_and_then_everything() {
    let overrides = ["strategy.method=fine_tune", "freeze_epochs=1", "num_train_epochs=1"];
    assert_trains(&overrides, ALL);
}

#[test]
fn stages_train_what_they_name() {
    let workspace = Workspace::new();
    let stages = "\n[[stage]]\nname = \"warm\"\ntrain = [\"head\"]\nmax_steps = 3\n\n\
                  [[stage]]\ntrain = [\"encoder.layer.*\"]\nmax_steps = 4\n";
    workspace.write("recipe.toml", &(workspace.read("recipe.toml") + stages));
    for (name, changed) in changed(&workspace, &["strategy.method=stages"]) {
        if !name.ends_with("key.bias") {
            assert_eq!(changed, group(&name) != "embeddings", "{name}");
        }
    }
    let log = workspace.json_lines("run/log.jsonl");
    let entered: Vec<_> = log.iter().filter(|line| line["event"] == "stage_entered").collect();
    assert_eq!(entered.len(), 2);
    assert_eq!(
        (&entered[0]["name"], &entered[0]["trainable_groups"]),
        (&"warm".into(), &serde_json::json!(["head"]))
    );
    assert_eq!(entered[1]["step"], 3);
    assert_eq!(entered[1]["frozen_groups"], serde_json::json!(["embeddings", "head"]));
}

#[test]
fn lora_changes_only_its_target_modules_and_the_head() {
    let workspace = Workspace::new();
    let target = |name: &str| name.ends_with("self.query.weight") || name.ends_with("self.value.weight");
    for (name, changed) in changed(&workspace, &["strategy.method=lora", "r=4"]) {
        assert_eq!(changed, target(&name) || group(&name) == "head", "{name}");
    }
    let mut expected: BTreeSet<String> = ["weight", "bias"]
        .iter()
        .flat_map(|end| [format!("bert.pooler.dense.{end}"), format!("classifier.{end}")])
        .map(|name| format!("base_model.model.{name}"))
        .collect();
    for layer in 0..2 {
        for (linear, side) in [("query", "A"), ("query", "B"), ("value", "A"), ("value", "B")] {
            let path = format!("base_model.model.bert.encoder.layer.{layer}.attention.self.{linear}");
            expected.insert(format!("{path}.lora_{side}.weight"));
        }
    }
    let adapter = workspace.tensors("run/adapter/adapter_model.safetensors");
    assert_eq!(adapter.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert!(
        adapter.iter().filter(|(name, _)| name.contains("lora_A")).all(|(_, values)| values.len() == 4 * 32)
    );
    let config = workspace.json("run/adapter/adapter_config.json");
    assert_eq!(
        (&config["peft_type"], &config["task_type"], &config["r"]),
        (&"LORA".into(), &"SEQ_CLS".into(), &4.into())
    );
    assert_eq!(config["target_modules"], serde_json::json!(["query", "value"]));
    assert_eq!(config["modules_to_save"], serde_json::json!(["pooler", "classifier"]));
}

#[test]
fn a_merged_adapter_is_the_base_plus_the_scaled_product() {
    let workspace = Workspace::new();
    workspace.fit("run", &["strategy.method=lora", "r=4", "lora_alpha=8", "load_best_model_at_end=false"]);
    let base = workspace.tensors("model/model.safetensors");
    let merged = workspace.tensors("run/model.safetensors");
    let adapter = workspace.tensors("run/adapter/adapter_model.safetensors");
    let path = "bert.encoder.layer.1.attention.self.value";
    let (a, b) = (
        &adapter[&format!("base_model.model.{path}.lora_A.weight")],
        &adapter[&format!("base_model.model.{path}.lora_B.weight")],
    );
    let name = format!("{path}.weight");
    for row in 0..32 {
        for column in 0..32 {
            let product: f64 =
                (0..4).map(|k| f64::from(b[row * 4 + k]) * f64::from(a[k * 32 + column])).sum();
            let expected = f64::from(base[&name][row * 32 + column]) + 2.0 * product;
            let actual = f64::from(merged[&name][row * 32 + column]);
            assert!((actual - expected).abs() < 1e-6, "[{row}, {column}]: {actual}, expected {expected}");
        }
    }
}

#[test]
fn a_lower_group_learns_at_the_decayed_rate() {
    let workspace = Workspace::new();
    workspace.fit("run", &["strategy.learning_rate_decay=0.5", "schedule.name=constant", "max_steps=2"]);
    let log = workspace.json_lines("run/log.jsonl");
    let step = log.iter().find(|line| line["event"] == "step_ended").unwrap();
    let rate = |group: &str| step["learning_rates"][group].as_f64().unwrap();
    for (group, expected) in
        [("head", 2e-3), ("encoder.layer.1", 1e-3), ("encoder.layer.0", 5e-4), ("embeddings", 2.5e-4)]
    {
        assert!((rate(group) - expected).abs() < 1e-12, "{group}: {}", rate(group));
    }
}
