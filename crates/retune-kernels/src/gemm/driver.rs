//! How a matrix product is cut into blocks, packed and handed to threads.

use std::ops::Range;

use super::pack::{self, Factor};
use super::tile::{Operands, Target};
use super::{Gemm, Layout};
use crate::activation::vector::{Function, with_activation};
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Activation, Cpu, Precision};

/// The most of k that one tile sums before it adds to C: a panel of B of this depth stays in L1.
pub(crate) const K_BLOCK: usize = 256;
/// Blocks of k that are packed at once.
const K_BLOCKS_PACKED: usize = 16;
/// The most rows of A and columns of B that are packed at once (a multiple of every tile's sides).
const PACKED_ROWS: usize = 6 * 14 * 48;
const PACKED_COLUMNS: usize = 4096;
/// A piece of work: what of A stays in L2 while B's panels pass.
const PIECE_ROWS: usize = 96;
const PIECE_COLUMNS: usize = 192;
/// Up to this many rows, B is packed where it is used instead of beforehand.
const FEW_ROWS: usize = 32;
/// Below this many multiplications one thread is sooner done alone.
const ALONE: usize = 1 << 16;

/// The blocks of k: as few as fit, as equal as can be. A function of k alone.
#[derive(Clone, Copy)]
pub(crate) struct Depths {
    k: usize,
    pub(crate) blocks: usize,
}

impl Depths {
    pub(crate) fn new(k: usize) -> Depths {
        Depths { k, blocks: k.div_ceil(K_BLOCK).max(1) }
    }

    #[inline(always)]
    pub(crate) fn start(self, block: usize) -> usize {
        block * (self.k / self.blocks) + block.min(self.k % self.blocks)
    }
}

/// Rows and columns of the register tile.
pub(crate) fn tile_sides(isa: crate::Isa) -> (usize, usize) {
    match isa {
        crate::Isa::Avx512 | crate::Isa::Avx512Bf16 => (14, 32),
        _ => (6, 16),
    }
}

pub(super) fn multiply(cpu: &Cpu, g: &Gemm, c: &mut [f32], pre_activation: Option<&mut [f32]>) {
    let &Gemm { m, n, precision, .. } = g;
    if m == 0 || n == 0 {
        return;
    }
    let (tile_rows, tile_columns) = tile_sides(cpu.isa());
    let a = match g.layout {
        Layout::Nt | Layout::Nn => Factor::new(precision, g.a, m, g.k, true, g.k),
        Layout::Tn => Factor::new(precision, g.a, m, m, false, g.k),
    };
    let b = match g.layout {
        Layout::Nt => Factor::new(precision, g.b, n, g.k, true, g.k),
        Layout::Nn | Layout::Tn => Factor::new(precision, g.b, n, n, false, g.k),
    };
    let k = pack::steps(precision, g.k);
    let depths = Depths::new(k);
    let c = Shared::new(c);
    let pre = pre_activation.map(Shared::new);
    let alone = m * n * k <= ALONE;
    let few_rows = m <= FEW_ROWS;
    let few_columns = n <= tile_columns;

    for first_block in (0..depths.blocks).step_by(K_BLOCKS_PACKED) {
        let blocks = first_block..(first_block + K_BLOCKS_PACKED).min(depths.blocks);
        let (k0, k1) = (depths.start(blocks.start), depths.start(blocks.end));
        for m0 in (0..m).step_by(PACKED_ROWS) {
            let rows = m0..(m0 + PACKED_ROWS).min(m);
            let row_panels = rows.len().div_ceil(tile_rows);
            let mut packed_a = cpu.scratch(if few_columns { 0 } else { row_panels * tile_rows * (k1 - k0) });
            for n0 in (0..n).step_by(PACKED_COLUMNS) {
                let columns = n0..(n0 + PACKED_COLUMNS).min(n);
                let column_panels = columns.len().div_ceil(tile_columns);
                let mut packed_b =
                    cpu.scratch(if few_rows { 0 } else { column_panels * tile_columns * (k1 - k0) });
                let pack = Pack {
                    depths,
                    blocks: blocks.clone(),
                    sides: [
                        Side::new(
                            a,
                            tile_rows,
                            m0 / tile_rows,
                            row_panels,
                            !few_columns && n0 == 0,
                            &mut packed_a,
                        ),
                        Side::new(
                            b,
                            tile_columns,
                            n0 / tile_columns,
                            column_panels,
                            !few_rows,
                            &mut packed_b,
                        ),
                    ],
                };
                cpu.run(pack.pieces(), alone, &pack);

                // A piece is whole tiles; where B is packed by the piece, all its rows are in one.
                let piece_rows = if few_rows { FEW_ROWS } else { PIECE_ROWS }.next_multiple_of(tile_rows);
                let piece_columns =
                    if few_rows { 4 * tile_columns } else { PIECE_COLUMNS.next_multiple_of(tile_columns) };
                let compute = Compute {
                    cpu,
                    g,
                    a,
                    b,
                    packed_a: (!few_columns).then_some(&packed_a),
                    packed_b: (!few_rows).then_some(&packed_b),
                    depths,
                    blocks: blocks.clone(),
                    rows: rows.clone(),
                    columns: columns.clone(),
                    piece_rows,
                    piece_columns,
                    c,
                    pre,
                };
                cpu.run(compute.pieces(), alone, &compute);
            }
        }
    }
}

/// One operand being packed: for each block of k all panels, one behind the other.
struct Side<'a> {
    factor: Factor<'a>,
    width: usize,
    first_panel: usize,
    panels: usize,
    out: Shared<'a, f32>,
    /// Panels packed by one piece, and pieces for each block of k; none if this side needs no packing.
    group: usize,
    groups: usize,
}

impl<'a> Side<'a> {
    fn new(
        factor: Factor<'a>,
        width: usize,
        first_panel: usize,
        panels: usize,
        wanted: bool,
        out: &'a mut [f32],
    ) -> Self {
        let group = 64usize.div_ceil(width);
        let groups = if wanted { panels.div_ceil(group) } else { 0 };
        Side { factor, width, first_panel, panels, out: Shared::new(out), group, groups }
    }
}

struct Pack<'a> {
    depths: Depths,
    blocks: Range<usize>,
    sides: [Side<'a>; 2],
}

impl Pack<'_> {
    fn pieces(&self) -> usize {
        self.blocks.len() * (self.sides[0].groups + self.sides[1].groups)
    }
}

impl Task for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let per_block = self.sides[0].groups + self.sides[1].groups;
        let block = self.blocks.start + piece / per_block;
        let group = piece % per_block;
        let (side, group) = match group.checked_sub(self.sides[0].groups) {
            None => (&self.sides[0], group),
            Some(group) => (&self.sides[1], group),
        };
        let (k0, k1) = (self.depths.start(block), self.depths.start(block + 1));
        let before = (k0 - self.depths.start(self.blocks.start)) * side.width * side.panels;
        let (first, last) = (group * side.group, ((group + 1) * side.group).min(side.panels));
        let panel = side.width * (k1 - k0);
        // SAFETY: groups of panels and blocks of k do not overlap.
        let out = unsafe { side.out.range(before + first * panel..before + last * panel) };
        side.factor.pack(s, side.width, side.first_panel + first, k0, k1 - k0, out);
    }
}

struct Compute<'a> {
    cpu: &'a Cpu,
    g: &'a Gemm<'a>,
    a: Factor<'a>,
    b: Factor<'a>,
    packed_a: Option<&'a [f32]>,
    packed_b: Option<&'a [f32]>,
    depths: Depths,
    blocks: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
    piece_rows: usize,
    piece_columns: usize,
    c: Shared<'a, f32>,
    pre: Option<Shared<'a, f32>>,
}

impl Compute<'_> {
    fn pieces(&self) -> usize {
        self.rows.len().div_ceil(self.piece_rows) * self.columns.len().div_ceil(self.piece_columns)
    }
}

impl Task for Compute<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let across = self.rows.len().div_ceil(self.piece_rows);
        let row = self.rows.start + piece % across * self.piece_rows;
        let column = self.columns.start + piece / across * self.piece_columns;
        let rows = row..(row + self.piece_rows).min(self.rows.end);
        let columns = column..(column + self.piece_columns).min(self.columns.end);
        let n = self.g.n;
        let with_epilogue =
            self.g.bias.is_some() || self.pre.is_some() || self.g.activation != Activation::Identity;

        // Panels packed on the spot: one of B for every column panel, one of A at the edge of an unpacked A.
        let mut own_b = self.cpu.scratch(if self.packed_b.is_none() { S::TILE_COLUMNS * K_BLOCK } else { 0 });
        let mut own_a = self.cpu.scratch(if self.packed_a.is_none() { S::TILE_ROWS * K_BLOCK } else { 0 });
        for block in self.blocks.clone() {
            let (k0, k1) = (self.depths.start(block), self.depths.start(block + 1));
            let depth = k1 - k0;
            let before = k0 - self.depths.start(self.blocks.start);
            for column in columns.clone().step_by(S::TILE_COLUMNS) {
                let (panel_b, b_step): (&[f32], usize) = match (self.packed_b, self.b.as_it_lies()) {
                    (Some(packed), _) => {
                        let whole = self.columns.len().div_ceil(S::TILE_COLUMNS) * S::TILE_COLUMNS;
                        let at = before * whole + (column - self.columns.start) * depth;
                        (&packed[at..][..S::TILE_COLUMNS * depth], S::TILE_COLUMNS)
                    }
                    // Read by one or two tiles alone, rows of B are best left where they are.
                    (None, Some(source))
                        if !source.along_k
                            && depth > 0
                            && rows.len() <= 2 * S::TILE_ROWS
                            && column + S::TILE_COLUMNS <= n =>
                    {
                        let stride = source.stride;
                        let at = k0 * stride + column;
                        (&source.data[at..][..(depth - 1) * stride + S::TILE_COLUMNS], stride)
                    }
                    (None, _) => {
                        let out = &mut own_b[..S::TILE_COLUMNS * depth];
                        self.b.pack(s, S::TILE_COLUMNS, column / S::TILE_COLUMNS, k0, depth, out);
                        (&own_b[..S::TILE_COLUMNS * depth], S::TILE_COLUMNS)
                    }
                };
                for row in rows.clone().step_by(S::TILE_ROWS) {
                    let (a, a_row, a_step) = match (self.packed_a, self.a.as_it_lies()) {
                        (Some(packed), _) => {
                            let whole = self.rows.len().div_ceil(S::TILE_ROWS) * S::TILE_ROWS;
                            let at = before * whole + (row - self.rows.start) * depth;
                            (packed[at..][..S::TILE_ROWS * depth].as_ptr(), 1, S::TILE_ROWS)
                        }
                        (None, Some(source)) if row + S::TILE_ROWS <= self.g.m && depth > 0 => {
                            let (a_row, a_step) =
                                if source.along_k { (source.stride, 1) } else { (1, source.stride) };
                            let from = row * a_row + k0 * a_step;
                            let to = (row + S::TILE_ROWS - 1) * a_row + (k1 - 1) * a_step;
                            (source.data[from..=to].as_ptr(), a_row, a_step)
                        }
                        (None, _) => {
                            let out = &mut own_a[..S::TILE_ROWS * depth];
                            self.a.pack(s, S::TILE_ROWS, row / S::TILE_ROWS, k0, depth, out);
                            (own_a[..S::TILE_ROWS * depth].as_ptr(), 1, S::TILE_ROWS)
                        }
                    };
                    let operands = Operands { a, a_row, a_step, b: panel_b.as_ptr(), b_step, k: depth };
                    let target = Target {
                        c: self.c.pointer(row * n + column),
                        stride: n,
                        rows: (rows.end - row).min(S::TILE_ROWS),
                        columns: (columns.end - column).min(S::TILE_COLUMNS),
                        scale: self.g.scale,
                        accumulate: self.g.accumulate || block > 0,
                    };
                    // SAFETY: both panels hold `depth` steps of a whole tile, as their slicing checked; the target's
                    // rows and columns are this piece's own and lie within C.
                    unsafe {
                        match self.g.precision {
                            Precision::F32 => s.tile(&operands, &target),
                            Precision::Bf16 => s.tile_of_pairs(&operands, &target),
                        }
                    }
                    if with_epilogue && block + 1 == self.depths.blocks {
                        let (rows, columns) = (row..row + target.rows, column..column + target.columns);
                        with_activation!(self.g.activation, finish(s, self, rows, columns));
                    }
                }
            }
        }
    }
}

/// Bias and activation of one tile, while it is still in L1.
#[inline(always)]
fn finish<S: Simd, A: Function>(s: S, task: &Compute, rows: Range<usize>, columns: Range<usize>) {
    let bias = task.g.bias.map(|bias| &bias[columns.clone()]);
    for row in rows {
        let at = row * task.g.n + columns.start..row * task.g.n + columns.end;
        // SAFETY: rows and columns are this piece's own.
        let c = unsafe { task.c.range(at.clone()) };
        // SAFETY: as above.
        let mut pre = task.pre.map(|pre| unsafe { pre.range(at) });
        lanes!(S, j in c.len(), {
            let mut value = s.read(c, j);
            if let Some(bias) = bias {
                value = s.add(value, s.read(bias, j));
            }
            if let Some(pre) = &mut pre {
                s.write(pre, j, value);
            }
            s.write(c, j, A::value(s, value));
        });
    }
}
