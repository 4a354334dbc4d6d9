//! The weight gradient: a product of output gradients with gathered input pixels, summed over pixels.
//!
//! The sum is split over pixels where the gradient itself is too small to occupy many threads; splits depend on the
//! shape alone and are added in order.

use super::Conv2d;
use super::geometry::Gather;
use crate::gemm::pack::{self, Factor};
use crate::gemm::tile;
use crate::precision::Element;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, Matrix, Precision, elementwise};

/// Pixels summed at once.
const BLOCK: usize = 256;
/// Up to this many columns, gradients are multiplied as they lie: packing them would cost more than it saves.
const FEW_COLUMNS: usize = 32;
/// Gathered columns of a piece.
const PIECE_COLUMNS: usize = 256;
const COLUMN_STRIDE: usize = PIECE_COLUMNS + 16;
/// Pieces that are enough for a large machine.
const ENOUGH_PIECES: usize = 64;
/// The most elements that all splits hold together.
const SPLIT_ELEMENTS: usize = 1 << 21;

pub(super) fn accumulate(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    gather: &Gather,
    dy: &[f32],
    dweight: &mut [f32],
) {
    let (groups, outputs, depth) = (shape.groups, shape.group_outputs(), gather.depth());
    let rows = gather.taps.rows();
    let blocks = rows.div_ceil(BLOCK);
    let column_pieces = depth.div_ceil(PIECE_COLUMNS);
    let splits = ENOUGH_PIECES
        .div_ceil(groups * column_pieces)
        .min(SPLIT_ELEMENTS / dweight.len())
        .min(blocks.div_ceil(4))
        .max(1);
    let mut sums = cpu.scratch(splits * dweight.len());
    let task = Product {
        cpu,
        shape,
        precision,
        gather,
        dy,
        splits,
        blocks,
        column_pieces,
        sums: Shared::new(&mut sums),
    };
    cpu.run(splits * groups * column_pieces, rows * dweight.len() <= 1 << 16, &task);
    let add = Add { splits, depth, gather, sums: &sums, dweight: Shared::new(dweight) };
    cpu.run(groups * outputs, sums.len() <= elementwise::ALONE, &add);
}

struct Product<'a> {
    cpu: &'a Cpu,
    shape: &'a Conv2d,
    precision: Precision,
    gather: &'a Gather<'a>,
    dy: &'a [f32],
    splits: usize,
    blocks: usize,
    column_pieces: usize,
    /// `[splits, out_channels, taps · inputs]`
    sums: Shared<'a, f32>,
}

impl Task for Product<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let (outputs, depth) = (self.shape.group_outputs(), self.gather.depth());
        let (split, piece) = (piece % self.splits, piece / self.splits);
        let (group, column_piece) = (piece / self.column_pieces, piece % self.column_pieces);
        let columns = column_piece * PIECE_COLUMNS..((column_piece + 1) * PIECE_COLUMNS).min(depth);
        let first_c = (split * self.shape.out_channels + group * outputs) * depth + columns.start;
        assert!(first_c + (outputs - 1) * depth + columns.len() <= self.sums.len());
        let panels = outputs.div_ceil(S::TILE_ROWS);

        // Few whole tiles of channels of the grid's own pixels need no gathering.
        let in_pairs = self.precision == Precision::Bf16;
        let as_they_lie = self.gather.taps.copies()
            && !in_pairs
            && depth <= FEW_COLUMNS
            && depth.is_multiple_of(S::TILE_COLUMNS)
            && self.shape.groups == 1;
        let mut gathered = self.cpu.scratch(if as_they_lie { 0 } else { BLOCK * COLUMN_STRIDE });
        let mut packed = self.cpu.scratch(panels * S::TILE_ROWS * BLOCK);
        let blocks = split * self.blocks / self.splits..(split + 1) * self.blocks / self.splits;
        for block in blocks.clone() {
            let rows = block * BLOCK..((block + 1) * BLOCK).min(self.gather.taps.rows());
            let (b, b_step) = if as_they_lie {
                (&self.gather.source[rows.start * depth..rows.end * depth], depth)
            } else {
                self.gather.rows(s, group, rows.clone(), columns.clone(), &mut gathered, COLUMN_STRIDE);
                if in_pairs {
                    join_rows(s, &mut gathered, rows.len(), columns.len());
                }
                (&gathered[..], COLUMN_STRIDE)
            };
            let (dy, stride) = (&self.dy[group * outputs..], self.shape.out_channels);
            let steps = pack::steps(self.precision, rows.len());
            // The block's rows alone, since pairs begin with its first.
            let dy = &dy[rows.start * stride..(rows.end - 1) * stride + outputs];
            let factor = Factor::new(self.precision, Matrix::F32(dy), outputs, stride, false, rows.len());
            // Panels from here on are packed: all, or only the one at the edge.
            let few = columns.len() <= FEW_COLUMNS && !in_pairs;
            let first_packed = if few { outputs / S::TILE_ROWS } else { 0 };
            let packed = &mut packed[..(panels - first_packed) * S::TILE_ROWS * steps];
            factor.pack(s, S::TILE_ROWS, first_packed, 0, steps, packed);
            for column in (0..columns.len()).step_by(S::TILE_COLUMNS) {
                let b = &b[column..(steps - 1) * b_step + column + S::TILE_COLUMNS];
                for row in (0..outputs).step_by(S::TILE_ROWS) {
                    let (a, a_step) = match (row / S::TILE_ROWS).checked_sub(first_packed) {
                        Some(panel) => {
                            let panel = S::TILE_ROWS * steps * panel;
                            (&packed[panel..][..S::TILE_ROWS * steps], S::TILE_ROWS)
                        }
                        None => (&dy[row..][..(rows.len() - 1) * stride + S::TILE_ROWS], stride),
                    };
                    let operands =
                        tile::Operands { a: a.as_ptr(), a_row: 1, a_step, b: b.as_ptr(), b_step, k: steps };
                    let target = tile::Target {
                        c: self.sums.pointer(first_c + row * depth + column),
                        stride: depth,
                        rows: (outputs - row).min(S::TILE_ROWS),
                        columns: (columns.len() - column).min(S::TILE_COLUMNS),
                        scale: 1.0,
                        accumulate: block > blocks.start,
                    };
                    // SAFETY: the slices just taken hold what a tile reads; the assertion above bounds what it writes,
                    // and these outputs and columns of the split are the piece's own.
                    unsafe {
                        match self.precision {
                            Precision::F32 => s.tile(&operands, &target),
                            Precision::Bf16 => s.tile_of_pairs(&operands, &target),
                        }
                    }
                }
            }
        }
    }
}

/// Two gathered rows after the other become one of pairs, in place: each pair is written where its rows were, or before.
#[inline(always)]
fn join_rows<S: Simd>(s: S, gathered: &mut [f32], rows: usize, columns: usize) {
    let mut halves = [0.0f32; PIECE_COLUMNS];
    for pair in 0..rows.div_ceil(2) {
        let at = 2 * pair * COLUMN_STRIDE;
        let high = if 2 * pair + 1 < rows { &gathered[at + COLUMN_STRIDE..][..columns] } else { &[] };
        let low = &gathered[at..at + columns];
        lanes!(S, c in columns, {
            let high = if high.is_empty() { s.zero() } else { f32::read_rounded(s, high, c) };
            s.write(&mut halves, c, s.join_halves(f32::read_rounded(s, low, c), high));
        });
        gathered[pair * COLUMN_STRIDE..][..columns].copy_from_slice(&halves[..columns]);
    }
}

/// Adds the splits, with taps and channels as the weights have them.
struct Add<'a> {
    splits: usize,
    depth: usize,
    gather: &'a Gather<'a>,
    sums: &'a [f32],
    dweight: Shared<'a, f32>,
}

impl Task for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _s: S, output: usize) {
        let (depth, inputs) = (self.depth, self.gather.used);
        let elements = self.gather.taps.count();
        // SAFETY: a piece is an output channel.
        let dweight = unsafe { self.dweight.range(output * depth..(output + 1) * depth) };
        for split in 0..self.splits {
            let at = split * self.dweight.len() + output * depth;
            let sums = &self.sums[at..at + depth];
            if elements == 1 {
                dweight.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                continue;
            }
            for (channel, weights) in dweight.chunks_exact_mut(elements).enumerate() {
                for (tap, weight) in weights.iter_mut().enumerate() {
                    *weight += sums[tap * inputs + channel];
                }
            }
        }
    }
}
