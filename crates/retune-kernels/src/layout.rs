//! Copies that change where values lie: columns of wider rows, transposed images, and averages over an even division.

use crate::scratch::Shared;
use crate::{Cpu, elementwise};

/// A range of columns in rows of `width`, from column `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Values in a row.
    pub width: usize,
    /// The first column.
    pub start: usize,
}

/// Rows that one piece of about [`elementwise::ALONE`] values holds.
fn rows_per_piece(width: usize) -> usize {
    (elementwise::ALONE / width.max(1)).max(1)
}

/// Calls `row` for every row in `0..rows`, several rows a piece.
fn for_each_row(cpu: &Cpu, rows: usize, width: usize, row: impl Fn(usize) + Sync) {
    let per_piece = rows_per_piece(width);
    cpu.for_each_piece(rows.div_ceil(per_piece), |piece| {
        (piece * per_piece..((piece + 1) * per_piece).min(rows)).for_each(&row);
    });
}

/// Copies `columns` columns of every row of `x` into those of `y`, whose other columns stay as they are.
pub fn copy_columns(cpu: &Cpu, columns: usize, from: Columns, x: &[f32], to: Columns, y: &mut [f32]) {
    assert!(from.start + columns <= from.width, "copy_columns: x has no such columns");
    assert!(to.start + columns <= to.width, "copy_columns: y has no such columns");
    let rows = x.len() / from.width.max(1);
    assert_eq!(x.len(), rows * from.width, "copy_columns: x is not [rows, width]");
    assert_eq!(y.len(), rows * to.width, "copy_columns: y is not [rows, width]");
    let y = Shared::new(y);
    for_each_row(cpu, rows, columns, |row| {
        let at = row * to.width + to.start;
        // SAFETY: rows do not overlap, and each is written once.
        let y = unsafe { y.range(at..at + columns) };
        y.copy_from_slice(&x[row * from.width + from.start..][..columns]);
    });
}

/// Transposes each matrix of `x` `[batch, rows, columns]`: `y` `[batch, columns, rows]`.
pub fn transpose_each(cpu: &Cpu, sizes: [usize; 3], x: &[f32], y: &mut [f32]) {
    let [batch, rows, columns] = sizes;
    assert_eq!(x.len(), batch * rows * columns, "transpose_each: x is not [batch, rows, columns]");
    assert_eq!(y.len(), x.len(), "transpose_each: x and y differ in length");
    let y = Shared::new(y);
    for_each_row(cpu, batch * columns, rows, |line| {
        let (image, column) = (line / columns, line % columns);
        // SAFETY: lines do not overlap, and each is written once.
        let y = unsafe { y.range(line * rows..(line + 1) * rows) };
        let x = &x[image * rows * columns..][..rows * columns];
        for (row, value) in y.iter_mut().enumerate() {
            *value = x[row * columns + column];
        }
    });
}

/// The first place and the end of window `index` of `windows` over `length` places.
fn adaptive_window(index: usize, windows: usize, length: usize) -> std::ops::Range<usize> {
    index * length / windows..((index + 1) * length).div_ceil(windows)
}

/// The mean over an even division of each image of `x` `[batch, height, width, channels]` into `output` windows, which
/// overlap where it does not come out even: `y` `[batch, output height, output width, channels]`.
pub fn adaptive_avg_pool2d_forward(
    cpu: &Cpu,
    sizes: [usize; 4],
    output: [usize; 2],
    x: &[f32],
    y: &mut [f32],
) {
    let [batch, height, width, channels] = sizes;
    assert_eq!(x.len(), sizes.iter().product::<usize>(), "adaptive_avg_pool2d_forward: x has another size");
    let windows = output[0] * output[1];
    assert_eq!(y.len(), batch * windows * channels, "adaptive_avg_pool2d_forward: y has another size");
    let y = Shared::new(y);
    for_each_row(cpu, batch * windows, channels, |line| {
        let (image, window) = (line / windows, line % windows);
        // SAFETY: lines do not overlap, and each is written once.
        let y = unsafe { y.range(line * channels..(line + 1) * channels) };
        let rows = adaptive_window(window / output[1], output[0], height);
        let columns = adaptive_window(window % output[1], output[1], width);
        let inverse = 1.0 / (rows.len() * columns.len()) as f32;
        y.fill(0.0);
        for row in rows {
            for column in columns.clone() {
                let x = &x[((image * height + row) * width + column) * channels..][..channels];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
        }
        y.iter_mut().for_each(|y| *y *= inverse);
    });
}

/// Backward of [`adaptive_avg_pool2d_forward`]: `dx` `[batch, height, width, channels]`, overwritten.
pub fn adaptive_avg_pool2d_backward(
    cpu: &Cpu,
    sizes: [usize; 4],
    output: [usize; 2],
    dy: &[f32],
    dx: &mut [f32],
) {
    let [batch, height, width, channels] = sizes;
    let windows = output[0] * output[1];
    assert_eq!(
        dx.len(),
        sizes.iter().product::<usize>(),
        "adaptive_avg_pool2d_backward: dx has another size"
    );
    assert_eq!(dy.len(), batch * windows * channels, "adaptive_avg_pool2d_backward: dy has another size");
    let image_elements = height * width * channels;
    let dx = Shared::new(dx);
    cpu.for_each_piece(batch, |image| {
        // SAFETY: a piece is an image.
        let dx = unsafe { dx.range(image * image_elements..(image + 1) * image_elements) };
        dx.fill(0.0);
        for window in 0..windows {
            let rows = adaptive_window(window / output[1], output[0], height);
            let columns = adaptive_window(window % output[1], output[1], width);
            let inverse = 1.0 / (rows.len() * columns.len()) as f32;
            let dy = &dy[(image * windows + window) * channels..][..channels];
            for row in rows {
                for column in columns.clone() {
                    let dx = &mut dx[(row * width + column) * channels..][..channels];
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * inverse);
                }
            }
        }
    });
}
