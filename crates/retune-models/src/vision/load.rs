//! What image networks know about checkpoints of themselves.

use retune_nn::Declaration;

use super::lora::is_adapter;
use super::model::AUXILIARY;
use super::{ImageClassifier, position_table};
use crate::LoadRules;

/// Tensors that pretraining leaves in a checkpoint and a classifier does not use: other heads.
const EXPECTED_UNUSED: &[&str] =
    &["vit.pooler.", "deit.pooler.", "cls_classifier.", "distillation_classifier."];

/// What follows from a network's sizes and is kept in some checkpoints all the same.
const CONSTANTS: &[&str] = &[".relative_position_index", ".attn_mask"];

impl LoadRules for ImageClassifier {
    fn checkpoint_names(&self, name: &str) -> Vec<String> {
        [Some(name.to_owned()), self.network().older_name(name)].into_iter().flatten().collect()
    }

    /// Checkpoints made for inference lack an auxiliary head too.
    fn is_new_by_design(&self, declaration: &Declaration) -> bool {
        let name = &declaration.name;
        declaration.group == self.head_group() || is_adapter(name) || name.starts_with(AUXILIARY)
    }

    fn is_expected_unused(&self, name: &str) -> bool {
        EXPECTED_UNUSED.iter().any(|start| name.starts_with(start))
            || CONSTANTS.iter().any(|end| name.ends_with(end))
    }

    /// The first convolution for pictures of another number of channels, position embeddings for those of another size.
    fn adapt(&self, declaration: &Declaration, shape: &[usize], values: &[f32]) -> Option<Vec<f32>> {
        if let Some(table) = self.network().position_table().filter(|table| table.name == declaration.name) {
            return position_table::resample(table, [shape, &declaration.shape], self.layout(), values);
        }
        let (&[outputs, from, rows, columns], &[_, to, ..]) = (shape, declaration.shape.as_slice()) else {
            return None;
        };
        let same = [outputs, to, rows, columns];
        (declaration.name == self.network().input_weight() && declaration.shape == same && from > 0)
            .then(|| adapt_channels(from, to, rows * columns, values))
    }
}

/// A first convolution's weight [out, from, window] for `to` channels, as timm does it: the sum for one, else the channels
/// repeated and scaled so that a picture of equal channels gives what it gave.
fn adapt_channels(from: usize, to: usize, window: usize, values: &[f32]) -> Vec<f32> {
    let filters = values.chunks_exact(from * window);
    if to == 1 {
        let sum = |filter: &[f32], at: usize| -> f32 { filter.iter().skip(at).step_by(window).sum() };
        return filters.flat_map(|filter| (0..window).map(move |at| sum(filter, at))).collect();
    }
    let scale = from as f32 / to as f32;
    filters
        .flat_map(|filter| {
            let channels = filter.chunks_exact(window).cycle().take(to).flatten();
            channels.map(move |value| value * scale)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_convolution_answers_pictures_of_equal_channels_as_before() {
        // Two filters of three channels, one pixel: answers to a picture of ones are the sums 6 and 15.
        let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(adapt_channels(3, 1, 1, &weight), [6.0, 15.0]);
        let six: Vec<f32> =
            [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0].map(|w| w / 2.0).into();
        assert_eq!(adapt_channels(3, 6, 1, &weight), six);
        // Windows keep their places.
        assert_eq!(adapt_channels(2, 1, 2, &[1.0, 2.0, 10.0, 20.0]), [11.0, 22.0]);
    }
}
