//! Layer normalization with dropout and residual addition fused before it (Ba, Kiros and Hinton 2016).

use crate::{Cpu, Dropout};

/// What layer normalization reads: `y = (s - mean(s)) · rstd(s) · gamma + beta` with `s = dropout(x) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormInput<'a> {
    /// `[rows, width]`
    pub x: &'a [f32],
    /// Added to `x` after dropout, `[rows, width]`.
    pub residual: Option<&'a [f32]>,
    /// Applied to `x` before the residual is added.
    pub dropout: Option<Dropout<'a>>,
    /// `[width]`
    pub gamma: &'a [f32],
    /// `[width]`
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// The normalized dimension.
    pub width: usize,
}

/// Layer normalization of every row into `y` `[rows, width]`.
///
/// What backward needs is written where asked for: `sum` `[rows, width]` is `dropout(x) + residual`,
/// `mean` and `rstd` are `[rows]`. Without residual and dropout `sum` equals `x` and need not be kept.
pub fn layer_norm_forward(
    _cpu: &Cpu,
    input: &LayerNormInput,
    y: &mut [f32],
    mut sum: Option<&mut [f32]>,
    mut mean: Option<&mut [f32]>,
    mut rstd: Option<&mut [f32]>,
) {
    let width = input.width;
    assert!(width > 0, "layer_norm_forward: width is zero");
    let rows = input.x.len() / width;
    assert_eq!(input.x.len(), rows * width, "layer_norm_forward: x is not [rows, width]");
    assert_eq!(y.len(), rows * width, "layer_norm_forward: y is not [rows, width]");
    assert_eq!(input.gamma.len(), width, "layer_norm_forward: gamma is not [width]");
    assert_eq!(input.beta.len(), width, "layer_norm_forward: beta is not [width]");
    assert!(
        input.residual.is_none_or(|r| r.len() == rows * width),
        "layer_norm_forward: residual is not [rows, width]"
    );
    assert!(
        input.dropout.is_none_or(|d| d.rows.len() == rows),
        "layer_norm_forward: dropout.rows is not [rows]"
    );
    assert!(
        sum.as_ref().is_none_or(|s| s.len() == rows * width),
        "layer_norm_forward: sum is not [rows, width]"
    );
    assert!(mean.as_ref().is_none_or(|s| s.len() == rows), "layer_norm_forward: mean is not [rows]");
    assert!(rstd.as_ref().is_none_or(|s| s.len() == rows), "layer_norm_forward: rstd is not [rows]");
    let mut s = vec![0.0f32; width];
    for row in 0..rows {
        for j in 0..width {
            let factor = input.dropout.map_or(1.0, |d| d.factor(row, j, 0));
            s[j] = input.x[row * width + j] * factor + input.residual.map_or(0.0, |r| r[row * width + j]);
        }
        let average = s.iter().sum::<f32>() / width as f32;
        let variance = s.iter().map(|v| (v - average) * (v - average)).sum::<f32>() / width as f32;
        let inverse = 1.0 / (variance + input.eps).sqrt();
        for j in 0..width {
            y[row * width + j] = (s[j] - average) * inverse * input.gamma[j] + input.beta[j];
        }
        if let Some(sum) = sum.as_deref_mut() {
            sum[row * width..(row + 1) * width].copy_from_slice(&s);
        }
        if let Some(mean) = mean.as_deref_mut() {
            mean[row] = average;
        }
        if let Some(rstd) = rstd.as_deref_mut() {
            rstd[row] = inverse;
        }
    }
}

/// Where layer normalization's gradients go; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct LayerNormGrad<'a> {
    /// Gradient of `x`, dropout mask applied, `[rows, width]`, overwritten.
    pub dx: Option<&'a mut [f32]>,
    /// Gradient of the residual, `[rows, width]`, overwritten.
    pub dresidual: Option<&'a mut [f32]>,
    /// Gradient of gamma, `[width]`, added to.
    pub dgamma: Option<&'a mut [f32]>,
    /// Gradient of beta, `[width]`, added to.
    pub dbeta: Option<&'a mut [f32]>,
}

/// Backward of [`layer_norm_forward`], from `dy` and what forward kept.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn layer_norm_backward(
    _cpu: &Cpu,
    width: usize,
    dy: &[f32],
    sum: &[f32],
    mean: &[f32],
    rstd: &[f32],
    gamma: &[f32],
    dropout: Option<&Dropout>,
    mut grad: LayerNormGrad,
) {
    assert!(width > 0, "layer_norm_backward: width is zero");
    let rows = mean.len();
    assert_eq!(dy.len(), rows * width, "layer_norm_backward: dy is not [rows, width]");
    assert_eq!(sum.len(), rows * width, "layer_norm_backward: sum is not [rows, width]");
    assert_eq!(rstd.len(), rows, "layer_norm_backward: rstd is not [rows]");
    assert_eq!(gamma.len(), width, "layer_norm_backward: gamma is not [width]");
    assert!(dropout.is_none_or(|d| d.rows.len() == rows), "layer_norm_backward: dropout.rows is not [rows]");
    for (name, slice, length) in [
        ("dx", &grad.dx, rows * width),
        ("dresidual", &grad.dresidual, rows * width),
        ("dgamma", &grad.dgamma, width),
        ("dbeta", &grad.dbeta, width),
    ] {
        assert!(
            slice.as_ref().is_none_or(|s| s.len() == length),
            "layer_norm_backward: {name} has not {length} elements"
        );
    }
    for row in 0..rows {
        let at = row * width;
        let normalized = |j: usize| (sum[at + j] - mean[row]) * rstd[row];
        let (mut a, mut b) = (0.0f32, 0.0f32);
        for j in 0..width {
            a += dy[at + j] * gamma[j];
            b += dy[at + j] * gamma[j] * normalized(j);
        }
        a /= width as f32;
        b /= width as f32;
        for j in 0..width {
            let ds = rstd[row] * (dy[at + j] * gamma[j] - a - normalized(j) * b);
            if let Some(dx) = grad.dx.as_deref_mut() {
                dx[at + j] = ds * dropout.map_or(1.0, |d| d.factor(row, j, 0));
            }
            if let Some(dresidual) = grad.dresidual.as_deref_mut() {
                dresidual[at + j] = ds;
            }
            if let Some(dgamma) = grad.dgamma.as_deref_mut() {
                dgamma[j] += dy[at + j] * normalized(j);
            }
            if let Some(dbeta) = grad.dbeta.as_deref_mut() {
                dbeta[j] += dy[at + j];
            }
        }
    }
}
