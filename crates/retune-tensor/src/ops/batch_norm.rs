//! Batch normalization (Ioffe and Szegedy 2015) with the residual and the activation behind it.

use retune_kernels as kernels;
use retune_kernels::{Activation, BatchNorm};

use super::elementwise::count_activation;
use crate::{Context, Tensor};

/// Mean and biased variance of each channel, `[channels]` each.
#[derive(Clone, Debug)]
pub struct ChannelStatistics {
    /// Mean.
    pub mean: Tensor,
    /// Mean squared deviation from the mean.
    pub variance: Tensor,
}

/// What [`batch_norm`] computes with, beside the values it normalizes.
#[derive(Clone, Debug)]
pub struct BatchNormForm {
    /// What is subtracted and divided by.
    pub statistics: ChannelStatistics,
    /// Whether the statistics are those of the values themselves, so that gradients flow through them.
    pub from_batch: bool,
    /// Added to the variance.
    pub eps: f32,
    /// Behind weight, bias and residual.
    pub activation: Activation,
}

impl BatchNormForm {
    fn kernel<'a>(&'a self, x: &Tensor, weight: &'a Tensor, bias: &'a Tensor) -> BatchNorm<'a> {
        BatchNorm {
            rows: x.rows(),
            channels: x.width(),
            mean: self.statistics.mean.values(),
            variance: self.statistics.variance.values(),
            weight: weight.values(),
            bias: bias.values(),
            eps: self.eps,
            activation: self.activation,
        }
    }
}

/// Gradients of [`batch_norm`]'s inputs, where asked for.
#[derive(Debug, Default)]
pub struct BatchNormGradients {
    /// Gradient of `x`.
    pub x: Option<Tensor>,
    /// Gradient of `residual`.
    pub residual: Option<Tensor>,
}

/// The statistics of `x` [.., channels] over all its rows.
pub fn channel_statistics(context: &Context, x: &Tensor) -> ChannelStatistics {
    let channels = x.width();
    context.count_moved(x.elements());
    let (mut mean, mut variance) = (context.allocate([channels]), context.allocate([channels]));
    if let Some(cpu) = context.kernels() {
        let (mean, variance) = (mean.make_mut(), variance.make_mut());
        kernels::batch_norm_statistics(cpu, x.values(), channels, mean, variance);
    }
    ChannelStatistics { mean, variance }
}

/// `activation((x - mean) / sqrt(variance + eps) · weight + bias + residual)` channel by channel, in the shape of `x`.
pub fn batch_norm(
    context: &Context,
    form: &BatchNormForm,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
) -> Tensor {
    assert_eq!(weight.elements(), x.width(), "batch_norm: input {x:?}, weight {weight:?}");
    count_activation(context, form.activation, x.elements());
    context.count_moved((2 + usize::from(residual.is_some())) * x.elements());
    let mut y = context.allocate(x.shape());
    if let Some(cpu) = context.kernels() {
        let residual = residual.map(Tensor::values);
        kernels::batch_norm_forward(cpu, &form.kernel(x, weight, bias), x.values(), residual, y.make_mut());
    }
    y
}

/// Gradients of [`batch_norm`]: those of `x` and `residual` where wanted; those of `weight` and `bias` are added to the
/// caller's buffers.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn batch_norm_backward(
    context: &Context,
    form: &BatchNormForm,
    dy: &Tensor,
    x: &Tensor,
    residual: Option<&Tensor>,
    [weight, bias]: [&Tensor; 2],
    wants_x: bool,
    wants_residual: bool,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) -> BatchNormGradients {
    // Without an activation the residual's gradient is dy itself.
    let identity = form.activation == Activation::Identity;
    // Two passes over input and gradient, one that writes.
    count_activation(context, form.activation, 2 * x.elements());
    context.count_moved((4 + usize::from(wants_x) + 2 * usize::from(residual.is_some())) * x.elements());
    let mut dx = wants_x.then(|| context.allocate(x.shape()));
    let mut dresidual = (wants_residual && !identity).then(|| context.allocate(x.shape()));
    if let Some(cpu) = context.kernels() {
        kernels::batch_norm_backward(
            cpu,
            &form.kernel(x, weight, bias),
            form.from_batch,
            dy.values(),
            x.values(),
            residual.map(Tensor::values),
            dx.as_mut().map(Tensor::make_mut),
            dresidual.as_mut().map(Tensor::make_mut),
            dweight,
            dbias,
        );
    }
    if wants_residual && identity {
        dresidual = Some(dy.clone());
    }
    BatchNormGradients { x: dx, residual: dresidual }
}
