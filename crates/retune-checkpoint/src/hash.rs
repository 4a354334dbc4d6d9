//! SHA-256 of files, as lock files and hubs state it: lower-case hexadecimal.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::CheckpointError;

/// A file's SHA-256 and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// The file.
    pub path: PathBuf,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// Hashes a file.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn hash_file(path: &Path) -> Result<FileHash> {
    let read = || -> std::io::Result<(String, u64)> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut size = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok((hexadecimal(&hasher.finalize()), size));
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
    };
    let (sha256, size) = read().map_err(CheckpointError::io("read", path))?;
    Ok(FileHash { path: path.to_path_buf(), sha256, size })
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let hash = hash_file(&path).unwrap();
        // FIPS 180-4, example of one block.
        assert_eq!(hash.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.size, 3);
    }
}
