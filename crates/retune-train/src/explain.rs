//! Pictures for the report: those that the model got most wrong, small, and where it looked in some of them.

use std::collections::BTreeMap;
use std::path::Path;

use retune_data::image::{Pixels, thumbnail};
use retune_models::vision::{HeatMap, ImageBatch};
use retune_nn::ParameterStore;
use retune_tasks::{ClassificationTask, argmax};
use retune_tensor::Context;

use crate::TrainError;
use crate::evaluate::Evaluation;
use crate::image::ImageTrainee;
use crate::trainee::{Split, Trainee};

/// Wrong answers of a split that are explained, those with the greatest losses.
const WRONG: usize = 8;
/// Right answers, evenly from the surest to the least sure.
const RIGHT: usize = 4;
/// Pixels of a heat map's longer side.
const SIDE: usize = 176;
/// The colour of what mattered.
const HOT: [f32; 3] = [255.0, 120.0, 20.0];

/// A picture with what was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explanation {
    /// Its file, relative to the folder of predictions.
    pub file: String,
    /// The output that it explains.
    pub output: usize,
}

/// Writes heat maps of the worst answers and of a few right ones; by sample.
pub(crate) fn write_heat_maps(
    predictions: &Path,
    (context, store): (&Context, &ParameterStore),
    image: &ImageTrainee,
    task: &ClassificationTask,
    split: Split,
    evaluation: &Evaluation,
) -> Result<BTreeMap<usize, Explanation>, TrainError> {
    let folder = predictions.join("heat_maps");
    std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
    let mut explanations = BTreeMap::new();
    let outputs = task.outputs();
    for index in chosen(image, task, split, evaluation) {
        let output = argmax(&evaluation.logits[index * outputs..(index + 1) * outputs]);
        let Some(pixels) = image.plain(split, index) else { continue };
        let batch = image.views.batch(context, std::iter::once(Some(&pixels)), 1);
        let batch = ImageBatch::new(batch, &[0]);
        let heat = image.model.grad_cam(context, store, &batch, &[output]).into_iter().flatten().next();
        let Some(bytes) = heat.and_then(|heat| thumbnail(&overlay(pixels, &heat), SIDE)) else { continue };
        let name = format!("{}-{index:06}.jpg", split.name());
        retune_checkpoint::write_atomic(&folder.join(&name), |file| file.write_all(&bytes))?;
        explanations.insert(index, Explanation { file: format!("heat_maps/{name}"), output });
    }
    Ok(explanations)
}

/// The samples that are explained.
fn chosen(
    image: &ImageTrainee,
    task: &ClassificationTask,
    split: Split,
    evaluation: &Evaluation,
) -> Vec<usize> {
    let is_right = |&index: &usize| {
        let outputs = task.outputs();
        let prediction = task.prediction(&evaluation.logits[index * outputs..(index + 1) * outputs]);
        prediction.get("label") == Some(&task.target_json(image.target(split, index as u32)))
    };
    let mut order: Vec<usize> = (0..evaluation.losses.len()).collect();
    order.sort_by(|&a, &b| evaluation.losses[b].total_cmp(&evaluation.losses[a]));
    let (right, wrong): (Vec<usize>, Vec<usize>) = order.into_iter().partition(is_right);
    let shown = RIGHT.min(right.len());
    let spread = (0..shown).map(|place| right[place * (right.len() - 1) / (shown - 1).max(1)]);
    wrong.iter().copied().take(WRONG).chain(spread).collect()
}

/// The picture in grey, and in warm colour where the heat is.
fn overlay(pixels: Pixels, heat: &HeatMap) -> Pixels {
    let mut pixels = pixels.with_channels(3);
    let grey = pixels.clone().with_channels(1);
    let (width, height) = (pixels.width, pixels.height);
    for (place, pixel) in pixels.data.chunks_exact_mut(3).enumerate() {
        let x = (place % width) as f32 + 0.5;
        let y = (place / width) as f32 + 0.5;
        let heat = heat.at(x / width as f32, y / height as f32);
        let cold = 0.6 * f32::from(grey.data[place]);
        for (sample, hot) in pixel.iter_mut().zip(HOT) {
            let warm = 0.6 * f32::from(*sample) + 0.4 * hot;
            *sample = (cold + heat * (warm - cold)).round() as u8;
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mattered_has_colour_and_the_rest_is_grey() {
        let picture = Pixels::filled(4, 1, &[100, 200, 50]);
        let heat = HeatMap { height: 1, width: 2, values: vec![0.0, 1.0] };
        let shown = overlay(picture, &heat);
        let [red, green, blue] = [0, 1, 2].map(|channel| shown.at(0, 0)[channel]);
        assert!(red == green && green == blue);
        // 0.6 · 100 + 0.4 · 255, 0.6 · 200 + 0.4 · 120, 0.6 · 50 + 0.4 · 20.
        assert_eq!(shown.at(3, 0), [162, 168, 38]);
    }
}
