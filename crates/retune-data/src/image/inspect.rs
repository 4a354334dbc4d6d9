//! Opens every picture of a table once: what is broken, cut off, empty, missing or absurdly large is found before the
//! first step, and dealt with as the recipe says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::decode::{DEFAULT_MAX_PIXELS, PictureProblem, decode, misnamed};
use super::duplicates::fingerprint;
use super::picture::{Picture, PictureFacts, PictureSource};
use super::pixels::Pixels;
use crate::error::DataError;
use crate::finding::Finding;
use crate::read::{BadRows, OnBadRow};
use crate::roles::Roles;
use crate::table::{Table, Value};

/// How pictures are opened.
#[derive(Debug, Clone)]
pub struct PictureOptions {
    /// What to do with a picture that cannot be opened.
    pub on_bad_row: OnBadRow,
    /// More pixels than this are refused.
    pub max_pixels: u64,
    /// Threads that open pictures; the result does not depend on it.
    pub threads: usize,
}

impl Default for PictureOptions {
    fn default() -> Self {
        PictureOptions { on_bad_row: OnBadRow::Refuse, max_pixels: DEFAULT_MAX_PIXELS, threads: 1 }
    }
}

/// At most this many pictures with another format than their name says are listed.
const MISNAMED_EXAMPLES: usize = 5;

/// Opens all pictures of a table. Its content cells become [`Picture`]s with [`PictureFacts`]; rows whose picture cannot
/// be opened are taken out or refused, each with a finding.
///
/// Paths are relative to the table's own folder.
///
/// # Errors
/// [`DataError::Refused`] when pictures cannot be opened and are not to be left out, or none is left.
pub fn open_pictures(table: &mut Table, roles: &Roles, options: &PictureOptions) -> Result<(), DataError> {
    let column = roles.content;
    let folder = if table.path.is_dir() { table.path.clone() } else { parent(&table.path) };
    let pictures: Vec<Option<Picture>> =
        table.rows.iter().map(|row| picture_of(&row.values[column], &folder)).collect();
    let opened = in_parallel(options.threads, pictures.len(), |index| {
        pictures[index].as_ref().map(|picture| inspect(picture, options.max_pixels))
    });

    let mut bad = BadRows::pictures(&table.path, options.on_bad_row);
    let mut wrong_names = Vec::new();
    let mut keep = vec![true; table.rows.len()];
    for (index, (picture, result)) in pictures.into_iter().zip(opened).enumerate() {
        // A blank cell is dealt with as a missing text is.
        let (Some(mut picture), Some(result)) = (picture, result) else { continue };
        let row = &mut table.rows[index];
        match result {
            Ok((facts, wrong_name)) => {
                wrong_names.extend(wrong_name.map(|format| (picture.path().map(Path::to_path_buf), format)));
                picture.facts = Some(facts);
                row.values[column] = Value::Picture(Arc::new(picture));
            }
            Err(problem) => {
                keep[index] = false;
                let finding = match picture.path() {
                    Some(path) => Finding::error(problem.code, path, problem.message),
                    None => Finding::error(problem.code, &table.path, problem.message).at_line(row.line),
                };
                bad.push(finding.suggest(problem.advice))?;
            }
        }
    }
    let mut findings = Vec::new();
    bad.finish(&mut findings)?;
    table.findings.extend(findings);
    note_wrong_names(table, wrong_names);
    let mut kept = keep.into_iter();
    table.rows.retain(|_| kept.next().unwrap_or(true));
    if table.rows.is_empty() {
        let message = "no picture can be opened";
        return Err(DataError::refused(Finding::error("no-rows", &table.path, message)));
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The picture of a content cell; none for a blank one.
fn picture_of(value: &Value, folder: &Path) -> Option<Picture> {
    match value {
        Value::Picture(picture) => Some(Picture::clone(picture)),
        value if value.is_blank() => None,
        value => {
            let path = folder.join(value.as_text()?.trim());
            Some(Picture::new(PictureSource::File(path)))
        }
    }
}

/// Opens one picture; also says what format it has if its name says another.
fn inspect(
    picture: &Picture,
    max_pixels: u64,
) -> Result<(PictureFacts, Option<&'static str>), PictureProblem> {
    let mut wrong_name = None;
    let (sha256, pixels) = match &picture.source {
        PictureSource::Pixels(pixels) => (Sha256::digest(&pixels.data).into(), (**pixels).clone()),
        _ => {
            let bytes =
                picture.bytes().map_err(|error| PictureProblem::unreadable(&error))?.unwrap_or_default();
            wrong_name = picture.path().and_then(|path| misnamed(path, &bytes));
            (Sha256::digest(&bytes).into(), decode(&bytes, max_pixels)?)
        }
    };
    let Pixels { width, height, channels, .. } = pixels;
    Ok((PictureFacts { width, height, channels, sha256, fingerprint: fingerprint(pixels) }, wrong_name))
}

fn note_wrong_names(table: &mut Table, wrong_names: Vec<(Option<PathBuf>, &'static str)>) {
    let total = wrong_names.len();
    for (path, format) in wrong_names.into_iter().take(MISNAMED_EXAMPLES) {
        let path = path.unwrap_or_else(|| table.path.clone());
        let message = format!("is a {format} file by its content, and read as one");
        table.findings.push(Finding::info("misnamed-picture", &path, message));
    }
    if total > MISNAMED_EXAMPLES {
        let message = format!("{total} pictures in all have another format than their names say");
        table.findings.push(Finding::info("misnamed-picture", &table.path, message));
    }
}

/// `work(0)`, …, `work(count − 1)`, in order, computed by some threads.
fn in_parallel<T: Send>(threads: usize, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            done.push((index, work(index)));
        }
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut done = worker();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}
