//! Reductions of whole slices, added in a fixed order of pieces.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Cpu;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};

const PIECE: usize = 1 << 16;

struct SumOfSquares<'a> {
    x: &'a [f32],
    sums: Shared<'a, f64>,
}

impl Task for SumOfSquares<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _s: S, piece: usize) {
        let x = &self.x[piece * PIECE..((piece + 1) * PIECE).min(self.x.len())];
        // Sixteen sums that the compiler keeps in vectors.
        let mut sums = [0.0f64; 16];
        let (whole, rest) = x.as_chunks::<16>();
        for chunk in whole {
            for (sum, &value) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        // SAFETY: every piece has its own sum.
        unsafe { self.sums.set(piece, sums.iter().sum::<f64>() + rest) };
    }
}

/// `Σ x²` in f64.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let pieces = x.len().div_ceil(PIECE);
    let mut sums = vec![0.0; pieces];
    cpu.run(pieces, pieces <= 1, &SumOfSquares { x, sums: Shared::new(&mut sums) });
    sums.iter().sum()
}

struct AllFinite<'a> {
    x: &'a [f32],
    finite: &'a AtomicBool,
}

impl Task for AllFinite<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let x = &self.x[piece * PIECE..((piece + 1) * PIECE).min(self.x.len())];
        // Zero times a finite number is zero; times anything else it is NaN, and NaN stays.
        let mut sum = s.zero();
        lanes!(S, i in x.len(), {
            sum = s.mul_add(s.read(x, i), s.zero(), sum);
        });
        if s.reduce_add(sum) != 0.0 {
            self.finite.store(false, Ordering::Relaxed);
        }
    }
}

/// Whether every element is finite.
pub fn all_finite(cpu: &Cpu, x: &[f32]) -> bool {
    let finite = AtomicBool::new(true);
    let pieces = x.len().div_ceil(PIECE);
    cpu.run(pieces, pieces <= 1, &AllFinite { x, finite: &finite });
    finite.into_inner()
}
