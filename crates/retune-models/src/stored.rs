//! From a model's parameters to the tensors of a weight file.

use std::borrow::Cow;
use std::collections::HashSet;

use retune_checkpoint::{Dtype, NamedTensor, TensorData, Tensors};
use retune_nn::{ParameterStore, Role};

/// A store's values under the names of a file, counters as the int64 scalars that PyTorch has.
pub struct StoredTensors<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    name: String,
    shape: Cow<'a, [usize]>,
    data: Data<'a>,
}

enum Data<'a> {
    Values(Cow<'a, [f32]>),
    Integers(Vec<u8>),
}

/// Little-endian int64.
fn integers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| (value.round() as i64).to_le_bytes()).collect()
}

impl<'a> StoredTensors<'a> {
    /// The values that `rename` gives a name.
    pub fn new(store: &'a ParameterStore, rename: impl Fn(&str) -> Option<String>) -> Self {
        let entries = store
            .ids()
            .filter_map(|id| {
                let declaration = store.declaration(id);
                let values = store.tensor(id).values();
                let data = match declaration.role {
                    Role::Counter => Data::Integers(integers(values)),
                    Role::Parameter | Role::Buffer => Data::Values(Cow::Borrowed(values)),
                };
                let name = rename(&declaration.name)?;
                Some(Entry { name, shape: Cow::Borrowed(&declaration.shape), data })
            })
            .collect();
        Self { entries }
    }

    /// Tensors that a transform made of a store's; those named in `counters` are whole numbers.
    pub fn transformed(tensors: Tensors, counters: &HashSet<String>) -> Self {
        let entries = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let data = if counters.contains(&name) {
                    Data::Integers(integers(&tensor.values))
                } else {
                    Data::Values(Cow::Owned(tensor.values))
                };
                Entry { name, shape: Cow::Owned(tensor.shape), data }
            })
            .collect();
        Self { entries }
    }

    /// Whole numbers that no store holds, as a list.
    pub fn with_integers(mut self, constants: Vec<(String, Vec<u32>)>) -> Self {
        self.entries.extend(constants.into_iter().map(|(name, values)| {
            let bytes = values.iter().flat_map(|&value| i64::from(value).to_le_bytes()).collect();
            Entry { name, shape: Cow::Owned(vec![values.len()]), data: Data::Integers(bytes) }
        }));
        self
    }

    /// The tensors, to be written.
    pub fn tensors(&self) -> Vec<NamedTensor<'_>> {
        self.entries
            .iter()
            .map(|Entry { name, shape, data }| NamedTensor {
                name,
                shape,
                data: match data {
                    Data::Values(values) => TensorData::F32(values),
                    Data::Integers(bytes) => TensorData::Bytes(Dtype::I64, bytes),
                },
            })
            .collect()
    }
}
