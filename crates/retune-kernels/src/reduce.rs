//! Reductions of whole slices, added in a fixed order of pieces.

use crate::Cpu;

/// `Σ x²` in f64.
pub fn sum_of_squares(_cpu: &Cpu, x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// Whether every element is finite.
pub fn all_finite(_cpu: &Cpu, x: &[f32]) -> bool {
    x.iter().all(|v| v.is_finite())
}
