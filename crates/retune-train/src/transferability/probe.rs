//! A linear probe (Alain and Bengio 2016, <https://arxiv.org/abs/1610.01644>): multinomial logistic regression on
//! standardized features.

use super::{Labelled, dot};

/// Gradient steps; with momentum that is enough to classify, if not to the optimum's last digit.
const STEPS: usize = 200;
/// The L2 penalty, in units of one over the samples.
const PENALTY: f64 = 1.0;

/// Which of `asked` a linear classifier that was fitted to `known` classifies rightly.
pub(crate) fn linear_probe(known: &Labelled, asked: &Labelled) -> Vec<bool> {
    let (mean, deviation) = moments(known);
    let standardized = |data: &Labelled| {
        let rows = data.features.chunks_exact(data.width.max(1));
        let columns = |row: &[f64]| {
            let columns = row.iter().zip(&mean).zip(&deviation);
            columns.map(|((value, mean), deviation)| (value - mean) / deviation).collect::<Vec<f64>>()
        };
        rows.flat_map(columns).collect::<Vec<f64>>()
    };
    let inputs = Labelled { features: standardized(known), ..known.clone() };
    let weights = fit(&inputs);
    let asked = Labelled { features: standardized(asked), ..asked.clone() };
    (0..asked.len())
        .map(|sample| {
            let scores = scores(&weights, asked.row(sample));
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            best == Some(asked.classes[sample] as usize)
        })
        .collect()
}

/// Mean and standard deviation of each column; a constant one is divided by 1.
fn moments(data: &Labelled) -> (Vec<f64>, Vec<f64>) {
    let count = data.len().max(1) as f64;
    let (mut mean, mut variance) = (vec![0.0; data.width], vec![0.0; data.width]);
    for sample in 0..data.len() {
        mean.iter_mut().zip(data.row(sample)).for_each(|(mean, value)| *mean += value / count);
    }
    for sample in 0..data.len() {
        let columns = variance.iter_mut().zip(data.row(sample)).zip(&mean);
        columns.for_each(|((variance, value), mean)| *variance += (value - mean).powi(2) / count);
    }
    let deviation = |variance: f64| if variance > 1e-24 { variance.sqrt() } else { 1.0 };
    (mean, variance.into_iter().map(deviation).collect())
}

/// One row of weights per class, the bias last.
fn scores(weights: &[Vec<f64>], row: &[f64]) -> Vec<f64> {
    weights.iter().map(|weights| dot(weights, row) + weights[row.len()]).collect()
}

/// Accelerated gradient descent (Nesterov 1983) with the step that the greatest curvature allows.
fn fit(data: &Labelled) -> Vec<Vec<f64>> {
    let (count, width) = (data.len().max(1) as f64, data.width);
    // The softmax's curvature is at most a half, times the greatest eigenvalue of the columns' second moments, which for
    // standardized columns the trace bounds.
    let squares: f64 = data.features.iter().map(|value| value * value).sum::<f64>() / count + 1.0;
    let penalty = PENALTY / count;
    let rate = 1.0 / (0.5 * squares + penalty);
    let mut weights = vec![vec![0.0; width + 1]; data.class_count];
    let mut ahead = weights.clone();
    for step in 0..STEPS {
        let mut gradient: Vec<Vec<f64>> = ahead
            .iter()
            .map(|weights| {
                let columns = weights.iter().enumerate();
                columns.map(|(column, weight)| if column < width { penalty * weight } else { 0.0 }).collect()
            })
            .collect();
        for sample in 0..data.len() {
            let row = data.row(sample);
            let scores = scores(&ahead, row);
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exponentials: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            for (class, gradient) in gradient.iter_mut().enumerate() {
                let is_own = f64::from(u8::from(data.classes[sample] as usize == class));
                let error = (exponentials[class] / sum - is_own) / count;
                gradient.iter_mut().zip(row).for_each(|(gradient, value)| *gradient += error * value);
                gradient[width] += error;
            }
        }
        let momentum = step as f64 / (step as f64 + 3.0);
        for ((weights, ahead), gradient) in weights.iter_mut().zip(&mut ahead).zip(&gradient) {
            for ((weight, ahead), gradient) in weights.iter_mut().zip(ahead.iter_mut()).zip(gradient) {
                let next = *ahead - rate * gradient;
                *ahead = next + momentum * (next - *weight);
                *weight = next;
            }
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_a_line_separates_are_told_apart_whatever_the_scale() {
        // Class 1 lies where 1000·x − y is positive.
        let points = [
            (0.001, 4.0, 0),
            (0.004, 1.0, 1),
            (0.002, 6.0, 0),
            (0.006, 3.0, 1),
            (0.0, 0.5, 0),
            (0.005, 0.0, 1),
        ];
        let data = |points: &[(f64, f64, u32)]| Labelled {
            features: points.iter().flat_map(|&(x, y, _)| [x, y, 7.0]).collect(),
            width: 3,
            classes: points.iter().map(|point| point.2).collect(),
            class_count: 2,
        };
        let asked = [(0.0055, 2.0, 1), (0.0005, 3.0, 0), (0.0005, 3.0, 1)];
        assert_eq!(linear_probe(&data(&points), &data(&asked)), [true, true, false]);
    }
}
