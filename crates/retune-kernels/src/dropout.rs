//! Keyed dropout: the mask is a pure function of a key and of where an element stands in its sample, so
//! backward recomputes it and nothing is stored.

use crate::{Cpu, philox4x32};

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
/// Eight consecutive columns share one call of [`philox4x32`] with counter
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

impl Dropout<'_> {
    pub(crate) fn threshold(&self) -> u32 {
        assert!(
            (0.0..=1.0).contains(&self.probability),
            "dropout probability {} is not within [0, 1]",
            self.probability
        );
        (self.probability * 65536.0).round() as u32
    }

    pub(crate) fn keep_scale(&self) -> f32 {
        let threshold = self.threshold();
        if threshold >= 65536 { 0.0 } else { 65536.0 / (65536 - threshold) as f32 }
    }

    /// The factor of one element: zero or the scale.
    pub(crate) fn factor(&self, row: usize, column: usize, stream: u32) -> f32 {
        let RowKey { sample, position } = self.rows[row];
        let words = philox4x32([(column / 8) as u32, position, sample, stream], self.key);
        let number = words[column % 8 / 2] >> (16 * (column % 2)) & 0xFFFF;
        if number >= self.threshold() { self.keep_scale() } else { 0.0 }
    }
}

/// `y = mask(x)`, for rows of `width`; applied to the gradient it is its own backward.
pub fn dropout(_cpu: &Cpu, d: &Dropout, width: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "dropout: x and y differ in length");
    assert_eq!(x.len(), d.rows.len() * width, "dropout: x is not [rows, width]");
    for row in 0..d.rows.len() {
        for column in 0..width {
            y[row * width + column] = x[row * width + column] * d.factor(row, column, 0);
        }
    }
}
