//! A search for the learning rate leaves no trace in the run but the rate.

use serde_json::Value;

use crate::workspace::Workspace;

/// A head on features that are cached, everything, adapters, and a boundary that moves.
const STRATEGIES: &[&[&str]] = &[
    &["strategy.method=head"],
    &["strategy.method=full", "ema_decay=0.9", "gradient_accumulation_steps=2"],
    &["strategy.method=lora", "r=4"],
    &["strategy.method=gradual", "num_train_epochs=3", "group_by_length=true"],
];

fn events(workspace: &Workspace, folder: &str, name: &str) -> Vec<Value> {
    let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
    log.into_iter().filter(|line| line["event"] == name).collect()
}

#[test]
fn a_run_that_searched_has_the_bits_of_one_that_was_given_the_rate() {
    for strategy in STRATEGIES {
        let workspace = Workspace::new();
        workspace.fit("searched", &[strategy, &["learning_rate=auto"][..]].concat());
        let found = events(&workspace, "searched", "learning_rate_found");
        let rate = format!("learning_rate={}", found[0]["learning_rate"]);
        workspace.fit("given", &[strategy, &[rate.as_str()][..]].concat());
        for file in ["model.safetensors", "predictions/validation.jsonl", "predictions/test.jsonl"] {
            let bytes = |folder: &str| workspace.bytes(&format!("{folder}/{file}"));
            assert!(bytes("searched") == bytes("given"), "{file} differs: {strategy:?}");
        }
        let losses = |folder: &str| {
            let steps = events(&workspace, folder, "step_ended");
            steps.into_iter().map(|line| (line["step"].clone(), line["loss"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(losses("searched"), losses("given"), "{strategy:?}");
    }
}

#[test]
fn the_rate_is_recorded_before_the_first_step_and_a_resumed_run_does_not_search_again() {
    let workspace = Workspace::new();
    workspace.fit("run", &["learning_rate=auto", "save_steps=4", "save_total_limit=9"]);
    let found = workspace.json("run/learning_rate.json");
    let lock = workspace.read("run/recipe.lock.toml");
    let lock: toml::Table = lock.parse().unwrap();
    assert_eq!(lock["optimizer"]["learning_rate"].as_float(), found["learning_rate"].as_f64());
    let names: Vec<String> = workspace
        .json_lines("run/log.jsonl")
        .iter()
        .map(|line| line["event"].as_str().unwrap().to_owned())
        .filter(|name| ["learning_rate_found", "run_started"].contains(&name.as_str()))
        .collect();
    assert_eq!(names, ["learning_rate_found", "run_started"]);
    assert!(workspace.read("run/report.html").contains("Search for the learning rate"));

    let before = workspace.bytes("run/model.safetensors");
    for step in [8, 12, 16] {
        let path = workspace.path(&format!("run/checkpoints/step-{step:08}"));
        std::fs::remove_dir_all(path).unwrap();
    }
    let said = workspace.retune(&["resume", "run"]).succeeded();
    assert!(!said.stderr.contains("searching the learning rate"), "{}", said.stderr);
    assert!(workspace.bytes("run/model.safetensors") == before);
}

#[test]
fn lr_find_says_what_it_saw() {
    let workspace = Workspace::new();
    let arguments = ["lr-find", "recipe.toml", "--json", "--layer-groups", "--orders", "3"];
    let said = workspace.retune(&arguments).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let probes = found["probes"].as_array().unwrap();
    let rates: Vec<f64> = probes.iter().map(|probe| number(&probe["learning_rate"])).collect();
    assert!(rates.is_sorted() && rates.len() >= 7, "{rates:?}");
    // The recipe's own rate is where the search begins.
    assert!(rates.contains(&2e-3), "{rates:?}");
    let best: Vec<&Value> = probes.iter().filter(|probe| probe["outcome"] == "best").collect();
    assert_eq!(best.len(), 1);
    assert_eq!(best[0]["losses"].as_array().unwrap().len(), 3);
    let lowest = probes.iter().filter_map(|probe| probe["loss"].as_f64());
    assert!(number(&best[0]["loss"]) < number(&found["loss_before"]));
    assert!(lowest.clone().count() > 3);
    let (low, high) = (number(&found["low"]), number(&found["high"]));
    assert!(low <= number(&found["best"]) && number(&found["best"]) <= high);
    assert_eq!(found["held_out_samples"], 20);
    assert_eq!(found["layer_groups"].as_array().unwrap().len(), 3);
    // Every burst has eight steps, and what was said beforehand was enough.
    let steps = found["steps"].as_u64().unwrap();
    assert_eq!(steps % 8, 0);
    assert!(said.stderr.contains("at most 232 steps"), "{}", said.stderr);
    assert!(steps <= 232);
    assert!(!workspace.path("run").exists());

    let said = workspace.retune(&["lr-find", "recipe.toml", "strategy.method=head"]).succeeded();
    assert!(said.stdout.contains("suggestion: learning_rate = "), "{}", said.stdout);
}

#[test]
fn a_rate_that_destroys_the_model_is_neither_suggested_nor_within_noise() {
    let workspace = Workspace::new();
    let overrides = ["lr-find", "recipe.toml", "learning_rate=0.5", "max_grad_norm=0", "--json"];
    let said = workspace.retune(&overrides).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let before = found["loss_before"].as_f64().unwrap();
    let probes = found["probes"].as_array().unwrap();
    let bad: Vec<&Value> =
        probes.iter().filter(|probe| probe["loss"].as_f64().is_none_or(|loss| loss > before)).collect();
    assert!(!bad.is_empty(), "{found}");
    let chosen = probes.iter().find(|probe| probe["learning_rate"] == found["learning_rate"]).unwrap();
    assert!(chosen["loss"].as_f64().unwrap() < before, "{found}");
    for probe in bad {
        assert!(
            ["diverged", "worse_than_untrained"].contains(&probe["outcome"].as_str().unwrap()),
            "{probe}"
        );
        let rate = probe["learning_rate"].as_f64().unwrap();
        assert!(rate > found["high"].as_f64().unwrap(), "{found}");
    }
}

#[test]
fn a_search_without_validation_data_or_without_effect_is_refused() {
    let workspace = Workspace::new();
    let recipe = workspace.read("recipe.toml").replace("validation = \"validation.csv\"\n", "");
    workspace.write("bare.toml", &recipe);
    let refused = workspace.retune(&["fit", "bare.toml", "learning_rate=auto"]);
    refused.exited(2).saying(&["validation data", "data.validation_split"]);
    let stages = "\n[[stage]]\ntrain = [\"head\"]\nlearning_rate = 1e-3\n";
    workspace.write("stages.toml", &(workspace.read("recipe.toml") + stages));
    let refused = workspace.retune(&["lr-find", "stages.toml", "strategy.method=stages"]);
    refused.exited(2).saying(&["learning rates of its own"]);
    let refused = workspace.retune(&["fit", "recipe.toml", "learning_rate=guess"]);
    refused.exited(2).saying(&["must be a number of at least 0, or \"auto\""]);
}
