//! A table in memory: what every reader produces and every check, split and dataset starts from.
//!
//! Cells keep the type their file gave them ([`Value`]); nothing is guessed here. Every row knows the line it
//! came from, so that whatever is said about it later can point there.

use crate::error::{DataError, nearest};
use crate::finding::Finding;
use crate::image::Picture;
use serde::Serialize;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// One cell.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Missing: an empty unquoted CSV field, JSON's `null` or an absent key, a Parquet null.
    #[default]
    Null,
    /// A text, exactly as in the file.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// A list, as JSON Lines and Parquet can hold.
    List(Vec<Value>),
    /// A picture that the file itself holds, as Parquet, CIFAR and IDX files do.
    #[serde(serialize_with = "picture_in_words")]
    Picture(Arc<Picture>),
}

fn picture_in_words<S: serde::Serializer>(picture: &Arc<Picture>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(picture)
}

impl Value {
    /// The cell as text: numbers in their shortest form, `true`/`false`, a list as JSON; `None` when missing.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Null => None,
            Value::Text(text) => Some(Cow::Borrowed(text)),
            Value::Integer(number) => Some(Cow::Owned(number.to_string())),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Value::List(_) => Some(Cow::Owned(self.to_json().to_string())),
            Value::Picture(picture) => Some(Cow::Owned(picture.to_string())),
        }
    }

    /// The cell as a number, parsed from text if it must be; `None` when it is not one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Number(number) => Some(*number),
            Value::Text(text) => {
                let text = text.trim();
                // `f64::from_str` also takes "inf", "infinity" and "nan", which in a data file are words.
                let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
                    && text.ends_with(|c: char| c.is_ascii_digit() || c == '.');
                if numeric { text.parse().ok() } else { None }
            }
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Picture(_) => None,
        }
    }

    /// True for a missing cell and for a text of nothing but white space.
    pub fn is_blank(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }

    /// The cell as JSON; NaN and infinities, which JSON has not, as their names.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Text(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Number(number) => match serde_json::Number::from_f64(*number) {
                Some(number) => serde_json::Value::Number(number),
                None => number.to_string().into(),
            },
            Value::Bool(value) => (*value).into(),
            Value::List(values) => values.iter().map(Value::to_json).collect(),
            Value::Picture(picture) => picture.to_string().into(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

/// One row, with as many values as its table has columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line in the file where the row starts, counted from 1. For Parquet the row, counted from 1.
    pub line: u64,
    /// One value per column.
    pub values: Vec<Value>,
}

/// A data file, read.
#[derive(Debug, Clone)]
pub struct Table {
    /// The file it came from.
    pub path: PathBuf,
    /// Column names, in file order, without duplicates.
    pub columns: Vec<String>,
    /// The rows, in file order.
    pub rows: Vec<Row>,
    /// What the reader noticed: the dialect it inferred, rows it skipped.
    pub findings: Vec<Finding>,
}

impl Table {
    /// The index of a column.
    ///
    /// # Errors
    /// [`DataError::UnknownColumn`], with the nearest name that exists.
    pub fn column_index(&self, name: &str) -> Result<usize, DataError> {
        if let Some(index) = self.columns.iter().position(|column| column == name) {
            return Ok(index);
        }
        Err(DataError::UnknownColumn {
            path: self.path.clone(),
            column: name.to_owned(),
            suggestion: nearest(name, self.columns.iter().map(String::as_str)).map(str::to_owned),
            available: self.columns.clone(),
        })
    }

    /// A new table with some of the rows, in the order given; indices beyond the end are ignored.
    pub fn select(&self, rows: &[usize]) -> Table {
        Table {
            path: self.path.clone(),
            columns: self.columns.clone(),
            rows: rows.iter().filter_map(|&row| self.rows.get(row).cloned()).collect(),
            findings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn words_that_rust_parses_as_numbers_stay_words() {
        assert_eq!(Value::from("nan").as_number(), None);
        assert_eq!(Value::from("infinity").as_number(), None);
        assert_eq!(Value::from("-2.5e3").as_number(), Some(-2500.0));
        assert_eq!(Value::from(" 7 ").as_number(), Some(7.0));
    }

    #[test]
    fn an_unknown_column_names_the_nearest() {
        let table = Table {
            path: Path::new("t.csv").into(),
            columns: vec!["message".into(), "intent".into()],
            rows: vec![],
            findings: vec![],
        };
        let error = table.column_index("mesage").unwrap_err().to_string();
        assert_eq!(
            error,
            "t.csv: no column `mesage` (did you mean `message`?); its columns are: message, intent"
        );
    }
}
