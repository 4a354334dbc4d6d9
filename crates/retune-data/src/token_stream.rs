//! Token ids of texts that come piece by piece: put down in a file as they come, or found from an earlier pass over the
//! same file.

use crate::dataset::TextExample;
use crate::error::DataError;
use crate::length::LengthPolicy;
use crate::token_cache::{TokenAbout, TokenCache, find, hexadecimal};
use crate::tokenize::TextTokenizer;
use crate::tokens::{TokenColumns, TokenFile};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What a [`TokenStream`] comes from.
#[derive(Clone, Copy, Debug)]
pub struct StreamSource<'a> {
    /// All that decides which texts come, in which order: the file's hash and how it is read.
    pub identity: &'a str,
    /// About how many bytes the token ids will take up.
    pub bytes: u64,
    /// Whether they stay for other runs.
    pub is_kept: bool,
}

/// Token ids of a streamed file.
pub struct TokenStream<'a> {
    tokenizer: &'a TextTokenizer,
    policy: LengthPolicy,
    threads: usize,
    path: PathBuf,
    about: TokenAbout,
    folder: PathBuf,
    /// Whether the file stays for other runs.
    is_kept: bool,
    rows: usize,
    state: State,
}

enum State {
    Found(TokenColumns),
    Writing(Box<TokenFile>),
}

impl TokenCache {
    /// Begins with the texts of a file; `source` says all that decides which texts, in which order, will come. What went
    /// wrong in the cache is added to `failures`.
    ///
    /// # Errors
    /// If there is no room for the token ids: what is streamed does not fall back on memory.
    pub fn stream<'a>(
        &self,
        tokenizer: &'a TextTokenizer,
        path: &Path,
        (policy, threads): (&LengthPolicy, usize),
        source: StreamSource<'_>,
        failures: &mut Vec<String>,
    ) -> Result<TokenStream<'a>, DataError> {
        let mut hasher = Sha256::new();
        hasher.update(concat!("retune streamed tokens 1 ", env!("CARGO_PKG_VERSION"), " "));
        hasher.update(tokenizer.fingerprint()?);
        hasher.update(format!("{policy:?} {}", source.identity));
        let folder = self.root.join(hexadecimal(&hasher.finalize()));
        let about = self.about(path, 0, policy);
        let found = find(&folder, None, failures);
        let found = found.map_err(|error| failures.push(format!("{}: {error}", folder.display())));
        let state = match found {
            Ok(Some(columns)) => State::Found(columns),
            _ => {
                let begun = self
                    .begin(&folder, &about, source.bytes)
                    .map_err(|error| DataError::writing(&folder, error))?;
                State::Writing(Box::new(begun.ok_or_else(|| {
                    DataError::Setting(format!(
                        "{}: streaming puts token ids down in {}, and there is no room for about {} bytes; raise \
                         data.token_cache_disk_bytes, free the disk, or set RETUNE_CACHE to a larger one",
                        path.display(),
                        self.root.display(),
                        source.bytes
                    ))
                })?))
            }
        };
        let (policy, path, is_kept) = (*policy, path.to_owned(), source.is_kept);
        Ok(TokenStream { tokenizer, policy, threads, path, about, folder, is_kept, rows: 0, state })
    }
}

impl TokenStream<'_> {
    /// Whether the ids were found, so that nothing is tokenized.
    pub fn is_found(&self) -> bool {
        matches!(self.state, State::Found(_))
    }

    /// Takes in the next texts.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode_examples`], or if the ids cannot be written.
    pub fn push(&mut self, examples: &[TextExample]) -> Result<(), DataError> {
        self.rows += examples.len();
        let State::Writing(file) = &mut self.state else { return Ok(()) };
        let examples: Vec<&TextExample> = examples.iter().collect();
        self.tokenizer.encode_in_pieces(&self.path, &examples, &self.policy, self.threads, |batch| {
            file.write(&batch).map_err(|error| DataError::writing(&self.folder, error))
        })
    }

    /// All token ids, mapped into memory.
    ///
    /// # Errors
    /// If they cannot be written, or are not those of the texts that came.
    pub fn finish(self) -> Result<TokenColumns, DataError> {
        let failed = |error| DataError::writing(&self.folder, error);
        let columns = match self.state {
            State::Found(columns) => columns,
            State::Writing(file) => {
                let written = file.finish().map_err(failed)?;
                let columns = TokenColumns::open(&written).map_err(failed)?;
                if self.is_kept {
                    let about = TokenAbout { texts: columns.len(), ..self.about };
                    about.write(&self.folder).map_err(failed)?;
                } else {
                    // What is mapped lives on without a name.
                    std::fs::remove_dir_all(&self.folder).map_err(failed)?;
                }
                columns
            }
        };
        if columns.len() != self.rows {
            let message = format!("{} changed while it was read; start again", self.path.display());
            return Err(DataError::Setting(message));
        }
        Ok(columns)
    }
}
