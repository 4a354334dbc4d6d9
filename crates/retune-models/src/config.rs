//! TEMPORARY local copy until retune-checkpoint has it.
#![allow(missing_docs)]
use crate::ModelError;
use serde_json::{Map, Value};
#[derive(Clone, Debug)]
pub struct ModelConfig(pub Map<String, Value>);
impl ModelConfig {
    fn bad(key: &str, v: &Value) -> ModelError {
        ModelError::Config { key: "config", value: v.to_string(), problem: key.to_owned() }
    }
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| Self::bad(key, v)),
        }
    }
    pub fn str(&self, key: &str) -> Result<&str, ModelError> {
        self.opt_str(key)?.ok_or_else(|| Self::bad(key, &Value::Null))
    }
    pub fn opt_usize(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => v.as_u64().map(|x| Some(x as usize)).ok_or_else(|| Self::bad(key, v)),
        }
    }
    pub fn usize(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_usize(key)?.ok_or_else(|| Self::bad(key, &Value::Null))
    }
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => v.as_f64().map(|x| Some(x as f32)).ok_or_else(|| Self::bad(key, v)),
        }
    }
}
