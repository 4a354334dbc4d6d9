//! `key=value` after the recipe on the command line.

use toml::{Table, Value};

use super::keys::{self, Key, Kind};
use super::parse::{check_value, join};
use super::{Places, RecipeError};

/// Where an override goes: the table, the key, and a name within the key's own table.
struct Target {
    section: &'static str,
    stage: Option<usize>,
    key: &'static Key,
    inner: Option<String>,
}

/// Sets what one override says.
pub(super) fn apply_override(table: &mut Table, places: &mut Places, text: &str) -> Result<(), RecipeError> {
    let refuse = |problem: &str| RecipeError::Override { text: text.to_owned(), problem: problem.to_owned() };
    let Some((written_key, written_value)) = text.split_once('=') else {
        return Err(refuse("must be key=value, such as learning_rate=3e-5"));
    };
    let parts = split_key(written_key.trim()).ok_or_else(|| {
        refuse("what stands before \"=\" is no key; write section.key, odd names in quotes")
    })?;
    let written_value = written_value.trim();
    let value = read_value(written_value);
    if let ([section], Some(Value::Table(settings))) = (parts.as_slice(), &value)
        && section != "stage"
        && let Some((section, _)) = keys::SECTIONS.iter().find(|(name, _)| name == section)
    {
        for (name, value) in settings {
            let target = in_section(section, None, std::slice::from_ref(name), text)?;
            set(table, places, text, target, value.clone())?;
        }
        return Ok(());
    }
    if parts == ["stage"] {
        return set_stages(table, places, text, value);
    }
    let target = resolve(&parts, text)?;
    let bare = || Value::String(written_value.to_owned());
    let value = match value {
        // What is a number or a date to TOML may be a name to the recipe.
        Some(Value::String(string)) => Value::String(string),
        Some(Value::Array(items)) if target.key.kind == Kind::TextOrList => Value::Array(items),
        Some(_)
            if matches!(target.key.kind, Kind::Text | Kind::TextOrList | Kind::Choice(..))
                && target.inner.is_none() =>
        {
            bare()
        }
        Some(value) => value,
        None => bare(),
    };
    set(table, places, text, target, value)
}

/// `strategy.group_learning_rates."encoder.layer.*"` to its parts.
fn split_key(written: &str) -> Option<Vec<String>> {
    if written.contains(['\n', '#']) {
        return None;
    }
    let mut table: Table = toml::from_str(&format!("{written} = 0")).ok()?;
    let mut parts = Vec::new();
    loop {
        let mut entries = table.into_iter();
        let (name, value) = entries.next()?;
        if entries.next().is_some() {
            return None;
        }
        parts.push(name);
        match value {
            Value::Table(inner) => table = inner,
            _ => return Some(parts),
        }
    }
}

/// The value as TOML, if it is.
fn read_value(written: &str) -> Option<Value> {
    let mut table: Table = toml::from_str(&format!("value = {written}")).ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

fn resolve(parts: &[String], text: &str) -> Result<Target, RecipeError> {
    let (first, rest) = parts.split_first().ok_or_else(|| no_such_key("", text))?;
    if !rest.is_empty() {
        if first == "stage" {
            let (index, rest) = rest.split_first().ok_or_else(|| no_such_key(first, text))?;
            let index: usize =
                index.parse().ok().filter(|index| *index < 1000).ok_or_else(|| RecipeError::Override {
                    text: text.to_owned(),
                    problem: "a stage is given by its number from 0: stage.0.learning_rate".to_owned(),
                })?;
            return in_section("stage", Some(index), rest, text);
        }
        if let Some((section, _)) = keys::SECTIONS.iter().find(|(name, _)| name == first) {
            return in_section(section, None, rest, text);
        }
    }
    let keys: Vec<&'static Key> = keys::named(first).collect();
    match keys.as_slice() {
        [] => Err(no_such_key(first, text)),
        [key] => in_section(key.section, None, parts, text),
        several => {
            let paths: Vec<String> =
                several.iter().map(|key| format!("{}.{}", key.section, key.name)).collect();
            let problem = format!("\"{first}\" is not unique; write {}", paths.join(" or "));
            Err(RecipeError::Override { text: text.to_owned(), problem })
        }
    }
}

fn no_such_key(name: &str, text: &str) -> RecipeError {
    RecipeError::Unknown {
        place: format!("override \"{text}\""),
        what: format!("key \"{name}\""),
        hint: keys::suggestion(None, name),
    }
}

fn in_section(
    section: &'static str,
    stage: Option<usize>,
    parts: &[String],
    text: &str,
) -> Result<Target, RecipeError> {
    let Some((name, rest)) = parts.split_first() else {
        let problem = format!("names no key of {}", keys::header(section));
        return Err(RecipeError::Override { text: text.to_owned(), problem });
    };
    let key = keys::find(section, name).ok_or_else(|| RecipeError::Unknown {
        place: format!("override \"{text}\""),
        what: format!("key \"{name}\" in {}", keys::header(section)),
        hint: keys::suggestion(Some(section), name),
    })?;
    let inner = match (key.kind, rest) {
        (_, []) => None,
        (Kind::TextTable | Kind::NumberTable(_) | Kind::ChoiceOrTable(_) | Kind::Schedule, rest) => {
            Some(rest.join("."))
        }
        _ => {
            let problem = format!("\"{name}\" has no keys of its own");
            return Err(RecipeError::Override { text: text.to_owned(), problem });
        }
    };
    Ok(Target { section, stage, key, inner })
}

/// The stage's table, where the one after the last begins a new stage.
fn stage_table<'t>(table: &'t mut Table, index: usize, text: &str) -> Result<&'t mut Table, RecipeError> {
    let stages = table.entry("stage").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(stages) = stages {
        if index == stages.len() {
            stages.push(Value::Table(Table::new()));
        }
        let count = stages.len();
        if let Some(Value::Table(stage)) = stages.get_mut(index) {
            return Ok(stage);
        }
        let problem = format!("there is no stage {index}; the recipe has {count}, counted from 0");
        return Err(RecipeError::Override { text: text.to_owned(), problem });
    }
    Err(RecipeError::Override {
        text: text.to_owned(),
        problem: "[[stage]] is not a list of tables".to_owned(),
    })
}

fn set(
    table: &mut Table,
    places: &mut Places,
    text: &str,
    target: Target,
    value: Value,
) -> Result<(), RecipeError> {
    let (section, base) = match target.stage {
        Some(index) => (stage_table(table, index, text)?, format!("stage.{index}")),
        None => {
            let section = table.entry(target.section).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(section) = section else {
                let problem = format!("[{}] is not a table", target.section);
                return Err(RecipeError::Override { text: text.to_owned(), problem });
            };
            (section, target.section.to_owned())
        }
    };
    let path = join(&base, target.key.name);
    let (value, place) = match &target.inner {
        None => (value, path.clone()),
        Some(name) => {
            let mut inner = match section.remove(target.key.name) {
                Some(Value::Table(inner)) => inner,
                _ => Table::new(),
            };
            inner.insert(name.clone(), value);
            (Value::Table(inner), join(&path, name))
        }
    };
    places.set_override(place, text);
    check_value(target.key, &path, &value, places)?;
    section.insert(target.key.name.to_owned(), value);
    Ok(())
}

/// `stage=[{train=["head"]}, {train=["all"]}]` replaces all stages.
fn set_stages(
    table: &mut Table,
    places: &mut Places,
    text: &str,
    value: Option<Value>,
) -> Result<(), RecipeError> {
    let Some(value @ Value::Array(_)) = value else {
        let problem =
            "must be a list of tables, such as stage=[{train=[\"head\"]}, {train=[\"all\"]}]".to_owned();
        return Err(RecipeError::Override { text: text.to_owned(), problem });
    };
    places.set_override("stage".to_owned(), text);
    let stages = Table::from_iter([("stage".to_owned(), value.clone())]);
    super::parse::check_table(&stages, places)?;
    table.insert("stage".to_owned(), value);
    Ok(())
}
