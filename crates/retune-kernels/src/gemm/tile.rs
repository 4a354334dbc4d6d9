//! The register tile: a few rows by a few vectors of the product, summed over k in ascending order.

use crate::simd::Simd;

/// Where the tile's factors lie: element `(r, p)` of A at `a + r·a_row + p·a_step`, row `p` of B at `b + p·b_step`.
pub(crate) struct Operands {
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const f32,
    pub b_step: usize,
    pub k: usize,
}

/// Where the product goes: `c[r][j] = scale · product (+ c[r][j] if accumulate)`, for `rows` and `columns`.
pub(crate) struct Target {
    pub c: *mut f32,
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub scale: f32,
    pub accumulate: bool,
}

/// What the elements of packed operands are, each of the size of an f32.
pub(crate) trait Words<S: Simd> {
    /// How often a step of k goes over the tile.
    const PASSES: usize;
    /// What a pass multiplies of a word.
    fn part(s: S, word: S::F, pass: usize) -> S::F;
    /// `a · b + sum`
    fn multiply_add(s: S, a: S::F, b: S::F, sum: S::F) -> S::F;
}

/// Numbers in f32.
pub(crate) struct Singles;

impl<S: Simd> Words<S> for Singles {
    const PASSES: usize = 1;

    #[inline(always)]
    fn part(_s: S, word: S::F, _pass: usize) -> S::F {
        word
    }

    #[inline(always)]
    fn multiply_add(s: S, a: S::F, b: S::F, sum: S::F) -> S::F {
        s.mul_add(a, b, sum)
    }
}

/// Pairs of bf16 numbers that follow one another along k, the first in the low half: widened, one after the other.
pub(crate) struct Pairs;

impl<S: Simd> Words<S> for Pairs {
    const PASSES: usize = 2;

    #[inline(always)]
    fn part(s: S, word: S::F, pass: usize) -> S::F {
        if pass == 0 { s.low_half(word) } else { s.high_half(word) }
    }

    #[inline(always)]
    fn multiply_add(s: S, a: S::F, b: S::F, sum: S::F) -> S::F {
        s.mul_add(a, b, sum)
    }
}

/// Multiplies one tile of `ROWS` by `VECTORS` vectors.
///
/// # Safety
/// Readable: `k` steps of all `ROWS` of A and of whole vectors of B, whatever `rows` and `columns` say. Writable (and
/// readable when accumulating): `rows` by `columns` of C, `rows <= ROWS` and `columns <= VECTORS · LANES`.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, W: Words<S>, const ROWS: usize, const VECTORS: usize>(
    s: S,
    operands: &Operands,
    target: &Target,
) {
    let &Operands { a, a_row, a_step, b, b_step, k } = operands;
    let &Target { c, stride, rows, columns, scale, accumulate } = target;
    let full = rows == ROWS && columns == VECTORS * S::LANES;
    let mut sums = [[s.zero(); VECTORS]; ROWS];
    // SAFETY: the caller vouches for the elements of A and B.
    unsafe {
        if full {
            for r in 0..ROWS {
                s.prefetch(c.wrapping_add(r * stride));
                s.prefetch(c.wrapping_add(r * stride + VECTORS * S::LANES - 1));
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..k {
            for pass in 0..W::PASSES {
                let mut line = [s.zero(); VECTORS];
                for (v, line) in line.iter_mut().enumerate() {
                    *line = W::part(s, s.load(b.add(v * S::LANES)), pass);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = W::part(s, s.splat(*a.add(r * a_row)), pass);
                    for (sum, line) in sums.iter_mut().zip(line) {
                        *sum = W::multiply_add(s, factor, line, *sum);
                    }
                }
            }
            a = a.wrapping_add(a_step);
            b = b.wrapping_add(b_step);
        }
    }
    let scale = s.splat(scale);
    if full {
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                // SAFETY: a full tile's rows and columns can be written, says the caller.
                unsafe {
                    let at = c.add(r * stride + v * S::LANES);
                    let value =
                        if accumulate { s.mul_add(sum, scale, s.load(at)) } else { s.mul(sum, scale) };
                    s.store(at, value);
                }
            }
        }
        return;
    }
    for (r, sums) in sums.iter().enumerate() {
        if r >= rows {
            break;
        }
        for (v, &sum) in sums.iter().enumerate() {
            if v * S::LANES >= columns {
                break;
            }
            let count = (columns - v * S::LANES).min(S::LANES);
            // SAFETY: `count` elements are within the columns the caller vouches for.
            unsafe {
                let at = c.add(r * stride + v * S::LANES);
                if count == S::LANES {
                    let value =
                        if accumulate { s.mul_add(sum, scale, s.load(at)) } else { s.mul(sum, scale) };
                    s.store(at, value);
                } else {
                    let before = if accumulate { s.load_part(at, count) } else { s.zero() };
                    let value = if accumulate { s.mul_add(sum, scale, before) } else { s.mul(sum, scale) };
                    s.store_part(at, count, value);
                }
            }
        }
    }
}
