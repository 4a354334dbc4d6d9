//! The one-dimensional transforms of Winograd's minimal filtering for kernels of 3, interpolating at 0, ±1, (±2,) ∞.
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

impl Transform<6, 4> for F4 {
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::F; 6]) -> [S::F; 6] {
        let (four, five, two) = (s.splat(4.0), s.splat(5.0), s.splat(2.0));
        let (even, odd) = (s.neg_mul_add(four, d2, d4), s.neg_mul_add(four, d1, d3));
        let (even_two, odd_two) = (s.sub(d4, d2), s.mul(two, s.sub(d3, d1)));
        [
            s.mul_add(four, d0, s.neg_mul_add(five, d2, d4)),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(even_two, odd_two),
            s.sub(even_two, odd_two),
            s.mul_add(four, d1, s.neg_mul_add(five, d3, d5)),
        ]
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, [g0, g1, g2]: [S::F; 3]) -> [S::F; 6] {
        let (sixth, twelfth) = (s.splat(1.0 / 6.0), s.splat(1.0 / 12.0));
        let (even, odd) = (s.mul(s.add(g0, g2), s.splat(-1.0 / 6.0)), s.mul(g1, sixth));
        let even_two = s.mul_add(g0, s.splat(1.0 / 24.0), s.mul(g2, sixth));
        let odd_two = s.mul(g1, twelfth);
        [
            s.mul(g0, s.splat(0.25)),
            s.sub(even, odd),
            s.add(even, odd),
            s.add(even_two, odd_two),
            s.sub(even_two, odd_two),
            g2,
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::F; 6]) -> [S::F; 4] {
        let (plus, minus) = (s.add(m1, m2), s.sub(m1, m2));
        let (plus_two, minus_two) = (s.add(m3, m4), s.sub(m3, m4));
        [
            s.add(m0, s.add(plus, plus_two)),
            s.mul_add(s.splat(2.0), minus_two, minus),
            s.mul_add(s.splat(4.0), plus_two, plus),
            s.add(s.mul_add(s.splat(8.0), minus_two, minus), m5),
        ]
    }

    #[inline(always)]
    fn output_backward<S: Simd>(s: S, [y0, y1, y2, y3]: [S::F; 4]) -> [S::F; 6] {
        let (four, two) = (s.splat(4.0), s.splat(2.0));
        let (even, odd) = (s.add(y0, y2), s.add(y1, y3));
        let (even_two, odd_two) = (s.mul_add(four, y2, y0), s.mul(two, s.mul_add(four, y3, y1)));
        [y0, s.add(even, odd), s.sub(even, odd), s.add(even_two, odd_two), s.sub(even_two, odd_two), y3]
    }

    #[inline(always)]
    fn weights_backward<S: Simd>(s: S, [u0, u1, u2, u3, u4, u5]: [S::F; 6]) -> [S::F; 3] {
        let sixth = s.splat(1.0 / 6.0);
        let (plus, minus) = (s.add(u1, u2), s.sub(u2, u1));
        let (plus_two, minus_two) = (s.add(u3, u4), s.sub(u3, u4));
        let outer = s.mul(plus, s.splat(-1.0 / 6.0));
        [
            s.mul_add(u0, s.splat(0.25), s.mul_add(plus_two, s.splat(1.0 / 24.0), outer)),
            s.mul_add(minus_two, s.splat(1.0 / 12.0), s.mul(minus, sixth)),
            s.add(s.mul_add(plus_two, sixth, outer), u5),
        ]
    }
}
