//! Layer normalization.

/// Forward of one row: `[y, …]`, mean and reciprocal standard deviation.
pub fn layer_norm(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> (Vec<f64>, f64, f64) {
    let width = x.len() as f64;
    let mean = x.iter().sum::<f64>() / width;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width;
    let rstd = 1.0 / (variance + eps).sqrt();
    let y = (0..x.len()).map(|j| (x[j] - mean) * rstd * gamma[j] + beta[j]).collect();
    (y, mean, rstd)
}

/// Backward of one row: gradients of x, gamma and beta.
pub fn layer_norm_backward(
    x: &[f64],
    dy: &[f64],
    gamma: &[f64],
    mean: f64,
    rstd: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let width = x.len() as f64;
    let normalized: Vec<f64> = x.iter().map(|v| (v - mean) * rstd).collect();
    let scaled: Vec<f64> = (0..x.len()).map(|j| dy[j] * gamma[j]).collect();
    let plain = scaled.iter().sum::<f64>() / width;
    let weighted = (0..x.len()).map(|j| scaled[j] * normalized[j]).sum::<f64>() / width;
    let dx = (0..x.len()).map(|j| rstd * (scaled[j] - plain - normalized[j] * weighted)).collect();
    let dgamma = (0..x.len()).map(|j| dy[j] * normalized[j]).collect();
    (dx, dgamma, dy.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assert_gradient, counter_normal_like, widen};

    #[test]
    fn backward_is_the_gradient_of_forward() {
        let draw = |name| widen(&counter_normal_like(name, 7, 1.0));
        let (x, gamma, beta, dy) = (draw("x"), draw("gamma"), draw("beta"), draw("dy"));
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
            layer_norm(x, gamma, beta, 1e-5).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        let (_, mean, rstd) = layer_norm(&x, &gamma, &beta, 1e-5);
        let (dx, dgamma, dbeta) = layer_norm_backward(&x, &dy, &gamma, mean, rstd);
        assert_gradient("dx", &x, &dx, 1e-7, |x| loss(x, &gamma, &beta));
        assert_gradient("dgamma", &gamma, &dgamma, 1e-7, |gamma| loss(&x, gamma, &beta));
        assert_gradient("dbeta", &beta, &dbeta, 1e-7, |beta| loss(&x, &gamma, beta));
    }
}
