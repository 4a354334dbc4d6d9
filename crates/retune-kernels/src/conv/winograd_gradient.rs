//! The weight gradient by Winograd's minimal filtering: the transposes of the forward transforms, and for each position
//! a product summed over tiles.
//!
//! Where the sums are small, pieces of work are runs of tiles, each with sums of its own that are added in order. Where
//! they are large, all threads transform a block of tiles and then multiply it position by position.

use std::ops::Range;

use super::geometry::Gather;
use super::transform::{F2, F4, Transform};
use super::winograd::{PAD, Place, Tile, input_tiles, tile_place};
use crate::gemm::tile;
use crate::scratch::Shared;
use crate::simd::{Simd, Task};
use crate::{Cpu, elementwise};

/// Elements of a block's transformed tiles, inputs and gradients together: of a piece's own, and of one for all threads.
const OWN_BLOCK_ELEMENTS: usize = 1 << 18;
const BLOCK_ELEMENTS: usize = 1 << 21;
/// The most elements that all runs' sums hold together, and the most runs.
const RUN_ELEMENTS: usize = 1 << 22;
const RUNS: usize = 16;
/// Tiles that a piece transforms.
const PIECE_TILES: usize = 12;
/// Columns of a position's product that are one piece.
const PIECE_COLUMNS: usize = 64;

/// Adds the gradient to `dweight` `[outputs, inputs, 3, 3]`, for the convolutions that [`super::winograd::choose`]s.
pub(super) fn accumulate(
    cpu: &Cpu,
    size: Tile,
    gather: &Gather,
    outputs: usize,
    dy: &[f32],
    dweight: &mut [f32],
) {
    match size {
        Tile::Two => accumulate_by::<F2, 4, 2>(cpu, gather, outputs, dy, dweight),
        Tile::Four => accumulate_by::<F4, 6, 4>(cpu, gather, outputs, dy, dweight),
    }
}

fn accumulate_by<T: Transform<A, M>, const A: usize, const M: usize>(
    cpu: &Cpu,
    gather: &Gather,
    outputs: usize,
    dy: &[f32],
    dweight: &mut [f32],
) {
    let (taps, inputs) = (&gather.taps, gather.used);
    let across = [taps.down.points.div_ceil(M), taps.across.points.div_ceil(M)];
    let tiles = taps.batch * across[0] * across[1];
    let position = outputs * inputs + PAD;
    // Whole tiles of the product are read: room for the widest beyond the last channel.
    let [input_stride, gradient_stride] = [inputs, outputs].map(|n| n.next_multiple_of(16) + PAD);
    let runs = (RUN_ELEMENTS / (A * A * position)).min(RUNS).min(tiles.div_ceil(24));
    let elements = if runs > 1 { OWN_BLOCK_ELEMENTS } else { BLOCK_ELEMENTS };
    let most = (elements / (A * A * (input_stride + gradient_stride))).max(24);
    let run = if runs > 1 { tiles.div_ceil(runs) } else { tiles };
    let block = run.div_ceil(run.div_ceil(most));
    let work = Work::<T, A, M> {
        cpu,
        gather,
        dy,
        outputs,
        across,
        position,
        block,
        strides: [input_stride, gradient_stride],
        steps: [block * input_stride + PAD, block * gradient_stride + PAD],
        transform: std::marker::PhantomData,
    };
    let alone = tiles * A * A * inputs * outputs <= 1 << 16;
    let runs = tiles.div_ceil(run);
    let mut sums = cpu.scratch(runs * A * A * position);
    if runs > 1 {
        let task = Runs { work: &work, run, tiles, sums: Shared::new(&mut sums) };
        cpu.run(runs, alone, &task);
    } else {
        let mut transformed_inputs = cpu.scratch(A * A * work.steps[0]);
        let mut transformed_gradients = cpu.scratch(A * A * work.steps[1]);
        for first in (0..tiles).step_by(block) {
            let tiles = first..(first + block).min(tiles);
            let (inputs, gradients) =
                (Shared::new(&mut transformed_inputs), Shared::new(&mut transformed_gradients));
            cpu.run(
                tiles.len().div_ceil(PIECE_TILES),
                alone,
                &Tiles { work: &work, tiles: tiles.clone(), inputs, gradients },
            );
            let multiply = Multiply {
                work: &work,
                tiles: tiles.len(),
                inputs: &transformed_inputs,
                gradients: &transformed_gradients,
                accumulate: first > 0,
                sums: Shared::new(&mut sums),
            };
            cpu.run(A * A * gather.used.div_ceil(PIECE_COLUMNS), alone, &multiply);
        }
    }
    let add = Add { work: &work, runs, sums: &sums, dweight: Shared::new(dweight) };
    cpu.run(outputs, sums.len() <= elementwise::ALONE, &add);
}

/// What all tasks share.
struct Work<'a, T, const A: usize, const M: usize> {
    cpu: &'a Cpu,
    gather: &'a Gather<'a>,
    dy: &'a [f32],
    outputs: usize,
    /// Tiles of an image, down and across.
    across: [usize; 2],
    /// Elements of one position's sums `[outputs, inputs]`.
    position: usize,
    /// The most tiles that are transformed together.
    block: usize,
    /// Elements from tile to tile and from position to position, of inputs and of gradients.
    strides: [usize; 2],
    steps: [usize; 2],
    transform: std::marker::PhantomData<fn() -> T>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Work<'_, T, A, M> {
    /// Transforms tiles of inputs and of gradients, to their places after tile `first`.
    ///
    /// # Safety
    /// While this runs, nothing else uses these tiles' places.
    #[inline(always)]
    unsafe fn transform<S: Simd>(
        &self,
        s: S,
        tiles: Range<usize>,
        first: usize,
        inputs: Shared<f32>,
        gradients: Shared<f32>,
    ) {
        let place = Place { out: inputs, first, stride: self.strides[0], step: self.steps[0] };
        // SAFETY: handed on.
        unsafe { input_tiles::<S, T, A, M>(s, self.cpu, self.gather, self.across, tiles.clone(), &place) };
        let (down, across) = (&self.gather.taps.down, &self.gather.taps.across);
        for tile in tiles {
            let [image, i, j] = tile_place(tile, self.across);
            let (height, width) = (M.min(down.points - i * M), M.min(across.points - j * M));
            let at = (tile - first) * self.strides[1];
            for c in (0..self.outputs).step_by(S::LANES) {
                let mut half = [[s.zero(); M]; A];
                for x in 0..width {
                    let mut column = [s.zero(); M];
                    for (y, value) in column.iter_mut().enumerate().take(height) {
                        let pixel = (image * down.points + i * M + y) * across.points + j * M + x;
                        *value = s.read(&self.dy[pixel * self.outputs..(pixel + 1) * self.outputs], c);
                    }
                    for (half, value) in half.iter_mut().zip(T::output_backward(s, column)) {
                        half[x] = value;
                    }
                }
                for (y, half) in half.into_iter().enumerate() {
                    for (x, value) in T::output_backward(s, half).into_iter().enumerate() {
                        let at = (y * A + x) * self.steps[1] + at + c;
                        // SAFETY: the caller vouches for the tile's places, whose rows have whole vectors.
                        s.write(unsafe { gradients.range(at..at + S::LANES) }, 0, value);
                    }
                }
            }
        }
    }

    /// Columns of one position's product of gradients and inputs, summed over `tiles`, to `sums` from `first_c` on.
    ///
    /// # Safety
    /// While this runs, nothing else uses these columns of the sums.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of a product")]
    unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        position: usize,
        columns: Range<usize>,
        tiles: usize,
        inputs: &[f32],
        gradients: &[f32],
        accumulate: bool,
        sums: Shared<f32>,
        first_c: usize,
    ) {
        let ([input_stride, gradient_stride], width) = (self.strides, self.gather.used);
        assert!(first_c + self.outputs * width <= sums.len() && tiles > 0);
        for column in columns.clone().step_by(S::TILE_COLUMNS) {
            let b = position * self.steps[0] + column;
            let b = &inputs[b..b + (tiles - 1) * input_stride + S::TILE_COLUMNS];
            for row in (0..self.outputs).step_by(S::TILE_ROWS) {
                let a = position * self.steps[1] + row;
                let a = &gradients[a..a + (tiles - 1) * gradient_stride + S::TILE_ROWS];
                let operands = tile::Operands {
                    a: a.as_ptr(),
                    a_row: 1,
                    a_step: gradient_stride,
                    b: b.as_ptr(),
                    b_step: input_stride,
                    k: tiles,
                };
                let target = tile::Target {
                    c: sums.pointer(first_c + row * width + column),
                    stride: width,
                    rows: (self.outputs - row).min(S::TILE_ROWS),
                    columns: (columns.end - column).min(S::TILE_COLUMNS),
                    scale: 1.0,
                    accumulate,
                };
                // SAFETY: the slices just taken hold what a tile reads; the assertion above bounds what it writes, and
                // the caller vouches for the columns.
                unsafe { s.tile(&operands, &target) };
            }
        }
    }
}

/// Runs of tiles, each with its own sums.
struct Runs<'a, T, const A: usize, const M: usize> {
    work: &'a Work<'a, T, A, M>,
    run: usize,
    tiles: usize,
    /// `[runs, positions, outputs, inputs]`
    sums: Shared<'a, f32>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Runs<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, run: usize) {
        let work = self.work;
        let mut inputs = work.cpu.scratch(A * A * work.steps[0]);
        let mut gradients = work.cpu.scratch(A * A * work.steps[1]);
        let tiles = run * self.run..((run + 1) * self.run).min(self.tiles);
        for first in tiles.clone().step_by(work.block) {
            let block = first..(first + work.block).min(tiles.end);
            // SAFETY: the scratch is this piece's own.
            unsafe {
                work.transform(
                    s,
                    block.clone(),
                    first,
                    Shared::new(&mut inputs),
                    Shared::new(&mut gradients),
                );
            }
            for position in 0..A * A {
                let (columns, accumulate) = (0..work.gather.used, first > tiles.start);
                let at = (run * A * A + position) * work.position;
                // SAFETY: every run has its own sums.
                unsafe {
                    work.multiply(
                        s,
                        position,
                        columns,
                        block.len(),
                        &inputs,
                        &gradients,
                        accumulate,
                        self.sums,
                        at,
                    );
                }
            }
        }
    }
}

/// Transforms a block's tiles for all threads.
struct Tiles<'a, T, const A: usize, const M: usize> {
    work: &'a Work<'a, T, A, M>,
    tiles: Range<usize>,
    inputs: Shared<'a, f32>,
    gradients: Shared<'a, f32>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Tiles<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let first = self.tiles.start + piece * PIECE_TILES;
        let tiles = first..(first + PIECE_TILES).min(self.tiles.end);
        // SAFETY: a piece's tiles are its own.
        unsafe { self.work.transform(s, tiles, self.tiles.start, self.inputs, self.gradients) };
    }
}

/// Multiplies a block's tiles, a position's columns in each piece.
struct Multiply<'a, T, const A: usize, const M: usize> {
    work: &'a Work<'a, T, A, M>,
    tiles: usize,
    inputs: &'a [f32],
    gradients: &'a [f32],
    accumulate: bool,
    /// `[positions, outputs, inputs]`
    sums: Shared<'a, f32>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Multiply<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let width = self.work.gather.used;
        let pieces = width.div_ceil(PIECE_COLUMNS);
        let (position, piece) = (piece / pieces, piece % pieces);
        let columns = piece * PIECE_COLUMNS..((piece + 1) * PIECE_COLUMNS).min(width);
        let (inputs, gradients, at) = (self.inputs, self.gradients, position * self.work.position);
        // SAFETY: a piece's columns of a position are its own.
        unsafe {
            let work = self.work;
            work.multiply(
                s,
                position,
                columns,
                self.tiles,
                inputs,
                gradients,
                self.accumulate,
                self.sums,
                at,
            );
        }
    }
}

/// Adds the runs, transforms the sums to the gradient of each output's weights and adds that.
struct Add<'a, T, const A: usize, const M: usize> {
    work: &'a Work<'a, T, A, M>,
    runs: usize,
    sums: &'a [f32],
    dweight: Shared<'a, f32>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Add<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, output: usize) {
        let inputs = self.work.gather.used;
        // SAFETY: a piece is an output channel.
        let dweight = unsafe { self.dweight.range(output * inputs * 9..(output + 1) * inputs * 9) };
        for c in (0..inputs).step_by(S::LANES) {
            let mut half = [[s.zero(); A]; 3];
            for x in 0..A {
                let mut column = [s.zero(); A];
                for (y, total) in column.iter_mut().enumerate() {
                    for run in 0..self.runs {
                        let at = (run * A * A + y * A + x) * self.work.position + output * inputs;
                        *total = s.add(*total, s.read(&self.sums[at..at + inputs], c));
                    }
                }
                for (half, value) in half.iter_mut().zip(T::weights_backward(s, column)) {
                    half[x] = value;
                }
            }
            let mut elements = [[0.0f32; 16]; 9];
            for (y, half) in half.into_iter().enumerate() {
                for (x, value) in T::weights_backward(s, half).into_iter().enumerate() {
                    s.write(&mut elements[y * 3 + x], 0, value);
                }
            }
            for (lane, weights) in dweight[c * 9..].chunks_exact_mut(9).take(S::LANES).enumerate() {
                for (weight, element) in weights.iter_mut().zip(&elements) {
                    *weight += element[lane];
                }
            }
        }
    }
}
