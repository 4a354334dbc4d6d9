//! Convolutions of each channel by itself: vectors run over channels, so nothing is gathered.

use std::ops::Range;

use super::geometry::Taps;
use crate::scratch::{Scratch, Shared};
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// Grid pixels of a piece of the weight gradient, whose sums are added in order.
const SUM_ROWS: usize = 1024;

/// Convolves every channel of `source` into the target pixels of one or several grids: the forward pass, or the input
/// gradient in all its phases.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub(super) fn convolve(
    cpu: &Cpu,
    channels: usize,
    grids: impl Iterator<Item = Taps>,
    weight: &[f32],
    bias: Option<&[f32]>,
    source: &[f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let elements = weight.len() / channels;
    let grids: Vec<(Taps, Scratch)> = grids
        .map(|taps| {
            // Weights by tap, so that a tap's channels are neighbours.
            let mut turned = cpu.scratch(taps.count() * channels);
            for (tap, line) in turned.chunks_exact_mut(channels).enumerate() {
                let element = taps.kernel_element(tap);
                for (channel, value) in line.iter_mut().enumerate() {
                    *value = weight[channel * elements + element];
                }
            }
            (taps, turned)
        })
        .collect();
    // Lines of all grids that read the same lines of the source are one piece.
    let lines = grids.iter().map(|(taps, _)| taps.down.points).max().unwrap_or(0);
    let alone = out.len() <= elementwise::ALONE;
    let batch = grids.first().map_or(0, |(taps, _)| taps.batch);
    let task = Convolve { channels, grids: &grids, lines, bias, source, out: Shared::new(out), accumulate };
    cpu.run(batch * lines, alone, &task);
}

struct Convolve<'a> {
    channels: usize,
    /// Grids, each with its weights `[taps, channels]`.
    grids: &'a [(Taps, Scratch<'a>)],
    /// The most lines of an image that a grid has.
    lines: usize,
    bias: Option<&'a [f32]>,
    source: &'a [f32],
    out: Shared<'a, f32>,
    accumulate: bool,
}

/// Outputs computed side by side, to share a tap's weights and to keep additions independent.
const ABREAST: usize = 4;

impl Task for Convolve<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let (image, i) = (line / self.lines, line % self.lines);
        for (taps, weight) in self.grids {
            if i >= taps.down.points {
                continue;
            }
            let across = &taps.across;
            let whole = across.whole();
            let mut j = 0;
            while j < across.points {
                let place = [image, i, j];
                if whole.contains(&j) && j + ABREAST <= whole.end {
                    self.outputs::<S, ABREAST>(s, taps, weight, place, 0..across.count);
                    j += ABREAST;
                } else {
                    self.outputs::<S, 1>(s, taps, weight, place, across.inside(j));
                    j += 1;
                }
            }
        }
    }
}

impl Convolve<'_> {
    /// `N` outputs of a line, all with the same taps across.
    #[inline(always)]
    fn outputs<S: Simd, const N: usize>(
        &self,
        s: S,
        taps: &Taps,
        weight: &[f32],
        place: [usize; 3],
        across: Range<usize>,
    ) {
        // Counts known while compiling keep loops out of the sums.
        match across.len() {
            1 => self.sums::<S, N, 1>(s, taps, weight, place, across),
            2 => self.sums::<S, N, 2>(s, taps, weight, place, across),
            3 => self.sums::<S, N, 3>(s, taps, weight, place, across),
            5 => self.sums::<S, N, 5>(s, taps, weight, place, across),
            _ => self.sums::<S, N, 0>(s, taps, weight, place, across),
        }
    }

    /// [`Self::outputs`] with `A` taps across; zero stands for any number.
    #[inline(always)]
    fn sums<S: Simd, const N: usize, const A: usize>(
        &self,
        s: S,
        taps: &Taps,
        weights: &[f32],
        [image, i, j]: [usize; 3],
        taps_across: Range<usize>,
    ) {
        let (down, across, channels) = (&taps.down, &taps.across, self.channels);
        let taps_down = down.inside(i);
        let at = taps.target_pixel([image, i, j]) * channels;
        let (step, every) = (across.step * channels, across.every * channels);
        // SAFETY: a piece is a line of each grid, whose target pixels are its own.
        let out = unsafe { self.out.range(at..at + (N - 1) * every + channels) };
        let bias = self.bias.map(|bias| &bias[..channels]);
        let count_across = if A == 0 { taps_across.len() } else { A };
        let empty = taps_down.is_empty() || count_across == 0;
        // The first tap of the first output, and from tap to tap.
        let (mut source, mut weight) = (self.source.as_ptr(), weights.as_ptr());
        let (line, pixel) = (down.by * across.source * channels, across.by * channels);
        if !empty {
            let y = (down.origin(i) + (taps_down.start * down.by) as isize) as usize;
            let x = (across.origin(j) + (taps_across.start * across.by) as isize) as usize;
            let at = ((image * down.source + y) * across.source + x) * channels;
            let reach = (taps_down.len() - 1) * line + (count_across - 1) * pixel + (N - 1) * step + channels;
            assert!(at + reach <= self.source.len());
            let first = (taps_down.start * across.count + taps_across.start) * channels;
            let reach = ((taps_down.len() - 1) * across.count + count_across) * channels;
            assert!(first + reach <= weights.len());
            (source, weight) = (source.wrapping_add(at), weight.wrapping_add(first));
        }
        let fresh = N * step + count_across.saturating_sub(across.step) * channels;
        lanes!(S, c in channels, {
            let count = (channels - c).min(S::LANES);
            let first = bias.map_or(s.zero(), |bias| s.read(bias, c));
            let mut sums = [first; N];
            for tap_down in 0..if empty { 0 } else { taps_down.len() } {
                let source = source.wrapping_add(tap_down * line + c);
                let weight = weight.wrapping_add(tap_down * across.count * channels + c);
                if N > 1 && tap_down + 1 == taps_down.len() {
                    // What the next outputs read of the last line, and nothing has read before.
                    for n in 0..N * across.step {
                        s.prefetch(source.wrapping_add(fresh + n * channels));
                    }
                }
                for tap_across in 0..count_across {
                    // SAFETY: every tap of every output was just checked to have its channels.
                    unsafe {
                        let load = |p| if count == S::LANES { s.load(p) } else { s.load_part(p, count) };
                        let weight = load(weight.add(tap_across * channels));
                        let source = source.add(tap_across * pixel);
                        for (n, sum) in sums.iter_mut().enumerate() {
                            *sum = s.mul_add(load(source.add(n * step)), weight, *sum);
                        }
                    }
                }
            }
            for (n, sum) in sums.into_iter().enumerate() {
                let out = &mut out[n * every..n * every + channels];
                s.write(out, c, if self.accumulate { s.add(sum, s.read(out, c)) } else { sum });
            }
        });
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
    let lines = taps.batch * taps.down.points;
    let piece_lines = SUM_ROWS.div_ceil(taps.across.points);
    let pieces = lines.div_ceil(piece_lines);
    let mut sums = cpu.scratch(pieces * dweight.len());
    let task = WeightGradient { channels, taps, piece_lines, x, dy, sums: Shared::new(&mut sums) };
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
    piece_lines: usize,
    x: &'a [f32],
    dy: &'a [f32],
    /// `[pieces, taps, channels]`
    sums: Shared<'a, f32>,
}

impl Task for WeightGradient<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let (down, across) = (&self.taps.down, &self.taps.across);
        let len = self.taps.count() * self.channels;
        // SAFETY: every piece has its own sums.
        let sums = unsafe { self.sums.range(piece * len..(piece + 1) * len) };
        sums.fill(0.0);
        let lines = self.taps.batch * down.points;
        for line in piece * self.piece_lines..((piece + 1) * self.piece_lines).min(lines) {
            for tap_down in down.inside(line % down.points) {
                let sums =
                    &mut sums[tap_down * across.count * self.channels..][..across.count * self.channels];
                match across.count {
                    3 => self.line::<S, 3>(s, line, tap_down, 0, sums),
                    5 => self.line::<S, 5>(s, line, tap_down, 0, sums),
                    count => (0..count).for_each(|tap| {
                        self.line::<S, 1>(s, line, tap_down, tap, &mut sums[tap * self.channels..]);
                    }),
                }
            }
        }
    }
}

impl WeightGradient<'_> {
    /// Adds what one line of `dy` has to say of `N` taps across from `first_tap` on.
    #[inline(always)]
    fn line<S: Simd, const N: usize>(
        &self,
        s: S,
        line: usize,
        tap_down: usize,
        first_tap: usize,
        sums: &mut [f32],
    ) {
        let channels = self.channels;
        let (down, across) = (&self.taps.down, &self.taps.across);
        let (image, i) = (line / down.points, line % down.points);
        let y = (down.origin(i) + (tap_down * down.by) as isize) as usize;
        let x = &self.x[(image * down.source + y) * across.source * channels..][..across.source * channels];
        let dy = &self.dy[line * across.points * channels..][..across.points * channels];
        let (whole, step) = (across.whole(), across.step * channels);
        // Where every tap lies within the line, nothing needs to be asked in the loop.
        let edges = (0..whole.start).chain(whole.end..across.points);
        lanes!(S, c in channels, {
            let count = (channels - c).min(S::LANES);
            let mut totals = [s.zero(); N];
            for j in edges.clone() {
                let inside = across.inside(j);
                let dy = s.read(&dy[j * channels..(j + 1) * channels], c);
                for (n, total) in totals.iter_mut().enumerate() {
                    if inside.contains(&(first_tap + n)) {
                        let at = (across.origin(j) + ((first_tap + n) * across.by) as isize) as usize * channels;
                        *total = s.mul_add(s.read(&x[at..at + channels], c), dy, *total);
                    }
                }
            }
            if !whole.is_empty() {
                let at = (across.origin(whole.start) + (first_tap * across.by) as isize) as usize * channels + c;
                let reach = (whole.len() - 1) * step + (N - 1) * across.by * channels;
                assert!(at + reach + count <= x.len());
                // SAFETY: from the first output's first tap to the last one's last lies within the line, by the
                // assertion; `dy` has as many pixels as the line.
                unsafe {
                    let mut x = x.as_ptr().add(at);
                    let mut dy = dy.as_ptr().add(whole.start * channels + c);
                    for _ in whole.clone() {
                        let gradient = if count == S::LANES { s.load(dy) } else { s.load_part(dy, count) };
                        for (n, total) in totals.iter_mut().enumerate() {
                            let p = x.add(n * across.by * channels);
                            let value = if count == S::LANES { s.load(p) } else { s.load_part(p, count) };
                            *total = s.mul_add(value, gradient, *total);
                        }
                        (x, dy) = (x.wrapping_add(step), dy.wrapping_add(channels));
                    }
                }
            }
            for (n, total) in totals.into_iter().enumerate() {
                let sums = &mut sums[n * channels..(n + 1) * channels];
                s.write(sums, c, s.add(s.read(sums, c), total));
            }
        });
    }
}
