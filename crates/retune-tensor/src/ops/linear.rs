//! Matrix products: a layer's forward, the gradient of its input and of its weight.

use retune_kernels::{Activation, Gemm, Layout, gemm};

use super::elementwise::count_activation;
use crate::{Context, Factor, Tensor, Work};

/// Counts a product of [m, k] and [k, n]: its arithmetic and, since few columns take less time than the values that they
/// read and write, those too.
pub(super) fn count_product(context: &Context, m: usize, n: usize, k: usize) {
    let kind = if m.min(n).min(k) < Work::NARROW { Work::NarrowProduct } else { Work::Product };
    context.count(kind, 2 * m * n * k);
    context.count_moved(m * k + k * n + m * n);
}

/// `activation(scale · x·wᵀ + bias)` for `x` [rows, in] and `w` [out, in]; with `keep_pre_activation` also the value
/// before the activation. Shape [rows, out].
pub fn linear<'a>(
    context: &Context,
    x: impl Into<Factor<'a>>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    keep_pre_activation: bool,
) -> (Tensor, Option<Tensor>) {
    let x = x.into();
    let (m, k, n) = (x.rows(), x.width(), weight.rows());
    assert_eq!(weight.width(), k, "linear: input {x:?}, weight {weight:?}");
    count_product(context, m, n, k);
    count_activation(context, activation, m * n);
    let mut y = context.allocate([m, n]);
    let mut pre_activation = keep_pre_activation.then(|| context.allocate([m, n]));
    if let Some(cpu) = context.kernels() {
        let product = Gemm {
            layout: Layout::Nt,
            m,
            n,
            k,
            precision: context.precision(),
            a: x.matrix(),
            b: weight.values().into(),
            accumulate: false,
            scale: 1.0,
            bias: bias.map(Tensor::values),
            activation,
        };
        gemm(cpu, &product, y.make_mut(), pre_activation.as_mut().map(Tensor::make_mut));
    }
    (y, pre_activation)
}

/// `x += scale · a·bᵀ` for `a` [rows, k] and `b` [width, k]: a low-rank branch added to a layer's output.
pub fn add_matmul<'a>(context: &Context, x: &mut Tensor, a: impl Into<Factor<'a>>, b: &Tensor, scale: f32) {
    let a = a.into();
    let (m, n, k) = (a.rows(), b.rows(), a.width());
    count_product(context, m, n, k);
    // Taken on `Meta` too: a shared tensor is copied first, which costs memory.
    let values = x.make_mut();
    if let Some(cpu) = context.kernels() {
        let product = Gemm {
            layout: Layout::Nt,
            m,
            n,
            k,
            precision: context.precision(),
            a: a.matrix(),
            b: b.values().into(),
            accumulate: true,
            scale,
            bias: None,
            activation: Activation::Identity,
        };
        gemm(cpu, &product, values, None);
    }
}

/// `scale · dy·w`: the gradient of a linear layer's input, [rows, in]; added to `accumulate_into` if given.
pub fn linear_input_gradient(
    context: &Context,
    dy: &Tensor,
    weight: &Tensor,
    scale: f32,
    accumulate_into: Option<Tensor>,
) -> Tensor {
    let (m, k, n) = (dy.rows(), dy.width(), weight.width());
    count_product(context, m, n, k);
    let accumulate = accumulate_into.is_some();
    let mut dx = accumulate_into.unwrap_or_else(|| context.allocate([m, n]));
    let values = dx.make_mut();
    if let Some(cpu) = context.kernels() {
        let product = Gemm {
            layout: Layout::Nn,
            m,
            n,
            k,
            precision: context.precision(),
            a: dy.values().into(),
            b: weight.values().into(),
            accumulate,
            scale,
            bias: None,
            activation: Activation::Identity,
        };
        gemm(cpu, &product, values, None);
    }
    dx
}

/// `dw += scale · dyᵀ·x`: the gradient of a linear layer's weight [out, in], added to the caller's buffer.
pub fn linear_weight_gradient<'a>(
    context: &Context,
    dy: &Tensor,
    x: impl Into<Factor<'a>>,
    scale: f32,
    dw: &mut [f32],
) {
    let x = x.into();
    let (m, n, k) = (dy.width(), x.width(), dy.rows());
    count_product(context, m, n, k);
    if let Some(cpu) = context.kernels() {
        let product = Gemm {
            layout: Layout::Tn,
            m,
            n,
            k,
            precision: context.precision(),
            a: dy.values().into(),
            b: x.matrix(),
            accumulate: true,
            scale,
            bias: None,
            activation: Activation::Identity,
        };
        gemm(cpu, &product, dw, None);
    }
}
