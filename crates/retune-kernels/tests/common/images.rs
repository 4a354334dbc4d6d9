//! One call of every kernel for images.

use retune_kernels::*;
use retune_testing::reference::convolution::{Convolution, Pooling};

use super::{PRECISIONS, Size, counter_normal_like, draw};

/// The reference's description of a convolution.
pub fn reference(shape: &Conv2d) -> Convolution {
    Convolution {
        batch: shape.batch,
        input: [shape.height, shape.width],
        channels: [shape.in_channels, shape.out_channels],
        kernel: shape.kernel,
        stride: shape.stride,
        padding: shape.padding,
        dilation: shape.dilation,
        groups: shape.groups,
    }
}

/// The reference's description of a pooling.
pub fn pooling_reference(pool: &Pool2d) -> Pooling {
    Pooling {
        batch: pool.batch,
        input: [pool.height, pool.width],
        channels: pool.channels,
        kernel: pool.kernel,
        stride: pool.stride,
        padding: pool.padding,
        ceil_mode: pool.ceil_mode,
    }
}

/// Elements of input, weight and output.
pub fn lengths(shape: &Conv2d) -> [usize; 3] {
    [
        shape.batch * shape.height * shape.width * shape.in_channels,
        shape.out_channels * shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1],
        shape.batch * shape.output_height() * shape.output_width() * shape.out_channels,
    ]
}

/// The convolutions of a size: plain, pointwise, strided, dilated, grouped and depthwise.
fn convolutions(size: &Size) -> Vec<Conv2d> {
    let plain = Conv2d {
        batch: if size.lengths == [0] { 0 } else { size.lengths.len() },
        height: size.inner % 7 + 5,
        width: size.inner % 5 + 6,
        in_channels: size.width,
        out_channels: size.width,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    vec![
        plain,
        Conv2d { kernel: [1, 1], padding: [0, 0], ..plain },
        Conv2d { kernel: [1, 1], padding: [0, 0], stride: [2, 2], ..plain },
        Conv2d { kernel: [5, 3], stride: [2, 1], padding: [2, 0], ..plain },
        Conv2d { dilation: [1, 2], groups: size.heads, ..plain },
        Conv2d { groups: size.width, ..plain },
        Conv2d { groups: size.width, stride: [2, 2], kernel: [5, 5], padding: [2, 2], ..plain },
    ]
}

/// Runs every kernel for images once and keeps what each wrote.
pub fn every_image_kernel(cpu: &Cpu, size: &Size, keep: &mut dyn FnMut(&str, Vec<f32>)) {
    let zeros = |n: usize| vec![f32::NAN; n];
    for (shape, precision) in convolutions(size).into_iter().flat_map(|shape| PRECISIONS.map(|p| (shape, p)))
    {
        let [inputs, weights, outputs] = lengths(&shape);
        // Small weights and gradients, so that sums are of the order of one.
        let weight = counter_normal_like("weight", weights, 0.1);
        let dy = counter_normal_like("dy", outputs, 0.1);
        let (x, bias) = (draw("x", inputs), draw("bias", shape.out_channels));
        let (mut y, mut dx, mut dweight) = (zeros(outputs), zeros(inputs), draw("dweight", weights));
        conv2d_forward(cpu, &shape, precision, &x, &weight, Some(&bias), &mut y);
        conv2d_input_gradient(cpu, &shape, precision, &dy, &weight, &mut dx, false);
        keep(&format!("{precision:?} {shape:?} forward"), y);
        keep(&format!("{precision:?} {shape:?} dx"), dx.clone());
        conv2d_input_gradient(cpu, &shape, precision, &dy, &weight, &mut dx, true);
        conv2d_weight_gradient(cpu, &shape, precision, &x, &dy, &mut dweight);
        keep(&format!("{precision:?} {shape:?} dx added"), dx);
        keep(&format!("{precision:?} {shape:?} dweight"), dweight);
    }

    let shape = convolutions(size)[0];
    let (pixels, channels) = (shape.height * shape.width, shape.in_channels);
    let rows = shape.batch * pixels;
    let elements = rows * channels;
    let (x, dy, residual) = (draw("x", elements), draw("dy", elements), draw("residual", elements));
    let (weight, bias) = (draw("weight", channels), draw("bias", channels));
    let (mut mean, mut variance) = (zeros(channels), zeros(channels));
    batch_norm_statistics(cpu, &x, channels, &mut mean, &mut variance);
    keep("batch norm mean", mean.clone());
    keep("batch norm variance", variance.clone());
    for (activation, residual) in
        [(Activation::Identity, None), (Activation::Silu, None), (Activation::Hardswish, Some(&residual[..]))]
    {
        let norm = BatchNorm {
            rows,
            channels,
            mean: &mean,
            variance: &variance,
            weight: &weight,
            bias: &bias,
            eps: 1e-3,
            activation,
        };
        let (mut y, mut dx, mut dresidual) = (zeros(elements), zeros(elements), zeros(elements));
        let (mut dweight, mut dbias) = (draw("dweight", channels), draw("dbias", channels));
        batch_norm_forward(cpu, &norm, &x, residual, &mut y);
        let dresidual_wanted = residual.is_some().then_some(&mut dresidual[..]);
        batch_norm_backward(
            cpu,
            &norm,
            true,
            &dy,
            &x,
            residual,
            Some(&mut dx),
            dresidual_wanted,
            Some(&mut dweight),
            Some(&mut dbias),
        );
        keep("batch norm", y);
        keep("batch norm dx", dx);
        if residual.is_some() {
            keep("batch norm dresidual", dresidual);
        }
        keep("batch norm dweight", dweight);
        keep("batch norm dbias", dbias);
    }

    for ceil_mode in [false, true] {
        let pool = Pool2d {
            batch: shape.batch,
            height: shape.height,
            width: shape.width,
            channels,
            kernel: [3, 2],
            stride: [2, 3],
            padding: [1, 1],
            ceil_mode,
        };
        let outputs = shape.batch * pool.output_height() * pool.output_width() * channels;
        let dy = draw("dy", outputs);
        let (mut y, mut dx, mut argmax) = (zeros(outputs), zeros(elements), vec![255; outputs]);
        max_pool2d_forward(cpu, &pool, &x, &mut y, Some(&mut argmax));
        max_pool2d_backward(cpu, &pool, &dy, &argmax, &mut dx);
        keep("max pool 2d", y.clone());
        keep("max pool 2d gradient", dx.clone());
        avg_pool2d_forward(cpu, &pool, true, &x, &mut y);
        avg_pool2d_backward(cpu, &pool, true, &dy, &mut dx);
        keep("average pool 2d", y);
        keep("average pool 2d gradient", dx);
    }

    let scale = draw("scale", shape.batch * channels);
    let (mut y, mut dx, mut dscale) = (zeros(elements), zeros(elements), zeros(scale.len()));
    scale_channels_forward(cpu, pixels, channels, &x, &scale, &mut y);
    scale_channels_backward(cpu, pixels, channels, &dy, &x, &scale, Some(&mut dx), Some(&mut dscale));
    keep("scale channels", y);
    keep("scale channels dx", dx);
    keep("scale channels dscale", dscale);
}
