//! Normalization of rows, with dropout and residual addition fused before it: by mean and variance (LayerNorm; Ba, Kiros
//! and Hinton 2016), or by the root mean square alone (RMSNorm; Zhang and Sennrich 2019).

use crate::dropout::Mask;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, copy, lanes};
use crate::{Cpu, Dropout, elementwise};

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
    cpu: &Cpu,
    input: &LayerNormInput,
    y: &mut [f32],
    sum: Option<&mut [f32]>,
    mean: Option<&mut [f32]>,
    rstd: Option<&mut [f32]>,
) {
    let width = input.width;
    assert!(width > 0, "layer_norm_forward: width is zero");
    let rows = input.x.len() / width;
    let elements = rows * width;
    assert_eq!(input.x.len(), elements, "layer_norm_forward: x is not [rows, width]");
    assert_eq!(y.len(), elements, "layer_norm_forward: y is not [rows, width]");
    assert_eq!(input.gamma.len(), width, "layer_norm_forward: gamma is not [width]");
    assert_eq!(input.beta.len(), width, "layer_norm_forward: beta is not [width]");
    for (name, len, wanted) in [
        ("residual", input.residual.map(<[f32]>::len), elements),
        ("sum", sum.as_ref().map(|s| s.len()), elements),
        ("mean", mean.as_ref().map(|s| s.len()), rows),
        ("rstd", rstd.as_ref().map(|s| s.len()), rows),
    ] {
        assert!(len.is_none_or(|len| len == wanted), "layer_norm_forward: {name} has not {wanted} elements");
    }
    let task = Forward::<true> {
        cpu,
        input,
        mask: Mask::new(input.dropout.as_ref(), rows),
        rows,
        y: Shared::new(y),
        sum: sum.map(Shared::new),
        mean: mean.map(Shared::new),
        rstd: rstd.map(Shared::new),
    };
    cpu.run(rows.div_ceil(PIECE_ROWS), elements <= elementwise::ALONE, &task);
}

/// What root-mean-square normalization reads: `y = s · rrms(s) · gamma` with `s = dropout(x) + residual` and
/// `rrms(s) = 1 / √(mean(s²) + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNormInput<'a> {
    /// `[rows, width]`
    pub x: &'a [f32],
    /// Added to `x` after dropout, `[rows, width]`.
    pub residual: Option<&'a [f32]>,
    /// Applied to `x` before the residual is added.
    pub dropout: Option<Dropout<'a>>,
    /// `[width]`
    pub gamma: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// The normalized dimension.
    pub width: usize,
}

/// Root-mean-square normalization of every row into `y` `[rows, width]`.
///
/// What backward needs is written where asked for: `sum` `[rows, width]` is `dropout(x) + residual`, `rrms` is `[rows]`.
/// Without residual and dropout `sum` equals `x` and need not be kept.
pub fn rms_norm_forward(
    cpu: &Cpu,
    input: &RmsNormInput,
    y: &mut [f32],
    sum: Option<&mut [f32]>,
    rrms: Option<&mut [f32]>,
) {
    let width = input.width;
    assert!(width > 0, "rms_norm_forward: width is zero");
    let rows = input.x.len() / width;
    let elements = rows * width;
    assert_eq!(input.x.len(), elements, "rms_norm_forward: x is not [rows, width]");
    assert_eq!(y.len(), elements, "rms_norm_forward: y is not [rows, width]");
    assert_eq!(input.gamma.len(), width, "rms_norm_forward: gamma is not [width]");
    for (name, len, wanted) in [
        ("residual", input.residual.map(<[f32]>::len), elements),
        ("sum", sum.as_ref().map(|s| s.len()), elements),
        ("rrms", rrms.as_ref().map(|s| s.len()), rows),
    ] {
        assert!(len.is_none_or(|len| len == wanted), "rms_norm_forward: {name} has not {wanted} elements");
    }
    let &RmsNormInput { x, residual, dropout, gamma, eps, width } = input;
    let input = LayerNormInput { x, residual, dropout, gamma, beta: &[], eps, width };
    let task = Forward::<false> {
        cpu,
        input: &input,
        mask: Mask::new(input.dropout.as_ref(), rows),
        rows,
        y: Shared::new(y),
        sum: sum.map(Shared::new),
        mean: None,
        rstd: rrms.map(Shared::new),
    };
    cpu.run(rows.div_ceil(PIECE_ROWS), elements <= elementwise::ALONE, &task);
}

/// Rows in a piece. In backward their sums for gamma and beta are added first.
const PIECE_ROWS: usize = 32;

/// Normalizes by mean and variance if `CENTERED`, else by the mean square, without a beta.
struct Forward<'a, const CENTERED: bool> {
    cpu: &'a Cpu,
    input: &'a LayerNormInput<'a>,
    mask: Option<Mask<'a>>,
    rows: usize,
    y: Shared<'a, f32>,
    sum: Option<Shared<'a, f32>>,
    mean: Option<Shared<'a, f32>>,
    rstd: Option<Shared<'a, f32>>,
}

impl<const CENTERED: bool> Task for Forward<'_, CENTERED> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let width = self.input.width;
        let gamma = &self.input.gamma[..width];
        let beta = if CENTERED { &self.input.beta[..width] } else { &[] };
        let mut factors = self.cpu.scratch(if self.mask.is_some() { width } else { 0 });
        for row in piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(self.rows) {
            let at = row * width..(row + 1) * width;
            let x = &self.input.x[at.clone()][..width];
            // SAFETY: pieces do not overlap, and a piece holds one row at a time.
            let y = &mut unsafe { self.y.range(at.clone()) }[..width];
            if let Some(mask) = &self.mask {
                mask.factors(s, row, 0, &mut factors);
            }
            let residual = self.input.residual.map(|residual| &residual[at.clone()][..width]);
            // The sum is made in y, where it is in L1 for the passes that follow.
            let mut total = s.zero();
            lanes!(S, j in width, {
                let mut value = s.read(x, j);
                if self.mask.is_some() {
                    value = s.mul(value, s.read(&factors, j));
                }
                if let Some(residual) = residual {
                    value = s.add(value, s.read(residual, j));
                }
                s.write(y, j, value);
                total = s.add(total, value);
            });
            if let Some(sum) = self.sum {
                // SAFETY: as above.
                copy(s, y, unsafe { sum.range(at) });
            }
            let mean = if CENTERED { s.reduce_add(total) / width as f32 } else { 0.0 };
            let average = s.splat(mean);
            let whole = width / S::LANES * S::LANES;
            let mut squares = s.zero();
            lanes!(S, j in whole, {
                let d = s.sub(s.read(y, j), average);
                squares = s.mul_add(d, d, squares);
            });
            let mut variance = s.reduce_add(squares);
            for value in &y[whole..] {
                variance += (value - mean) * (value - mean);
            }
            let rstd = 1.0 / (variance / width as f32 + self.input.eps).sqrt();
            let scale = s.splat(rstd);
            lanes!(S, j in width, {
                let normalized = s.mul(s.sub(s.read(y, j), average), scale);
                let gamma = s.read(gamma, j);
                s.write(y, j, if CENTERED { s.mul_add(normalized, gamma, s.read(beta, j)) } else { s.mul(normalized, gamma) });
            });
            if let Some(out) = self.mean {
                // SAFETY: as above.
                unsafe { out.set(row, mean) };
            }
            if let Some(out) = self.rstd {
                // SAFETY: as above.
                unsafe { out.set(row, rstd) };
            }
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
    cpu: &Cpu,
    width: usize,
    dy: &[f32],
    sum: &[f32],
    mean: &[f32],
    rstd: &[f32],
    gamma: &[f32],
    dropout: Option<&Dropout>,
    grad: LayerNormGrad,
) {
    assert!(width > 0, "layer_norm_backward: width is zero");
    let rows = mean.len();
    let elements = rows * width;
    assert_eq!(dy.len(), elements, "layer_norm_backward: dy is not [rows, width]");
    assert_eq!(sum.len(), elements, "layer_norm_backward: sum is not [rows, width]");
    assert_eq!(rstd.len(), rows, "layer_norm_backward: rstd is not [rows]");
    assert_eq!(gamma.len(), width, "layer_norm_backward: gamma is not [width]");
    for (name, slice, wanted) in [
        ("dx", &grad.dx, elements),
        ("dresidual", &grad.dresidual, elements),
        ("dgamma", &grad.dgamma, width),
        ("dbeta", &grad.dbeta, width),
    ] {
        assert!(
            slice.as_ref().is_none_or(|s| s.len() == wanted),
            "layer_norm_backward: {name} has not {wanted} elements"
        );
    }
    let pieces = rows.div_ceil(PIECE_ROWS);
    let mut gammas = cpu.scratch(pieces * width);
    let mut betas = cpu.scratch(pieces * width);
    let task = Backward::<true> {
        cpu,
        width,
        dy,
        sum,
        mean,
        rstd,
        gamma,
        mask: Mask::new(dropout, rows),
        dx: grad.dx.map(Shared::new),
        dresidual: grad.dresidual.map(Shared::new),
        gammas: Shared::new(&mut gammas),
        betas: Shared::new(&mut betas),
    };
    cpu.run(pieces, elements <= elementwise::ALONE, &task);
    if let Some(dgamma) = grad.dgamma {
        elementwise::add_rows(&gammas, dgamma);
    }
    if let Some(dbeta) = grad.dbeta {
        elementwise::add_rows(&betas, dbeta);
    }
}

/// Where root-mean-square normalization's gradients go; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct RmsNormGrad<'a> {
    /// Gradient of `x`, dropout mask applied, `[rows, width]`, overwritten.
    pub dx: Option<&'a mut [f32]>,
    /// Gradient of the residual, `[rows, width]`, overwritten.
    pub dresidual: Option<&'a mut [f32]>,
    /// Gradient of gamma, `[width]`, added to.
    pub dgamma: Option<&'a mut [f32]>,
}

/// Backward of [`rms_norm_forward`], from `dy` and what forward kept.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn rms_norm_backward(
    cpu: &Cpu,
    width: usize,
    dy: &[f32],
    sum: &[f32],
    rrms: &[f32],
    gamma: &[f32],
    dropout: Option<&Dropout>,
    grad: RmsNormGrad,
) {
    assert!(width > 0, "rms_norm_backward: width is zero");
    let rows = rrms.len();
    let elements = rows * width;
    assert_eq!(dy.len(), elements, "rms_norm_backward: dy is not [rows, width]");
    assert_eq!(sum.len(), elements, "rms_norm_backward: sum is not [rows, width]");
    assert_eq!(gamma.len(), width, "rms_norm_backward: gamma is not [width]");
    for (name, slice, wanted) in [
        ("dx", &grad.dx, elements),
        ("dresidual", &grad.dresidual, elements),
        ("dgamma", &grad.dgamma, width),
    ] {
        assert!(
            slice.as_ref().is_none_or(|s| s.len() == wanted),
            "rms_norm_backward: {name} has not {wanted} elements"
        );
    }
    let pieces = rows.div_ceil(PIECE_ROWS);
    let mut gammas = cpu.scratch(pieces * width);
    let task = Backward::<false> {
        cpu,
        width,
        dy,
        sum,
        mean: &[],
        rstd: rrms,
        gamma,
        mask: Mask::new(dropout, rows),
        dx: grad.dx.map(Shared::new),
        dresidual: grad.dresidual.map(Shared::new),
        gammas: Shared::new(&mut gammas),
        betas: Shared::new(&mut []),
    };
    cpu.run(pieces, elements <= elementwise::ALONE, &task);
    if let Some(dgamma) = grad.dgamma {
        elementwise::add_rows(&gammas, dgamma);
    }
}

struct Backward<'a, const CENTERED: bool> {
    cpu: &'a Cpu,
    width: usize,
    dy: &'a [f32],
    sum: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
    mask: Option<Mask<'a>>,
    dx: Option<Shared<'a, f32>>,
    dresidual: Option<Shared<'a, f32>>,
    /// Every piece's sums, `[pieces, width]`.
    gammas: Shared<'a, f32>,
    betas: Shared<'a, f32>,
}

impl<const CENTERED: bool> Task for Backward<'_, CENTERED> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let width = self.width;
        let mut factors = self.cpu.scratch(if self.mask.is_some() { width } else { 0 });
        // SAFETY: pieces do not overlap.
        let (gammas, betas) = unsafe {
            let at = piece * width..(piece + 1) * width;
            let betas = if CENTERED { &mut self.betas.range(at.clone())[..width] } else { &mut [][..] };
            (&mut self.gammas.range(at)[..width], betas)
        };
        let gamma = &self.gamma[..width];
        gammas.fill(0.0);
        betas.fill(0.0);
        for row in piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(self.rstd.len()) {
            let at = row * width..(row + 1) * width;
            let (dy, sum) = (&self.dy[at.clone()][..width], &self.sum[at.clone()][..width]);
            let (mean, rstd) =
                (if CENTERED { s.splat(self.mean[row]) } else { s.zero() }, s.splat(self.rstd[row]));
            // Lanes beyond the width are zero in dy, so whatever stands beside them adds nothing.
            let (mut plain, mut weighted) = (s.zero(), s.zero());
            lanes!(S, j in width, {
                let (dy, normalized) = (s.read(dy, j), s.mul(s.sub(s.read(sum, j), mean), rstd));
                let scaled = s.mul(dy, s.read(gamma, j));
                plain = s.add(plain, scaled);
                weighted = s.mul_add(scaled, normalized, weighted);
                s.write(gammas, j, s.mul_add(dy, normalized, s.read(gammas, j)));
                if CENTERED {
                    s.write(betas, j, s.add(dy, s.read(betas, j)));
                }
            });
            if self.dx.is_none() && self.dresidual.is_none() {
                continue;
            }
            // What goes through the mean.
            let plain = if CENTERED { s.splat(s.reduce_add(plain) / width as f32) } else { s.zero() };
            let weighted = s.splat(s.reduce_add(weighted) / width as f32);
            if let Some(mask) = &self.mask {
                mask.factors(s, row, 0, &mut factors);
            }
            // SAFETY: pieces do not overlap, and a piece holds one row at a time.
            let (dx, dresidual) = unsafe {
                (
                    self.dx.map_or(&mut [][..], |dx| dx.range(at.clone())),
                    self.dresidual.map_or(&mut [][..], |dresidual| dresidual.range(at)),
                )
            };
            lanes!(S, j in width, {
                let normalized = s.mul(s.sub(s.read(sum, j), mean), rstd);
                let scaled = s.mul(s.read(dy, j), s.read(gamma, j));
                let ds = s.mul(rstd, s.neg_mul_add(normalized, weighted, s.sub(scaled, plain)));
                if !dresidual.is_empty() {
                    s.write(dresidual, j, ds);
                }
                if !dx.is_empty() {
                    let ds = if self.mask.is_some() { s.mul(ds, s.read(&factors, j)) } else { ds };
                    s.write(dx, j, ds);
                }
            });
        }
    }
}
