//! Rows taken from tables and added back to them.

use crate::Cpu;

/// `out[r] = Σ table[indices[r]]` over the tables, each `(table [entries, width], indices [rows])`.
pub fn embedding_forward(_cpu: &Cpu, width: usize, tables: &[(&[f32], &[u32])], out: &mut [f32]) {
    assert!(width > 0 || out.is_empty(), "embedding_forward: width is zero");
    for (table, indices) in tables {
        assert_eq!(out.len(), indices.len() * width, "embedding_forward: out is not [indices, width]");
        check_rows("embedding_forward", indices, table.len(), width);
    }
    out.fill(0.0);
    for (table, indices) in tables {
        for (row, &index) in indices.iter().enumerate() {
            for j in 0..width {
                out[row * width + j] += table[index as usize * width + j];
            }
        }
    }
}

/// `table_grad[indices[r]] += dy[r]`, rows in ascending order of `r`.
pub fn embedding_backward(cpu: &Cpu, width: usize, indices: &[u32], dy: &[f32], table_grad: &mut [f32]) {
    scatter_add_rows(cpu, width, dy, indices, table_grad);
}

/// `out[r] = x[rows[r]]`.
pub fn gather_rows(cpu: &Cpu, width: usize, x: &[f32], rows: &[u32], out: &mut [f32]) {
    embedding_forward(cpu, width, &[(x, rows)], out);
}

/// `dx[rows[r]] += dy[r]`, in ascending order of `r`.
pub fn scatter_add_rows(_cpu: &Cpu, width: usize, dy: &[f32], rows: &[u32], dx: &mut [f32]) {
    assert_eq!(dy.len(), rows.len() * width, "scatter_add_rows: dy is not [rows, width]");
    check_rows("scatter_add_rows", rows, dx.len(), width);
    for (row, &index) in rows.iter().enumerate() {
        for j in 0..width {
            dx[index as usize * width + j] += dy[row * width + j];
        }
    }
}

fn check_rows(kernel: &str, indices: &[u32], table: usize, width: usize) {
    if let Some(greatest) = indices.iter().max() {
        assert!(
            (*greatest as usize + 1) * width <= table,
            "{kernel}: row {greatest} is beyond a table of {table} elements in rows of {width}"
        );
    }
}
