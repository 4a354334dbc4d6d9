//! What is refused, with which exit code, and whether the message says where.

use crate::workspace::{Said, Workspace, files_below};

fn fit(workspace: &Workspace, overrides: &[&str]) -> Said {
    workspace.retune(&[&["fit", "recipe.toml"], overrides].concat())
}

/// The tests' recipe with `train.csv` replaced.
fn with_training_data(content: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("train.csv", content);
    workspace
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    let workspace = Workspace::new();
    let recipe = workspace.read("recipe.toml").replace("learning_rate =", "learning_rat =");
    let line = 1 + recipe.lines().position(|line| line.starts_with("learning_rat ")).unwrap();
    workspace.write("recipe.toml", &recipe);
    let place = format!("recipe.toml:{line}");
    fit(&workspace, &[]).exited(2).saying(&[&place, "learning_rat", "did you mean \"learning_rate\"?"]);
    assert!(!workspace.path("run").exists());
}

#[test]
fn an_unknown_key_of_the_command_line_is_refused_with_a_suggestion() {
    let workspace = Workspace::new();
    fit(&workspace, &["num_train_epoch=3"]).exited(2).saying(&["num_train_epoch=3", "num_train_epochs"]);
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_line() {
    let workspace = Workspace::new();
    let recipe = workspace.read("recipe.toml").replace("threads = 2", "threads = \"two\"");
    let line = 1 + recipe.lines().position(|line| line.starts_with("threads")).unwrap();
    workspace.write("recipe.toml", &recipe);
    fit(&workspace, &[]).exited(2).saying(&[&format!("recipe.toml:{line}"), "threads", "two"]);
}

#[test]
fn a_recipe_that_is_not_there_is_wrong_use() {
    let workspace = Workspace::new();
    workspace.retune(&["fit", "recipes.toml"]).exited(2).saying(&["recipes.toml"]);
}

#[test]
fn a_data_file_that_is_not_there_is_wrong_use() {
    let workspace = Workspace::new();
    fit(&workspace, &["data.train=trian.csv"]).exited(2).saying(&["trian.csv"]);
    assert!(!workspace.path("run").exists());
}

#[test]
fn an_unknown_column_is_refused_with_the_columns_there_are() {
    let workspace = Workspace::new();
    fit(&workspace, &["label_column=topics"]).exited(2).saying(&["topics", "train.csv", "topic", "message"]);
    fit(&workspace, &["text_column=text"]).exited(2).saying(&["text", "train.csv", "message"]);
}

#[test]
fn a_length_that_the_model_cannot_take_is_refused() {
    let workspace = Workspace::new();
    fit(&workspace, &["max_length=49"]).exited(2).saying(&["max_length", "49", "48"]);
}

#[test]
fn a_precision_that_nothing_computes_with_is_refused_with_those_there_are() {
    let workspace = Workspace::new();
    fit(&workspace, &["precision=fp8"]).exited(2).saying(&["fp8", "bf16", "f32"]);
}

#[test]
fn a_ragged_row_is_refused_with_its_line() {
    let workspace =
        with_training_data("message,topic\nthe cat,animals\nmy bread,food,again\nold map,travel\n");
    fit(&workspace, &[]).exited(3).saying(&["train.csv:3"]);
}

#[test]
fn an_empty_text_is_refused_with_its_line() {
    let workspace =
        with_training_data("message,topic\nthe cat,animals\n,food\nold map,travel\nmy dog,animals\n");
    fit(&workspace, &[]).exited(3).saying(&["train.csv:3", "message"]);
}

#[test]
fn a_missing_label_is_refused_with_its_line() {
    let workspace =
        with_training_data("message,topic\nthe cat,animals\nmy bread,food\nold map,\nmy dog,animals\n");
    fit(&workspace, &[]).exited(3).saying(&["train.csv:4", "topic"]);
}

#[test]
fn a_label_that_is_no_number_is_refused_with_its_line() {
    let workspace = with_training_data("message,score\nthe cat,1.5\nmy bread,n/a\nold map,2\n");
    for split in ["validation.csv", "test.csv"] {
        workspace.write(split, "message,score\nthe dog,2.5\n");
    }
    let overrides = ["label_column=score", "task.problem_type=regression"];
    fit(&workspace, &overrides).exited(3).saying(&["train.csv:3", "`n/a`", "number"]);
}

#[test]
fn a_single_class_is_refused() {
    let workspace = with_training_data("message,topic\nthe cat,animals\nmy dog,animals\nold goat,animals\n");
    fit(&workspace, &[]).exited(3).saying(&["train.csv", "animals"]);
}

#[test]
fn a_label_that_training_does_not_know_is_refused_with_its_line() {
    let workspace = Workspace::new();
    workspace.write("test.csv", "message,topic\nthe cat,animals\nmy chair,furniture\n");
    fit(&workspace, &[]).exited(3).saying(&["test.csv:3", "furniture"]);
}

#[test]
fn an_empty_file_is_refused_by_name() {
    for content in ["", "message,topic\n"] {
        let workspace = with_training_data(content);
        let said = fit(&workspace, &[]).saying(&["train.csv"]);
        assert!(matches!(said.code, Some(2 | 3)), "exit code {:?}", said.code);
    }
}

#[test]
fn a_text_that_is_too_long_is_refused_only_if_the_recipe_says_so() {
    let workspace = Workspace::new();
    let overrides = ["max_length=6", "over_length=refuse"];
    fit(&workspace, &overrides).exited(3).saying(&["train.csv", "6"]);
    assert!(!workspace.path("run").exists());
    fit(&workspace, &["max_length=6", "max_steps=1"]).exited(0).saying(&["60 cut to max_length = 6"]);
}

#[test]
fn truncated_weights_are_refused_by_name() {
    let workspace = Workspace::new();
    let bytes = workspace.bytes("model/model.safetensors");
    for kept in [bytes.len() - 4, bytes.len() / 2, 1000, 4] {
        std::fs::write(workspace.path("model/model.safetensors"), &bytes[..kept]).unwrap();
        fit(&workspace, &[]).exited(1).saying(&["model.safetensors"]);
    }
    assert!(!workspace.path("run").exists());
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let workspace = Workspace::new();
    let vocabulary = format!("{}more\nwords\n", workspace.read("model/vocab.txt"));
    workspace.write("model/vocab.txt", &vocabulary);
    let said = fit(&workspace, &[]).saying(&["vocab"]);
    assert!(matches!(said.code, Some(1..=3)), "exit code {:?}", said.code);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}

#[test]
fn a_folder_that_holds_a_run_is_refused_and_left_as_it_is() {
    let workspace = Workspace::new();
    workspace.fit("run", &["max_steps=2"]);
    let snapshot = || {
        let files = files_below(&workspace.path("run"));
        files.into_iter().map(|file| (workspace.bytes(&format!("run/{file}")), file)).collect::<Vec<_>>()
    };
    let before = snapshot();
    fit(&workspace, &["max_steps=3"]).exited(1).saying(&["already holds a run", "resume"]);
    assert!(before == snapshot(), "a file of the run changed");
    fit(&workspace, &["max_steps=3", "overwrite_output_dir=true"]).succeeded();
}

#[test]
fn a_folder_with_files_of_the_users_own_is_refused_and_left_as_it_is() {
    let workspace = Workspace::new();
    std::fs::create_dir(workspace.path("run")).unwrap();
    workspace.write("run/notes.txt", "mine");
    fit(&workspace, &[]).exited(1).saying(&["run", "not empty"]);
    assert_eq!(files_below(&workspace.path("run")), ["notes.txt"]);
}

#[test]
fn an_output_folder_that_cannot_be_made_is_refused_by_name() {
    let workspace = Workspace::new();
    // A file where the path needs a folder: refused for any user, the administrator too.
    fit(&workspace, &["output_dir=train.csv/run"]).exited(1).saying(&["train.csv/run"]);
}

#[test]
fn predict_refuses_a_folder_without_a_model() {
    let workspace = Workspace::new();
    workspace.retune(&["predict", "--model", "nowhere", "--data", "test.csv"]).exited(2).saying(&["nowhere"]);
}

#[test]
fn a_loss_that_is_not_finite_stops_before_the_weights_change() {
    let workspace = Workspace::new();
    let said = fit(&workspace, &["learning_rate=1e30", "optimizer.name=sgd", "max_grad_norm=0"]).exited(1);
    let said = said.saying(&["not finite", "train.csv:"]);
    assert!(!workspace.path("run/model.safetensors").exists(), "{}", said.stderr);
}
