//! Convolution over images: activations [batch, height, width, channels], weights [out, in / groups, height, width].

use retune_kernels as kernels;
use retune_kernels::Conv2d;

use super::linear::count_product;
use super::widened;
use crate::{Context, Factor, Operand, Tensor, Work};

/// The form of a convolution beside its sizes; each pair is vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dParameters {
    /// Step between two windows.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on either side.
    pub padding: [usize; 2],
    /// Step between two values of a window.
    pub dilation: [usize; 2],
    /// Channels are cut into this many groups that don't see one another.
    pub groups: usize,
}

impl Default for Conv2dParameters {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

/// The four sizes of a batch of images.
pub(super) fn image_sizes<'a>(x: impl Into<Factor<'a>>) -> [usize; 4] {
    let x = x.into();
    match *x.shape().sizes() {
        [batch, height, width, channels] => [batch, height, width, channels],
        _ => panic!("images are [batch, height, width, channels], this is {x:?}"),
    }
}

impl Conv2dParameters {
    fn kernel(&self, x: [usize; 4], weight: &Tensor) -> Conv2d {
        let [batch, height, width, in_channels] = x;
        let [out_channels, group_channels, kernel_height, kernel_width] = image_sizes(weight);
        assert_eq!(group_channels * self.groups, in_channels, "conv2d: input {x:?}, weight {weight:?}");
        Conv2d {
            batch,
            height,
            width,
            in_channels,
            out_channels,
            kernel: [kernel_height, kernel_width],
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        }
    }
}

/// Counts the arithmetic of one of a convolution's three products.
fn count(context: &Context, shape: &Conv2d) {
    let kind = match (shape.kernel, shape.stride, shape.dilation, shape.groups) {
        (_, _, _, groups) if groups == shape.in_channels && groups > 1 => Work::DepthwiseConvolution,
        ([1, 1], [1, 1], _, 1) => {
            let pixels = shape.batch * shape.output_height() * shape.output_width();
            return count_product(context, pixels, shape.out_channels, shape.in_channels);
        }
        ([3, 3], [1, 1], [1, 1], 1) => Work::SquareConvolution,
        _ => Work::Convolution,
    };
    context.count(kind, 2 * shape.multiply_adds());
}

/// Convolution of `x` [batch, height, width, in] with `weight`, plus `bias` `[out]`:
/// [batch, output height, output width, out].
pub fn conv2d(
    context: &Context,
    parameters: &Conv2dParameters,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let shape = parameters.kernel(image_sizes(x), weight);
    count(context, &shape);
    let mut y =
        context.allocate([shape.batch, shape.output_height(), shape.output_width(), shape.out_channels]);
    if let Some(cpu) = context.kernels() {
        let bias = bias.map(Tensor::values);
        kernels::conv2d_forward(
            cpu,
            &shape,
            context.precision(),
            x.values(),
            weight.values(),
            bias,
            y.make_mut(),
        );
    }
    y
}

/// The gradient of [`conv2d`]'s input, which has the sizes `input`; added to `accumulate_into` if given.
pub fn conv2d_input_gradient(
    context: &Context,
    parameters: &Conv2dParameters,
    input: [usize; 4],
    dy: &Tensor,
    weight: &Tensor,
    accumulate_into: Option<Tensor>,
) -> Tensor {
    let shape = parameters.kernel(input, weight);
    count(context, &shape);
    let accumulate = accumulate_into.is_some();
    let mut dx = accumulate_into.unwrap_or_else(|| context.allocate(input));
    let values = dx.make_mut();
    if let Some(cpu) = context.kernels() {
        kernels::conv2d_input_gradient(
            cpu,
            &shape,
            context.precision(),
            dy.values(),
            weight.values(),
            values,
            accumulate,
        );
    }
    dx
}

/// The gradient of [`conv2d`]'s weight, added to the caller's buffer.
pub fn conv2d_weight_gradient(
    context: &Context,
    parameters: &Conv2dParameters,
    x: &Operand,
    weight: &Tensor,
    dy: &Tensor,
    dweight: &mut [f32],
) {
    let shape = parameters.kernel(image_sizes(x), weight);
    count(context, &shape);
    let x = widened(context, x);
    if let Some(cpu) = context.kernels() {
        kernels::conv2d_weight_gradient(cpu, &shape, context.precision(), x.values(), dy.values(), dweight);
    }
}
