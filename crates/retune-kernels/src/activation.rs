//! Activation functions and their derivatives.

use crate::Cpu;

/// An activation function, elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    Identity,
    /// `x · Φ(x)` with the error function (Hendrycks and Gimpel 2016; `gelu` in PyTorch and Hugging Face).
    GeluErf,
    /// GELU's tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x · sigmoid(x)`
    Silu,
    /// `tanh(x)`
    Tanh,
}

fn erf(x: f64) -> f64 {
    // Abramowitz and Stegun 7.1.5, summed to convergence; beyond 6 the error function is 1 to f64.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while f64::abs(term) > 1e-18 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

pub(crate) fn value(act: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match act {
        Activation::Identity => x,
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    };
    y as f32
}

fn derivative(act: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let pi = std::f64::consts::PI;
    let y = match act {
        Activation::Identity => 1.0,
        Activation::GeluErf => {
            0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * (-0.5 * x * x).exp() / (2.0 * pi).sqrt()
        }
        Activation::GeluTanh => {
            let root = (2.0 / pi).sqrt();
            let t = (root * (x + 0.044715 * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
    };
    y as f32
}

/// `y = act(x)`.
pub fn activation_forward(_cpu: &Cpu, act: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "activation_forward: x and y differ in length");
    for i in 0..x.len() {
        y[i] = value(act, x[i]);
    }
}

/// `dx = dy · act'(pre)`, where `pre` is what the activation was given.
pub fn activation_backward(_cpu: &Cpu, act: Activation, pre: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(pre.len(), dy.len(), "activation_backward: pre and dy differ in length");
    assert_eq!(pre.len(), dx.len(), "activation_backward: pre and dx differ in length");
    for i in 0..pre.len() {
        dx[i] = dy[i] * derivative(act, pre[i]);
    }
}

/// `dx = dy · act'(pre)` and `bias_grad += column sums of dx`, in one pass over rows of `width`.
///
/// `pre` may be `None` for [`Activation::Identity`] only; either output may be left out.
pub fn activation_backward_bias(
    _cpu: &Cpu,
    act: Activation,
    width: usize,
    pre: Option<&[f32]>,
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
    mut bias_grad: Option<&mut [f32]>,
) {
    assert!(width > 0 || dy.is_empty(), "activation_backward_bias: width is zero");
    assert!(
        pre.is_some() || act == Activation::Identity,
        "activation_backward_bias: pre is needed for {act:?}"
    );
    if let Some(pre) = pre {
        assert_eq!(pre.len(), dy.len(), "activation_backward_bias: pre and dy differ in length");
    }
    if let Some(dx) = &dx {
        assert_eq!(dx.len(), dy.len(), "activation_backward_bias: dx and dy differ in length");
    }
    if let Some(bias_grad) = &bias_grad {
        assert_eq!(bias_grad.len(), width, "activation_backward_bias: bias_grad is not [width]");
    }
    for i in 0..dy.len() {
        let gradient = pre.map_or(dy[i], |pre| dy[i] * derivative(act, pre[i]));
        if let Some(dx) = dx.as_deref_mut() {
            dx[i] = gradient;
        }
        if let Some(bias_grad) = bias_grad.as_deref_mut() {
            bias_grad[i % width] += gradient;
        }
    }
}
