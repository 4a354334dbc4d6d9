//! What a pickle can build here: plain values, containers and descriptions of tensors. Nothing else exists.
//!
//! Containers live in one arena and refer to each other by index, so that neither depth nor cycles in a hostile
//! file can exhaust the call stack.

use super::globals::Known;
use crate::dtype::Dtype;

/// A value on the unpickler's stack. Text and bytes borrow from the pickle.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Integer(i64),
    /// An integer that needs more than 64 bits, as its little-endian two's complement.
    BigInteger(&'a [u8]),
    Float(f64),
    Text(&'a str),
    /// Bytes, or a Python 2 string that is not UTF-8; their content means nothing here.
    Bytes,
    Global(Known),
    /// An index into the arena.
    Object(usize),
}

/// A container or tensor in the arena.
#[derive(Debug)]
pub(crate) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    /// Insertion order; a repeated key's last value counts, as in Python.
    Dictionary(Vec<(Value<'a>, Value<'a>)>),
    Set,
    Storage(StorageRecord<'a>),
    Tensor(Box<TensorRecord<'a>>),
    /// A value that is allowed but means nothing here: a device, re-encoded bytes.
    Opaque,
}

/// A reference to a storage kept outside the pickle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StorageRecord<'a> {
    /// Element type; absent for untyped storages, which count bytes.
    pub(crate) dtype: Option<Dtype>,
    /// Name of the storage in the archive.
    pub(crate) key: &'a str,
    /// Elements in the whole storage.
    pub(crate) elements: u64,
    /// First element of this view of the storage; only the legacy format has such views.
    pub(crate) view_offset: u64,
}

impl StorageRecord<'_> {
    /// Bytes per element of the storage itself.
    pub(crate) fn element_size(&self) -> usize {
        self.dtype.map_or(1, Dtype::size)
    }
}

/// A view of a storage as a tensor, unchecked as it stands in the pickle.
#[derive(Debug, Clone)]
pub(crate) struct TensorRecord<'a> {
    pub(crate) storage: StorageRecord<'a>,
    pub(crate) dtype: Dtype,
    /// First element, counted in elements of `dtype`.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    /// Distance of neighbours along each dimension, in elements of `dtype`.
    pub(crate) strides: Vec<u64>,
}
