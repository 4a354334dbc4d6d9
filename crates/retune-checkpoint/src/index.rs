//! The index of a sharded checkpoint (`*.index.json`): which file of the same folder holds each tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{CheckpointError, shorten};

/// The index as transformers writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    /// File name of each tensor, by tensor name.
    pub(crate) weight_map: BTreeMap<String, String>,
}

/// Reads an index; every file named in it is a plain name in the index's own folder.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read(path).map_err(CheckpointError::io("read", path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|source| CheckpointError::Json { path: path.to_path_buf(), source })?;
    for (tensor, file) in &index.weight_map {
        if !is_plain_name(file) {
            let what = format!(
                "is said to be in `{}`, which is not a file name of the index's folder",
                shorten(file)
            );
            return Err(CheckpointError::tensor(path, tensor, what));
        }
    }
    if index.weight_map.is_empty() {
        return Err(CheckpointError::format(path, "names no tensors in its `weight_map`"));
    }
    Ok(index.weight_map)
}

/// Whether `name` is one ordinary path component.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}
