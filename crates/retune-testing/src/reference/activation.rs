//! Activation functions with their derivatives.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// The error function: its Maclaurin series (Abramowitz and Stegun 7.1.6, all terms positive) to convergence.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 - erf(6) is 2e-17.
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    sum * FRAC_2_SQRT_PI * (-x * x).exp()
}

/// `[x · Φ(x), its derivative]`
pub fn gelu_erf(x: f64) -> [f64; 2] {
    let distribution = 0.5 * (1.0 + erf(x / SQRT_2));
    [x * distribution, distribution + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()]
}

/// `[x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), its derivative]`
pub fn gelu_tanh(x: f64) -> [f64; 2] {
    let root = (2.0 / PI).sqrt();
    let inner = root * (x + 0.044715 * x * x * x);
    let t = inner.tanh();
    // Not 1 - t²: far out a rounding of that would be multiplied by x³.
    let slope = root * (1.0 + 3.0 * 0.044715 * x * x) / inner.cosh().powi(2);
    [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * slope]
}

/// `[max(x, 0), its derivative]`, with derivative zero at zero.
pub fn relu(x: f64) -> [f64; 2] {
    if x > 0.0 { [x, 1.0] } else { [0.0, 0.0] }
}

/// `[x · sigmoid(x), its derivative]`
pub fn silu(x: f64) -> [f64; 2] {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    [x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))]
}

/// `[tanh(x), its derivative]`
pub fn tanh(x: f64) -> [f64; 2] {
    [x.tanh(), 1.0 - x.tanh() * x.tanh()]
}

/// `[min(max(x, 0), 6), its derivative]`, with derivative zero at the corners.
pub fn relu6(x: f64) -> [f64; 2] {
    [x.clamp(0.0, 6.0), f64::from(u8::from(0.0 < x && x < 6.0))]
}

/// `[1 / (1 + e^-x), its derivative]`
pub fn sigmoid(x: f64) -> [f64; 2] {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    [sigmoid, sigmoid / (1.0 + x.exp())]
}

/// `[min(max(x + 3, 0), 6) / 6, its derivative]`, with derivative zero at the corners.
pub fn hardsigmoid(x: f64) -> [f64; 2] {
    [(x + 3.0).clamp(0.0, 6.0) / 6.0, if -3.0 < x && x < 3.0 { 1.0 / 6.0 } else { 0.0 }]
}

/// `[x · hardsigmoid(x), its derivative]`, with the outer derivatives at the corners.
pub fn hardswish(x: f64) -> [f64; 2] {
    let [factor, slope] = hardsigmoid(x);
    [x * factor, factor + x * slope]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_gradient;

    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - value).abs() < 1e-10);
            assert!((erf(-x) + value).abs() < 1e-10);
        }
    }

    #[test]
    fn derivatives_are_those_of_the_functions() {
        for f in [gelu_erf, gelu_tanh, relu, silu, tanh, relu6, sigmoid, hardsigmoid, hardswish] {
            for x in [-7.0, -2.5, -0.3, 0.4, 1.0, 3.5] {
                assert_gradient("activation", &[x], &[f(x)[1]], 1e-8, |x| f(x[0])[0]);
            }
        }
    }
}
