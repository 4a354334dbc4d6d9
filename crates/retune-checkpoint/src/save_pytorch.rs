//! Writing a state dict as `torch.save` does, for tools that read nothing else: a zip archive with a pickle of
//! protocol 2 and one uncompressed entry a storage. `torch.load(weights_only=True)` opens it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::Result;
use crate::atomic::{ensure_space, write_atomic};
use crate::dtype::Dtype;
use crate::error::{CheckpointError, shorten};
use crate::save::{NamedTensor, check};

/// Bytes of bookkeeping a tensor costs at most, for the check of free space.
const OVERHEAD_PER_TENSOR: usize = 1024;

/// Writes `pytorch_model.bin` or the like: an `OrderedDict` of tensors in the order given. Tensors that are one slice
/// in memory (tied weights) share one storage, as PyTorch keeps them.
///
/// # Errors
/// A repeated name, a length that doesn't fit its shape, an element type that has no PyTorch storage class, no space,
/// or a failed write; whatever was at `path` is then unchanged.
pub fn save_pytorch_bin(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<()> {
    check(tensors)?;
    let mut storages: Vec<&NamedTensor<'_>> = Vec::new();
    let mut known: BTreeMap<_, usize> = BTreeMap::new();
    let mut pickle = Pickle::begin();
    for tensor in tensors {
        let dtype = tensor.data.dtype();
        let class = storage_class(dtype).ok_or_else(|| CheckpointError::Shape {
            tensor: shorten(tensor.name),
            what: format!("has dtype {}, for which PyTorch has no storage class", dtype.name()),
        })?;
        let next = storages.len();
        let storage = *known.entry((tensor.data.location(), class)).or_insert(next);
        if storage == next {
            storages.push(tensor);
        }
        pickle.tensor(tensor, class, storage);
    }
    let pickle = pickle.end();

    let data: usize = storages.iter().map(|tensor| tensor.data.size()).sum();
    ensure_space(path, (data + pickle.len() + OVERHEAD_PER_TENSOR * (storages.len() + 4)) as u64)?;
    write_atomic(path, |writer| {
        let mut archive = ZipWriter::new_stream(writer);
        // PyTorch aligns storages to 64 bytes, so that they can be mapped.
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
        let mut entry = |name: &str, large: bool, write: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
            archive
                .start_file(format!("archive/{name}"), options.large_file(large))
                .map_err(io::Error::other)?;
            write(&mut archive)
        };
        entry("data.pkl", false, &|writer| writer.write_all(&pickle))?;
        entry("byteorder", false, &|writer| writer.write_all(b"little"))?;
        for (index, tensor) in storages.iter().enumerate() {
            let large = tensor.data.size() >= u32::MAX as usize;
            entry(&format!("data/{index}"), large, &|writer| tensor.data.write_to(writer))?;
        }
        entry("version", false, &|writer| writer.write_all(b"3\n"))?;
        archive.finish().map_err(io::Error::other)?;
        Ok(())
    })
}

fn storage_class(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F64 => "DoubleStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::Bf16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
        Dtype::U16 | Dtype::U32 | Dtype::U64 => return None,
    })
}

/// The pickle of an `OrderedDict` of tensors, instruction by instruction.
struct Pickle(Vec<u8>);

impl Pickle {
    fn begin() -> Self {
        Self(b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend(b"u.");
        self.0
    }

    /// `name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, tensor: &NamedTensor<'_>, class: &str, storage: usize) {
        let elements = tensor.data.size() / tensor.data.dtype().size();
        let mut strides = vec![1; tensor.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * tensor.shape[axis].max(1);
        }
        self.text(tensor.name);
        self.0.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.0.extend(format!("ctorch\n{class}\n").bytes());
        self.text(&storage.to_string());
        self.text("cpu");
        self.integer(elements);
        self.0.extend(b"tQK\x00");
        self.integers(tensor.shape);
        self.integers(&strides);
        self.0.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn integers(&mut self, values: &[usize]) {
        self.0.push(b'(');
        for &value in values {
            self.integer(value);
        }
        self.0.push(b't');
    }

    /// A long of nine bytes, whose last keeps it positive.
    fn integer(&mut self, value: usize) {
        self.0.extend([0x8a, 9]);
        self.0.extend((value as u64).to_le_bytes());
        self.0.push(0);
    }
}
