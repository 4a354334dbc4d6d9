//! Softmax over rows.

use crate::scratch::Shared;
use crate::simd::{Simd, Task, copy, lanes};
use crate::{Cpu, elementwise, math};

/// The greatest of a row, as a lane-wise maximum and then across lanes; `-inf` if the row is empty.
#[inline(always)]
pub(crate) fn greatest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    let mut most = s.splat(f32::NEG_INFINITY);
    lanes!(S, j in whole, {
        most = s.max(s.read(x, j), most);
    });
    x[whole..].iter().fold(s.reduce_max(most), |a, &b| if b > a { b } else { a })
}

/// `x = e^(x - shift)`, and the sum of them.
#[inline(always)]
pub(crate) fn exponentials_in_place<S: Simd>(s: S, x: &mut [f32], shift: f32) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    let shift = s.splat(shift);
    let mut total = s.zero();
    lanes!(S, j in whole, {
        let e = math::exp_negative(s, s.sub(s.read(x, j), shift));
        s.write(x, j, e);
        total = s.add(total, e);
    });
    if whole < x.len() {
        let e = math::exp_negative(s, s.sub(s.read(x, whole), shift));
        s.write(x, whole, e);
    }
    x[whole..].iter().fold(s.reduce_add(total), |a, b| a + b)
}

struct Softmax<'a> {
    width: usize,
    piece_rows: usize,
    x: &'a [f32],
    y: Shared<'a, f32>,
}

impl Task for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let rows = self.x.len() / self.width;
        for row in piece * self.piece_rows..((piece + 1) * self.piece_rows).min(rows) {
            let at = row * self.width..(row + 1) * self.width;
            let x = &self.x[at.clone()];
            // SAFETY: pieces do not overlap.
            let y = unsafe { self.y.range(at) };
            copy(s, x, y);
            let greatest = greatest(s, y);
            let inverse = s.splat(1.0 / exponentials_in_place(s, y, greatest));
            lanes!(S, j in self.width, {
                s.write(y, j, s.mul(s.read(y, j), inverse));
            });
        }
    }
}

/// `y = softmax(x)` for rows of `width`.
pub fn softmax(cpu: &Cpu, width: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "softmax: x and y differ in length");
    if x.is_empty() {
        return;
    }
    assert!(width > 0 && x.len().is_multiple_of(width), "softmax: x is not [rows, width]");
    let piece_rows = (elementwise::ALONE / width).max(1);
    let task = Softmax { width, piece_rows, x, y: Shared::new(y) };
    cpu.run((x.len() / width).div_ceil(piece_rows), x.len() <= elementwise::ALONE, &task);
}
