//! One factor for each image and channel: the excitation of squeeze-and-excitation (Hu, Shen and Sun 2018).

use std::ops::Range;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

/// Rows of a piece. In backward their sums for the factors are added first.
const PIECE_ROWS: usize = 256;

/// How `[batch, rows_per_image, channels]` is cut.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    rows: usize,
    channels: usize,
}

impl Shape {
    fn new(function: &str, rows: usize, channels: usize, x: usize, scale: usize) -> Shape {
        let batch = scale / channels.max(1);
        assert_eq!(scale, batch * channels, "{function}: scale is not [batch, channels]");
        assert_eq!(x, batch * rows * channels, "{function}: x is not [batch, rows_per_image, channels]");
        Shape { batch, rows, channels }
    }

    fn pieces_per_image(self) -> usize {
        self.rows.div_ceil(PIECE_ROWS)
    }

    fn pieces(self) -> usize {
        self.batch * self.pieces_per_image()
    }

    /// The image of a piece and its rows, counted over all images.
    #[inline(always)]
    fn piece(self, piece: usize) -> (usize, Range<usize>) {
        let (image, part) = (piece / self.pieces_per_image(), piece % self.pieces_per_image());
        let rows = part * PIECE_ROWS..((part + 1) * PIECE_ROWS).min(self.rows);
        (image, image * self.rows + rows.start..image * self.rows + rows.end)
    }
}

struct Forward<'a> {
    shape: Shape,
    x: &'a [f32],
    scale: &'a [f32],
    y: Shared<'a, f32>,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let channels = self.shape.channels;
        let (image, rows) = self.shape.piece(piece);
        let scale = &self.scale[image * channels..(image + 1) * channels];
        for row in rows {
            let at = row * channels..(row + 1) * channels;
            let x = &self.x[at.clone()];
            // SAFETY: pieces do not overlap, and a piece holds one row at a time.
            let y = unsafe { self.y.range(at) };
            lanes!(S, c in channels, {
                s.write(y, c, s.mul(s.read(x, c), s.read(scale, c)));
            });
        }
    }
}

/// `y = x · scale`: `x` and `y` `[batch, rows_per_image, channels]`, `scale` `[batch, channels]`.
pub fn scale_channels_forward(
    cpu: &Cpu,
    rows_per_image: usize,
    channels: usize,
    x: &[f32],
    scale: &[f32],
    y: &mut [f32],
) {
    let shape = Shape::new("scale_channels_forward", rows_per_image, channels, x.len(), scale.len());
    assert_eq!(x.len(), y.len(), "scale_channels_forward: x and y differ in length");
    let task = Forward { shape, x, scale, y: Shared::new(y) };
    cpu.run(shape.pieces(), x.len() <= elementwise::ALONE, &task);
}

struct Backward<'a> {
    shape: Shape,
    dy: &'a [f32],
    x: &'a [f32],
    scale: &'a [f32],
    dx: Option<Shared<'a, f32>>,
    /// Every piece's sums, `[pieces, channels]`.
    sums: Option<Shared<'a, f32>>,
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let channels = self.shape.channels;
        let (image, rows) = self.shape.piece(piece);
        let scale = &self.scale[image * channels..(image + 1) * channels];
        let mut none = [];
        let sums = match self.sums {
            // SAFETY: every piece has its own sums.
            Some(sums) => unsafe { sums.range(piece * channels..(piece + 1) * channels) },
            None => &mut none[..],
        };
        sums.fill(0.0);
        for row in rows {
            let at = row * channels..(row + 1) * channels;
            let (dy, x) = (&self.dy[at.clone()], &self.x[at.clone()]);
            // SAFETY: pieces do not overlap, and a piece holds one row at a time.
            let mut dx = self.dx.map(|dx| unsafe { dx.range(at) });
            lanes!(S, c in channels, {
                let dy = s.read(dy, c);
                if let Some(dx) = &mut dx {
                    s.write(dx, c, s.mul(dy, s.read(scale, c)));
                }
                if !sums.is_empty() {
                    s.write(sums, c, s.mul_add(dy, s.read(x, c), s.read(sums, c)));
                }
            });
        }
    }
}

/// Backward of [`scale_channels_forward`]: `dx` `[batch, rows_per_image, channels]` and `dscale` `[batch, channels]`,
/// both overwritten; what is `None` is not computed.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn scale_channels_backward(
    cpu: &Cpu,
    rows_per_image: usize,
    channels: usize,
    dy: &[f32],
    x: &[f32],
    scale: &[f32],
    dx: Option<&mut [f32]>,
    dscale: Option<&mut [f32]>,
) {
    let shape = Shape::new("scale_channels_backward", rows_per_image, channels, x.len(), scale.len());
    assert_eq!(x.len(), dy.len(), "scale_channels_backward: x and dy differ in length");
    assert!(
        dx.as_ref().is_none_or(|dx| dx.len() == x.len()),
        "scale_channels_backward: dx and x differ in length"
    );
    assert!(
        dscale.as_ref().is_none_or(|dscale| dscale.len() == scale.len()),
        "scale_channels_backward: dscale is not [batch, channels]"
    );
    let mut sums = cpu.scratch(if dscale.is_some() { shape.pieces() * channels } else { 0 });
    let task = Backward {
        shape,
        dy,
        x,
        scale,
        dx: dx.map(Shared::new),
        sums: dscale.is_some().then(|| Shared::new(&mut sums)),
    };
    cpu.run(shape.pieces(), x.len() <= elementwise::ALONE, &task);
    if let Some(dscale) = dscale {
        dscale.fill(0.0);
        let image = (shape.pieces_per_image() * channels).max(1);
        for (sums, dscale) in sums.chunks_exact(image).zip(dscale.chunks_exact_mut(channels.max(1))) {
            elementwise::add_rows(sums, dscale);
        }
    }
}
