//! From the values of a pickle to named tensors: which dictionary holds the weights, which prefix their names
//! share, and whether each tensor's view lies inside its storage.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::container::Container;
use super::value::{Object, TensorRecord, Value};
use super::{Found, FoundTensor};
use crate::Result;
use crate::error::{CheckpointError, shorten};

/// How to find the weights inside a pickled checkpoint, which often keeps them in a dictionary beside the epoch,
/// the optimizer's state and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WrapperRule {
    /// Go through the well-known dictionaries (`state_dict`, `model_state_dict`, `model`, …) where the outermost one
    /// holds no tensors itself, and take off the prefixes `module.` (data parallel) and `_orig_mod.` (compiled)
    /// where every name has them.
    #[default]
    Automatic,
    /// Take the outermost dictionary and its names as they stand.
    Literal,
    /// Go through exactly these keys, outermost first, and take names as they stand.
    Keys(Vec<String>),
}

/// Keys under which training scripts keep their weights, most specific first.
const WRAPPERS: [&str; 8] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params"];

/// Prefixes that wrappers around a module put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Dictionaries inside dictionaries that are followed.
const MAX_DEPTH: usize = 8;

/// Tensors and bytes of names in one file; beyond, the file builds names out of itself.
const MAX_TENSORS: usize = 1 << 20;
const MAX_NAME_BYTES: usize = 1 << 25;

/// Scalars kept, and the longest text among them: they are for people to read.
const MAX_SCALARS: usize = 256;
const MAX_SCALAR_TEXT: usize = 1024;

/// Elements of an expanded tensor (stride 0) beyond what its storage holds.
const MAX_EXPANDED: usize = 1 << 22;

/// Collects the tensors of an opened file.
pub(super) fn collect(path: &Path, container: &Container<'_>, rule: &WrapperRule) -> Result<Found> {
    let mut walk = Walk { path, container, tensors: Vec::new(), positions: HashMap::new(), name_bytes: 0 };
    let mut scalars = BTreeMap::new();
    let mut unwrapped = Vec::new();
    let mut root = container.pickled.root;
    walk.note_scalars(root, &mut scalars);
    match rule {
        WrapperRule::Literal => {}
        WrapperRule::Keys(keys) => {
            for key in keys {
                root = walk.entry(root, key).ok_or_else(|| {
                    let there = walk.keys(root).join(", ");
                    CheckpointError::format(
                        path,
                        format!("has no dictionary under `{key}`; the keys there are: {there}"),
                    )
                })?;
                walk.note_scalars(root, &mut scalars);
                unwrapped.push(key.clone());
            }
        }
        WrapperRule::Automatic => {
            for _ in 0..MAX_DEPTH {
                let Some((key, inner)) = walk.wrapper(root) else { break };
                root = inner;
                walk.note_scalars(root, &mut scalars);
                unwrapped.push(key.to_owned());
            }
        }
    }
    walk.follow(root, String::new(), 0)?;
    let mut tensors = walk.tensors;
    if tensors.is_empty() {
        let keys = Walk { tensors: Vec::new(), ..walk }.keys(root).join(", ");
        return Err(CheckpointError::format(path, format!("holds no named tensors; its keys are: {keys}")));
    }
    if *rule == WrapperRule::Automatic {
        while let Some(prefix) = PREFIXES.into_iter().find(|prefix| shared(&tensors, prefix)) {
            for tensor in &mut tensors {
                tensor.name.drain(..prefix.len());
            }
            unwrapped.push(prefix.to_owned());
        }
    }
    Ok(Found { tensors, scalars, unwrapped })
}

/// Whether every name starts with `prefix` and goes on after it.
fn shared(tensors: &[FoundTensor], prefix: &str) -> bool {
    tensors.iter().all(|tensor| tensor.name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()))
}

struct Walk<'c, 'a> {
    path: &'c Path,
    container: &'c Container<'a>,
    tensors: Vec<FoundTensor>,
    /// Place of each name in `tensors`: a key given twice counts as its last value, as in Python.
    positions: HashMap<String, usize>,
    name_bytes: usize,
}

impl<'c, 'a> Walk<'c, 'a> {
    fn follow(&mut self, value: Value<'a>, name: String, depth: usize) -> Result<()> {
        match self.object(value) {
            Some(Object::Dictionary(pairs)) if depth < MAX_DEPTH => {
                for &(key, value) in pairs {
                    let Value::Text(key) = key else { continue };
                    // Only what can hold tensors is worth a name.
                    if self.object(value).is_none() {
                        continue;
                    }
                    let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
                    self.name_bytes += name.len() + 1;
                    if self.name_bytes > MAX_NAME_BYTES {
                        return Err(CheckpointError::format(self.path, "builds endless names out of itself"));
                    }
                    self.follow(value, name, depth + 1)?;
                }
                Ok(())
            }
            Some(Object::Tensor(record)) if !name.is_empty() => {
                let tensor = self.place(name, record)?;
                self.insert(tensor)
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, tensor: FoundTensor) -> Result<()> {
        match self.positions.get(&tensor.name) {
            Some(&position) => self.tensors[position] = tensor,
            None if self.tensors.len() == MAX_TENSORS => {
                return Err(CheckpointError::format(
                    self.path,
                    format!("has more than {MAX_TENSORS} tensors"),
                ));
            }
            None => {
                self.positions.insert(tensor.name.clone(), self.tensors.len());
                self.tensors.push(tensor);
            }
        }
        Ok(())
    }

    /// Checks a tensor's view against its storage and turns it into bytes of the file.
    fn place(&self, name: String, record: &TensorRecord<'_>) -> Result<FoundTensor> {
        let fail = |what: String| CheckpointError::tensor(self.path, &name, what);
        let storage = &self.container.storages[record.storage.key];
        let beyond = || {
            fail(format!(
                "is a view of shape {:?} and strides {:?} at element {}, beyond its storage of {} bytes; the file is \
                 damaged",
                record.shape,
                record.strides,
                record.offset,
                storage.len()
            ))
        };
        let declared = usize::try_from(record.storage.elements)
            .ok()
            .and_then(|elements| elements.checked_mul(record.storage.element_size()))
            .filter(|&size| size <= storage.len());
        if declared.is_none() {
            return Err(fail(format!(
                "refers to a storage of {} elements, but the file holds {} bytes of it; the file is truncated",
                record.storage.elements,
                storage.len()
            )));
        }
        let dimensions = |values: &[u64]| -> Option<Vec<usize>> {
            values.iter().map(|&value| usize::try_from(value).ok()).collect()
        };
        let (Some(shape), Some(strides)) = (dimensions(&record.shape), dimensions(&record.strides)) else {
            return Err(beyond());
        };
        let start = usize::try_from(record.offset)
            .ok()
            .and_then(|offset| offset.checked_mul(record.dtype.size()))
            .zip(usize::try_from(record.storage.view_offset).ok())
            .and_then(|(offset, view)| offset.checked_add(view.checked_mul(record.storage.element_size())?))
            .ok_or_else(beyond)?;
        let extent = extent(&shape, &strides).ok_or_else(beyond)?;
        let range = extent
            .checked_mul(record.dtype.size())
            .and_then(|size| Some(start..start.checked_add(size)?))
            .filter(|range| range.end <= storage.len() || extent == 0)
            .ok_or_else(beyond)?;

        let elements = shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
        match elements {
            _ if extent == 0 => {}
            Some(elements) if elements <= extent.max(MAX_EXPANDED) => {}
            _ => return Err(fail(format!("is expanded to shape {shape:?} from {extent} stored elements"))),
        }
        let strides = (!is_row_major(&shape, &strides)).then_some(strides);
        let bytes = if extent == 0 { storage.start..storage.start } else { shift(range, storage.start) };
        Ok(FoundTensor { name, dtype: record.dtype, shape, bytes, strides })
    }

    /// The first well-known wrapping dictionary in `value` that leads to tensors, where `value` has none itself.
    fn wrapper(&self, value: Value<'a>) -> Option<(&'static str, Value<'a>)> {
        let Some(Object::Dictionary(pairs)) = self.object(value) else { return None };
        if pairs.iter().any(|&(_, value)| matches!(self.object(value), Some(Object::Tensor(_)))) {
            return None;
        }
        WRAPPERS.into_iter().find_map(|key| Some((key, self.entry(value, key)?)))
    }

    /// The dictionary under `key` of the dictionary `value`.
    fn entry(&self, value: Value<'a>, key: &str) -> Option<Value<'a>> {
        let Some(Object::Dictionary(pairs)) = self.object(value) else { return None };
        let (_, inner) =
            pairs.iter().rev().find(|pair| matches!(pair.0, Value::Text(text) if text == key))?;
        matches!(self.object(*inner), Some(Object::Dictionary(_))).then_some(*inner)
    }

    fn note_scalars(&self, value: Value<'a>, scalars: &mut BTreeMap<String, String>) {
        let Some(Object::Dictionary(pairs)) = self.object(value) else { return };
        for &(key, value) in pairs {
            let Value::Text(key) = key else { continue };
            let text = match value {
                Value::Bool(value) => value.to_string(),
                Value::Integer(value) => value.to_string(),
                Value::Float(value) => value.to_string(),
                Value::Text(text) if text.len() <= MAX_SCALAR_TEXT => text.to_owned(),
                _ => continue,
            };
            if scalars.len() < MAX_SCALARS && key.len() <= MAX_SCALAR_TEXT {
                scalars.insert(key.to_owned(), text);
            }
        }
    }

    /// The first few keys of a dictionary, for messages.
    fn keys(&self, value: Value<'a>) -> Vec<String> {
        let Some(Object::Dictionary(pairs)) = self.object(value) else {
            return vec!["(not a dictionary)".into()];
        };
        let keys = pairs.iter().filter_map(|pair| match pair.0 {
            Value::Text(key) => Some(shorten(key)),
            _ => None,
        });
        keys.take(10).collect()
    }

    fn object(&self, value: Value<'a>) -> Option<&'c Object<'a>> {
        match value {
            Value::Object(index) => self.container.pickled.objects.get(index),
            _ => None,
        }
    }
}

/// Elements from the first to behind the last that the view touches; 0 for an empty one, `None` on overflow.
fn extent(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().zip(strides).try_fold(1usize, |extent, (dimension, stride)| {
        extent.checked_add((dimension - 1).checked_mul(*stride)?)
    })
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&dimension, &stride)| {
            let fits = dimension == 1 || stride == expected;
            expected = expected.saturating_mul(dimension);
            fits
        })
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
