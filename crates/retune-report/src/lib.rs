//! What a person reads after a run: `report.html`, the model card and TensorBoard files; and, before one, the page about
//! its data.
//!
//! Reads a finished or interrupted run folder (`log.jsonl`, `metrics.json`, `predictions/`, …) and writes beside
//! it. Trains nothing and knows no model: whatever a folder lacks is left out, whatever it holds is escaped.
#![forbid(unsafe_code)]

mod charts;
mod comparison;
mod data_page;
mod format;
pub mod log;
mod model_card;
mod page;
pub mod predictions;
mod run;
mod svg;
pub mod tensorboard;
mod verdict;

use std::io;
use std::path::{Path, PathBuf};

use comparison::Comparison;

pub use data_page::{CopyCluster, CopyRow, DataFile, DataPage, write_data_page};
pub use model_card::write_model_card;
pub use run::Run;
pub use tensorboard::{TensorBoardWriter, write_tensorboard};
pub use verdict::{Standing, Verdict};

/// Why a report, a model card or an event file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The run folder does not exist or is no folder.
    #[error("{path} is not a run folder; give the output_dir of a `retune fit`")]
    NoRunFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The finished file could not be put in its place.
    #[error(transparent)]
    Write(#[from] retune_checkpoint::CheckpointError),
}

/// Writes `report.html` into a run folder: one file that needs no network and no script.
///
/// Works on interrupted runs and on folders with missing or damaged files; what is damaged is named in the
/// report itself. The file is written under a temporary name and renamed.
///
/// # Errors
/// When the folder does not exist, a file in it cannot be read, or the report cannot be written.
pub fn write_report(run_folder: &Path) -> Result<(), ReportError> {
    let run = Run::read(run_folder)?;
    let html = page::render(&run);
    retune_checkpoint::write_atomic(&run_folder.join("report.html"), |file| file.write_all(html.as_bytes()))?;
    Ok(())
}

/// Writes `comparison.html` beside the `comparison.json` of a folder in which strategies were compared, if there is one: one
/// file that needs no network and no script. Returns its path.
///
/// # Errors
/// When the comparison cannot be read, or the page cannot be written.
pub fn write_comparison(folder: &Path) -> Result<Option<PathBuf>, ReportError> {
    let Some(found) = Comparison::read(folder)? else { return Ok(None) };
    let html = page::comparison::render(&found);
    let path = folder.join("comparison.html");
    retune_checkpoint::write_atomic(&path, |file| file.write_all(html.as_bytes()))?;
    Ok(Some(path))
}

/// The result of a run in one sentence that a person can check, as it heads the report.
///
/// # Errors
/// When the folder does not exist or a file in it cannot be read.
pub fn headline(run_folder: &Path) -> Result<Verdict, ReportError> {
    Ok(Verdict::of(&Run::read(run_folder)?))
}
