//! A data file, or a folder of pictures, repaired as far as nobody's judgement is needed, and what is left to judge.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use retune_data::image::{PictureOptions, check_pictures, open_pictures};
use retune_data::{
    Change, CheckOptions, Finding, Fix, Modality, OnBadRow, ReadOptions, RoleOverrides, Row, Severity, Table,
    Value, check_table, clean_table, read_repaired, read_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::data_check::{folder_recipe, inferred_roles};
use crate::dedupe::write_tables;
use crate::prepare::available_threads;

/// The columns of a list of changes.
const COLUMNS: [&str; 7] = ["fix", "file", "line", "column", "before", "after", "reason"];

/// How a file is repaired.
#[derive(Clone, Debug, Default)]
pub struct CleanFile {
    /// How it is read.
    pub read: ReadOptions,
    /// What its columns are for, as far as it was said.
    pub roles: RoleOverrides,
    /// Repairs that are not made.
    pub without: Vec<Fix>,
}

/// A repaired file.
#[derive(Clone, Debug, Serialize)]
pub struct CleanedFile {
    /// The file as it should be.
    #[serde(skip)]
    pub table: Table,
    /// How many rows there were, those that could not be read included.
    pub rows: usize,
    /// Everything that was changed.
    pub changes: Vec<Change>,
    /// What is still wrong, odd or worth knowing, by the lines of the original file.
    pub remaining: Vec<Finding>,
}

impl CleanedFile {
    /// Whether a fit would still refuse the data.
    pub fn has_errors(&self) -> bool {
        self.remaining.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The changes of each kind, in the order in which they were made.
    pub fn counts(&self) -> Vec<(Fix, usize)> {
        let of = |fix: Fix| self.changes.iter().filter(|change| change.fix == fix).count();
        Fix::ALL.into_iter().map(|fix| (fix, of(fix))).filter(|(_, changes)| *changes > 0).collect()
    }

    /// Writes the repaired file and the list of changes, as CSV, TSV or JSON Lines by their names. Pictures become a list of
    /// their files.
    ///
    /// # Errors
    /// If there is such a file already, or it cannot be written.
    pub fn write(&self, path: &Path, changes: &Path) -> Result<(), TrainError> {
        let paths = [path.to_owned(), changes.to_owned()];
        write_tables(&paths, [&self.table, &self.changes_table(changes)].into_iter())
    }

    fn changes_table(&self, path: &Path) -> Table {
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let row = |change: &Change| {
            vec![
                change.fix.name().into(),
                Value::Text(change.file.display().to_string()),
                change.line.map_or(Value::Null, |line| Value::Integer(line as i64)),
                text(&change.column),
                text(&change.before),
                text(&change.after),
                change.reason.as_str().into(),
            ]
        };
        Table {
            path: path.to_owned(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
            rows: (2..).zip(&self.changes).map(|(line, change)| Row { line, values: row(change) }).collect(),
            findings: Vec::new(),
        }
    }
}

/// Repairs a data file or a folder of pictures. The source is only read.
///
/// # Errors
/// If it cannot be read, its encoding cannot be told, no column can be the text, or more than half of its rows could not be
/// used.
pub fn clean_file(path: &Path, how: &CleanFile) -> Result<CleanedFile, TrainError> {
    if folder_recipe(path)?.is_some() {
        return Err(TrainError::Setting(format!(
            "{} holds the folders of several splits; name one of them",
            path.display()
        )));
    }
    let (mut table, mut changes) = if path.is_dir() {
        (read_table(path, &how.read)?, Vec::new())
    } else {
        read_repaired(path, &how.read, &how.without)?
    };
    let unreadable = changes.iter().filter(|change| change.fix == Fix::Unreadable).count();
    let rows = table.rows.len() + unreadable;
    let roles = inferred_roles(&table, &how.roles)?;
    if roles.modality == Modality::Image {
        changes.extend(open(&mut table, &roles, how)?);
    }
    changes.extend(clean_table(&mut table, &roles, &how.without)?);
    let mut remaining = check_table(&table, &roles, &CheckOptions::default());
    remaining.extend(check_pictures((&table, &roles), None));
    remaining.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(CleanedFile { table, rows, changes, remaining })
}

/// Opens pictures; those that cannot be opened are left out and listed.
fn open(table: &mut Table, roles: &retune_data::Roles, how: &CleanFile) -> Result<Vec<Change>, TrainError> {
    let leave_out = !how.without.contains(&Fix::Unreadable);
    let on_bad_row = if leave_out { OnBadRow::Skip } else { OnBadRow::Refuse };
    let before: Vec<(u64, String)> = table
        .rows
        .iter()
        .map(|row| (row.line, row.values[roles.content].as_text().unwrap_or_default().into_owned()))
        .collect();
    let known = table.findings.len();
    let options = PictureOptions { on_bad_row, threads: available_threads(), ..PictureOptions::default() };
    open_pictures(table, roles, &options)?;
    let found = table.findings.split_off(known);
    let (broken, others): (Vec<Finding>, Vec<Finding>) =
        found.into_iter().partition(|finding| finding.severity == Severity::Warning);
    table.findings.extend(others);
    let reasons: HashMap<&Path, &str> =
        broken.iter().map(|finding| (finding.file.as_path(), finding.message.as_str())).collect();
    let folder = if table.path.is_dir() {
        PathBuf::new()
    } else {
        table.path.parent().map(Path::to_owned).unwrap_or_default()
    };
    let mut kept = table.rows.iter().map(|row| row.line).peekable();
    let mut changes = Vec::new();
    for (line, name) in before {
        if kept.next_if_eq(&line).is_some() {
            continue;
        }
        let file = folder.join(&name);
        changes.push(Change {
            fix: Fix::Unreadable,
            reason: reasons.get(file.as_path()).map_or("cannot be opened", |reason| *reason).to_owned(),
            file: table.path.clone(),
            line: Some(line),
            column: Some(table.columns[roles.content].clone()),
            before: Some(name),
            after: None,
        });
    }
    Ok(changes)
}
