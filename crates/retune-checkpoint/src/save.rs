//! Writing weights: safetensors in one file or in shards, byte for byte as the reference implementations lay them
//! out. Every file is written atomically, after a check that the disk has room.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::atomic::{ensure_space, write_atomic};
use crate::dtype::Dtype;
use crate::error::{CheckpointError, shorten};
use crate::index::Index;

/// A tensor's values, row-major.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// Written as `F32`.
    F32(&'a [f32]),
    /// Little-endian elements of any type, written as they are.
    Bytes(Dtype, &'a [u8]),
}

impl TensorData<'_> {
    /// Element type in the file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bytes(dtype, _) => *dtype,
        }
    }

    /// Bytes in the file.
    pub fn size(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::Bytes(_, bytes) => bytes.len(),
        }
    }

    /// Where the values lie in memory: the same for tied tensors.
    pub(crate) fn location(&self) -> (usize, usize) {
        match self {
            Self::F32(values) => (values.as_ptr().addr(), self.size()),
            Self::Bytes(_, bytes) => (bytes.as_ptr().addr(), self.size()),
        }
    }

    /// Writes the values little-endian.
    pub(crate) fn write_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Bytes(_, bytes) => writer.write_all(bytes),
            Self::F32(values) => {
                let mut buffer = [0; 1 << 14];
                for chunk in values.chunks(buffer.len() / 4) {
                    let bytes = &mut buffer[..chunk.len() * 4];
                    for (four, value) in bytes.as_chunks_mut().0.iter_mut().zip(chunk) {
                        *four = value.to_le_bytes();
                    }
                    writer.write_all(bytes)?;
                }
                Ok(())
            }
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, Copy)]
pub struct NamedTensor<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Values.
    pub data: TensorData<'a>,
}

/// What a sharded save wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// File names in the folder, the index last where there is one.
    pub files: Vec<String>,
    /// Bytes of tensor data.
    pub total_size: u64,
}

/// Writes one safetensors file: tensors ordered by type (wide first) and name, the header padded to 8 bytes, as the
/// `safetensors` library does. `metadata` usually is `{"format": "pt"}`, which transformers asks for.
///
/// Tensors that are one slice in memory (tied weights) are written once, under the name given first; the others'
/// names go to the metadata as `{"other": "first"}`, as safetensors' `save_model` records them.
///
/// # Errors
/// A repeated or reserved name, a length that doesn't fit its shape, no space, or a failed write; whatever was at `path`
/// is then unchanged.
pub fn save_safetensors(
    path: &Path,
    tensors: &[NamedTensor<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    check(tensors)?;
    let (kept, tied) = untie(tensors);
    write_file(path, kept, with_tied(metadata, &tied, tensors))
}

/// Writes the weights of a folder as transformers' `save_pretrained` does: `model.safetensors` where they fit into
/// one shard, else `model-00001-of-0000N.safetensors` and so on with `model.safetensors.index.json`.
/// Tensors fill shards in the order given. Files of an earlier save that no longer belong are removed at the end.
///
/// # Errors
/// As [`save_safetensors`].
pub fn save_sharded(
    folder: &Path,
    tensors: &[NamedTensor<'_>],
    metadata: &BTreeMap<String, String>,
    max_shard_bytes: u64,
) -> Result<Saved> {
    check(tensors)?;
    let (kept, tied) = untie(tensors);
    let total_size: u64 = kept.iter().map(|tensor| tensor.data.size() as u64).sum();
    ensure_space(folder, total_size)?;
    let shards = distribute(kept, max_shard_bytes);
    let metadata = with_tied(metadata, &tied, tensors);

    let mut files = Vec::new();
    if shards.len() <= 1 {
        files.push("model.safetensors".to_owned());
        write_file(&folder.join(&files[0]), shards.into_iter().flatten().collect(), metadata)?;
    } else {
        let count = shards.len();
        let mut weight_map = BTreeMap::new();
        let mut total_parameters = 0usize;
        for (number, shard) in shards.into_iter().enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
            for tensor in &shard {
                weight_map.insert(tensor.name.to_owned(), file.clone());
                total_parameters += tensor.shape.iter().product::<usize>();
            }
            write_file(&folder.join(&file), shard, metadata.clone())?;
            files.push(file);
        }
        let sizes = [("total_parameters", json!(total_parameters)), ("total_size", json!(total_size))];
        let metadata: Map<String, Value> =
            sizes.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        files.push("model.safetensors.index.json".to_owned());
        write_atomic(&folder.join("model.safetensors.index.json"), |writer| {
            serde_json::to_writer_pretty(&mut *writer, &Index { metadata, weight_map })?;
            writer.write_all(b"\n")
        })?;
    }
    remove_stale(folder, &files)?;
    Ok(Saved { files, total_size })
}

pub(crate) fn check(tensors: &[NamedTensor<'_>]) -> Result<()> {
    let fail = |tensor: &NamedTensor<'_>, what: String| {
        Err(CheckpointError::Shape { tensor: shorten(tensor.name), what })
    };
    let mut names = std::collections::HashSet::new();
    for tensor in tensors {
        if tensor.name == "__metadata__" {
            return fail(tensor, "is a name that safetensors reserves".into());
        }
        if !names.insert(tensor.name) {
            return fail(tensor, "is given twice".into());
        }
        let size =
            tensor.shape.iter().try_fold(tensor.data.dtype().size(), |size, &dim| size.checked_mul(dim));
        if size != Some(tensor.data.size()) {
            let (shape, dtype) = (tensor.shape, tensor.data.dtype().name());
            return fail(
                tensor,
                format!("has shape {shape:?} of {dtype}, but {} bytes of data", tensor.data.size()),
            );
        }
    }
    Ok(())
}

/// Splits off tensors whose data is, in memory, that of an earlier one: pairs of indices (removed, kept).
fn untie<'a>(tensors: &[NamedTensor<'a>]) -> (Vec<NamedTensor<'a>>, Vec<(usize, usize)>) {
    let mut first: BTreeMap<_, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    let mut tied = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let earlier =
            *first.entry((tensor.data.location(), tensor.data.dtype().name(), tensor.shape)).or_insert(index);
        if earlier == index || tensor.data.size() == 0 {
            kept.push(*tensor);
        } else {
            tied.push((index, earlier));
        }
    }
    (kept, tied)
}

fn with_tied(
    metadata: &BTreeMap<String, String>,
    tied: &[(usize, usize)],
    tensors: &[NamedTensor<'_>],
) -> BTreeMap<String, String> {
    let names =
        tied.iter().map(|&(removed, kept)| (tensors[removed].name.to_owned(), tensors[kept].name.to_owned()));
    metadata.clone().into_iter().chain(names).collect()
}

/// Fills shards in order; a tensor larger than a shard gets one of its own.
fn distribute<'a>(tensors: Vec<NamedTensor<'a>>, max_shard_bytes: u64) -> Vec<Vec<NamedTensor<'a>>> {
    let mut shards: Vec<Vec<NamedTensor<'a>>> = Vec::new();
    let mut filled = 0u64;
    for tensor in tensors {
        let size = tensor.data.size() as u64;
        match shards.last_mut() {
            Some(shard) if filled + size <= max_shard_bytes => {
                shard.push(tensor);
                filled += size;
            }
            _ => {
                shards.push(vec![tensor]);
                filled = size;
            }
        }
    }
    shards
}

fn write_file(
    path: &Path,
    mut tensors: Vec<NamedTensor<'_>>,
    metadata: BTreeMap<String, String>,
) -> Result<()> {
    tensors.sort_by(|a, b| b.data.dtype().cmp(&a.data.dtype()).then_with(|| a.name.cmp(b.name)));
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.data.size();
        let dtype = tensor.data.dtype().name();
        header.insert(
            tensor.name.into(),
            json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    ensure_space(path, (8 + header.len() + offset) as u64)?;
    write_atomic(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| tensor.data.write_to(writer))
    })
}

/// Removes `model.safetensors`, shards and index that an earlier save left and that are not among `files`.
fn remove_stale(folder: &Path, files: &[String]) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(CheckpointError::io("list", folder))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name == "model.safetensors" || name == "model.safetensors.index.json" || is_shard(&name);
        if ours && !files.contains(&name) {
            std::fs::remove_file(entry.path()).map_err(CheckpointError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Whether `name` is `model-00001-of-00002.safetensors` or the like.
fn is_shard(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(number, count)| digits(number) && digits(count))
}
