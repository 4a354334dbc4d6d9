//! The one-dimensional transforms of Winograd's minimal filtering for kernels of 3, interpolating at 0, ±1 and ∞ for tiles of
//! 2 outputs, at 0, ±3/4, ±3/2 and ∞ for tiles of 4: points around 1 magnify rounding half as much as ±1 and ±2 (cf.
//! Barabasz et al. 2018, <https://arxiv.org/abs/1803.10986>).
//!
//! Two dimensions are two of these, down and across. The backward transforms are the transposes.

use crate::simd::Simd;

/// `A` inputs give `M = A - 2` outputs of a kernel of 3.
pub(super) trait Transform<const A: usize, const M: usize> {
    /// `Bᵀ d`
    fn input<S: Simd>(s: S, d: [S::F; A]) -> [S::F; A];
    /// `G g`
    fn weights<S: Simd>(s: S, g: [S::F; 3]) -> [S::F; A];
    /// `Aᵀ m`
    fn output<S: Simd>(s: S, m: [S::F; A]) -> [S::F; M];
    /// `A y`, backward of `output`.
    fn output_backward<S: Simd>(s: S, y: [S::F; M]) -> [S::F; A];
    /// `Gᵀ u`, backward of `weights`.
    fn weights_backward<S: Simd>(s: S, u: [S::F; A]) -> [S::F; 3];
}

/// Tiles of 2 outputs.
pub(super) struct F2;
/// Tiles of 4 outputs.
pub(super) struct F4;

impl Transform<4, 2> for F2 {
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3]: [S::F; 4]) -> [S::F; 4] {
        [s.sub(d0, d2), s.add(d1, d2), s.sub(d2, d1), s.sub(d1, d3)]
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, [g0, g1, g2]: [S::F; 3]) -> [S::F; 4] {
        let half = s.splat(0.5);
        let (even, odd) = (s.mul(s.add(g0, g2), half), s.mul(g1, half));
        [g0, s.add(even, odd), s.sub(even, odd), g2]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3]: [S::F; 4]) -> [S::F; 2] {
        [s.add(m0, s.add(m1, m2)), s.sub(s.sub(m1, m2), m3)]
    }

    #[inline(always)]
    fn output_backward<S: Simd>(s: S, [y0, y1]: [S::F; 2]) -> [S::F; 4] {
        [y0, s.add(y0, y1), s.sub(y0, y1), s.sub(s.zero(), y1)]
    }

    #[inline(always)]
    fn weights_backward<S: Simd>(s: S, [u0, u1, u2, u3]: [S::F; 4]) -> [S::F; 3] {
        let half = s.splat(0.5);
        let even = s.mul(s.add(u1, u2), half);
        [s.add(u0, even), s.mul(s.sub(u1, u2), half), s.add(u3, even)]
    }
}

/// The points of `F4` beside 0 and ∞, with both signs, and their squares.
const NEAR: f32 = 0.75;
const FAR: f32 = 1.5;
const NEAR_SQUARED: f32 = NEAR * NEAR;
const FAR_SQUARED: f32 = FAR * FAR;
/// The coefficients of `(x² - NEAR²)·(x² - FAR²)`.
const SQUARES: f32 = NEAR_SQUARED + FAR_SQUARED;
const PRODUCT: f32 = NEAR_SQUARED * FAR_SQUARED;
/// One over the product of a point's distances to all others.
const NEAR_SCALE: f32 = 1.0 / (2.0 * NEAR_SQUARED * (NEAR_SQUARED - FAR_SQUARED));
const FAR_SCALE: f32 = 1.0 / (2.0 * FAR_SQUARED * (FAR_SQUARED - NEAR_SQUARED));

impl Transform<6, 4> for F4 {
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::F; 6]) -> [S::F; 6] {
        let (near_squared, far_squared) = (s.splat(NEAR_SQUARED), s.splat(FAR_SQUARED));
        let (squares, product) = (s.splat(SQUARES), s.splat(PRODUCT));
        let even = s.neg_mul_add(far_squared, d2, d4);
        let odd = s.mul(s.splat(NEAR), s.neg_mul_add(far_squared, d1, d3));
        let even_far = s.neg_mul_add(near_squared, d2, d4);
        let odd_far = s.mul(s.splat(FAR), s.neg_mul_add(near_squared, d1, d3));
        [
            s.mul_add(product, d0, s.neg_mul_add(squares, d2, d4)),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(even_far, odd_far),
            s.sub(even_far, odd_far),
            s.mul_add(product, d1, s.neg_mul_add(squares, d3, d5)),
        ]
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, [g0, g1, g2]: [S::F; 3]) -> [S::F; 6] {
        let even = s.mul_add(g2, s.splat(NEAR_SQUARED * NEAR_SCALE), s.mul(g0, s.splat(NEAR_SCALE)));
        let odd = s.mul(g1, s.splat(NEAR * NEAR_SCALE));
        let even_far = s.mul_add(g2, s.splat(FAR_SQUARED * FAR_SCALE), s.mul(g0, s.splat(FAR_SCALE)));
        let odd_far = s.mul(g1, s.splat(FAR * FAR_SCALE));
        [
            s.mul(g0, s.splat(1.0 / PRODUCT)),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(even_far, odd_far),
            s.sub(even_far, odd_far),
            g2,
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::F; 6]) -> [S::F; 4] {
        let (plus, minus) = (s.add(m1, m2), s.mul(s.splat(NEAR), s.sub(m1, m2)));
        let (plus_far, minus_far) = (s.add(m3, m4), s.mul(s.splat(FAR), s.sub(m3, m4)));
        let (near_squared, far_squared) = (s.splat(NEAR_SQUARED), s.splat(FAR_SQUARED));
        [
            s.add(m0, s.add(plus, plus_far)),
            s.add(minus, minus_far),
            s.mul_add(far_squared, plus_far, s.mul(near_squared, plus)),
            s.mul_add(far_squared, minus_far, s.mul_add(near_squared, minus, m5)),
        ]
    }

    #[inline(always)]
    fn output_backward<S: Simd>(s: S, [y0, y1, y2, y3]: [S::F; 4]) -> [S::F; 6] {
        let (near_squared, far_squared) = (s.splat(NEAR_SQUARED), s.splat(FAR_SQUARED));
        let even = s.mul_add(near_squared, y2, y0);
        let odd = s.mul(s.splat(NEAR), s.mul_add(near_squared, y3, y1));
        let even_far = s.mul_add(far_squared, y2, y0);
        let odd_far = s.mul(s.splat(FAR), s.mul_add(far_squared, y3, y1));
        [y0, s.add(even, odd), s.sub(even, odd), s.add(even_far, odd_far), s.sub(even_far, odd_far), y3]
    }

    #[inline(always)]
    fn weights_backward<S: Simd>(s: S, [u0, u1, u2, u3, u4, u5]: [S::F; 6]) -> [S::F; 3] {
        let (near_scale, far_scale) = (s.splat(NEAR_SCALE), s.splat(FAR_SCALE));
        let (plus, minus) = (s.mul(near_scale, s.add(u1, u2)), s.mul(near_scale, s.sub(u1, u2)));
        let (plus_far, minus_far) = (s.mul(far_scale, s.add(u3, u4)), s.mul(far_scale, s.sub(u3, u4)));
        [
            s.mul_add(u0, s.splat(1.0 / PRODUCT), s.add(plus, plus_far)),
            s.mul_add(minus_far, s.splat(FAR), s.mul(minus, s.splat(NEAR))),
            s.mul_add(plus_far, s.splat(FAR_SQUARED), s.mul_add(plus, s.splat(NEAR_SQUARED), u5)),
        ]
    }
}
