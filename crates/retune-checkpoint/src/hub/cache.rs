//! The local caches: this tool's own, one folder a model and revision, and the Hugging Face libraries', read only.
//!
//! A folder in the own cache is complete by construction: it is filled under another name and renamed. Its manifest
//! says what belongs to it and where it came from.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Origin, Resolved, artifact_files, hash_all};
use crate::Result;
use crate::atomic::{parent, sync_folder, temporary_sibling, write_atomic};
use crate::error::CheckpointError;
use crate::hash::FileHash;

/// Name of the manifest in a cached folder.
const MANIFEST: &str = "retune-origin.json";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    name: String,
    revision: String,
    origin: String,
    files: Vec<FileHash>,
}

/// The place of one model and revision in the cache.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    revision: String,
    folder: PathBuf,
}

/// Held while a slot is filled; released when dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Slot {
    pub(super) fn new(cache: &Path, name: &str, revision: &str) -> Self {
        let folder = cache.join("models").join(name.replace('/', "--")).join(revision.replace('/', "--"));
        Self { name: name.to_owned(), revision: revision.to_owned(), folder }
    }

    /// The cached model, after checking every file against the manifest.
    pub(super) fn find(&self) -> Result<Option<Resolved>> {
        let path = self.folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Io { action: "read", path, source }),
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| CheckpointError::Json { path: path.clone(), source })?;
        let names = manifest.files.iter().map(|file| file.path.clone()).collect();
        let files = hash_all(&self.folder, names)?;
        if let Some(changed) = files.iter().zip(&manifest.files).find(|(now, then)| now != then) {
            let what = "is not what was fetched: its checksum changed";
            return Err(CheckpointError::format(&self.folder.join(&changed.0.path), what));
        }
        let origin = Origin::Cache { from: manifest.origin };
        Ok(Some(Resolved { directory: self.folder.clone(), origin, files }))
    }

    /// Waits until no other process fills this slot.
    pub(super) fn lock(&self, on_message: &mut dyn FnMut(&str)) -> Result<Lock> {
        let folder = parent(&self.folder);
        fs::create_dir_all(folder).map_err(CheckpointError::io("create the folder", folder))?;
        let path = self.folder.with_added_extension("lock");
        let file = File::create(&path).map_err(CheckpointError::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                on_message(&format!("{}: waiting for another process that is fetching it", self.name));
                file.lock().map_err(CheckpointError::io("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => {
                return Err(CheckpointError::Io { action: "lock", path, source });
            }
        }
        Ok(Lock(file))
    }

    /// Where downloads of one commit for this slot gather; kept after a failure, so that they can be resumed.
    pub(super) fn partial(&self, commit: &str) -> PathBuf {
        self.folder.with_added_extension(format!("{commit}.partial"))
    }

    /// A fresh folder beside the slot, removed when dropped.
    pub(super) fn scratch(&self) -> Result<Scratch> {
        let path = temporary_sibling(&self.folder);
        fs::create_dir_all(&path).map_err(CheckpointError::io("create the folder", &path))?;
        Ok(Scratch { path })
    }

    /// Turns a filled folder beside the slot into the slot, replacing a damaged one.
    pub(super) fn publish(&self, filled: &Path, origin: Origin) -> Result<Resolved> {
        let files = hash_all(filled, artifact_files(filled)?)?;
        let manifest = Manifest {
            name: self.name.clone(),
            revision: self.revision.clone(),
            origin: origin.to_string(),
            files: files.clone(),
        };
        write_atomic(&filled.join(MANIFEST), |writer| Ok(serde_json::to_writer_pretty(writer, &manifest)?))?;
        let old = Scratch { path: temporary_sibling(&self.folder) };
        if self.folder.exists() {
            fs::rename(&self.folder, &old.path).map_err(CheckpointError::io("replace", &self.folder))?;
        }
        fs::rename(filled, &self.folder).map_err(CheckpointError::io("write", &self.folder))?;
        sync_folder(parent(&self.folder))?;
        Ok(Resolved { directory: self.folder.clone(), origin, files })
    }
}

/// A temporary folder.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Looks into the Hugging Face cache: `models--ORG--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT` the files.
pub(super) fn find_hugging_face(hub: &Path, name: &str, revision: &str) -> Result<Resolved, String> {
    let model = hub.join(format!("models--{}", name.replace('/', "--")));
    let commit =
        fs::read_to_string(model.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
    let directory = model.join("snapshots").join(commit.trim());
    if !directory.is_dir() {
        return Err(format!("not in {}", hub.display()));
    }
    if !directory.join("config.json").is_file() {
        return Err(format!("{} is incomplete: no config.json", directory.display()));
    }
    let weights = crate::weights::files_in(&directory).map_err(|error| error.to_string())?;
    if let Some(missing) = weights.iter().find(|file| !directory.join(file).is_file()) {
        return Err(format!("{} is incomplete: no {}", directory.display(), missing.display()));
    }
    let files = artifact_files(&directory).and_then(|files| hash_all(&directory, files));
    Ok(Resolved {
        files: files.map_err(|error| error.to_string())?,
        directory,
        origin: Origin::HuggingFaceCache,
    })
}
