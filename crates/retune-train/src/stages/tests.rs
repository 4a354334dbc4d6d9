use super::*;
use crate::recipe::Method;

fn groups(blocks: usize) -> Vec<LayerGroup> {
    let blocks = (0..blocks).map(|index| format!("encoder.layer.{index}"));
    let names = std::iter::once("embeddings".to_owned()).chain(blocks).chain(["head".to_owned()]);
    names.map(|name| LayerGroup { name, parameters: Vec::new(), buffers: Vec::new() }).collect()
}

fn recipe(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Recipe::parse("[model]\nname_or_path = \"m\"\n", "recipe.toml", &overrides)
        .unwrap_or_else(|error| panic!("{overrides:?}: {error}"))
}

fn plan(overrides: &[&str], blocks: usize) -> Vec<Stage> {
    plan_stages(&recipe(overrides), &groups(blocks)).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(overrides: &[&str], blocks: usize) -> String {
    plan_stages(&recipe(overrides), &groups(blocks)).unwrap_err().to_string()
}

/// How many groups train in each stage.
fn counts(stages: &[Stage]) -> Vec<usize> {
    stages.iter().map(|stage| stage.trainable_groups.iter().filter(|&&trains| trains).count()).collect()
}

fn names(stages: &[Stage]) -> Vec<&str> {
    stages.iter().map(|stage| stage.name.as_str()).collect()
}

fn epochs(stages: &[Stage]) -> Vec<f64> {
    stages.iter().map(|stage| stage.epochs).collect()
}

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-12 * theirs.abs()
}

const METHODS: [Method; 6] =
    [Method::Head, Method::LastN, Method::Gradual, Method::Full, Method::Lora, Method::FineTune];

#[test]
fn a_group_has_a_rate_iff_it_trains_the_head_always_trains_and_rates_fall_towards_the_input() {
    for method in METHODS {
        for blocks in [0, 1, 2, 5, 12, 24] {
            for decay in ["1.0", "0.8", "0.3"] {
                for length in
                    ["num_train_epochs=1", "num_train_epochs=4.5", "num_train_epochs=50", "max_steps=3"]
                {
                    let method_text = format!("method={}", method.name());
                    let decay_text = format!("learning_rate_decay={decay}");
                    let mut overrides = vec![method_text.as_str(), length, &decay_text];
                    if method == Method::LastN {
                        overrides.push("last_n=1");
                    }
                    let stages = plan(&overrides, blocks);
                    assert!(!stages.is_empty());
                    for stage in &stages {
                        check_stage(stage, blocks + 2, &format!("{overrides:?} {blocks}: {stage:?}"));
                    }
                    let steps: Option<u64> = stages.iter().map(|stage| stage.max_steps).sum();
                    assert_eq!(steps, (length == "max_steps=3").then_some(3), "{overrides:?} {blocks}");
                }
            }
        }
    }
}

fn check_stage(stage: &Stage, groups: usize, about: &str) {
    assert_eq!((stage.trainable_groups.len(), stage.learning_rates.len()), (groups, groups), "{about}");
    for (&trains, &rate) in stage.trainable_groups.iter().zip(&stage.learning_rates) {
        assert_eq!(trains, rate > 0.0, "{about}");
    }
    assert_eq!(stage.trainable_groups.last(), Some(&true), "{about}");
    assert!(stage.learning_rates.is_sorted(), "{about}");
    assert!(stage.trainable_groups.is_sorted(), "what trains is at the top: {about}");
    assert!(stage.epochs > 0.0 && stage.max_steps != Some(0), "{about}");
}

#[test]
fn gradual_goes_from_the_head_to_everything_in_every_shape() {
    for blocks in [0, 1, 2, 5, 12, 24] {
        for total in ["0.5", "1", "2", "3", "4.5", "10", "100"] {
            let stages = plan(&["method=gradual", &format!("num_train_epochs={total}")], blocks);
            let counts = counts(&stages);
            assert_eq!((counts[0], counts[counts.len() - 1]), (1, blocks + 2));
            assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
            let total: f64 = total.parse().unwrap();
            assert!(close(epochs(&stages).iter().sum(), total));
            assert!(stages.len() <= (total as usize).max(2));
        }
    }
}

#[test]
fn gradual_spreads_the_groups_over_as_many_stages_as_epochs() {
    let stages = plan(&["method=gradual", "num_train_epochs=4"], 6);
    assert_eq!(counts(&stages), [1, 3, 6, 8]);
    assert_eq!(names(&stages), ["head", "from encoder.layer.4", "from encoder.layer.1", "all"]);
    assert_eq!(epochs(&stages), [1.0; 4]);
    let stages = plan(&["method=gradual", "num_train_epochs=9.5"], 1);
    assert_eq!((counts(&stages), epochs(&stages)), (vec![1, 2, 3], vec![3.0, 3.0, 3.5]));
    let stages = plan(&["method=gradual", "num_train_epochs=5"], 1);
    assert_eq!(epochs(&stages), [1.0, 2.0, 2.0]);
}

#[test]
fn gradual_unfreezes_at_the_epochs_that_the_recipe_gives() {
    let stages = plan(&["method=gradual", "num_train_epochs=5", "gradual_epochs=[1, 3]"], 6);
    assert_eq!((counts(&stages), epochs(&stages)), (vec![1, 5, 8], vec![1.0, 2.0, 2.0]));
    assert_eq!(
        refusal(&["method=gradual", "num_train_epochs=5", "gradual_epochs=[1, 2]"], 0),
        "override \"gradual_epochs=[1, 2]\": \"gradual_epochs\" in [strategy]: unfreezes 2 times, but the backbone has \
         only 1 groups"
    );
}

#[test]
fn a_stage_without_improvement_gives_way_to_the_next_but_the_last_ends_training() {
    let patience = |stages: &[Stage]| -> Vec<Option<u32>> {
        stages.iter().map(|stage| stage.early_stopping_patience).collect()
    };
    let gradual = ["method=gradual", "num_train_epochs=3"];
    assert_eq!(patience(&plan(&gradual, 6)), [None; 3]);
    let stages = plan(&[&gradual[..], &["gradual_patience=2"]].concat(), 6);
    assert_eq!(patience(&stages), [Some(2), Some(2), None]);
    let stages = plan(&[&gradual[..], &["early_stopping_patience=4"]].concat(), 6);
    assert_eq!(patience(&stages), [Some(4), Some(4), Some(4)]);
}

#[test]
fn the_decay_is_per_group_from_the_head() {
    let stages = plan(&["learning_rate=8e-4", "learning_rate_decay=0.5"], 2);
    assert_eq!(stages[0].learning_rates, [1e-4, 2e-4, 4e-4, 8e-4]);
}

#[test]
fn an_exact_name_goes_before_a_longer_pattern_before_a_shorter() {
    let rates = "group_learning_rates={ \"*\" = 1e-6, \"encoder.*\" = 2e-6, \"encoder.layer.1\" = 3e-6 }";
    assert_eq!(plan(&[rates], 2)[0].learning_rates, [1e-6, 2e-6, 3e-6, 1e-6]);
    assert_eq!(
        refusal(&["group_learning_rates.layer4=1e-3"], 1),
        "override \"group_learning_rates.layer4=1e-3\": \"layer4\" of \"group_learning_rates\" in [strategy]: fits no \
         layer group of the model; they are embeddings, encoder.layer.0, head"
    );
}

#[test]
fn last_n_counts_groups_of_the_backbone() {
    assert_eq!(counts(&plan(&["method=last_n", "last_n=2"], 6)), [3]);
    assert_eq!(counts(&plan(&["method=last_n", "last_n=0"], 6)), [1]);
    assert_eq!(
        refusal(&["method=last_n", "last_n=8"], 6),
        "override \"last_n=8\": \"last_n\" in [strategy]: 8 is more than the 7 groups that the backbone has"
    );
}

#[test]
fn lora_trains_adapters_in_every_group() {
    let stages = plan(&["method=lora"], 6);
    assert!(stages[0].adapters_only);
    assert_eq!(counts(&stages), [8]);
    assert!(!plan(&["method=full"], 6)[0].adapters_only);
}

#[test]
fn fine_tune_is_fastais() {
    let stages = plan(&["method=fine_tune", "base_lr=2e-3", "num_train_epochs=4"], 3);
    assert_eq!(
        (names(&stages), epochs(&stages), counts(&stages)),
        (vec!["head", "all"], vec![1.0, 4.0], vec![1, 5])
    );
    assert_eq!(stages[0].learning_rates[4], 2e-3);
    // even_mults(1e-5, 1e-3, 5): a factor of the fourth root of 100 from group to group.
    for (&rate, power) in stages[1].learning_rates.iter().zip(0..) {
        assert!(close(rate, 1e-5 * 100_f64.powf(0.25).powi(power)), "{rate}");
    }
    let shapes: Vec<_> = stages
        .iter()
        .map(|stage| (stage.schedule.name, stage.schedule.pct_start, stage.schedule.div_factor))
        .collect();
    let one_cycle = ScheduleName::OneCycle;
    assert_eq!(shapes, [(one_cycle, Some(0.99), Some(25.0)), (one_cycle, Some(0.3), Some(5.0))]);
    let ends: Vec<_> = stages.iter().map(|stage| stage.schedule.final_div_factor).collect();
    assert_eq!(ends, [Some(4e3), Some(2e4)]);
    assert!(close(plan(&["method=fine_tune"], 3)[0].learning_rates[4], 5e-4));
    assert_eq!(names(&plan(&["method=fine_tune", "freeze_epochs=0"], 3)), ["all"]);
}

const EXPLICIT: &str = "[model]\nname_or_path = \"m\"\n[strategy]\nmethod = \"stages\"\nlearning_rate_decay = 0.5\n\
                        [optimizer]\nlearning_rate = 4e-5\n[train]\nnum_train_epochs = 6\nearly_stopping_patience = 3\n";

fn explicit(stages: &str) -> Result<Vec<Stage>, RecipeError> {
    let recipe = Recipe::parse(&format!("{EXPLICIT}{stages}"), "recipe.toml", &[]).unwrap();
    plan_stages(&recipe, &groups(2))
}

#[test]
fn explicit_stages_take_what_they_do_not_say_from_the_recipe() {
    let stages = explicit(
        "[[stage]]\nname = \"warm\"\ntrain = [\"head\"]\nnum_train_epochs = 1\nlearning_rate = 1e-3\n\
         schedule = { name = \"cosine\" }\n[[stage]]\ntrain = [\"last:1\", \"embed*\"]\nearly_stopping_patience = 1\n\
         [[stage]]\ntrain = [\"all\"]\nlearning_rate_decay = 1",
    )
    .unwrap();
    assert_eq!(names(&stages), ["warm", "stage 2", "stage 3"]);
    assert_eq!(epochs(&stages), [1.0, 2.5, 2.5]);
    assert_eq!(stages[0].learning_rates, [0.0, 0.0, 0.0, 1e-3]);
    assert_eq!(stages[1].learning_rates, [5e-6, 0.0, 2e-5, 4e-5]);
    assert_eq!(stages[2].learning_rates, [4e-5; 4]);
    assert_eq!(stages[0].schedule.name, ScheduleName::Cosine);
    assert_eq!(stages[1].schedule.name, ScheduleName::Linear);
    let patience: Vec<_> = stages.iter().map(|stage| stage.early_stopping_patience).collect();
    assert_eq!(patience, [Some(3), Some(1), Some(3)]);
}

#[test]
fn explicit_stages_that_cannot_be_are_refused() {
    for (text, message) in [
        (
            "[[stage]]\ntrain = [\"encoder.layer.7\"]",
            "recipe.toml:12: \"train\" in [[stage]] 1: \"encoder.layer.7\" fits no layer group of the model; they are \
             embeddings, encoder.layer.0, encoder.layer.1, head",
        ),
        (
            "[[stage]]\ntrain = [\"last:4\"]",
            "recipe.toml:12: \"train\" in [[stage]] 1: 4 is more than the 3 groups that the backbone has",
        ),
        (
            "[[stage]]\ntrain = [\"encoder*\"]",
            "recipe.toml:11: [[stage]]: no stage trains the head; write \"head\" or \"all\" in one of them",
        ),
        (
            "[[stage]]\ntrain = [\"all\"]\nnum_train_epochs = 6\n[[stage]]\ntrain = [\"all\"]",
            "recipe.toml:14: [[stage]] 2: needs num_train_epochs or max_steps: the other stages leave nothing of \
             [train]'s num_train_epochs = 6",
        ),
    ] {
        assert_eq!(explicit(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn steps_are_divided_exactly_and_a_stages_own_steps_come_first() {
    let recipe = recipe(&[
        "method=stages",
        "max_steps=100",
        "stage=[{train=[\"head\"], max_steps=11}, {train=[\"all\"]}, {train=[\"all\"]}]",
    ]);
    let steps: Vec<_> =
        plan_stages(&recipe, &groups(2)).unwrap().iter().map(|stage| stage.max_steps).collect();
    assert_eq!(steps, [Some(11), Some(45), Some(44)]);
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, name, fits) in [
        ("head", "head", true),
        ("head", "heads", false),
        ("*", "", true),
        ("encoder.layer.*", "encoder.layer.11", true),
        ("*.1", "encoder.layer.1", true),
        ("*.1", "encoder.layer.11", false),
        ("e*l*1", "encoder.layer.1", true),
        ("a*a", "a", false),
        ("a*b*b", "ab", false),
        ("", "head", false),
    ] {
        assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
    }
}
