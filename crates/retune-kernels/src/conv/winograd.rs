//! Winograd's minimal filtering for 3×3 convolutions of stride 1 (Lavin and Gray 2016): forward and input gradient.
//!
//! A block of tiles is transformed into cache, multiplied position by position with the transformed weights, and
//! transformed back: 4 times fewer multiplications for tiles of 4×4 outputs, 2.25 times for 2×2. A tile's sums do not
//! depend on the block it is in.

use std::ops::Range;

use super::geometry::Gather;
use super::pack::Columns;
use super::product::Target;
use super::transform::{F2, F4, Transform};
use crate::gemm::{Depths, tile, tile_sides};
use crate::scratch::Shared;
use crate::simd::{Simd, Task};
use crate::{Cpu, elementwise};

/// Elements that a block of transformed tiles may take, unless that leaves too few outputs for its weights' passing.
const BLOCK_ELEMENTS: usize = 1 << 19;
/// Outputs of a block's tiles.
const BLOCK_OUTPUTS: Range<usize> = 384..769;
/// Output channels that are multiplied and transformed back together.
const CHUNK: usize = 128;
/// Added to the length of rows, so that rows and positions do not share cache sets.
pub(super) const PAD: usize = 16;
/// Transformed weights beyond this many elements fall out of cache.
const WEIGHT_ELEMENTS: usize = 1 << 22;
/// Pieces that are enough for a large machine.
const ENOUGH_PIECES: usize = 32;

/// How tall and wide a tile of outputs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Two,
    Four,
}

/// Whether Winograd's filtering computes a convolution: by shape without the batch.
pub(super) fn fits(gather: &Gather, columns: usize) -> bool {
    let taps = &gather.taps;
    let three =
        [&taps.down, &taps.across].iter().all(|axis| axis.count == 3 && axis.step == 1 && axis.by == 1);
    // In one group, and with channels enough that the transforms do not dominate.
    three && taps.fills_target() && gather.used == gather.channels && gather.used >= 16 && columns >= 16
}

/// The tile that computes a convolution with the least work, if it fits.
pub(super) fn fastest(gather: &Gather, columns: usize) -> Option<Tile> {
    let taps = &gather.taps;
    if !fits(gather, columns) {
        return None;
    }
    if 36 * gather.used * columns > WEIGHT_ELEMENTS {
        return Some(Tile::Two);
    }
    let outputs = |tile: usize| {
        [&taps.down, &taps.across].iter().map(|axis| axis.points.next_multiple_of(tile)).product::<usize>()
    };
    // Multiplications of a channel, with what the edge wastes: 16 for 2×2 outputs, 36 for 4×4.
    Some(if 9 * outputs(4) <= 16 * outputs(2) { Tile::Four } else { Tile::Two })
}

/// Convolves into the target pixels of `gather`'s grid, which fills the target.
pub(super) fn convolve(
    cpu: &Cpu,
    size: Tile,
    gather: &Gather,
    columns: &Columns,
    target: &Target,
    out: &mut [f32],
) {
    match size {
        Tile::Two => convolve_by::<F2, 4, 2>(cpu, gather, columns, target, out),
        Tile::Four => convolve_by::<F4, 6, 4>(cpu, gather, columns, target, out),
    }
}

fn convolve_by<T: Transform<A, M>, const A: usize, const M: usize>(
    cpu: &Cpu,
    gather: &Gather,
    columns: &Columns,
    target: &Target,
    out: &mut [f32],
) {
    let (inputs, outputs) = (gather.used, target.used);
    let (tile_rows, tile_columns) = tile_sides(cpu.isa());
    let panels = outputs.div_ceil(tile_columns);
    let position = panels * tile_columns * inputs + PAD;
    let mut weights = cpu.scratch(A * A * position);
    let depths = Depths::new(inputs);
    let task = Weights::<T, A, M> {
        columns,
        depths,
        width: tile_columns,
        panels,
        position,
        out: Shared::new(&mut weights),
        transform: std::marker::PhantomData,
    };
    cpu.run(panels * task.groups(), A * A * position <= elementwise::ALONE, &task);

    let taps = &gather.taps;
    let across = [taps.down.points.div_ceil(M), taps.across.points.div_ceil(M)];
    let tiles = taps.batch * across[0] * across[1];
    let room = BLOCK_ELEMENTS / (A * A * (inputs + PAD));
    let most = room.clamp(BLOCK_OUTPUTS.start / (M * M), BLOCK_OUTPUTS.end / (M * M));
    let blocks = tiles.div_ceil(most);
    let block = tiles.div_ceil(blocks).next_multiple_of(tile_rows);
    let chunk = CHUNK.next_multiple_of(tile_columns);
    let chunks = outputs.div_ceil(chunk);
    let task = Convolve::<T, A, M> {
        cpu,
        gather,
        target,
        weights: &weights,
        depths,
        panels,
        position,
        across,
        tiles,
        block,
        chunk,
        column_pieces: chunks.min(ENOUGH_PIECES.div_ceil(blocks)),
        out: Shared::new(out),
        transform: std::marker::PhantomData,
    };
    let alone = tiles * A * A * inputs * outputs <= 1 << 16;
    cpu.run(tiles.div_ceil(block) * task.column_pieces, alone, &task);
}

/// Transforms weights into panels: for each position, for each block of inputs, all panels one behind the other.
struct Weights<'a, T, const A: usize, const M: usize> {
    columns: &'a Columns<'a>,
    depths: Depths,
    width: usize,
    panels: usize,
    /// Elements of one position.
    position: usize,
    out: Shared<'a, f32>,
    transform: std::marker::PhantomData<fn() -> T>,
}

/// Inputs that a piece of the weights' transform takes.
const WEIGHT_GROUP: usize = 64;

impl<T, const A: usize, const M: usize> Weights<'_, T, A, M> {
    fn groups(&self) -> usize {
        self.columns.summed.div_ceil(WEIGHT_GROUP)
    }
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Weights<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let columns = self.columns;
        let (panel, group) = (piece / self.groups(), piece % self.groups());
        let first = panel * self.width;
        let inputs = group * WEIGHT_GROUP..((group + 1) * WEIGHT_GROUP).min(columns.summed);
        let elements: [usize; 9] = std::array::from_fn(|tap| columns.taps.kernel_element(tap));
        let mut block = 0;
        let mut lines = [[0.0f32; 32]; 9];
        for input in inputs {
            while input >= self.depths.start(block + 1) {
                block += 1;
            }
            let (k0, k1) = (self.depths.start(block), self.depths.start(block + 1));
            let at = self.width * (self.panels * k0 + panel * (k1 - k0) + input - k0);
            let weight = &columns.weight[input * columns.summed_stride..];
            for r in 0..self.width {
                // Columns beyond the edge repeat the panel's first; their sums are not stored.
                let column = if first + r < columns.columns { first + r } else { first };
                let weight = &weight[column * columns.column_stride..][..9];
                for (line, element) in lines.iter_mut().zip(elements) {
                    line[r] = weight[element];
                }
            }
            for r in (0..self.width).step_by(S::LANES) {
                let mut half = [[s.zero(); 3]; A];
                for column in 0..3 {
                    let turned = T::weights(
                        s,
                        [
                            s.read(&lines[column], r),
                            s.read(&lines[3 + column], r),
                            s.read(&lines[6 + column], r),
                        ],
                    );
                    for (half, value) in half.iter_mut().zip(turned) {
                        half[column] = value;
                    }
                }
                for (i, half) in half.into_iter().enumerate() {
                    for (j, value) in T::weights(s, half).into_iter().enumerate() {
                        let at = (i * A + j) * self.position + at + r;
                        // SAFETY: a piece is a panel and inputs of its own, at every position.
                        s.write(unsafe { self.out.range(at..at + S::LANES) }, 0, value);
                    }
                }
            }
        }
    }
}

struct Convolve<'a, T, const A: usize, const M: usize> {
    cpu: &'a Cpu,
    gather: &'a Gather<'a>,
    target: &'a Target<'a>,
    /// Transformed weights.
    weights: &'a [f32],
    depths: Depths,
    panels: usize,
    position: usize,
    /// Tiles of an image, down and across.
    across: [usize; 2],
    tiles: usize,
    /// Tiles of a block.
    block: usize,
    chunk: usize,
    column_pieces: usize,
    out: Shared<'a, f32>,
    transform: std::marker::PhantomData<fn() -> T>,
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Task for Convolve<'_, T, A, M> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let (inputs, outputs) = (self.gather.used, self.target.used);
        let (block, column_piece) = (piece / self.column_pieces, piece % self.column_pieces);
        let tiles = block * self.block..((block + 1) * self.block).min(self.tiles);
        let rows = tiles.len().next_multiple_of(S::TILE_ROWS);

        let stride = inputs.next_multiple_of(S::LANES) + PAD;
        let step = rows * stride + PAD;
        let mut transformed = self.cpu.scratch(A * A * step);
        let place = Place { out: Shared::new(&mut transformed), first: tiles.start, stride, step };
        // SAFETY: the scratch is this piece's own.
        unsafe { input_tiles::<S, T, A, M>(s, self.cpu, self.gather, self.across, tiles.clone(), &place) };

        let sum_stride = self.chunk + PAD;
        let sum_step = rows * sum_stride + PAD;
        let mut sums = self.cpu.scratch(A * A * sum_step);
        let chunks = outputs.div_ceil(self.chunk);
        let first_chunk = column_piece * chunks / self.column_pieces;
        let last_chunk = (column_piece + 1) * chunks / self.column_pieces;
        for chunk in first_chunk..last_chunk {
            let columns = chunk * self.chunk..((chunk + 1) * self.chunk).min(outputs);
            for position in 0..A * A {
                for block in 0..self.depths.blocks {
                    let (k0, k1) = (self.depths.start(block), self.depths.start(block + 1));
                    let depth = k1 - k0;
                    for column in columns.clone().step_by(S::TILE_COLUMNS) {
                        let panel = column / S::TILE_COLUMNS;
                        let at =
                            position * self.position + S::TILE_COLUMNS * (self.panels * k0 + panel * depth);
                        let b = &self.weights[at..][..S::TILE_COLUMNS * depth];
                        for row in (0..rows).step_by(S::TILE_ROWS) {
                            let a = position * step + row * stride + k0;
                            let a = &transformed[a..a + (S::TILE_ROWS - 1) * stride + depth];
                            let c = position * sum_step + row * sum_stride + column - columns.start;
                            let c = &mut sums[c..c + (S::TILE_ROWS - 1) * sum_stride + S::TILE_COLUMNS];
                            let operands = tile::Operands {
                                a: a.as_ptr(),
                                a_row: stride,
                                a_step: 1,
                                b: b.as_ptr(),
                                b_step: S::TILE_COLUMNS,
                                k: depth,
                            };
                            let target = tile::Target {
                                c: c.as_mut_ptr(),
                                stride: sum_stride,
                                rows: S::TILE_ROWS,
                                columns: S::TILE_COLUMNS,
                                scale: 1.0,
                                accumulate: block > 0,
                            };
                            // SAFETY: the slices just taken hold a whole tile's operands and its sums.
                            unsafe { s.tile(&operands, &target) };
                        }
                    }
                }
            }
            self.output_tiles(s, tiles.clone(), columns, &sums, sum_stride, sum_step);
        }
    }
}

impl<T: Transform<A, M>, const A: usize, const M: usize> Convolve<'_, T, A, M> {
    /// Transforms a chunk's sums back and stores what lies within the image.
    #[inline(always)]
    fn output_tiles<S: Simd>(
        &self,
        s: S,
        tiles: Range<usize>,
        columns: Range<usize>,
        sums: &[f32],
        stride: usize,
        step: usize,
    ) {
        let &Target { channels, bias, accumulate, .. } = self.target;
        let (down, across) = (&self.gather.taps.down, &self.gather.taps.across);
        let bias = bias.map(|bias| &bias[columns.clone()]);
        for (t, tile) in tiles.enumerate() {
            let [image, i, j] = tile_place(tile, self.across);
            let height = M.min(down.points - i * M);
            let width = M.min(across.points - j * M);
            for c in (0..columns.len()).step_by(S::LANES) {
                let count = (columns.len() - c).min(S::LANES);
                let mut half = [[s.zero(); A]; M];
                for x in 0..A {
                    let column: [S::F; A] =
                        std::array::from_fn(|y| s.read(sums, (y * A + x) * step + t * stride + c));
                    for (half, value) in half.iter_mut().zip(T::output(s, column)) {
                        half[x] = value;
                    }
                }
                let bias = bias.map_or(s.zero(), |bias| s.read(bias, c));
                for (y, half) in half.into_iter().enumerate().take(height) {
                    let values = T::output(s, half);
                    let pixel = (image * down.points + i * M + y) * across.points + j * M;
                    for (x, value) in values.into_iter().enumerate().take(width) {
                        let at = (pixel + x) * channels + columns.start + c;
                        // SAFETY: tiles have pixels of their own, and the columns are the piece's own.
                        let out = unsafe { self.out.range(at..at + count) };
                        let mut value = s.add(value, bias);
                        if accumulate {
                            value = s.add(value, s.read(out, 0));
                        }
                        s.write(out, 0, value);
                    }
                }
            }
        }
    }
}

/// Where transformed tiles go: element `c` of tile `t` at position `p` to `out[p · step + (t - first) · stride + c]`.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub out: Shared<'a, f32>,
    pub first: usize,
    pub stride: usize,
    pub step: usize,
}

/// The image of a tile, and its place down and across.
#[inline(always)]
pub(super) fn tile_place(tile: usize, across: [usize; 2]) -> [usize; 3] {
    let (line, j) = (tile / across[1], tile % across[1]);
    [line / across[0], line % across[0], j]
}

/// Transforms tiles of the source.
///
/// # Safety
/// While this runs, nothing else uses these tiles' places.
#[inline(always)]
pub(super) unsafe fn input_tiles<S: Simd, T: Transform<A, M>, const A: usize, const M: usize>(
    s: S,
    cpu: &Cpu,
    gather: &Gather,
    tiles_across: [usize; 2],
    tiles: Range<usize>,
    place: &Place,
) {
    let (down, across, channels) = (&gather.taps.down, &gather.taps.across, gather.channels);
    let mut zeros = cpu.scratch(channels);
    zeros.fill(0.0);
    assert_eq!(gather.source.len(), gather.taps.batch * down.source * across.source * channels);
    assert!(channels.next_multiple_of(S::LANES) <= place.stride);
    for tile in tiles {
        let [image, i, j] = tile_place(tile, tiles_across);
        let (y0, x0) = (down.origin(i * M), across.origin(j * M));
        // Pixels beyond the image are read from zeros.
        let mut pixels = [[zeros.as_ptr(); A]; A];
        for (y, pixels) in pixels.iter_mut().enumerate() {
            let y = y0 + y as isize;
            if y < 0 || y >= down.source as isize {
                continue;
            }
            for (x, pixel) in pixels.iter_mut().enumerate() {
                let x = x0 + x as isize;
                if x >= 0 && x < across.source as isize {
                    let at = (image * down.source + y as usize) * across.source + x as usize;
                    *pixel = gather.source[at * channels..].as_ptr();
                }
            }
        }
        let at = (tile - place.first) * place.stride;
        for c in (0..channels).step_by(S::LANES) {
            let count = (channels - c).min(S::LANES);
            let mut half = [[s.zero(); A]; A];
            for x in 0..A {
                let mut column = [s.zero(); A];
                for y in 0..A {
                    // SAFETY: every pixel, and the zeros, are followed by `channels` elements.
                    column[y] = unsafe {
                        let p = pixels[y][x].add(c);
                        if count == S::LANES { s.load(p) } else { s.load_part(p, count) }
                    };
                }
                for (half, value) in half.iter_mut().zip(T::input(s, column)) {
                    half[x] = value;
                }
            }
            for (y, half) in half.into_iter().enumerate() {
                for (x, value) in T::input(s, half).into_iter().enumerate() {
                    let at = (y * A + x) * place.step + at + c;
                    // SAFETY: the caller vouches for the tile's places, whose rows have whole vectors.
                    s.write(unsafe { place.out.range(at..at + S::LANES) }, 0, value);
                }
            }
        }
    }
}
