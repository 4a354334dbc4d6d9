//! `config.json`, kept whole: unknown keys survive a round trip, in their order. Typed getters name file and key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Result;
use crate::atomic::write_atomic;
use crate::error::CheckpointError;

/// A model's configuration as its ecosystem writes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    path: PathBuf,
    object: Map<String, Value>,
}

impl ModelConfig {
    /// Reads a `config.json`, or the one in a folder.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Json`], or [`CheckpointError::Format`] for JSON that is no object.
    pub fn open(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        let text = std::fs::read_to_string(&path).map_err(CheckpointError::io("read", &path))?;
        Self::parse(&path, &text)
    }

    /// Parses a configuration's text. Messages name it by `path`.
    ///
    /// # Errors
    /// As [`ModelConfig::open`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let path = path.to_path_buf();
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Self { path, object }),
            Ok(_) => Err(CheckpointError::format(&path, "is not a JSON object")),
            Err(source) => Err(CheckpointError::Json { path, source }),
        }
    }

    /// A configuration made in memory. Messages name it by `path`.
    pub fn from_object(path: &Path, object: Map<String, Value>) -> Self {
        Self { path: path.to_path_buf(), object }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole object.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// A key's value; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Sets a key, in its old place or at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.object.insert(key.to_owned(), value.into());
    }

    /// Removes a key, keeping the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.object.shift_remove(key)
    }

    /// A text.
    ///
    /// # Errors
    /// [`CheckpointError::Config`] when it is missing or something else; likewise all getters below.
    pub fn string(&self, key: &str) -> Result<&str> {
        self.required(key, self.optional_string(key)?)
    }

    /// A non-negative integer.
    ///
    /// # Errors
    /// As [`ModelConfig::string`].
    pub fn integer(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional_integer(key)?)
    }

    /// A number.
    ///
    /// # Errors
    /// As [`ModelConfig::string`].
    pub fn number(&self, key: &str) -> Result<f64> {
        self.required(key, self.optional_number(key)?)
    }

    /// A truth value.
    ///
    /// # Errors
    /// As [`ModelConfig::string`].
    pub fn boolean(&self, key: &str) -> Result<bool> {
        self.required(key, self.optional_boolean(key)?)
    }

    /// A text that may be absent.
    ///
    /// # Errors
    /// [`CheckpointError::Config`] when it is something else; likewise the getters below.
    pub fn optional_string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A non-negative integer that may be absent.
    ///
    /// # Errors
    /// As [`ModelConfig::optional_string`].
    pub fn optional_integer(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a non-negative integer", |value| usize::try_from(value.as_u64()?).ok())
    }

    /// A number that may be absent.
    ///
    /// # Errors
    /// As [`ModelConfig::optional_string`].
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A truth value that may be absent.
    ///
    /// # Errors
    /// As [`ModelConfig::optional_string`].
    pub fn optional_boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A list of texts that may be absent (`architectures`).
    ///
    /// # Errors
    /// As [`ModelConfig::optional_string`].
    pub fn optional_strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.typed(key, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// The configuration as transformers writes it: two spaces of indent, a newline at the end.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.object.clone()))
    }

    /// Writes the configuration, atomically.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = self.to_json();
        write_atomic(path, |writer| writer.write_all(text.as_bytes()))
    }

    /// An error about one key, for checks beyond a value's kind.
    pub fn invalid(&self, key: &str, what: impl Into<String>) -> CheckpointError {
        CheckpointError::Config { path: self.path.clone(), key: key.to_owned(), what: what.into() }
    }

    fn typed<'v, T>(
        &'v self,
        key: &str,
        kind: &str,
        get: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let typed = get(value);
        if typed.is_none() {
            let found = crate::error::shorten(&value.to_string());
            return Err(self.invalid(key, format!("must be {kind}, found {found}")));
        }
        Ok(typed)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.invalid(key, "is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\n  \"model_type\": \"bert\",\n  \"zeta\": [\n    1,\n    {}\n  ],\n  \"layer_norm_eps\": 1e-12,\n  \
                        \"alpha\": null,\n  \"hidden_size\": 384\n}\n";

    #[test]
    fn unknown_keys_survive_a_round_trip_in_order() {
        let mut config = ModelConfig::parse(Path::new("config.json"), TEXT).unwrap();
        assert_eq!(config.to_json(), TEXT);
        config.set("hidden_size", 768);
        config.remove("zeta");
        let keys: Vec<&String> = config.object().keys().collect();
        assert_eq!(keys, ["model_type", "layer_norm_eps", "alpha", "hidden_size"]);
        let folder = tempfile::tempdir().unwrap();
        config.save(&folder.path().join("config.json")).unwrap();
        assert_eq!(ModelConfig::open(folder.path()).unwrap().object(), config.object());
    }

    #[test]
    fn getters_name_file_and_key() {
        let config = ModelConfig::parse(Path::new("m/config.json"), TEXT).unwrap();
        assert_eq!(config.string("model_type").unwrap(), "bert");
        assert_eq!(config.integer("hidden_size").unwrap(), 384);
        assert_eq!(config.number("layer_norm_eps").unwrap(), 1e-12);
        assert_eq!(config.optional_integer("alpha").unwrap(), None);
        let message = config.integer("vocab_size").unwrap_err().to_string();
        assert_eq!(message, "m/config.json: `vocab_size` is missing");
        let message = config.integer("model_type").unwrap_err().to_string();
        assert_eq!(message, "m/config.json: `model_type` must be a non-negative integer, found \"bert\"");
        let message = ModelConfig::parse(Path::new("c.json"), "{\n\"a\": }").unwrap_err().to_string();
        assert!(message.starts_with("c.json:2:6: not valid JSON"), "{message}");
        assert!(
            ModelConfig::parse(Path::new("c.json"), "[]")
                .unwrap_err()
                .to_string()
                .contains("not a JSON object")
        );
    }
}
