//! Losses from logits: one weighted loss per row, and its gradient.
//!
//! No mean is taken over rows: the caller's row weight carries it (`1 / total weight`, class weight, accumulation).
//! A row of weight zero has loss and gradient zero, and its target is not looked at.

use crate::Cpu;

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
    _cpu: &Cpu,
    classes: usize,
    logits: &[f32],
    targets: &[u32],
    row_weights: &[f32],
    label_smoothing: f32,
    losses: &mut [f32],
    mut dlogits: Option<&mut [f32]>,
) {
    let rows = check(
        "cross_entropy",
        classes,
        logits.len(),
        row_weights,
        losses.len(),
        dlogits.as_ref().map(|d| d.len()),
    );
    assert_eq!(targets.len(), rows, "cross_entropy: targets is not [rows]");
    for row in 0..rows {
        let (x, weight) = (&logits[row * classes..(row + 1) * classes], row_weights[row]);
        if weight == 0.0 {
            losses[row] = 0.0;
            if let Some(dlogits) = dlogits.as_deref_mut() {
                dlogits[row * classes..(row + 1) * classes].fill(0.0);
            }
            continue;
        }
        let target = targets[row] as usize;
        assert!(
            target < classes,
            "cross_entropy: target {target} of row {row} is not one of {classes} classes"
        );
        let greatest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lse = greatest + x.iter().map(|v| (v - greatest).exp()).sum::<f32>().ln();
        let mean = x.iter().sum::<f32>() / classes as f32;
        losses[row] = weight * ((1.0 - label_smoothing) * (lse - x[target]) + label_smoothing * (lse - mean));
        if let Some(dlogits) = dlogits.as_deref_mut() {
            for j in 0..classes {
                let wanted = f32::from(u8::from(j == target)) * (1.0 - label_smoothing)
                    + label_smoothing / classes as f32;
                dlogits[row * classes + j] = weight * ((x[j] - lse).exp() - wanted);
            }
        }
    }
}

/// Binary cross-entropy of every column, meaned over a row's columns; `pos_weights` `[classes]` weighs positives.
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

/// Squared error, meaned over a row's columns.
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
