//! Two-dimensional convolution: forward, input gradient and weight gradient.
//!
//! Images are NHWC, weights in PyTorch's layout `[out_channels, in_channels / groups, kernel_height, kernel_width]`
//! and packed in each call. In bf16 the operands of products are rounded: of all three products of a convolution with a
//! kernel of one pixel, and of the weight gradients that are summed as products. What reads windows otherwise, Winograd's
//! transforms above all, would lose more than it gains and stays f32. Which algorithm computes a convolution depends on its shape without the batch, and the
//! sums of an output pixel on that pixel alone: an image has the same bits whoever shares its batch.

mod depthwise;
mod geometry;
mod pack;
mod pointwise;
mod product;
mod transform;
mod weight_gradient;
mod winograd;
mod winograd_gradient;

use geometry::{Gather, Taps, phases};
use pack::Columns;
use product::Target;

use crate::{Cpu, Precision};

/// The shape of a two-dimensional convolution, as `torch.nn.Conv2d` has it (zero padding).
///
/// A padded input smaller than the (dilated) kernel gives an empty output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Rows of an input image.
    pub height: usize,
    /// Columns of an input image.
    pub width: usize,
    /// Channels of the input; a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output; a multiple of `groups`.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Input pixels from one output pixel to the next, down and across.
    pub stride: [usize; 2],
    /// Zeros on each side, above and below, left and right.
    pub padding: [usize; 2],
    /// Input pixels from one kernel element to the next, down and across.
    pub dilation: [usize; 2],
    /// Independent convolutions side by side in the channels.
    pub groups: usize,
}

impl Conv2d {
    /// Rows of an output image.
    pub fn output_height(&self) -> usize {
        self.output_size(0)
    }

    /// Columns of an output image.
    pub fn output_width(&self) -> usize {
        self.output_size(1)
    }

    fn output_size(&self, axis: usize) -> usize {
        let padded = [self.height, self.width][axis] + 2 * self.padding[axis];
        let kernel = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        padded.checked_sub(kernel).map_or(0, |room| room / self.stride[axis] + 1)
    }

    /// Multiplications with an addition that the definition of the forward pass asks for (padding counted).
    pub fn multiply_adds(&self) -> usize {
        let [kernel_height, kernel_width] = self.kernel;
        self.output_pixels() * self.out_channels * kernel_height * kernel_width * self.group_inputs()
    }

    fn output_pixels(&self) -> usize {
        self.batch * self.output_height() * self.output_width()
    }

    fn input_pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    fn kernel_elements(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// One channel in and one out in each group.
    fn depthwise(&self) -> bool {
        self.groups > 1 && self.group_inputs() == 1 && self.group_outputs() == 1
    }

    fn check(&self, function: &str, x: usize, weight: usize, y: usize) {
        assert!(self.groups > 0, "{function}: groups is zero");
        assert!(
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups),
            "{function}: channels are not multiples of groups"
        );
        for axis in 0..2 {
            assert!(
                self.kernel[axis] > 0 && self.stride[axis] > 0 && self.dilation[axis] > 0,
                "{function}: kernel, stride and dilation must be at least 1"
            );
        }
        let weights = self.out_channels * self.group_inputs() * self.kernel_elements();
        assert_eq!(
            x,
            self.input_pixels() * self.in_channels,
            "{function}: the input is not [batch, h, w, in]"
        );
        assert_eq!(weight, weights, "{function}: the weight is not [out, in / groups, kh, kw]");
        assert_eq!(
            y,
            self.output_pixels() * self.out_channels,
            "{function}: the output is not [batch, oh, ow, out]"
        );
    }
}

/// `y = x * weight + bias`: `x` `[batch, height, width, in_channels]` to `y` `[batch, oh, ow, out_channels]`,
/// overwritten.
pub fn conv2d_forward(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    shape.check("conv2d_forward", x.len(), weight.len(), y.len());
    assert!(
        bias.is_none_or(|bias| bias.len() == shape.out_channels),
        "conv2d_forward: bias is not [out_channels]"
    );
    if y.is_empty() {
        return;
    }
    if pointwise::fits(shape) {
        return pointwise::forward(cpu, shape, precision, x, weight, bias, y);
    }
    let taps = Taps::forward(shape);
    if shape.depthwise() {
        return depthwise::convolve(cpu, shape.in_channels, std::iter::once(taps), weight, bias, x, y, false);
    }
    let gather = Gather { taps, source: x, channels: shape.in_channels, used: shape.group_inputs() };
    let columns = Columns::forward(shape, &taps, weight);
    let target =
        Target { channels: shape.out_channels, used: shape.group_outputs(), bias, accumulate: false };
    // The finer tile: what it computes decides on which side of a ReLU's corner a value falls.
    let tile = winograd::fits(&gather, target.used).then_some(winograd::Tile::Two);
    convolve(cpu, shape, &gather, columns, tile, &target, y);
}

/// A convolution that is not depthwise, by Winograd's tiles or by products of windows.
fn convolve(
    cpu: &Cpu,
    shape: &Conv2d,
    gather: &Gather,
    columns: Columns,
    tile: Option<winograd::Tile>,
    target: &Target,
    out: &mut [f32],
) {
    match tile {
        Some(tile) => winograd::convolve(cpu, tile, gather, &columns, target, out),
        None => {
            product::convolve(cpu, gather, shape.groups, &pack::pack(cpu, shape, columns), target, out);
        }
    }
}

/// The gradient with respect to the input: `dy` `[batch, oh, ow, out_channels]` to `dx`
/// `[batch, height, width, in_channels]`, overwritten or added to.
pub fn conv2d_input_gradient(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    shape.check("conv2d_input_gradient", dx.len(), weight.len(), dy.len());
    if dx.is_empty() {
        return;
    }
    if pointwise::fits(shape) {
        return pointwise::input_gradient(cpu, shape, precision, dy, weight, dx, accumulate);
    }
    if shape.depthwise() {
        return depthwise::convolve(cpu, shape.in_channels, phases(shape), weight, None, dy, dx, accumulate);
    }
    // Input pixels that lie alike to the stride are reached by the same kernel elements.
    for taps in phases(shape) {
        let columns = Columns::input_gradient(shape, &taps, weight);
        let gather = Gather { taps, source: dy, channels: shape.out_channels, used: shape.group_outputs() };
        let target =
            Target { channels: shape.in_channels, used: shape.group_inputs(), bias: None, accumulate };
        let tile = winograd::fastest(&gather, target.used);
        convolve(cpu, shape, &gather, columns, tile, &target, dx);
    }
}

/// The gradient with respect to the weight, added to `dweight` `[out_channels, in_channels / groups, kh, kw]`.
///
/// The bias gradient is `dy`'s column sums: [`crate::activation_backward_bias`].
pub fn conv2d_weight_gradient(
    cpu: &Cpu,
    shape: &Conv2d,
    precision: Precision,
    x: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
) {
    shape.check("conv2d_weight_gradient", x.len(), dweight.len(), dy.len());
    if dy.is_empty() || dweight.is_empty() {
        return;
    }
    let taps = Taps::forward(shape);
    if shape.depthwise() {
        return depthwise::weight_gradient(cpu, shape.in_channels, &taps, x, dy, dweight);
    }
    let gather = Gather { taps, source: x, channels: shape.in_channels, used: shape.group_inputs() };
    match winograd::fastest(&gather, shape.out_channels) {
        Some(tile) => winograd_gradient::accumulate(cpu, tile, &gather, shape.out_channels, dy, dweight),
        None => weight_gradient::accumulate(cpu, shape, precision, &gather, dy, dweight),
    }
}
