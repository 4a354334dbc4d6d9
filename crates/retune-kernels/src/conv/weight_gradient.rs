//! The weight gradient: a product of output gradients with gathered input pixels, summed over pixels.
//!
//! The sum is split over pixels where the gradient itself is too small to occupy many threads; splits depend on the
//! shape alone and are added in order.

use super::Conv2d;
use super::geometry::Gather;
use crate::gemm::pack::{self, Source};
use crate::gemm::tile;
use crate::scratch::Shared;
use crate::simd::{Simd, Task};
use crate::{Cpu, elementwise};

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

pub(super) fn accumulate(cpu: &Cpu, shape: &Conv2d, gather: &Gather, dy: &[f32], dweight: &mut [f32]) {
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
    let task =
        Product { cpu, shape, gather, dy, splits, blocks, column_pieces, sums: Shared::new(&mut sums) };
    cpu.run(splits * groups * column_pieces, rows * dweight.len() <= 1 << 16, &task);
    let add = Add { splits, depth, gather, sums: &sums, dweight: Shared::new(dweight) };
    cpu.run(groups * outputs, sums.len() <= elementwise::ALONE, &add);
}

struct Product<'a> {
    cpu: &'a Cpu,
    shape: &'a Conv2d,
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
        let as_they_lie = self.gather.taps.copies()
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
                (&gathered[..], COLUMN_STRIDE)
            };
            let source = Source {
                data: &self.dy[group * outputs..],
                members: outputs,
                stride: self.shape.out_channels,
                along_k: false,
            };
            // Panels from here on are packed: all, or only the one at the edge.
            let first_packed = if columns.len() <= FEW_COLUMNS { outputs / S::TILE_ROWS } else { 0 };
            let packed = &mut packed[..(panels - first_packed) * S::TILE_ROWS * rows.len()];
            pack::panels(s, source, S::TILE_ROWS, first_packed, rows.start, rows.len(), packed);
            for column in (0..columns.len()).step_by(S::TILE_COLUMNS) {
                let b = &b[column..(rows.len() - 1) * b_step + column + S::TILE_COLUMNS];
                for row in (0..outputs).step_by(S::TILE_ROWS) {
                    let (a, a_step) = match (row / S::TILE_ROWS).checked_sub(first_packed) {
                        Some(panel) => {
                            let panel = S::TILE_ROWS * rows.len() * panel;
                            (&packed[panel..][..S::TILE_ROWS * rows.len()], S::TILE_ROWS)
                        }
                        None => {
                            let at = rows.start * source.stride + row;
                            (
                                &source.data[at..][..(rows.len() - 1) * source.stride + S::TILE_ROWS],
                                source.stride,
                            )
                        }
                    };
                    let operands = tile::Operands {
                        a: a.as_ptr(),
                        a_row: 1,
                        a_step,
                        b: b.as_ptr(),
                        b_step,
                        k: rows.len(),
                    };
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
                    unsafe { s.tile(&operands, &target) };
                }
            }
        }
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
