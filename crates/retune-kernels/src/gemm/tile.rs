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

/// Multiplies one tile of `ROWS` by `VECTORS` vectors.
///
/// # Safety
/// Readable: `k` steps of all `ROWS` of A and of whole vectors of B, whatever `rows` and `columns` say. Writable (and
/// readable when accumulating): `rows` by `columns` of C, `rows <= ROWS` and `columns <= VECTORS · LANES`.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, const ROWS: usize, const VECTORS: usize>(
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
            let mut line = [s.zero(); VECTORS];
            for (v, line) in line.iter_mut().enumerate() {
                *line = s.load(b.add(v * S::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = s.splat(*a.add(r * a_row));
                for (sum, line) in sums.iter_mut().zip(line) {
                    *sum = s.mul_add(factor, line, *sum);
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
