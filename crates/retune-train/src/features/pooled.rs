//! One row for each sample from its features, for what looks at features alone: scores of cuts, reviews of labels.

use retune_nn::{Environment, Forward, Trainable};

use super::{Prefix, fetch};
use crate::TrainError;
use crate::prepare::Prepared;
use crate::trainee::{Cut, Fetch, SampleBatch, Split};

/// The mean of the rows of each sample's features, as evaluation sees the sample: [samples, feature width]. A picture whose
/// features are kept is not opened.
///
/// # Errors
/// If a sample cannot be read.
pub(crate) fn pooled_features(
    prepared: &Prepared,
    prefix: &Prefix,
    model: &dyn Cut,
    (split, samples): (Split, &[u32]),
) -> Result<Vec<f32>, TrainError> {
    let Prepared { recipe, trainee, store, context, .. } = prepared;
    let width = model.feature_width(prefix.cut());
    let trainable = Trainable::none(store);
    let mut pooled = Vec::with_capacity(samples.len() * width);
    let mut batches = samples.chunks(recipe.train.per_device_eval_batch_size.max(1)).peekable();
    while let Some(samples) = batches.next() {
        let next = batches.peek().map(|next| Fetch::evaluation(split, next));
        fetch(Some(prefix), trainee, &Fetch::evaluation(split, samples), next.as_ref())?;
        let mut forward = Forward::new(Environment::evaluation(context, store, &trainable));
        let batch = SampleBatch { split, samples, first_occurrence: 0 };
        let features = prefix.features(&mut forward, trainee, model, batch);
        let mut values = features.values();
        for &sample in samples {
            let (own, others) = values.split_at(model.feature_len(split, sample, prefix.cut()));
            values = others;
            pooled.extend(mean_row(own, width));
        }
    }
    Ok(pooled)
}

fn mean_row(values: &[f32], width: usize) -> impl Iterator<Item = f32> {
    let mut mean = vec![0.0; width];
    let count = (values.len() / width.max(1)).max(1) as f64;
    for row in values.chunks_exact(width.max(1)) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / count);
    }
    mean.into_iter().map(|mean| mean as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_several_rows_is_their_mean() {
        let mean = |values: &[f32]| mean_row(values, 2).collect::<Vec<f32>>();
        assert_eq!(mean(&[1.0, 2.0, 3.0, 6.0]), [2.0, 4.0]);
        assert_eq!(mean(&[1.0, 2.0]), [1.0, 2.0]);
    }
}
