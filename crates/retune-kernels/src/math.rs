//! Exponentials and what is made of them, for vectors.
//!
//! Bounds are tested against f64 in `tests/functions.rs`. Polynomials are least-maximum fits made for this file.

use crate::simd::Simd;

/// `e^x` within 1.5 units in the last place; exactly zero below -87.3, infinite above 88.7, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.33;
    const GREATEST: f32 = 88.72;
    // With the constant first, NaN passes through.
    let clamped = s.min(s.splat(GREATEST), s.max(s.splat(LOWEST), x));
    // x = n·ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r keeps its digits.
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(0.693_359_4), clamped);
    let r = s.neg_mul_add(n, s.splat(-2.121_944_4e-4), r);
    // The series to r^7/7! leaves 2e-9 on |r| <= 0.347.
    let mut p = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
    // 2^128 is no f32: scale by a half of n twice.
    let half = s.round(s.mul(n, s.splat(0.5)));
    let result = s.scale_by_power_of_two(s.scale_by_power_of_two(p, half), s.sub(n, half));
    let result = s.select(s.less(x, s.splat(LOWEST)), s.zero(), result);
    s.select(s.less(s.splat(GREATEST), x), s.splat(f32::INFINITY), result)
}

/// `e^x` for `x <= 0`: as [`exp`], fewer instructions.
#[inline(always)]
pub(crate) fn exp_negative<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.33;
    let clamped = s.max(s.splat(LOWEST), x);
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(0.693_359_4), clamped);
    let r = s.neg_mul_add(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
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
    let mut p = s.splat(P[8]);
    for i in (0..8).rev() {
        p = s.mul_add(p, t, s.splat(P[i]));
    }
    let bell = exp_negative(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    let tail = s.mul(s.mul(bell, s.splat(0.5)), s.mul(p, t));
    (s.select(s.less(x, s.zero()), tail, s.sub(one, tail)), bell)
}

/// `1 / (1 + e^(-x))`
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
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
