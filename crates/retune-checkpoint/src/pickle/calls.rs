//! What a call on an allowed global builds, and what a persistent id names: tensors, storages, dictionaries.

use super::globals::Known;
use super::machine::{Machine, Outcome, Refusal, qualified};
use super::value::{Object, StorageRecord, TensorRecord, Value};

/// Dimensions of a tensor.
const MAX_RANK: usize = 32;

impl<'a> Machine<'a> {
    pub(super) fn global(&mut self, module: &'a str, name: &'a str) -> Outcome<()> {
        let known = Known::find(module, name).ok_or_else(|| Refusal::Global(qualified(module, name)))?;
        self.stack.push(Value::Global(known));
        Ok(())
    }

    /// What a call on an allowed global builds.
    pub(super) fn call(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Outcome<Value<'a>> {
        let Value::Global(known) = callee else {
            return Err(self.damaged("calls something that is not a global"));
        };
        self.spend(self.tuple(arguments)?.len())?;
        let arguments = self.tuple(arguments)?.to_vec();
        match (known, arguments.as_slice()) {
            (Known::OrderedDict, []) => Ok(self.add(Object::Dictionary(Vec::new()))),
            (Known::OrderedDict, &[items]) => {
                let pairs = self.listed_pairs(items)?;
                Ok(self.add(Object::Dictionary(pairs)))
            }
            (Known::Set, [] | [_]) => Ok(self.add(Object::Set)),
            (Known::RebuildTensor, &[storage, offset, shape, strides])
            | (
                Known::RebuildTensorV2,
                &[storage, offset, shape, strides, _, _] | &[storage, offset, shape, strides, _, _, _],
            ) => self.tensor(storage, offset, shape, strides, None),
            (
                Known::RebuildTensorV3,
                &[storage, offset, shape, strides, _, _, dtype]
                | &[storage, offset, shape, strides, _, _, dtype, _],
            ) => self.tensor(storage, offset, shape, strides, Some(dtype)),
            (Known::RebuildParameter, &[tensor, _, _] | &[tensor, _, _, _]) => match self.object(tensor) {
                Some(Object::Tensor(_)) => Ok(tensor),
                _ => Err(self.damaged("makes a parameter of something that is not a tensor")),
            },
            (Known::RebuildFromType, &[function, Value::Global(Known::TensorType), inner, _]) => {
                // The callee cannot be this global again, or the nesting could be unbounded.
                match function {
                    Value::Global(Known::RebuildFromType) => {
                        Err(self.damaged("nests a rebuilt type in itself"))
                    }
                    _ => self.call(function, inner),
                }
            }
            (Known::Size, &[sizes]) => Ok(sizes),
            (Known::Device, _) | (Known::Encode, [Value::Text(_), Value::Text(_)]) => {
                Ok(self.add(Object::Opaque))
            }
            _ => Err(self.damaged(format!("calls {known:?} with {} unexpected arguments", arguments.len()))),
        }
    }

    /// State set on an object after it was made. A state dict carries `_metadata` so; no value here uses it.
    pub(super) fn build(&mut self) -> Outcome<()> {
        self.pop()?;
        let top = self.stack.last().copied().and_then(|top| self.object(top));
        match top {
            Some(Object::Dictionary(_) | Object::Tensor(_)) => Ok(()),
            _ => Err(self.damaged("sets state on something that is neither a dictionary nor a tensor")),
        }
    }

    fn tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        dtype: Option<Value<'a>>,
    ) -> Outcome<Value<'a>> {
        let Some(Object::Storage(storage)) = self.object(storage) else {
            return Err(self.damaged("makes a tensor of something that is not a storage"));
        };
        let storage = *storage;
        let dtype = match (dtype, storage.dtype) {
            (Some(Value::Global(Known::Dtype(dtype))), _) | (None, Some(dtype)) => dtype,
            _ => return Err(self.damaged("makes a tensor without an element type")),
        };
        let offset = self.unsigned(offset)?;
        let shape = self.dimensions(shape)?;
        let strides = self.dimensions(strides)?;
        if shape.len() != strides.len() {
            return Err(self.damaged(format!("makes a tensor of shape {shape:?} with strides {strides:?}")));
        }
        Ok(self.add(Object::Tensor(Box::new(TensorRecord { storage, dtype, offset, shape, strides }))))
    }

    /// `('storage', type, key, location, elements[, view])`, where a view is `(key, offset, size)`.
    pub(super) fn storage(&mut self, id: Value<'a>) -> Outcome<StorageRecord<'a>> {
        let (class, key, elements, view) = match self.tuple(id)? {
            [
                Value::Text("storage"),
                Value::Global(Known::Storage(class)),
                Value::Text(key),
                _,
                elements,
                view @ ..,
            ] if view.len() < 2 => (*class, *key, *elements, view.first().copied().unwrap_or(Value::None)),
            [Value::Text("module"), ..] => {
                return Err(self.damaged(
                    "holds a whole module with its source code; load it in Python and save its state_dict instead",
                ));
            }
            _ => return Err(self.damaged("refers to something outside the pickle that is not a storage")),
        };
        let elements = self.unsigned(elements)?;
        let view_offset = match view {
            Value::None => 0,
            view => match *self.tuple(view)? {
                [_, offset, _] => self.unsigned(offset)?,
                _ => return Err(self.damaged("has a malformed storage view")),
            },
        };
        let storage = StorageRecord { dtype: class, key, elements, view_offset };
        if self.seen_storages.insert(key) {
            self.storages.push(storage);
        }
        Ok(storage)
    }

    fn dimensions(&self, value: Value<'a>) -> Outcome<Vec<u64>> {
        let items = self.tuple(value)?;
        if items.len() > MAX_RANK {
            return Err(self.damaged(format!("has a tensor of {} dimensions", items.len())));
        }
        items.iter().map(|&item| self.unsigned(item)).collect()
    }

    fn unsigned(&self, value: Value<'a>) -> Outcome<u64> {
        match value {
            Value::Integer(value) if value >= 0 => Ok(value as u64),
            _ => Err(self.damaged("has a size, stride or offset that is not a non-negative integer")),
        }
    }

    /// The pairs of `[(key, value), ...]` or `[[key, value], ...]`.
    fn listed_pairs(&mut self, list: Value<'a>) -> Outcome<Vec<(Value<'a>, Value<'a>)>> {
        let Some(Object::List(items) | Object::Tuple(items)) = self.object(list) else {
            return Err(self.damaged("makes a dictionary of something that is not a list"));
        };
        let mut pairs = Vec::new();
        for &item in items {
            match self.object(item) {
                Some(Object::Tuple(pair) | Object::List(pair)) if pair.len() == 2 => {
                    pairs.push((pair[0], pair[1]))
                }
                _ => return Err(self.damaged("makes a dictionary of items that are not pairs")),
            }
            if pairs.len() > self.copies_left {
                break;
            }
        }
        self.spend(pairs.len())?;
        Ok(pairs)
    }

    fn spend(&mut self, copies: usize) -> Outcome<()> {
        match self.copies_left.checked_sub(copies) {
            Some(left) => {
                self.copies_left = left;
                Ok(())
            }
            None => Err(self.damaged("copies the same values over and over")),
        }
    }
}
