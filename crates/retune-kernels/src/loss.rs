//! Losses from logits: one weighted loss per row, and its gradient.
//!
//! No mean is taken over rows: the caller's row weight carries it (`1 / total weight`, class weight, accumulation).
//! A row of weight zero has loss and gradient zero, and its target is not looked at.

use crate::scratch::Shared;
use crate::simd::{Simd, Task, copy, lanes};
use crate::{Cpu, elementwise, softmax};

fn check(
    kernel: &str,
    width: usize,
    scores: usize,
    row_weights: &[f32],
    losses: usize,
    gradient: Option<usize>,
) -> usize {
    let rows = row_weights.len();
    assert!(width > 0, "{kernel}: a row has no columns");
    assert_eq!(scores, rows * width, "{kernel}: scores are not [rows, columns]");
    assert_eq!(losses, rows, "{kernel}: losses is not [rows]");
    assert!(gradient.is_none_or(|g| g == rows * width), "{kernel}: the gradient is not [rows, columns]");
    rows
}

/// Cross-entropy of class indices: `losses[r] = weight · ((1-ε) · -log p[target] + ε · mean(-log p))`.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn cross_entropy(
    cpu: &Cpu,
    classes: usize,
    logits: &[f32],
    targets: &[u32],
    row_weights: &[f32],
    label_smoothing: f32,
    losses: &mut [f32],
    dlogits: Option<&mut [f32]>,
) {
    let gradient = dlogits.as_ref().map(|d| d.len());
    let rows = check("cross_entropy", classes, logits.len(), row_weights, losses.len(), gradient);
    assert_eq!(targets.len(), rows, "cross_entropy: targets is not [rows]");
    for (row, (&target, &weight)) in targets.iter().zip(row_weights).enumerate() {
        assert!(
            weight == 0.0 || (target as usize) < classes,
            "cross_entropy: target {target} of row {row} is not one of {classes} classes"
        );
    }
    let task = CrossEntropy {
        cpu,
        classes,
        logits,
        targets,
        row_weights,
        label_smoothing,
        losses: Shared::new(losses),
        dlogits: dlogits.map(Shared::new),
    };
    cpu.run(rows, logits.len() <= elementwise::ALONE, &task);
}

struct CrossEntropy<'a> {
    cpu: &'a Cpu,
    classes: usize,
    logits: &'a [f32],
    targets: &'a [u32],
    row_weights: &'a [f32],
    label_smoothing: f32,
    losses: Shared<'a, f32>,
    dlogits: Option<Shared<'a, f32>>,
}

impl Task for CrossEntropy<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, row: usize) {
        let (weight, classes) = (self.row_weights[row], self.classes);
        let at = row * classes..(row + 1) * classes;
        let x = &self.logits[at.clone()];
        // The softmax is made where the gradient goes, if one is wanted.
        let mut own = self.cpu.scratch(if self.dlogits.is_none() { classes } else { 0 });
        let p = match self.dlogits {
            // SAFETY: a piece is a row.
            Some(dlogits) => unsafe { dlogits.range(at) },
            None => &mut own[..],
        };
        if weight == 0.0 {
            p.fill(0.0);
            // SAFETY: as above.
            unsafe { self.losses.set(row, 0.0) };
            return;
        }
        let target = self.targets[row] as usize;
        copy(s, x, p);
        let greatest = softmax::greatest(s, p);
        let total = softmax::exponentials_in_place(s, p, greatest);
        let log_sum_exp = greatest + total.ln();
        let mut loss = log_sum_exp - x[target];
        if self.label_smoothing != 0.0 {
            let mut sum = s.zero();
            lanes!(S, j in classes, {
                sum = s.add(sum, s.read(x, j));
            });
            let even = log_sum_exp - s.reduce_add(sum) / classes as f32;
            loss += self.label_smoothing * (even - loss);
        }
        // SAFETY: as above.
        unsafe { self.losses.set(row, weight * loss) };
        if self.dlogits.is_some() {
            let (scale, even) =
                (s.splat(weight / total), s.splat(-weight * self.label_smoothing / classes as f32));
            lanes!(S, j in classes, {
                s.write(p, j, s.mul_add(s.read(p, j), scale, even));
            });
            p[target] -= weight * (1.0 - self.label_smoothing);
        }
    }
}

/// Binary cross-entropy of every column, averaged over a row's columns; `pos_weights` `[classes]` weighs positives.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn bce_with_logits(
    _cpu: &Cpu,
    classes: usize,
    logits: &[f32],
    targets: &[f32],
    row_weights: &[f32],
    pos_weights: Option<&[f32]>,
    losses: &mut [f32],
    mut dlogits: Option<&mut [f32]>,
) {
    let rows = check(
        "bce_with_logits",
        classes,
        logits.len(),
        row_weights,
        losses.len(),
        dlogits.as_ref().map(|d| d.len()),
    );
    assert_eq!(targets.len(), rows * classes, "bce_with_logits: targets is not [rows, classes]");
    assert!(pos_weights.is_none_or(|p| p.len() == classes), "bce_with_logits: pos_weights is not [classes]");
    for row in 0..rows {
        let factor = row_weights[row] / classes as f32;
        let mut loss = 0.0;
        for j in 0..classes {
            let i = row * classes + j;
            let (x, y, positive) = (logits[i], targets[i], pos_weights.map_or(1.0, |p| p[j]));
            let softplus_minus = (-x.abs()).exp().ln_1p() + (-x).max(0.0);
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            if factor != 0.0 {
                loss += (1.0 - y) * (x + softplus_minus) + positive * y * softplus_minus;
            }
            if let Some(dlogits) = dlogits.as_deref_mut() {
                dlogits[i] = if factor == 0.0 {
                    0.0
                } else {
                    factor * ((1.0 - y) * sigmoid - positive * y * (1.0 - sigmoid))
                };
            }
        }
        losses[row] = factor * loss;
    }
}

/// Squared error, averaged over a row's columns.
pub fn mse(
    _cpu: &Cpu,
    width: usize,
    predictions: &[f32],
    targets: &[f32],
    row_weights: &[f32],
    losses: &mut [f32],
    mut dpredictions: Option<&mut [f32]>,
) {
    let rows = check(
        "mse",
        width,
        predictions.len(),
        row_weights,
        losses.len(),
        dpredictions.as_ref().map(|d| d.len()),
    );
    assert_eq!(targets.len(), rows * width, "mse: targets is not [rows, width]");
    for row in 0..rows {
        let factor = row_weights[row] / width as f32;
        let mut loss = 0.0;
        for i in row * width..(row + 1) * width {
            let difference = if factor == 0.0 { 0.0 } else { predictions[i] - targets[i] };
            loss += difference * difference;
            if let Some(dpredictions) = dpredictions.as_deref_mut() {
                dpredictions[i] = 2.0 * factor * difference;
            }
        }
        losses[row] = factor * loss;
    }
}
