//! Operations that pick, look up or pool rows.

use retune_kernels as kernels;

use crate::{Context, Tensor};

/// The sum over `tables` of the rows that `indices` name, one output row per index. Shape [indices, width].
pub fn embedding(context: &Context, tables: &[(&Tensor, &[u32])]) -> Tensor {
    let (first, indices) = tables[0];
    let width = first.width();
    context.count_moved((1 + tables.len()) * indices.len() * width);
    let mut out = context.allocate([indices.len(), width]);
    if let Some(cpu) = context.kernels() {
        let tables: Vec<(&[f32], &[u32])> =
            tables.iter().map(|(table, rows)| (table.values(), *rows)).collect();
        kernels::embedding_forward(cpu, width, &tables, out.make_mut());
    }
    out
}

/// Adds each row of `dy` to the row of `table_gradient` that its index names.
pub fn embedding_backward(context: &Context, indices: &[u32], dy: &Tensor, table_gradient: &mut [f32]) {
    context.count_moved(3 * dy.elements());
    if let Some(cpu) = context.kernels() {
        kernels::embedding_backward(cpu, dy.width(), indices, dy.values(), table_gradient);
    }
}

/// The named rows of `x`, in that order.
pub fn gather_rows(context: &Context, x: &Tensor, rows: &[u32]) -> Tensor {
    context.count_moved(2 * rows.len() * x.width());
    let mut out = context.allocate([rows.len(), x.width()]);
    if let Some(cpu) = context.kernels() {
        kernels::gather_rows(cpu, x.width(), x.values(), rows, out.make_mut());
    }
    out
}

/// Gradient of [`gather_rows`]'s input with `input_rows` rows: zero but for the gathered ones.
pub fn gather_rows_backward(context: &Context, dy: &Tensor, rows: &[u32], input_rows: usize) -> Tensor {
    context.count_moved(input_rows * dy.width() + 3 * dy.elements());
    let mut dx = context.zeros([input_rows, dy.width()]);
    if let Some(cpu) = context.kernels() {
        kernels::scatter_add_rows(cpu, dy.width(), dy.values(), rows, dx.make_mut());
    }
    dx
}

/// The mean over the rows of each sequence, [sequences, width].
pub fn mean_pool(context: &Context, x: &Tensor, offsets: &[u32]) -> Tensor {
    context.count_moved(x.elements());
    let mut out = context.allocate([offsets.len() - 1, x.width()]);
    if let Some(cpu) = context.kernels() {
        kernels::mean_pool_forward(cpu, x.width(), x.values(), offsets, out.make_mut());
    }
    out
}

/// Gradient of [`mean_pool`]'s input.
pub fn mean_pool_backward(context: &Context, dy: &Tensor, offsets: &[u32], input_rows: usize) -> Tensor {
    context.count_moved(input_rows * dy.width());
    let mut dx = context.allocate([input_rows, dy.width()]);
    if let Some(cpu) = context.kernels() {
        kernels::mean_pool_backward(cpu, dy.width(), dy.values(), offsets, dx.make_mut());
    }
    dx
}

/// The greatest value of each column over the rows of each sequence, [sequences, width].
pub fn max_pool(context: &Context, x: &Tensor, offsets: &[u32]) -> Tensor {
    context.count_moved(x.elements());
    let mut out = context.allocate([offsets.len() - 1, x.width()]);
    if let Some(cpu) = context.kernels() {
        kernels::max_pool_forward(cpu, x.width(), x.values(), offsets, out.make_mut(), None);
    }
    out
}
