use std::path::PathBuf;

use super::keys::{KEYS, Kind, SECTIONS};
use super::*;

mod errors;
mod overriding;
mod table;

/// The least that a recipe needs.
const LEAST: &str = "[model]\nname_or_path = \"m\"\n";

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, "recipe.toml", &[])
}

fn recipe(text: &str) -> Recipe {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("retune-recipe-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_least_recipe_has_the_defaults() {
    let mut expected = Recipe::default();
    expected.model.name_or_path = "m".to_owned();
    assert_eq!(recipe(LEAST).to_toml().unwrap(), expected.to_toml().unwrap());
}

#[test]
fn a_recipe_written_as_toml_reads_back_the_same_and_leaves_unset_options_out() {
    for text in [
        LEAST.to_owned(),
        format!("{LEAST}[strategy]\nmethod = \"fine_tune\"\nbase_lr = 2e-4"),
        format!(
            "{LEAST}[task]\nclass_weights = {{ refund = 2.5, \"a b\" = 1 }}\n[strategy]\nmethod = \"stages\"\n\
             group_learning_rates = {{ \"encoder.layer.*\" = 1e-5 }}\n[[stage]]\ntrain = [\"head\"]\n\
             [stage.schedule]\nname = \"one_cycle\"\n[[stage]]\ntrain = [\"all\"]"
        ),
        format!("{LEAST}[strategy]\nmethod = \"lora\"\ntarget_modules = \"all-linear\""),
        format!("{LEAST}[strategy]\nmethod = \"lora\"\ntarget_modules = [\"query\", \"value\"]"),
    ] {
        let first = recipe(&text).to_toml().unwrap();
        assert_eq!(recipe(&first).to_toml().unwrap(), first);
        assert!(!first.contains("revision"), "{first}");
    }
}

#[test]
fn a_number_of_32_bits_is_written_as_it_was_read() {
    let text =
        recipe(&format!("{LEAST}[strategy]\nmethod = \"lora\"\nlora_dropout = 0.1")).to_toml().unwrap();
    assert!(text.contains("lora_dropout = 0.1\n"), "{text}");
}

#[test]
fn the_learning_rate_defaults_by_method_and_optimizer() {
    let rate = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Recipe::parse(LEAST, "recipe.toml", &overrides).unwrap().learning_rate()
    };
    assert_eq!(rate(&[]), 5e-5);
    assert_eq!(rate(&["method=head"]), 1e-3);
    assert_eq!(rate(&["method=lora"]), 3e-4);
    assert_eq!(rate(&["method=gradual"]), 1e-4);
    assert_eq!(rate(&["method=gradual", "learning_rate=2e-5"]), 2e-5);
    assert_eq!(rate(&["optimizer.name=sgd"]), 5e-5 * 100.0);
}

#[test]
fn fine_tune_takes_one_cycle_unless_the_recipe_names_a_schedule() {
    let text = format!("{LEAST}[strategy]\nmethod = \"fine_tune\"\n");
    assert_eq!(recipe(&text).schedule.name, ScheduleName::OneCycle);
    assert_eq!(recipe(&format!("{text}[schedule]\nname = \"linear\"")).schedule.name, ScheduleName::Linear);
}

#[test]
fn other_names_of_a_schedule_are_read_as_its_own() {
    let text = format!("{LEAST}[schedule]\nname = \"constant_with_warmup\"");
    assert_eq!(recipe(&text).schedule.name, ScheduleName::Constant);
    let text = format!("{LEAST}[schedule]\nname = \"reduce_lr_on_plateau\"");
    assert_eq!(recipe(&text).schedule.name, ScheduleName::ReduceOnPlateau);
}

#[test]
fn a_file_that_stands_beside_the_recipe_is_taken_from_there() {
    let folder = Folder::new("beside");
    std::fs::write(folder.path().join("train.csv"), "").unwrap();
    std::fs::create_dir_all(folder.path().join("tiny")).unwrap();
    let text = "[model]\nname_or_path = \"tiny\"\n[data]\ntrain = \"train.csv\"\ntest = \"elsewhere.csv\"";
    let mut recipe = recipe(text);
    recipe.resolve_paths(folder.path());
    assert_eq!(recipe.data.train.unwrap(), folder.path().join("train.csv").to_string_lossy());
    assert_eq!(recipe.data.test.unwrap(), "elsewhere.csv");
    assert_eq!(recipe.model.name_or_path, folder.path().join("tiny").to_string_lossy());
    assert_eq!(recipe.train.output_dir, "runs/retune");
}

#[test]
fn a_recipe_is_loaded_from_a_file() {
    let folder = Folder::new("load");
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, format!("\u{feff}{LEAST}")).unwrap();
    assert_eq!(Recipe::load(&path, &["seed=7".to_owned()]).unwrap().train.seed, 7);
    std::fs::write(&path, b"[model]\nname_or_path = \"\xff\"").unwrap();
    let message = Recipe::load(&path, &[]).unwrap_err().to_string();
    assert_eq!(
        message,
        format!("{}:2:17: not valid TOML: not UTF-8; save the file in that encoding", path.display())
    );
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    let message = Recipe::load(&path, &[]).unwrap_err().to_string();
    assert!(message.ends_with("larger than 1 MiB; is this a recipe?"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let message = Recipe::load(&path, &[]).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}: cannot read the recipe: ", path.display())), "{message}");
}

#[test]
fn a_recipe_made_in_code_is_checked_too() {
    let mut recipe = recipe(LEAST);
    recipe.check().unwrap();
    recipe.optimizer.weight_decay = f64::NAN;
    let message = recipe.check().unwrap_err().to_string();
    assert_eq!(
        message,
        "recipe.toml: \"weight_decay\" in [optimizer] must be a number of at least 0, found the number NaN"
    );
}

#[test]
fn a_later_check_can_point_at_the_line_of_a_key() {
    let recipe = recipe(&format!("{LEAST}[train]\nprecision = \"bf16\""));
    let error = recipe.error("train.precision", "not yet");
    assert_eq!(error.to_string(), "recipe.toml:4: \"precision\" in [train]: not yet");
    let error = recipe.error("train.eval_steps", "too many");
    assert_eq!(error.to_string(), "recipe.toml:3: \"eval_steps\" in [train]: too many");
}
