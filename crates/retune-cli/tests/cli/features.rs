//! The cache of features: cold, warm, too small, cleared or damaged in mid-run, it never changes a bit of the result.

use std::path::PathBuf;

use serde_json::Value;

use crate::images;
use crate::resume::{standing, start, start_fit, wait_until};
use crate::workspace::{Workspace, files_below, rows};

const OFF: &str = "feature_cache=off";

/// Strategies with something frozen below: the head, the last block (in bf16 too), a boundary that moves down, a prefix that
/// trained before it was frozen, and texts in several windows.
const STRATEGIES: &[&[&str]] = &[
    &["strategy.method=head"],
    &["strategy.method=last_n", "last_n=1", "ema_decay=0.9"],
    &["strategy.method=last_n", "last_n=1", "precision=bf16"],
    &["strategy.method=gradual", "num_train_epochs=4", "group_by_length=true", "gradient_checkpointing=true"],
    &[
        "strategy.method=last_n",
        "last_n=1",
        "max_length=8",
        "over_length=window",
        "gradient_accumulation_steps=2",
    ],
    &["strategy.method=fine_tune", "freeze_epochs=2", "average_checkpoints=2", "save_steps=4"],
];

/// Everything of two finished runs that must be equal.
#[track_caller]
pub fn assert_same_result(workspace: &Workspace, expected: &str, actual: &str, what: &str) {
    for file in ["model.safetensors", "predictions/validation.jsonl", "predictions/test.jsonl"] {
        let bytes = |folder: &str| workspace.bytes(&format!("{folder}/{file}"));
        assert!(bytes(expected) == bytes(actual), "{file} differs: {what}");
    }
    let losses = |folder: &str| {
        let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
        let steps = log.into_iter().filter(|line| line["event"] == "step_ended");
        steps.map(|line| (line["step"].clone(), line["loss"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(losses(expected), losses(actual), "{what}");
}

/// The sums of what the runs' `features_cached` events say: computed, reused, from disk.
fn usage(workspace: &Workspace, folder: &str) -> [u64; 3] {
    let log = workspace.json_lines(&format!("{folder}/log.jsonl"));
    let told: Vec<&Value> = log.iter().filter(|line| line["event"] == "features_cached").collect();
    ["computed", "reused", "from_disk"].map(|key| told.iter().map(|line| line[key].as_u64().unwrap()).sum())
}

fn parts(workspace: &Workspace) -> Vec<PathBuf> {
    let cache = workspace.path("cache");
    let names = if cache.is_dir() { files_below(&cache) } else { Vec::new() };
    names.iter().filter(|name| name.ends_with(".features")).map(|name| cache.join(name)).collect()
}

#[test]
fn cold_warm_small_and_absent_caches_give_the_same_bits() {
    for strategy in STRATEGIES {
        let workspace = Workspace::new();
        workspace.fit("off", &[strategy, &[OFF][..]].concat());
        assert_eq!(parts(&workspace).len(), 0);
        for (folder, setting) in [
            ("cold", &["feature_cache=auto"][..]),
            ("warm", &["feature_cache=auto"]),
            ("memory", &["feature_cache=memory"]),
            // Room for a few samples only, in memory and on disk.
            ("small", &["feature_cache_bytes=20000", "feature_cache_disk_bytes=30000"]),
            ("disk", &["feature_cache=disk"]),
        ] {
            workspace.fit(folder, &[strategy, setting].concat());
            assert_same_result(&workspace, "off", folder, &format!("{strategy:?} {folder}"));
        }
    }
}

/// Pictures as they are, in a few views drawn once, in a new view each time (so that only evaluations are cached), and a
/// boundary that moves down, with the mirror image beside the picture in evaluation.
const PICTURE_STRATEGIES: &[&[&str]] = &[
    &["strategy.method=head", "augmentation.crop=center", "rotation=0", "brightness=0", "horizontal_flip=0"],
    &["strategy.method=last_n", "last_n=2", "cached_views=2", "gradient_checkpointing=true"],
    &["strategy.method=head", "num_train_epochs=3"],
    &["strategy.method=gradual", "num_train_epochs=6", "cached_views=2", "test_time=flip", "ema_decay=0.9"],
];

#[test]
fn features_of_pictures_give_the_same_bits_cold_warm_small_and_absent() {
    for strategy in PICTURE_STRATEGIES {
        let workspace = images::workspace();
        workspace.fit("off", &[strategy, &[OFF][..]].concat());
        for (folder, setting) in [
            ("cold", &["feature_cache=auto"][..]),
            ("warm", &["feature_cache=auto"]),
            ("small", &["feature_cache_bytes=20000", "feature_cache_disk_bytes=30000"]),
            ("disk", &["feature_cache=disk"]),
        ] {
            workspace.fit(folder, &[strategy, setting].concat());
            assert_same_result(&workspace, "off", folder, &format!("{strategy:?} {folder}"));
        }
    }
}

#[test]
fn a_review_of_pictures_keeps_their_features_and_says_the_same_from_the_cache() {
    let workspace = images::workspace();
    workspace.fit("base", &["num_train_epochs=1", OFF]);
    let review = |output: &str, overrides: &[&str]| {
        let all = ["data", "review", "recipe.toml", "name_or_path=base", "--rows", "24", "--output", output];
        workspace.retune(&[&all[..], overrides].concat()).succeeded();
        workspace.read(output)
    };
    let without = review("off.csv", &[OFF]);
    assert_eq!(review("cold.csv", &[]), without);
    let listed = workspace.retune(&["cache", "list", "--json"]).succeeded().stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&listed["features"][0]["below"], &listed["features"][0]["samples"]),
        (&"head".into(), &24.into())
    );
    // Each picture is looked at once, whatever evaluation averages.
    assert_eq!(review("warm.csv", &["test_time=ten_crop"]), without);
}

#[test]
fn each_view_of_a_picture_is_computed_once_and_another_seed_finds_it() {
    let workspace = images::workspace();
    // Weights that do not follow the seed.
    workspace.fit("base", &["num_train_epochs=1"]);
    // 24 training pictures, 9 to validate and 9 to test.
    let base = "name_or_path=base";
    let overrides = [base, "strategy.method=head", "num_train_epochs=5", "cached_views=2"];
    workspace.fit("first", &overrides);
    let [computed, reused, from_disk] = usage(&workspace, "first");
    assert_eq!((computed, from_disk), (2 * 24 + 9 + 9, 0));
    assert!(reused >= 3 * 24 + 6 * 9 + 9, "{reused}");
    workspace.fit("second", &[&overrides[..], &["seed=7"]].concat());
    // The first run left two files, one with each epoch's views. The first batch that meets one is computed anew, to hold
    // it against: one of evaluation, one of training, which begins with the other view.
    assert_eq!(usage(&workspace, "second")[0], 5 + 8);
    workspace.fit("fresh", &[base, "strategy.method=head", "num_train_epochs=5"]);
    assert_eq!(usage(&workspace, "fresh")[0], 5, "new views each time: evaluation alone, found on disk");
    let plan = workspace.retune(&[&["plan", "recipe.toml", "--json"][..], &overrides].concat()).succeeded();
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    let features = &plan["plan"]["stages"][0]["features"];
    assert_eq!((&features["below"], &features["bytes"]), (&"head".into(), &(4 * 64 * 66).into()));
}

#[test]
fn a_run_on_cached_views_that_was_killed_ends_in_the_same_bits() {
    let workspace = images::workspace();
    let overrides =
        ["strategy.method=gradual", "num_train_epochs=12", "save_steps=4", "eval_steps=5", "cached_views=3"];
    workspace.fit("off", &[&overrides[..], &[OFF]].concat());
    let mut child = start_fit(&workspace, "killed", &overrides);
    wait_until(&mut child, || standing(&workspace, "killed").0 >= 10);
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(workspace.path("cache/features")).unwrap();
    assert!(start(&workspace, &["resume", "killed"]).wait().unwrap().success());
    assert_same_result(&workspace, "off", "killed", "killed and resumed");
}

#[test]
fn each_sample_is_computed_once_and_another_seed_finds_it() {
    let workspace = Workspace::new();
    workspace.fit("first", &["strategy.method=head"]);
    // 60 training, 20 validation and 25 test rows; two epochs. Validation data is looked at before training, after each
    // epoch and at the end, test data before and at the end.
    let [computed, reused, from_disk] = usage(&workspace, "first");
    assert_eq!((computed, from_disk), (105, 0));
    assert!(reused >= 60 + 3 * 20 + 25, "{reused}");
    workspace.fit("second", &["strategy.method=head", "seed=7"]);
    let [computed, _, from_disk] = usage(&workspace, "second");
    // The first batch is computed anew, to hold the file against it.
    assert_eq!((computed, from_disk), (20, 85));
}

#[test]
fn a_log_says_what_was_saved_and_off_says_nothing() {
    let workspace = Workspace::new();
    workspace.fit("run", &["strategy.method=last_n", "last_n=1"]).saying(&["features below encoder.layer.1"]);
    let log = workspace.json_lines("run/log.jsonl");
    let told = log.iter().find(|line| line["event"] == "features_cached").unwrap();
    assert_eq!(told["below"], "encoder.layer.1");
    assert!(told["computed_seconds"].as_f64().unwrap() > 0.0 && told["memory_bytes"].as_u64().unwrap() > 0);
    for overrides in
        [&["strategy.method=head", OFF][..], &["strategy.method=full"], &["strategy.method=lora"]]
    {
        workspace.fit("other", &[overrides, &["overwrite_output_dir=true"]].concat());
        assert_eq!(usage(&workspace, "other"), [0; 3], "{overrides:?}");
    }
}

#[test]
fn features_of_other_weights_are_never_used() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=head"];
    workspace.fit("first", &overrides);
    let path = workspace.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The last bit of a number in the middle of the file.
    let middle = (bytes.len() / 2) & !3;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    workspace.fit("second", &overrides);
    assert_eq!(usage(&workspace, "second")[2], 0);
    workspace.fit("off", &[&overrides[..], &[OFF]].concat());
    assert_same_result(&workspace, "off", "second", "one bit of a frozen weight");
}

#[test]
fn a_damaged_file_is_computed_again() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=last_n", "last_n=1"];
    workspace.fit("off", &[&overrides[..], &[OFF]].concat());
    workspace.fit("cold", &overrides);
    for path in parts(&workspace) {
        let mut bytes = std::fs::read(&path).unwrap();
        // Every other record at least has a wrong byte; the index is whole.
        let index = bytes.len() - 48;
        let index = u64::from_le_bytes(bytes[index..index + 8].try_into().unwrap()) as usize;
        bytes[..index].chunks_mut(3000).for_each(|record| record[7] ^= 0x40);
        std::fs::write(&path, &bytes).unwrap();
    }
    workspace.fit("damaged", &overrides);
    assert_same_result(&workspace, "off", "damaged", "damaged files");
}

#[test]
fn two_runs_at_once_share_a_cache() {
    let workspace = Workspace::new();
    let overrides = ["strategy.method=head", "num_train_epochs=4"];
    workspace.fit("off", &[&overrides[..], &[OFF]].concat());
    let start = |folder: &str| {
        let output = format!("output_dir={folder}");
        let arguments = [&["fit", "recipe.toml", &output][..], &overrides].concat();
        workspace.command(&arguments).output()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = ["a", "b", "c"].map(|folder| scope.spawn(move || start(folder))).into();
        for other in others {
            let output = other.join().unwrap().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    for folder in ["a", "b", "c"] {
        assert_same_result(&workspace, "off", folder, folder);
    }
    workspace.fit("after", &overrides);
    assert_same_result(&workspace, "off", "after", "after");
}

#[test]
fn the_cache_is_listed_cleaned_and_cleared() {
    let workspace = Workspace::new();
    workspace.fit("run", &["strategy.method=head"]);
    let listed = || -> Value {
        serde_json::from_str(&workspace.retune(&["cache", "list", "--json"]).succeeded().stdout).unwrap()
    };
    let features = listed()["features"].clone();
    assert_eq!(features.as_array().unwrap().len(), 1);
    assert_eq!((&features[0]["below"], &features[0]["samples"]), (&"head".into(), &105.into()));
    let text = workspace.retune(&["cache", "list"]).succeeded().stdout;
    assert!(text.contains("head") && text.contains("105"), "{text}");
    workspace.write("cache/features/leftover.tmp", "");
    workspace.retune(&["cache", "clean", "--limit", "1MB"]).succeeded();
    assert_eq!(listed()["features"].as_array().unwrap().len(), 1);
    workspace.retune(&["cache", "clean", "--limit", "10"]).succeeded();
    assert_eq!(listed()["bytes"], 0);
    workspace.retune(&["cache", "clear"]).succeeded();
    workspace.retune(&["cache", "clean", "--limit", "much"]).exited(2).saying(&["much"]);
}

#[test]
fn a_plan_says_what_is_computed_once() {
    let workspace = Workspace::new();
    workspace.write("train.csv", &rows("train", 8));
    let plan = |overrides: &[&str]| -> Value {
        let arguments = [&["plan", "recipe.toml", "--json"][..], overrides].concat();
        serde_json::from_str(&workspace.retune(&arguments).succeeded().stdout).unwrap()
    };
    let head = plan(&["strategy.method=head"]);
    let features = &head["plan"]["stages"][0]["features"];
    // One row of 32 values for each of 8 + 20 + 25 texts.
    assert_eq!(features["bytes"], 4 * 32 * (8 + 20 + 25));
    assert_eq!((&features["below"], &features["kept_share"]), (&"head".into(), &1.0.into()));
    let off = plan(&["strategy.method=head", OFF]);
    assert_eq!(off["plan"]["stages"][0]["features"], Value::Null);
    let cost = |plan: &Value| plan["plan"]["training_operations"].as_f64().unwrap();
    assert!(cost(&head) < 0.6 * cost(&off), "{} of {}", cost(&head), cost(&off));
    assert_eq!(plan(&["strategy.method=full"])["plan"]["stages"][0]["features"], Value::Null);
    let text = workspace.retune(&["plan", "recipe.toml", "strategy.method=head"]).succeeded().stdout;
    assert!(text.contains("computed once below"), "{text}");
}

/// A run whose files are removed again and again while it goes on, then killed and resumed.
#[cfg(unix)]
#[test]
fn a_cache_that_is_evicted_under_a_killed_and_resumed_run_changes_nothing() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let workspace = Workspace::new();
    let overrides =
        ["strategy.method=gradual", "num_train_epochs=60", "save_steps=7", "load_best_model_at_end=false"];
    let small = ["feature_cache=disk", "feature_cache_disk_bytes=200000"];
    workspace.fit("off", &[&overrides[..], &[OFF]].concat());
    let start = |arguments: &[&str]| {
        workspace.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let arguments = [&["fit", "recipe.toml", "output_dir=evicted"][..], &overrides, &small].concat();
    let mut child = start(&arguments);
    let steps = || {
        let log = std::fs::read_to_string(workspace.path("evicted/log.jsonl")).unwrap_or_default();
        log.lines().filter(|line| line.contains("step_ended")).count()
    };
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut kills = 0;
    for kill_at in [20, 100, 200, usize::MAX] {
        while steps() < kill_at && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the run makes no progress");
            let _ = std::fs::remove_dir_all(workspace.path("cache/features"));
            std::thread::sleep(Duration::from_millis(3));
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
            child = start(&["resume", "evicted"]);
        }
    }
    assert!(child.wait().unwrap().success());
    assert!(kills > 0, "the run was over before it could be killed");
    assert_same_result(&workspace, "off", "evicted", "evicted, killed and resumed");
}
