//! What is wrong, odd or worth knowing about a dataset, one [`Finding`] each.
//!
//! Readers and checks produce findings; the command line prints them, `--json` serializes them and the
//! report shows them. A finding never decides what happens next: its [`Severity`] says how bad it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing need be done.
    Info,
    /// Training works, but its result may mislead.
    Warning,
    /// Training on this data would fail or mean nothing.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// One thing found in a data file.
///
/// Displayed as `train.csv:17: error[ragged-row]: expected 3 fields, found 5 (is a quote missing?)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable kebab-case name, such as `ragged-row`.
    pub code: &'static str,
    /// The file it was found in.
    pub file: PathBuf,
    /// The line (for Parquet the row), counted from 1; `None` when it is about the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column's name, when it is about one column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What was found, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Finding {
    /// A finding about a whole file; narrow it with [`at_line`](Self::at_line) and
    /// [`in_column`](Self::in_column).
    pub fn new(severity: Severity, code: &'static str, file: &Path, message: impl Into<String>) -> Self {
        Finding {
            severity,
            code,
            file: file.to_path_buf(),
            line: None,
            column: None,
            message: message.into(),
            suggestion: None,
        }
    }

    /// An [`Severity::Error`] finding.
    pub fn error(code: &'static str, file: &Path, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, file, message)
    }

    /// A [`Severity::Warning`] finding.
    pub fn warning(code: &'static str, file: &Path, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, file, message)
    }

    /// An [`Severity::Info`] finding.
    pub fn info(code: &'static str, file: &Path, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, code, file, message)
    }

    /// Says on which line.
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// Says in which column.
    #[must_use]
    pub fn in_column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(formatter, "{line}:")?;
        }
        write!(formatter, " {}[{}]: ", self.severity, self.code)?;
        if let Some(column) = &self.column {
            write!(formatter, "column `{column}`: ")?;
        }
        formatter.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(formatter, " ({suggestion})")?;
        }
        Ok(())
    }
}

/// A text shortened to `limit` characters for a message, with line breaks made visible.
pub(crate) fn excerpt(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == limit {
            out.push('…');
            break;
        }
        match character {
            '\n' => out.push('⏎'),
            '\r' | '\t' => out.push(' '),
            control if control.is_control() => out.extend(control.escape_unicode()),
            other => out.push(other),
        }
    }
    out
}

/// `1 row`, `2 rows`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match noun {
        "class" => "classes",
        _ => return if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") },
    };
    if number == 1 { format!("1 {noun}") } else { format!("{number} {plural}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let finding = Finding::error("ragged-row", Path::new("train.csv"), "expected 3 fields, found 5")
            .at_line(17)
            .suggest("is a quote missing?");
        assert_eq!(
            finding.to_string(),
            "train.csv:17: error[ragged-row]: expected 3 fields, found 5 (is a quote missing?)"
        );
    }

    #[test]
    fn a_finding_about_a_column_names_it() {
        let finding =
            Finding::warning("constant-column", Path::new("a.csv"), "every value is `x`").in_column("c");
        assert_eq!(finding.to_string(), "a.csv: warning[constant-column]: column `c`: every value is `x`");
        let json = serde_json::to_string(&finding).unwrap();
        assert!(json.contains("\"severity\":\"warning\"") && !json.contains("suggestion"), "{json}");
    }

    #[test]
    fn excerpts_are_cut_between_characters_and_stay_on_one_line() {
        assert_eq!(excerpt("né\nx", 3), "né⏎…");
        assert_eq!(excerpt("ab", 2), "ab");
    }
}
