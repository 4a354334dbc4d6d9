//! From file to batches: token ids kept on disk, and views of texts made ahead, never change a bit of the result.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::features::assert_same_result;
use crate::resume::{standing, start, start_fit, wait_until};
use crate::workspace::{Workspace, files_below, rows};

const ON: &str = "token_cache=on";
const OFF: &str = "token_cache=off";

/// Ways to read texts: as they are, in windows, cut, held out of the training file, augmented.
const READINGS: &[&[&str]] = &[
    &["strategy.method=full"],
    &["strategy.method=head", "max_length=8", "over_length=window", "stride=1"],
    &["strategy.method=full", "max_length=6", "over_length=head_tail", "group_by_length=true"],
    &["strategy.method=full", "word_dropout=0.2", "typos=0.1"],
];

/// The files of token ids.
fn token_files(workspace: &Workspace) -> Vec<PathBuf> {
    let cache = workspace.path("cache");
    let names = if cache.is_dir() { files_below(&cache) } else { Vec::new() };
    names.iter().filter(|name| name.ends_with(".arrow")).map(|name| cache.join(name)).collect()
}

/// The sets of token ids that `retune cache list` knows.
fn listed(workspace: &Workspace) -> Vec<Value> {
    let said = workspace.retune(&["cache", "list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&said.stdout).unwrap();
    listed["tokens"].as_array().unwrap().clone()
}

#[test]
fn cold_warm_full_and_absent_token_caches_give_the_same_bits() {
    for reading in READINGS {
        let workspace = Workspace::new();
        workspace.fit("off", &[reading, &[OFF][..]].concat());
        // The default leaves small data alone.
        workspace.fit("auto", reading);
        // No room for anything.
        workspace.fit("full", &[reading, &[ON, "token_cache_disk_bytes=100"][..]].concat());
        assert_eq!(token_files(&workspace).len(), 0);
        workspace.fit("cold", &[reading, &[ON][..]].concat());
        let files = token_files(&workspace);
        assert_eq!(files.len(), 3, "training, validation and test");
        workspace.fit("warm", &[reading, &[ON][..]].concat()).saying(&["token ids found in the cache"]);
        assert_eq!(token_files(&workspace), files);
        for folder in ["auto", "full", "cold", "warm"] {
            assert_same_result(&workspace, "off", folder, &format!("{reading:?} {folder}"));
        }
    }
}

#[test]
fn another_text_length_or_tokenizer_is_another_key_and_another_label_or_seed_is_not() {
    let workspace = Workspace::new();
    let overrides = ["validation_split=0.2", "strategy.method=head", ON, "num_train_epochs=1"];
    let recipe = workspace.read("recipe.toml").replace("validation = \"validation.csv\"\n", "");
    workspace.write("recipe.toml", &recipe);
    let mut run = 0;
    let mut sets_after = |changes: &[&str]| {
        run += 1;
        workspace.fit(&format!("run{run}"), &[&overrides[..], changes].concat());
        listed(&workspace).len()
    };
    assert_eq!(sets_after(&[]), 2, "training with validation, and test");
    assert_eq!(sets_after(&["seed=7"]), 2, "another part is held out of the same texts");
    let train = workspace.read("train.csv");
    let first = train.lines().nth(1).unwrap().rsplit(',').next().unwrap().to_owned();
    let other = if first == "food" { "travel" } else { "food" };
    workspace.write("train.csv", &train.replacen(&format!(",{first}\n"), &format!(",{other}\n"), 1));
    assert_eq!(sets_after(&[]), 2, "another label");
    workspace.write("train.csv", &train.replacen("the", "thx", 1));
    assert_eq!(sets_after(&[]), 3, "a byte of a text");
    assert_eq!(sets_after(&["max_length=20"]), 5, "another length");
    assert_eq!(sets_after(&["max_length=20", "over_length=tail"]), 7, "another policy");
    let vocabulary = workspace.read("model/vocab.txt");
    workspace.write("model/vocab.txt", &vocabulary.replacen("cat\ndog\n", "dog\ncat\n", 1));
    assert_ne!(workspace.read("model/vocab.txt"), vocabulary);
    assert_eq!(sets_after(&[]), 9, "another tokenizer");
}

#[test]
fn a_damaged_file_of_tokens_is_noticed_and_made_again() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=full", ON];
    workspace.fit("off", &["strategy.method=full", OFF]);
    workspace.fit("cold", &overrides);
    let whole: Vec<Vec<u8>> =
        token_files(&workspace).iter().map(|path| std::fs::read(path).unwrap()).collect();
    for (way, path) in token_files(&workspace).iter().enumerate() {
        let mut bytes = std::fs::read(path).unwrap();
        match way {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.clear(),
            _ => bytes.iter_mut().skip(700).step_by(900).for_each(|byte| *byte ^= 1),
        }
        std::fs::write(path, bytes).unwrap();
    }
    assert!(listed(&workspace).iter().all(|set| set["damaged"].as_array().unwrap().len() == 1));
    workspace.fit("damaged", &overrides).saying(&["is damaged", "tokenized again"]);
    assert_same_result(&workspace, "off", "damaged", "damaged files of tokens");
    let again: Vec<Vec<u8>> =
        token_files(&workspace).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(again == whole, "the files are those of before");
}

#[test]
fn two_runs_at_once_share_token_ids() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=full", ON];
    workspace.fit("off", &["strategy.method=full", OFF]);
    let start = |folder: &str| {
        let output = format!("output_dir={folder}");
        let arguments = [&["fit", "recipe.toml", &output][..], &overrides].concat();
        workspace.command(&arguments).output()
    };
    let folders = ["a", "b", "c", "d"];
    std::thread::scope(|scope| {
        let others: Vec<_> = folders.map(|folder| scope.spawn(move || start(folder))).into();
        for other in others {
            let output = other.join().unwrap().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    for folder in folders {
        assert_same_result(&workspace, "off", folder, folder);
    }
    assert_eq!(token_files(&workspace).len(), 3, "who wrote the same wrote it under the same name");
    assert!(!files_below(&workspace.path("cache")).iter().any(|name| name.ends_with(".tmp")));
}

#[test]
fn token_ids_that_were_not_used_for_longest_make_room_and_all_of_them_can_be_cleared() {
    let workspace = Workspace::new();
    let fit = |folder: &str, changes: &[&str]| {
        workspace.fit(folder, &[&["strategy.method=head", "num_train_epochs=1", ON][..], changes].concat())
    };
    fit("first", &[]);
    let text = workspace.retune(&["cache", "list"]).succeeded().stdout;
    assert!(text.contains("tokens of") && text.contains("train.csv"), "{text}");
    let lengths =
        || listed(&workspace).iter().map(|set| set["max_length"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(lengths(), [24, 24, 24]);
    // Room for three sets: those of the first run go one by one.
    let bytes: u64 = listed(&workspace).iter().map(|set| set["bytes"].as_u64().unwrap()).sum();
    fit("second", &["max_length=20", &format!("token_cache_disk_bytes={}", bytes * 5 / 4)]);
    assert!(lengths().iter().filter(|&&length| length == 20).count() >= 1);
    let sum = |sets: Vec<Value>| sets.iter().map(|set| set["bytes"].as_u64().unwrap()).sum::<u64>();
    assert!(sum(listed(&workspace)) <= bytes * 2);
    workspace.write("cache/tokens/leftover.tmp", "");
    workspace.retune(&["cache", "clean", "--limit", "10"]).succeeded();
    assert!(listed(&workspace).is_empty());
    fit("third", &[]);
    workspace.retune(&["cache", "clear"]).succeeded();
    assert!(listed(&workspace).is_empty() && token_files(&workspace).is_empty());
}

#[test]
fn views_made_ahead_are_the_same_for_any_number_of_workers() {
    let workspace = Workspace::new();
    let overrides = [
        "strategy.method=full",
        "word_dropout=0.2",
        "word_swap=0.2",
        "typos=0.1",
        "per_device_train_batch_size=4",
        "gradient_accumulation_steps=2",
    ];
    workspace.fit("none", &[&overrides[..], &["workers=0"]].concat());
    for workers in ["1", "3"] {
        workspace.fit(workers, &[&overrides[..], &[&format!("workers={workers}")]].concat());
        assert_same_result(&workspace, "none", workers, "workers");
    }
}

/// Weights and losses: near copies in the predictions are looked for among texts that are in memory alone.
#[track_caller]
fn assert_same_training(workspace: &Workspace, expected: &str, actual: &str) {
    let weights = |folder: &str| workspace.bytes(&format!("{folder}/model.safetensors"));
    assert!(weights(expected) == weights(actual), "{actual}");
    let losses = |folder: &str| {
        let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
        let steps = log.into_iter().filter(|line| line["event"] == "step_ended");
        steps.map(|line| line["loss"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(losses(expected), losses(actual), "{actual}");
}

#[test]
fn streamed_training_texts_give_the_same_bits() {
    for reading in [
        &["strategy.method=full", "num_train_epochs=1"][..],
        &["strategy.method=head", "max_length=8", "over_length=window", "stride=1", "class_weights=balanced"],
    ] {
        let workspace = Workspace::new();
        workspace.fit("memory", reading);
        workspace.fit("cold", &[reading, &["stream=true"][..]].concat());
        assert_eq!(token_files(&workspace).len(), 1, "the training texts'");
        workspace
            .fit("warm", &[reading, &["stream=true"][..]].concat())
            .saying(&["token ids found in the cache"]);
        workspace.retune(&["cache", "clear"]).succeeded();
        workspace.fit("off", &[reading, &["stream=true", OFF][..]].concat());
        assert!(token_files(&workspace).is_empty(), "what is mapped needs no name");
        for folder in ["cold", "warm", "off"] {
            assert_same_training(&workspace, "memory", folder);
        }
    }
}

#[test]
fn json_lines_and_parquet_are_streamed_like_csv() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=head", "num_train_epochs=1", "feature_cache=off"];
    workspace.fit("csv", &overrides);
    let mut lines = String::new();
    for row in workspace.read("train.csv").lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        let object = json!({ "ticket": cells[0], "message": cells[1], "topic": cells[2] });
        lines.push_str(&format!("{object}\n"));
    }
    workspace.write("train.jsonl", &lines);
    // The Parquet file has a column more, the features.
    let embed = ["embed", "--model", "csv", "--data", "train.csv", "--output", "train.parquet"];
    workspace.retune(&embed).succeeded();
    for (name, train) in [("jsonl", "data.train=train.jsonl"), ("parquet", "data.train=train.parquet")] {
        workspace.fit(name, &[&overrides[..], &[train, "stream=true"]].concat());
        let written = workspace.bytes(&format!("{name}/model.safetensors"));
        assert!(workspace.bytes("csv/model.safetensors") == written, "{name}");
    }
}

#[test]
fn a_file_of_several_pieces_is_streamed_to_the_same_bits() {
    let workspace = Workspace::new();
    workspace.write("train.csv", &rows("train", 20_000));
    let overrides = ["strategy.method=full", "max_steps=12", "group_by_length=true"];
    workspace.fit("memory", &overrides);
    workspace.fit("streamed", &[&overrides[..], &["stream=true"]].concat());
    assert_same_training(&workspace, "memory", "streamed");
}

#[test]
fn a_streamed_run_that_was_killed_is_resumed_to_the_same_bits_with_its_token_ids_or_without() {
    for is_cleared in [false, true] {
        let workspace = Workspace::new();
        let overrides = ["strategy.method=full", "stream=true", "save_steps=5", "num_train_epochs=3"];
        workspace.fit("whole", &overrides);
        let files = token_files(&workspace);
        let mut child = start_fit(&workspace, "killed", &overrides);
        wait_until(&mut child, || standing(&workspace, "killed").0 >= 6);
        child.kill().unwrap();
        child.wait().unwrap();
        if is_cleared {
            workspace.retune(&["cache", "clear"]).succeeded();
        }
        assert!(start(&workspace, &["resume", "killed"]).wait().unwrap().success());
        assert_same_result(&workspace, "whole", "killed", "killed and resumed");
        assert_eq!(token_files(&workspace), files, "the same key, though the recipe now names its columns");
    }
}

#[test]
fn what_is_wrong_in_streamed_data_is_refused_with_its_line_and_what_needs_texts_with_advice() {
    let workspace = Workspace::new();
    let train = workspace.read("train.csv");
    let refused = |code: i32, overrides: &[&str], words: &[&str]| {
        let arguments =
            [&["fit", "recipe.toml", "output_dir=refused", "stream=true"][..], overrides].concat();
        workspace.retune(&arguments).exited(code).saying(words);
    };
    refused(2, &["word_dropout=0.1"], &["data.stream", "augmentation of texts"]);
    let recipe = workspace.read("recipe.toml");
    workspace
        .write("recipe.toml", &recipe.replace("validation = \"validation.csv\"", "validation_split = 0.1"));
    refused(2, &[], &["data.stream", "data.validation_split", "name it in data.validation"]);
    workspace.write("recipe.toml", &recipe);
    refused(2, &["group_column=topic"], &["data.stream", "data.group_column"]);
    refused(2, &["drop_missing=[\"topic\"]"], &["train.csv cannot be streamed", "drop_missing"]);
    refused(2, &["token_cache_disk_bytes=10"], &["token_cache_disk_bytes", "no room"]);
    let mut lines: Vec<&str> = train.lines().collect();
    lines[40] = "train-39,a text without a topic,";
    workspace.write("train.csv", &lines.join("\n"));
    refused(3, &[], &["train.csv:41", "missing-label"]);
    workspace
        .fit("dropped", &["stream=true", "missing_label=drop", "num_train_epochs=1"])
        .saying(&["1 row left out"]);
    // A text of the test data among those that were streamed is a copy.
    let shared = workspace.read("test.csv").lines().nth(3).unwrap().to_owned();
    workspace.write("train.csv", &format!("{train}\n{shared}\n").replace("\n\n", "\n"));
    workspace.fit("copied", &["stream=true", "num_train_epochs=1"]);
    assert_eq!(workspace.json("copied/metrics.json")["test_copies"], 1);
}
