//! Maximum and average pooling of images, NHWC.

use std::ops::Range;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// The shape of a two-dimensional pooling, as `torch.nn.MaxPool2d` and `AvgPool2d` have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool2d {
    /// Images.
    pub batch: usize,
    /// Rows of an input image.
    pub height: usize,
    /// Columns of an input image.
    pub width: usize,
    /// Channels of input and output.
    pub channels: usize,
    /// Rows and columns of the window; at most 255 elements.
    pub kernel: [usize; 2],
    /// Input pixels from one window to the next, down and across.
    pub stride: [usize; 2],
    /// Padding on each side, at most half the window.
    pub padding: [usize; 2],
    /// Whether a last window that reaches beyond the padded input counts, if it starts within input or left padding.
    pub ceil_mode: bool,
}

impl Pool2d {
    /// Rows of an output image.
    pub fn output_height(&self) -> usize {
        self.output_size(0)
    }

    /// Columns of an output image.
    pub fn output_width(&self) -> usize {
        self.output_size(1)
    }

    fn output_size(&self, axis: usize) -> usize {
        let input = [self.height, self.width][axis];
        let (stride, padding) = (self.stride[axis], self.padding[axis]);
        let Some(room) = (input + 2 * padding).checked_sub(self.kernel[axis]) else { return 0 };
        if !self.ceil_mode {
            return room / stride + 1;
        }
        let windows = room.div_ceil(stride) + 1;
        if (windows - 1) * stride >= input + padding { windows - 1 } else { windows }
    }

    fn check(&self, function: &str, input: usize, output: usize) {
        for axis in 0..2 {
            assert!(
                self.kernel[axis] > 0 && self.stride[axis] > 0,
                "{function}: kernel and stride must be at least 1"
            );
            assert!(
                2 * self.padding[axis] <= self.kernel[axis],
                "{function}: padding is more than half the window"
            );
        }
        assert!(self.kernel[0] * self.kernel[1] <= 255, "{function}: a window of more than 255 elements");
        let pixels = self.batch * self.height * self.width;
        assert_eq!(input, pixels * self.channels, "{function}: the input is not [batch, h, w, channels]");
        let pixels = self.batch * self.output_height() * self.output_width();
        assert_eq!(output, pixels * self.channels, "{function}: the output is not [batch, oh, ow, channels]");
    }

    /// The input points of window `index` that exist.
    #[inline(always)]
    fn window(&self, axis: usize, index: usize) -> Range<usize> {
        let start = index * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.padding[axis]);
        start.saturating_sub(self.padding[axis])..end.min([self.height, self.width][axis])
    }

    /// The windows that input point `index` is in.
    #[inline(always)]
    fn windows(&self, axis: usize, index: usize) -> Range<usize> {
        let padded = index + self.padding[axis];
        let first = (padded + 1).saturating_sub(self.kernel[axis]).div_ceil(self.stride[axis]);
        let last = (padded / self.stride[axis] + 1).min(self.output_size(axis));
        first.min(last)..last
    }

    /// The place of an input point in a window.
    #[inline(always)]
    fn element(&self, [window_down, window_across]: [usize; 2], [row, column]: [usize; 2]) -> usize {
        let down = row + self.padding[0] - window_down * self.stride[0];
        down * self.kernel[1] + column + self.padding[1] - window_across * self.stride[1]
    }

    /// What an average over a window divides by.
    #[inline(always)]
    fn divisor(&self, count_include_pad: bool, down: usize, across: usize) -> usize {
        if !count_include_pad {
            return self.window(0, down).len() * self.window(1, across).len();
        }
        // Padding counts, what `ceil_mode` adds beyond it does not.
        let points = |axis: usize, index: usize| {
            let start = index * self.stride[axis];
            let end = [self.height, self.width][axis] + 2 * self.padding[axis];
            (start + self.kernel[axis]).min(end) - start
        };
        points(0, down) * points(1, across)
    }
}

struct MaxForward<'a> {
    cpu: &'a Cpu,
    pool: &'a Pool2d,
    x: &'a [f32],
    y: Shared<'a, f32>,
    argmax: Option<Shared<'a, u8>>,
}

impl Task for MaxForward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let (pool, channels) = (self.pool, self.pool.channels);
        let (height, width) = (pool.output_height(), pool.output_width());
        let (image, i) = (line / height, line % height);
        let mut places = self.cpu.scratch(if self.argmax.is_some() { channels } else { 0 });
        for j in 0..width {
            let at = (line * width + j) * channels;
            // SAFETY: a piece is a line of output pixels.
            let y = unsafe { self.y.range(at..at + channels) };
            let window = Window {
                x: self.x,
                channels,
                first_line: image * pool.height * pool.width,
                width: pool.width,
                rows: pool.window(0, i),
                columns: pool.window(1, j),
                first: pool.element([i, j], [pool.window(0, i).start, pool.window(1, j).start]),
                kernel_width: pool.kernel[1],
            };
            let places = &mut places[..];
            let together = 4 * S::LANES;
            let whole = channels / together * together;
            for c in (0..whole).step_by(together) {
                window.greatest::<S, 4>(s, c, y, places);
            }
            for c in (whole..channels).step_by(S::LANES) {
                window.greatest::<S, 1>(s, c, y, places);
            }
            if let Some(argmax) = self.argmax {
                // SAFETY: as above.
                let argmax = unsafe { argmax.range(at..at + channels) };
                for (argmax, &place) in argmax.iter_mut().zip(places.iter()) {
                    // A saturating cast would not be done in vectors.
                    // SAFETY: an element of a window of at most 255.
                    *argmax = unsafe { place.to_int_unchecked::<i32>() } as u8;
                }
            }
        }
    }
}

/// The part of a window that lies within an image.
struct Window<'a> {
    x: &'a [f32],
    channels: usize,
    /// Pixels before the image.
    first_line: usize,
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// The window's element at the part's first pixel.
    first: usize,
    kernel_width: usize,
}

impl Window<'_> {
    /// Writes the greatest of `N` vectors of channels from `c` on, and their elements of the window if `places` has room.
    #[inline(always)]
    fn greatest<S: Simd, const N: usize>(&self, s: S, c: usize, y: &mut [f32], places: &mut [f32]) {
        let (mut best, mut place, check) = self.compare::<S, N>(s, c, false);
        // Zero times a finite number is zero; what is not finite is looked at more closely.
        if s.reduce_add(check) != 0.0 {
            (best, place, _) = self.compare::<S, N>(s, c, true);
        }
        for n in 0..N {
            s.write(y, c + n * S::LANES, best[n]);
            if !places.is_empty() {
                s.write(places, c + n * S::LANES, place[n]);
            }
        }
    }

    /// The greatest values, their elements of the window, and the sum of zero times every value.
    #[inline(always)]
    fn compare<S: Simd, const N: usize>(
        &self,
        s: S,
        c: usize,
        with_nan: bool,
    ) -> ([S::F; N], [S::F; N], S::F) {
        let start = (self.first_line + self.rows.start * self.width + self.columns.start) * self.channels;
        let first = &self.x[start..start + self.channels];
        let mut best: [S::F; N] = std::array::from_fn(|n| s.read(first, c + n * S::LANES));
        let mut place = [s.splat(self.first as f32); N];
        let mut check = s.zero();
        for (down, row) in self.rows.clone().enumerate() {
            let start = (self.first_line + row * self.width + self.columns.start) * self.channels;
            let line = &self.x[start..start + self.columns.len() * self.channels];
            let (mut at, mut element) = (0, self.first + down * self.kernel_width);
            while at < line.len() {
                let x = &line[at..at + self.channels];
                let here = s.splat(element as f32);
                for n in 0..N {
                    let value = s.read(x, c + n * S::LANES);
                    let greater = s.less(best[n], value);
                    best[n] = s.select(greater, value, best[n]);
                    place[n] = s.select(greater, here, place[n]);
                    if with_nan {
                        // The first NaN stays: nothing is greater, and only a number gives way to it.
                        let nan = s.is_nan(value);
                        let takes = s.is_nan(best[n]);
                        place[n] = s.select(takes, place[n], s.select(nan, here, place[n]));
                        best[n] = s.select(takes, best[n], s.select(nan, value, best[n]));
                    }
                    check = s.mul_add(value, s.zero(), check);
                }
                (at, element) = (at + self.channels, element + 1);
            }
        }
        (best, place, check)
    }
}

/// The maximum of every window: `x` `[batch, height, width, channels]` to `y` `[batch, oh, ow, channels]`.
///
/// `argmax`, if given, receives where in its window (row by row, padding counted) each maximum stands, the first of
/// equals. A NaN is greater than every number.
pub fn max_pool2d_forward(cpu: &Cpu, pool: &Pool2d, x: &[f32], y: &mut [f32], argmax: Option<&mut [u8]>) {
    pool.check("max_pool2d_forward", x.len(), y.len());
    assert!(
        argmax.as_ref().is_none_or(|argmax| argmax.len() == y.len()),
        "max_pool2d_forward: argmax is not [batch, oh, ow, channels]"
    );
    let alone = x.len() <= elementwise::ALONE;
    let task = MaxForward { cpu, pool, x, y: Shared::new(y), argmax: argmax.map(Shared::new) };
    cpu.run(pool.batch * pool.output_height(), alone, &task);
}

/// What the gradient of an output pixel says of an input pixel in its window.
trait Share: Sync {
    /// Adds it to the input pixel's channels `dx`. The output pixel's place is `window`, its channels begin at `at`, and
    /// the input pixel's place is `pixel`.
    fn add<S: Simd>(
        &self,
        s: S,
        pool: &Pool2d,
        window: [usize; 2],
        pixel: [usize; 2],
        at: usize,
        dx: &mut [f32],
    );
}

/// Collects for each input pixel what the windows that hold it say, in their order.
struct Backward<'a, T> {
    pool: &'a Pool2d,
    share: T,
    dx: Shared<'a, f32>,
}

impl<T: Share> Task for Backward<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let (pool, channels) = (self.pool, self.pool.channels);
        let (image, row) = (line / pool.height, line % pool.height);
        for column in 0..pool.width {
            let at = (line * pool.width + column) * channels;
            // SAFETY: a piece is a line of input pixels.
            let dx = unsafe { self.dx.range(at..at + channels) };
            dx.fill(0.0);
            for i in pool.windows(0, row) {
                for j in pool.windows(1, column) {
                    let at = ((image * pool.output_height() + i) * pool.output_width() + j) * channels;
                    self.share.add(s, pool, [i, j], [row, column], at, dx);
                }
            }
        }
    }
}

fn backward<T: Share>(cpu: &Cpu, pool: &Pool2d, share: T, dx: &mut [f32]) {
    let alone = dx.len() <= elementwise::ALONE;
    cpu.run(pool.batch * pool.height, alone, &Backward { pool, share, dx: Shared::new(dx) });
}

/// The whole gradient where the maximum was found.
struct ShareOfMax<'a> {
    dy: &'a [f32],
    argmax: &'a [u8],
}

impl Share for ShareOfMax<'_> {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        _s: S,
        pool: &Pool2d,
        window: [usize; 2],
        pixel: [usize; 2],
        at: usize,
        dx: &mut [f32],
    ) {
        let here = pool.element(window, pixel) as u8;
        let (dy, argmax) = (&self.dy[at..at + dx.len()], &self.argmax[at..at + dx.len()]);
        for ((dx, &dy), &place) in dx.iter_mut().zip(dy).zip(argmax) {
            *dx += if place == here { dy } else { 0.0 };
        }
    }
}

/// The window's mean share of the gradient.
struct ShareOfMean<'a> {
    dy: &'a [f32],
    count_include_pad: bool,
}

impl Share for ShareOfMean<'_> {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        s: S,
        pool: &Pool2d,
        window: [usize; 2],
        _pixel: [usize; 2],
        at: usize,
        dx: &mut [f32],
    ) {
        let dy = &self.dy[at..at + dx.len()];
        let [i, j] = window;
        let factor = s.splat(1.0 / pool.divisor(self.count_include_pad, i, j) as f32);
        lanes!(S, c in dy.len(), {
            s.write(dx, c, s.mul_add(s.read(dy, c), factor, s.read(dx, c)));
        });
    }
}

/// Backward of [`max_pool2d_forward`]: `dx` `[batch, height, width, channels]`, overwritten, receives `dy` where
/// `argmax` says.
pub fn max_pool2d_backward(cpu: &Cpu, pool: &Pool2d, dy: &[f32], argmax: &[u8], dx: &mut [f32]) {
    pool.check("max_pool2d_backward", dx.len(), dy.len());
    assert_eq!(dy.len(), argmax.len(), "max_pool2d_backward: dy and argmax differ in length");
    backward(cpu, pool, ShareOfMax { dy, argmax }, dx);
}

struct AverageForward<'a> {
    pool: &'a Pool2d,
    count_include_pad: bool,
    x: &'a [f32],
    y: Shared<'a, f32>,
}

impl Task for AverageForward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, line: usize) {
        let (pool, channels) = (self.pool, self.pool.channels);
        let (height, width) = (pool.output_height(), pool.output_width());
        let (image, i) = (line / height, line % height);
        for j in 0..width {
            let at = (line * width + j) * channels;
            // SAFETY: a piece is a line of output pixels.
            let y = unsafe { self.y.range(at..at + channels) };
            let factor = s.splat(1.0 / pool.divisor(self.count_include_pad, i, j) as f32);
            lanes!(S, c in channels, {
                let mut sum = s.zero();
                for row in pool.window(0, i) {
                    for column in pool.window(1, j) {
                        let at = ((image * pool.height + row) * pool.width + column) * channels;
                        sum = s.add(sum, s.read(&self.x[at..at + channels], c));
                    }
                }
                s.write(y, c, s.mul(sum, factor));
            });
        }
    }
}

/// The mean of every window: `x` `[batch, height, width, channels]` to `y` `[batch, oh, ow, channels]`.
///
/// With `count_include_pad` padding counts as zeros in the mean, as PyTorch's default has it.
pub fn avg_pool2d_forward(cpu: &Cpu, pool: &Pool2d, count_include_pad: bool, x: &[f32], y: &mut [f32]) {
    pool.check("avg_pool2d_forward", x.len(), y.len());
    let alone = x.len() <= elementwise::ALONE;
    let task = AverageForward { pool, count_include_pad, x, y: Shared::new(y) };
    cpu.run(pool.batch * pool.output_height(), alone, &task);
}

/// Backward of [`avg_pool2d_forward`]: `dx` `[batch, height, width, channels]`, overwritten.
pub fn avg_pool2d_backward(cpu: &Cpu, pool: &Pool2d, count_include_pad: bool, dy: &[f32], dx: &mut [f32]) {
    pool.check("avg_pool2d_backward", dx.len(), dy.len());
    backward(cpu, pool, ShareOfMean { dy, count_include_pad }, dx);
}
