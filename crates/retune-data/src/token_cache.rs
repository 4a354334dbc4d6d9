//! Token ids on disk, so that a text is tokenized once and not in every run: a folder for each key below Retune's cache
//! folder, with a file of tokens that is mapped into memory.
//!
//! The key hashes all that the ids depend on: every byte of every text in its order, the tokenizer, the length policy,
//! this version. What fails here costs time and never a result: the caller is given the same ids out of memory.

use crate::dataset::TextExample;
use crate::error::DataError;
use crate::length::LengthPolicy;
use crate::tokenize::TextTokenizer;
use crate::tokens::{SUFFIX, TokenColumns, TokenFile};
use retune_checkpoint::available_space;
use retune_checkpoint::cache::{
    CacheEntry, UNFINISHED, extension, files, remove_if_abandoned, remove_oldest,
};
use retune_checkpoint::write_atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder below the cache folder.
pub const TOKENS: &str = "tokens";
/// Says what a folder's tokens are of.
const ABOUT: &str = "about.json";
/// Its time of change says when the tokens were last used.
const USED: &str = "used";
/// Bytes that a token takes up on disk, if it has a segment id too.
const TOKEN_BYTES: u64 = 8;

/// What a folder's tokens are of, for a person: the folder's name alone decides whether they fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenAbout {
    /// The model's name or path in the recipe that first made them.
    pub model: String,
    /// The data file.
    pub data: String,
    /// Texts.
    pub texts: usize,
    /// Tokens in a sequence at most.
    pub max_length: usize,
    /// The version of Retune.
    pub version: String,
}

impl TokenAbout {
    /// Writes it into the tokens' folder.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_atomic(&folder.join(ABOUT), |file| file.write_all(&json)).map_err(io::Error::other)
    }
}

/// Where token ids are kept.
#[derive(Clone, Debug)]
pub struct TokenCache {
    /// The folder of all token ids.
    pub root: PathBuf,
    /// Bytes of all of them at most; nothing is kept if 0.
    pub limit: u64,
    /// Texts of fewer bytes in all are tokenized faster than they are looked for.
    pub smallest: u64,
    /// The model's name, for those who list the cache.
    pub model: String,
}

/// What became of a request to a [`TokenCache`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCacheUse {
    /// Whether the ids were found.
    pub found: bool,
    /// Whether they were put down for others.
    pub kept: bool,
    /// What went wrong; the ids are right all the same.
    pub failures: Vec<String>,
}

impl TokenCache {
    /// The token ids of examples of a file: found, or made and kept.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode_examples`]; never because of the cache.
    pub fn encode(
        &self,
        tokenizer: &TextTokenizer,
        path: &Path,
        examples: &[&TextExample],
        policy: &LengthPolicy,
        threads: usize,
    ) -> Result<(TokenColumns, TokenCacheUse), DataError> {
        let mut done = TokenCacheUse::default();
        let in_memory = || tokenizer.encode_examples(path, examples, policy, threads);
        let bytes: u64 = examples.iter().map(|example| text_bytes(example)).sum();
        if self.limit == 0 || bytes < self.smallest {
            return Ok((in_memory()?, done));
        }
        let folder = self.root.join(key(tokenizer, examples, policy)?);
        match find(&folder, Some(examples.len()), &mut done.failures) {
            Ok(Some(columns)) => {
                done.found = true;
                return Ok((columns, done));
            }
            Ok(None) => {}
            Err(error) => done.failures.push(format!("{}: {error}", folder.display())),
        }
        let about = self.about(path, examples.len(), policy);
        // A token has at least a byte of text, and most have four.
        let mut file = match self.begin(&folder, &about, bytes / 2 * TOKEN_BYTES) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok((in_memory()?, done)),
            Err(error) => {
                done.failures.push(format!("{}: {error}", folder.display()));
                return Ok((in_memory()?, done));
            }
        };
        let mut failure = None;
        tokenizer.encode_in_pieces(path, examples, policy, threads, |batch| {
            // A full disk ends the file and not the run.
            if failure.is_none() {
                failure = file.write(&batch).err();
            }
            Ok(())
        })?;
        let written = match failure {
            Some(error) => Err(error),
            None => file.finish().and_then(|path| TokenColumns::open(&path)),
        };
        match written {
            Ok(columns) if columns.len() == examples.len() => {
                done.kept = true;
                Ok((columns, done))
            }
            Ok(_) => Ok((in_memory()?, done)),
            Err(error) => {
                done.failures.push(format!("{}: {error}", folder.display()));
                Ok((in_memory()?, done))
            }
        }
    }

    /// What a person is told of a file's tokens.
    pub(crate) fn about(&self, path: &Path, texts: usize, policy: &LengthPolicy) -> TokenAbout {
        TokenAbout {
            model: self.model.clone(),
            data: path.display().to_string(),
            texts,
            max_length: policy.max_length,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Begins a file in a key's folder, after making room by removing what was not used for longest. At most half of what
    /// is free on the disk is taken; `None` if there is no room.
    pub(crate) fn begin(
        &self,
        folder: &Path,
        about: &TokenAbout,
        bytes: u64,
    ) -> io::Result<Option<TokenFile>> {
        std::fs::create_dir_all(&self.root)?;
        let free = available_space(&self.root).map_err(io::Error::other)?;
        if bytes > self.limit || bytes > free / 2 {
            return Ok(None);
        }
        let others: Vec<TokenSet> = sets(&self.root)?.into_iter().filter(|set| set.path != folder).collect();
        remove_oldest(entries(&others), self.limit - bytes)?;
        std::fs::create_dir_all(folder)?;
        about.write(folder)?;
        std::fs::write(folder.join(USED), b"")?;
        TokenFile::create(folder).map(Some)
    }
}

fn text_bytes(example: &TextExample) -> u64 {
    (example.text.len() + example.text_pair.as_ref().map_or(0, String::len)) as u64
}

/// The name of the folder of some texts' tokens: a hash of all that the tokens depend on.
fn key(
    tokenizer: &TextTokenizer,
    examples: &[&TextExample],
    policy: &LengthPolicy,
) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    hasher.update(concat!("retune tokens 1 ", env!("CARGO_PKG_VERSION"), " "));
    hasher.update(tokenizer.fingerprint()?);
    hasher.update(format!("{policy:?}"));
    for example in examples {
        let texts = [Some(&example.text), example.text_pair.as_ref()];
        // The length says where a text ends; one that is not there has a length that no text has.
        for text in texts {
            hasher.update(text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            hasher.update(text.map_or("", String::as_str));
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// The name of a folder by a hash.
pub(crate) fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The tokens in a key's folder, of so many texts if that is known. Damaged files are told of and removed.
pub(crate) fn find(
    folder: &Path,
    texts: Option<usize>,
    failures: &mut Vec<String>,
) -> io::Result<Option<TokenColumns>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    for path in files(folder)? {
        match extension(&path) {
            SUFFIX => match TokenColumns::open(&path) {
                Ok(columns) if texts.is_none_or(|texts| columns.len() == texts) => {
                    std::fs::write(folder.join(USED), b"")?;
                    return Ok(Some(columns));
                }
                Ok(_) => std::fs::remove_file(&path)?,
                Err(error) => {
                    failures.push(format!("{error}; the texts are tokenized again"));
                    std::fs::remove_file(&path)?;
                }
            },
            UNFINISHED => remove_if_abandoned(&path),
            _ => {}
        }
    }
    Ok(None)
}

/// Tokens on disk that share a key.
#[derive(Clone, Debug)]
pub struct TokenSet {
    /// Their folder.
    pub path: PathBuf,
    /// What they are of.
    pub about: TokenAbout,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a run last opened them.
    pub used: Option<SystemTime>,
    /// Files that are damaged.
    pub damaged: Vec<PathBuf>,
}

impl TokenSet {
    /// The set as what may be removed for want of room.
    pub fn entry(&self) -> CacheEntry<'_> {
        CacheEntry { path: &self.path, bytes: self.bytes, used: self.used }
    }
}

fn entries(sets: &[TokenSet]) -> Vec<CacheEntry<'_>> {
    sets.iter().map(TokenSet::entry).collect()
}

/// The token ids in a cache folder, with their files held against their hashes.
///
/// # Errors
/// If the folder cannot be read.
pub fn list_tokens(cache_dir: &Path) -> Result<Vec<TokenSet>, DataError> {
    let root = cache_dir.join(TOKENS);
    let list = || {
        let mut sets = sets(&root)?;
        for set in &mut sets {
            let tokens = files(&set.path)?.into_iter().filter(|path| extension(path) == SUFFIX);
            set.damaged = tokens.filter(|path| TokenColumns::open(path).is_err()).collect();
        }
        Ok(sets)
    };
    list().map_err(|error| DataError::reading(&root, error))
}

/// Removes what killed runs and damage left. Returns the bytes that were freed.
///
/// # Errors
/// If a file cannot be removed.
pub fn tidy_tokens(cache_dir: &Path) -> Result<u64, DataError> {
    let root = cache_dir.join(TOKENS);
    let bytes = |sets: &[TokenSet]| sets.iter().map(|set| set.bytes).sum::<u64>();
    let before = list_tokens(cache_dir)?;
    let tidy = || {
        for set in &before {
            set.damaged.iter().try_for_each(std::fs::remove_file)?;
            let unfinished = files(&set.path)?.into_iter().filter(|path| extension(path) == UNFINISHED);
            unfinished.for_each(|path| remove_if_abandoned(&path));
        }
        Ok(bytes(&before).saturating_sub(bytes(&sets(&root)?)))
    };
    tidy().map_err(|error| DataError::writing(&root, error))
}

fn sets(root: &Path) -> io::Result<Vec<TokenSet>> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let folders = files(root)?.into_iter().filter(|path| path.is_dir());
    folders
        .map(|path| {
            let about = std::fs::read(path.join(ABOUT)).ok();
            let about = about.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            let used = std::fs::metadata(path.join(USED)).and_then(|metadata| metadata.modified()).ok();
            let sizes = files(&path)?.into_iter().filter_map(|file| std::fs::metadata(file).ok());
            let bytes = sizes.map(|metadata| metadata.len()).sum();
            Ok(TokenSet { path, about, bytes, used, damaged: Vec::new() })
        })
        .collect()
}
