//! Small products inside one piece of work, from operands packed by the same panels as large ones.

use std::ops::Range;

use super::pack::{self, Factor};
use super::tile::{Operands, Target};
use crate::scratch::{Scratch, Shared};
use crate::simd::Simd;
use crate::{Cpu, Matrix, Precision};

/// Packs parts of a strided matrix for products in one precision.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    precision: Precision,
    tile_rows: usize,
    tile_columns: usize,
}

/// A part of a matrix whose rows are `stride` elements apart.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub data: Matrix<'a>,
    pub stride: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Panels {
    #[inline(always)]
    pub(crate) fn of<S: Simd>(precision: Precision) -> Panels {
        Panels { precision, tile_rows: S::TILE_ROWS, tile_columns: S::TILE_COLUMNS }
    }

    /// Rows as the left factor, summed over columns.
    #[inline(always)]
    pub(crate) fn rows_by_dim<'c, S: Simd>(self, s: S, cpu: &'c Cpu, part: Part) -> Scratch<'c> {
        self.pack(s, cpu, part, true, self.tile_rows)
    }

    /// Rows as the right factor's columns, summed over columns.
    #[inline(always)]
    pub(crate) fn keys_by_dim<'c, S: Simd>(self, s: S, cpu: &'c Cpu, part: Part) -> Scratch<'c> {
        self.pack(s, cpu, part, true, self.tile_columns)
    }

    /// Columns as the right factor's columns, summed over rows.
    #[inline(always)]
    pub(crate) fn dim_by_keys<'c, S: Simd>(self, s: S, cpu: &'c Cpu, part: Part) -> Scratch<'c> {
        self.pack(s, cpu, part, false, self.tile_columns)
    }

    #[inline(always)]
    fn pack<'c, S: Simd>(self, s: S, cpu: &'c Cpu, part: Part, along_k: bool, width: usize) -> Scratch<'c> {
        let Part { data, stride, rows, columns } = part;
        let (members, k) = if along_k { (rows.len(), columns.len()) } else { (columns.len(), rows.len()) };
        let steps = pack::steps(self.precision, k);
        let mut out = cpu.scratch(members.next_multiple_of(width) * steps);
        if !rows.is_empty() && !columns.is_empty() {
            let range = rows.start * stride + columns.start..(rows.end - 1) * stride + columns.end;
            let data = match data {
                Matrix::F32(data) => Matrix::F32(&data[range]),
                Matrix::Bf16(data) => Matrix::Bf16(&data[range]),
            };
            let factor = Factor::new(self.precision, data, members, stride, along_k, k);
            factor.pack(s, width, 0, 0, steps, &mut out);
        }
        out
    }

    /// `c[at + i · c_stride + j] = scale · Σ left · right (+ c)` for `[m, n, k]`, with `right` packed in panels.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    pub(crate) fn multiply<S: Simd>(
        self,
        s: S,
        cpu: &Cpu,
        left: Left,
        right: &[f32],
        [m, n, k]: [usize; 3],
        scale: f32,
        accumulate: bool,
        c: Shared<f32>,
        c_stride: usize,
        at: usize,
    ) {
        let repacked = match (self.precision, left) {
            (Precision::F32, _) | (_, Left::Panels(_)) => None,
            (Precision::Bf16, Left::Rows(data, stride)) => {
                let part = Part { data: Matrix::F32(data), stride, rows: 0..m, columns: 0..k };
                Some(self.pack(s, cpu, part, true, self.tile_rows))
            }
            (Precision::Bf16, Left::Columns(data, stride)) => {
                let part = Part { data: Matrix::F32(data), stride, rows: 0..k, columns: 0..m };
                Some(self.pack(s, cpu, part, false, self.tile_rows))
            }
        };
        let left = repacked.as_ref().map_or(left, |panels| Left::Panels(panels));
        let steps = pack::steps(self.precision, k);
        multiply(s, self.precision, left, right, [m, n, steps], scale, accumulate, c, c_stride, at);
    }
}

/// The left factor.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Packed by [`Panels::rows_by_dim`], in the same precision.
    Panels(&'a [f32]),
    /// Rows as they lie, with their stride; whole tiles of rows must be there.
    Rows(&'a [f32], usize),
    /// The transpose of rows as they lie; the last must be followed by a tile's rows less one.
    Columns(&'a [f32], usize),
}

/// [`Panels::multiply`] of what a tile can read, in `k` steps.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
fn multiply<S: Simd>(
    s: S,
    precision: Precision,
    left: Left,
    right: &[f32],
    [m, n, k]: [usize; 3],
    scale: f32,
    accumulate: bool,
    c: Shared<f32>,
    c_stride: usize,
    at: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= c_stride && at + (m - 1) * c_stride + n <= c.len());
    for column in (0..n).step_by(S::TILE_COLUMNS) {
        let b = &right[column * k..][..S::TILE_COLUMNS * k];
        for row in (0..m).step_by(S::TILE_ROWS) {
            let (a, a_row, a_step) = match left {
                Left::Panels(panels) => (&panels[row * k..][..S::TILE_ROWS * k], 1, S::TILE_ROWS),
                Left::Rows(data, stride) if k > 0 => {
                    (&data[row * stride..(row + S::TILE_ROWS - 1) * stride + k], stride, 1)
                }
                Left::Columns(data, stride) if k > 0 => {
                    (&data[row..(k - 1) * stride + row + S::TILE_ROWS], 1, stride)
                }
                Left::Rows(..) | Left::Columns(..) => (&[][..], 0, 0),
            };
            let operands =
                Operands { a: a.as_ptr(), a_row, a_step, b: b.as_ptr(), b_step: S::TILE_COLUMNS, k };
            let target = Target {
                c: c.pointer(at + row * c_stride + column),
                stride: c_stride,
                rows: (m - row).min(S::TILE_ROWS),
                columns: (n - column).min(S::TILE_COLUMNS),
                scale,
                accumulate,
            };
            // SAFETY: the slices just taken hold what a tile reads; the assertion above bounds what it writes, and
            // the caller's piece owns these rows and columns of C.
            unsafe {
                match precision {
                    Precision::F32 => s.tile(&operands, &target),
                    Precision::Bf16 => s.tile_of_pairs(&operands, &target),
                }
            }
        }
    }
}
