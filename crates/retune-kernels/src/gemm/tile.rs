//! The register tile: a few rows by a few vectors of the product, summed over k in ascending order.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::simd::Simd;

/// Where the tile's factors lie: element `(r, p)` of A at `a + r·a_row + p·a_step`, row `p` of B at `b + p·b_step`.
/// One of `a_row` and `a_step` is 1, unless `k` is 0.
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

/// Runs a block for every row or vector below a constant, at most 14, with a literal each time: loops so long are not
/// always unrolled before arrays are taken apart into registers, and a tile's sums must be there.
macro_rules! unrolled {
    ($i:ident < $bound:expr, $body:block) => { unrolled!($i < $bound, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13) };
    ($i:ident < $bound:expr, $body:block; $($literal:literal)*) => {{
        $(if $literal < $bound {
            let $i: usize = $literal;
            $body
        })*
    }};
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
    prefetch::<S, ROWS, VECTORS>(s, target);
    // SAFETY: handed on.
    unsafe {
        let sums = sum::<S, W, ROWS, VECTORS>(s, operands);
        store(s, &sums, target);
    }
}

/// Asks for what a whole tile is going to write.
#[inline(always)]
pub(crate) fn prefetch<S: Simd, const ROWS: usize, const VECTORS: usize>(s: S, target: &Target) {
    let width = VECTORS * S::LANES;
    if target.rows == ROWS && target.columns == width {
        for r in 0..ROWS {
            s.prefetch(target.c.wrapping_add(r * target.stride));
            s.prefetch(target.c.wrapping_add(r * target.stride + width - 1));
        }
    }
}

/// The products of a tile, summed over k in ascending order.
///
/// # Safety
/// As [`multiply`] for A and B.
#[inline(always)]
unsafe fn sum<S: Simd, W: Words<S>, const ROWS: usize, const VECTORS: usize>(
    s: S,
    operands: &Operands,
) -> [[S::F; VECTORS]; ROWS] {
    const { assert!(ROWS <= 14 && VECTORS <= 14) };
    let &Operands { mut a, a_row, a_step, mut b, b_step, k } = operands;
    let mut sums = [[s.zero(); VECTORS]; ROWS];
    // SAFETY: the caller vouches for the elements of A and B; pointers are moved beyond the last step, and not read there.
    unsafe {
        if a_row == 1 {
            for _ in 0..k {
                step::<S, W, ROWS, VECTORS>(s, |r| a.add(r), b, &mut sums);
                a = a.wrapping_add(a_step);
                b = b.wrapping_add(b_step);
            }
        } else {
            let mut rows = [a; ROWS];
            unrolled!(r < ROWS, { rows[r] = a.wrapping_add(r * a_row) });
            for p in 0..k {
                step::<S, W, ROWS, VECTORS>(s, |r| rows[r].add(p * a_step), b, &mut sums);
                b = b.wrapping_add(b_step);
            }
        }
    }
    by_place(s, &sums)
}

/// A copy whose places need not be known while compiling, so that the sums themselves can be in registers.
#[inline(always)]
fn by_place<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    sums: &[[S::F; VECTORS]; ROWS],
) -> [[S::F; VECTORS]; ROWS] {
    let mut copy = [[s.zero(); VECTORS]; ROWS];
    unrolled!(r < ROWS, { unrolled!(v < VECTORS, { copy[r][v] = sums[r][v] }) });
    copy
}

/// One step of k: element `r` of A is at `a(r)`.
///
/// # Safety
/// Readable: all `ROWS` elements of A, and whole vectors of B.
#[inline(always)]
unsafe fn step<S: Simd, W: Words<S>, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: impl Fn(usize) -> *const f32,
    b: *const f32,
    sums: &mut [[S::F; VECTORS]; ROWS],
) {
    for pass in 0..W::PASSES {
        let mut line = [s.zero(); VECTORS];
        unrolled!(v < VECTORS, {
            // SAFETY: the caller vouches for B.
            line[v] = W::part(s, unsafe { s.load(b.add(v * S::LANES)) }, pass);
        });
        unrolled!(r < ROWS, {
            // SAFETY: the caller vouches for A.
            let factor = W::part(s, s.splat(unsafe { *a(r) }), pass);
            unrolled!(v < VECTORS, { sums[r][v] = W::multiply_add(s, factor, line[v], sums[r][v]) });
            // Factors that are loaded ahead would take registers from sums.
            compiler_fence(Ordering::SeqCst);
        });
    }
}

/// Writes a tile's sums to C.
///
/// # Safety
/// Writable (and readable when accumulating): the target's rows and columns.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    sums: &[[S::F; VECTORS]; ROWS],
    target: &Target,
) {
    let &Target { c, stride, rows, columns, scale, accumulate } = target;
    let scale = s.splat(scale);
    if rows == ROWS && columns == VECTORS * S::LANES {
        unrolled!(r < ROWS, {
            unrolled!(v < VECTORS, {
                // SAFETY: a whole tile can be written, says the caller.
                unsafe {
                    let at = c.add(r * stride + v * S::LANES);
                    let sum = sums[r][v];
                    let value =
                        if accumulate { s.mul_add(sum, scale, s.load(at)) } else { s.mul(sum, scale) };
                    s.store(at, value);
                }
            });
        });
        return;
    }
    let sums = by_place(s, sums);
    for (r, sums) in sums.iter().enumerate().take(rows) {
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
