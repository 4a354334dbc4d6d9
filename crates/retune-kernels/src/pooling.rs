//! Pooling a packed batch's sequences to one row each.

use crate::Cpu;

fn check(kernel: &str, width: usize, tokens: usize, offsets: &[u32], pooled: usize) {
    assert!(
        !offsets.is_empty() && offsets[0] == 0 && offsets.is_sorted(),
        "{kernel}: offsets do not rise from 0"
    );
    assert_eq!(tokens, offsets[offsets.len() - 1] as usize * width, "{kernel}: tokens do not match offsets");
    assert_eq!(pooled, (offsets.len() - 1) * width, "{kernel}: pooled rows are not [sequences, width]");
}

/// The mean over each sequence's rows: `x` `[tokens, width]` to `out` `[sequences, width]`. An empty sequence gives zeros.
pub fn mean_pool_forward(_cpu: &Cpu, width: usize, x: &[f32], offsets: &[u32], out: &mut [f32]) {
    check("mean_pool_forward", width, x.len(), offsets, out.len());
    out.fill(0.0);
    for (sequence, bounds) in offsets.windows(2).enumerate() {
        let length = (bounds[1] - bounds[0]) as f32;
        for row in bounds[0] as usize..bounds[1] as usize {
            for j in 0..width {
                out[sequence * width + j] += x[row * width + j];
            }
        }
        for j in 0..width {
            if length > 0.0 {
                out[sequence * width + j] /= length;
            }
        }
    }
}

/// Backward of [`mean_pool_forward`]: `dout` `[sequences, width]` to `dx` `[tokens, width]`, overwritten.
pub fn mean_pool_backward(_cpu: &Cpu, width: usize, dout: &[f32], offsets: &[u32], dx: &mut [f32]) {
    check("mean_pool_backward", width, dx.len(), offsets, dout.len());
    for (sequence, bounds) in offsets.windows(2).enumerate() {
        let length = (bounds[1] - bounds[0]) as f32;
        for row in bounds[0] as usize..bounds[1] as usize {
            for j in 0..width {
                dx[row * width + j] = dout[sequence * width + j] / length;
            }
        }
    }
}

/// The maximum over each sequence's rows: `x` `[tokens, width]` to `out` `[sequences, width]`.
///
/// `argmax`, if given, receives the row of `x` that each maximum came from, the first of equals. An empty sequence
/// gives zeros and `u32::MAX`.
pub fn max_pool_forward(
    _cpu: &Cpu,
    width: usize,
    x: &[f32],
    offsets: &[u32],
    out: &mut [f32],
    mut argmax: Option<&mut [u32]>,
) {
    check("max_pool_forward", width, x.len(), offsets, out.len());
    assert!(
        argmax.as_ref().is_none_or(|a| a.len() == out.len()),
        "max_pool_forward: argmax is not [sequences, width]"
    );
    for (sequence, bounds) in offsets.windows(2).enumerate() {
        for j in 0..width {
            let (mut best, mut best_row) = (0.0, u32::MAX);
            for row in bounds[0]..bounds[1] {
                let value = x[row as usize * width + j];
                if best_row == u32::MAX || value > best {
                    (best, best_row) = (value, row);
                }
            }
            out[sequence * width + j] = best;
            if let Some(argmax) = argmax.as_deref_mut() {
                argmax[sequence * width + j] = best_row;
            }
        }
    }
}

/// Backward of [`max_pool_forward`]: `dx` `[tokens, width]`, overwritten, receives `dout` where `argmax` says.
pub fn max_pool_backward(_cpu: &Cpu, width: usize, dout: &[f32], argmax: &[u32], dx: &mut [f32]) {
    assert_eq!(dout.len(), argmax.len(), "max_pool_backward: dout and argmax differ in length");
    assert!(width > 0 || dout.is_empty(), "max_pool_backward: width is zero");
    dx.fill(0.0);
    for (i, (&gradient, &row)) in dout.iter().zip(argmax).enumerate() {
        if row != u32::MAX {
            dx[row as usize * width + i % width] += gradient;
        }
    }
}
