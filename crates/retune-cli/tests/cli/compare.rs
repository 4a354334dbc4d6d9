//! Strategies compared under one budget: on validation data alone, the weaker ones dropped early.

use serde_json::Value;

use crate::workspace::Workspace;

fn compare(workspace: &Workspace, arguments: &[&str]) -> Value {
    let all = [&["compare-strategies", "recipe.toml", "--json"], arguments].concat();
    let said = workspace.retune(&all).succeeded();
    serde_json::from_str(&said.stdout).unwrap()
}

fn strategies(found: &Value) -> &Vec<Value> {
    found["strategies"].as_array().unwrap()
}

#[test]
fn strategies_are_compared_without_test_data_and_the_weaker_ones_are_dropped() {
    let workspace = Workspace::new();
    // Whoever reads it would fail.
    workspace.write("test.csv", "ticket,message,topic\n1,\"never closed,animals\n");
    let overrides = ["output_dir=found", "num_train_epochs=4", "--usual-rates"];
    let found = compare(&workspace, &overrides);
    let strategies = strategies(&found);
    assert_eq!(strategies.len(), 5);
    assert_eq!(found["steps"], 32);
    let whole: Vec<&Value> = strategies.iter().filter(|one| one["is_whole"] == true).collect();
    assert_eq!(whole.len(), 2);
    assert!(whole.iter().all(|one| one["steps"] == 32 && one["interval"]["low"].is_f64()));
    let dropped: Vec<u64> = strategies.iter().filter_map(|one| one["dropped_at"].as_u64()).collect();
    assert_eq!(dropped, [16, 8, 8]);
    // Its last stage begins after both decisions.
    assert!(whole.iter().any(|one| one["name"] == "gradual"));
    assert!(whole.iter().any(|one| one["on_the_frontier"] == true));
    assert_eq!(found["choice"]["name"], strategies[0]["name"]);
    assert!(found["choice"]["reason"].as_str().unwrap().contains("Dropped early"));
    let folder = format!("{}/model.safetensors", strategies[0]["folders"][0].as_str().unwrap());
    assert!(workspace.path(&folder).is_file());
    assert_eq!(workspace.json("found/comparison.json")["choice"], found["choice"]);
    // Two cuts of the tiny BERT have blocks below them: the one above its first block, and the head's.
    let cuts = found["models"][0]["cuts"].as_array().unwrap();
    let named: Vec<(&str, u64)> =
        cuts.iter().map(|cut| (cut["below"].as_str().unwrap(), cut["last_n"].as_u64().unwrap())).collect();
    assert_eq!(named, [("encoder.layer.1", 1), ("head", 0)]);
    // Three topics: their means span two directions at most.
    assert!(cuts.iter().all(|cut| (0.0..=2.0).contains(&cut["h_score"].as_f64().unwrap())), "{cuts:?}");
    let page = workspace.read("found/comparison.html");
    assert!(page.contains(&format!("Take {}", found["choice"]["name"].as_str().unwrap())));
}

#[test]
fn a_run_that_was_stopped_at_every_rung_is_the_run_that_nobody_stopped() {
    let workspace = Workspace::new();
    compare(&workspace, &["output_dir=found", "--methods", "head,full", "--budget", "16", "--usual-rates"]);
    for (method, rate) in [("full", 5e-5), ("head", 1e-3)] {
        let overrides =
            [format!("strategy.method={method}"), format!("learning_rate={rate}"), "max_steps=16".to_owned()];
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).chain(["eval_steps=2"]).collect();
        workspace.fit(method, &overrides);
        let compared = workspace.bytes(&format!("found/{method}-seed-42/model.safetensors"));
        assert!(compared == workspace.bytes(&format!("{method}/model.safetensors")), "{method}");
    }
}

#[test]
fn several_seeds_are_averaged_and_learning_rates_are_searched() {
    let workspace = Workspace::new();
    let found =
        compare(&workspace, &["output_dir=found", "--methods", "head", "--seeds", "2", "--budget", "8"]);
    let rates = strategies(&found)[0]["learning_rates"].as_array().unwrap();
    assert_eq!(rates.len(), 2);
    for (seed, rate) in [42, 43].into_iter().zip(rates) {
        let searched = workspace.json(&format!("found/head-seed-{seed}/learning_rate.json"));
        assert_eq!(&searched["learning_rate"], rate);
    }
}

#[test]
fn of_two_checkpoints_the_one_with_the_better_features_is_trained() {
    let workspace = Workspace::new();
    let other = Workspace::new();
    // All words alike: its features say nothing about the topic.
    other.blank_embeddings();
    let bad = other.path("model").display().to_string();
    let good = workspace.path("model").display().to_string();
    let found = compare(
        &workspace,
        &[
            "output_dir=found",
            "--methods",
            "head",
            "--budget",
            "8",
            "--usual-rates",
            "--model",
            &bad,
            "--model",
            &good,
        ],
    );
    let models: Vec<&str> =
        found["models"].as_array().unwrap().iter().map(|one| one["model"].as_str().unwrap()).collect();
    assert_eq!(models, [good.as_str(), bad.as_str()]);
}

#[test]
fn fit_with_method_auto_compares_and_then_runs_what_was_chosen() {
    let workspace = Workspace::new();
    workspace.fit("run", &["strategy.method=auto", "num_train_epochs=1"]);
    let found = workspace.json("run/comparison.json");
    let lock: toml::Table = workspace.read("run/recipe.lock.toml").parse().unwrap();
    assert_eq!(lock["strategy"]["method"].as_str(), found["choice"]["method"].as_str());
    assert_eq!(lock["optimizer"]["learning_rate"].as_float(), found["choice"]["learning_rate"].as_f64());
    // Only the run itself has looked at the test data.
    assert!(workspace.path("run/predictions/test.jsonl").is_file());
    let of_strategy = format!("{}/predictions", strategies(&found)[0]["folders"][0].as_str().unwrap());
    assert!(!workspace.path(&of_strategy).join("test.jsonl").exists());
}

#[test]
fn a_comparison_without_validation_data_is_refused() {
    let workspace = Workspace::new();
    let recipe = workspace.read("recipe.toml").replace("validation = \"validation.csv\"\n", "");
    workspace.write("bare.toml", &recipe);
    let refused = workspace.retune(&["compare-strategies", "bare.toml"]);
    refused.exited(2).saying(&["validation data", "data.validation_split"]);
    let refused = workspace.retune(&["compare-strategies", "recipe.toml", "--methods", "head,most"]);
    refused.exited(2).saying(&["\"most\" is no strategy", "head"]);
}
