//! JSON Lines, and a JSON array of objects, to rows.
//!
//! Columns are the union of the objects' keys in order of first appearance; an absent key is a missing value.

use crate::error::DataError;
use crate::finding::{Finding, excerpt};
use crate::read::{BadRows, ReadOptions, RowSink};
use crate::table::{Row, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// Reads one object per line; blank lines are skipped.
pub(crate) fn read_lines(
    path: &Path,
    text: &str,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    let objects = text
        .split('\n')
        .enumerate()
        .map(|(index, line)| (index as u64 + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty());
    collect(path, objects, options, rows)
}

/// Reads one array of objects, each with the line it starts on.
pub(crate) fn read_array(
    path: &Path,
    text: &str,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    let objects: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
        let message = format!("not a JSON array: {}", reason(&error));
        DataError::refused(Finding::error("json", path, message).at_line(error.line() as u64))
    })?;
    let mut line = 1;
    let mut counted_to = 0;
    let objects = objects.into_iter().map(|object| {
        // A raw value borrows from the text, so its address tells where it stands.
        let offset = (object.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
        line += text.as_bytes()[counted_to..offset].iter().filter(|byte| **byte == b'\n').count() as u64;
        counted_to = offset;
        (line, object.get())
    });
    collect(path, objects, options, rows)
}

fn collect<'a>(
    path: &Path,
    objects: impl Iterator<Item = (u64, &'a str)>,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    let mut column_of: HashMap<String, usize> = HashMap::new();
    let mut findings = Vec::new();
    let mut nested_at: Option<(u64, String)> = None;
    let mut bad_rows = BadRows::new(path, options);
    for (line, json) in objects {
        let entries = match object(path, line, json) {
            Ok(entries) => entries,
            Err(finding) => {
                bad_rows.push(*finding)?;
                continue;
            }
        };
        let mut values = vec![Value::Null; rows.columns.len()];
        for (key, json) in entries {
            if json.is_object() && nested_at.is_none() {
                nested_at = Some((line, key.clone()));
            }
            let column = *column_of.entry(key).or_insert_with_key(|key| {
                rows.columns.push(key.clone());
                values.push(Value::Null);
                rows.columns.len() - 1
            });
            values[column] = value(json);
        }
        rows.push(Row { line, values })?;
    }
    bad_rows.finish(&mut findings)?;
    if rows.is_empty() {
        return Err(DataError::refused(Finding::error("no-rows", path, "the file has no rows")));
    }
    if let Some((line, key)) = nested_at {
        findings.push(
            Finding::info("nested-value", path, "an object inside the row is kept as JSON text")
                .at_line(line)
                .in_column(key),
        );
    }
    rows.findings.extend(findings);
    Ok(())
}

fn object(path: &Path, line: u64, json: &str) -> Result<Vec<(String, serde_json::Value)>, Box<Finding>> {
    let Entries(entries) = serde_json::from_str(json).map_err(|error| {
        let message = if json.starts_with('{') {
            format!("not valid JSON at column {}: {}", error.column(), reason(&error))
        } else {
            format!("expected a JSON object, found “{}”", excerpt(json, 30))
        };
        Box::new(Finding::error("json", path, message).at_line(line))
    })?;
    for (index, (key, json)) in entries.iter().enumerate() {
        if entries[..index].iter().any(|(earlier, _)| earlier == key) {
            let message = format!("the key `{key}` stands twice in one object");
            return Err(Box::new(Finding::error("duplicate-column", path, message).at_line(line)));
        }
        if json.as_str().is_some_and(|text| text.contains('\0')) {
            let finding = Finding::error("nul-byte", path, "a NUL character in the text");
            return Err(Box::new(finding.at_line(line).in_column(key.clone())));
        }
    }
    Ok(entries)
}

/// serde_json's message without its own "at line 1 column 7", which is relative to the row.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(reason, _)| reason.to_owned())
}

fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            // Beyond 64 signed bits it is an identifier, and must not lose its last digits.
            (None, _) if number.is_u64() => Value::Text(number.to_string()),
            (None, Some(float)) => Value::Number(float),
            (None, None) => Value::Text(number.to_string()),
        },
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(values) => Value::List(values.into_iter().map(value).collect()),
        object @ serde_json::Value::Object(_) => Value::Text(object.to_string()),
    }
}

/// An object's entries in order, duplicates kept.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn lines(text: &str) -> Result<Table, String> {
        let read =
            |rows: &mut RowSink<'_>| read_lines(Path::new("f.jsonl"), text, &ReadOptions::default(), rows);
        RowSink::table(Path::new("f.jsonl"), read).map_err(|error| error.to_string())
    }

    #[test]
    fn absent_keys_are_missing_values_and_types_are_kept() {
        let table =
            lines("{\"text\":\"a\",\"label\":1}\n\n{\"label\":2.5,\"text\":\"b\",\"tags\":[\"x\",\"y\"]}\n")
                .unwrap();
        assert_eq!(table.columns, ["text", "label", "tags"]);
        assert_eq!(table.rows[0].values, ["a".into(), Value::Integer(1), Value::Null]);
        assert_eq!(table.rows[1].line, 3);
        assert_eq!(table.rows[1].values[2], Value::List(vec!["x".into(), "y".into()]));
    }

    #[test]
    fn broken_json_is_placed() {
        assert_eq!(
            lines("{\"a\":1}\n{\"a\":}\n").unwrap_err(),
            "f.jsonl:2: error[json]: not valid JSON at column 6: expected value"
        );
        assert!(lines("{\"a\":1,\"a\":2}").unwrap_err().contains("`a` stands twice"));
        assert!(lines("[1]").unwrap_err().contains("expected a JSON object, found “[1]”"));
    }

    #[test]
    fn rows_of_an_array_know_their_lines() {
        let text = "[\n {\"a\": 1},\n\n {\"a\":\n 2}, {\"a\": 3}\n]\n";
        let read =
            |rows: &mut RowSink<'_>| read_array(Path::new("f.json"), text, &ReadOptions::default(), rows);
        let table = RowSink::table(Path::new("f.json"), read).unwrap();
        assert_eq!(table.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4, 5]);
    }
}
