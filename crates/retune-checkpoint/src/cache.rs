//! What everything in Retune's cache folder has in common: a folder for each key, files that are written under a name of
//! their own, never changed afterwards, and removed when they were not used for longest.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the name of a file ends that is being written.
pub const UNFINISHED: &str = "tmp";

/// One thing in a cache that may be removed for want of room.
#[derive(Clone, Copy, Debug)]
pub struct CacheEntry<'a> {
    /// Its folder.
    pub path: &'a Path,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a run last opened it.
    pub used: Option<SystemTime>,
}

/// The files of a folder, in the order of their names.
///
/// # Errors
/// If the folder cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}

/// A path's extension; empty without one.
pub fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// Begins a file in a folder under a name that nobody else uses, locked for as long as it is open.
///
/// # Errors
/// If it cannot be written.
pub fn create_unfinished(folder: &Path) -> io::Result<(File, PathBuf)> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("part-{now:x}-{}-{sequence}.{UNFINISHED}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.lock()?;
    Ok((file, path))
}

/// Removes an unfinished file whose writer is gone. A living writer holds its lock.
pub fn remove_if_abandoned(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes whole folders, the one used longest ago first, until `limit` bytes or less are left. Returns the bytes removed.
///
/// # Errors
/// If a file cannot be removed.
pub fn remove_oldest(mut entries: Vec<CacheEntry<'_>>, limit: u64) -> io::Result<u64> {
    entries.sort_by_key(|entry| entry.used);
    let mut left: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut removed = 0;
    for entry in entries {
        if left <= limit {
            break;
        }
        match std::fs::remove_dir_all(entry.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        left -= entry.bytes;
        removed += entry.bytes;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let paths = ["new", "old", "mid"].map(|name| root.path().join(name));
        paths.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        let entry = |(path, age): (&'static usize, u64)| CacheEntry {
            path: &paths[*path],
            bytes: 10,
            used: Some(SystemTime::now() - std::time::Duration::from_secs(age)),
        };
        let entries = [(&0, 1), (&1, 9), (&2, 5)].map(entry).to_vec();
        assert_eq!(remove_oldest(entries, 15).unwrap(), 20);
        assert_eq!(paths.each_ref().map(|path| path.is_dir()), [true, false, false]);
    }

    #[test]
    fn a_file_that_somebody_writes_is_not_abandoned() {
        let root = tempfile::tempdir().unwrap();
        let (file, path) = create_unfinished(root.path()).unwrap();
        remove_if_abandoned(&path);
        assert!(path.is_file());
        drop(file);
        remove_if_abandoned(&path);
        assert!(!path.exists());
    }
}
