//! Pooling a packed batch's sequences to one row each.

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

fn check(kernel: &str, width: usize, tokens: usize, offsets: &[u32], pooled: usize) {
    assert!(
        !offsets.is_empty() && offsets[0] == 0 && offsets.is_sorted(),
        "{kernel}: offsets do not rise from 0"
    );
    assert_eq!(tokens, offsets[offsets.len() - 1] as usize * width, "{kernel}: tokens do not match offsets");
    assert_eq!(pooled, (offsets.len() - 1) * width, "{kernel}: pooled rows are not [sequences, width]");
}

struct MeanForward<'a> {
    width: usize,
    x: &'a [f32],
    offsets: &'a [u32],
    out: Shared<'a, f32>,
}

impl Task for MeanForward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, sequence: usize) {
        let (width, rows) =
            (self.width, self.offsets[sequence] as usize..self.offsets[sequence + 1] as usize);
        // SAFETY: a piece is a sequence.
        let out = unsafe { self.out.range(sequence * width..(sequence + 1) * width) };
        out.fill(0.0);
        let inverse = s.splat(1.0 / rows.len().max(1) as f32);
        for row in rows {
            let x = &self.x[row * width..(row + 1) * width];
            lanes!(S, j in width, {
                s.write(out, j, s.add(s.read(out, j), s.read(x, j)));
            });
        }
        lanes!(S, j in width, {
            s.write(out, j, s.mul(s.read(out, j), inverse));
        });
    }
}

/// The mean over each sequence's rows: `x` `[tokens, width]` to `out` `[sequences, width]`. An empty sequence gives zeros.
pub fn mean_pool_forward(cpu: &Cpu, width: usize, x: &[f32], offsets: &[u32], out: &mut [f32]) {
    check("mean_pool_forward", width, x.len(), offsets, out.len());
    let task = MeanForward { width, x, offsets, out: Shared::new(out) };
    cpu.run(offsets.len() - 1, x.len() <= elementwise::ALONE, &task);
}

struct MeanBackward<'a> {
    width: usize,
    dout: &'a [f32],
    offsets: &'a [u32],
    dx: Shared<'a, f32>,
}

impl Task for MeanBackward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, sequence: usize) {
        let (width, rows) =
            (self.width, self.offsets[sequence] as usize..self.offsets[sequence + 1] as usize);
        let dout = &self.dout[sequence * width..(sequence + 1) * width];
        let inverse = s.splat(1.0 / rows.len().max(1) as f32);
        for row in rows {
            // SAFETY: a piece is a sequence, and it holds one row at a time.
            let dx = unsafe { self.dx.range(row * width..(row + 1) * width) };
            lanes!(S, j in width, {
                s.write(dx, j, s.mul(s.read(dout, j), inverse));
            });
        }
    }
}

/// Backward of [`mean_pool_forward`]: `dout` `[sequences, width]` to `dx` `[tokens, width]`, overwritten.
pub fn mean_pool_backward(cpu: &Cpu, width: usize, dout: &[f32], offsets: &[u32], dx: &mut [f32]) {
    check("mean_pool_backward", width, dx.len(), offsets, dout.len());
    let alone = dx.len() <= elementwise::ALONE;
    cpu.run(offsets.len() - 1, alone, &MeanBackward { width, dout, offsets, dx: Shared::new(dx) });
}

/// The maximum over each sequence's rows: `x` `[tokens, width]` to `out` `[sequences, width]`.
///
/// `argmax`, if given, receives the row of `x` that each maximum came from, the first of equals. An empty sequence
/// gives zeros and `u32::MAX`.
pub fn max_pool_forward(
    cpu: &Cpu,
    width: usize,
    x: &[f32],
    offsets: &[u32],
    out: &mut [f32],
    argmax: Option<&mut [u32]>,
) {
    check("max_pool_forward", width, x.len(), offsets, out.len());
    assert!(
        argmax.as_ref().is_none_or(|a| a.len() == out.len()),
        "max_pool_forward: argmax is not [sequences, width]"
    );
    let (out, argmax) = (Shared::new(out), argmax.map(Shared::new));
    cpu.for_each_piece(offsets.len() - 1, |sequence| {
        for j in 0..width {
            let (mut best, mut best_row) = (0.0, u32::MAX);
            for row in offsets[sequence]..offsets[sequence + 1] {
                let value = x[row as usize * width + j];
                if best_row == u32::MAX || value > best {
                    (best, best_row) = (value, row);
                }
            }
            // SAFETY: a piece is a sequence.
            unsafe { out.set(sequence * width + j, best) };
            if let Some(argmax) = argmax {
                // SAFETY: as above.
                unsafe { argmax.set(sequence * width + j, best_row) };
            }
        }
    });
}

/// Backward of [`max_pool_forward`]: `dx` `[tokens, width]`, overwritten, receives `dout` where `argmax` says.
pub fn max_pool_backward(_cpu: &Cpu, width: usize, dout: &[f32], argmax: &[u32], dx: &mut [f32]) {
    assert_eq!(dout.len(), argmax.len(), "max_pool_backward: dout and argmax differ in length");
    assert!(width > 0 || dout.is_empty(), "max_pool_backward: width is zero");
    dx.fill(0.0);
    for (i, (&gradient, &row)) in dout.iter().zip(argmax).enumerate() {
        if row != u32::MAX {
            dx[row as usize * width + i % width] += gradient;
        }
    }
}
