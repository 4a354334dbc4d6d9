//! Backward of batch normalization: sums over rows first, then every element.

use super::{BatchNorm, for_each_channels, piece, piece_rows, with_activation};
use crate::activation::vector::Function;
use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// Backward of [`super::batch_norm_forward`], from `dy` and forward's own operands.
///
/// With `batch_statistics` the mean and variance were `x`'s own and `dx` takes account of that; without, they are
/// constants. `dx` and `dresidual` `[rows, channels]` are overwritten, `dweight` and `dbias` `[channels]` added to;
/// what is `None` is not computed.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn batch_norm_backward(
    cpu: &Cpu,
    norm: &BatchNorm,
    batch_statistics: bool,
    dy: &[f32],
    x: &[f32],
    residual: Option<&[f32]>,
    dx: Option<&mut [f32]>,
    dresidual: Option<&mut [f32]>,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let len = |slice: &Option<&mut [f32]>| slice.as_ref().map(|slice| slice.len());
    norm.check(
        "batch_norm_backward",
        &[
            ("dy", Some(dy.len())),
            ("x", Some(x.len())),
            ("residual", residual.map(<[f32]>::len)),
            ("dx", len(&dx)),
            ("dresidual", len(&dresidual)),
        ],
    );
    let channels = norm.channels;
    for (name, slice) in [("dweight", &dweight), ("dbias", &dbias)] {
        assert!(
            len(slice).is_none_or(|len| len == channels),
            "batch_norm_backward: {name} is not [channels]"
        );
    }
    let pieces = norm.rows.div_ceil(piece_rows(channels));
    let alone = dy.len() <= elementwise::ALONE;
    let need_sums = dweight.is_some() || dbias.is_some() || (batch_statistics && dx.is_some());

    let mut factors = cpu.scratch(4 * channels);
    let (rstd, rest) = factors.split_at_mut(channels);
    let (scale, rest) = rest.split_at_mut(channels);
    let (plain, weighted) = rest.split_at_mut(channels);
    for channel in 0..channels {
        rstd[channel] = norm.rstd(channel);
        scale[channel] = rstd[channel] * norm.weight[channel];
    }
    plain.fill(0.0);
    weighted.fill(0.0);

    // With a gradient of the residual, which is that before the normalization's own, dx is made from it.
    let dresidual = dresidual.map(Shared::new);
    if need_sums || dresidual.is_some() {
        let mut sums = cpu.scratch(if need_sums { 2 * pieces * channels } else { 0 });
        let task = Sums {
            norm,
            rstd,
            scale,
            dy,
            x,
            residual,
            dresidual,
            sums: need_sums.then(|| Shared::new(&mut sums)),
        };
        cpu.run(pieces, alone, &task);
        if need_sums {
            let (plain, weighted) = (Shared::new(plain), Shared::new(weighted));
            let (dweight, dbias) = (dweight.map(Shared::new), dbias.map(Shared::new));
            let sums: &[f32] = &sums;
            for_each_channels(cpu, channels, |own| {
                for channel in own {
                    let total = |which: usize| -> f64 {
                        (0..pieces)
                            .map(|piece| f64::from(sums[(2 * piece + which) * channels + channel]))
                            .sum()
                    };
                    let (total, total_weighted) = (total(0), total(1));
                    // SAFETY: pieces are channels that do not overlap.
                    unsafe {
                        if let Some(dbias) = dbias {
                            dbias.range(channel..channel + 1)[0] += total as f32;
                        }
                        if let Some(dweight) = dweight {
                            dweight.range(channel..channel + 1)[0] += total_weighted as f32;
                        }
                        if batch_statistics {
                            let rows = norm.rows as f64;
                            plain.set(channel, (total / rows) as f32);
                            weighted.set(channel, (total_weighted / rows) as f32);
                        }
                    }
                }
            });
        }
    }
    let Some(dx) = dx else { return };
    let task = Elements {
        norm,
        rstd,
        scale,
        plain,
        weighted,
        dy,
        x,
        residual,
        ready: dresidual,
        dx: Shared::new(dx),
    };
    cpu.run(pieces, alone, &task);
}

/// The gradient before the activation, from the gradient after it.
#[inline(always)]
fn before_activation<S: Simd, A: Function>(
    s: S,
    dy: S::F,
    centred: S::F,
    scale: S::F,
    bias: S::F,
    residual: Option<S::F>,
) -> S::F {
    let mut value = s.mul_add(centred, scale, bias);
    if let Some(residual) = residual {
        value = s.add(value, residual);
    }
    s.mul(dy, A::derivative(s, value))
}

struct Sums<'a> {
    norm: &'a BatchNorm<'a>,
    rstd: &'a [f32],
    scale: &'a [f32],
    dy: &'a [f32],
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    dresidual: Option<Shared<'a, f32>>,
    /// Every piece's sums of the gradient and of the gradient by the normalized input, `[pieces, 2, channels]`.
    sums: Option<Shared<'a, f32>>,
}

impl Task for Sums<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        with_activation!(self.norm.activation, sums_piece(s, self, piece));
    }
}

#[inline(always)]
fn sums_piece<S: Simd, A: Function>(s: S, task: &Sums, index: usize) {
    let channels = task.norm.channels;
    let (mean, bias) = (&task.norm.mean[..channels], &task.norm.bias[..channels]);
    let (rstd, scale) = (&task.rstd[..channels], &task.scale[..channels]);
    let mut none = [];
    let sums = match task.sums {
        // SAFETY: every piece has its own sums.
        Some(sums) => unsafe { sums.range(2 * index * channels..2 * (index + 1) * channels) },
        None => &mut none[..],
    };
    sums.fill(0.0);
    let (plain, weighted) = sums.split_at_mut(sums.len() / 2);
    for row in piece(index, channels, task.norm.rows) {
        let at = row * channels..(row + 1) * channels;
        let (dy, x) = (&task.dy[at.clone()], &task.x[at.clone()]);
        let residual = task.residual.map(|residual| &residual[at.clone()]);
        // SAFETY: pieces do not overlap, and a piece holds one row at a time.
        let mut dresidual = task.dresidual.map(|dresidual| unsafe { dresidual.range(at) });
        lanes!(S, c in channels, {
            let centred = s.sub(s.read(x, c), s.read(mean, c));
            let residual = residual.map(|residual| s.read(residual, c));
            let gradient =
                before_activation::<S, A>(s, s.read(dy, c), centred, s.read(scale, c), s.read(bias, c), residual);
            if let Some(dresidual) = &mut dresidual {
                s.write(dresidual, c, gradient);
            }
            if !plain.is_empty() {
                s.write(plain, c, s.add(s.read(plain, c), gradient));
                let normalized = s.mul(centred, s.read(rstd, c));
                s.write(weighted, c, s.mul_add(gradient, normalized, s.read(weighted, c)));
            }
        });
    }
}

struct Elements<'a> {
    norm: &'a BatchNorm<'a>,
    rstd: &'a [f32],
    scale: &'a [f32],
    /// Means over rows of the gradient and of the gradient by the normalized input; zero for constant statistics.
    plain: &'a [f32],
    weighted: &'a [f32],
    dy: &'a [f32],
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    /// The gradient before the activation, where it has been written.
    ready: Option<Shared<'a, f32>>,
    dx: Shared<'a, f32>,
}

impl Task for Elements<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        with_activation!(self.norm.activation, elements_piece(s, self, piece));
    }
}

#[inline(always)]
fn elements_piece<S: Simd, A: Function>(s: S, task: &Elements, index: usize) {
    let channels = task.norm.channels;
    let (mean, bias) = (&task.norm.mean[..channels], &task.norm.bias[..channels]);
    let (rstd, scale) = (&task.rstd[..channels], &task.scale[..channels]);
    let (plain, weighted) = (&task.plain[..channels], &task.weighted[..channels]);
    for row in piece(index, channels, task.norm.rows) {
        let at = row * channels..(row + 1) * channels;
        let (dy, x) = (&task.dy[at.clone()], &task.x[at.clone()]);
        let residual = task.residual.map(|residual| &residual[at.clone()]);
        // SAFETY: pieces do not overlap, and a piece holds one row at a time.
        let (ready, dx) =
            unsafe { (task.ready.map(|ready| &*ready.range(at.clone())), task.dx.range(at.clone())) };
        lanes!(S, c in channels, {
            let centred = s.sub(s.read(x, c), s.read(mean, c));
            let scale = s.read(scale, c);
            let gradient = match ready {
                Some(ready) => s.read(ready, c),
                None => {
                    let residual = residual.map(|residual| s.read(residual, c));
                    before_activation::<S, A>(s, s.read(dy, c), centred, scale, s.read(bias, c), residual)
                }
            };
            let normalized = s.mul(centred, s.read(rstd, c));
            let own = s.neg_mul_add(normalized, s.read(weighted, c), s.sub(gradient, s.read(plain, c)));
            s.write(dx, c, s.mul(own, scale));
        });
    }
}
