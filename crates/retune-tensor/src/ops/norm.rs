//! Normalization of rows with the dropout and the residual before it: layer normalization (Ba et al. 2016) and
//! root-mean-square normalization (Zhang and Sennrich 2019); and of images by groups of channels (Wu and He 2018).

use retune_kernels as kernels;
use retune_kernels::{GroupNorm, GroupNormGrad, LayerNormGrad, LayerNormInput, RmsNormGrad, RmsNormInput};

use super::DropoutSpec;
use super::convolution::image_sizes;
use crate::{Context, Tensor, Work};

/// What [`layer_norm`] keeps for its backward.
#[derive(Clone, Debug)]
pub struct LayerNormKept {
    /// `dropout(x) + residual`, [rows, width].
    pub sum: Tensor,
    /// Mean of each row of `sum`.
    pub mean: Tensor,
    /// `1 / sqrt(variance + eps)` of each row of `sum`.
    pub rstd: Tensor,
}

/// Gradients of the inputs of [`layer_norm`] and [`rms_norm`], where asked for.
#[derive(Debug, Default)]
pub struct LayerNormGradients {
    /// Gradient of `x`, behind the dropout.
    pub x: Option<Tensor>,
    /// Gradient of `residual`.
    pub residual: Option<Tensor>,
}

/// Counts the work of a forward over rows of `dropout(x) + residual`.
fn count_forward(
    context: &Context,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<&DropoutSpec>,
    keeps_sum: bool,
) {
    let (reads, writes) = (1 + usize::from(residual.is_some()), 1 + usize::from(keeps_sum));
    context.count_moved((reads + writes) * x.elements());
    if dropout.is_some() {
        context.count(Work::Random, x.elements());
    }
}

/// The tensors that the gradients of `x` and `residual` are computed into. Without dropout the two are the same values and
/// share one tensor.
struct WantedGradients {
    x: Option<Tensor>,
    residual: Option<Tensor>,
    /// `x` has the values of `residual`.
    is_shared: bool,
    wants_residual: bool,
}

impl WantedGradients {
    /// Takes the tensors and counts the work of the backward.
    fn new(context: &Context, dy: &Tensor, has_dropout: bool, wants_x: bool, wants_residual: bool) -> Self {
        context.count_moved((3 + usize::from(has_dropout)) * dy.elements());
        if has_dropout {
            context.count(Work::Random, dy.elements());
        }
        let is_shared = wants_x && !has_dropout;
        let x = (wants_x && has_dropout).then(|| context.allocate(dy.shape()));
        let residual = (wants_residual || is_shared).then(|| context.allocate(dy.shape()));
        Self { x, residual, is_shared, wants_residual }
    }

    fn finish(self) -> LayerNormGradients {
        let x = if self.is_shared { self.residual.clone() } else { self.x };
        LayerNormGradients { x, residual: self.residual.filter(|_| self.wants_residual) }
    }
}

/// `gamma · (s - mean(s)) · rstd(s) + beta` over each row of `s = dropout(x) + residual`. Keeps what backward needs
/// if `keep`.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn layer_norm(
    context: &Context,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<&DropoutSpec>,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
    keep: bool,
) -> (Tensor, Option<LayerNormKept>) {
    let (rows, width) = (x.rows(), x.width());
    assert_eq!(gamma.elements(), width, "layer_norm: input {x:?}, weight {gamma:?}");
    let mut y = context.allocate(x.shape());
    // Without a dropout or a residual the sum is x itself.
    let computes_sum = residual.is_some() || dropout.is_some();
    count_forward(context, x, residual, dropout, keep && computes_sum);
    let mut kept = keep.then(|| LayerNormKept {
        sum: if computes_sum { context.allocate(x.shape()) } else { x.clone() },
        mean: context.allocate([rows]),
        rstd: context.allocate([rows]),
    });
    if let Some(cpu) = context.kernels() {
        let input = LayerNormInput {
            x: x.values(),
            residual: residual.map(Tensor::values),
            dropout: dropout.map(DropoutSpec::kernel),
            gamma: gamma.values(),
            beta: beta.values(),
            eps,
            width,
        };
        let (sum, mean, rstd) = match &mut kept {
            Some(kept) => (
                computes_sum.then(|| kept.sum.make_mut()),
                Some(kept.mean.make_mut()),
                Some(kept.rstd.make_mut()),
            ),
            None => (None, None, None),
        };
        kernels::layer_norm_forward(cpu, &input, y.make_mut(), sum, mean, rstd);
    }
    (y, kept)
}

/// Gradients of [`layer_norm`]: those of `x` and `residual` where wanted; those of `gamma` and `beta` are added to the
/// caller's buffers.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn layer_norm_backward(
    context: &Context,
    dy: &Tensor,
    kept: &LayerNormKept,
    gamma: &Tensor,
    dropout: Option<&DropoutSpec>,
    wants_x: bool,
    wants_residual: bool,
    dgamma: Option<&mut [f32]>,
    dbeta: Option<&mut [f32]>,
) -> LayerNormGradients {
    let mut wanted = WantedGradients::new(context, dy, dropout.is_some(), wants_x, wants_residual);
    if let Some(cpu) = context.kernels() {
        let dropout = dropout.map(DropoutSpec::kernel);
        let gradients = LayerNormGrad {
            dx: wanted.x.as_mut().map(Tensor::make_mut),
            dresidual: wanted.residual.as_mut().map(Tensor::make_mut),
            dgamma,
            dbeta,
        };
        kernels::layer_norm_backward(
            cpu,
            dy.width(),
            dy.values(),
            kept.sum.values(),
            kept.mean.values(),
            kept.rstd.values(),
            gamma.values(),
            dropout.as_ref(),
            gradients,
        );
    }
    wanted.finish()
}

/// What [`rms_norm`] keeps for its backward.
#[derive(Clone, Debug)]
pub struct RmsNormKept {
    /// `dropout(x) + residual`, [rows, width].
    pub sum: Tensor,
    /// `1 / sqrt(mean square + eps)` of each row of `sum`.
    pub rrms: Tensor,
}

/// `gamma · s · rrms(s)` over each row of `s = dropout(x) + residual`. Keeps what backward needs if `keep`.
pub fn rms_norm(
    context: &Context,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<&DropoutSpec>,
    gamma: &Tensor,
    eps: f32,
    keep: bool,
) -> (Tensor, Option<RmsNormKept>) {
    let (rows, width) = (x.rows(), x.width());
    assert_eq!(gamma.elements(), width, "rms_norm: input {x:?}, weight {gamma:?}");
    let mut y = context.allocate(x.shape());
    // Without a dropout or a residual the sum is x itself.
    let computes_sum = residual.is_some() || dropout.is_some();
    count_forward(context, x, residual, dropout, keep && computes_sum);
    let mut kept = keep.then(|| RmsNormKept {
        sum: if computes_sum { context.allocate(x.shape()) } else { x.clone() },
        rrms: context.allocate([rows]),
    });
    if let Some(cpu) = context.kernels() {
        let input = RmsNormInput {
            x: x.values(),
            residual: residual.map(Tensor::values),
            dropout: dropout.map(DropoutSpec::kernel),
            gamma: gamma.values(),
            eps,
            width,
        };
        let (sum, rrms) = match &mut kept {
            Some(kept) => (computes_sum.then(|| kept.sum.make_mut()), Some(kept.rrms.make_mut())),
            None => (None, None),
        };
        kernels::rms_norm_forward(cpu, &input, y.make_mut(), sum, rrms);
    }
    (y, kept)
}

/// Gradients of [`rms_norm`]: those of `x` and `residual` where wanted; that of `gamma` is added to the caller's buffer.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn rms_norm_backward(
    context: &Context,
    dy: &Tensor,
    kept: &RmsNormKept,
    gamma: &Tensor,
    dropout: Option<&DropoutSpec>,
    wants_x: bool,
    wants_residual: bool,
    dgamma: Option<&mut [f32]>,
) -> LayerNormGradients {
    let mut wanted = WantedGradients::new(context, dy, dropout.is_some(), wants_x, wants_residual);
    if let Some(cpu) = context.kernels() {
        let dropout = dropout.map(DropoutSpec::kernel);
        kernels::rms_norm_backward(
            cpu,
            dy.width(),
            dy.values(),
            kept.sum.values(),
            kept.rrms.values(),
            gamma.values(),
            dropout.as_ref(),
            RmsNormGrad {
                dx: wanted.x.as_mut().map(Tensor::make_mut),
                dresidual: wanted.residual.as_mut().map(Tensor::make_mut),
                dgamma,
            },
        );
    }
    wanted.finish()
}

/// What [`group_norm`] keeps beside its input: mean and reciprocal deviation of each image's groups, [batch, groups].
#[derive(Clone, Debug)]
pub struct GroupNormKept {
    mean: Tensor,
    rstd: Tensor,
}

fn group_norm_kernel<'a>(
    x: &Tensor,
    groups: usize,
    weight: &'a Tensor,
    bias: &'a Tensor,
    eps: f32,
) -> GroupNorm<'a> {
    let [batch, height, width, channels] = image_sizes(x);
    assert_eq!(weight.elements(), channels, "group_norm: input {x:?}, weight {weight:?}");
    GroupNorm {
        batch,
        rows: height * width,
        channels,
        groups,
        weight: weight.values(),
        bias: bias.values(),
        eps,
    }
}

/// `weight · (x - mean) · rstd + bias` for `x` [batch, height, width, channels], with the statistics of each image's groups
/// of neighbouring channels. Keeps what backward needs beside `x` if `keep`.
pub fn group_norm(
    context: &Context,
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    keep: bool,
) -> (Tensor, Option<GroupNormKept>) {
    let norm = group_norm_kernel(x, groups, weight, bias, eps);
    context.count_moved(4 * x.elements());
    let mut y = context.allocate(x.shape());
    let statistics = || context.allocate([norm.batch, groups]);
    let mut kept = keep.then(|| GroupNormKept { mean: statistics(), rstd: statistics() });
    if let Some(cpu) = context.kernels() {
        let (mean, rstd) = match &mut kept {
            Some(kept) => (Some(kept.mean.make_mut()), Some(kept.rstd.make_mut())),
            None => (None, None),
        };
        kernels::group_norm_forward(cpu, &norm, x.values(), y.make_mut(), mean, rstd);
    }
    (y, kept)
}

/// Gradients of [`group_norm`]: that of `x` where wanted; those of weight and bias are added to the caller's buffers.
#[expect(clippy::too_many_arguments, reason = "the operation has this many inputs")]
pub fn group_norm_backward(
    context: &Context,
    dy: &Tensor,
    x: &Tensor,
    kept: &GroupNormKept,
    [weight, bias]: [&Tensor; 2],
    eps: f32,
    wants_x: bool,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) -> Option<Tensor> {
    let norm = group_norm_kernel(x, kept.mean.width(), weight, bias, eps);
    context.count_moved(5 * x.elements());
    let mut dx = wants_x.then(|| context.allocate(x.shape()));
    if let Some(cpu) = context.kernels() {
        let gradients = GroupNormGrad { dx: dx.as_mut().map(Tensor::make_mut), dweight, dbias };
        let (mean, rstd) = (kept.mean.values(), kept.rstd.values());
        kernels::group_norm_backward(cpu, &norm, x.values(), mean, rstd, dy.values(), gradients);
    }
    dx
}
