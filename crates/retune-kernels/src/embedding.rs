//! Rows taken from tables and added back to them.

use crate::scratch::Shared;
use crate::simd::{Simd, Task, copy, lanes};
use crate::{Cpu, elementwise};

/// Rows in a piece of a forward.
const PIECE_ROWS: usize = 32;
/// Columns in a piece of a backward, which takes all rows in their order.
const PIECE_COLUMNS: usize = 64;

fn check_rows(kernel: &str, indices: &[u32], table: usize, width: usize) {
    if let Some(greatest) = indices.iter().max() {
        assert!(
            (*greatest as usize + 1) * width <= table,
            "{kernel}: row {greatest} is beyond a table of {table} elements in rows of {width}"
        );
    }
}

struct Forward<'a> {
    width: usize,
    rows: usize,
    tables: &'a [(&'a [f32], &'a [u32])],
    out: Shared<'a, f32>,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let width = self.width;
        for row in piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(self.rows) {
            // SAFETY: pieces do not overlap.
            let out = unsafe { self.out.range(row * width..(row + 1) * width) };
            for (i, (table, indices)) in self.tables.iter().enumerate() {
                let entry = &table[indices[row] as usize * width..][..width];
                if i == 0 {
                    copy(s, entry, out);
                    continue;
                }
                lanes!(S, j in width, {
                    s.write(out, j, s.add(s.read(out, j), s.read(entry, j)));
                });
            }
        }
    }
}

/// `out[r] = Σ table[indices[r]]` over the tables, each `(table [entries, width], indices [rows])`.
pub fn embedding_forward(cpu: &Cpu, width: usize, tables: &[(&[f32], &[u32])], out: &mut [f32]) {
    assert!(width > 0 || out.is_empty(), "embedding_forward: width is zero");
    for (table, indices) in tables {
        assert_eq!(out.len(), indices.len() * width, "embedding_forward: out is not [indices, width]");
        check_rows("embedding_forward", indices, table.len(), width);
    }
    let Some((_, indices)) = tables.first() else {
        out.fill(0.0);
        return;
    };
    let rows = indices.len();
    let alone = out.len() <= elementwise::ALONE;
    cpu.run(rows.div_ceil(PIECE_ROWS), alone, &Forward { width, rows, tables, out: Shared::new(out) });
}

/// `table_grad[indices[r]] += dy[r]`, rows in ascending order of `r`.
pub fn embedding_backward(cpu: &Cpu, width: usize, indices: &[u32], dy: &[f32], table_grad: &mut [f32]) {
    scatter_add_rows(cpu, width, dy, indices, table_grad);
}

/// `out[r] = x[rows[r]]`.
pub fn gather_rows(cpu: &Cpu, width: usize, x: &[f32], rows: &[u32], out: &mut [f32]) {
    embedding_forward(cpu, width, &[(x, rows)], out);
}

struct ScatterAdd<'a> {
    width: usize,
    dy: &'a [f32],
    rows: &'a [u32],
    dx: Shared<'a, f32>,
}

impl Task for ScatterAdd<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let columns = piece * PIECE_COLUMNS..((piece + 1) * PIECE_COLUMNS).min(self.width);
        for (row, &index) in self.rows.iter().enumerate() {
            let dy = &self.dy[row * self.width..][columns.clone()];
            let at = index as usize * self.width;
            // SAFETY: pieces are columns that do not overlap, and a piece holds one row at a time.
            let dx = unsafe { self.dx.range(at + columns.start..at + columns.end) };
            lanes!(S, j in dy.len(), {
                s.write(dx, j, s.add(s.read(dx, j), s.read(dy, j)));
            });
        }
    }
}

/// `dx[rows[r]] += dy[r]`, in ascending order of `r`.
pub fn scatter_add_rows(cpu: &Cpu, width: usize, dy: &[f32], rows: &[u32], dx: &mut [f32]) {
    assert_eq!(dy.len(), rows.len() * width, "scatter_add_rows: dy is not [rows, width]");
    check_rows("scatter_add_rows", rows, dx.len(), width);
    let task = ScatterAdd { width, dy, rows, dx: Shared::new(dx) };
    cpu.run(width.div_ceil(PIECE_COLUMNS), dy.len() <= elementwise::ALONE, &task);
}
