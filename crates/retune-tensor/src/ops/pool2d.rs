//! Pooling over windows of images, and operations on their channels. Activations are [batch, height, width, channels].

use retune_kernels as kernels;
use retune_kernels::Pool2d;

use super::convolution::image_sizes;
use crate::pool::Bytes;
use crate::{Context, Shape, Tensor};

/// The windows of a pooling; each pair is vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWindow {
    /// Size of a window.
    pub kernel: [usize; 2],
    /// Step between two windows.
    pub stride: [usize; 2],
    /// Rows and columns on either side that count as absent (maximum) or as zeros (mean).
    pub padding: [usize; 2],
    /// Whether a last window that reaches over the edge counts.
    pub ceil_mode: bool,
}

impl PoolWindow {
    /// Square windows that lie side by side.
    pub fn tiles(size: usize) -> Self {
        Self { kernel: [size; 2], stride: [size; 2], padding: [0; 2], ceil_mode: false }
    }

    /// Square windows with a step and a padding.
    pub fn square(size: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [size; 2], stride: [stride; 2], padding: [padding; 2], ceil_mode: false }
    }

    fn kernel(&self, x: [usize; 4]) -> Pool2d {
        let [batch, height, width, channels] = x;
        let Self { kernel, stride, padding, ceil_mode } = *self;
        Pool2d { batch, height, width, channels, kernel, stride, padding, ceil_mode }
    }
}

/// Where in its window each maximum was found.
#[derive(Debug)]
pub struct Argmax(Bytes);

fn output_values(shape: &Pool2d) -> usize {
    shape.batch * shape.output_height() * shape.output_width() * shape.channels
}

fn pooled(context: &Context, shape: &Pool2d) -> Tensor {
    context.allocate([shape.batch, shape.output_height(), shape.output_width(), shape.channels])
}

/// The greatest value of each window; with `keep` also where it was, for the backward.
pub fn max_pool2d(
    context: &Context,
    window: &PoolWindow,
    x: &Tensor,
    keep: bool,
) -> (Tensor, Option<Argmax>) {
    let shape = window.kernel(image_sizes(x));
    // Windows overlap: each value is compared with all of its window.
    context.count_moved(x.elements() + (1 + window.kernel.iter().product::<usize>()) * output_values(&shape));
    let mut y = pooled(context, &shape);
    let mut argmax = keep.then(|| context.bytes(y.elements()));
    if let Some(cpu) = context.kernels() {
        let argmax = argmax.as_mut().map(Bytes::values_mut);
        kernels::max_pool2d_forward(cpu, &shape, x.values(), y.make_mut(), argmax);
    }
    (y, argmax.map(Argmax))
}

/// Gradient of [`max_pool2d`]'s input, which has the sizes `input`.
pub fn max_pool2d_backward(
    context: &Context,
    window: &PoolWindow,
    input: [usize; 4],
    dy: &Tensor,
    argmax: &Argmax,
) -> Tensor {
    context.count_moved(input.iter().product::<usize>() + 2 * dy.elements());
    let mut dx = context.allocate(input);
    if let Some(cpu) = context.kernels() {
        kernels::max_pool2d_backward(
            cpu,
            &window.kernel(input),
            dy.values(),
            argmax.0.values(),
            dx.make_mut(),
        );
    }
    dx
}

/// The mean of each window; padding counts as zeros if `count_include_pad`, else it doesn't count.
pub fn avg_pool2d(context: &Context, window: &PoolWindow, count_include_pad: bool, x: &Tensor) -> Tensor {
    let shape = window.kernel(image_sizes(x));
    context.count_moved(x.elements() + output_values(&shape));
    let mut y = pooled(context, &shape);
    if let Some(cpu) = context.kernels() {
        kernels::avg_pool2d_forward(cpu, &shape, count_include_pad, x.values(), y.make_mut());
    }
    y
}

/// Gradient of [`avg_pool2d`]'s input, which has the sizes `input`.
pub fn avg_pool2d_backward(
    context: &Context,
    window: &PoolWindow,
    count_include_pad: bool,
    input: [usize; 4],
    dy: &Tensor,
) -> Tensor {
    context.count_moved(input.iter().product::<usize>() + 2 * dy.elements());
    let mut dx = context.allocate(input);
    if let Some(cpu) = context.kernels() {
        let shape = window.kernel(input);
        kernels::avg_pool2d_backward(cpu, &shape, count_include_pad, dy.values(), dx.make_mut());
    }
    dx
}

/// The mean over an even division of each image into `output` rows and columns, whose windows overlap by a pixel where it
/// doesn't come out even (PyTorch's `AdaptiveAvgPool2d`).
pub fn adaptive_avg_pool2d(context: &Context, output: [usize; 2], x: &Tensor) -> Tensor {
    let [batch, height, width, channels] = image_sizes(x);
    context.count_moved(x.elements());
    let mut y = context.allocate([batch, output[0], output[1], channels]);
    if let Some(cpu) = context.kernels() {
        let sizes = [batch, height, width, channels];
        kernels::adaptive_avg_pool2d_forward(cpu, sizes, output, x.values(), y.make_mut());
    }
    y
}

/// Gradient of [`adaptive_avg_pool2d`]'s input, which has the sizes `input`.
pub fn adaptive_avg_pool2d_backward(
    context: &Context,
    output: [usize; 2],
    input: [usize; 4],
    dy: &Tensor,
) -> Tensor {
    context.count_moved(input.iter().product::<usize>() + 2 * dy.elements());
    let mut dx = context.allocate(input);
    if let Some(cpu) = context.kernels() {
        kernels::adaptive_avg_pool2d_backward(cpu, input, output, dy.values(), dx.make_mut());
    }
    dx
}

/// `x` [batch, height, width, channels] times `scale` [batch, channels].
pub fn scale_channels(context: &Context, x: &Tensor, scale: &Tensor) -> Tensor {
    let rows_per_image = check_scale(x, scale);
    context.count_moved(2 * x.elements());
    let mut y = context.allocate(x.shape());
    if let Some(cpu) = context.kernels() {
        let (x, scale, channels) = (x.values(), scale.values(), scale.width());
        kernels::scale_channels_forward(cpu, rows_per_image, channels, x, scale, y.make_mut());
    }
    y
}

/// Gradients of [`scale_channels`]' `x` and `scale`, where wanted.
pub fn scale_channels_backward(
    context: &Context,
    dy: &Tensor,
    x: &Tensor,
    scale: &Tensor,
    wants_x: bool,
    wants_scale: bool,
) -> [Option<Tensor>; 2] {
    let rows_per_image = check_scale(x, scale);
    context.count_moved((1 + usize::from(wants_x) + usize::from(wants_scale)) * x.elements());
    let mut dx = wants_x.then(|| context.allocate(x.shape()));
    let mut dscale = wants_scale.then(|| context.allocate(scale.shape()));
    if let Some(cpu) = context.kernels() {
        kernels::scale_channels_backward(
            cpu,
            rows_per_image,
            scale.width(),
            dy.values(),
            x.values(),
            scale.values(),
            dx.as_mut().map(Tensor::make_mut),
            dscale.as_mut().map(Tensor::make_mut),
        );
    }
    [dx, dscale]
}

fn check_scale(x: &Tensor, scale: &Tensor) -> usize {
    let fits = x.width() == scale.width() && x.rows().is_multiple_of(scale.rows());
    assert!(fits, "scale_channels: {x:?} by {scale:?}");
    x.rows() / scale.rows()
}

/// The channels of all `parts` side by side; they agree in every other axis.
pub fn concat_channels(context: &Context, parts: &[&Tensor]) -> Tensor {
    let first = parts[0];
    let channels: usize = parts.iter().map(|part| part.width()).sum();
    let mut sizes = first.shape().sizes().to_vec();
    if let Some(last) = sizes.last_mut() {
        *last = channels;
    }
    context.count_moved(2 * first.rows() * channels);
    let mut y = context.allocate(sizes.as_slice());
    if let Some(cpu) = context.kernels() {
        let mut start = 0;
        let values = y.make_mut();
        for part in parts {
            assert_eq!(part.rows(), first.rows(), "concat_channels: {first:?} and {part:?}");
            let width = part.width();
            let source = kernels::Columns { width, start: 0 };
            let target = kernels::Columns { width: channels, start };
            kernels::copy_columns(cpu, width, source, part.values(), target, values);
            start += width;
        }
    }
    y
}

/// As many channels of `x` as `shape` has, from `start` on: a part's gradient behind [`concat_channels`].
pub fn slice_channels(context: &Context, x: &Tensor, start: usize, shape: &Shape) -> Tensor {
    context.count_moved(2 * shape.elements());
    let mut y = context.allocate(shape);
    if let Some(cpu) = context.kernels() {
        let width = y.width();
        let source = kernels::Columns { width: x.width(), start };
        let target = kernels::Columns { width, start: 0 };
        kernels::copy_columns(cpu, width, source, x.values(), target, y.make_mut());
    }
    y
}

/// Each image as one row in the reference's order, channel by channel: [batch, channels · height · width].
pub fn flatten_images(context: &Context, x: &Tensor) -> Tensor {
    let [batch, height, width, channels] = image_sizes(x);
    context.count_moved(2 * x.elements());
    let mut y = context.allocate([batch, channels * height * width]);
    if let Some(cpu) = context.kernels() {
        kernels::transpose_each(cpu, [batch, height * width, channels], x.values(), y.make_mut());
    }
    y
}

/// Gradient of [`flatten_images`]' input, which has the sizes `input`.
pub fn flatten_images_backward(context: &Context, input: [usize; 4], dy: &Tensor) -> Tensor {
    let [batch, height, width, channels] = input;
    context.count_moved(input.iter().product::<usize>() + 2 * dy.elements());
    let mut dx = context.allocate(input);
    if let Some(cpu) = context.kernels() {
        kernels::transpose_each(cpu, [batch, channels, height * width], dy.values(), dx.make_mut());
    }
    dx
}
