//! The two files around the pickle: the zip archive that `torch.save` writes since PyTorch 1.6, and the legacy
//! sequence of pickles followed by raw storages. Both give the pickle and a byte range for every storage.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::explain;
use super::machine::{Pickled, unpickle};
use super::value::{Object, Value};
use crate::Result;
use crate::error::{CheckpointError, shorten};

/// Longest pickle accepted. The pickle of a 10,000-tensor checkpoint takes about 2 MB.
const MAX_PICKLE_BYTES: usize = 1 << 24;

/// First value of a legacy file, as pickled: `0x1950a86a20f9469cfc6c`.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The only version of the legacy format.
const LEGACY_VERSION: i64 = 1001;

/// A pickle and where its storages lie in the file.
#[derive(Debug)]
pub(super) struct Container<'a> {
    pub(super) pickled: Pickled<'a>,
    /// Byte range of each storage, inside the file.
    pub(super) storages: HashMap<String, Range<usize>>,
}

pub(super) fn is_zip(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04")
}

pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<Container<'a>> {
    if is_zip(file) { open_zip(path, file) } else { open_legacy(path, file) }
}

fn open_zip<'a>(path: &Path, file: &'a [u8]) -> Result<Container<'a>> {
    let fail = |what: String| CheckpointError::format(path, what);
    let damaged =
        |error| fail(format!("is a zip archive that cannot be read: {error}; fetch or copy it again"));
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(damaged)?;
    let mut entries: HashMap<String, Range<usize>> = HashMap::new();
    let mut root = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        if entry.compression() != CompressionMethod::Stored {
            return Err(fail(format!(
                "its entry `{}` is compressed, which torch.save never does; load and save it with PyTorch again",
                shorten(&name)
            )));
        }
        let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
        let end =
            start.zip(usize::try_from(entry.size()).ok()).and_then(|(start, size)| start.checked_add(size));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= file.len())) else {
            return Err(fail(format!(
                "its entry `{}` reaches beyond the file's end; fetch or copy it again",
                shorten(&name)
            )));
        };
        if let Some(folder) = name.strip_suffix("data.pkl").filter(|folder| folder.matches('/').count() <= 1)
        {
            root = Some(folder.to_owned());
        }
        entries.insert(name, start..end);
    }
    let Some(root) = root else {
        return Err(fail("is a zip archive without `data.pkl`, so not one that torch.save wrote".into()));
    };
    if entries.contains_key(&format!("{root}constants.pkl")) {
        return Err(fail(
            "is a TorchScript program, not weights; save `module.state_dict()` with torch.save instead"
                .into(),
        ));
    }
    if entries.get(&format!("{root}byteorder")).is_some_and(|range| file[range.clone()] != *b"little") {
        return Err(fail("was saved on a big-endian machine, which is not supported".into()));
    }
    let pickle = &file[entries[&format!("{root}data.pkl")].clone()];
    let pickled = unpickle(bounded(path, pickle)?).map_err(|refusal| explain(path, refusal))?;

    let mut storages = HashMap::new();
    for storage in &pickled.storages {
        let name = format!("{root}data/{}", storage.key);
        let range = entries.get(&name).ok_or_else(|| {
            fail(format!("lacks the storage `{}` that its tensors refer to", shorten(&name)))
        })?;
        storages.insert(storage.key.to_owned(), range.clone());
    }
    Ok(Container { pickled, storages })
}

/// Magic number, version, machine, object, storage keys; then for each key its length and its bytes.
fn open_legacy<'a>(path: &Path, file: &'a [u8]) -> Result<Container<'a>> {
    let fail = |what: String| CheckpointError::format(path, what);
    let mut position = 0;
    let mut next = || -> Result<Pickled<'a>> {
        let rest = &file[position..];
        let rest = &rest[..rest.len().min(MAX_PICKLE_BYTES)];
        let pickled = unpickle(rest).map_err(|refusal| explain(path, refusal))?;
        position += pickled.length;
        Ok(pickled)
    };
    if !matches!(next()?.root, Value::BigInteger(magic) if magic == LEGACY_MAGIC) {
        return Err(fail("is a pickle, but not one that torch.save wrote".into()));
    }
    if !matches!(next()?.root, Value::Integer(LEGACY_VERSION)) {
        return Err(fail(format!("has an unknown version of the legacy format (known is {LEGACY_VERSION})")));
    }
    let machine = next()?;
    if !is_little_endian(&machine) {
        return Err(fail("was saved on a big-endian machine, which is not supported".into()));
    }
    let pickled = next()?;
    let keys = next()?;
    let Value::Object(index) = keys.root else {
        return Err(fail("lacks its list of storages".into()));
    };
    let Object::List(keys) = &keys.objects[index] else {
        return Err(fail("lacks its list of storages".into()));
    };

    let element_sizes: HashMap<&str, usize> =
        pickled.storages.iter().map(|storage| (storage.key, storage.element_size())).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else {
            return Err(fail("has a storage whose name is not text".into()));
        };
        let element_size = *element_sizes
            .get(key)
            .ok_or_else(|| fail(format!("holds the storage `{}` that nothing refers to", shorten(key))))?;
        let truncated = || {
            fail(format!(
                "ends inside the storage `{}`; it is truncated: fetch or copy it again",
                shorten(key)
            ))
        };
        let elements =
            file[position..].first_chunk().map(|&bytes| u64::from_le_bytes(bytes)).ok_or_else(truncated)?;
        let start = position + 8;
        let end = usize::try_from(elements)
            .ok()
            .and_then(|elements| elements.checked_mul(element_size))
            .and_then(|size| start.checked_add(size))
            .filter(|&end| end <= file.len())
            .ok_or_else(truncated)?;
        storages.insert((*key).to_owned(), start..end);
        position = end;
    }
    if let Some(storage) = pickled.storages.iter().find(|storage| !storages.contains_key(storage.key)) {
        return Err(fail(format!("lacks the storage `{}` that its tensors refer to", shorten(storage.key))));
    }
    Ok(Container { pickled, storages })
}

fn is_little_endian(machine: &Pickled<'_>) -> bool {
    let Value::Object(index) = machine.root else { return false };
    let Object::Dictionary(pairs) = &machine.objects[index] else { return false };
    pairs.iter().any(|pair| matches!(pair, (Value::Text("little_endian"), Value::Bool(true))))
}

fn bounded<'a>(path: &Path, pickle: &'a [u8]) -> Result<&'a [u8]> {
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(CheckpointError::format(
            path,
            format!(
                "has a pickle of {} bytes; more than {MAX_PICKLE_BYTES} is not a list of tensors",
                pickle.len()
            ),
        ));
    }
    Ok(pickle)
}
