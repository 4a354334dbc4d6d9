//! The pickle virtual machine, protocols 2 to 5, as data: opcodes build [`Value`]s and nothing is ever called.
//!
//! Format: `pickletools` in the Python standard library. Work and memory are bounded by the pickle's length and
//! by [`MAX_STEPS`], whatever lengths and indices the pickle declares.

use std::collections::{HashMap, HashSet};

use super::opcodes as op;
use super::value::{Object, StorageRecord, Value};
use crate::error::shorten;

/// Opcodes obeyed in one pickle. A checkpoint needs about 40 a tensor.
const MAX_STEPS: usize = 2_000_000;

/// Why a pickle was not accepted.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    /// A global outside the allow-list, as `module.name`.
    Global(String),
    /// Damaged or unsupported, at a byte of the pickle.
    Damaged { position: usize, what: String },
}

pub(super) type Outcome<T> = Result<T, Refusal>;

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

/// The machine's state. Its calls are in [`super::calls`].
pub(super) struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    pub(super) stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    pub(super) objects: Vec<Object<'a>>,
    pub(super) storages: Vec<StorageRecord<'a>>,
    pub(super) seen_storages: HashSet<&'a str>,
    /// Values that calls may still copy; without it, repeated calls on one long list would multiply memory.
    pub(super) copies_left: usize,
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

    fn pairs(&self, items: &[Value<'a>]) -> Outcome<Vec<(Value<'a>, Value<'a>)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("has a dictionary key without a value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    pub(super) fn tuple(&self, value: Value<'a>) -> Outcome<&[Value<'a>]> {
        match self.object(value) {
            Some(Object::Tuple(items) | Object::List(items)) => Ok(items),
            _ => Err(self.damaged("has something else where a tuple belongs")),
        }
    }

    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
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

    pub(super) fn add(&mut self, object: Object<'a>) -> Value<'a> {
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

    pub(super) fn pop(&mut self) -> Outcome<Value<'a>> {
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

    pub(super) fn damaged(&self, what: impl Into<String>) -> Refusal {
        Refusal::Damaged { position: self.position, what: what.into() }
    }
}

/// Module and name of a global, for messages.
pub(super) fn qualified(module: &str, name: &str) -> String {
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
