//! The page that `retune data check --html` writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retune::data::image::{DEFAULT_MAX_PIXELS, Picture, PictureSource, thumbnail};
use retune::data::{OnBadRow, ReadOptions};
use retune::train::recipe::BadRowPolicy;
use retune::train::{
    Cluster, DataExamination, FileOverview, OverviewOptions, Recipe, dedupe_file, dedupe_recipe,
};
use retune_report::{CopyCluster, CopyRow, DataFile, DataPage, write_data_page};

use super::{Source, show};
use crate::console::Failure;

/// Rows of each class on the page.
const ROWS: usize = 4;
/// Pixels of a thumbnail's longer side.
const THUMBNAIL: usize = 220;
/// At most this many pictures are shown.
const PICTURES: usize = 600;

/// Writes the page about the data that was examined. Files that cannot be read have their findings alone.
pub fn write(
    source: &Source,
    recipe: Option<&Recipe>,
    examination: &DataExamination,
    path: &Path,
) -> Result<(), Failure> {
    let tokenizer = show::tokenizer(None, recipe)?;
    let options = OverviewOptions { tokenizer: tokenizer.as_ref(), rows_per_class: ROWS };
    // What refuses a file stands among the findings.
    let is_readable = !examination.files.is_empty();
    let overviews = if is_readable { show::overview(source, recipe, &options)? } else { Vec::new() };
    let clusters = if is_readable { clusters(source, recipe)? } else { Vec::new() };
    let name = source
        .path
        .file_name()
        .map_or_else(|| source.path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let files: Vec<DataFile<'_>> = overviews
        .iter()
        .map(|FileOverview { split, profile }| DataFile {
            name: split.map_or_else(|| "rows", |split| split.name()).to_owned(),
            profile,
        })
        .collect();
    let is_pictures = overviews.iter().any(|file| file.profile.pictures.is_some());
    let clusters: Vec<CopyCluster> = clusters.into_iter().map(|found| cluster(found, is_pictures)).collect();
    let mut page = DataPage {
        name: &name,
        version: env!("CARGO_PKG_VERSION"),
        findings: &examination.findings,
        files: &files,
        clusters: &clusters,
        thumbnails: BTreeMap::new(),
    };
    if is_pictures {
        let shown = page.pictures().into_iter().take(PICTURES);
        page.thumbnails = shown.filter_map(|path| Some((path.clone(), small(&path)?))).collect();
    }
    write_data_page(&page, path).map_err(Failure::other)
}

/// A picture's thumbnail; none if it cannot be opened, which is a finding.
fn small(path: &Path) -> Option<Vec<u8>> {
    let picture = Picture::new(PictureSource::File(path.to_owned()));
    thumbnail(&picture.open(3, DEFAULT_MAX_PIXELS).ok()?, THUMBNAIL)
}

fn clusters(source: &Source, recipe: Option<&Recipe>) -> Result<Vec<Cluster>, Failure> {
    let folder = source.path.is_dir().then(|| {
        let mut recipe = Recipe::default();
        recipe.data.train = Some(source.path.display().to_string());
        recipe
    });
    let found = match recipe.or(folder.as_ref()) {
        Some(recipe) => {
            // What cannot be read stands among the findings.
            let mut recipe = recipe.clone();
            recipe.data.on_bad_row = BadRowPolicy::Skip;
            dedupe_recipe(&recipe, None)?
        }
        None => {
            let options = ReadOptions { on_bad_row: OnBadRow::Skip, ..ReadOptions::default() };
            dedupe_file(&source.path, &options, &source.roles()?, None)?
        }
    };
    Ok(found.clusters())
}

fn cluster(found: Cluster, is_pictures: bool) -> CopyCluster {
    let Cluster { rows, similarity, same_label, across } = found;
    let row = |row: retune::train::ClusterRow| CopyRow {
        place: format!("{}:{}", row.path.display(), row.line),
        picture: is_pictures.then(|| PathBuf::from(&row.content)),
        content: row.content.replace('\u{1f}', " ↔ "),
        label: row.label,
    };
    CopyCluster { rows: rows.into_iter().map(row).collect(), similarity, same_label, across }
}
