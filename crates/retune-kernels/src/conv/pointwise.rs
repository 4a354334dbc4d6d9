//! Convolutions with a kernel of one pixel and no padding: matrix products over the pixels that the stride hits.

use super::Conv2d;
use super::geometry::{Gather, Taps};
use crate::scratch::Shared;
use crate::simd::{Simd, Task, copy, lanes};
use crate::{Activation, Cpu, Gemm, Layout, Precision, elementwise, gemm};

/// Pixels of a piece of copying.
const PIECE_ROWS: usize = 64;

/// Whether every output pixel is a product of one input pixel.
pub(super) fn fits(shape: &Conv2d) -> bool {
    shape.kernel == [1, 1] && shape.padding == [0, 0] && shape.groups == 1
}

pub(super) fn forward(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let sides = [shape.output_pixels(), shape.out_channels, shape.in_channels];
    if shape.stride == [1, 1] {
        return product(cpu, precision, Layout::Nt, sides, x, weight, bias, false, y);
    }
    let mut hit = cpu.scratch(shape.output_pixels() * shape.in_channels);
    let taps = Taps::forward(shape);
    let gather = Gather { taps, source: x, channels: shape.in_channels, used: shape.in_channels };
    let task = Take { gather, out: Shared::new(&mut hit) };
    cpu.run(shape.output_pixels().div_ceil(PIECE_ROWS), y.len() <= elementwise::ALONE, &task);
    product(cpu, precision, Layout::Nt, sides, &hit, weight, bias, false, y);
}

pub(super) fn input_gradient(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let sides = [shape.output_pixels(), shape.in_channels, shape.out_channels];
    if shape.stride == [1, 1] {
        return product(cpu, precision, Layout::Nn, sides, dy, weight, None, accumulate, dx);
    }
    let mut hit = cpu.scratch(shape.output_pixels() * shape.in_channels);
    product(cpu, precision, Layout::Nn, sides, dy, weight, None, false, &mut hit);
    let alone = dx.len() <= elementwise::ALONE;
    let task = Put { shape, gradient: &hit, accumulate, dx: Shared::new(dx) };
    cpu.run(shape.batch * shape.height, alone, &task);
}

#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
fn product(
    cpu: &Cpu,
    precision: Precision,
    layout: Layout,
    [m, n, k]: [usize; 3],
    a: &[f32],
    b: &[f32],
    bias: Option<&[f32]>,
    accumulate: bool,
    c: &mut [f32],
) {
    let activation = Activation::Identity;
    let (a, b) = (a.into(), b.into());
    gemm(cpu, &Gemm { layout, m, n, k, precision, a, b, accumulate, scale: 1.0, bias, activation }, c, None);
}

/// Copies the pixels that the stride hits.
struct Take<'a> {
    gather: Gather<'a>,
    out: Shared<'a, f32>,
}

impl Task for Take<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let channels = self.gather.channels;
        let rows = piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(self.gather.taps.rows());
        // SAFETY: pieces do not overlap.
        let out = unsafe { self.out.range(rows.start * channels..rows.end * channels) };
        self.gather.rows(s, 0, rows, 0..channels, out, channels);
    }
}

/// Puts the gradients of the pixels that the stride hits in their places, and zeros between them.
struct Put<'a> {
    shape: &'a Conv2d,
    gradient: &'a [f32],
    accumulate: bool,
    dx: Shared<'a, f32>,
}

impl Task for Put<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let &Conv2d { height, width, in_channels: channels, stride, .. } = self.shape;
        let (image, row) = (line / height, line % height);
        // SAFETY: a piece is a line of input pixels.
        let dx = unsafe { self.dx.range(line * width * channels..(line + 1) * width * channels) };
        for (column, dx) in dx.chunks_exact_mut(channels).enumerate() {
            if row % stride[0] == 0 && column % stride[1] == 0 {
                let line = image * self.shape.output_height() + row / stride[0];
                let at = (line * self.shape.output_width() + column / stride[1]) * channels;
                let gradient = &self.gradient[at..at + channels];
                if self.accumulate {
                    lanes!(S, c in channels, {
                        s.write(dx, c, s.add(s.read(dx, c), s.read(gradient, c)));
                    });
                } else {
                    copy(s, gradient, dx);
                }
            } else if !self.accumulate {
                dx.fill(0.0);
            }
        }
    }
}
