//! A data file cut into training, validation and test files, or into the folds of a cross-validation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use retune_data::image::ImageDataset;
use retune_data::{
    Contents, Dataset, DatasetOptions, Example, Modality, OnMissing, ReadOptions, RoleOverrides,
    SplitOptions, Table, TextDataset, hold_out, hold_out_latest, k_fold,
};

use crate::TrainError;
use crate::dedupe::{read_rows, table_extension, write_tables};
use crate::prepare::available_threads;
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
    /// The share of the rows that becomes the validation file; none if 0, and none with folds.
    pub validation: f64,
    /// The share of the rows that becomes the test file; none if 0.
    pub test: f64,
    /// By what.
    pub by: SplitBy,
    /// Rows with equal values in this column stay together.
    pub group_column: Option<String>,
    /// Keep near copies together, as [`crate::dedupe_file`] finds them. By time they are not.
    pub near_copies_together: bool,
    /// What is not the test file becomes so many pairs of training and validation files, each row once in validation.
    pub folds: Option<usize>,
    /// Another seed gives another split.
    pub seed: u64,
}

/// A part of a file that was split.
#[derive(Clone, Debug)]
pub struct SplitPart {
    /// Which fold it belongs to, counted from 1; none for what is not part of a cross-validation.
    pub fold: Option<usize>,
    /// What it is for.
    pub split: Split,
    /// Its rows.
    pub table: Table,
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
) -> Result<Vec<SplitPart>, TrainError> {
    let (table, roles) = read_rows(path, options, overrides, None)?;
    let dataset_options = DatasetOptions { labels: None, on_missing: OnMissing::Refuse };
    let together = if how.near_copies_together && !matches!(how.by, SplitBy::Time { .. }) {
        let contents = Contents::of_table(&table, &roles);
        let pairs = contents.similar(contents.usual_similarity(), available_threads());
        pairs.iter().map(|pair| (pair.first, pair.second)).collect()
    } else {
        Vec::new()
    };
    let whole = Whole { table: &table, together, how };
    match roles.modality {
        Modality::Text => whole.split(&TextDataset::new(table.clone(), roles, &dataset_options)?),
        Modality::Image => whole.split(&ImageDataset::from_pictures(table.clone(), roles, &dataset_options)?),
    }
}

/// What is split, and how.
struct Whole<'a> {
    table: &'a Table,
    /// Rows that stay together beside equal ones.
    together: Vec<(usize, usize)>,
    how: &'a SplitFile,
}

impl Whole<'_> {
    fn split<E: Example>(&self, dataset: &Dataset<E>) -> Result<Vec<SplitPart>, TrainError> {
        let how = self.how;
        let part = |fold, split, rows: &[usize]| SplitPart { fold, split, table: self.select(dataset, rows) };
        let mut rest: Vec<usize> = (0..dataset.len()).collect();
        let mut parts = Vec::new();
        let mut taken = 0.0;
        let validation = if how.folds.is_some() { 0.0 } else { how.validation };
        for (split, fraction) in [(Split::Test, how.test), (Split::Validation, validation)] {
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
                _ => hold_out(&remaining, of_rest, &self.options(seed, &rest))?,
            };
            let (held_out, train) = (chosen(&rest, &cut.held_out), chosen(&rest, &cut.train));
            parts.push(part(None, split, &held_out));
            rest = train;
        }
        let Some(folds) = how.folds else {
            parts.push(part(None, Split::Train, &rest));
            parts.reverse();
            return Ok(parts);
        };
        let seed = how.seed.wrapping_mul(2).wrapping_add(1);
        let cuts = k_fold(&dataset.select(&rest), folds, &self.options(seed, &rest))?;
        for (fold, cut) in (1..).zip(cuts) {
            for (split, rows) in [(Split::Train, &cut.train), (Split::Validation, &cut.held_out)] {
                parts.push(part(Some(fold), split, &chosen(&rest, rows)));
            }
        }
        Ok(parts)
    }

    /// How the examples `rest` of all are split.
    fn options(&self, seed: u64, rest: &[usize]) -> SplitOptions {
        let place: HashMap<usize, usize> =
            rest.iter().enumerate().map(|(place, &row)| (row, place)).collect();
        let pair = |(a, b): &(usize, usize)| Some((*place.get(a)?, *place.get(b)?));
        SplitOptions {
            seed,
            stratified: self.how.by == SplitBy::Class,
            group_column: self.how.group_column.clone(),
            together: self.together.iter().filter_map(pair).collect(),
        }
    }

    /// The table's rows behind some examples.
    fn select<E: Example>(&self, dataset: &Dataset<E>, examples: &[usize]) -> Table {
        let rows: Vec<usize> = examples.iter().map(|&index| dataset.examples[index].id() as usize).collect();
        self.table.select(&rows)
    }
}

fn chosen(rows: &[usize], places: &[usize]) -> Vec<usize> {
    places.iter().map(|&place| rows[place]).collect()
}

/// Writes split tables as `train.csv`, `validation.csv` and `test.csv` (or `.tsv`, `.jsonl`, as the source is), those of a
/// fold in a folder of its own, `fold-1` and so on.
///
/// # Errors
/// If the folder has such a file already, or it cannot be written.
pub fn write_split(parts: &[SplitPart], folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let path = |part: &SplitPart| {
        let folder = part.fold.map_or_else(|| folder.to_owned(), |fold| folder.join(format!("fold-{fold}")));
        folder.join(format!("{}.{}", part.split.name(), table_extension(&part.table.path)))
    };
    let paths: Vec<PathBuf> = parts.iter().map(path).collect();
    write_tables(&paths, parts.iter().map(|part| &part.table))?;
    Ok(paths)
}
