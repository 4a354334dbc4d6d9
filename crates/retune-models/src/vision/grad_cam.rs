//! Where a network looked: Grad-CAM (Selvaraju et al. 2017) on the map that a family explains its answer by.

use retune_autograd::{Gradients, Var};
use retune_nn::{Environment, Forward, ParameterStore, Trainable};
use retune_tensor::Context;

use super::{Explained, ImageBatch, ImageClassifier};

/// How much each place of a map speaks for an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Rows.
    pub height: usize,
    /// Places in a row.
    pub width: usize,
    /// From 0 to 1, the greatest; [height, width].
    pub values: Vec<f32>,
}

impl HeatMap {
    /// The value at a place of a picture, each side from 0 to 1, between the middles of four places of the map.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let nearest = |at: f32, places: usize| -> (usize, usize, f32) {
            let at = (at * places as f32 - 0.5).clamp(0.0, (places - 1) as f32);
            let first = at as usize;
            (first, (first + 1).min(places - 1), at - first as f32)
        };
        let (left, right, x) = nearest(x, self.width);
        let (top, bottom, y) = nearest(y, self.height);
        let row = |y: usize| {
            let row = &self.values[y * self.width..];
            row[left] * (1.0 - x) + row[right] * x
        };
        row(top) * (1.0 - y) + row(bottom) * y
    }
}

impl ImageClassifier {
    /// For each picture of a batch, which places of its map raise the logit of `outputs`: the map's channels, each weighted by
    /// the mean of its gradient, added up, and what is below 0 left out. The map is the last one of features; a transformer
    /// whose head reads a token has its patches as they enter the last attention, beyond which they say nothing. `None`
    /// where nothing raises the logit.
    ///
    /// # Panics
    /// If there is not an output for each picture.
    pub fn grad_cam(
        &self,
        context: &Context,
        store: &ParameterStore,
        batch: &ImageBatch,
        outputs: &[usize],
    ) -> Vec<Option<HeatMap>> {
        let none = Trainable::none(store);
        let mut forward = Forward::new(Environment::evaluation(context, store, &none));
        forward.set_pictures(&batch.rows);
        let pixels = Var::constant(batch.pixels.clone());
        let Explained { map, tokens, grid: [height, width], logits } =
            self.network().explained(&mut forward, &pixels, &batch.rows);
        let pictures = batch.rows.sequences();
        assert_eq!(outputs.len(), pictures, "an output for each picture");
        let classes = logits.tensor().width();
        let mut chosen = context.zeros([pictures, classes]);
        for (row, &output) in chosen.make_mut().chunks_exact_mut(classes).zip(outputs) {
            row[output] = 1.0;
        }
        let mut leaves = forward.into_tape().backward(vec![(logits, chosen)], &mut Gradients::new([]));
        let Some(gradient) = leaves.take(&map) else { return vec![None; outputs.len()] };
        let channels = map.tensor().width();
        let rows = (tokens + height * width) * channels;
        map.tensor()
            .values()
            .chunks_exact(rows)
            .zip(gradient.values().chunks_exact(rows))
            .map(|(map, gradient)| {
                let [map, gradient] = [map, gradient].map(|rows| &rows[tokens * channels..]);
                let values = weighted(map, gradient, channels)?;
                Some(HeatMap { height, width, values })
            })
            .collect()
    }
}

/// The map's channels weighted by the means of their gradients, over its greatest value.
fn weighted(map: &[f32], gradient: &[f32], channels: usize) -> Option<Vec<f32>> {
    let mut weights = vec![0.0_f64; channels];
    for place in gradient.chunks_exact(channels) {
        weights.iter_mut().zip(place).for_each(|(weight, &value)| *weight += f64::from(value));
    }
    let sums = map.chunks_exact(channels).map(|place| {
        let sum: f64 = place.iter().zip(&weights).map(|(&value, weight)| f64::from(value) * weight).sum();
        sum.max(0.0)
    });
    let sums: Vec<f64> = sums.collect();
    let greatest = sums.iter().copied().fold(0.0, f64::max);
    let is_usable = greatest > 0.0 && greatest.is_finite();
    is_usable.then(|| sums.iter().map(|sum| (sum / greatest) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_the_middles_of_places_the_map_is_linear_and_beyond_them_flat() {
        let map = HeatMap { height: 1, width: 2, values: vec![0.0, 1.0] };
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|x| map.at(x, 0.3)), [0.0, 0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn channels_count_by_the_mean_of_their_gradients_and_what_speaks_against_is_left_out() {
        // Two places, two channels; the gradients' means are 1 and -2: 3·1 - 1·2 = 1, and 1·1 - 4·2 < 0.
        let map = [3.0, 1.0, 1.0, 4.0];
        assert_eq!(weighted(&map, &[0.5, -2.0, 1.5, -2.0], 2).unwrap(), [1.0, 0.0]);
        assert_eq!(weighted(&map, &[-1.0, -1.0, -1.0, -1.0], 2), None);
        assert_eq!(weighted(&map, &[f32::NAN; 4], 2), None);
    }
}
