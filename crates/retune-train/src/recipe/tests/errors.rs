//! What a wrong recipe is answered.

use super::*;

fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

/// After [`LEAST`], so that the first line is number 3.
fn refusal_after_least(text: &str) -> String {
    refusal(&format!("{LEAST}{text}"))
}

#[test]
fn what_is_not_toml_is_refused_with_line_and_column() {
    let message = refusal("[model]\nname_or_path = \"m\nseed = 1\n");
    assert!(message.starts_with("recipe.toml:2:18: not valid TOML: "), "{message}");
    let message = refusal("[model]\nname_or_path = \"é\" x\n");
    assert!(message.starts_with("recipe.toml:2:20: not valid TOML: "), "{message}");
    let message = refusal("[train]\nseed = 1\nseed = 2\n");
    assert!(message.starts_with("recipe.toml:3:1: not valid TOML: duplicate key"), "{message}");
}

#[test]
fn an_unknown_name_is_refused_with_what_was_probably_meant() {
    for (text, message) in [
        (
            "[optimizer]\nlearning_rat = 1",
            "recipe.toml:4: unknown key \"learning_rat\" in [optimizer]; did you mean \"learning_rate\"?",
        ),
        (
            "[optimizer]\nlearning-rate = 1",
            "recipe.toml:4: unknown key \"learning-rate\" in [optimizer]; did you mean \"learning_rate\"?",
        ),
        (
            "[train]\nlearning_rate = 1",
            "recipe.toml:4: unknown key \"learning_rate\" in [train]; \"learning_rate\" belongs in [optimizer]",
        ),
        (
            "[train]\nepochs = 1",
            "recipe.toml:4: unknown key \"epochs\" in [train]; did you mean \"num_train_epochs\" in [train]?",
        ),
        (
            "[train]\nweight_dekay = 1",
            "recipe.toml:4: unknown key \"weight_dekay\" in [train]; did you mean \"weight_decay\" in [optimizer]?",
        ),
        (
            "[task]\nzzz = 1",
            "recipe.toml:4: unknown key \"zzz\" in [task]; the keys of [task] are type, problem_type, label_smoothing, \
             class_weights, focal_gamma, tune_thresholds",
        ),
        (
            "[strategy]\nmethod = \"stages\"\n[[stage]]\ntrain = [\"all\"]\nlearning_rates = 1",
            "recipe.toml:7: unknown key \"learning_rates\" in [[stage]]; did you mean \"learning_rate\"?",
        ),
        (
            "[optimiser]\nname = \"sgd\"",
            "recipe.toml:3: unknown section [optimiser]; did you mean [optimizer]?",
        ),
        (
            "[zzz]\nname = \"sgd\"",
            "recipe.toml:3: unknown section [zzz]; there are [model], [data], [augmentation], [task], [strategy], \
             [optimizer], [schedule], [train], [[stage]]",
        ),
    ] {
        assert_eq!(refusal_after_least(text), message);
    }
    assert_eq!(
        refusal("learning_rate = 1e-4"),
        "recipe.toml:1: unknown key \"learning_rate\" before the first section; it belongs under [optimizer]"
    );
    assert_eq!(
        refusal("learning_rte = 1e-4"),
        "recipe.toml:1: unknown key \"learning_rte\" before the first section; did you mean \"optimizer.learning_rate\"?"
    );
}

#[test]
fn a_wrong_type_or_value_is_refused_with_what_is_allowed() {
    for (text, message) in [
        (
            "[train]\nseed = \"7\"",
            "recipe.toml:4: \"seed\" in [train] must be an integer of at least 0, found the string \"7\"; remove the quotes",
        ),
        (
            "[train]\nper_device_train_batch_size = 0",
            "recipe.toml:4: \"per_device_train_batch_size\" in [train] must be an integer of at least 1, or \"auto\", found the integer 0",
        ),
        (
            "[train]\nthreads = 9999999999",
            "recipe.toml:4: \"threads\" in [train] must be an integer of at most 1024, found the integer 9999999999",
        ),
        (
            "[train]\nmax_steps = 1.5",
            "recipe.toml:4: \"max_steps\" in [train] must be an integer of at least 1, found the number 1.5",
        ),
        (
            "[train]\nnum_train_epochs = -1",
            "recipe.toml:4: \"num_train_epochs\" in [train] must be a number above 0, found the integer -1",
        ),
        (
            "[train]\ntensorboard = \"true\"",
            "recipe.toml:4: \"tensorboard\" in [train] must be true or false, found the string \"true\"; remove the quotes",
        ),
        (
            "[train]\nseed = 99999999999999999999",
            "recipe.toml:4: \"seed\" in [train] must be a number that fits 64 bits, found 99999999999999999999",
        ),
        (
            "[optimizer]\nlearning_rate = nan",
            "recipe.toml:4: \"learning_rate\" in [optimizer] must be a number of at least 0, or \"auto\", found the number NaN",
        ),
        (
            "[schedule]\nwarmup_ratio = 1.5",
            "recipe.toml:4: \"warmup_ratio\" in [schedule] must be a number from 0 to 1, found the number 1.5",
        ),
        (
            "[task]\nlabel_smoothing = 1",
            "recipe.toml:4: \"label_smoothing\" in [task] must be a number of at least 0 and below 1, found the integer 1",
        ),
        (
            "[data]\ncolumns = \"a\"",
            "recipe.toml:4: \"columns\" in [data] must be a list of strings, found the string \"a\"; write [\"a\"]",
        ),
        (
            "[data]\nover_length = \"truncat\"",
            "recipe.toml:4: \"over_length\" in [data] must be one of \"truncate\", \"tail\", \"head_tail\", \"window\", \
             \"refuse\", found the string \"truncat\"; did you mean \"truncate\"?",
        ),
        (
            "[task]\n[task.class_weights]\nrefund = -1",
            "recipe.toml:5: \"refund\" of \"class_weights\" in [task] must be a number of at least 0, found the integer -1",
        ),
        (
            "[strategy]\ngroup_learning_rates = { head = 0 }",
            "recipe.toml:4: \"head\" of \"group_learning_rates\" in [strategy] must be a number above 0, found the integer 0",
        ),
        (
            "[[train]]\nseed = 1",
            "recipe.toml:3: [train] must be one table, found a list of tables; write [train] with single brackets, once",
        ),
        (
            "[stage]\ntrain = [\"all\"]",
            "recipe.toml:3: [[stage]] must be a list of tables, found a table; write [[stage]] with double brackets, once \
             for each stage",
        ),
    ] {
        assert_eq!(refusal_after_least(text), message);
    }
    assert_eq!(
        refusal("train = \"train.csv\""),
        "recipe.toml:1: [train] must be a table, found the string \"train.csv\"; for the key write it under [data]"
    );
}

#[test]
fn values_that_do_not_fit_each_other_are_refused() {
    for (text, message) in [
        (
            "[data]\nvalidation = \"v.csv\"\nvalidation_split = 0.1",
            "recipe.toml:5: \"validation_split\" in [data]: there is a validation file too; remove one of the two",
        ),
        (
            "[data]\nover_length = \"window\"\nmax_length = 8\nstride = 8",
            "recipe.toml:6: \"stride\" in [data]: must be below max_length = 8",
        ),
        (
            "[strategy]\nlast_n = 2",
            "recipe.toml:4: \"last_n\" in [strategy]: has an effect with method = \"last_n\" only; remove it, or choose that",
        ),
        (
            "[strategy]\nmethod = \"last_n\"",
            "recipe.toml:3: \"last_n\" in [strategy]: method = \"last_n\" needs it: how many backbone groups train below \
             the head, such as last_n = 2",
        ),
        (
            "[strategy]\nmethod = \"stages\"",
            "recipe.toml:4: \"method\" in [strategy]: \"stages\" needs at least one [[stage]] table, such as [[stage]] \
             with train = [\"head\"]",
        ),
        (
            "\n[[stage]]\ntrain = [\"all\"]",
            "recipe.toml:4: [[stage]] 1: [[stage]] tables belong to method = \"stages\", but the method is \"full\"",
        ),
        (
            "[strategy]\nmethod = \"stages\"\n[[stage]]\ntrain = [\"head\"]\n[[stage]]\nname = \"second\"",
            "recipe.toml:7: \"train\" in [[stage]] 2: names nothing that trains; write \"all\", \"head\", \"last:N\" or \
             layer groups",
        ),
        (
            "[strategy]\nmethod = \"stages\"\n[[stage]]\ntrain = [\"last:two\"]",
            "recipe.toml:6: \"train\" in [[stage]] 1: \"last:two\" must be \"last:\" and a number, such as \"last:2\"",
        ),
        (
            "[strategy]\nmethod = \"gradual\"\ngradual_epochs = [2, 1]",
            "recipe.toml:5: \"gradual_epochs\" in [strategy]: must be epochs in rising order, such as [1, 2]",
        ),
        (
            "[strategy]\nmethod = \"gradual\"\ngradual_epochs = [1, 3]",
            "recipe.toml:5: \"gradual_epochs\" in [strategy]: epoch 3 does not come: num_train_epochs = 3",
        ),
        (
            "[schedule]\nname = \"step\"",
            "recipe.toml:3: \"step_size\" in [schedule]: the schedule \"step\" needs it: optimizer steps between two \
             drops, such as step_size = 100",
        ),
        (
            "[schedule]\npower = 2",
            "recipe.toml:4: \"power\" in [schedule]: has an effect with the schedule polynomial only; remove it, or choose that",
        ),
        (
            "[optimizer]\nmomentum = 0.9",
            "recipe.toml:4: \"momentum\" in [optimizer]: has an effect with sgd and rmsprop only; remove it, or choose that",
        ),
        (
            "[train]\noutput_dir = \" \"",
            "recipe.toml:4: \"output_dir\" in [train]: is empty; name the run folder",
        ),
    ] {
        assert_eq!(refusal_after_least(text), message);
    }
    assert_eq!(
        refusal("[train]\nseed = 1"),
        "recipe.toml: \"name_or_path\" in [model]: missing; name a folder with a checkpoint or a hub id, such as \
         \"bert-base-uncased\""
    );
}

#[test]
fn no_text_makes_the_parser_panic() {
    let whole = format!(
        "{LEAST}[task]\nclass_weights = {{ a = 1 }}\n[strategy]\nmethod = \"stages\"\n[optimizer]\nlearning_rate = 1e-4\n\
         [[stage]]\ntrain = [\"last:2\"]\nschedule = {{ name = \"cosine\" }}\n"
    );
    recipe(&whole);
    let characters: Vec<char> = whole.chars().collect();
    let replacements = ['"', '[', ']', '{', '=', '.', '\n', '9', '-', 'é', '\0', '\u{feff}', ' '];
    for position in 0..characters.len() {
        let cut: String = characters[..position].iter().collect();
        let _ = Recipe::parse(&cut, "recipe.toml", &[]);
        let _ = Recipe::parse(LEAST, "recipe.toml", &[characters[position..].iter().collect()]);
        for replacement in replacements {
            let mut changed = characters.clone();
            changed[position] = replacement;
            let _ = Recipe::parse(&changed.iter().collect::<String>(), "recipe.toml", &[]);
        }
    }
    let deep = format!("x = {}", "[".repeat(100_000));
    assert!(parse(&deep).is_err());
    let deep = format!("{}1", "a.".repeat(100_000));
    assert!(Recipe::parse(LEAST, "recipe.toml", &[format!("{deep}=1")]).is_err());
    assert!(parse(&format!("{deep} = 1")).is_err());
}
