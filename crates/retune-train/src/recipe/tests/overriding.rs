//! `key=value` on the command line.

use super::*;

const FILE: &str = "[model]\nname_or_path = \"m\"\n[optimizer]\nlearning_rate = 1e-4\n[strategy]\nmethod = \"stages\"\n\
                    [[stage]]\ntrain = [\"head\"]\nlearning_rate = 1e-2\n";

fn overridden(text: &str, overrides: &[&str]) -> Result<Recipe, RecipeError> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Recipe::parse(text, "recipe.toml", &overrides)
}

fn refusal(overrides: &[&str]) -> String {
    overridden(FILE, overrides).unwrap_err().to_string()
}

#[test]
fn a_key_is_set_by_its_last_name_or_its_path_and_the_later_wins() {
    let recipe =
        overridden(FILE, &["learning_rate=3e-5", "train.seed=1", "seed=2", "data.train=a.csv"]).unwrap();
    assert_eq!(recipe.optimizer.learning_rate, Some(LearningRate::Value(3e-5)));
    assert_eq!(recipe.train.seed, 2);
    assert_eq!(recipe.data.train.as_deref(), Some("a.csv"));
    assert_eq!(recipe.stage[0].learning_rate, Some(1e-2));
}

#[test]
fn a_value_is_toml_or_else_a_string() {
    let recipe = overridden(
        LEAST,
        &[
            "name_or_path=2024-01-01",
            "text_column=\"quoted\"",
            "label_column=12",
            "output_dir=/data/run 1",
            "columns=[\"a\", \"b\"]",
            "class_weights={ refund = 2 }",
            "method=lora",
            "type=text-classification",
            "delimiter=;",
        ],
    )
    .unwrap();
    assert_eq!(recipe.model.name_or_path, "2024-01-01");
    assert_eq!(recipe.data.text_column.as_deref(), Some("quoted"));
    assert_eq!(recipe.data.label_column, Some(OneOrMore::One("12".to_owned())));
    assert_eq!(recipe.train.output_dir, "/data/run 1");
    assert_eq!(recipe.data.columns, Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(recipe.task.class_weights, ClassWeights::Table([("refund".to_owned(), 2.0)].into()));
    assert_eq!(recipe.strategy.method, Method::Lora);
    assert_eq!(recipe.data.delimiter.as_deref(), Some(";"));
}

#[test]
fn a_stage_and_a_table_of_a_key_can_be_reached() {
    let recipe = overridden(
        FILE,
        &[
            "stage.0.learning_rate=5e-3",
            "stage.1.train=[\"all\"]",
            "stage.1.schedule.name=cosine",
            "group_learning_rates.head=1e-3",
            "strategy.group_learning_rates.\"encoder.layer.*\"=1e-5",
        ],
    )
    .unwrap();
    assert_eq!(recipe.stage[0].learning_rate, Some(5e-3));
    assert_eq!(recipe.stage[1].schedule.as_ref().map(|schedule| schedule.name), Some(ScheduleName::Cosine));
    assert_eq!(recipe.strategy.group_learning_rates["head"], 1e-3);
    assert_eq!(recipe.strategy.group_learning_rates["encoder.layer.*"], 1e-5);
    let recipe =
        overridden(LEAST, &["method=stages", "stage=[{train=[\"head\"]}, {train=[\"all\"]}]"]).unwrap();
    assert_eq!(recipe.stage.len(), 2);
}

#[test]
fn a_section_can_be_set_by_a_table() {
    let recipe = overridden(LEAST, &["schedule={ name = \"polynomial\", power = 2 }"]).unwrap();
    assert_eq!(recipe.schedule.power, Some(2.0));
}

#[test]
fn a_wrong_override_is_refused_with_what_to_write() {
    for (text, message) in [
        ("seed", "override \"seed\": must be key=value, such as learning_rate=3e-5"),
        ("name=sgd", "override \"name=sgd\": \"name\" is not unique; write optimizer.name or schedule.name"),
        (
            "learning_rat=1",
            "override \"learning_rat=1\": unknown key \"learning_rat\"; did you mean \"optimizer.learning_rate\"?",
        ),
        ("lr=1", "override \"lr=1\": unknown key \"lr\"; did you mean \"learning_rate\" in [optimizer]?"),
        (
            "train.learning_rate=1",
            "override \"train.learning_rate=1\": unknown key \"learning_rate\" in [train]; \"learning_rate\" belongs in \
             [optimizer]",
        ),
        (
            "seed=abc",
            "override \"seed=abc\": \"seed\" in [train] must be an integer of at least 0, found the string \"abc\"",
        ),
        (
            "method=ful",
            "override \"method=ful\": \"method\" in [strategy] must be one of \"head\", \"last_n\", \"gradual\", \
             \"full\", \"lora\", \"stages\", \"fine_tune\", \"auto\", found the string \"ful\"; did you mean \"full\"?",
        ),
        ("seed.x=1", "override \"seed.x=1\": \"seed\" has no keys of its own"),
        (
            "stage.5.train=[\"all\"]",
            "override \"stage.5.train=[\"all\"]\": there is no stage 5; the recipe has 1, counted from 0",
        ),
        (
            "stage.x.train=1",
            "override \"stage.x.train=1\": a stage is given by its number from 0: stage.0.learning_rate",
        ),
        ("=1", "override \"=1\": what stands before \"=\" is no key; write section.key, odd names in quotes"),
        (
            "last_n=2",
            "override \"last_n=2\": \"last_n\" in [strategy]: has an effect with method = \"last_n\" only; remove it, or choose that",
        ),
    ] {
        assert_eq!(refusal(&[text]), message);
    }
}
