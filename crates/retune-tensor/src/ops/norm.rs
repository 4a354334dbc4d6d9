//! Layer normalization (Ba et al. 2016) with the dropout and the residual before it.

use retune_kernels as kernels;
use retune_kernels::{LayerNormGrad, LayerNormInput};

use super::DropoutSpec;
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

/// Gradients of [`layer_norm`]'s inputs, where asked for.
#[derive(Debug, Default)]
pub struct LayerNormGradients {
    /// Gradient of `x`, behind the dropout.
    pub x: Option<Tensor>,
    /// Gradient of `residual`.
    pub residual: Option<Tensor>,
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
    let (reads, writes) = (1 + usize::from(residual.is_some()), 1 + usize::from(keep && computes_sum));
    context.count_moved((reads + writes) * x.elements());
    if dropout.is_some() {
        context.count(Work::Random, x.elements());
    }
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
    // Without dropout the two gradients are the same values and share one tensor.
    let separate = dropout.is_some();
    context.count_moved((3 + usize::from(separate)) * dy.elements());
    if separate {
        context.count(Work::Random, dy.elements());
    }
    let mut dx = (wants_x && separate).then(|| context.allocate(dy.shape()));
    let mut dresidual = (wants_residual || wants_x && !separate).then(|| context.allocate(dy.shape()));
    if let Some(cpu) = context.kernels() {
        let dropout = dropout.map(DropoutSpec::kernel);
        let gradients = LayerNormGrad {
            dx: dx.as_mut().map(Tensor::make_mut),
            dresidual: dresidual.as_mut().map(Tensor::make_mut),
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
    if wants_x && !separate {
        dx.clone_from(&dresidual);
    }
    LayerNormGradients { x: dx, residual: dresidual.filter(|_| wants_residual) }
}
