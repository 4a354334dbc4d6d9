//! Layer, root-mean-square, group and batch normalization.

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

/// Root-mean-square normalization of one row, and the row's reciprocal root mean square.
pub fn rms_norm(x: &[f64], gamma: &[f64], eps: f64) -> (Vec<f64>, f64) {
    let mean_square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let rrms = 1.0 / (mean_square + eps).sqrt();
    (x.iter().zip(gamma).map(|(x, gamma)| x * rrms * gamma).collect(), rrms)
}

/// Backward of one row: gradients of x and gamma.
pub fn rms_norm_backward(x: &[f64], dy: &[f64], gamma: &[f64], rrms: f64) -> (Vec<f64>, Vec<f64>) {
    let scaled: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| dy * gamma).collect();
    let weighted = scaled.iter().zip(x).map(|(s, x)| s * x * rrms).sum::<f64>() / x.len() as f64;
    let dx = scaled.iter().zip(x).map(|(s, x)| rrms * (s - x * rrms * weighted)).collect();
    (dx, dy.iter().zip(x).map(|(dy, x)| dy * x * rrms).collect())
}

/// Group normalization of `[batch, rows, channels]`, where `channels` is the weight's length.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// Images.
    pub batch: usize,
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// `[channels]`
    pub weight: Vec<f64>,
    /// `[channels]`
    pub bias: Vec<f64>,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// The image's group that element `index` of `elements` belongs to, counted over all images, and its channel.
    fn place(&self, elements: usize, index: usize) -> (usize, usize) {
        let channels = self.weight.len();
        let (image, channel) = (index / (elements / self.batch), index % channels);
        (image * self.groups + channel / (channels / self.groups), channel)
    }

    /// The mean of a function of the elements over every image's group, `[batch · groups]`.
    fn means(&self, elements: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut means = vec![0.0; self.batch * self.groups];
        let count = elements as f64 / means.len() as f64;
        for i in 0..elements {
            means[self.place(elements, i).0] += f(i) / count;
        }
        means
    }

    /// The normalized values, and mean and reciprocal deviation of every image's group, `[batch · groups]`.
    pub fn forward(&self, x: &[f64]) -> (Vec<f64>, Vec<[f64; 2]>) {
        let group = |i: usize| self.place(x.len(), i).0;
        let means = self.means(x.len(), |i| x[i]);
        let variances = self.means(x.len(), |i| (x[i] - means[group(i)]).powi(2));
        let statistics: Vec<[f64; 2]> =
            means.iter().zip(variances).map(|(&mean, v)| [mean, 1.0 / (v + self.eps).sqrt()]).collect();
        let y = (0..x.len()).map(|i| {
            let (group, channel) = self.place(x.len(), i);
            let [mean, rstd] = statistics[group];
            (x[i] - mean) * rstd * self.weight[channel] + self.bias[channel]
        });
        (y.collect(), statistics)
    }

    /// Gradients of x, weight and bias.
    pub fn backward(&self, x: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
        let (_, statistics) = self.forward(x);
        let place = |i: usize| self.place(x.len(), i);
        let normalized = |i: usize| {
            let [mean, rstd] = statistics[place(i).0];
            (x[i] - mean) * rstd
        };
        let scaled = |i: usize| dy[i] * self.weight[place(i).1];
        let plain = self.means(x.len(), scaled);
        let weighted = self.means(x.len(), |i| scaled(i) * normalized(i));
        let (mut dweight, mut dbias) = (vec![0.0; self.weight.len()], vec![0.0; self.weight.len()]);
        for i in 0..x.len() {
            dweight[place(i).1] += dy[i] * normalized(i);
            dbias[place(i).1] += dy[i];
        }
        let dx = (0..x.len()).map(|i| {
            let group = place(i).0;
            statistics[group][1] * (scaled(i) - plain[group] - normalized(i) * weighted[group])
        });
        [dx.collect(), dweight, dbias]
    }
}

/// Mean and biased variance of every column of `x` `[rows, channels]`.
pub fn column_statistics(x: &[f64], channels: usize) -> [Vec<f64>; 2] {
    let rows = (x.len() / channels) as f64;
    let column = |c: usize| x.iter().skip(c).step_by(channels);
    let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows).collect();
    let variance =
        (0..channels).map(|c| column(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / rows).collect();
    [mean, variance]
}

/// Batch normalization by given statistics, before residual and activation.
pub fn batch_norm(
    x: &[f64],
    [mean, variance]: [&[f64]; 2],
    weight: &[f64],
    bias: &[f64],
    eps: f64,
) -> Vec<f64> {
    let channels = mean.len();
    let y = |(i, x): (usize, &f64)| {
        let c = i % channels;
        (x - mean[c]) / (variance[c] + eps).sqrt() * weight[c] + bias[c]
    };
    x.iter().enumerate().map(y).collect()
}

/// Gradients of x, weight and bias, from the gradient of [`batch_norm`]'s result; with `batch_statistics` through the
/// statistics too.
pub fn batch_norm_backward(
    x: &[f64],
    dy: &[f64],
    [mean, variance]: [&[f64]; 2],
    weight: &[f64],
    eps: f64,
    batch_statistics: bool,
) -> [Vec<f64>; 3] {
    let channels = mean.len();
    let rows = (x.len() / channels) as f64;
    let rstd = |i: usize| 1.0 / (variance[i % channels] + eps).sqrt();
    let normalized = |i: usize| (x[i] - mean[i % channels]) * rstd(i);
    let (mut dweight, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
    for (i, dy) in dy.iter().enumerate() {
        dweight[i % channels] += dy * normalized(i);
        dbias[i % channels] += dy;
    }
    let dx = (0..x.len())
        .map(|i| {
            let c = i % channels;
            let through = if batch_statistics { (dbias[c] + normalized(i) * dweight[c]) / rows } else { 0.0 };
            weight[c] * rstd(i) * (dy[i] - through)
        })
        .collect();
    [dx, dweight, dbias]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_norm_backward_is_the_gradient_of_forward() {
        let draw = |name, n| widen(&counter_normal_like(name, n, 1.0));
        let (x, dy, weight, bias) = (draw("x", 15), draw("dy", 15), draw("weight", 3), draw("bias", 3));
        let fixed = column_statistics(&draw("others", 15), 3);
        for batch_statistics in [false, true] {
            let statistics =
                |x: &[f64]| if batch_statistics { column_statistics(x, 3) } else { fixed.clone() };
            let loss = |x: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
                let [mean, variance] = statistics(x);
                let y = batch_norm(x, [&mean, &variance], weight, bias, 1e-3);
                y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
            };
            let [mean, variance] = statistics(&x);
            let [dx, dweight, dbias] =
                batch_norm_backward(&x, &dy, [&mean, &variance], &weight, 1e-3, batch_statistics);
            assert_gradient("dx", &x, &dx, 1e-7, |x| loss(x, &weight, &bias));
            assert_gradient("dweight", &weight, &dweight, 1e-7, |weight| loss(&x, weight, &bias));
            assert_gradient("dbias", &bias, &dbias, 1e-7, |bias| loss(&x, &weight, bias));
        }
    }
    use crate::{assert_gradient, counter_normal_like, widen};

    #[test]
    fn rms_norm_backward_is_the_gradient_of_forward() {
        let draw = |name| widen(&counter_normal_like(name, 7, 1.0));
        let (x, gamma, dy) = (draw("x"), draw("gamma"), draw("dy"));
        let loss = |x: &[f64], gamma: &[f64]| -> f64 {
            rms_norm(x, gamma, 1e-5).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        let (dx, dgamma) = rms_norm_backward(&x, &dy, &gamma, rms_norm(&x, &gamma, 1e-5).1);
        assert_gradient("dx", &x, &dx, 1e-7, |x| loss(x, &gamma));
        assert_gradient("dgamma", &gamma, &dgamma, 1e-7, |gamma| loss(&x, gamma));
    }

    #[test]
    fn group_norm_backward_is_the_gradient_of_forward() {
        // Two images of three pixels and four channels in two groups.
        let draw = |name, n| widen(&counter_normal_like(name, n, 1.0));
        let (x, dy) = (draw("x", 24), draw("dy", 24));
        let norm =
            GroupNorm { batch: 2, groups: 2, weight: draw("weight", 4), bias: draw("bias", 4), eps: 1e-3 };
        let loss = |norm: &GroupNorm, x: &[f64]| -> f64 {
            norm.forward(x).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        let [dx, dweight, dbias] = norm.backward(&x, &dy);
        assert_gradient("dx", &x, &dx, 1e-7, |x| loss(&norm, x));
        let with_weight = |weight: &[f64]| GroupNorm { weight: weight.to_vec(), ..norm.clone() };
        assert_gradient("dweight", &norm.weight, &dweight, 1e-7, |weight| loss(&with_weight(weight), &x));
        let with_bias = |bias: &[f64]| GroupNorm { bias: bias.to_vec(), ..norm.clone() };
        assert_gradient("dbias", &norm.bias, &dbias, 1e-7, |bias| loss(&with_bias(bias), &x));
    }

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
