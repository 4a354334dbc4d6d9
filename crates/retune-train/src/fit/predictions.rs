//! One row per sample of an evaluated split, with what the report shows beside it.

use std::collections::BTreeMap;
use std::path::Path;

use retune_nn::ParameterStore;
use retune_tasks::ClassificationTask;
use retune_tensor::Context;
use serde_json::json;

use crate::copies::Copies;
use crate::evaluate::Evaluation;
use crate::explain::{Explanation, write_heat_maps};
use crate::modality::ModalTrainee;
use crate::trainee::{Split, Trainee};
use crate::{RunFolder, TrainError};

/// One row per sample: target, prediction, scores, loss and the source's columns.
pub(super) fn write_predictions(
    folder: &RunFolder,
    model: (&Context, &ParameterStore),
    trainee: &ModalTrainee,
    task: &ClassificationTask,
    split: Split,
    (evaluation, copies): (&Evaluation, &Copies),
) -> Result<(), TrainError> {
    let predictions = folder.path("predictions");
    std::fs::create_dir_all(&predictions).map_err(TrainError::io(&predictions))?;
    let thumbnails = write_thumbnails(&predictions, trainee, split, &evaluation.losses)?;
    let heat_maps = match trainee.image() {
        Some(image) => write_heat_maps(&predictions, model, image, task, split, evaluation)?,
        None => BTreeMap::new(),
    };
    let path = predictions.join(format!("{}.jsonl", split.name()));
    retune_checkpoint::write_atomic(&path, |file| {
        let rows = evaluation.logits.chunks(task.outputs()).zip(&evaluation.losses);
        for (index, (logits, loss)) in rows.enumerate() {
            let mut prediction = task.prediction(logits);
            let mut row = trainee.source_row(split, index);
            let columns = row.shift_remove("columns");
            if let Some(name) = thumbnails.get(&index) {
                row.insert("thumbnail".to_owned(), json!(name));
            }
            if let Some(Explanation { file, output }) = heat_maps.get(&index) {
                row.insert("heat_map".to_owned(), json!(file));
                row.insert("heat_map_of".to_owned(), json!(task.labels.names()[*output]));
            }
            let answer = [
                ("target", task.target_json(trainee.target(split, index as u32))),
                ("prediction", json!(prediction.shift_remove("label"))),
                ("score", json!(prediction.shift_remove("score"))),
                ("scores", json!(prediction.shift_remove("scores"))),
                ("logits", json!(logits)),
                ("loss", json!(loss)),
                ("copy_of", copies.of(index).clone()),
                ("columns", json!(columns)),
            ];
            row.extend(answer.map(|(name, value)| (name.to_owned(), value)));
            serde_json::to_writer(&mut *file, &row)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Pictures of a split that the report can show.
const THUMBNAILS: usize = 32;

/// Writes small copies of the pictures with the greatest losses; their names by sample.
fn write_thumbnails(
    predictions: &Path,
    trainee: &ModalTrainee,
    split: Split,
    losses: &[f32],
) -> Result<BTreeMap<usize, String>, TrainError> {
    let Some(image) = trainee.image() else { return Ok(BTreeMap::new()) };
    let folder = predictions.join("thumbnails");
    std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
    let mut worst: Vec<usize> = (0..losses.len()).collect();
    worst.sort_by(|&a, &b| losses[b].total_cmp(&losses[a]));
    let mut names = BTreeMap::new();
    for &index in worst.iter().take(THUMBNAILS) {
        let Some(bytes) = image.thumbnail(split, index) else { continue };
        let name = format!("{}-{index:06}.jpg", split.name());
        retune_checkpoint::write_atomic(&folder.join(&name), |file| file.write_all(&bytes))?;
        names.insert(index, format!("thumbnails/{name}"));
    }
    Ok(names)
}
