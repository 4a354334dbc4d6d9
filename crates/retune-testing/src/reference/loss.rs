//! Losses of one row, with their gradients.

/// Cross-entropy of a class index with label smoothing, as PyTorch's `cross_entropy` without reduction.
pub fn cross_entropy(logits: &[f64], target: usize, label_smoothing: f64) -> (f64, Vec<f64>) {
    let classes = logits.len() as f64;
    let p = super::matrix::softmax(logits);
    let wanted =
        |j: usize| (1.0 - label_smoothing) * f64::from(u8::from(j == target)) + label_smoothing / classes;
    let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = greatest + logits.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln();
    let loss = (0..p.len()).map(|j| wanted(j) * (log_sum_exp - logits[j])).sum();
    (loss, (0..p.len()).map(|j| p[j] - wanted(j)).collect())
}

/// Mean binary cross-entropy, as PyTorch's `binary_cross_entropy_with_logits`.
pub fn bce_with_logits(logits: &[f64], targets: &[f64], pos_weights: &[f64]) -> (f64, Vec<f64>) {
    let classes = logits.len() as f64;
    let log_sigmoid = |x: f64| -((-x.abs()).exp().ln_1p() + (-x).max(0.0));
    let mut loss = 0.0;
    let mut gradient = Vec::new();
    for (j, (&x, &y)) in logits.iter().zip(targets).enumerate() {
        loss -= pos_weights[j] * y * log_sigmoid(x) + (1.0 - y) * log_sigmoid(-x);
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        gradient.push(((1.0 - y) * sigmoid - pos_weights[j] * y * (1.0 - sigmoid)) / classes);
    }
    (loss / classes, gradient)
}

/// Mean squared error.
pub fn mse(predictions: &[f64], targets: &[f64]) -> (f64, Vec<f64>) {
    let width = predictions.len() as f64;
    let differences: Vec<f64> = predictions.iter().zip(targets).map(|(p, t)| p - t).collect();
    let loss = differences.iter().map(|d| d * d).sum::<f64>() / width;
    (loss, differences.iter().map(|d| 2.0 * d / width).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assert_gradient, counter_normal_like, widen};

    #[test]
    fn gradients_are_those_of_the_losses() {
        let x = widen(&counter_normal_like("logits", 5, 3.0));
        let y = [0.0, 1.0, 1.0, 0.25, 0.0];
        let weights = [1.0, 2.0, 0.5, 1.5, 3.0];
        assert_gradient("ce", &x, &cross_entropy(&x, 2, 0.1).1, 1e-8, |x| cross_entropy(x, 2, 0.1).0);
        assert_gradient("bce", &x, &bce_with_logits(&x, &y, &weights).1, 1e-8, |x| {
            bce_with_logits(x, &y, &weights).0
        });
        assert_gradient("mse", &x, &mse(&x, &y).1, 1e-8, |x| mse(x, &y).0);
    }
}
