//! Every kind of target and of input, from training to evaluation.

use serde_json::Value;

use crate::workspace::{Workspace, rows};

/// Trains on the tests' rows after `change` made another file of each, and checks that `eval` agrees with the run.
fn trains_and_evaluates(
    extension: &str,
    overrides: &[&str],
    metric: &str,
    change: impl Fn(&str) -> String,
) -> Workspace {
    let workspace = Workspace::new();
    let mut files = Vec::new();
    for (split, count) in [("train", 60), ("validation", 20), ("test", 25)] {
        workspace.write(&format!("{split}.{extension}"), &change(&rows(split, count)));
        files.push(format!("data.{split}={split}.{extension}"));
    }
    let overrides: Vec<&str> = files.iter().map(String::as_str).chain(overrides.iter().copied()).collect();
    workspace.fit("run", &overrides);
    let metrics = workspace.json("run/metrics.json");
    let said = workspace.retune(&["eval", "run", "--json"]).succeeded();
    let evaluated: Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(metrics[format!("test_{metric}")].is_number(), "{metrics}");
    for name in [metric, "loss"] {
        assert_eq!(evaluated[format!("eval_{name}")], metrics[format!("test_{name}")], "{name}");
    }
    workspace
}

/// Each data row as its columns `ticket`, `message`, `topic`.
fn columns(csv: &str) -> impl Iterator<Item = [&str; 3]> {
    csv.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split(',').collect();
        [columns[0], columns[1], columns[2]]
    })
}

#[test]
fn several_labels_a_row_are_learned_and_answered() {
    let overrides = ["label_column=topics", "task.problem_type=multi_label_classification"];
    let workspace = trains_and_evaluates("csv", &overrides, "f1_micro", |csv| {
        let rows = columns(csv).map(|[_, message, topic]| {
            let second = if message.contains("the") { "|formal" } else { "" };
            format!("{message},{topic}{second}\n")
        });
        format!("message,topics\n{}", rows.collect::<String>())
    });
    let config = workspace.json("run/config.json");
    assert_eq!(config["problem_type"], "multi_label_classification");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 4);
}

#[test]
fn several_label_columns_and_a_named_separator_are_several_labels_too() {
    let workspace =
        trains_and_evaluates("csv", &["label_column=[\"animals\", \"food\"]"], "f1_micro", |csv| {
            let rows = columns(csv).map(|[_, message, topic]| {
                let is = |label| u8::from(topic == label);
                format!("{message},{},{}\n", is("animals"), is("food"))
            });
            format!("message,animals,food\n{}", rows.collect::<String>())
        });
    assert_eq!(workspace.json("run/config.json")["id2label"]["1"], "food");
    let overrides =
        ["label_column=topics", "label_separator=/", "task.problem_type=multi_label_classification"];
    let workspace = trains_and_evaluates("csv", &overrides, "f1_micro", |csv| {
        let rows = columns(csv).map(|[_, message, topic]| format!("{message},{topic}/all\n"));
        format!("message,topics\n{}", rows.collect::<String>())
    });
    assert_eq!(workspace.json("run/config.json")["id2label"].as_object().unwrap().len(), 4);
}

#[test]
fn numbers_are_learned_and_answered() {
    let overrides = ["label_column=words", "task.problem_type=regression"];
    let workspace = trains_and_evaluates("csv", &overrides, "mse", |csv| {
        let rows =
            columns(csv).map(|[_, message, _]| format!("{message},{}.5\n", message.split(' ').count()));
        format!("message,words\n{}", rows.collect::<String>())
    });
    assert_eq!(workspace.json("run/config.json")["problem_type"], "regression");
}

#[test]
fn pairs_of_texts_are_learned_and_answered() {
    trains_and_evaluates("csv", &["text_pair_column=other"], "accuracy", |csv| {
        let rows = columns(csv).map(|[ticket, message, topic]| format!("{message},my {ticket},{topic}\n"));
        format!("message,other,topic\n{}", rows.collect::<String>())
    });
}

#[test]
fn json_lines_and_tabs_give_the_very_model_that_commas_give() {
    let as_lines = |csv: &str| {
        let rows = columns(csv).map(|[ticket, message, topic]| {
            format!("{}\n", serde_json::json!({ "ticket": ticket, "message": message, "topic": topic }))
        });
        rows.collect()
    };
    let lines = trains_and_evaluates("jsonl", &[], "accuracy", as_lines);
    let tabs = trains_and_evaluates("tsv", &[], "accuracy", |csv| csv.replace(',', "\t"));
    let commas = trains_and_evaluates("csv", &[], "accuracy", str::to_owned);
    let weights = |workspace: &Workspace| workspace.bytes("run/model.safetensors");
    assert!(weights(&lines) == weights(&commas));
    assert!(weights(&tabs) == weights(&commas));
}

#[test]
fn long_texts_are_answered_window_by_window_alike_in_any_batch() {
    let workspace = Workspace::new();
    workspace.fit("run", &["max_length=8", "over_length=window", "stride=2"]);
    for (batch_size, output) in [("1", "one.jsonl"), ("32", "many.jsonl")] {
        let arguments = ["predict", "--model", "run", "--data", "test.csv", "--output", output, "--logits"];
        workspace.retune(&[&arguments[..], &["--batch-size", batch_size]].concat()).succeeded();
    }
    assert_eq!(workspace.read("one.jsonl"), workspace.read("many.jsonl"));
    let recorded = workspace.json_lines("run/predictions/test.jsonl");
    for (recorded, answered) in recorded.iter().zip(workspace.json_lines("one.jsonl")) {
        assert_eq!(recorded["logits"], answered["logits"]);
    }
}
