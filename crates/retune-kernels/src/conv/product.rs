//! Convolution as a matrix product whose left factor is gathered in blocks that stay in cache.

use std::ops::Range;

use super::geometry::Gather;
use super::pack::Packed;
use crate::Cpu;
use crate::gemm::{K_BLOCK, tile};
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};

/// A piece of work: rows that are gathered at once, and the columns they are multiplied with.
const PIECE_ROWS: usize = 96;
const PIECE_COLUMNS: usize = 256;
/// Elements from one gathered row to the next: not a power of two, so that rows do not share cache sets.
const ROW_STRIDE: usize = K_BLOCK + 16;
/// Up to this many multiplications one thread is sooner done alone.
const ALONE: usize = 1 << 16;

/// What happens to the sums.
pub(super) struct Target<'a> {
    /// Channels of the output.
    pub channels: usize,
    /// Channels of one group.
    pub used: usize,
    /// Added to every pixel, `[channels]`.
    pub bias: Option<&'a [f32]>,
    /// Whether sums are added to what the output holds.
    pub accumulate: bool,
}

/// Convolves into the target pixels of `gather`'s grid. Pixels without taps receive the bias alone.
pub(super) fn convolve(
    cpu: &Cpu,
    gather: &Gather,
    groups: usize,
    packed: &Packed,
    target: &Target,
    out: &mut [f32],
) {
    let (_, tile_columns) = crate::gemm::tile_sides(cpu.isa());
    let piece_columns = PIECE_COLUMNS.next_multiple_of(tile_columns);
    let column_pieces = target.used.div_ceil(piece_columns);
    let rows = gather.taps.rows();
    let task =
        Convolve { cpu, gather, packed, target, piece_columns, column_pieces, groups, out: Shared::new(out) };
    let work = rows * groups * target.used * gather.depth();
    cpu.run(rows.div_ceil(PIECE_ROWS) * groups * column_pieces, work <= ALONE, &task);
}

struct Convolve<'a> {
    cpu: &'a Cpu,
    gather: &'a Gather<'a>,
    packed: &'a Packed<'a>,
    target: &'a Target<'a>,
    piece_columns: usize,
    column_pieces: usize,
    groups: usize,
    out: Shared<'a, f32>,
}

impl Task for Convolve<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let &Target { channels, used, bias, accumulate } = self.target;
        let taps = &self.gather.taps;
        let (row_piece, piece) =
            (piece / (self.groups * self.column_pieces), piece % (self.groups * self.column_pieces));
        let (group, column_piece) = (piece / self.column_pieces, piece % self.column_pieces);
        let rows = row_piece * PIECE_ROWS..((row_piece + 1) * PIECE_ROWS).min(taps.rows());
        let columns = column_piece * self.piece_columns..((column_piece + 1) * self.piece_columns).min(used);
        let first_channel = group * used + columns.start;
        // Pixels that do not follow each other in the target are summed aside.
        let direct = taps.fills_target();
        let mut aside = self.cpu.scratch(if direct { 0 } else { rows.len() * columns.len() });
        let aside = Shared::new(&mut aside);
        let (c, stride, first_c) = if direct {
            (self.out, channels, rows.start * channels + first_channel)
        } else {
            (aside, columns.len(), 0)
        };
        assert!(first_c + (rows.len() - 1) * stride + columns.len() <= c.len());

        if self.gather.depth() == 0 && !direct {
            return self.without_taps(rows, columns, first_channel);
        }
        let mut gathered = self.cpu.scratch(PIECE_ROWS.next_multiple_of(S::TILE_ROWS) * ROW_STRIDE);
        let depths = self.packed.depths;
        for block in 0..depths.blocks {
            let range = depths.start(block)..depths.start(block + 1);
            self.gather.rows(s, group, rows.clone(), range.clone(), &mut gathered, ROW_STRIDE);
            for column in columns.clone().step_by(S::TILE_COLUMNS) {
                let panel = self.packed.panel(group, block, column / S::TILE_COLUMNS);
                for row in (0..rows.len()).step_by(S::TILE_ROWS) {
                    let a = &gathered[row * ROW_STRIDE..(row + S::TILE_ROWS) * ROW_STRIDE];
                    let operands = tile::Operands {
                        a: a.as_ptr(),
                        a_row: ROW_STRIDE,
                        a_step: 1,
                        b: panel.as_ptr(),
                        b_step: S::TILE_COLUMNS,
                        k: range.len(),
                    };
                    let target = tile::Target {
                        c: c.pointer(first_c + row * stride + column - columns.start),
                        stride,
                        rows: (rows.len() - row).min(S::TILE_ROWS),
                        columns: (columns.end - column).min(S::TILE_COLUMNS),
                        scale: 1.0,
                        accumulate: block > 0 || (direct && accumulate),
                    };
                    // SAFETY: the slices just taken hold what a tile reads; the assertion above bounds what it writes,
                    // and these rows and columns are the piece's own.
                    unsafe { s.tile(&operands, &target) };
                }
            }
        }
        if direct && bias.is_none() {
            return;
        }
        let bias = bias.map(|bias| &bias[first_channel..][..columns.len()]);
        for (r, row) in rows.enumerate() {
            let at = taps.target_pixel(taps.place(row)) * channels + first_channel;
            // SAFETY: grid pixels have target pixels of their own, and the columns are the piece's own.
            let out = unsafe { self.out.range(at..at + columns.len()) };
            // SAFETY: `aside` is this piece's, and one row is held at a time.
            let sums = (!direct).then(|| unsafe { aside.range(r * stride..(r + 1) * stride) });
            lanes!(S, j in out.len(), {
                let mut value = match &sums {
                    Some(sums) if accumulate => s.add(s.read(out, j), s.read(sums, j)),
                    Some(sums) => s.read(sums, j),
                    None => s.read(out, j),
                };
                if let Some(bias) = bias {
                    value = s.add(value, s.read(bias, j));
                }
                s.write(out, j, value);
            });
        }
    }
}

impl Convolve<'_> {
    /// What remains of a convolution whose grid no kernel element reaches.
    #[inline(always)]
    fn without_taps(&self, rows: Range<usize>, columns: Range<usize>, first_channel: usize) {
        let &Target { channels, bias, accumulate, .. } = self.target;
        let taps = &self.gather.taps;
        if accumulate && bias.is_none() {
            return;
        }
        for row in rows {
            let at = taps.target_pixel(taps.place(row)) * channels + first_channel;
            // SAFETY: grid pixels have target pixels of their own, and the columns are the piece's own.
            let out = unsafe { self.out.range(at..at + columns.len()) };
            if !accumulate {
                out.fill(0.0);
            }
            if let Some(bias) = bias {
                out.iter_mut().zip(&bias[first_channel..]).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
