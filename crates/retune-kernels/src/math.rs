//! Exponentials and what is made of them, for vectors.
//!
//! Bounds are tested against f64 in `tests/functions.rs`. Polynomials are least-maximum fits made for this file.

use crate::simd::Simd;

/// `e^x` for `x <= 0` (or little above) within 2 units in the last place; zero below -80, NaN for NaN.
///
/// Cut there, what callers multiply it with leaves normal numbers; denormal ones cost a hundred cycles each.
#[inline(always)]
pub(crate) fn exp_negative<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -80.0;
    // With the constant first, NaN passes through.
    let clamped = s.max(s.splat(LOWEST), x);
    // x = n·ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r keeps its digits.
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(0.693_359_4), clamped);
    let r = s.neg_mul_add(n, s.splat(-2.121_944_4e-4), r);
    // 1 + r + r²·Q(r), Q fitted to 3e-9 of e^r.
    const Q: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_852, 0.001_381_432];
    // Pairs first (Estrin): the chain of dependent operations is what limits these functions.
    let square = s.mul(r, r);
    let low = s.mul_add(s.splat(Q[1]), r, s.splat(Q[0]));
    let high = s.mul_add(s.splat(Q[4]), square, s.mul_add(s.splat(Q[3]), r, s.splat(Q[2])));
    let p = s.mul_add(s.mul_add(high, square, low), square, s.add(r, s.splat(1.0)));
    s.select(s.less(x, s.splat(LOWEST)), s.zero(), s.scale_by_power_of_two(p, n))
}

/// `Φ(x)`, the normal distribution function, and `e^(-x²/2)`; `Φ` within 2e-7 absolutely.
///
/// `erfc(z) = e^(-z²) · t · P(t)` with `t = 1 / (1 + 0.3 z)` and `z = |x| / √2` (the form of Abramowitz and Stegun
/// 7.1.26; `P` fitted to 2e-8), so that the left tail keeps its digits instead of cancelling.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    const P: [f32; 9] = [
        0.169_188,
        0.170_715_27,
        0.148_338_86,
        0.214_927_17,
        -0.094_653_13,
        0.547_723_3,
        -0.512_280_74,
        0.485_564_4,
        -0.129_523_14,
    ];
    let one = s.splat(1.0);
    let z = s.mul(s.abs(x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.mul_add(z, s.splat(0.3), one));
    let (t2, pair) = (s.mul(t, t), |i: usize| s.mul_add(s.splat(P[i + 1]), t, s.splat(P[i])));
    let t4 = s.mul(t2, t2);
    let (low, high) = (s.mul_add(pair(2), t2, pair(0)), s.mul_add(pair(6), t2, pair(4)));
    let p = s.mul_add(s.mul_add(s.splat(P[8]), t4, high), t4, low);
    let bell = exp_negative(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    let tail = s.mul(s.mul(bell, s.splat(0.5)), s.mul(p, t));
    (s.select(s.less(x, s.zero()), tail, s.sub(one, tail)), bell)
}

/// `1 / (1 + e^(-x))` and one less that, neither by cancellation.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let e = exp_negative(s, s.sub(s.zero(), s.abs(x)));
    let large = s.div(one, s.add(one, e));
    let small = s.mul(e, large);
    let negative = s.less(x, s.zero());
    (s.select(negative, small, large), s.select(negative, large, small))
}

/// `tanh(x)` within 3e-7 relatively.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let size = s.abs(x);
    let one = s.splat(1.0);
    let e = exp_negative(s, s.mul(size, s.splat(-2.0)));
    let large = s.div(s.sub(one, e), s.add(one, e));
    let large = s.select(s.less(x, s.zero()), s.sub(s.zero(), large), large);
    // tanh(x) = x + x³·Q(x²), which does not cancel near zero; Q fitted on |x| < 0.625.
    let square = s.mul(x, x);
    let mut q = s.splat(TANH[4]);
    for i in (0..4).rev() {
        q = s.mul_add(q, square, s.splat(TANH[i]));
    }
    let small = s.mul_add(s.mul(x, square), q, x);
    s.select(s.less(size, s.splat(0.625)), small, large)
}

const TANH: [f32; 5] = [-0.333_332_6, 0.133_308_3, -0.053_688_02, 0.020_469_414, -0.005_515_159];
