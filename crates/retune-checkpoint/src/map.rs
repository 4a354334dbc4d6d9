//! The project's one memory-map module outside the kernels: a file's bytes, mapped read-only, or bytes already in memory.

#![expect(unsafe_code, reason = "mapping a file is unsafe; this is the only place that does it")]

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::Result;
use crate::error::CheckpointError;

/// A file's content and the path that messages name it by.
#[derive(Debug)]
pub struct FileBytes {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps the file at `path`. Whoever maps a file relies on nobody shortening it in place; this project replaces files by
    /// renaming, which leaves what is mapped alone.
    ///
    /// # Errors
    /// [`CheckpointError`] if it cannot be opened or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let metadata = file.metadata().map_err(CheckpointError::io("read", path))?;
        if metadata.is_dir() {
            return Err(CheckpointError::format(path, "is a folder where a weight file was expected"));
        }
        // An empty file cannot be mapped.
        let content = if metadata.len() == 0 {
            Content::Owned(Vec::new())
        } else {
            // SAFETY: the map is read-only and private to this struct, and every read goes through a bounds-checked
            // slice of it. The remaining hazard of any map is another process that truncates the file in place;
            // this crate itself replaces files only by renaming, which leaves a mapped file's content alone.
            let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io("map", path))?;
            Content::Mapped(map)
        };
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// Bytes already in memory, under the name that messages should use.
    pub(crate) fn from_vec(name: &str, bytes: Vec<u8>) -> Self {
        Self { path: PathBuf::from(name), content: Content::Owned(bytes) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's content.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
