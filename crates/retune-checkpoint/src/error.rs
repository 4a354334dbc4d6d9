//! The crate's one error type. Every message says what was wrong, in which file and tensor, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb ("read", "write", "create the folder").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The disk has too little room for a file about to be written. Nothing was written.
    #[error(
        "not enough space for {}: {} needed, {} free; free some space or choose another folder",
        path.display(), Bytes(*needed), Bytes(*available)
    )]
    NoSpace {
        /// Where the file would go.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free to this user.
        available: u64,
    },

    /// No weights were found where they were expected.
    #[error("{}: {what}", path.display())]
    NoWeights {
        /// The folder or file looked at.
        path: PathBuf,
        /// What was looked for and what to do.
        what: String,
    },

    /// A weight file's structure is damaged or unsupported.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },

    /// One tensor of a weight file is damaged or unsupported.
    #[error("{}: tensor `{tensor}`: {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },

    /// A pickle asks for something outside the allow-list. Nothing was run.
    #[error(
        "{}: refuses to load `{global}`: a weight file may hold tensors and plain containers only, and nothing in \
         it was run; re-save the bare state dict (`torch.save(model.state_dict(), ...)`) or safetensors from a \
         source you trust",
        path.display()
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// Module and name of what the file asked for, as `posix.system`.
        global: String,
    },

    /// A tensor was asked for that the checkpoint doesn't have.
    #[error("{}: has no tensor `{tensor}`{}", path.display(), Suggestion(similar))]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// The nearest name that exists.
        similar: Option<String>,
    },

    /// A buffer given by the caller doesn't fit the tensor's shape.
    #[error("tensor `{tensor}`: {what}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Which lengths disagree.
        what: String,
    },

    /// A JSON file cannot be parsed.
    #[error("{}:{}:{}: not valid JSON: {source}", path.display(), source.line(), source.column())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },

    /// A model configuration lacks a key or holds a value of the wrong kind.
    #[error("{}: `{key}` {what}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong ("is missing", "must be a positive integer, found ...").
        what: String,
    },

    /// A name-and-layout rule cannot be applied, or could not be undone afterwards.
    #[error("rule `{rule}`: {what}")]
    Transform {
        /// The rule as text.
        rule: String,
        /// Why it doesn't fit, naming tensors.
        what: String,
    },

    /// A model's name could not be turned into a folder: every place was tried.
    #[error("cannot find the model `{name}`{}\n{help}", Places(attempts))]
    Unresolved {
        /// The name or path asked for.
        name: String,
        /// Places tried, in order, with the reason each failed.
        attempts: Vec<Attempt>,
        /// What the user can do.
        help: String,
    },

    /// An option is malformed (a mirror, a model name, a revision).
    #[error("{what}")]
    Option {
        /// Which, why, and what is expected.
        what: String,
    },
}

/// One place where a model was looked for, and why it wasn't found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The place, in words ("local folder", "hub https://...").
    pub place: String,
    /// Why it failed.
    pub reason: String,
}

impl CheckpointError {
    /// Wraps a system error with what was attempted and where.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), what: what.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, what: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), tensor: shorten(tensor), what: what.into() }
    }
}

/// Cuts text that comes from a file, so that a hostile name cannot flood a message.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut short: String =
        text.chars().take(LIMIT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LIMIT).is_some() {
        short.push('…');
    }
    short
}

/// A byte count in the unit a person would choose.
pub(crate) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.2} GB", bytes / 1e9),
        }
    }
}

struct Suggestion<'a>(&'a Option<String>);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; the nearest name there is `{name}`"),
            None => Ok(()),
        }
    }
}

struct Places<'a>(&'a [Attempt]);

impl fmt::Display for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; tried:")?;
        for Attempt { place, reason } in self.0 {
            write!(f, "\n  - {place}: {reason}")?;
        }
        Ok(())
    }
}
