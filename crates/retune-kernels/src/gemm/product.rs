//! Small products inside one piece of work, from operands packed by the same panels as large ones.

use std::ops::Range;

use super::pack::{self, Source};
use super::tile::{Operands, Target};
use crate::Cpu;
use crate::scratch::{Scratch, Shared};
use crate::simd::Simd;

/// Packs rows of a strided matrix for products over its columns or over its rows.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    tile_rows: usize,
    tile_columns: usize,
}

impl Panels {
    #[inline(always)]
    pub(crate) fn of<S: Simd>() -> Panels {
        Panels { tile_rows: S::TILE_ROWS, tile_columns: S::TILE_COLUMNS }
    }

    /// Rows as the left factor, summed over `columns`.
    #[inline(always)]
    pub(crate) fn rows_by_dim<'c, S: Simd>(
        self,
        s: S,
        cpu: &'c Cpu,
        data: &[f32],
        stride: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Scratch<'c> {
        along(s, cpu, data, stride, rows, columns, self.tile_rows)
    }

    /// Rows as the right factor's columns, summed over `columns`.
    #[inline(always)]
    pub(crate) fn keys_by_dim<'c, S: Simd>(
        self,
        s: S,
        cpu: &'c Cpu,
        data: &[f32],
        stride: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Scratch<'c> {
        along(s, cpu, data, stride, rows, columns, self.tile_columns)
    }

    /// Columns as the right factor's columns, summed over `rows`.
    #[inline(always)]
    pub(crate) fn dim_by_keys<'c, S: Simd>(
        self,
        s: S,
        cpu: &'c Cpu,
        data: &[f32],
        stride: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Scratch<'c> {
        let mut out = cpu.scratch(columns.len().next_multiple_of(self.tile_columns) * rows.len());
        if !rows.is_empty() {
            let data = &data[rows.start * stride + columns.start..(rows.end - 1) * stride + columns.end];
            let source = Source { data, members: columns.len(), stride, along_k: false };
            pack::panels(s, source, self.tile_columns, 0, 0, rows.len(), &mut out);
        }
        out
    }
}

#[inline(always)]
fn along<'c, S: Simd>(
    s: S,
    cpu: &'c Cpu,
    data: &[f32],
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
) -> Scratch<'c> {
    let mut out = cpu.scratch(rows.len().next_multiple_of(width) * columns.len());
    if !rows.is_empty() {
        let data = &data[rows.start * stride + columns.start..(rows.end - 1) * stride + columns.end];
        let source = Source { data, members: rows.len(), stride, along_k: true };
        pack::panels(s, source, width, 0, 0, columns.len(), &mut out);
    }
    out
}

/// The left factor.
pub(crate) enum Left<'a> {
    /// Packed by [`Panels::rows_by_dim`].
    Panels(&'a [f32]),
    /// Rows as they lie, with their stride; whole tiles of rows must be there.
    Rows(&'a [f32], usize),
    /// The transpose of rows as they lie; the last must be followed by a tile's rows less one.
    Columns(&'a [f32], usize),
}

/// `c[at + i · c_stride + j] = scale · Σ left · right (+ c)` for `[m, n, k]`, with `right` packed in panels.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
pub(crate) fn multiply<S: Simd>(
    s: S,
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
            unsafe { s.tile(&operands, &target) };
        }
    }
}
