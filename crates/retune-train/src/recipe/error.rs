//! What can be wrong with a recipe.

use std::path::PathBuf;

/// A recipe is wrong. The message begins with the place: file and line, or the override.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot read the recipe: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: not valid TOML: {problem}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// There is no such section or key.
    #[error("{place}: unknown {what}{hint}")]
    Unknown {
        /// File and line, or the override.
        place: String,
        /// The section or key.
        what: String,
        /// What was probably meant; begins with its own punctuation.
        hint: String,
    },
    /// A value has the wrong type, is out of range, or is none of those allowed.
    #[error("{place}: {key} {expected}, found {found}{hint}")]
    Mismatch {
        /// File and line, or the override.
        place: String,
        /// The key and its section.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
        /// What was probably meant; empty, or begins with its own punctuation.
        hint: String,
    },
    /// A value does not fit the others, the model or the data.
    #[error("{place}: {key}: {problem}")]
    Value {
        /// File and line, or the override.
        place: String,
        /// The key and its section.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An override is not `key=value`, or its key is not unique.
    #[error("override \"{text}\": {problem}")]
    Override {
        /// The override.
        text: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The recipe cannot be written as TOML.
    #[error("recipe: cannot be written as TOML: {reason}")]
    Unwritable {
        /// What the serializer says.
        reason: String,
    },
}
