//! A data file cut into training, validation and test files.

use std::path::{Path, PathBuf};

use retune_data::image::ImageDataset;
use retune_data::{
    Dataset, DatasetOptions, Example, Modality, OnMissing, ReadOptions, RoleOverrides, SplitOptions, Table,
    TextDataset, hold_out, hold_out_latest,
};

use crate::TrainError;
use crate::dedupe::{read_rows, table_extension, write_tables};
use crate::trainee::Split;

/// By what a file is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitBy {
    /// By the hash of what a row says, each class in its share.
    Class,
    /// By the hash of what a row says alone: a row never moves when others are appended.
    Hash,
    /// By time: the latest rows are the test, those before them the validation.
    Time {
        /// The column of times.
        column: String,
    },
}

/// How a file is split.
#[derive(Clone, Debug)]
pub struct SplitFile {
    /// The share of the rows that becomes the validation file; none if 0.
    pub validation: f64,
    /// The share of the rows that becomes the test file; none if 0.
    pub test: f64,
    /// By what.
    pub by: SplitBy,
    /// Rows with equal values in this column stay together.
    pub group_column: Option<String>,
    /// Another seed gives another split.
    pub seed: u64,
}

/// Cuts a file, or a folder of pictures, into tables. Rows with equal content stay together, except by time.
///
/// # Errors
/// If the file cannot be read, lacks a label, or cannot be cut so.
pub fn split_file(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
    how: &SplitFile,
) -> Result<Vec<(Split, Table)>, TrainError> {
    let (table, roles) = read_rows(path, options, overrides, None)?;
    let dataset_options = DatasetOptions { labels: None, on_missing: OnMissing::Refuse };
    match roles.modality {
        Modality::Text => split(&table, &TextDataset::new(table.clone(), roles, &dataset_options)?, how),
        Modality::Image => {
            split(&table, &ImageDataset::from_pictures(table.clone(), roles, &dataset_options)?, how)
        }
    }
}

fn split<E: Example>(
    table: &Table,
    dataset: &Dataset<E>,
    how: &SplitFile,
) -> Result<Vec<(Split, Table)>, TrainError> {
    let mut rest: Vec<usize> = (0..dataset.len()).collect();
    let mut tables = Vec::new();
    let mut taken = 0.0;
    for (split, fraction) in [(Split::Test, how.test), (Split::Validation, how.validation)] {
        if fraction <= 0.0 {
            continue;
        }
        let of_rest = fraction / (1.0 - taken);
        taken += fraction;
        // A seed of its own: by one hash the second part would lie inside the first.
        let seed = how.seed.wrapping_mul(2).wrapping_add(u64::from(split == Split::Validation));
        let remaining = dataset.select(&rest);
        let cut = match &how.by {
            SplitBy::Time { column } => hold_out_latest(&remaining, of_rest, column)?,
            by => {
                let stratified = *by == SplitBy::Class;
                let group_column = how.group_column.clone();
                hold_out(&remaining, of_rest, &SplitOptions { seed, stratified, group_column })?
            }
        };
        let rows = |chosen: &[usize]| chosen.iter().map(|&index| rest[index]).collect::<Vec<usize>>();
        let (held_out, train) = (rows(&cut.held_out), rows(&cut.train));
        tables.push((split, select(table, dataset, &held_out)));
        rest = train;
    }
    tables.push((Split::Train, select(table, dataset, &rest)));
    tables.reverse();
    Ok(tables)
}

/// The table's rows behind some examples.
fn select<E: Example>(table: &Table, dataset: &Dataset<E>, examples: &[usize]) -> Table {
    let rows: Vec<usize> = examples.iter().map(|&index| dataset.examples[index].id() as usize).collect();
    table.select(&rows)
}

/// Writes split tables as `train.csv`, `validation.csv` and `test.csv` (or `.tsv`, `.jsonl`, as the source is).
///
/// # Errors
/// If the folder has such a file already, or it cannot be written.
pub fn write_split(tables: &[(Split, Table)], folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let paths: Vec<PathBuf> = tables
        .iter()
        .map(|(split, table)| folder.join(format!("{}.{}", split.name(), table_extension(&table.path))))
        .collect();
    write_tables(&paths, tables.iter().map(|(_, table)| table))?;
    Ok(paths)
}
