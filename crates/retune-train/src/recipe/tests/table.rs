//! The table of keys against the types and the committed page.

use serde::de::{Deserialize, Deserializer, Visitor, value::Error};

use super::super::reference::is_toml;
use super::*;

/// Answers a struct's question for its fields with an error that lists them.
struct FieldNames;

impl<'de> Deserializer<'de> for FieldNames {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom(fields.join(" ")))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: Deserialize<'static>>() -> Vec<String> {
    let names = T::deserialize(FieldNames).err().map_or_else(String::new, |error| error.to_string());
    names.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_table_has_the_keys_of_the_types_in_their_order() {
    let types = [
        ("model", fields::<ModelSection>()),
        ("data", fields::<DataSection>()),
        ("augmentation", fields::<AugmentationSection>()),
        ("task", fields::<TaskSection>()),
        ("strategy", fields::<StrategySection>()),
        ("optimizer", fields::<OptimizerSection>()),
        ("schedule", fields::<ScheduleSection>()),
        ("train", fields::<TrainSection>()),
        ("stage", fields::<StageSection>()),
    ];
    for (section, names) in types {
        let listed: Vec<&str> =
            KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect();
        assert_eq!(listed, names, "[{section}]");
    }
    let sections: Vec<&str> = SECTIONS.iter().map(|(section, _)| *section).collect();
    assert_eq!(sections, fields::<Recipe>());
}

/// Values that the table allows a key, as TOML.
fn allowed(kind: Kind) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
    match kind {
        Kind::Text => vec!["\"x\"".to_owned()],
        Kind::Bool => vec!["true".to_owned(), "false".to_owned()],
        Kind::Integer(least, most) => vec![least.to_string(), most.to_string()],
        Kind::IntegerOrWord(least, most, word) => {
            vec![least.to_string(), most.to_string(), format!("\"{word}\"")]
        }
        Kind::Number(range) => {
            let candidates = ["0", "0.0", "0.5", "1", "3"];
            let fits = |text: &&&str| range.contains(text.parse().unwrap());
            candidates.iter().filter(fits).map(|text| (*text).to_owned()).collect()
        }
        Kind::NumberOrWord(range, word) => [allowed(Kind::Number(range)), words(&[word])].concat(),
        Kind::TextList => vec!["[]".to_owned(), "[\"x\"]".to_owned()],
        Kind::TextOrList => vec!["\"x\"".to_owned(), "[\"x\", \"y\"]".to_owned()],
        Kind::IntegerList => vec!["[1, 4294967295]".to_owned()],
        Kind::NumberList => vec!["[]".to_owned(), "[0, -0.5]".to_owned()],
        Kind::Choice(first, others) => [words(first), words(others)].concat(),
        Kind::TextTable => vec!["{ a = \"b\" }".to_owned()],
        Kind::NumberTable(_) => vec!["{ \"a.*\" = 1, b = 0.5 }".to_owned()],
        Kind::ChoiceOrTable(first) => [words(first), vec!["{ a = 0, \"b c\" = 0.5 }".to_owned()]].concat(),
        Kind::WordOrList(word) => vec![format!("\"{word}\""), "[\"x\"]".to_owned()],
        Kind::Schedule => vec!["{ name = \"cosine\", num_cycles = 1 }".to_owned()],
    }
}

#[test]
fn the_types_take_every_value_that_the_table_allows() {
    for key in KEYS {
        for value in allowed(key.kind) {
            let header = keys::header(key.section);
            let text = format!("{header}\n{} = {value}", key.name);
            let read: Result<Recipe, _> = toml::from_str(&text);
            let table: toml::Table = toml::from_str(&text).unwrap();
            parse::check_table(&table, &Places::default()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(read.is_ok(), "{text}: {read:?}");
        }
    }
}

#[test]
fn a_default_that_the_table_gives_as_toml_is_the_types_default() {
    let stage = "[[stage]]\ntrain = [\"all\"]\n";
    let plain: Recipe = toml::from_str(stage).unwrap();
    for key in KEYS.iter().filter(|key| is_toml(key.default)) {
        let set = format!("[{}]\n{} = {}\n{stage}", key.section, key.name, key.default);
        let set: Recipe = toml::from_str(&set).unwrap();
        let mut set = toml::Value::try_from(&set).unwrap();
        // An option whose default comes later is unset until then.
        let resolved_later =
            ["gamma", "power", "cut_frac", "ratio", "patience", "factor", "adam_beta1", "adam_epsilon"];
        let resolved_later =
            [&resolved_later[..], &["nesterov", "alpha", "lr_end", "stride", "freeze_epochs"]].concat();
        if resolved_later.contains(&key.name) || key.name == "learning_rate_decay" {
            set[key.section].as_table_mut().unwrap().remove(key.name);
        }
        assert_eq!(set, toml::Value::try_from(&plain).unwrap(), "{}.{}", key.section, key.name);
    }
}

#[test]
fn the_optimizers_own_defaults_are_the_tables() {
    let default =
        |name: &str| KEYS.iter().find(|key| key.name == name).unwrap().default.parse::<f64>().unwrap();
    let constants = retune_nn::OptimizerConfig::new(retune_nn::OptimizerKind::AdamW);
    assert_eq!(default("adam_beta1"), constants.beta1);
    assert_eq!(default("adam_epsilon"), constants.eps);
    assert_eq!(default("alpha"), constants.alpha);
}

#[test]
fn the_committed_recipe_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipe.md");
    let page = render_reference();
    if std::env::var_os("RETUNE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "run RETUNE_WRITE_DOCS=1 cargo test -p retune-train recipe_reference");
}
