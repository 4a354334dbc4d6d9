//! Convolutions of each channel by itself: vectors run over channels, so nothing is gathered.

use super::geometry::Taps;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// Grid pixels of a piece of the weight gradient, whose sums are added in order.
const SUM_ROWS: usize = 1024;

/// Convolves every channel of `source` into the target pixels of the grid; also the input gradient, with its taps.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub(super) fn convolve(
    cpu: &Cpu,
    channels: usize,
    taps: &Taps,
    weight: &[f32],
    bias: Option<&[f32]>,
    source: &[f32],
    out: &mut [f32],
    accumulate: bool,
) {
    // Weights by tap, so that a tap's channels are neighbours.
    let mut turned = cpu.scratch(taps.count() * channels);
    let elements = weight.len() / channels;
    for (tap, line) in turned.chunks_exact_mut(channels).enumerate() {
        let element = taps.kernel_element(tap);
        for (channel, value) in line.iter_mut().enumerate() {
            *value = weight[channel * elements + element];
        }
    }
    let task = Convolve { channels, taps, weight: &turned, bias, source, out: Shared::new(out), accumulate };
    let alone = taps.rows() * channels <= elementwise::ALONE;
    cpu.run(taps.batch * taps.down.points, alone, &task);
}

struct Convolve<'a> {
    channels: usize,
    taps: &'a Taps,
    /// `[taps, channels]`
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    source: &'a [f32],
    out: Shared<'a, f32>,
    accumulate: bool,
}

impl Task for Convolve<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let (taps, channels) = (self.taps, self.channels);
        let (down, across) = (&taps.down, &taps.across);
        let (image, i) = (line / down.points, line % down.points);
        let inside_down = down.inside(i);
        for j in 0..across.points {
            let at = taps.target_pixel([image, i, j]) * channels;
            // SAFETY: a piece is a line of the grid, whose target pixels are its own.
            let out = unsafe { self.out.range(at..at + channels) };
            let inside_across = across.inside(j);
            lanes!(S, c in channels, {
                let mut sum = self.bias.map_or(s.zero(), |bias| s.read(bias, c));
                if self.accumulate {
                    sum = s.add(sum, s.read(out, c));
                }
                for tap_down in inside_down.clone() {
                    let y = (down.origin(i) + (tap_down * down.by) as isize) as usize;
                    for tap_across in inside_across.clone() {
                        let x = (across.origin(j) + (tap_across * across.by) as isize) as usize;
                        let at = ((image * down.source + y) * across.source + x) * channels;
                        let source = &self.source[at..at + channels];
                        let weight = &self.weight[(tap_down * across.count + tap_across) * channels..][..channels];
                        sum = s.mul_add(s.read(source, c), s.read(weight, c), sum);
                    }
                }
                s.write(out, c, sum);
            });
        }
    }
}

/// Adds the weight gradient to `dweight` `[channels, 1, kh, kw]`.
pub(super) fn weight_gradient(
    cpu: &Cpu,
    channels: usize,
    taps: &Taps,
    x: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
) {
    let pieces = taps.rows().div_ceil(SUM_ROWS);
    let mut sums = cpu.scratch(pieces * dweight.len());
    let task = WeightGradient { channels, taps, x, dy, sums: Shared::new(&mut sums) };
    cpu.run(pieces, dy.len() <= elementwise::ALONE, &task);
    let elements = taps.count();
    for sums in sums.chunks_exact(dweight.len()) {
        for (channel, weights) in dweight.chunks_exact_mut(elements).enumerate() {
            for (tap, weight) in weights.iter_mut().enumerate() {
                *weight += sums[tap * channels + channel];
            }
        }
    }
}

struct WeightGradient<'a> {
    channels: usize,
    taps: &'a Taps,
    x: &'a [f32],
    dy: &'a [f32],
    /// `[pieces, taps, channels]`
    sums: Shared<'a, f32>,
}

impl Task for WeightGradient<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let (taps, channels) = (self.taps, self.channels);
        let (down, across) = (&taps.down, &taps.across);
        let len = taps.count() * channels;
        // SAFETY: every piece has its own sums.
        let sums = unsafe { self.sums.range(piece * len..(piece + 1) * len) };
        sums.fill(0.0);
        for row in piece * SUM_ROWS..((piece + 1) * SUM_ROWS).min(taps.rows()) {
            let [image, i, j] = taps.place(row);
            let dy = &self.dy[row * channels..(row + 1) * channels];
            for tap_down in down.inside(i) {
                let y = (down.origin(i) + (tap_down * down.by) as isize) as usize;
                for tap_across in across.inside(j) {
                    let x = (across.origin(j) + (tap_across * across.by) as isize) as usize;
                    let at = ((image * down.source + y) * across.source + x) * channels;
                    let x = &self.x[at..at + channels];
                    let sums = &mut sums[(tap_down * across.count + tap_across) * channels..][..channels];
                    lanes!(S, c in channels, {
                        s.write(sums, c, s.mul_add(s.read(x, c), s.read(dy, c), s.read(sums, c)));
                    });
                }
            }
        }
    }
}
