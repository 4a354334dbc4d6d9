//! Batch normalization with residual addition and activation fused behind it (Ioffe and Szegedy 2015).
//!
//! Statistics are taken in one walk through memory: each piece of rows finds its own mean and squared distances,
//! and pieces are joined in f64 (Chan, Golub and LeVeque 1979), so nothing cancels.

mod backward;

pub use backward::batch_norm_backward;

use std::ops::Range;

use crate::activation::vector::Function;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Activation, Cpu, elementwise};

/// A batch normalization of rows (pixels) of channels: `y = activation((x - mean) · rstd · weight + bias + residual)`
/// with `rstd = 1 / √(variance + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Pixels of all images.
    pub rows: usize,
    /// The dimension that statistics are kept for.
    pub channels: usize,
    /// The mean of every channel, `[channels]`: the batch's own or a running one.
    pub mean: &'a [f32],
    /// The biased variance of every channel (divided by the number of rows), or a running one, `[channels]`.
    pub variance: &'a [f32],
    /// `[channels]`
    pub weight: &'a [f32],
    /// `[channels]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Applied last, after the residual: identity, ReLU, ReLU6, SiLU or hardswish.
    pub activation: Activation,
}

impl BatchNorm<'_> {
    fn elements(&self) -> usize {
        self.rows * self.channels
    }

    fn check(&self, function: &str, operands: &[(&str, Option<usize>)]) {
        use Activation::{Hardswish, Identity, Relu, Relu6, Silu};
        assert!(
            matches!(self.activation, Identity | Relu | Relu6 | Silu | Hardswish),
            "{function}: {:?} is not fused with batch normalization",
            self.activation
        );
        for (name, len) in [
            ("mean", self.mean.len()),
            ("variance", self.variance.len()),
            ("weight", self.weight.len()),
            ("bias", self.bias.len()),
        ] {
            assert_eq!(len, self.channels, "{function}: {name} is not [channels]");
        }
        for (name, len) in operands {
            assert!(
                len.is_none_or(|len| len == self.elements()),
                "{function}: {name} is not [rows, channels]"
            );
        }
    }

    /// The reciprocal standard deviation of a channel.
    fn rstd(&self, channel: usize) -> f32 {
        1.0 / (self.variance[channel] + self.eps).sqrt()
    }
}

/// Calls a function that is generic over [`Function`] with the normalization's activation.
macro_rules! with_activation {
    ($activation:expr, $function:ident($($argument:expr),*)) => {
        match $activation {
            $crate::Activation::Identity => $function::<_, $crate::activation::vector::Identity>($($argument),*),
            $crate::Activation::Relu => $function::<_, $crate::activation::vector::Relu>($($argument),*),
            $crate::Activation::Relu6 => $function::<_, $crate::activation::vector::Relu6>($($argument),*),
            $crate::Activation::Silu => $function::<_, $crate::activation::vector::Silu>($($argument),*),
            $crate::Activation::Hardswish => $function::<_, $crate::activation::vector::Hardswish>($($argument),*),
            other => unreachable!("{other:?} was refused"),
        }
    };
}
use with_activation;

/// Elements of a piece: what is walked through twice stays in L2.
const PIECE: usize = 1 << 15;

/// Rows of a piece, a function of the channels alone.
fn piece_rows(channels: usize) -> usize {
    (PIECE / channels.max(1)).max(1)
}

/// The rows of a piece.
#[inline(always)]
fn piece(index: usize, channels: usize, rows: usize) -> Range<usize> {
    let size = piece_rows(channels);
    index * size..((index + 1) * size).min(rows)
}

/// Mean and biased variance of every channel of `x` `[rows, channels]`. Of no rows both are zero.
pub fn batch_norm_statistics(cpu: &Cpu, x: &[f32], channels: usize, mean: &mut [f32], variance: &mut [f32]) {
    assert!(channels > 0 || x.is_empty(), "batch_norm_statistics: channels is zero");
    let rows = x.len() / channels.max(1);
    assert_eq!(x.len(), rows * channels, "batch_norm_statistics: x is not [rows, channels]");
    assert_eq!(mean.len(), channels, "batch_norm_statistics: mean is not [channels]");
    assert_eq!(variance.len(), channels, "batch_norm_statistics: variance is not [channels]");
    let pieces = rows.div_ceil(piece_rows(channels));
    let mut means = cpu.scratch(pieces * channels);
    let mut offsets = cpu.scratch(pieces * channels);
    let mut squares = cpu.scratch(pieces * channels);
    let task = Statistics {
        x,
        channels,
        rows,
        means: Shared::new(&mut means),
        offsets: Shared::new(&mut offsets),
        squares: Shared::new(&mut squares),
    };
    cpu.run(pieces, x.len() <= elementwise::ALONE, &task);

    let (mean, variance) = (Shared::new(mean), Shared::new(variance));
    let (means, offsets, squares): (&[f32], &[f32], &[f32]) = (&means, &offsets, &squares);
    for_each_channels(cpu, channels, |own| {
        for channel in own {
            let (mut total, mut average, mut distance) = (0.0f64, 0.0f64, 0.0f64);
            for index in 0..pieces {
                let count = piece(index, channels, rows).len() as f64;
                let at = index * channels + channel;
                // The piece's mean as rounded, and how far the true one lies from it.
                let offset = f64::from(offsets[at]) / count;
                let difference = f64::from(means[at]) + offset - average;
                total += count;
                average += difference * count / total;
                distance += f64::from(squares[at]) - offset * offset * count;
                distance += difference * difference * count * (total - count) / total;
            }
            // SAFETY: pieces are channels that do not overlap.
            unsafe {
                mean.set(channel, average as f32);
                variance.set(channel, (distance / total.max(1.0)) as f32);
            }
        }
    });
}

/// Calls `f` for ranges that make up all channels.
fn for_each_channels(cpu: &Cpu, channels: usize, f: impl Fn(Range<usize>) + Sync) {
    const PIECE_CHANNELS: usize = 64;
    cpu.for_each_piece(channels.div_ceil(PIECE_CHANNELS), |piece| {
        f(piece * PIECE_CHANNELS..((piece + 1) * PIECE_CHANNELS).min(channels));
    });
}

struct Statistics<'a> {
    x: &'a [f32],
    channels: usize,
    rows: usize,
    /// Every piece's rounded means, and sums of distances and of squared distances from them, `[pieces, channels]`.
    means: Shared<'a, f32>,
    offsets: Shared<'a, f32>,
    squares: Shared<'a, f32>,
}

impl Task for Statistics<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, index: usize) {
        let channels = self.channels;
        let rows = piece(index, channels, self.rows);
        let own = index * channels..(index + 1) * channels;
        // SAFETY: every piece has its own sums.
        let (means, offsets, squares) = unsafe {
            (self.means.range(own.clone()), self.offsets.range(own.clone()), self.squares.range(own))
        };
        means.fill(0.0);
        offsets.fill(0.0);
        squares.fill(0.0);
        let line = |row: usize| &self.x[row * channels..(row + 1) * channels];
        for row in rows.clone() {
            let x = line(row);
            lanes!(S, c in channels, {
                s.write(means, c, s.add(s.read(means, c), s.read(x, c)));
            });
        }
        let inverse = s.splat(1.0 / rows.len() as f32);
        lanes!(S, c in channels, {
            s.write(means, c, s.mul(s.read(means, c), inverse));
        });
        for row in rows {
            let x = line(row);
            lanes!(S, c in channels, {
                let distance = s.sub(s.read(x, c), s.read(means, c));
                s.write(offsets, c, s.add(distance, s.read(offsets, c)));
                s.write(squares, c, s.mul_add(distance, distance, s.read(squares, c)));
            });
        }
    }
}

/// Normalizes `x` into `y`, both `[rows, channels]`: `y = activation(normalized · weight + bias + residual)`.
pub fn batch_norm_forward(cpu: &Cpu, norm: &BatchNorm, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
    let residual_len = residual.map(<[f32]>::len);
    norm.check(
        "batch_norm_forward",
        &[("x", Some(x.len())), ("residual", residual_len), ("y", Some(y.len()))],
    );
    let mut scale = cpu.scratch(norm.channels);
    for (channel, scale) in scale.iter_mut().enumerate() {
        *scale = norm.rstd(channel) * norm.weight[channel];
    }
    let task = Forward { norm, scale: &scale, x, residual, y: Shared::new(y) };
    cpu.run(norm.rows.div_ceil(piece_rows(norm.channels)), x.len() <= elementwise::ALONE, &task);
}

struct Forward<'a> {
    norm: &'a BatchNorm<'a>,
    /// `rstd · weight`
    scale: &'a [f32],
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    y: Shared<'a, f32>,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        with_activation!(self.norm.activation, forward_piece(s, self, piece));
    }
}

#[inline(always)]
fn forward_piece<S: Simd, A: Function>(s: S, task: &Forward, index: usize) {
    let channels = task.norm.channels;
    let (mean, scale) = (&task.norm.mean[..channels], &task.scale[..channels]);
    let bias = &task.norm.bias[..channels];
    for row in piece(index, channels, task.norm.rows) {
        let at = row * channels..(row + 1) * channels;
        let x = &task.x[at.clone()];
        let residual = task.residual.map(|residual| &residual[at.clone()]);
        // SAFETY: pieces do not overlap, and a piece holds one row at a time.
        let y = unsafe { task.y.range(at) };
        lanes!(S, c in channels, {
            let centred = s.sub(s.read(x, c), s.read(mean, c));
            let mut value = s.mul_add(centred, s.read(scale, c), s.read(bias, c));
            if let Some(residual) = residual {
                value = s.add(value, s.read(residual, c));
            }
            s.write(y, c, A::value(s, value));
        });
    }
}
