//! Softmax over rows.

use crate::Cpu;

/// `y = softmax(x)` for rows of `width`.
pub fn softmax(_cpu: &Cpu, width: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "softmax: x and y differ in length");
    assert!(width > 0 || x.is_empty(), "softmax: width is zero");
    for (x, y) in x.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(width.max(1))) {
        let greatest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = x.iter().map(|v| (v - greatest).exp()).sum();
        for j in 0..width {
            y[j] = (x[j] - greatest).exp() / total;
        }
    }
}
