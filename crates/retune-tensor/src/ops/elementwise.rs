//! Operations value by value.

use retune_kernels as kernels;
use retune_kernels::Activation;

use super::DropoutSpec;
use crate::{Context, Tensor, Work};

/// Counts an activation of so many values, beside reading and writing them.
pub(super) fn count_activation(context: &Context, activation: Activation, values: usize) {
    if !matches!(activation, Activation::Identity | Activation::Relu | Activation::Relu6) {
        context.count(Work::Function, values);
    }
}

/// `activation(x)`.
pub fn activation(context: &Context, activation: Activation, x: &Tensor) -> Tensor {
    count_activation(context, activation, x.elements());
    context.count_moved(2 * x.elements());
    let mut y = context.allocate(x.shape());
    if let Some(cpu) = context.kernels() {
        kernels::activation_forward(cpu, activation, x.values(), y.make_mut());
    }
    y
}

/// `dy · activation'(pre)`.
pub fn activation_backward(context: &Context, activation: Activation, pre: &Tensor, dy: &Tensor) -> Tensor {
    count_activation(context, activation, dy.elements());
    context.count_moved(3 * dy.elements());
    let mut dx = context.allocate(dy.shape());
    if let Some(cpu) = context.kernels() {
        kernels::activation_backward(cpu, activation, pre.values(), dy.values(), dx.make_mut());
    }
    dx
}

/// `dy · activation'(pre)` together with `bias_gradient += column sums` of it, in one pass. Without an activation the
/// result is `dy` itself.
pub fn activation_backward_bias(
    context: &Context,
    activation: Activation,
    pre: Option<&Tensor>,
    dy: Tensor,
    bias_gradient: Option<&mut [f32]>,
) -> Tensor {
    if activation == Activation::Identity {
        context.count_moved(dy.elements());
        if let (Some(cpu), Some(bias_gradient)) = (context.kernels(), bias_gradient) {
            let values = dy.values();
            kernels::activation_backward_bias(
                cpu,
                activation,
                dy.width(),
                None,
                values,
                None,
                Some(bias_gradient),
            );
        }
        return dy;
    }
    count_activation(context, activation, dy.elements());
    context.count_moved(3 * dy.elements());
    let mut dx = context.allocate(dy.shape());
    if let Some(cpu) = context.kernels() {
        let (width, pre) = (dy.width(), pre.map(Tensor::values));
        kernels::activation_backward_bias(
            cpu,
            activation,
            width,
            pre,
            dy.values(),
            Some(dx.make_mut()),
            bias_gradient,
        );
    }
    dx
}

/// Dropout of `x`; applied to a gradient it is its own backward.
pub fn dropout(context: &Context, spec: &DropoutSpec, x: &Tensor) -> Tensor {
    context.count(Work::Random, x.elements());
    context.count_moved(2 * x.elements());
    let mut y = context.allocate(x.shape());
    if let Some(cpu) = context.kernels() {
        kernels::dropout(cpu, &spec.kernel(), x.width(), x.values(), y.make_mut());
    }
    y
}

/// `x + y`.
pub fn add(context: &Context, x: &Tensor, y: &Tensor) -> Tensor {
    assert_eq!(x.elements(), y.elements(), "add: {x:?} and {y:?}");
    context.count_moved(3 * x.elements());
    let mut sum = context.allocate(x.shape());
    if let Some(cpu) = context.kernels() {
        kernels::add(cpu, x.values(), y.values(), sum.make_mut());
    }
    sum
}

/// `x += y`.
pub fn add_assign(context: &Context, x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.elements(), y.elements(), "add_assign: {x:?} and {y:?}");
    context.count_moved(3 * x.elements());
    let values = x.make_mut();
    if let Some(cpu) = context.kernels() {
        kernels::add_assign(cpu, values, y.values());
    }
}

/// `sum += x` for a buffer that is no tensor, such as a parameter's gradient.
pub fn add_into(context: &Context, sum: &mut [f32], x: &Tensor) {
    context.count_moved(3 * x.elements());
    if let Some(cpu) = context.kernels() {
        kernels::add_assign(cpu, sum, x.values());
    }
}

/// `x *= factor`.
pub fn scale_assign(context: &Context, x: &mut Tensor, factor: f32) {
    context.count_moved(2 * x.elements());
    let values = x.make_mut();
    if let Some(cpu) = context.kernels() {
        kernels::scale_assign(cpu, values, factor);
    }
}
