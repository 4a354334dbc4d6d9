//! `retune data clean`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use retune::data::{Change, Fix, ReadOptions, Severity};
use retune::train::{CleanFile, CleanedFile, TrainError, clean_file};
use serde_json::json;

use super::Columns;
use crate::console::{Failure, print_line};
use crate::format::{Align, Table, count, counted};

/// The exit code for data that a fit would refuse.
const REFUSED: u8 = 3;
/// At most this many changes of a kind are shown.
const SHOWN: usize = 3;
/// Characters of a cell that are shown.
const EXCERPT: usize = 40;

/// `retune data clean`
#[derive(Debug, Args)]
#[command(after_help = "Repairs what needs nobody's judgement, in this order:

  encoding      bytes of another encoding become UTF-8
  unreadable    a row that cannot be read, or a picture that cannot be opened, is left out
  mojibake      \"cafÃ©\" becomes \"café\"
  whitespace    at the ends of cells, taken away
  label-twins   spellings of one label (Spam, spam) become the most frequent one
  unusable      a row without text or label is left out
  duplicates    a row that says what an earlier one says, with the same label, is left out

The file itself is never changed. Beside the new one a list of every change is written: file and line, what stood there,
what stands there now, and why. What is doubtful is left as it is and told.

Examples:
  retune data clean reviews.csv --dry-run
  retune data clean reviews.csv --output reviews-clean.csv
  retune data clean reviews.csv --output reviews-clean.csv --without duplicates,label-twins
  retune data clean folder/of/pictures --output pictures.csv

Exit code: 0 if a fit would take what was written, 3 if it would still refuse it.")]
pub struct Clean {
    /// The data file, or a folder of pictures.
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// The file to write: .csv, .tsv or .jsonl.
    #[arg(long, alias = "out", value_name = "FILE", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// The list of changes to write [default: beside the output, as NAME.changes.csv].
    #[arg(long, value_name = "FILE")]
    pub changes: Option<PathBuf>,
    /// Repairs not to make.
    #[arg(long, value_name = "REPAIR", value_delimiter = ',')]
    pub without: Vec<String>,
    /// The file's encoding, such as windows-1251 [default: found out].
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// What the columns are for.
    #[command(flatten)]
    pub columns: Columns,
    /// Say what would be changed and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result, every change included, as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Clean) -> Result<ExitCode, Failure> {
    let without: Result<Vec<Fix>, _> = arguments.without.iter().map(|name| name.parse()).collect();
    let how = CleanFile {
        read: ReadOptions { encoding: arguments.encoding.clone(), ..ReadOptions::default() },
        roles: arguments.columns.roles(),
        without: without.map_err(TrainError::from)?,
    };
    let cleaned = clean_file(&arguments.path, &how)?;
    let output = arguments.output.as_deref().filter(|_| !arguments.dry_run);
    let written = output.map(|path| (path, arguments.changes.clone().unwrap_or_else(|| changes_path(path))));
    if let Some((path, changes)) = &written {
        cleaned.write(path, changes)?;
    }
    let paths = written.as_ref().map(|(path, changes)| (*path, changes.as_path()));
    if arguments.json {
        print_line(json!({
            "file": arguments.path,
            "rows": cleaned.rows,
            "kept": cleaned.table.rows.len(),
            "changes": serde_json::to_value(&cleaned.changes).map_err(Failure::other)?,
            "remaining": serde_json::to_value(&cleaned.remaining).map_err(Failure::other)?,
            "written": paths.map(|(path, _)| path),
            "changes_file": paths.map(|(_, changes)| changes),
        }));
    } else {
        print_line(to_text(arguments, &cleaned, paths));
    }
    Ok(if cleaned.has_errors() { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

/// `clean.csv` has its changes in `clean.changes.csv`.
fn changes_path(output: &Path) -> PathBuf {
    output.with_extension("changes.csv")
}

fn to_text(arguments: &Clean, cleaned: &CleanedFile, written: Option<(&Path, &Path)>) -> String {
    let mut text = format!(
        "{}: {} of {} kept, {}",
        arguments.path.display(),
        count(cleaned.table.rows.len()),
        counted(cleaned.rows, "row"),
        counted(cleaned.changes.len(), "change"),
    );
    let mut table = Table::new([("repair", Align::Left), ("changes", Align::Right)]);
    for (fix, changes) in cleaned.counts() {
        table.row([fix.name().to_owned(), count(changes)]);
    }
    if !cleaned.changes.is_empty() {
        text.push_str(&format!("\n\n{table}\n"));
    }
    for (fix, changes) in cleaned.counts() {
        let of_kind = cleaned.changes.iter().filter(|change| change.fix == fix);
        of_kind.take(SHOWN).for_each(|change| text.push_str(&format!("\n{}", change_text(change))));
        if changes > SHOWN {
            text.push_str(&format!("\n  and {} more of {}", count(changes - SHOWN), fix.name()));
        }
    }
    let left: Vec<String> = cleaned
        .remaining
        .iter()
        .filter(|finding| finding.severity != Severity::Info)
        .map(|finding| format!("\n{finding}"))
        .collect();
    if !left.is_empty() {
        text.push_str(&format!("\n\nleft for you to decide:{}", left.concat()));
    }
    match written {
        Some((path, changes)) => {
            text.push_str(&format!(
                "\n\nwritten: {}\nwritten: {}, the list of changes",
                path.display(),
                changes.display()
            ));
        }
        None => text.push_str("\n\nnothing was written"),
    }
    text
}

fn change_text(change: &Change) -> String {
    let mut text = change.file.display().to_string();
    if let Some(line) = change.line {
        text.push_str(&format!(":{line}"));
    }
    text.push_str(&format!(": {}", change.fix.name()));
    if let Some(column) = &change.column {
        text.push_str(&format!(", column `{column}`"));
    }
    text.push_str(&format!(": {}", change.reason));
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => text.push_str(&format!(": {} → {}", quoted(before), quoted(after))),
        (Some(before), None) => text.push_str(&format!("; left out: {}", quoted(before))),
        (None, None) => text.push_str("; left out"),
        (None, Some(_)) => {}
    }
    text
}

/// A cell's beginning in quotes, on one line.
fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(EXCERPT).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("“{}”", shown.replace(['\n', '\r', '\t'], " "))
}
