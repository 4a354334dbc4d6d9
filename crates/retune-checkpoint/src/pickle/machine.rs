//! The pickle virtual machine, protocols 2 to 5, as data: opcodes build [`Value`]s and nothing is ever called.
//!
//! Format: `pickletools` in the Python standard library. Work and memory are bounded by the pickle's length and
//! by [`MAX_STEPS`], whatever lengths and indices the pickle declares.

use std::collections::{HashMap, HashSet};

use super::globals::Known;
use super::value::{Object, StorageRecord, TensorRecord, Value};
use crate::error::shorten;

/// Opcodes obeyed in one pickle. A checkpoint needs about 40 a tensor.
const MAX_STEPS: usize = 2_000_000;

/// Dimensions of a tensor.
const MAX_RANK: usize = 32;

/// Why a pickle was not accepted.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    /// A global outside the allow-list, as `module.name`.
    Global(String),
    /// Damaged or unsupported, at a byte of the pickle.
    Damaged { position: usize, what: String },
}

type Outcome<T> = Result<T, Refusal>;

/// A finished pickle: its value and everything the value refers to.
#[derive(Debug)]
pub(crate) struct Pickled<'a> {
    pub(crate) root: Value<'a>,
    pub(crate) objects: Vec<Object<'a>>,
    /// Storages named by the pickle, in the order of first mention.
    pub(crate) storages: Vec<StorageRecord<'a>>,
    /// Bytes the pickle occupies.
    pub(crate) length: usize,
}

/// Reads the one pickle at the start of `input`.
pub(crate) fn unpickle(input: &[u8]) -> Outcome<Pickled<'_>> {
    let mut machine = Machine {
        input,
        position: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        storages: Vec::new(),
        seen_storages: HashSet::new(),
        copies_left: input.len(),
    };
    for _ in 0..MAX_STEPS {
        let opcode = machine.byte()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            let Machine { objects, storages, position, .. } = machine;
            return Ok(Pickled { root, objects, storages, length: position });
        }
        machine.step(opcode)?;
    }
    Err(machine.damaged(format!("has more than {MAX_STEPS} instructions")))
}

struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    storages: Vec<StorageRecord<'a>>,
    seen_storages: HashSet<&'a str>,
    /// Values that calls may still copy; without it, repeated calls on one long list would multiply memory.
    copies_left: usize,
}

/// The opcodes obeyed.
mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BINSTRING: u8 = b'T';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const BINUNICODE: u8 = b'X';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const DICT: u8 = b'd';
    pub const APPENDS: u8 = b'e';
    pub const BINGET: u8 = b'h';
    pub const INST: u8 = b'i';
    pub const LONG_BINGET: u8 = b'j';
    pub const LIST: u8 = b'l';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const SETITEMS: u8 = b'u';
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const BINFLOAT: u8 = b'G';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const EMPTY_LIST: u8 = b']';
    pub const EMPTY_DICT: u8 = b'}';
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            op::PROTO => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(self.damaged(format!("has pickle protocol {version}; 2 to 5 are supported")));
                }
            }
            // A frame only announces how much to read ahead.
            op::FRAME => drop(self.take(8)?),
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => drop(self.pop()?),
            op::POP_MARK => drop(self.pop_marked()?),
            op::DUP => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }

            op::NONE => self.stack.push(Value::None),
            op::NEWTRUE => self.stack.push(Value::Bool(true)),
            op::NEWFALSE => self.stack.push(Value::Bool(false)),
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            op::BININT1 => {
                let value = self.byte()?;
                self.stack.push(Value::Integer(value.into()));
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            op::LONG1 => {
                let length = self.byte()?;
                self.long(length.into())?;
            }
            op::LONG4 => {
                let length = self.length4()?;
                self.long(length)?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(value));
            }

            op::SHORT_BINUNICODE => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            op::BINUNICODE => {
                let length = self.length4()?;
                self.text(length)?;
            }
            op::BINUNICODE8 => {
                let length = self.length8()?;
                self.text(length)?;
            }
            op::SHORT_BINBYTES | op::SHORT_BINSTRING => {
                let length = self.byte()?;
                self.bytes(length.into(), opcode == op::SHORT_BINSTRING)?;
            }
            op::BINBYTES | op::BINSTRING => {
                let length = self.length4()?;
                self.bytes(length, opcode == op::BINSTRING)?;
            }
            op::BINBYTES8 => {
                let length = self.length8()?;
                self.bytes(length, false)?;
            }

            op::EMPTY_TUPLE => self.make(Object::Tuple(Vec::new())),
            op::TUPLE1..=op::TUPLE3 => {
                let length = usize::from(opcode - op::TUPLE1) + 1;
                let start = self.floor(length)?;
                let items = self.stack.split_off(start);
                self.make(Object::Tuple(items));
            }
            op::TUPLE => {
                let items = self.pop_marked()?;
                self.make(Object::Tuple(items));
            }
            op::EMPTY_LIST => self.make(Object::List(Vec::new())),
            op::LIST => {
                let items = self.pop_marked()?;
                self.make(Object::List(items));
            }
            op::APPEND => {
                let item = self.pop()?;
                self.list_on_top()?.push(item);
            }
            op::APPENDS => {
                let items = self.pop_marked()?;
                self.list_on_top()?.extend(items);
            }
            op::EMPTY_DICT => self.make(Object::Dictionary(Vec::new())),
            op::DICT => {
                let items = self.pop_marked()?;
                let pairs = self.pairs(&items)?;
                self.make(Object::Dictionary(pairs));
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.dictionary_on_top()?.push((key, value));
            }
            op::SETITEMS => {
                let items = self.pop_marked()?;
                let pairs = self.pairs(&items)?;
                self.dictionary_on_top()?.extend(pairs);
            }
            // Sets carry nothing that a checkpoint needs; their members are dropped.
            op::EMPTY_SET => self.make(Object::Set),
            op::ADDITEMS => drop(self.pop_marked()?),
            op::FROZENSET => {
                self.pop_marked()?;
                self.make(Object::Set);
            }

            op::BINPUT => {
                let index = self.byte()?;
                self.remember(index.into())?;
            }
            op::LONG_BINPUT => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            op::MEMOIZE => {
                let index = u32::try_from(self.memo.len()).unwrap_or(u32::MAX);
                self.remember(index)?;
            }
            op::BINGET => {
                let index = self.byte()?;
                self.recall(index.into())?;
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }

            op::GLOBAL => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            op::STACK_GLOBAL => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.damaged("names a global by something that is not text"));
                };
                self.global(module, name)?;
            }
            // The old way to name a class and call it in one: nothing on the allow-list was ever written so.
            op::INST => {
                let module = self.line()?;
                let name = self.line()?;
                return Err(Refusal::Global(qualified(module, name)));
            }
            op::REDUCE | op::NEWOBJ => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                let result = self.call(callee, arguments)?;
                self.stack.push(result);
            }
            op::BUILD => self.build()?,
            op::BINPERSID => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.make(Object::Storage(storage));
            }
            _ => {
                self.position -= 1;
                return Err(self.damaged(format!("has the unsupported instruction 0x{opcode:02x}")));
            }
        }
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Outcome<()> {
        let known = Known::find(module, name).ok_or_else(|| Refusal::Global(qualified(module, name)))?;
        self.stack.push(Value::Global(known));
        Ok(())
    }

    /// What a call on an allowed global builds.
    fn call(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Outcome<Value<'a>> {
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
    fn build(&mut self) -> Outcome<()> {
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
    fn storage(&mut self, id: Value<'a>) -> Outcome<StorageRecord<'a>> {
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

    fn pairs(&self, items: &[Value<'a>]) -> Outcome<Vec<(Value<'a>, Value<'a>)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("has a dictionary key without a value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn tuple(&self, value: Value<'a>) -> Outcome<&[Value<'a>]> {
        match self.object(value) {
            Some(Object::Tuple(items) | Object::List(items)) => Ok(items),
            _ => Err(self.damaged("has something else where a tuple belongs")),
        }
    }

    fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    fn list_on_top(&mut self) -> Outcome<&mut Vec<Value<'a>>> {
        let error = self.damaged("appends to something that is not a list");
        match self.object_on_top() {
            Some(Object::List(items)) => Ok(items),
            _ => Err(error),
        }
    }

    fn dictionary_on_top(&mut self) -> Outcome<&mut Vec<(Value<'a>, Value<'a>)>> {
        let error = self.damaged("sets items of something that is not a dictionary");
        match self.object_on_top() {
            Some(Object::Dictionary(pairs)) => Ok(pairs),
            _ => Err(error),
        }
    }

    fn object_on_top(&mut self) -> Option<&mut Object<'a>> {
        match self.stack.last() {
            Some(&Value::Object(index)) => self.objects.get_mut(index),
            _ => None,
        }
    }

    fn add(&mut self, object: Object<'a>) -> Value<'a> {
        self.objects.push(object);
        Value::Object(self.objects.len() - 1)
    }

    fn make(&mut self, object: Object<'a>) {
        let value = self.add(object);
        self.stack.push(value);
    }

    /// The stack height below which no instruction may reach: the innermost mark.
    fn floor(&self, count: usize) -> Outcome<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(start),
            _ => Err(self.damaged("takes more values than there are")),
        }
    }

    fn pop(&mut self) -> Outcome<Value<'a>> {
        let start = self.floor(1)?;
        let value = self.stack[start];
        self.stack.truncate(start);
        Ok(value)
    }

    fn pop_marked(&mut self) -> Outcome<Vec<Value<'a>>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.damaged("ends a group that was never begun")),
        }
    }

    fn remember(&mut self, index: u32) -> Outcome<()> {
        let top = self.stack[self.floor(1)?];
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Outcome<()> {
        let value = self.memo.get(&index).copied();
        self.stack.push(
            value.ok_or_else(|| self.damaged(format!("recalls value {index}, which it never stored")))?,
        );
        Ok(())
    }

    fn long(&mut self, length: usize) -> Outcome<()> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        let padding = if negative { 0xff } else { 0 };
        let (low, high) = bytes.split_at(length.min(8));
        let mut extended = [padding; 8];
        extended[..low.len()].copy_from_slice(low);
        let value = i64::from_le_bytes(extended);
        let fits = high.iter().all(|&byte| byte == padding) && (value < 0) == negative;
        let value = if fits { Value::Integer(value) } else { Value::BigInteger(bytes) };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, length: usize) -> Outcome<()> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("has text that is not UTF-8"))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    /// Bytes; a Python 2 string counts as text where it is UTF-8.
    fn bytes(&mut self, length: usize, python2_string: bool) -> Outcome<()> {
        let bytes = self.take(length)?;
        let value = match std::str::from_utf8(bytes) {
            Ok(text) if python2_string => Value::Text(text),
            _ => Value::Bytes,
        };
        self.stack.push(value);
        Ok(())
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let rest = &self.input[self.position..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("ends inside a name"));
        };
        let line =
            std::str::from_utf8(&rest[..length]).map_err(|_| self.damaged("has a name that is not UTF-8"))?;
        self.position += length + 1;
        Ok(line)
    }

    fn length4(&mut self) -> Outcome<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn length8(&mut self) -> Outcome<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX))
    }

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        match self.input[self.position..].first_chunk() {
            Some(&array) => {
                self.position += N;
                Ok(array)
            }
            None => Err(self.truncated()),
        }
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        match self.input[self.position..].split_at_checked(length) {
            Some((taken, _)) => {
                self.position += length;
                Ok(taken)
            }
            None => Err(self.truncated()),
        }
    }

    fn truncated(&self) -> Refusal {
        self.damaged("ends in the middle; the file is truncated or damaged: fetch or copy it again")
    }

    fn damaged(&self, what: impl Into<String>) -> Refusal {
        Refusal::Damaged { position: self.position, what: what.into() }
    }
}

fn qualified(module: &str, name: &str) -> String {
    shorten(&format!("{module}.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(input: &[u8]) -> String {
        match unpickle(input).unwrap_err() {
            Refusal::Global(name) => name,
            Refusal::Damaged { what, .. } => what,
        }
    }

    #[test]
    fn containers_and_numbers_are_read_in_every_protocol() {
        // pickle.dumps({"a": [1, -2, 300, 2.5, None, True]}, protocol=2)
        let two = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88es.";
        // The same with protocol 4.
        let four = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88es.";
        for input in [two.as_slice(), four] {
            let pickled = unpickle(input).unwrap();
            assert_eq!(pickled.length, input.len());
            let shown = format!("{:?}", pickled.objects);
            assert!(
                shown.contains("Integer(1), Integer(-2), Integer(300), Float(2.5), None, Bool(true)"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_global_outside_the_list_is_refused_by_name_however_it_is_spelt() {
        assert_eq!(what(b"\x80\x02cposix\nsystem\n."), "posix.system");
        assert_eq!(what(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), "builtins.eval");
        assert_eq!(what(b"\x80\x02(ios\nsystem\n."), "os.system");
        assert_eq!(what(b"\x80\x02ctorch\nload\n."), "torch.load");
    }

    #[test]
    fn lengths_and_indices_beyond_the_input_are_errors() {
        assert!(what(b"\x80\x02X\xff\xff\xff\xffabc").contains("ends in the middle"));
        assert!(what(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc").contains("ends in the middle"));
        assert!(what(b"\x80\x02h\x07.").contains("recalls value 7"));
        assert!(what(b"\x80\x02.").contains("more values than there are"));
        assert!(what(b"\x80\x02t.").contains("never begun"));
        assert!(what(b"\x80\x02K\x01(\x85.").contains("more values than there are"));
        assert!(what(b"\x80\x06N.").contains("protocol 6"));
        assert!(what(b"I1\n.").contains("0x49"));
        assert!(what(b"").contains("ends in the middle"));
    }

    #[test]
    fn deep_nesting_needs_no_call_stack() {
        let mut input = b"\x80\x02)".to_vec();
        input.resize(1_000_000, op::TUPLE1);
        input.push(op::STOP);
        assert_eq!(unpickle(&input).unwrap().objects.len(), 999_998);
    }

    #[test]
    fn repeated_calls_on_one_long_list_cannot_multiply_memory() {
        // A list of 1000 pairs, then OrderedDict(list) again and again.
        let mut input = b"\x80\x02](".to_vec();
        for _ in 0..1000 {
            input.extend(b"NN\x86");
        }
        input.extend(b"e\x85q\x000");
        for _ in 0..10_000 {
            input.extend(b"ccollections\nOrderedDict\nh\x00R0");
        }
        assert!(what(&input).contains("over and over"));
    }
}
