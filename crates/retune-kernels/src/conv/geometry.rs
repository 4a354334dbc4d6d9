//! Where the input pixels lie that an output pixel sums, in one description for forward and input gradient.

use std::ops::Range;

use super::Conv2d;
use crate::simd::{Simd, copy};

/// One axis of a convolution over a grid of pixels: grid point `i` sums source points `step · i + first + by · t` for
/// `t` in `0..count` and goes to target point `start + every · i`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// Points of the source, beyond which everything is zero.
    pub source: usize,
    /// Points of the grid.
    pub points: usize,
    pub step: usize,
    pub count: usize,
    pub first: isize,
    pub by: usize,
    /// The kernel element of tap `t`: `kernel_first + kernel_by · t`.
    pub kernel_first: usize,
    pub kernel_by: isize,
    /// Points of the target.
    pub target: usize,
    pub start: usize,
    pub every: usize,
}

impl Axis {
    fn forward(shape: &Conv2d, axis: usize) -> Axis {
        let points = shape.output_size(axis);
        Axis {
            source: [shape.height, shape.width][axis],
            points,
            step: shape.stride[axis],
            count: shape.kernel[axis],
            first: -(shape.padding[axis] as isize),
            by: shape.dilation[axis],
            kernel_first: 0,
            kernel_by: 1,
            target: points,
            start: 0,
            every: 1,
        }
    }

    /// The input points `start, start + stride, …`, which kernel element `e` reaches from output point
    /// `(point + padding - dilation · e) / stride` where that is whole.
    fn backward(shape: &Conv2d, axis: usize, start: usize) -> Axis {
        let (input, stride) = ([shape.height, shape.width][axis], shape.stride[axis]);
        let (kernel, dilation) = (shape.kernel[axis], shape.dilation[axis]);
        let place = start + shape.padding[axis];
        let reaches = |e: &usize| (place as isize - (dilation * e) as isize).rem_euclid(stride as isize) == 0;
        let smallest = (0..kernel).find(reaches);
        let second = smallest.and_then(|e| (e + 1..kernel).find(reaches).map(|next| next - e));
        let every = second.unwrap_or(kernel);
        // In descending order of kernel elements, the source points ascend.
        let count = smallest.map_or(0, |e| (kernel - 1 - e) / every + 1);
        let greatest = smallest.map_or(0, |e| e + every * (count - 1));
        Axis {
            source: shape.output_size(axis),
            points: input.saturating_sub(start).div_ceil(stride),
            step: 1,
            count,
            first: (place as isize - (dilation * greatest) as isize).div_euclid(stride as isize),
            by: every * dilation / stride,
            kernel_first: greatest,
            kernel_by: -(every as isize),
            target: input,
            start,
            every: stride,
        }
    }

    pub(super) fn kernel_element(&self, tap: usize) -> usize {
        (self.kernel_first as isize + self.kernel_by * tap as isize) as usize
    }

    /// The taps of a grid point that lie within the source.
    #[inline(always)]
    pub(super) fn inside(&self, point: usize) -> Range<usize> {
        let origin = self.origin(point);
        let by = self.by as isize;
        // Of a single tap `by` means nothing and may be zero.
        if self.count <= 1 {
            let inside = self.count > 0 && origin >= 0 && origin < self.source as isize;
            return 0..if inside { self.count } else { 0 };
        }
        let from = if origin >= 0 { 0 } else { (-origin + by - 1) / by };
        let to = (self.source as isize - origin + by - 1) / by;
        let to = to.clamp(0, self.count as isize);
        from.min(to) as usize..to as usize
    }

    /// The grid points of which all taps lie within the source.
    #[inline(always)]
    pub(super) fn whole(&self) -> Range<usize> {
        let reach = (self.by * self.count.saturating_sub(1)) as isize;
        let first = if self.first >= 0 { 0 } else { (-self.first as usize).div_ceil(self.step) };
        let room = self.source as isize - 1 - reach - self.first;
        let end = if room < 0 { 0 } else { room as usize / self.step + 1 };
        let end = end.min(self.points);
        first.min(end)..end
    }

    /// The source point of tap 0.
    #[inline(always)]
    pub(super) fn origin(&self, point: usize) -> isize {
        (point * self.step) as isize + self.first
    }
}

/// Both axes and the number of images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    pub batch: usize,
    pub down: Axis,
    pub across: Axis,
    /// Columns of the kernel as stored.
    pub kernel_width: usize,
}

impl Taps {
    pub(super) fn forward(shape: &Conv2d) -> Taps {
        let (down, across) = (Axis::forward(shape, 0), Axis::forward(shape, 1));
        Taps { batch: shape.batch, down, across, kernel_width: shape.kernel[1] }
    }

    /// Taps of one output pixel.
    #[inline(always)]
    pub(super) fn count(&self) -> usize {
        self.down.count * self.across.count
    }

    /// Pixels of the grid, all images.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.batch * self.down.points * self.across.points
    }

    /// Whether every grid pixel has the source pixel at its own place for its only tap.
    #[inline(always)]
    pub(super) fn copies(&self) -> bool {
        [&self.down, &self.across]
            .iter()
            .all(|axis| axis.count == 1 && axis.step == 1 && axis.first == 0 && axis.points == axis.source)
    }

    /// Whether grid pixels are the target's pixels in order.
    pub(super) fn fills_target(&self) -> bool {
        self.down.every == 1 && self.across.every == 1
    }

    /// Where tap `t` stands in the kernel.
    pub(super) fn kernel_element(&self, tap: usize) -> usize {
        let (down, across) = (tap / self.across.count, tap % self.across.count);
        self.down.kernel_element(down) * self.kernel_width + self.across.kernel_element(across)
    }

    /// Image, row and column of a grid pixel.
    #[inline(always)]
    pub(super) fn place(&self, row: usize) -> [usize; 3] {
        let (line, j) = (row / self.across.points, row % self.across.points);
        [line / self.down.points, line % self.down.points, j]
    }

    /// The target pixel of a grid pixel, counted over all images.
    #[inline(always)]
    pub(super) fn target_pixel(&self, [image, i, j]: [usize; 3]) -> usize {
        let (down, across) = (&self.down, &self.across);
        (image * down.target + down.start + i * down.every) * across.target + across.start + j * across.every
    }
}

/// The input gradient's convolutions over `dy`: one for each way in which an input pixel lies to the stride.
pub(super) fn phases(shape: &Conv2d) -> impl Iterator<Item = Taps> {
    let shape = *shape;
    let [down, across] = [shape.stride[0].min(shape.height), shape.stride[1].min(shape.width)];
    (0..down * across).map(move |phase| Taps {
        batch: shape.batch,
        down: Axis::backward(&shape, 0, phase / across),
        across: Axis::backward(&shape, 1, phase % across),
        kernel_width: shape.kernel[1],
    })
}

/// Rows of the matrix that a convolution multiplies with its weights: for each pixel of the grid the source pixels of
/// all taps, `used` channels each.
pub(super) struct Gather<'a> {
    pub taps: Taps,
    pub source: &'a [f32],
    /// Channels of the source.
    pub channels: usize,
    /// Channels of one group.
    pub used: usize,
}

impl Gather<'_> {
    /// The summed dimension: taps by channels.
    pub(super) fn depth(&self) -> usize {
        self.taps.count() * self.used
    }

    /// Writes elements `range` of rows `rows` of group `group`, a row to every `stride` of `out`.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(
        &self,
        s: S,
        group: usize,
        rows: Range<usize>,
        range: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        if rows.is_empty() || range.is_empty() {
            return;
        }
        if self.taps.copies() {
            for (row, out) in rows.zip(out.chunks_mut(stride)) {
                let at = row * self.channels + group * self.used;
                copy(s, &self.source[at + range.start..at + range.end], &mut out[..range.len()]);
            }
            return;
        }
        let (down, across) = (&self.taps.down, &self.taps.across);
        let line = across.count * self.used;
        let together = self.used == self.channels && across.by == 1;
        let (first_line, last_line) = (range.start / line, (range.end - 1) / line);
        let mut place = self.taps.place(rows.start);
        for out in out.chunks_mut(stride).take(rows.len()) {
            let [image, i, j] = place;
            let (inside_down, inside_across) = (down.inside(i), across.inside(j));
            let (y0, x0) = (down.origin(i), across.origin(j));
            for tap_line in first_line..=last_line {
                // This line's part of the range, counted within the line.
                let from = range.start.saturating_sub(tap_line * line);
                let to = (range.end - tap_line * line).min(line);
                let at = tap_line * line + from - range.start;
                if !inside_down.contains(&tap_line) || inside_across.is_empty() {
                    out[at..at + to - from].fill(0.0);
                    continue;
                }
                let y = (y0 + (tap_line * down.by) as isize) as usize;
                let start = (image * down.source + y) * across.source;
                if together && inside_across.len() == across.count {
                    let first = (start + x0 as usize) * self.channels;
                    copy_ahead(s, &self.source[first + from..], to - from, &mut out[at..]);
                    continue;
                }
                let out = &mut out[at..at + to - from];
                let mut done = 0;
                while done < out.len() {
                    let tap = (from + done) / self.used;
                    let channel = (from + done) % self.used;
                    let count = (self.used - channel).min(out.len() - done);
                    let out = &mut out[done..done + count];
                    if inside_across.contains(&tap) {
                        let x = (x0 + (tap * across.by) as isize) as usize;
                        let at = (start + x) * self.channels + group * self.used + channel;
                        copy(s, &self.source[at..at + count], out);
                    } else {
                        out.fill(0.0);
                    }
                    done += count;
                }
            }
            place[2] += 1;
            if place[2] == across.points {
                place = [place[0], place[1] + 1, 0];
                if place[1] == down.points {
                    place = [place[0] + 1, 0, 0];
                }
            }
        }
    }
}

/// Copies `count` elements, and some that follow where both sides have them: what comes next overwrites those. Masked
/// stores are slow.
#[inline(always)]
fn copy_ahead<S: Simd>(s: S, from: &[f32], count: usize, to: &mut [f32]) {
    let whole = count.next_multiple_of(S::LANES);
    let count = if whole <= from.len() && whole <= to.len() { whole } else { count };
    copy(s, &from[..count], to);
}
