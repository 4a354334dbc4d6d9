//! Group normalization (Wu and He 2018): every image by itself, over its pixels and the channels of a group.
//!
//! A piece of work is an image. Sums over pixels are taken in short runs, which are joined in f64.

use std::ops::Range;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// A group normalization of `x` `[batch, rows, channels]`: `y = (x - mean) · rstd · weight + bias` with the mean and the
/// biased variance of an image's group of neighbouring channels, and `rstd = 1 / √(variance + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Images.
    pub batch: usize,
    /// Pixels of an image.
    pub rows: usize,
    /// A multiple of `groups`.
    pub channels: usize,
    /// Groups of channels.
    pub groups: usize,
    /// `[channels]`
    pub weight: &'a [f32],
    /// `[channels]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNorm<'_> {
    fn check(&self, function: &str, operands: &[(&str, Option<usize>, usize)]) {
        assert!(self.groups > 0, "{function}: groups is zero");
        assert!(self.channels.is_multiple_of(self.groups), "{function}: channels are no multiple of groups");
        for (name, len) in [("weight", self.weight.len()), ("bias", self.bias.len())] {
            assert_eq!(len, self.channels, "{function}: {name} is not [channels]");
        }
        for &(name, len, wanted) in operands {
            assert!(len.is_none_or(|len| len == wanted), "{function}: {name} has not {wanted} elements");
        }
    }

    fn elements(&self) -> usize {
        self.batch * self.rows * self.channels
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Values that a group's statistics are taken over.
    fn group_elements(&self) -> f64 {
        (self.rows * self.group_channels()) as f64
    }

    fn runs(&self) -> usize {
        self.rows.div_ceil(RUN)
    }

    /// The pixels of a run.
    #[inline(always)]
    fn run(&self, run: usize) -> Range<usize> {
        run * RUN..((run + 1) * RUN).min(self.rows)
    }

    /// For every group the sum over runs `[runs, channels]`, each channel times its factor.
    #[inline(always)]
    fn group_sum(&self, runs: &[f32], group: usize, factors: Option<&[f32]>) -> f64 {
        let width = self.group_channels();
        let channels = group * width..(group + 1) * width;
        let mut total = 0.0;
        for run in runs.chunks_exact(self.channels) {
            for channel in channels.clone() {
                total += f64::from(run[channel]) * factors.map_or(1.0, |factors| f64::from(factors[channel]));
            }
        }
        total
    }
}

/// Pixels whose values are added in f32.
const RUN: usize = 64;

/// Group normalization of `x` into `y`, both `[batch, rows, channels]`.
///
/// What backward needs is written where asked for: `mean` and `rstd`, `[batch, groups]`.
pub fn group_norm_forward(
    cpu: &Cpu,
    norm: &GroupNorm,
    x: &[f32],
    y: &mut [f32],
    mean: Option<&mut [f32]>,
    rstd: Option<&mut [f32]>,
) {
    let statistics = norm.batch * norm.groups;
    norm.check(
        "group_norm_forward",
        &[
            ("x", Some(x.len()), norm.elements()),
            ("y", Some(y.len()), norm.elements()),
            ("mean", mean.as_ref().map(|mean| mean.len()), statistics),
            ("rstd", rstd.as_ref().map(|rstd| rstd.len()), statistics),
        ],
    );
    if x.is_empty() {
        return;
    }
    let task =
        Forward { cpu, norm, x, y: Shared::new(y), mean: mean.map(Shared::new), rstd: rstd.map(Shared::new) };
    cpu.run(norm.batch, x.len() <= elementwise::ALONE, &task);
}

struct Forward<'a> {
    cpu: &'a Cpu,
    norm: &'a GroupNorm<'a>,
    x: &'a [f32],
    y: Shared<'a, f32>,
    mean: Option<Shared<'a, f32>>,
    rstd: Option<Shared<'a, f32>>,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, image: usize) {
        let norm = self.norm;
        let (channels, width) = (norm.channels, norm.group_channels());
        let at = image * norm.rows * channels..(image + 1) * norm.rows * channels;
        let x = &self.x[at.clone()];
        let mut runs = self.cpu.scratch(norm.runs() * channels);
        let mut means = self.cpu.scratch(channels);
        let mut factors = self.cpu.scratch(channels);
        for (index, sums) in runs.chunks_exact_mut(channels).enumerate() {
            sums.fill(0.0);
            for row in norm.run(index) {
                let x = &x[row * channels..(row + 1) * channels];
                lanes!(S, c in channels, { s.write(sums, c, s.add(s.read(sums, c), s.read(x, c))); });
            }
        }
        for group in 0..norm.groups {
            let mean = (norm.group_sum(&runs, group, None) / norm.group_elements()) as f32;
            means[group * width..(group + 1) * width].fill(mean);
        }
        for (index, squares) in runs.chunks_exact_mut(channels).enumerate() {
            squares.fill(0.0);
            for row in norm.run(index) {
                let x = &x[row * channels..(row + 1) * channels];
                lanes!(S, c in channels, {
                    let distance = s.sub(s.read(x, c), s.read(&means, c));
                    s.write(squares, c, s.mul_add(distance, distance, s.read(squares, c)));
                });
            }
        }
        for group in 0..norm.groups {
            let variance = norm.group_sum(&runs, group, None) / norm.group_elements();
            let rstd = 1.0 / (variance as f32 + norm.eps).sqrt();
            factors[group * width..(group + 1) * width].fill(rstd);
            for (out, value) in [(self.mean, means[group * width]), (self.rstd, rstd)] {
                if let Some(out) = out {
                    // SAFETY: a piece is an image.
                    unsafe { out.set(image * norm.groups + group, value) };
                }
            }
        }
        // SAFETY: a piece is an image.
        let y = unsafe { self.y.range(at) };
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            lanes!(S, c in channels, {
                let normalized = s.mul(s.sub(s.read(x, c), s.read(&means, c)), s.read(&factors, c));
                s.write(y, c, s.mul_add(normalized, s.read(norm.weight, c), s.read(norm.bias, c)));
            });
        }
    }
}

/// Where group normalization's gradients go; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct GroupNormGrad<'a> {
    /// Gradient of `x`, `[batch, rows, channels]`, overwritten.
    pub dx: Option<&'a mut [f32]>,
    /// Gradient of the weight, `[channels]`, added to.
    pub dweight: Option<&'a mut [f32]>,
    /// Gradient of the bias, `[channels]`, added to.
    pub dbias: Option<&'a mut [f32]>,
}

/// Backward of [`group_norm_forward`], from `dy`, its input and what it kept.
pub fn group_norm_backward(
    cpu: &Cpu,
    norm: &GroupNorm,
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    grad: GroupNormGrad,
) {
    let (elements, statistics) = (norm.elements(), norm.batch * norm.groups);
    norm.check(
        "group_norm_backward",
        &[
            ("x", Some(x.len()), elements),
            ("mean", Some(mean.len()), statistics),
            ("rstd", Some(rstd.len()), statistics),
            ("dy", Some(dy.len()), elements),
            ("dx", grad.dx.as_ref().map(|dx| dx.len()), elements),
            ("dweight", grad.dweight.as_ref().map(|dweight| dweight.len()), norm.channels),
            ("dbias", grad.dbias.as_ref().map(|dbias| dbias.len()), norm.channels),
        ],
    );
    if x.is_empty() {
        return;
    }
    let mut weights = cpu.scratch(norm.batch * norm.channels);
    let mut biases = cpu.scratch(norm.batch * norm.channels);
    let task = Backward {
        cpu,
        norm,
        x,
        mean,
        rstd,
        dy,
        dx: grad.dx.map(Shared::new),
        weights: Shared::new(&mut weights),
        biases: Shared::new(&mut biases),
    };
    cpu.run(norm.batch, x.len() <= elementwise::ALONE, &task);
    if let Some(dweight) = grad.dweight {
        elementwise::add_rows(&weights, dweight);
    }
    if let Some(dbias) = grad.dbias {
        elementwise::add_rows(&biases, dbias);
    }
}

struct Backward<'a> {
    cpu: &'a Cpu,
    norm: &'a GroupNorm<'a>,
    x: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    dy: &'a [f32],
    dx: Option<Shared<'a, f32>>,
    /// Every image's sums, `[batch, channels]`.
    weights: Shared<'a, f32>,
    biases: Shared<'a, f32>,
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, image: usize) {
        let norm = self.norm;
        let (channels, width) = (norm.channels, norm.group_channels());
        let at = image * norm.rows * channels..(image + 1) * norm.rows * channels;
        let (x, dy) = (&self.x[at.clone()], &self.dy[at.clone()]);
        let mut means = self.cpu.scratch(channels);
        let mut factors = self.cpu.scratch(channels);
        for group in 0..norm.groups {
            let own = group * width..(group + 1) * width;
            means[own.clone()].fill(self.mean[image * norm.groups + group]);
            factors[own].fill(self.rstd[image * norm.groups + group]);
        }
        let mut plain = self.cpu.scratch(norm.runs() * channels);
        let mut weighted = self.cpu.scratch(norm.runs() * channels);
        let sums = plain.chunks_exact_mut(channels).zip(weighted.chunks_exact_mut(channels));
        for (index, (plain, weighted)) in sums.enumerate() {
            plain.fill(0.0);
            weighted.fill(0.0);
            for row in norm.run(index) {
                let own = row * channels..(row + 1) * channels;
                let (x, dy) = (&x[own.clone()], &dy[own]);
                lanes!(S, c in channels, {
                    let (dy, distance) = (s.read(dy, c), s.sub(s.read(x, c), s.read(&means, c)));
                    let normalized = s.mul(distance, s.read(&factors, c));
                    s.write(plain, c, s.add(dy, s.read(plain, c)));
                    s.write(weighted, c, s.mul_add(dy, normalized, s.read(weighted, c)));
                });
            }
        }
        // SAFETY: a piece is an image.
        let (weights, biases) = unsafe {
            let own = image * channels..(image + 1) * channels;
            (self.weights.range(own.clone()), self.biases.range(own))
        };
        for channel in 0..channels {
            let total = |runs: &[f32]| -> f64 {
                runs.iter().skip(channel).step_by(channels).map(|&sum| f64::from(sum)).sum()
            };
            weights[channel] = total(&weighted) as f32;
            biases[channel] = total(&plain) as f32;
        }
        let Some(dx) = self.dx else { return };
        // What goes through the mean and through the variance, by channel.
        let mut through_mean = self.cpu.scratch(channels);
        let mut through_variance = self.cpu.scratch(channels);
        for group in 0..norm.groups {
            let own = group * width..(group + 1) * width;
            let share =
                |runs| (norm.group_sum(runs, group, Some(norm.weight)) / norm.group_elements()) as f32;
            through_mean[own.clone()].fill(share(&plain));
            through_variance[own].fill(share(&weighted));
        }
        // SAFETY: a piece is an image.
        let dx = unsafe { dx.range(at) };
        let rows = x.chunks_exact(channels).zip(dy.chunks_exact(channels));
        for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(channels)) {
            lanes!(S, c in channels, {
                let rstd = s.read(&factors, c);
                let normalized = s.mul(s.sub(s.read(x, c), s.read(&means, c)), rstd);
                let scaled = s.mul(s.read(dy, c), s.read(norm.weight, c));
                let centered = s.sub(scaled, s.read(&through_mean, c));
                let whole = s.neg_mul_add(normalized, s.read(&through_variance, c), centered);
                s.write(dx, c, s.mul(rstd, whole));
            });
        }
    }
}
