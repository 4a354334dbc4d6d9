//! Atomic writes: a reader sees the old file or the new one, never half of either.
//!
//! A file is written under a temporary name in its own folder, synced, renamed over the target, and the folder
//! is synced. Whatever fails before the rename, a full disk included, leaves the target as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::error::CheckpointError;

/// Distinguishes temporary names made by one process.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Writes `path` through `write`, atomically. Missing parent folders are created.
///
/// # Errors
/// [`CheckpointError::Io`] from the system or from `write`; the previous content of `path` is then unchanged and
/// the temporary file is removed.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(CheckpointError::io("create the folder", folder))?;
    let temporary = Temporary::create(path).map_err(CheckpointError::io("write", path))?;
    let mut writer = BufWriter::with_capacity(1 << 18, &temporary.file);
    write(&mut writer).and_then(|()| writer.flush()).map_err(CheckpointError::io("write", path))?;
    drop(writer);
    temporary.file.sync_all().map_err(CheckpointError::io("sync", path))?;
    temporary.rename_to(path).map_err(CheckpointError::io("write", path))?;
    sync_folder(folder)
}

/// A sibling name of `path` that no other process or thread uses: hidden, and ending in `.tmp`.
pub(crate) fn temporary_sibling(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    parent(path).join(format!(".{name}.{}-{sequence}.tmp", std::process::id()))
}

/// Makes a rename inside `folder` durable. Systems that cannot open a folder as a file need no such step.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(CheckpointError::io("sync", folder))?;
    }
    Ok(())
}

/// Bytes free to this user on the file system that holds `path`, which need not exist yet.
///
/// # Errors
/// [`CheckpointError::Io`] when no existing ancestor of `path` can be asked.
pub fn available_space(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    fs4::available_space(existing).map_err(CheckpointError::io("ask for the free space of", existing))
}

/// Checks that `bytes` can be written at `path`.
///
/// # Errors
/// [`CheckpointError::NoSpace`] when they cannot, with both numbers.
pub fn ensure_space(path: &Path, bytes: u64) -> Result<()> {
    let available = available_space(path)?;
    if available < bytes {
        return Err(CheckpointError::NoSpace { path: path.to_path_buf(), needed: bytes, available });
    }
    Ok(())
}

/// The folder of `path`; `.` for a bare file name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary file that is removed unless it was renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(target: &Path) -> io::Result<Self> {
        loop {
            let path = temporary_sibling(target);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path, renamed: false }),
                // Left behind by a killed process that had our process id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
        }
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_write_replaces_the_target_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        write_atomic(&path, |w| w.write_all(b"one")).unwrap();
        write_atomic(&path, |w| w.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["config.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_previous_content_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(&vec![0; 1 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(matches!(error, Err(CheckpointError::Io { action: "write", .. })), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["config.json"]);
    }

    /// `/dev/full` answers every write with "no space left on device".
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_as_such() {
        let error = CheckpointError::io("write", Path::new("x"))(
            OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err(),
        );
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    #[test]
    fn more_bytes_than_the_disk_has_are_refused_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/yet/there");
        assert!(available_space(&path).unwrap() > 0);
        ensure_space(&path, 1).unwrap();
        let message = ensure_space(&path, u64::MAX).unwrap_err().to_string();
        assert!(message.contains("not enough space") && message.contains("free"), "{message}");
    }
}
