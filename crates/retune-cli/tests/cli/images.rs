//! Pictures from a folder to an artifact, on pictures that the test draws and a network with random weights.

use std::collections::BTreeMap;
use std::path::Path;

use retune::checkpoint::{NamedTensor, TensorData, Weights, save_safetensors};
use retune::data::image::{Pixels, thumbnail};
use retune_testing::counter_uniform;
use serde_json::Value;

use crate::resume::{assert_same_run, standing, start, start_fit, wait_until};
use crate::workspace::Workspace;

/// 24 training pictures in 3 batches an epoch; views, batch normalization and a stage that unfreezes.
const RECIPE: &str = r#"
[model]
name_or_path = "config-only:cifar_resnet20"

[data]
train = "pictures"

[augmentation]
crop = "random_pad"
rotation = 10
brightness = 0.2

[optimizer]
learning_rate = 2e-3

[train]
num_train_epochs = 2
per_device_train_batch_size = 8
per_device_eval_batch_size = 5
logging_steps = 1
threads = 2
output_dir = "run"
"#;

const CLASSES: [&str; 3] = ["columns", "discs", "rows"];

/// A drawing of its class, each with other colours, place and size.
fn drawing(class: usize, name: &str) -> Pixels {
    let random = |index| f64::from(counter_uniform(&format!("drawing.{name}"), index));
    let (width, height) = (30 + (random(0) * 12.0) as usize, 30 + (random(1) * 12.0) as usize);
    let (period, shift) = (4.0 + 4.0 * random(2), 6.0 * random(3));
    let (middle, radius) = ([width as f64 * 0.5, height as f64 * 0.5], 6.0 + 5.0 * random(4));
    let colors = [0, 1].map(|color| [0, 1, 2].map(|channel| (random(5 + 3 * color + channel) * 255.0) as u8));
    let ink = |x: usize, y: usize| {
        let wave = |at: usize| (at as f64 + shift) % period < period / 2.0;
        let (u, v) = (x as f64 - middle[0], y as f64 - middle[1]);
        match class {
            0 => wave(x),
            1 => u * u + v * v < radius * radius,
            _ => wave(y),
        }
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let data = pixels.flat_map(|(x, y)| colors[usize::from(ink(x, y))]).collect();
    Pixels { width, height, channels: 3, data }
}

fn draw(folder: &Path, split: &str, each: usize) {
    for (class, name) in CLASSES.iter().enumerate() {
        let folder = folder.join(split).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..each {
            let bytes = thumbnail(&drawing(class, &format!("{split}.{name}.{number}")), 64).unwrap();
            std::fs::write(folder.join(format!("{number:02}.jpg")), bytes).unwrap();
        }
    }
}

/// A workspace with drawings of three classes: 24 to train, 9 to validate, 9 to test.
pub fn workspace() -> Workspace {
    let workspace = Workspace::new();
    for (split, each) in [("train", 8), ("val", 3), ("test", 3)] {
        draw(&workspace.path("pictures"), split, each);
    }
    workspace.write("recipe.toml", RECIPE);
    workspace
}

#[test]
fn pictures_become_an_artifact_that_answers_as_the_run_did() {
    let workspace = workspace();
    workspace.fit("run", &[]);
    let metrics = workspace.json("run/metrics.json");
    assert!(metrics["test_accuracy"].is_number(), "{metrics}");
    let certificates = workspace.json("run/certificate.json");
    for certificate in certificates.as_array().unwrap() {
        assert_eq!(certificate["max_logit_difference"], 0.0, "{certificate}");
    }
    assert_eq!(certificates.as_array().unwrap().len(), 2);
    let config = workspace.json("run/config.json");
    assert_eq!(config["label_names"], serde_json::json!(CLASSES));
    assert_eq!(config["pretrained_cfg"]["input_size"], serde_json::json!([3, 32, 32]));
    let report = workspace.read("run/report.html");
    assert!(report.contains("data:image/jpeg;base64,") && report.contains("Where it looked"));
    let test = workspace.json_lines("run/predictions/test.jsonl");
    let explained: Vec<&Value> = test.iter().filter(|row| row["heat_map"].is_string()).collect();
    assert!(!explained.is_empty());
    for row in explained {
        assert_eq!(row["heat_map_of"], row["prediction"]);
        assert!(workspace.path("run/predictions").join(row["heat_map"].as_str().unwrap()).is_file());
    }

    let predict = |data: &str| {
        let output = ["predict", "--model", "run", "--data", data, "--logits", "--output", "answers.jsonl"];
        workspace.retune(&output).succeeded();
        workspace.json_lines("answers.jsonl")
    };
    let (answers, expected) = (predict("pictures/test"), workspace.json_lines("run/predictions/test.jsonl"));
    assert_eq!((answers.len(), expected.len()), (9, 9));
    for (answer, expected) in answers.iter().zip(&expected) {
        assert_eq!(answer["logits"], expected["logits"]);
        assert!(answer["file"].as_str().unwrap().ends_with(".jpg"), "{answer}");
    }
    // A flat folder has no labels; a list names its pictures.
    let flat = predict("pictures/test/discs");
    assert_eq!(flat.len(), 3);
    workspace.write("list.csv", "picture\npictures/test/rows/00.jpg\npictures/test/columns/01.jpg\n");
    let listed = predict("list.csv");
    assert_eq!((&listed[0]["logits"], &listed[1]["logits"]), (&answers[6]["logits"], &answers[1]["logits"]));

    let eval = workspace.retune(&["eval", "run", "--json"]).succeeded();
    let eval: Value = serde_json::from_str(&eval.stdout).unwrap();
    assert_eq!(eval["eval_accuracy"], metrics["test_accuracy"]);
}

#[test]
fn a_run_on_pictures_that_was_killed_ends_in_the_same_bits_with_any_number_of_workers() {
    let workspace = workspace();
    let overrides = [
        "strategy.method=gradual",
        "num_train_epochs=6",
        "save_steps=4",
        "eval_steps=5",
        "mixup_alpha=0.2",
        "cutmix_alpha=1.0",
        "policy=auto_augment",
    ];
    workspace.fit("whole", &[&overrides[..], &["data.workers=0"]].concat());
    let mut child = start_fit(&workspace, "killed", &overrides);
    wait_until(&mut child, || standing(&workspace, "killed").0 >= 10);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(start(&workspace, &["resume", "killed"]).wait().unwrap().success());
    assert_same_run(&workspace, "whole", "killed");
}

#[test]
fn a_run_killed_on_either_side_of_a_change_of_size_ends_in_the_same_bits_and_keeps_the_models_size() {
    let workspace = workspace();
    let stages = [
        "strategy.method=stages",
        r#"stage.0.train=["all"]"#,
        "stage.0.num_train_epochs=4",
        r#"stage.1.train=["last:1"]"#,
        "stage.1.num_train_epochs=3",
        "cached_views=2",
        "save_steps=2",
        "eval_steps=5",
    ];
    let small = [&stages[..], &["stage.0.image_size=20"]].concat();
    let plan = workspace.retune(&[&["plan", "recipe.toml"], &small[..]].concat()).succeeded();
    assert!(
        plan.stdout.contains("stage 1, 20 pixels") && plan.stdout.contains("stage 2 "),
        "{}",
        plan.stdout
    );
    workspace.fit("whole", &[&small[..], &["data.workers=0"]].concat());
    let mut child = start_fit(&workspace, "killed", &small);
    // Each of the stages has 12 and 9 steps.
    for step in [5, 14] {
        wait_until(&mut child, || standing(&workspace, "killed").0 >= step);
        child.kill().unwrap();
        child.wait().unwrap();
        child = start(&workspace, &["resume", "killed"]);
    }
    assert!(child.wait().unwrap().success());
    assert_same_run(&workspace, "whole", "killed");
    let config = workspace.json("whole/config.json");
    assert_eq!(config["pretrained_cfg"]["input_size"], serde_json::json!([3, 32, 32]));
    assert_eq!(workspace.json("whole/certificate.json")[0]["max_logit_difference"], 0.0);
    // The size has an effect on training alone: before it both runs answer alike.
    workspace.fit("even", &stages);
    assert_ne!(workspace.tensors("whole/model.safetensors"), workspace.tensors("even/model.safetensors"));
    let before = |folder: &str| {
        workspace.json(&format!("{folder}/metrics.json"))["eval_loss_untrained_head_baseline"].clone()
    };
    assert_eq!(before("whole"), before("even"));
}

#[test]
fn a_stage_on_pictures_that_the_network_cannot_train_on_is_refused() {
    let workspace = workspace();
    let fit = |model: &str, size: &str| {
        let model = format!("name_or_path=config-only:{model}");
        let size = format!("stage.0.image_size={size}");
        let stage = ["strategy.method=stages", r#"stage.0.train=["all"]"#, "stage.0.num_train_epochs=1"];
        workspace.retune(&[&["fit", "recipe.toml", &model, &size], &stage[..]].concat()).exited(2)
    };
    fit("densenet121", "8").saying(&["image_size", "densenet121 takes at least 29 pixels"]);
    fit("vit_tiny_patch16_224", "96").saying(&[
        "image_size",
        "vit_tiny_patch16_224",
        "pictures of 224 pixels",
    ]);
}

#[test]
fn changed_pictures_are_not_trained_on_further() {
    let workspace = workspace();
    workspace.fit("run", &[]);
    let one = workspace.path("pictures/train/discs/00.jpg");
    std::fs::copy(workspace.path("pictures/train/rows/00.jpg"), one).unwrap();
    workspace.retune(&["resume", "run"]).exited(1).saying(&["pictures/train", "changed"]);
}

#[test]
fn broken_pictures_are_refused_with_their_names_unless_they_are_to_be_left_out() {
    let workspace = workspace();
    workspace.write("pictures/train/discs/broken.jpg", "no picture");
    let refused = workspace.retune(&["fit", "recipe.toml"]).exited(3);
    refused.saying(&["discs/broken.jpg", "not-a-picture"]);
    workspace.retune(&["data", "check", "pictures"]).exited(3);
    let told = workspace.retune(&["fit", "recipe.toml", "on_bad_row=skip", "max_steps=1"]).succeeded();
    assert!(told.stderr.contains("broken.jpg"), "{}", told.stderr);
}

#[test]
fn frozen_batch_normalization_keeps_its_statistics_and_a_trained_one_moves_them() {
    let workspace = workspace();
    let whole = ["strategy.method=full", "num_train_epochs=1", "load_best_model_at_end=false"];
    workspace.fit("full", &whole);
    workspace.fit("head", &["strategy.method=head", "num_train_epochs=1"]);
    let mean = |run: &str| workspace.tensors(&format!("{run}/model.safetensors"))["bn1.running_mean"].clone();
    assert!(mean("head").iter().all(|&value| value == 0.0));
    assert!(mean("full").iter().any(|&value| value != 0.0));
}

#[test]
fn only_batch_normalization_that_the_checkpoint_holds_is_measured_anew() {
    let workspace = workspace();
    workspace.fit("run", &["strategy.method=head", "max_steps=1"]);
    // The network started at random and only its head has trained, so that all its statistics are 0 and 1.
    let weights = Weights::open(&workspace.path("run/model.safetensors")).unwrap();
    let kept = weights.names().filter(|name| !name.starts_with("layer3."));
    let kept: Vec<_> = kept
        .map(|name| (name, weights.info(name).unwrap().shape.clone(), weights.to_f32(name).unwrap()))
        .collect();
    let tensors: Vec<NamedTensor<'_>> = kept
        .iter()
        .map(|(name, shape, values)| NamedTensor { name, shape, data: TensorData::F32(values) })
        .collect();
    std::fs::create_dir(workspace.path("part")).unwrap();
    save_safetensors(&workspace.path("part/model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::copy(workspace.path("run/config.json"), workspace.path("part/config.json")).unwrap();
    let part = ["name_or_path=part", "allow_missing=true", "max_steps=1"];
    // Of 19 norms, 6 are in layer3.
    workspace.fit("full", &part).saying(&["13 of 13 batch normalizations"]);
    let head = [&part[..], &["strategy.method=head"]].concat();
    workspace.fit("frozen", &head).saying(&["13 batch normalizations", "frozen"]);
}

/// A BMP file of a picture whose width is a multiple of 4.
fn bitmap(pixels: &Pixels) -> Vec<u8> {
    let size = 54 + pixels.data.len() as u32;
    let mut bytes = b"BM".to_vec();
    for value in [size, 0, 54, 40, pixels.width as u32, pixels.height as u32, 1 | 24 << 16, 0, 0, 0, 0, 0, 0]
    {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    // Rows from the bottom up, blue first.
    for y in (0..pixels.height).rev() {
        bytes.extend(pixels.row(y).chunks(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
    }
    bytes
}

fn scores(answer: &Value) -> Vec<f64> {
    CLASSES.iter().map(|class| answer["scores"][class].as_f64().unwrap()).collect()
}

#[test]
fn the_answer_with_mirror_images_has_the_mean_of_both_probabilities() {
    let workspace = workspace();
    workspace.fit("run", &["max_steps=3"]);
    std::fs::create_dir(workspace.path("pair")).unwrap();
    // As large as the input, so that scaling has no part in it.
    let data = (0..32 * 32 * 3).map(|index| (index * 31 % 253) as u8).collect();
    let picture = Pixels { width: 32, height: 32, channels: 3, data };
    let mut mirrored = picture.clone();
    mirrored.flip_horizontally();
    for (name, pixels) in [("a.bmp", &picture), ("b.bmp", &mirrored)] {
        std::fs::write(workspace.path("pair").join(name), bitmap(pixels)).unwrap();
    }
    let predict = |views: &[&str]| {
        let all =
            [&["predict", "--model", "run", "--data", "pair", "--output", "answers.jsonl"], views].concat();
        workspace.retune(&all).succeeded();
        workspace.json_lines("answers.jsonl")
    };
    let (plain, flipped) = (predict(&[]), predict(&["--tta", "flip"]));
    let (a, b) = (scores(&plain[0]), scores(&plain[1]));
    assert_ne!(a, b);
    for answer in &flipped {
        for ((score, a), b) in scores(answer).iter().zip(&a).zip(&b) {
            assert!((score - (a + b) / 2.0).abs() < 1e-6, "{score} for {a} and {b}");
        }
    }
    workspace.retune(&["predict", "--model", "run", "--data", "pair", "--tta", "flop"]).exited(2).saying(&[
        "test_time",
        "flip",
        "five_crop",
    ]);
    let text = ["predict", "--model", "model", "--data", "test.csv", "--tta", "flip"];
    workspace.retune(&text).exited(2).saying(&["pictures"]);
}

#[test]
fn a_model_that_was_evaluated_with_corners_answers_with_them_unless_told_otherwise() {
    let workspace = workspace();
    workspace.fit("run", &["max_steps=2", "test_time=ten_crop", "per_device_eval_batch_size=2"]);
    for certificate in workspace.json("run/certificate.json").as_array().unwrap() {
        assert_eq!(certificate["max_logit_difference"], 0.0, "{certificate}");
    }
    let predict = |views: &[&str]| {
        let all = [
            &[
                "predict",
                "--model",
                "run",
                "--data",
                "pictures/test",
                "--logits",
                "--output",
                "answers.jsonl",
            ],
            views,
        ];
        workspace.retune(&all.concat()).succeeded();
        workspace.json_lines("answers.jsonl")
    };
    let (expected, answers) = (workspace.json_lines("run/predictions/test.jsonl"), predict(&[]));
    let plain = predict(&["--tta", "none"]);
    for ((expected, answer), plain) in expected.iter().zip(&answers).zip(&plain) {
        assert_eq!(answer["logits"], expected["logits"]);
        assert_ne!(plain["logits"], expected["logits"]);
    }
}

#[test]
fn mixing_that_could_not_be_done_is_refused() {
    let workspace = workspace();
    let odd = ["fit", "recipe.toml", "mixup_alpha=0.2", "per_device_train_batch_size=7"];
    workspace.retune(&odd).exited(2).saying(&["mixup_alpha", "pairs", "7"]);
    workspace.retune(&["fit", "recipe.toml", "mixup_prob=0.5"]).exited(2).saying(&["mixup_prob"]);
    workspace
        .write("sizes.csv", "picture,size\npictures/test/rows/00.jpg,1.5\npictures/test/rows/01.jpg,2.5\n");
    let numbers = [
        "fit",
        "recipe.toml",
        "data.train=sizes.csv",
        "label_column=size",
        "problem_type=regression",
        "cutmix_alpha=1",
    ];
    workspace.retune(&numbers).exited(2).saying(&["cutmix_alpha", "numbers"]);
}

#[test]
fn adapters_beside_convolutions_train_and_are_merged_into_the_artifact() {
    let workspace = workspace();
    let overrides = ["strategy.method=lora", "r=4", "num_train_epochs=1"];
    workspace.fit("lora", &overrides);
    let certificates = workspace.json("lora/certificate.json");
    let [alone, merged, opened] = certificates.as_array().unwrap().as_slice() else {
        panic!("{certificates}")
    };
    assert_eq!(alone["max_logit_difference"], 0.0);
    assert_eq!(merged["transformation"], "adapters merged");
    assert!(merged["max_logit_difference"].as_f64().unwrap() < 1e-3, "{merged}");
    assert_eq!(opened["max_logit_difference"], 0.0);

    let adapter = workspace.tensors("lora/adapter/adapter_model.safetensors");
    let config = workspace.json("lora/adapter/adapter_config.json");
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 18);
    assert_eq!(config["modules_to_save"], serde_json::json!(["linear"]));
    // Two matrices each, and the head's weight and bias.
    assert_eq!(adapter.len(), 2 * 18 + 2);
    let b = &adapter["base_model.model.layer1.0.conv1.lora_B.weight"];
    assert!(b.len() == 16 * 4 && b.iter().any(|&value| value != 0.0));
    let weights = workspace.tensors("lora/model.safetensors");
    assert!(weights.keys().all(|name| !name.contains("lora")));
    assert!(weights["bn1.running_mean"].iter().all(|&value| value == 0.0));
}

#[test]
fn settings_of_texts_are_refused_for_pictures_and_the_other_way_round() {
    let workspace = workspace();
    workspace
        .retune(&["fit", "recipe.toml", "max_length=64"])
        .exited(2)
        .saying(&["data.max_length", "pictures"]);
    workspace
        .retune(&["fit", "recipe.toml", "strategy.method=lora", r#"target_modules=["query"]"#])
        .exited(2)
        .saying(&["query"]);
    workspace.retune(&["fit", "recipe.toml", "image_size=4"]).exited(2);
    let text =
        ["fit", "recipe.toml", "name_or_path=model", "data.train=train.csv", "augmentation.crop=center"];
    workspace.retune(&text).exited(2).saying(&["augmentation"]);
}

#[test]
fn a_plan_of_pictures_counts_pictures() {
    let workspace = workspace();
    let plan = workspace.retune(&["plan", "recipe.toml"]).succeeded();
    assert!(plan.stdout.contains("24 pictures an epoch"), "{}", plan.stdout);
    assert!(plan.stdout.contains("inputs of 32 × 32 pixels, RGB"), "{}", plan.stdout);
    let found = workspace.retune(&["data", "check", "pictures", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["rows"], 24);
    assert_eq!(found["roles"]["image"], "file");
}

/// The names of the pictures that a written list has, with their class folders.
fn listed(workspace: &Workspace, name: &str) -> Vec<String> {
    let text = workspace.read(name);
    let names = text.lines().skip(1).map(|line| {
        let path = line.split(',').next().unwrap();
        path.rsplit('/').take(2).collect::<Vec<_>>().join(" of ")
    });
    names.collect()
}

#[test]
fn pictures_that_are_copies_are_found_left_out_and_measured_apart() {
    let workspace = workspace();
    // A test picture in training as it is, another one brighter, and one of training under a second label.
    let copy = |from: &str, to: &str| {
        std::fs::copy(workspace.path(from), workspace.path(to)).unwrap();
    };
    copy("pictures/test/discs/00.jpg", "pictures/train/discs/90.jpg");
    copy("pictures/train/rows/00.jpg", "pictures/train/columns/91.jpg");
    let mut brighter = drawing(1, "test.discs.1");
    brighter.data.iter_mut().for_each(|value| *value = value.saturating_add(3));
    std::fs::write(workspace.path("pictures/train/discs/92.jpg"), thumbnail(&brighter, 64).unwrap()).unwrap();
    let said = workspace.retune(&["data", "dedupe", "pictures", "--output", "clean", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let copies = found["copies"].as_array().unwrap();
    let ends = |copy: &Value, key: &str, end: &str| copy[key].as_str().unwrap().ends_with(end);
    assert!(
        copies.iter().any(|copy| ends(copy, "content", "train/discs/90.jpg") && copy["similarity"] == 1.0)
    );
    let near = copies.iter().find(|copy| ends(copy, "content", "train/discs/92.jpg")).unwrap();
    assert!(ends(near, "of_content", "test/discs/01.jpg") && near["similarity"].as_f64().unwrap() > 0.95);
    assert!(
        copies.iter().any(|copy| copy["same_label"] == false && ends(copy, "of_content", "columns/91.jpg"))
    );
    // The drawings of a class are alike by chance here and there, so that more is left out than was planted.
    let left_out = copies.iter().filter(|copy| copy["split"] == "train").count();
    assert!(left_out >= 3);
    assert_eq!(listed(&workspace, "clean/train.csv").len(), 27 - left_out);
    assert_eq!(listed(&workspace, "clean/test.csv").len(), 9);

    workspace.fit("run", &["max_steps=2"]);
    let metrics = workspace.json("run/metrics.json");
    let predictions = workspace.json_lines("run/predictions/test.jsonl");
    let copied = predictions.iter().filter(|row| row["copy_of"].is_object()).count();
    assert!(copied >= 2);
    assert_eq!(
        (&metrics["test_copies"], &metrics["test_clean_samples"]),
        (&copied.into(), &(9 - copied).into())
    );
    assert!(ends(&predictions[3]["copy_of"], "image", "train/discs/90.jpg"), "{}", predictions[3]);
    // Training on the lists is training on the pictures.
    let lists = ["data.train=clean/train.csv", "data.validation=clean/val.csv", "data.test=clean/test.csv"];
    workspace.fit("clean-run", &[&lists[..], &["max_steps=2"]].concat());
    assert_eq!(workspace.json("clean-run/metrics.json")["test_copies"], 0);
}

#[test]
fn pictures_are_split_reviewed_and_trained_on_with_a_persons_decisions() {
    let workspace = workspace();
    let split =
        ["data", "split", "pictures/train", "--output", "split", "--test", "0.25", "--validation", "0"];
    workspace.retune(&split).succeeded();
    assert_eq!(["train", "test"].map(|part| listed(&workspace, &format!("split/{part}.csv")).len()), [18, 6]);

    let said = workspace.retune(&["data", "review", "recipe.toml", "--rows", "24", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(found["queue"].as_array().unwrap().len(), 24);
    let review = workspace.read("review.csv");
    let mut lines = review.lines();
    let header = lines.next().unwrap();
    let first = lines.next().unwrap();
    assert!(first.starts_with(','), "{first}");
    workspace.write("decided.csv", &format!("{header}\ndrop{first}\n"));
    let said = workspace.fit("run", &["max_steps=1", "--apply-review", "decided.csv"]);
    assert!(said.stderr.contains("0 relabelled, 1 dropped"), "{}", said.stderr);
    let started = &workspace.json_lines("run/log.jsonl");
    let started = started.iter().find(|event| event["event"] == "run_started").unwrap();
    assert_eq!(started["train_samples"], 23);
}
