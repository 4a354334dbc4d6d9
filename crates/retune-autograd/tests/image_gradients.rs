//! Every operation on images against its definition in f64, and its gradients against finite differences of that
//! definition, for every choice of inputs that need one.

mod common;

use common::Input::{Filter, Image, Value, Vector};
use common::check;
use retune_tensor::{
    Activation, BatchNormForm, ChannelStatistics, Context, Conv2dParameters, PoolWindow, Tensor, ops,
};
use retune_testing::reference::convolution::{Convolution, Pooling};
use retune_testing::reference::{activation, normalization};
use retune_testing::{counter_normal_like, widen};

#[track_caller]
fn check_convolution(input: [usize; 4], filter: [usize; 4], parameters: Conv2dParameters) {
    let [batch, height, width, channels] = input;
    let [outputs, _, rows, columns] = filter;
    let Conv2dParameters { stride, padding, dilation, groups } = parameters;
    let definition = Convolution {
        batch,
        input: [height, width],
        channels: [channels, outputs],
        kernel: [rows, columns],
        stride,
        padding,
        dilation,
        groups,
    };
    let inputs = [Image("x", input), Filter("weight", filter), Vector("bias", outputs)];
    let what = format!("conv2d of {input:?} by {filter:?}, {parameters:?}");
    check(
        &what,
        &inputs,
        |tape, v| tape.conv2d(&v[0], &v[1], Some(&v[2]), parameters),
        |v| definition.forward(&v[0], &v[1], &v[2]),
    );
    check(
        &format!("{what} without bias"),
        &inputs[..2],
        |tape, v| tape.conv2d(&v[0], &v[1], None, parameters),
        |v| definition.forward(&v[0], &v[1], &vec![0.0; outputs]),
    );
}

#[test]
fn conv2d_has_the_gradients_of_its_definition() {
    let plain = Conv2dParameters::default();
    check_convolution([2, 4, 5, 3], [4, 3, 3, 3], Conv2dParameters { padding: [1, 1], ..plain });
    check_convolution([2, 3, 3, 5], [2, 5, 1, 1], plain);
    let strided = Conv2dParameters { stride: [2, 1], padding: [0, 2], dilation: [1, 2], ..plain };
    check_convolution([1, 5, 4, 2], [3, 2, 3, 2], strided);
    check_convolution([1, 4, 4, 4], [6, 2, 3, 3], Conv2dParameters { groups: 2, padding: [1, 1], ..plain });
    let depthwise = Conv2dParameters { groups: 3, stride: [2, 2], padding: [1, 1], ..plain };
    check_convolution([2, 5, 3, 3], [3, 1, 3, 3], depthwise);
}

/// A value and its derivative.
type Definition = fn(f64) -> [f64; 2];

const ACTIVATIONS: &[(Activation, Definition)] = &[
    (Activation::Identity, |x| [x, 1.0]),
    (Activation::Relu, activation::relu),
    (Activation::Relu6, activation::relu6),
    (Activation::Silu, activation::silu),
    (Activation::Hardswish, activation::hardswish),
];

const EPS: f32 = 1e-3;

/// Statistics that are not those of the values.
fn running(context: &Context, channels: usize) -> ChannelStatistics {
    let [mean, variance] = running_values(channels);
    ChannelStatistics {
        mean: context.tensor([channels], mean),
        variance: context.tensor([channels], variance),
    }
}

fn running_values(channels: usize) -> [Vec<f32>; 2] {
    let variance = counter_normal_like("running_var", channels, 0.5).iter().map(|v| 1.0 + v).collect();
    [counter_normal_like("running_mean", channels, 0.5), variance]
}

#[test]
fn batch_norm_has_the_gradients_of_its_definition() {
    const CHANNELS: usize = 3;
    for (activation, function) in ACTIVATIONS {
        for (from_batch, with_residual) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut inputs =
                vec![Image("x", [2, 2, 3, CHANNELS]), Vector("weight", CHANNELS), Vector("bias", CHANNELS)];
            inputs.extend(with_residual.then_some(Image("residual", [2, 2, 3, CHANNELS])));
            check(
                &format!("batch_norm, {activation:?}, from batch {from_batch}, residual {with_residual}"),
                &inputs,
                |tape, v| {
                    let statistics = if from_batch {
                        ops::channel_statistics(tape.context(), v[0].tensor())
                    } else {
                        running(tape.context(), CHANNELS)
                    };
                    let form = BatchNormForm { statistics, from_batch, eps: EPS, activation: *activation };
                    tape.batch_norm(&v[0], v.get(3), form, &v[1], &v[2])
                },
                |v| {
                    let [mean, variance] = if from_batch {
                        normalization::column_statistics(&v[0], CHANNELS)
                    } else {
                        running_values(CHANNELS).map(|values| widen(&values))
                    };
                    let statistics = [mean.as_slice(), variance.as_slice()];
                    let mut y = normalization::batch_norm(&v[0], statistics, &v[1], &v[2], f64::from(EPS));
                    if let Some(residual) = v.get(3) {
                        y.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
                    }
                    y.into_iter().map(|y| function(y)[0]).collect()
                },
            );
        }
    }
}

#[test]
fn group_norm_has_the_gradients_of_its_definition() {
    for (groups, channels) in [(1, 3), (2, 6), (5, 5)] {
        check(
            &format!("group_norm of {channels} channels in {groups} groups"),
            &[Image("x", [2, 3, 2, channels]), Vector("weight", channels), Vector("bias", channels)],
            |tape, v| tape.group_norm(&v[0], groups, &v[1], &v[2], 1e-3),
            |v| {
                let (weight, bias) = (v[1].clone(), v[2].clone());
                normalization::GroupNorm { batch: 2, groups, weight, bias, eps: 1e-3 }.forward(&v[0]).0
            },
        );
    }
}

#[test]
fn pooling_has_the_gradients_of_its_definition() {
    let windows = [
        PoolWindow::tiles(2),
        PoolWindow::square(3, 2, 1),
        PoolWindow { ceil_mode: true, ..PoolWindow::square(3, 2, 0) },
    ];
    for window in windows {
        let inputs = [Image("x", [2, 6, 5, 3])];
        let definition = Pooling {
            batch: 2,
            input: [6, 5],
            channels: 3,
            kernel: window.kernel,
            stride: window.stride,
            padding: window.padding,
            ceil_mode: window.ceil_mode,
        };
        // Gradients come from finite differences, so what the definition would send back is not asked for.
        let [height, width] = definition.output();
        let dy = vec![0.0; 2 * height * width * 3];
        check(
            &format!("max_pool2d, {window:?}"),
            &inputs,
            |tape, v| tape.max_pool2d(&v[0], window),
            |v| definition.max(&v[0], &dy)[0].clone(),
        );
        for count_include_pad in [false, true] {
            check(
                &format!("avg_pool2d, {window:?}, padding counts: {count_include_pad}"),
                &inputs,
                |tape, v| tape.avg_pool2d(&v[0], window, count_include_pad),
                |v| definition.average(count_include_pad, &v[0], &dy)[0].clone(),
            );
        }
    }
    let [height, width, channels] = [3, 4, 2];
    check(
        "global_avg_pool",
        &[Image("x", [2, height, width, channels])],
        |tape, v| tape.global_avg_pool(&v[0]),
        |v| {
            let mean = |image: &[f64], channel: usize| {
                image.iter().skip(channel).step_by(channels).sum::<f64>() / (height * width) as f64
            };
            let images = v[0].chunks(height * width * channels);
            images.flat_map(|image| (0..channels).map(move |channel| mean(image, channel))).collect()
        },
    );
}

#[test]
fn adaptive_pooling_has_the_gradients_of_its_definition() {
    const CHANNELS: usize = 2;
    // Division that comes out even, that does not, and more windows than pixels.
    for (input, output) in [([4, 6], [2, 3]), ([5, 4], [3, 3]), ([1, 2], [3, 5])] {
        let [height, width] = input;
        check(
            &format!("adaptive_avg_pool2d of {input:?} to {output:?}"),
            &[Image("x", [2, height, width, CHANNELS])],
            |tape, v| tape.adaptive_avg_pool2d(&v[0], output),
            |v| {
                // torch.nn.AdaptiveAvgPool2d: from floor(i · size / windows) to ceil((i + 1) · size / windows).
                let span = |index: usize, windows: usize, size: usize| {
                    let start = (index as f64 * size as f64 / windows as f64).floor() as usize;
                    let end = ((index + 1) as f64 * size as f64 / windows as f64).ceil() as usize;
                    start..end
                };
                let mut y = Vec::new();
                for image in v[0].chunks(height * width * CHANNELS) {
                    for window in 0..output[0] * output[1] {
                        let rows = span(window / output[1], output[0], height);
                        let columns = span(window % output[1], output[1], width);
                        for channel in 0..CHANNELS {
                            let values: Vec<f64> = rows
                                .clone()
                                .flat_map(|row| columns.clone().map(move |column| row * width + column))
                                .map(|pixel| image[pixel * CHANNELS + channel])
                                .collect();
                            y.push(values.iter().sum::<f64>() / values.len() as f64);
                        }
                    }
                }
                y
            },
        );
    }
}

#[test]
fn operations_on_channels_have_the_gradients_of_their_definitions() {
    for scales in [2, 1] {
        check(
            &format!("scale_channels by {scales} rows"),
            &[Image("x", [2, 2, 3, 4]), Value("scale", [scales, 4])],
            |tape, v| tape.scale_channels(&v[0], &v[1]),
            |v| {
                let rows_per_scale = v[0].len() / v[1].len();
                let scale = |index: usize| v[1][index / 4 / rows_per_scale * 4 + index % 4];
                v[0].iter().enumerate().map(|(index, x)| x * scale(index)).collect()
            },
        );
    }
    check(
        "add",
        &[Image("x", [1, 2, 2, 3]), Image("y", [1, 2, 2, 3])],
        |tape, v| tape.add(&v[0], &v[1]),
        |v| v[0].iter().zip(&v[1]).map(|(x, y)| x + y).collect(),
    );
    check(
        "concat_channels",
        &[Image("x", [2, 1, 2, 3]), Image("y", [2, 1, 2, 1]), Image("z", [2, 1, 2, 2])],
        |tape, v| tape.concat_channels(&[&v[0], &v[1], &v[2]]),
        |v| {
            let row = |row: usize| [&v[0][row * 3..][..3], &v[1][row..][..1], &v[2][row * 2..][..2]].concat();
            (0..4).flat_map(row).collect()
        },
    );
    check(
        "flatten_images",
        &[Image("x", [2, 2, 3, 4])],
        |tape, v| tape.flatten_images(&v[0]),
        |v| {
            let place = |image: usize, channel: usize, pixel: usize| (image * 6 + pixel) * 4 + channel;
            (0..2)
                .flat_map(|image| {
                    (0..4).flat_map(move |channel| (0..6).map(move |p| place(image, channel, p)))
                })
                .map(|place| v[0][place])
                .collect()
        },
    );
}

#[test]
fn an_image_that_is_used_twice_gets_the_sum_of_both_gradients() {
    // The convolution adds to what the shortcut sent back, in the same buffer.
    let parameters = Conv2dParameters { padding: [1, 1], ..Conv2dParameters::default() };
    let definition = Convolution {
        batch: 1,
        input: [3, 3],
        channels: [2, 2],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    check(
        "x + conv2d(x)",
        &[Image("x", [1, 3, 3, 2]), Filter("weight", [2, 2, 3, 3])],
        |tape, v| {
            let branch = tape.conv2d(&v[0], &v[1], None, parameters);
            tape.add(&v[0], &branch)
        },
        |v| {
            let branch = definition.forward(&v[0], &v[1], &[0.0; 2]);
            v[0].iter().zip(branch).map(|(x, branch)| x + branch).collect()
        },
    );
}

#[test]
fn channel_statistics_are_those_of_the_definition() {
    let context = Context::cpu(retune_kernels::Cpu::new(2, retune_kernels::Isa::detect()).unwrap());
    let values = counter_normal_like("x", 2 * 3 * 5 * 7, 1.0);
    let x: Tensor = context.tensor([2, 3, 5, 7], values.clone());
    let statistics = ops::channel_statistics(&context, &x);
    let [mean, variance] = normalization::column_statistics(&widen(&values), 7);
    retune_testing::assert_close("mean", statistics.mean.values(), &mean, 1e-6, 1e-6);
    retune_testing::assert_close("variance", statistics.variance.values(), &variance, 1e-6, 1e-6);
}
