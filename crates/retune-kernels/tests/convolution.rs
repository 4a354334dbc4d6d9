//! Convolutions and their gradients against their definitions, and an image's independence of its batch.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;

/// Compares all three kernels in both precisions with their definitions.
fn check(cpu: &Cpu, shape: &Conv2d) {
    PRECISIONS.into_iter().for_each(|precision| check_in(precision, cpu, shape));
}

/// Compares in root-mean-square and at every element.
fn check_in(precision: Precision, cpu: &Cpu, shape: &Conv2d) {
    let [inputs, weights, outputs] = lengths(shape);
    let definition = reference(shape);
    assert_eq!([shape.output_height(), shape.output_width()], definition.output(), "{shape:?}");
    let draw_operand = |name: &str, n: usize| draw_in(precision, name, n);
    let (x, weight) = (draw_operand("x", inputs), draw_operand("weight", weights));
    let (dy, bias) = (draw_operand("dy", outputs), draw("bias", shape.out_channels));
    let (before, before_weight) = (draw("dx", inputs), draw("dw", weights));
    let expected_y = definition.forward(&widen(&x), &widen(&weight), &widen(&bias));
    let [expected_dx, expected_dweight] = definition.backward(&widen(&x), &widen(&weight), &widen(&dy));
    let what = |kernel: &str| format!("{kernel} in {precision:?} on {} of {shape:?}", cpu.isa());
    // Each sum is of about `terms` products.
    let taps = shape.kernel[0] * shape.kernel[1];
    let winograd = may_be_winograd(shape);
    let close = |kernel: &str, actual: &[f32], expected: &[f64], terms: usize| {
        let magnitude = (1.0 + terms as f64).sqrt();
        // Gradients may take the coarser tiles.
        let coarse = winograd && kernel.contains("gradient");
        let tolerance = if coarse {
            1e-5
        } else if winograd {
            2e-6
        } else {
            1e-6
        };
        // Of few outputs the mean says little: they may cancel.
        let mean = if shape.in_channels.min(shape.out_channels) < 16 {
            5e-6
        } else if coarse {
            3e-6
        } else {
            1e-6
        };
        assert_close(&what(kernel), actual, expected, 1e-6, tolerance * magnitude);
        let sum = |f: &dyn Fn(usize) -> f64| (0..expected.len()).map(|i| f(i).powi(2)).sum::<f64>();
        let error = sum(&|i| f64::from(actual[i]) - expected[i]) / sum(&|i| expected[i]);
        assert!(error.is_nan() || error.sqrt() <= mean, "{}: {:e} in the mean", what(kernel), error.sqrt());
    };

    let mut y = vec![f32::NAN; outputs];
    conv2d_forward(cpu, shape, precision, &x, &weight, Some(&bias), &mut y);
    close("forward", &y, &expected_y, taps * shape.in_channels / shape.groups);
    conv2d_forward(cpu, shape, precision, &x, &weight, None, &mut y);
    let no_bias = |(i, y): (usize, &f64)| y - f64::from(bias[i % shape.out_channels]);
    let expected_y: Vec<f64> = expected_y.iter().enumerate().map(no_bias).collect();
    close("forward without bias", &y, &expected_y, taps * shape.in_channels / shape.groups);

    let mut dx = vec![f32::NAN; inputs];
    conv2d_input_gradient(cpu, shape, precision, &dy, &weight, &mut dx, false);
    close("input gradient", &dx, &expected_dx, taps * shape.out_channels / shape.groups);
    dx.copy_from_slice(&before);
    conv2d_input_gradient(cpu, shape, precision, &dy, &weight, &mut dx, true);
    let sum: Vec<f64> = expected_dx.iter().zip(&before).map(|(dx, &b)| dx + f64::from(b)).collect();
    close("added input gradient", &dx, &sum, taps * shape.out_channels / shape.groups);

    let mut dweight = before_weight.clone();
    conv2d_weight_gradient(cpu, shape, precision, &x, &dy, &mut dweight);
    let sum: Vec<f64> =
        expected_dweight.iter().zip(&before_weight).map(|(dw, &b)| dw + f64::from(b)).collect();
    close("weight gradient", &dweight, &sum, shape.batch * shape.output_height() * shape.output_width());
}

/// Winograd's tiles lose part of a digit, of which the bounds of the root mean square keep watch.
fn may_be_winograd(shape: &Conv2d) -> bool {
    shape.kernel == [3, 3] && shape.stride == [1, 1] && shape.dilation == [1, 1] && shape.groups == 1
}

fn shape(batch: usize, [height, width]: [usize; 2], [inputs, outputs]: [usize; 2], kernel: usize) -> Conv2d {
    Conv2d {
        batch,
        height,
        width,
        in_channels: inputs,
        out_channels: outputs,
        kernel: [kernel; 2],
        stride: [1, 1],
        padding: [kernel / 2; 2],
        dilation: [1, 1],
        groups: 1,
    }
}

#[test]
fn convolutions_of_awkward_shapes_match_their_definition() {
    let mut shapes = vec![
        shape(1, [1, 1], [1, 1], 1),
        shape(0, [5, 4], [3, 2], 3),
        shape(2, [5, 3], [3, 5], 3),
        // The kernel is larger than the image; with padding it fits, without it does not.
        Conv2d { padding: [2, 3], ..shape(1, [2, 1], [2, 3], 5) },
        Conv2d { padding: [0, 0], ..shape(1, [2, 1], [2, 3], 5) },
        // Padding beyond the kernel: outputs that see nothing.
        Conv2d { padding: [4, 3], ..shape(1, [3, 2], [2, 2], 2) },
        // Strides beyond the kernel: inputs that nothing sees.
        Conv2d { stride: [3, 5], ..shape(2, [7, 6], [2, 3], 2) },
        Conv2d { stride: [2, 3], dilation: [3, 2], padding: [1, 4], ..shape(1, [11, 9], [3, 4], 3) },
        // The smallest of Winograd's.
        shape(1, [1, 2], [16, 16], 3),
        Conv2d { stride: [4, 2], dilation: [2, 4], ..shape(1, [9, 13], [2, 2], 3) },
    ];
    if !cfg!(miri) {
        shapes.extend([
            // Winograd's and the product's blocks, whole and broken.
            shape(2, [8, 8], [16, 16], 3),
            shape(3, [2, 6], [20, 40], 3),
            shape(2, [1, 2], [16, 17], 3),
            shape(1, [50, 60], [16, 24], 3),
            shape(1, [13, 17], [19, 33], 3),
            shape(3, [7, 7], [64, 40], 3),
            shape(2, [28, 30], [32, 64], 3),
            Conv2d { padding: [0, 2], ..shape(1, [12, 10], [17, 18], 3) },
            shape(2, [14, 14], [300, 24], 1),
            shape(1, [9, 9], [37, 300], 3),
            Conv2d { stride: [2, 2], ..shape(1, [14, 15], [24, 32], 3) },
            Conv2d { stride: [2, 2], padding: [0, 0], ..shape(2, [8, 9], [24, 32], 1) },
            Conv2d { stride: [2, 2], padding: [3, 3], ..shape(1, [30, 31], [3, 16], 7) },
            Conv2d { groups: 4, ..shape(2, [9, 7], [32, 64], 3) },
            Conv2d { groups: 3, ..shape(2, [5, 7], [3, 6], 3) },
            // Depthwise, with channels that are and are not whole vectors.
            Conv2d { groups: 32, ..shape(2, [9, 11], [32, 32], 3) },
            Conv2d { groups: 19, stride: [2, 2], ..shape(2, [9, 11], [19, 19], 5) },
            Conv2d { groups: 40, stride: [2, 2], ..shape(1, [14, 14], [40, 40], 3) },
            Conv2d { groups: 13, dilation: [2, 2], padding: [2, 2], ..shape(1, [9, 8], [13, 13], 3) },
            Conv2d { kernel: [1, 7], padding: [0, 3], ..shape(1, [9, 17], [20, 24], 1) },
            Conv2d { kernel: [7, 1], padding: [3, 0], ..shape(1, [17, 9], [20, 24], 1) },
        ]);
    }
    on_every_path(|cpu| shapes.iter().for_each(|shape| check(cpu, shape)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 48 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_of_any_shape_match_their_definition(
        batch in 1usize..4,
        size in [1usize..14, 1usize..14],
        channels in [1usize..12, 1usize..12],
        kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4],
        padding in [0usize..4, 0usize..4],
        dilation in [1usize..3, 1usize..3],
        grouping in 0usize..4,
    ) {
        let [inputs, outputs] = channels;
        // Ungrouped twice as often as two groups or one for each channel.
        let (groups, channels) = match grouping {
            2 => (2, [2 * inputs, 2 * outputs]),
            3 => (inputs, [inputs, inputs]),
            _ => (1, channels),
        };
        let plain = shape(batch, size, channels, 1);
        let shape = Conv2d { kernel, stride, padding, dilation, groups, ..plain };
        let shape = if cfg!(miri) { Conv2d { batch: 1, height: size[0] % 4 + 1, width: size[1] % 4 + 1, ..shape } } else { shape };
        on_every_path(|cpu| check(cpu, &shape));
    }

    #[test]
    fn an_image_is_convolved_alike_alone_and_in_a_batch(
        batch in 1usize..6, pick in 0usize..6, size in [3usize..20, 3usize..20], channels in [1usize..40, 1usize..40], stride in 1usize..3, kernel in 1usize..4, depthwise: bool,
    ) {
        let channels = if cfg!(miri) { channels.map(|c| c % 4 + 1) } else { channels };
        let image = pick % batch;
        let groups = if depthwise { channels[0] } else { 1 };
        let channels = if depthwise { [channels[0]; 2] } else { channels };
        let alone = Conv2d { stride: [stride; 2], groups, ..shape(1, size, channels, kernel) };
        let together = Conv2d { batch, ..alone };
        let ([inputs, _, outputs], [all_inputs, weights, all_outputs]) = (lengths(&alone), lengths(&together));
        let (x, weight, dy) = (draw("x", all_inputs), draw("weight", weights), draw("dy", all_outputs));
        on_every_path(|cpu| {
            let own = |values: &[f32], len: usize| values[image * len..(image + 1) * len].to_vec();
            let (mut y, mut own_y) = (vec![f32::NAN; all_outputs], vec![f32::NAN; outputs]);
            conv2d_forward(cpu, &together, Precision::F32, &x, &weight, None, &mut y);
            conv2d_forward(cpu, &alone, Precision::F32, &own(&x, inputs), &weight, None, &mut own_y);
            assert_same_bits("forward", &own(&y, outputs), &own_y);
            let (mut dx, mut own_dx) = (vec![f32::NAN; all_inputs], vec![f32::NAN; inputs]);
            conv2d_input_gradient(cpu, &together, Precision::F32, &dy, &weight, &mut dx, false);
            conv2d_input_gradient(cpu, &alone, Precision::F32, &own(&dy, outputs), &weight, &mut own_dx, false);
            assert_same_bits("input gradient", &own(&dx, inputs), &own_dx);
        });
    }
}

#[test]
#[cfg(not(miri))]
fn weight_gradients_of_many_pixels_are_added_from_splits() {
    let cpu = Cpu::new(threads(), fastest_path()).unwrap();
    check(&cpu, &shape(3, [41, 43], [5, 6], 3));
    check(&cpu, &Conv2d { groups: 8, ..shape(3, [41, 43], [8, 8], 3) });
}

#[test]
fn multiply_adds_count_what_the_definition_multiplies() {
    let shape = Conv2d { stride: [2, 2], groups: 2, ..shape(2, [7, 9], [4, 6], 3) };
    // 4×5 output pixels of 2 images, 6 channels, 3×3 taps of 2 inputs each.
    assert_eq!(shape.multiply_adds(), 2 * 4 * 5 * 6 * 9 * 2);
}
