//! A folder of pictures as a [`Table`]: the subfolders' names are the labels, or a metadata file says them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{has_picture_extension, is_picture};
use super::picture::{Picture, PictureSource};
use crate::error::DataError;
use crate::finding::{Finding, count};
use crate::read::{ReadOptions, read_table};
use crate::table::{Row, Table, Value};

/// Files beside the pictures that say what is on them, as Hugging Face's `imagefolder` names them.
const METADATA: &[&str] = &["metadata.csv", "metadata.jsonl", "metadata.parquet"];
/// What folders of splits are called.
const TRAIN: &[&str] = &["train", "training"];
const VALIDATION: &[&str] = &["validation", "valid", "val", "dev"];
const TEST: &[&str] = &["test", "testing"];
/// What systems leave in folders; it is nobody's data.
const LITTER: &[&str] = &["thumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__"];
/// At most this many files that are no pictures are named.
const EXAMPLES: usize = 5;

/// Reads a folder: rows of `file` and, where there are subfolders, `label`. Order is that of the names, whatever the
/// file system's is.
pub(crate) fn read(folder: &Path, options: &ReadOptions) -> Result<Table, DataError> {
    if let Some(path) = METADATA.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        let mut table = read_table(&path, options)?;
        unnamed_by(&mut table, folder)?;
        return Ok(table);
    }
    let entries = visible(folder)?;
    let (classes, entries): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.into_iter().partition(|path| path.is_dir());
    let mut findings = Vec::new();
    let mut others = Vec::new();
    let mut rows = Vec::new();
    let mut add = |path: PathBuf, label: Option<&str>, others: &mut Vec<PathBuf>| {
        if !may_be_picture(&path) {
            others.push(path);
            return;
        }
        let picture = Value::Picture(Arc::new(Picture::new(PictureSource::File(path))));
        let label = label.map(Value::from);
        rows.push(Row {
            line: rows.len() as u64 + 1,
            values: std::iter::once(picture).chain(label).collect(),
        });
    };
    if classes.is_empty() {
        entries.into_iter().for_each(|path| add(path, None, &mut others));
    } else {
        let loose = entries.iter().filter(|path| has_picture_extension(path)).count();
        if loose > 0 {
            let message = format!("{} beside the class folders left out", count(loose, "picture"));
            let advice = "move them into the folder of their class";
            findings.push(Finding::warning("loose-picture", folder, message).suggest(advice));
        }
        for class in &classes {
            let name = class.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let files = walk(class)?;
            if files.is_empty() {
                let message = "the class folder is empty: no model can learn it";
                findings.push(Finding::warning("empty-class", class, message));
            }
            files.into_iter().for_each(|path| add(path, Some(&name), &mut others));
        }
    }
    if rows.is_empty() {
        let message = "the folder holds no pictures";
        let advice =
            "it needs pictures, one folder for each class, or a metadata.csv with a file_name column";
        return Err(DataError::refused(Finding::error("no-rows", folder, message).suggest(advice)));
    }
    for path in others.iter().take(EXAMPLES) {
        findings.push(Finding::warning("other-file", path, "is no picture and was left out"));
    }
    if others.len() > EXAMPLES {
        let message = format!("{} in all are no pictures and were left out", count(others.len(), "file"));
        findings.push(Finding::warning("other-file", folder, message));
    }
    let columns = if classes.is_empty() { vec!["file"] } else { vec!["file", "label"] };
    let columns = columns.into_iter().map(str::to_owned).collect();
    Ok(Table { path: folder.to_path_buf(), columns, rows, findings })
}

/// The folders of the training, validation and test pictures in a folder that is divided so.
///
/// # Errors
/// [`DataError::Io`] when the folder cannot be listed.
pub fn split_folders(folder: &Path) -> Result<Option<[Option<PathBuf>; 3]>, DataError> {
    let folders: Vec<PathBuf> = visible(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let named = |names: &[&str]| {
        names.iter().find_map(|known| folders.iter().find(|path| name(path) == *known).cloned())
    };
    let found = [named(TRAIN), named(VALIDATION), named(TEST)];
    let all = found.iter().flatten().count() == folders.len();
    Ok((all && found[0].is_some()).then_some(found))
}

/// Warns of pictures beside a metadata file that no row of it names.
fn unnamed_by(table: &mut Table, folder: &Path) -> Result<(), DataError> {
    let pictures = walk(folder)?.into_iter().filter(|path| has_picture_extension(path)).count();
    if pictures > table.rows.len() {
        let message = format!(
            "{} in the folder, but {} here",
            count(pictures, "picture"),
            count(table.rows.len(), "row")
        );
        table.findings.push(Finding::warning("unlisted-picture", &table.path, message));
    }
    Ok(())
}

/// A folder's entries in the order of their names, without hidden ones and what systems leave there.
fn visible(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |error| DataError::reading(folder, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !LITTER.contains(&name.to_lowercase().as_str()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// All files below a folder, in the order of their paths. Links to folders are followed, but not back up.
fn walk(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    const DEEPEST: usize = 32;
    fn into(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
        if depth > DEEPEST {
            let message = format!("folders are nested more than {DEEPEST} deep: does a link lead back up?");
            return Err(DataError::refused(Finding::error("deep-folder", folder, message)));
        }
        for path in visible(folder)? {
            if path.is_dir() {
                into(&path, depth + 1, files)?;
            } else {
                files.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    into(folder, 0, &mut files)?;
    Ok(files)
}

/// Whether a file is called like a picture or, called otherwise, begins like one.
fn may_be_picture(path: &Path) -> bool {
    if has_picture_extension(path) {
        return true;
    }
    let mut start = [0; 32];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut start));
    read.is_ok_and(|length| is_picture(&start[..length]))
}
