//! From text to a checked recipe: syntax, names, types and ranges, each error with its line.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::keys::{self, Key, Kind, Range};
use super::overrides::apply_override;
use super::{Method, Places, Recipe, RecipeError, ScheduleName};

/// A recipe is a page of text; what is larger is another file given by mistake.
const MAX_BYTES: u64 = 1 << 20;

impl Recipe {
    /// Reads a recipe file and applies the overrides.
    ///
    /// # Errors
    /// As [`Recipe::parse`], and if the file cannot be read, is larger than 1 MiB, or is not UTF-8.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let unreadable = |source| RecipeError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let source_name = path.display().to_string();
        if bytes.len() as u64 > MAX_BYTES {
            let problem = "larger than 1 MiB; is this a recipe?".to_owned();
            return Err(RecipeError::Syntax { place: source_name, problem });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let (line, column) = line_and_column(&String::from_utf8_lossy(valid), valid.len());
            RecipeError::Syntax {
                place: format!("{source_name}:{line}:{column}"),
                problem: "not UTF-8; save the file in that encoding".to_owned(),
            }
        })?;
        Self::parse(&text, &source_name, overrides)
    }

    /// Reads a recipe from text, applies the overrides in order, and checks every value.
    ///
    /// An override is `key=value`, the key by its last name where that is unique, else by its path. The value is read
    /// as TOML if it is TOML, else as a string without quotes.
    ///
    /// # Errors
    /// If the text is not TOML, or a section, key, type or value is wrong. The message begins with the place.
    pub fn parse(text: &str, source_name: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = DeTable::parse(text).map_err(|error| {
            let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
            let message = error.message().trim().replace('\n', ", ");
            RecipeError::Syntax { place: format!("{source_name}:{line}:{column}"), problem: message }
        })?;
        let mut reader = Reader { text, places: Places::new(source_name) };
        let mut table = reader.table("", parsed.get_ref())?;
        let mut places = reader.places;
        check_table(&table, &places)?;
        for text in overrides {
            apply_override(&mut table, &mut places, text)?;
        }
        // Whatever serde could refuse was refused above, with its place.
        let mut recipe = Self::deserialize(Value::Table(table)).map_err(|error| RecipeError::Syntax {
            place: source_name.to_owned(),
            problem: error.to_string().trim().replace('\n', ", "),
        })?;
        if recipe.strategy.method == Method::FineTune && !places.has("schedule.name") {
            recipe.schedule.name = ScheduleName::OneCycle;
        }
        recipe.places = places;
        recipe.check()?;
        Ok(recipe)
    }
}

/// The line and column of a byte, both from 1; columns count characters.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// `section`, `section.key`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Turns the parser's tables into plain ones and notes the line of each key.
struct Reader<'t> {
    text: &'t str,
    places: Places,
}

impl Reader<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) -> Result<Table, RecipeError> {
        let mut plain = Table::new();
        for (name, value) in table {
            let inner = join(path, name.get_ref());
            let (line, _) = line_and_column(self.text, name.span().start);
            self.places.set_line(inner.clone(), line);
            plain.insert(name.get_ref().to_string(), self.value(&inner, value.get_ref())?);
        }
        Ok(plain)
    }

    fn value(&mut self, path: &str, value: &DeValue<'_>) -> Result<Value, RecipeError> {
        Ok(match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(integer) => {
                let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
                Value::Integer(parsed.map_err(|_| self.no_number(path, &integer.to_string()))?)
            }
            DeValue::Float(float) => {
                Value::Float(float.as_str().parse().map_err(|_| self.no_number(path, float.as_str()))?)
            }
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(datetime) => Value::Datetime(*datetime),
            DeValue::Array(items) => {
                let mut plain = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let inner = join(path, &index.to_string());
                    let (line, _) = line_and_column(self.text, item.span().start);
                    self.places.set_line(inner.clone(), line);
                    plain.push(self.value(&inner, item.get_ref())?);
                }
                Value::Array(plain)
            }
            DeValue::Table(table) => Value::Table(self.table(path, table)?),
        })
    }

    fn no_number(&self, path: &str, found: &str) -> RecipeError {
        RecipeError::Mismatch {
            place: self.places.of(path),
            key: keys::spoken(path),
            expected: "must be a number that fits 64 bits".to_owned(),
            found: clipped(found),
            hint: String::new(),
        }
    }
}

/// Checks names, types and ranges of a whole recipe.
pub(super) fn check_table(table: &Table, places: &Places) -> Result<(), RecipeError> {
    for (section, value) in table {
        match (section.as_str(), value) {
            ("stage", Value::Array(stages)) => {
                for (index, stage) in stages.iter().enumerate() {
                    let path = format!("stage.{index}");
                    let Value::Table(stage) = stage else {
                        return Err(mismatch(&path, "must be a table", stage, places, ""));
                    };
                    check_section("stage", &path, stage, places)?;
                }
            }
            ("stage", _) => {
                let hint = "; write [[stage]] with double brackets, once for each stage";
                return Err(mismatch("stage", "must be a list of tables", value, places, hint));
            }
            (name, Value::Table(section)) if is_section(name) => check_section(name, name, section, places)?,
            (name, Value::Array(_)) if is_section(name) => {
                let hint = format!("; write [{name}] with single brackets, once");
                return Err(mismatch(name, "must be one table", value, places, &hint));
            }
            (name, _) if is_section(name) => {
                let hint = keys::named(name).next().map_or_else(String::new, |key| {
                    format!("; for the key write it under [{}]", key.section)
                });
                return Err(mismatch(name, "must be a table", value, places, &hint));
            }
            (name, _) => return Err(unknown_section(name, value, places)),
        }
    }
    Ok(())
}

fn is_section(name: &str) -> bool {
    keys::SECTIONS.iter().any(|(section, _)| *section == name)
}

fn unknown_section(name: &str, value: &Value, places: &Places) -> RecipeError {
    let place = places.of(name);
    if !value.is_table() && !value.is_array() {
        let hint = match keys::named(name).next() {
            Some(key) => format!("; it belongs under [{}]", key.section),
            None => keys::suggestion(None, name),
        };
        return RecipeError::Unknown {
            place,
            what: format!("key \"{name}\" before the first section"),
            hint,
        };
    }
    let sections = || keys::SECTIONS.iter().map(|(section, _)| *section);
    let hint = match keys::nearest(name, sections()) {
        Some(near) => format!("; did you mean {}?", keys::header(near)),
        None => format!("; there are {}", sections().map(keys::header).collect::<Vec<_>>().join(", ")),
    };
    RecipeError::Unknown { place, what: format!("section [{name}]"), hint }
}

fn check_section(section: &str, path: &str, table: &Table, places: &Places) -> Result<(), RecipeError> {
    for (name, value) in table {
        let inner = join(path, name);
        let Some(key) = keys::find(section, name) else {
            return Err(RecipeError::Unknown {
                place: places.of(&inner),
                what: format!("key \"{name}\" in {}", keys::header(section)),
                hint: keys::suggestion(Some(section), name),
            });
        };
        check_value(key, &inner, value, places)?;
    }
    Ok(())
}

/// Checks the type and the range of one value.
pub(super) fn check_value(key: &Key, path: &str, value: &Value, places: &Places) -> Result<(), RecipeError> {
    let number_in = |value: &Value, range: Range| match value {
        Value::Integer(integer) => range.contains(*integer as f64),
        Value::Float(number) => range.contains(*number),
        _ => false,
    };
    let fits = match (key.kind, value) {
        (Kind::Text, Value::String(_)) | (Kind::Bool, Value::Boolean(_)) => true,
        (Kind::Integer(least, most) | Kind::IntegerOrWord(least, most, _), Value::Integer(integer)) => {
            u64::try_from(*integer).is_ok_and(|integer| (least..=most).contains(&integer))
        }
        (Kind::NumberOrWord(_, expected), Value::String(word)) => word == expected,
        (Kind::Number(range) | Kind::NumberOrWord(range, _), value) => number_in(value, range),
        (Kind::TextOrList, Value::String(_)) => true,
        (Kind::TextList | Kind::TextOrList | Kind::WordOrList(_), Value::Array(items)) => {
            items.iter().all(Value::is_str)
        }
        (Kind::IntegerList, Value::Array(items)) => items
            .iter()
            .all(|item| item.as_integer().is_some_and(|item| (1..=i64::from(u32::MAX)).contains(&item))),
        (Kind::NumberList, Value::Array(items)) => items.iter().all(|item| number_in(item, Range::Finite)),
        (Kind::Choice(words, others), Value::String(word)) => {
            words.contains(&word.as_str()) || others.contains(&word.as_str())
        }
        (Kind::ChoiceOrTable(words), Value::String(word)) => words.contains(&word.as_str()),
        (Kind::WordOrList(expected) | Kind::IntegerOrWord(_, _, expected), Value::String(word)) => {
            word == expected
        }
        (Kind::TextTable, Value::Table(table)) => table.values().all(Value::is_str),
        (Kind::NumberTable(range), Value::Table(table)) => {
            return check_numbers(table, range, path, places);
        }
        (Kind::ChoiceOrTable(_), Value::Table(table)) => {
            return check_numbers(table, Range::NonNegative, path, places);
        }
        (Kind::Schedule, Value::Table(table)) => return check_section("schedule", path, table, places),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let expected = match (key.kind, value) {
        (Kind::Integer(_, most), &Value::Integer(integer)) if integer > 0 && integer as u64 > most => {
            format!("must be an integer of at most {most}")
        }
        (kind, _) => format!("must be {}", kind.describe()),
    };
    Err(mismatch(path, &expected, value, places, &hint_for(key.kind, value)))
}

fn check_numbers(table: &Table, range: Range, path: &str, places: &Places) -> Result<(), RecipeError> {
    for (name, value) in table {
        let number = value.as_float().or_else(|| value.as_integer().map(|integer| integer as f64));
        if !number.is_some_and(|number| range.contains(number)) {
            let expected = format!("must be a number{}", range.describe());
            return Err(mismatch(&join(path, name), &expected, value, places, ""));
        }
    }
    Ok(())
}

fn hint_for(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Choice(words, _) | Kind::ChoiceOrTable(words), Value::String(word)) => {
            keys::nearest(word, words.iter().copied())
                .map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"))
        }
        (Kind::Bool, Value::String(text)) if text.parse::<bool>().is_ok() => "; remove the quotes".to_owned(),
        (
            Kind::Integer(..) | Kind::IntegerOrWord(..) | Kind::Number(_) | Kind::NumberOrWord(..),
            Value::String(text),
        ) if text.parse::<f64>().is_ok() => "; remove the quotes".to_owned(),
        (Kind::TextList | Kind::WordOrList(_), Value::String(text)) => {
            format!("; write [\"{}\"]", clipped(text))
        }
        _ => String::new(),
    }
}

fn mismatch(path: &str, expected: &str, value: &Value, places: &Places, hint: &str) -> RecipeError {
    RecipeError::Mismatch {
        place: places.of(path),
        key: keys::spoken(path),
        expected: expected.to_owned(),
        found: describe(value),
        hint: hint.to_owned(),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{}\"", clipped(text)),
        Value::Integer(integer) => format!("the integer {integer}"),
        Value::Float(number) => format!("the number {number:?}"),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Datetime(datetime) => format!("the date {datetime}"),
        Value::Array(items) if items.iter().any(Value::is_table) => "a list of tables".to_owned(),
        Value::Array(_) => format!("the list {}", clipped(&value.to_string())),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    let text = text.replace(char::is_control, " ");
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}
