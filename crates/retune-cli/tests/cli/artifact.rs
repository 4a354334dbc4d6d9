//! What a run leaves behind, and what `predict` and `eval` say of it.

use serde_json::Value;

use crate::workspace::{Workspace, files_below, rows};

#[test]
fn fit_writes_every_file_of_the_run_folder() {
    let workspace = Workspace::new();
    workspace.fit("run", &["save_steps=5", "save_total_limit=2"]);
    let files = files_below(&workspace.path("run"));
    for name in [
        "README.md",
        "config.json",
        "load_report.json",
        "log.jsonl",
        "metrics.json",
        "model.safetensors",
        "predictions/test.jsonl",
        "predictions/validation.jsonl",
        "recipe.lock.toml",
        "report.html",
        "tokenizer_config.json",
        "vocab.txt",
    ] {
        assert!(files.iter().any(|file| file == name), "{name} is missing among {files:?}");
    }
    for step in ["step-00000015", "step-00000016"] {
        for file in ["model.safetensors", "optimizer.safetensors", "progress.json"] {
            let name = format!("checkpoints/{step}/{file}");
            assert!(files.contains(&name), "{name} is missing among {files:?}");
        }
    }
    assert!(
        !files.iter().any(|file| file.contains("step-00000010")),
        "more checkpoints than the limit: {files:?}"
    );
    assert!(
        !files.iter().any(|file| file.contains("partial") || file.contains("tmp")),
        "half files: {files:?}"
    );
    let config = workspace.json("run/config.json");
    assert_eq!(config["architectures"], serde_json::json!(["BertForSequenceClassification"]));
    assert_eq!(config["id2label"], serde_json::json!({ "0": "animals", "1": "food", "2": "travel" }));
    assert_eq!(config["problem_type"], "single_label_classification");
}

#[test]
fn the_log_tells_every_step_evaluation_and_checkpoint_in_order() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    let log = workspace.json_lines("run/log.jsonl");
    let of = |event: &str| log.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    assert_eq!(log[0]["event"], "run_started");
    assert_eq!(log[0]["total_steps"], 16);
    assert_eq!((&log[0]["train_samples"], &log[0]["test_samples"]), (&Value::from(60), &Value::from(25)));
    let steps: Vec<u64> = of("step_ended").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=16).collect::<Vec<u64>>());
    let evaluated: Vec<u64> = of("eval_ended").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(evaluated, [8, 16]);
    assert_eq!(of("checkpoint_written").len(), 2);
    assert_eq!(of("run_ended")[0]["reason"], "completed");
    let samples: u64 = of("step_ended").iter().map(|line| line["samples"].as_u64().unwrap()).sum();
    assert_eq!(samples, 120);
}

#[test]
fn a_tiny_model_learns_which_words_make_a_topic() {
    let workspace = Workspace::without_dropout();
    workspace.fit("run", &["num_train_epochs=20"]);
    let metrics = workspace.json("run/metrics.json");
    let number = |name: &str| metrics[name].as_f64().unwrap_or_else(|| panic!("{name} in {metrics}"));
    assert!(number("test_accuracy") >= 0.8, "{metrics}");
    assert!(number("test_accuracy_majority_baseline") < 0.5, "{metrics}");
    assert!(number("test_accuracy_untrained_head_baseline") < 0.7, "{metrics}");
    assert!(number("eval_loss") < 0.6, "{metrics}");
}

#[test]
fn predict_keeps_columns_and_order_and_does_not_depend_on_the_batch() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    let rows = rows("new", 40);
    workspace.write("new.csv", &rows);
    for (batch_size, output) in [("1", "one.jsonl"), ("32", "many.jsonl")] {
        let arguments = ["predict", "--model", "run", "--data", "new.csv", "--output", output, "--logits"];
        workspace
            .retune(&[arguments.as_slice(), &["--batch-size", batch_size, "text_column=message"]].concat())
            .succeeded();
    }
    assert_eq!(workspace.read("one.jsonl"), workspace.read("many.jsonl"));
    let answers = workspace.json_lines("many.jsonl");
    assert_eq!(answers.len(), 40);
    for (answer, row) in answers.iter().zip(rows.lines().skip(1)) {
        let columns: Vec<&str> = row.split(',').collect();
        assert_eq!(answer["ticket"], columns[0]);
        assert_eq!(answer["message"], columns[1]);
        assert_eq!(answer["topic"], columns[2]);
        let logits: Vec<f64> =
            answer["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let names = ["animals", "food", "travel"];
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        for (name, logit) in names.iter().zip(&logits) {
            let score = answer["scores"][name].as_f64().unwrap();
            assert!((score - logit.exp() / total).abs() < 1e-6, "{answer}");
        }
        let best = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(answer["label"], names[best]);
        assert_eq!(answer["score"], answer["scores"][names[best]]);
    }
}

#[test]
fn predict_answers_data_without_labels() {
    let workspace = Workspace::new();
    workspace.fit("run", &["max_steps=2"]);
    workspace.write("new.csv", "message\nwe saw the old cat today\nmy new train ticket\n");
    let said = workspace.retune(&["predict", "--model", "run", "--data", "new.csv"]).succeeded();
    let answers: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1]["message"], "my new train ticket");
}

#[test]
fn predict_gives_the_logits_that_the_run_recorded() {
    let workspace = Workspace::new();
    for run in ["f32", "bf16"] {
        workspace.fit(run, &[&format!("precision={run}")]);
        workspace
            .retune(&[
                "predict",
                "--model",
                run,
                "--data",
                "test.csv",
                "--output",
                "answers.jsonl",
                "--logits",
            ])
            .succeeded();
        let recorded = workspace.json_lines(&format!("{run}/predictions/test.jsonl"));
        let answered = workspace.json_lines("answers.jsonl");
        assert_eq!(recorded.len(), answered.len());
        for (recorded, answered) in recorded.iter().zip(&answered) {
            assert_eq!(recorded["logits"], answered["logits"]);
            assert_eq!(recorded["prediction"], answered["label"]);
        }
    }
    let logits =
        |run: &str| workspace.json_lines(&format!("{run}/predictions/test.jsonl"))[0]["logits"].clone();
    assert_ne!(logits("f32"), logits("bf16"), "the precision changed nothing");
}

#[test]
fn eval_measures_what_the_run_measured() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    let metrics = workspace.json("run/metrics.json");
    let said = workspace.retune(&["eval", "run", "--json"]).succeeded();
    let evaluated: Value = serde_json::from_str(&said.stdout).unwrap();
    for name in ["accuracy", "f1_macro", "loss"] {
        assert_eq!(evaluated[format!("eval_{name}")], metrics[format!("test_{name}")], "{name}");
    }
    let said = workspace.retune(&["eval", "run", "--data", "validation.csv", "--json"]).succeeded();
    let evaluated: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(evaluated["eval_accuracy"], metrics["eval_accuracy"]);
    let said = workspace.retune(&["eval", "run"]).succeeded();
    let accuracy = format!("{:.4}", metrics["test_accuracy"].as_f64().unwrap());
    assert!(said.stdout.contains(&accuracy), "{accuracy} is missing in:\n{}", said.stdout);
}

#[test]
fn a_model_is_within_noise_of_itself() {
    let workspace = Workspace::new();
    workspace.fit("run", &[]);
    let said = workspace.retune(&["eval", "run", "--against", "run"]).succeeded();
    assert!(said.stdout.contains("within noise"), "{}", said.stdout);
}

#[test]
fn standard_output_with_json_is_one_object() {
    let workspace = Workspace::new();
    let said = workspace.retune(&["fit", "recipe.toml", "--json"]).succeeded();
    let result: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(result["outcome"], "completed");
    assert_eq!(result["steps"], 16);
    assert_eq!(result["metrics"], workspace.json("run/metrics.json"));
}

#[test]
fn a_fine_tuned_model_can_be_fine_tuned_again_and_keeps_its_output_layer() {
    let workspace = Workspace::new();
    workspace.fit("first", &[]);
    workspace.fit("second", &["model.name_or_path=first", "learning_rate=0", "max_steps=1"]);
    assert_eq!(workspace.tensors("first/model.safetensors"), workspace.tensors("second/model.safetensors"));
}
