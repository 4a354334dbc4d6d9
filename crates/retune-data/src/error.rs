//! The crate's error type.
//!
//! What is wrong *in* the data is a [`Finding`] and reaches the caller as [`DataError::Refused`], which the
//! command line answers with exit code 3; everything else is a wrong setting or a failing disk.

use crate::finding::{Finding, Severity};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Why data could not be read, checked, split or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// The data itself is unfit; every error finding is listed, and warnings that may explain it.
    #[error("{}", list(.0))]
    Refused(Vec<Finding>),
    /// A column asked for by name is not in the file.
    #[error("{}: no column `{column}`{}; its columns are: {}", path.display(), did_you_mean(suggestion), available.join(", "))]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        column: String,
        /// The nearest existing name.
        suggestion: Option<String>,
        /// The file's columns.
        available: Vec<String>,
    },
    /// A setting is unknown or impossible.
    #[error("{0}")]
    Setting(String),
    /// The columns' roles could not be inferred.
    #[error("{}: {message}", path.display())]
    Roles {
        /// The file.
        path: PathBuf,
        /// What is missing or ambiguous, and which key settles it.
        message: String,
    },
    /// A split would leave a class out of one side.
    #[error("{0}")]
    Split(String),
    /// Tokenizer files are missing, broken, or do not fit the model.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// The tokenizer's file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A text is longer than the model takes and `over_length = "refuse"`.
    #[error(
        "{sequence} is {length} tokens long, more than max_length = {max_length} \
         (set over_length to \"truncate\", \"tail\", \"head_tail\" or \"window\", or shorten it)"
    )]
    TooLong {
        /// Which one: `line 17`, or `the text` outside of a dataset.
        sequence: String,
        /// Its tokens, special ones included.
        length: usize,
        /// The limit.
        max_length: usize,
    },
}

impl DataError {
    /// True when the data, not the settings or the machine, is at fault (exit code 3).
    pub fn is_refusal(&self) -> bool {
        matches!(self, DataError::Refused(_) | DataError::Split(_) | DataError::TooLong { .. })
    }

    /// The findings behind a refusal; empty for every other error.
    pub fn findings(&self) -> &[Finding] {
        match self {
            DataError::Refused(findings) => findings,
            _ => &[],
        }
    }

    pub(crate) fn refused(finding: Finding) -> Self {
        DataError::Refused(vec![finding])
    }

    pub(crate) fn reading(path: &std::path::Path, source: std::io::Error) -> Self {
        DataError::Io { action: "read", path: path.to_path_buf(), source }
    }

    pub(crate) fn writing(path: &std::path::Path, source: std::io::Error) -> Self {
        DataError::Io { action: "write", path: path.to_path_buf(), source }
    }
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn list(findings: &[Finding]) -> String {
    let mut out = String::new();
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    for finding in errors {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "{finding}");
    }
    out
}

/// The candidate nearest to `name`, if near enough to be a slip of the keyboard.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
