//! Keyed dropout: the mask is a pure function of a key and of where an element stands in its sample, so
//! backward recomputes it and nothing is stored.

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, philox};

/// Where a row stands: which sample of the step it belongs to, and its position within that sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// The sample's occurrence in the step.
    pub sample: u32,
    /// The row's position within its sample.
    pub position: u32,
}

/// A dropout mask over rows.
///
/// Eight consecutive columns share one call of [`philox4x32`](crate::philox4x32) with counter
/// `(column / 8, row.position, row.sample, stream)`; its 128 bits, low half of each word first, are eight 16-bit
/// numbers. A column is kept where its number is at least `round(probability * 65536)` and is then scaled by
/// `65536 / (65536 - round(probability * 65536))`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// The probability of dropping an element, in `[0, 1]`; resolved to a multiple of 1/65536.
    pub probability: f32,
    /// The generator's key: what the seed, the step and the module make together.
    pub key: [u32; 2],
    /// One key per row.
    pub rows: &'a [RowKey],
}

/// A mask's constants, worked out once for a call.
#[derive(Clone, Copy)]
pub(crate) struct Mask<'a> {
    key: [u32; 2],
    threshold: u32,
    scale: f32,
    rows: &'a [RowKey],
}

impl<'a> Mask<'a> {
    /// `None` where nothing would be dropped.
    pub(crate) fn new(dropout: Option<&Dropout<'a>>, rows: usize) -> Option<Mask<'a>> {
        let dropout = dropout?;
        let probability = dropout.probability;
        assert!((0.0..=1.0).contains(&probability), "dropout probability {probability} is not within [0, 1]");
        assert_eq!(dropout.rows.len(), rows, "dropout has not one row key for each row");
        let threshold = (probability * 65536.0).round() as u32;
        let scale = if threshold >= 65536 { 0.0 } else { 65536.0 / (65536 - threshold) as f32 };
        (threshold > 0).then_some(Mask { key: dropout.key, threshold, scale, rows: dropout.rows })
    }

    /// The factors, zero or the scale, of a row's columns from the first on.
    #[inline(always)]
    pub(crate) fn factors<S: Simd>(&self, s: S, row: usize, stream: u32, out: &mut [f32]) {
        let RowKey { sample, position } = self.rows[row];
        let threshold = self.threshold.min(65535);
        let scale = s.splat(self.scale);
        // Eight numbers for each lane's counter; sixteen lanes at the most.
        let mut numbers = [0u16; 8 * 16];
        for first in (0..out.len()).step_by(8 * S::LANES) {
            let words = philox::vector(s, (first / 8) as u32, [position, sample, stream], self.key);
            // SAFETY: the buffer holds eight numbers for up to sixteen lanes.
            unsafe { s.store_words(words, numbers.as_mut_ptr()) };
            for at in (first..out.len().min(first + 8 * S::LANES)).step_by(S::LANES) {
                // SAFETY: `at - first` is a multiple of the lanes below 8 · LANES.
                let kept = unsafe { s.at_least(numbers.as_ptr().add(at - first), threshold) };
                s.write(out, at, s.select(kept, scale, s.zero()));
            }
        }
    }
}

/// Elements in a piece, roughly.
const PIECE: usize = 16384;

struct Apply<'a> {
    mask: Mask<'a>,
    cpu: &'a Cpu,
    width: usize,
    piece_rows: usize,
    x: &'a [f32],
    y: Shared<'a, f32>,
}

impl Task for Apply<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let mut factors = self.cpu.scratch(self.width);
        let rows = self.mask.rows.len();
        for row in piece * self.piece_rows..((piece + 1) * self.piece_rows).min(rows) {
            let at = row * self.width..(row + 1) * self.width;
            let x = &self.x[at.clone()];
            // SAFETY: pieces do not overlap.
            let y = unsafe { self.y.range(at) };
            self.mask.factors(s, row, 0, &mut factors);
            lanes!(S, j in self.width, {
                s.write(y, j, s.mul(s.read(x, j), s.read(&factors, j)));
            });
        }
    }
}

/// `y = mask(x)`, for rows of `width`; applied to the gradient it is its own backward.
pub fn dropout(cpu: &Cpu, d: &Dropout, width: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "dropout: x and y differ in length");
    let rows = d.rows.len();
    assert_eq!(x.len(), rows * width, "dropout: x is not [rows, width]");
    let Some(mask) = Mask::new(Some(d), rows) else {
        y.copy_from_slice(x);
        return;
    };
    let piece_rows = (PIECE / width.max(1)).max(1);
    let task = Apply { mask, cpu, width, piece_rows, x, y: Shared::new(y) };
    cpu.run(rows.div_ceil(piece_rows), x.len() <= PIECE, &task);
}
