//! Addition and scaling of whole slices, and how elementwise work is cut.

use std::ops::Range;

use crate::Cpu;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};

/// Elements in a piece of elementwise work.
const PIECE: usize = 16384;
/// Up to this many elements one thread is sooner done alone.
pub(crate) const ALONE: usize = PIECE;

/// The elements of a piece.
#[inline(always)]
pub(crate) fn piece(piece: usize, len: usize) -> Range<usize> {
    piece * PIECE..((piece + 1) * PIECE).min(len)
}

/// Does an elementwise task over `len` elements.
pub(crate) fn run<T: Task>(cpu: &Cpu, len: usize, task: &T) {
    cpu.run(len.div_ceil(PIECE), len <= ALONE, task);
}

/// Adds rows of partial sums to `total`, in their order.
pub(crate) fn add_rows(rows: &[f32], total: &mut [f32]) {
    for row in rows.chunks_exact(total.len().max(1)) {
        for (total, value) in total.iter_mut().zip(row) {
            *total += value;
        }
    }
}

struct Add<'a> {
    x: &'a [f32],
    y: &'a [f32],
    out: Shared<'a, f32>,
}

impl Task for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, index: usize) {
        let range = piece(index, self.x.len());
        let (x, y) = (&self.x[range.clone()], &self.y[range.clone()]);
        // SAFETY: pieces do not overlap.
        let out = unsafe { self.out.range(range) };
        lanes!(S, i in x.len(), {
            s.write(out, i, s.add(s.read(x, i), s.read(y, i)));
        });
    }
}

/// `out = x + y`.
pub fn add(cpu: &Cpu, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "add: x and y differ in length");
    assert_eq!(x.len(), out.len(), "add: x and out differ in length");
    run(cpu, x.len(), &Add { x, y, out: Shared::new(out) });
}

struct AddAssign<'a> {
    x: Shared<'a, f32>,
    y: &'a [f32],
}

impl Task for AddAssign<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, index: usize) {
        let range = piece(index, self.y.len());
        let y = &self.y[range.clone()];
        // SAFETY: pieces do not overlap.
        let x = unsafe { self.x.range(range) };
        lanes!(S, i in y.len(), {
            s.write(x, i, s.add(s.read(x, i), s.read(y, i)));
        });
    }
}

/// `x += y`.
pub fn add_assign(cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add_assign: x and y differ in length");
    run(cpu, y.len(), &AddAssign { x: Shared::new(x), y });
}

struct ScaleAssign<'a> {
    x: Shared<'a, f32>,
    len: usize,
    factor: f32,
}

impl Task for ScaleAssign<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, index: usize) {
        // SAFETY: pieces do not overlap.
        let x = unsafe { self.x.range(piece(index, self.len)) };
        let factor = s.splat(self.factor);
        lanes!(S, i in x.len(), {
            s.write(x, i, s.mul(s.read(x, i), factor));
        });
    }
}

/// `x *= s`.
pub fn scale_assign(cpu: &Cpu, x: &mut [f32], s: f32) {
    let len = x.len();
    run(cpu, len, &ScaleAssign { x: Shared::new(x), len, factor: s });
}
