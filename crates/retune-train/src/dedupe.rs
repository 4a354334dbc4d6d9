//! Copies and near copies in data files: found, shown, and left out of what is written.
//!
//! A test file is never changed. What stands in it is taken out of validation and training, what stands in validation out
//! of training, and within a file all but the first of rows alike.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use retune_data::image::{PictureOptions, open_pictures};
use retune_data::{
    Contents, Modality, ReadOptions, RoleOverrides, Roles, Table, Value, read_table, write_table,
};
use serde::Serialize;

use crate::TrainError;
use crate::data_check::{folder_recipe, inferred_roles, recipe_roles};
use crate::prepare::{available_threads, expand_folders, read_options, training_path};
use crate::recipe::Recipe;
use crate::trainee::Split;

/// A row that says what an earlier one says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copy {
    /// The split it is in; none for a single file.
    pub split: Option<Split>,
    /// Its file.
    pub path: PathBuf,
    /// Its line.
    pub line: u64,
    /// The split of the other row.
    pub of_split: Option<Split>,
    /// The other row's file.
    pub of_path: PathBuf,
    /// The other row's line.
    pub of_line: u64,
    /// Texts: the Jaccard similarity of their character 5-grams; 1 if they differ in case, punctuation and spacing at most.
    /// Pictures: the share of equal bits of their fingerprints; 1 if the files are equal.
    pub similarity: f64,
    /// Whether both have the same label.
    pub same_label: bool,
    /// What it says: the text, or the picture's name.
    pub content: String,
    /// What the other row says.
    pub of_content: String,
    /// Its label, or labels.
    pub label: String,
    /// The other row's label, or labels.
    pub of_label: String,
}

/// Rows that say the same thing, directly or through others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// The rows; the first is the one that the others copy.
    pub rows: Vec<ClusterRow>,
    /// The least similarity of a row to the one that it copies.
    pub similarity: f64,
    /// Whether all have the same label.
    pub same_label: bool,
    /// Whether they stand in several files.
    pub across: bool,
}

/// A row of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterRow {
    /// Its file.
    pub path: PathBuf,
    /// Its line.
    pub line: u64,
    /// What it says.
    pub content: String,
    /// Its label, or labels.
    pub label: String,
}

/// A file of the data without its copies.
#[derive(Clone, Debug)]
pub struct DedupedFile {
    /// The split that it is.
    pub split: Option<Split>,
    /// The rows that stay.
    pub table: Table,
    /// How many rows there were.
    pub rows: usize,
    /// Copies of rows of the same file.
    pub copies_within: usize,
    /// Copies of rows of another file.
    pub copies_across: usize,
}

/// What looking for copies found.
#[derive(Clone, Debug, Default)]
pub struct Deduped {
    /// The files, test first.
    pub files: Vec<DedupedFile>,
    /// The copies.
    pub copies: Vec<Copy>,
}

impl Deduped {
    /// The copies gathered by what they copy: those across files first, then those with different labels, then the largest.
    pub fn clusters(&self) -> Vec<Cluster> {
        let mut cluster_of: HashMap<(&Path, u64), usize> = HashMap::new();
        let mut clusters: Vec<Cluster> = Vec::new();
        for copy in &self.copies {
            let place = match cluster_of.get(&(copy.of_path.as_path(), copy.of_line)) {
                Some(&place) => place,
                None => {
                    let (path, line) = (copy.of_path.clone(), copy.of_line);
                    let first = ClusterRow {
                        path,
                        line,
                        content: copy.of_content.clone(),
                        label: copy.of_label.clone(),
                    };
                    clusters.push(Cluster {
                        rows: vec![first],
                        similarity: 1.0,
                        same_label: true,
                        across: false,
                    });
                    cluster_of.insert((copy.of_path.as_path(), copy.of_line), clusters.len() - 1);
                    clusters.len() - 1
                }
            };
            cluster_of.insert((copy.path.as_path(), copy.line), place);
            let cluster = &mut clusters[place];
            cluster.similarity = cluster.similarity.min(copy.similarity);
            cluster.same_label &= copy.same_label;
            cluster.across |= copy.path != copy.of_path;
            let (path, line) = (copy.path.clone(), copy.line);
            let (content, label) = (copy.content.clone(), copy.label.clone());
            cluster.rows.push(ClusterRow { path, line, content, label });
        }
        clusters.sort_by_key(|cluster| {
            (!cluster.across, cluster.same_label, std::cmp::Reverse(cluster.rows.len()))
        });
        clusters
    }

    /// Writes every file without its copies into a folder, under its own name. Parquet and JSON become JSON Lines, a folder
    /// of pictures a CSV file that lists them.
    ///
    /// # Errors
    /// If the folder has such a file already, or it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
        let path = |file: &DedupedFile| {
            let path = &file.table.path;
            // The name of a folder may have a dot in it that begins no extension.
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            let name = name.unwrap_or_default().to_string_lossy();
            folder.join(format!("{name}.{}", table_extension(path)))
        };
        let paths: Vec<PathBuf> = self.files.iter().map(path).collect();
        write_tables(&paths, self.files.iter().map(|file| &file.table))?;
        Ok(paths)
    }
}

/// The format in which a part of a file is written: its own, if it can be written.
pub(crate) fn table_extension(path: &Path) -> &'static str {
    let own = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    match own.as_deref() {
        Some("tsv") => "tsv",
        Some("jsonl" | "ndjson" | "json" | "parquet") => "jsonl",
        _ => "csv",
    }
}

/// Writes tables to files that must not be there yet.
pub(crate) fn write_tables<'a>(
    paths: &[PathBuf],
    tables: impl Iterator<Item = &'a Table>,
) -> Result<(), TrainError> {
    for (index, path) in paths.iter().enumerate() {
        if path.exists() || paths[..index].contains(path) {
            return Err(TrainError::Setting(format!(
                "{} is there already; choose another place",
                path.display()
            )));
        }
    }
    let tables: Vec<Table> = tables.map(with_picture_paths).collect::<Result<_, _>>()?;
    paths.iter().zip(&tables).try_for_each(|(path, table)| Ok(write_table(table, path)?))
}

/// A table with the full paths of its pictures, so that it can stand in any folder.
fn with_picture_paths(table: &Table) -> Result<Table, TrainError> {
    let mut table = table.clone();
    for row in &mut table.rows {
        for value in &mut row.values {
            let Value::Picture(picture) = &*value else { continue };
            let Some(path) = picture.path() else {
                return Err(TrainError::Setting(format!(
                    "{}: row {} holds the picture itself, which a table of text cannot; write the pictures to files first",
                    table.path.display(),
                    row.line
                )));
            };
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            *value = Value::Text(path.display().to_string());
        }
    }
    Ok(table)
}

/// Reads a data file or folder for a look at its rows; pictures are opened. Roles are those of the training table, if
/// there is one.
pub(crate) fn read_rows(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
    training: Option<(&Table, &Roles)>,
) -> Result<(Table, Roles), TrainError> {
    let mut table = read_table(path, options)?;
    let roles = match training {
        Some((train, roles)) => roles.in_table(train, &table, false)?,
        None => inferred_roles(&table, overrides)?,
    };
    if roles.modality == Modality::Image {
        let (on_bad_row, threads) = (options.on_bad_row, available_threads());
        let pictures = PictureOptions { on_bad_row, threads, ..PictureOptions::default() };
        open_pictures(&mut table, &roles, &pictures)?;
    }
    Ok((table, roles))
}

/// Finds copies in the files of a recipe. `similarity` is the least that counts, none for what is usual.
///
/// # Errors
/// If a file cannot be read or the recipe names columns that are not there.
pub fn dedupe_recipe(recipe: &Recipe, similarity: Option<f64>) -> Result<Deduped, TrainError> {
    let mut recipe = recipe.clone();
    expand_folders(&mut recipe, false)?;
    let (options, overrides) = (read_options(&recipe)?, recipe_roles(&recipe));
    let (train, roles) = read_rows(training_path(&recipe)?, &options, &overrides, None)?;
    let mut tables = Vec::new();
    for (split, path) in [(Split::Test, &recipe.data.test), (Split::Validation, &recipe.data.validation)] {
        let Some(path) = path else { continue };
        let (table, roles) = read_rows(Path::new(path), &options, &overrides, Some((&train, &roles)))?;
        tables.push((Some(split), table, roles));
    }
    tables.push((Some(Split::Train), train, roles));
    Ok(dedupe(tables, similarity))
}

/// Finds copies in one file, or in a folder of pictures with its splits.
///
/// # Errors
/// If it cannot be read or no column can be the text.
pub fn dedupe_file(
    path: &Path,
    options: &ReadOptions,
    overrides: &RoleOverrides,
    similarity: Option<f64>,
) -> Result<Deduped, TrainError> {
    if let Some(recipe) = folder_recipe(path)? {
        return dedupe_recipe(&recipe, similarity);
    }
    let (table, roles) = read_rows(path, options, overrides, None)?;
    Ok(dedupe(vec![(None, table, roles)], similarity))
}

/// Finds copies in tables, the ones that matter most first.
fn dedupe(tables: Vec<(Option<Split>, Table, Roles)>, similarity: Option<f64>) -> Deduped {
    let places: Vec<(usize, usize)> = tables
        .iter()
        .enumerate()
        .flat_map(|(table, (_, content, _))| (0..content.rows.len()).map(move |row| (table, row)))
        .collect();
    let every = tables.iter().map(|(_, table, roles)| Contents::of_table(table, roles));
    let Some(contents) = every.reduce(Contents::joined) else { return Deduped::default() };
    let content = |(table, row): (usize, usize)| -> String {
        let (_, table, roles) = &tables[table];
        let columns = [Some(roles.content), roles.text_pair].into_iter().flatten();
        let cells = columns.map(|column| table.rows[row].values[column].as_text().unwrap_or_default());
        cells.collect::<Vec<_>>().join("\u{1f}")
    };
    let label = |(table, row): (usize, usize)| -> Vec<String> {
        let (_, content, roles) = &tables[table];
        let cells = roles.labels.iter().map(|&column| &content.rows[row].values[column]);
        cells.map(|cell| cell.as_text().unwrap_or_default().trim().to_owned()).collect()
    };
    let similarity = similarity.unwrap_or_else(|| contents.usual_similarity());
    let pairs = contents.similar(similarity, available_threads());
    let mut is_copy: Vec<Vec<bool>> =
        tables.iter().map(|(_, content, _)| vec![false; content.rows.len()]).collect();
    let mut counts = vec![(0, 0); tables.len()];
    let mut copies = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let (place, of) = (places[pair.second], places[pair.first]);
        let ((split, table, _), (of_split, of_table, _)) = (&tables[place.0], &tables[of.0]);
        let (within, across) = &mut counts[place.0];
        *(if place.0 == of.0 { within } else { across }) += 1;
        is_copy[place.0][place.1] = *split != Some(Split::Test);
        copies.push(Copy {
            split: *split,
            path: table.path.clone(),
            line: table.rows[place.1].line,
            of_split: *of_split,
            of_path: of_table.path.clone(),
            of_line: of_table.rows[of.1].line,
            similarity: pair.similarity,
            same_label: label(place) == label(of),
            content: content(place),
            of_content: content(of),
            label: label(place).join(", "),
            of_label: label(of).join(", "),
        });
    }
    let files = tables.into_iter().zip(is_copy).zip(counts).map(|(((split, table, _), is_copy), counts)| {
        let kept: Vec<usize> = (0..table.rows.len()).filter(|&row| !is_copy[row]).collect();
        DedupedFile {
            split,
            rows: table.rows.len(),
            table: table.select(&kept),
            copies_within: counts.0,
            copies_across: counts.1,
        }
    });
    Deduped { files: files.collect(), copies }
}
