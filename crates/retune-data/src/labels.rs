//! Labels: names are their identity, numbers only their place in the output layer.

use crate::error::{DataError, nearest};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The classes of a task in output order.
///
/// Two labels are the same when their names are, byte for byte after trimming white space: `Refund` and
/// `refund` stay two (and [`check_table`](crate::check_table) points at them).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSet {
    names: Vec<String>,
    indices: HashMap<String, u32>,
}

impl LabelSet {
    /// Collects label names in a stable order: numerically when all are whole numbers, else by code point.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let unique: BTreeSet<String> =
            names.into_iter().map(|name| name.as_ref().trim().to_owned()).collect();
        let mut names: Vec<String> = unique.into_iter().collect();
        let numbers: Option<Vec<i64>> = names.iter().map(|name| name.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let mut keyed: Vec<(i64, String)> = numbers.into_iter().zip(names).collect();
            keyed.sort();
            names = keyed.into_iter().map(|(_, name)| name).collect();
        }
        Self::in_order(names)
    }

    /// Takes names in the order given, which must hold no duplicates (a later one would be unreachable).
    pub(crate) fn in_order(names: Vec<String>) -> Self {
        let indices = names.iter().enumerate().map(|(index, name)| (name.clone(), index as u32)).collect();
        LabelSet { names, indices }
    }

    /// Reads a configuration's `id2label`, whose keys must be `"0"` to `"n-1"`.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a key is missing or no number, or a name stands twice.
    pub fn from_id2label(id2label: &Map<String, Json>) -> Result<Self, DataError> {
        let mut names = Vec::with_capacity(id2label.len());
        for index in 0..id2label.len() {
            let name = id2label.get(&index.to_string()).and_then(Json::as_str).ok_or_else(|| {
                DataError::Setting(format!(
                    "id2label has {} entries but no name under key \"{index}\"; its keys must count from \"0\"",
                    id2label.len()
                ))
            })?;
            names.push(name.to_owned());
        }
        Self::of_outputs(names)
    }

    /// The names of outputs, in their order.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a name stands twice.
    pub fn of_outputs(names: impl IntoIterator<Item = String>) -> Result<Self, DataError> {
        let set = Self::in_order(names.into_iter().collect());
        match set.names.iter().enumerate().find(|(index, name)| set.indices[*name] as usize != *index) {
            Some((index, name)) => {
                let other = set.indices[name];
                Err(DataError::Setting(format!("id2label names both {index} and {other} `{name}`")))
            }
            None => Ok(set),
        }
    }

    /// The configuration's `id2label`.
    pub fn to_id2label(&self) -> Map<String, Json> {
        self.names.iter().enumerate().map(|(index, name)| (index.to_string(), name.as_str().into())).collect()
    }

    /// The configuration's `label2id`.
    pub fn to_label2id(&self) -> Map<String, Json> {
        self.names.iter().enumerate().map(|(index, name)| (name.clone(), index.into())).collect()
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True without classes, as for regression.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names in output order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of a class.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.names.get(index as usize).map(String::as_str)
    }

    /// The class of a name, trimmed.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.indices.get(name.trim()).copied()
    }

    /// True when the names are `LABEL_0`, `LABEL_1`, …: what a configuration holds that was never given any.
    pub fn is_placeholder(&self) -> bool {
        self.names.iter().enumerate().all(|(index, name)| *name == format!("LABEL_{index}"))
    }

    /// What to say about a label that this set lacks.
    pub(crate) fn unknown(&self, path: &Path, name: &str) -> String {
        let hint = nearest(name, self.names.iter().map(String::as_str))
            .map(|near| format!(" (did you mean `{near}`?)"))
            .unwrap_or_default();
        let shown: Vec<&str> = self.names.iter().take(12).map(String::as_str).collect();
        let more = if self.names.len() > shown.len() { ", …" } else { "" };
        let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        format!(
            "{file} has the label `{name}`, unknown to the model{hint}; its labels are: {}{more}",
            shown.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_ordered_as_numbers_and_words_as_words() {
        assert_eq!(LabelSet::from_names(["10", "9", " 2 ", "9"]).names(), ["2", "9", "10"]);
        assert_eq!(LabelSet::from_names(["b", "10", "9"]).names(), ["10", "9", "b"]);
    }

    #[test]
    fn id2label_round_trips_beyond_ten_classes() {
        let names: Vec<String> = (0..12).map(|index| format!("class {index}")).rev().collect();
        let set = LabelSet::in_order(names);
        assert_eq!(LabelSet::from_id2label(&set.to_id2label()).unwrap(), set);
        assert_eq!(set.to_label2id()["class 11"], 0);
    }

    #[test]
    fn a_gap_or_a_repeated_name_in_id2label_is_refused() {
        let parse = |json: &str| LabelSet::from_id2label(&serde_json::from_str(json).unwrap());
        assert!(parse(r#"{"0":"a","2":"b"}"#).unwrap_err().to_string().contains("no name under key \"1\""));
        assert!(parse(r#"{"0":"a","1":"a"}"#).unwrap_err().to_string().contains("names both 0 and 1 `a`"));
    }

    #[test]
    fn placeholders_are_recognized() {
        assert!(LabelSet::from_names(["LABEL_0", "LABEL_1"]).is_placeholder());
        assert!(!LabelSet::from_names(["LABEL_0", "spam"]).is_placeholder());
    }
}
