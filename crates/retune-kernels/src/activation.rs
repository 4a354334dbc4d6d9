//! Activation functions and their derivatives.

use std::ops::Range;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

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
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `sigmoid(x)`
    Sigmoid,
    /// `x · hardsigmoid(x)` (Howard et al. 2019, MobileNetV3).
    Hardswish,
    /// `min(max(x + 3, 0), 6) / 6`
    Hardsigmoid,
}

/// The functions on vectors.
pub(crate) mod vector {
    use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

    use crate::math;
    use crate::simd::Simd;

    /// An activation known while compiling, so that the choice stands outside the loop.
    pub(crate) trait Function {
        fn value<S: Simd>(s: S, x: S::F) -> S::F;
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F;
    }

    pub(crate) struct Identity;
    pub(crate) struct GeluErf;
    pub(crate) struct GeluTanh;
    pub(crate) struct Relu;
    pub(crate) struct Silu;
    pub(crate) struct Tanh;
    pub(crate) struct Relu6;
    pub(crate) struct Sigmoid;
    pub(crate) struct Hardswish;
    pub(crate) struct Hardsigmoid;

    impl Function for Identity {
        #[inline(always)]
        fn value<S: Simd>(_s: S, x: S::F) -> S::F {
            x
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, _x: S::F) -> S::F {
            s.splat(1.0)
        }
    }

    impl Function for GeluErf {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            s.mul(x, math::normal(s, x).0)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            const INVERSE_ROOT_OF_TWO_PI: f32 = 0.398_942_3;
            let (distribution, bell) = math::normal(s, x);
            s.mul_add(s.mul(x, bell), s.splat(INVERSE_ROOT_OF_TWO_PI), distribution)
        }
    }

    /// `√(2/π)`
    const GELU_TANH_INNER: f32 = FRAC_2_SQRT_PI / SQRT_2;
    const GELU_TANH_CUBE: f32 = 0.044715;

    impl Function for GeluTanh {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            // (1 + tanh u) / 2 = sigmoid(2u)
            let cubic = s.mul_add(s.mul(x, x), s.splat(GELU_TANH_CUBE), s.splat(1.0));
            s.mul(x, math::sigmoid(s, s.mul(s.mul(x, cubic), s.splat(2.0 * GELU_TANH_INNER))).0)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            let square = s.mul(x, x);
            let cubic = s.mul_add(square, s.splat(GELU_TANH_CUBE), s.splat(1.0));
            let (half, rest) = math::sigmoid(s, s.mul(s.mul(x, cubic), s.splat(2.0 * GELU_TANH_INNER)));
            let slope = s.mul_add(square, s.splat(6.0 * GELU_TANH_CUBE), s.splat(2.0));
            let slope = s.mul(slope, s.splat(GELU_TANH_INNER));
            s.mul_add(s.mul(x, slope), s.mul(half, rest), half)
        }
    }

    impl Function for Relu {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            s.max(s.zero(), x)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            s.select(s.less(s.zero(), x), s.splat(1.0), s.zero())
        }
    }

    impl Function for Silu {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            s.mul(x, math::sigmoid(s, x).0)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            let (sigmoid, rest) = math::sigmoid(s, x);
            s.mul(sigmoid, s.mul_add(x, rest, s.splat(1.0)))
        }
    }

    impl Function for Tanh {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            math::tanh(s, x)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            let t = math::tanh(s, x);
            s.neg_mul_add(t, t, s.splat(1.0))
        }
    }

    /// One where `low < x < high`, else zero.
    #[inline(always)]
    fn between<S: Simd>(s: S, low: f32, x: S::F, high: f32) -> S::F {
        let below = s.select(s.less(x, s.splat(high)), s.splat(1.0), s.zero());
        s.select(s.less(s.splat(low), x), below, s.zero())
    }

    /// `min(max(x, low), high)`, NaN for NaN.
    #[inline(always)]
    fn clamp<S: Simd>(s: S, low: f32, x: S::F, high: f32) -> S::F {
        let x = s.max(s.splat(low), x);
        s.select(s.less(s.splat(high), x), s.splat(high), x)
    }

    impl Function for Relu6 {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            clamp(s, 0.0, x, 6.0)
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            between(s, 0.0, x, 6.0)
        }
    }

    impl Function for Sigmoid {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            math::sigmoid(s, x).0
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            let (sigmoid, rest) = math::sigmoid(s, x);
            s.mul(sigmoid, rest)
        }
    }

    impl Function for Hardswish {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            s.mul(x, Hardsigmoid::value(s, x))
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            // x/3 + 1/2 between -3 and 3, else what the clamped factor leaves: 0 or 1.
            let inner = s.mul_add(x, s.splat(1.0 / 3.0), s.splat(0.5));
            let above = s.select(s.less(x, s.splat(3.0)), inner, s.splat(1.0));
            s.select(s.less(s.splat(-3.0), x), above, s.zero())
        }
    }

    impl Function for Hardsigmoid {
        #[inline(always)]
        fn value<S: Simd>(s: S, x: S::F) -> S::F {
            s.mul(clamp(s, 0.0, s.add(x, s.splat(3.0)), 6.0), s.splat(1.0 / 6.0))
        }

        #[inline(always)]
        fn derivative<S: Simd>(s: S, x: S::F) -> S::F {
            s.mul(between(s, -3.0, x, 3.0), s.splat(1.0 / 6.0))
        }
    }

    /// Calls a function that is generic over [`Function`] with the activation chosen at run time.
    macro_rules! with_activation {
        ($activation:expr, $function:ident($($argument:expr),*)) => {
            match $activation {
                $crate::Activation::Identity => $function::<_, $crate::activation::vector::Identity>($($argument),*),
                $crate::Activation::GeluErf => $function::<_, $crate::activation::vector::GeluErf>($($argument),*),
                $crate::Activation::GeluTanh => $function::<_, $crate::activation::vector::GeluTanh>($($argument),*),
                $crate::Activation::Relu => $function::<_, $crate::activation::vector::Relu>($($argument),*),
                $crate::Activation::Silu => $function::<_, $crate::activation::vector::Silu>($($argument),*),
                $crate::Activation::Tanh => $function::<_, $crate::activation::vector::Tanh>($($argument),*),
                $crate::Activation::Relu6 => $function::<_, $crate::activation::vector::Relu6>($($argument),*),
                $crate::Activation::Sigmoid => $function::<_, $crate::activation::vector::Sigmoid>($($argument),*),
                $crate::Activation::Hardswish => $function::<_, $crate::activation::vector::Hardswish>($($argument),*),
                $crate::Activation::Hardsigmoid => {
                    $function::<_, $crate::activation::vector::Hardsigmoid>($($argument),*)
                }
            }
        };
    }
    pub(crate) use with_activation;
}

use vector::{Function, with_activation};

struct Forward<'a> {
    activation: Activation,
    x: &'a [f32],
    y: Shared<'a, f32>,
}

#[inline(always)]
fn forward_piece<S: Simd, A: Function>(s: S, x: &[f32], y: &mut [f32]) {
    let y = &mut y[..x.len()];
    lanes!(S, i in x.len(), {
        s.write(y, i, A::value(s, s.read(x, i)));
    });
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let range = elementwise::piece(piece, self.x.len());
        let x = &self.x[range.clone()];
        // SAFETY: pieces do not overlap.
        let y = unsafe { self.y.range(range) };
        with_activation!(self.activation, forward_piece(s, x, y));
    }
}

/// `y = act(x)`.
pub fn activation_forward(cpu: &Cpu, act: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "activation_forward: x and y differ in length");
    elementwise::run(cpu, x.len(), &Forward { activation: act, x, y: Shared::new(y) });
}

struct Backward<'a> {
    activation: Activation,
    pre: &'a [f32],
    dy: &'a [f32],
    dx: Shared<'a, f32>,
}

#[inline(always)]
fn backward_piece<S: Simd, A: Function>(s: S, pre: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (pre, dx) = (&pre[..dy.len()], &mut dx[..dy.len()]);
    lanes!(S, i in dy.len(), {
        s.write(dx, i, s.mul(s.read(dy, i), A::derivative(s, s.read(pre, i))));
    });
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let range = elementwise::piece(piece, self.dy.len());
        let (pre, dy) = (&self.pre[range.clone()], &self.dy[range.clone()]);
        // SAFETY: pieces do not overlap.
        let dx = unsafe { self.dx.range(range) };
        with_activation!(self.activation, backward_piece(s, pre, dy, dx));
    }
}

/// `dx = dy · act'(pre)`, where `pre` is what the activation was given.
pub fn activation_backward(cpu: &Cpu, act: Activation, pre: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(pre.len(), dy.len(), "activation_backward: pre and dy differ in length");
    assert_eq!(pre.len(), dx.len(), "activation_backward: pre and dx differ in length");
    elementwise::run(cpu, dy.len(), &Backward { activation: act, pre, dy, dx: Shared::new(dx) });
}

/// Columns that one piece of [`activation_backward_bias`] sums.
const BIAS_COLUMNS: usize = 256;
/// Rows that one piece sums before the pieces' sums are added in order.
const BIAS_ROWS: usize = 64;
/// Rows that are added to the sums in one go.
const ROWS_TOGETHER: usize = 4;

struct BackwardBias<'a> {
    activation: Activation,
    width: usize,
    rows: usize,
    pre: Option<&'a [f32]>,
    dy: &'a [f32],
    dx: Option<Shared<'a, f32>>,
    /// `[row pieces, width]`
    sums: Option<Shared<'a, f32>>,
}

impl Task for BackwardBias<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        with_activation!(self.activation, backward_bias_piece(s, self, piece));
    }
}

#[inline(always)]
fn backward_bias_piece<S: Simd, A: Function>(s: S, task: &BackwardBias, piece: usize) {
    let across = task.width.div_ceil(BIAS_COLUMNS);
    let (row_piece, column_piece) = (piece / across, piece % across);
    let columns = column_piece * BIAS_COLUMNS..((column_piece + 1) * BIAS_COLUMNS).min(task.width);
    let mut sums = [0.0; BIAS_COLUMNS];
    let width = columns.len();
    let sums = &mut sums[..width];
    let rows = row_piece * BIAS_ROWS..((row_piece + 1) * BIAS_ROWS).min(task.rows);
    let mut row = rows.start;
    while row < rows.end {
        if row + ROWS_TOGETHER <= rows.end {
            backward_bias_rows::<S, A, ROWS_TOGETHER>(s, task, row, &columns, sums);
            row += ROWS_TOGETHER;
        } else {
            backward_bias_rows::<S, A, 1>(s, task, row, &columns, sums);
            row += 1;
        }
    }
    if let Some(all) = task.sums {
        let at = row_piece * task.width;
        // SAFETY: pieces do not overlap.
        unsafe { all.range(at + columns.start..at + columns.end) }.copy_from_slice(sums);
    }
}

/// Some rows of one piece: the sums are read and written once for all of them.
#[inline(always)]
fn backward_bias_rows<S: Simd, A: Function, const N: usize>(
    s: S,
    task: &BackwardBias,
    row: usize,
    columns: &Range<usize>,
    sums: &mut [f32],
) {
    let at = |n: usize| (row + n) * task.width + columns.start..(row + n) * task.width + columns.end;
    let dy: [&[f32]; N] = std::array::from_fn(|n| &task.dy[at(n)]);
    let pre: [&[f32]; N] = std::array::from_fn(|n| task.pre.map_or(dy[n], |pre| &pre[at(n)]));
    // SAFETY: pieces do not overlap, and neither do rows.
    let mut dx: Option<[&mut [f32]; N]> =
        task.dx.map(|dx| std::array::from_fn(|n| unsafe { dx.range(at(n)) }));
    lanes!(S, j in columns.len(), {
        let mut sum = s.read(sums, j);
        for n in 0..N {
            let gradient = s.mul(s.read(dy[n], j), A::derivative(s, s.read(pre[n], j)));
            if let Some(dx) = &mut dx {
                s.write(dx[n], j, gradient);
            }
            sum = s.add(sum, gradient);
        }
        s.write(sums, j, sum);
    });
}

/// `dx = dy · act'(pre)` and `bias_grad += column sums of dx`, in one pass over rows of `width`.
///
/// `pre` may be `None` for [`Activation::Identity`] only; either output may be left out.
pub fn activation_backward_bias(
    cpu: &Cpu,
    act: Activation,
    width: usize,
    pre: Option<&[f32]>,
    dy: &[f32],
    dx: Option<&mut [f32]>,
    bias_grad: Option<&mut [f32]>,
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
    let rows = dy.len() / width.max(1);
    assert_eq!(dy.len(), rows * width, "activation_backward_bias: dy is not [rows, width]");
    let row_pieces = rows.div_ceil(BIAS_ROWS);
    let mut sums = cpu.scratch(if bias_grad.is_some() { row_pieces * width } else { 0 });
    let task = BackwardBias {
        activation: act,
        width,
        rows,
        pre,
        dy,
        dx: dx.map(Shared::new),
        sums: bias_grad.is_some().then(|| Shared::new(&mut sums)),
    };
    cpu.run(row_pieces * width.div_ceil(BIAS_COLUMNS), dy.len() <= elementwise::ALONE, &task);
    if let Some(bias_grad) = bias_grad {
        elementwise::add_rows(&sums, bias_grad);
    }
}
