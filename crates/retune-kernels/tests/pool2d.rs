//! Pooling of images and scaling of channels against their definitions.

mod common;

use common::*;
use retune_kernels::*;

fn pools() -> Vec<Pool2d> {
    let pool = |[height, width]: [usize; 2], channels, kernel, stride, padding| Pool2d {
        batch: 2,
        height,
        width,
        channels,
        kernel,
        stride,
        padding,
        ceil_mode: false,
    };
    let plain = [
        pool([1, 1], 1, [1, 1], [1, 1], [0, 0]),
        pool([5, 7], 3, [3, 3], [2, 2], [1, 1]),
        pool([6, 4], 9, [2, 2], [2, 2], [0, 0]),
        pool([7, 9], 8, [3, 2], [1, 3], [1, 0]),
        pool([2, 3], 2, [5, 4], [2, 2], [2, 2]),
        pool([2, 2], 2, [3, 3], [1, 1], [0, 0]),
        pool([8, 8], 17, [2, 2], [3, 3], [1, 1]),
    ];
    let ceiling = plain.iter().map(|pool| Pool2d { ceil_mode: true, ..*pool });
    plain.into_iter().chain(ceiling).collect()
}

#[test]
fn maxima_and_means_and_their_gradients_match_their_definition() {
    on_every_path(|cpu| {
        for pool in pools() {
            let definition = pooling_reference(&pool);
            assert_eq!([pool.output_height(), pool.output_width()], definition.output(), "{pool:?}");
            let outputs = pool.batch * pool.output_height() * pool.output_width() * pool.channels;
            let x = draw("x", pool.batch * pool.height * pool.width * pool.channels);
            // Ties, whose first element takes the gradient.
            let x: Vec<f32> = x.iter().map(|x| (x * 4.0).round()).collect();
            let dy = draw("dy", outputs);
            let (mut y, mut dx, mut argmax) =
                (vec![f32::NAN; outputs], vec![f32::NAN; x.len()], vec![255; outputs]);
            let [expected_y, expected_dx] = definition.max(&widen(&x), &widen(&dy));
            max_pool2d_forward(cpu, &pool, &x, &mut y, Some(&mut argmax));
            assert_close(&format!("max {pool:?}"), &y, &expected_y, 0.0, 0.0);
            max_pool2d_forward(cpu, &pool, &x, &mut y, None);
            assert_close("max without places", &y, &expected_y, 0.0, 0.0);
            max_pool2d_backward(cpu, &pool, &dy, &argmax, &mut dx);
            assert_close(&format!("max gradient {pool:?}"), &dx, &expected_dx, 1e-6, 1e-6);
            for padded in [false, true] {
                let [expected_y, expected_dx] = definition.average(padded, &widen(&x), &widen(&dy));
                avg_pool2d_forward(cpu, &pool, padded, &x, &mut y);
                assert_close(&format!("mean {pool:?}"), &y, &expected_y, 1e-6, 1e-6);
                avg_pool2d_backward(cpu, &pool, padded, &dy, &mut dx);
                assert_close(&format!("mean gradient {pool:?}"), &dx, &expected_dx, 1e-6, 1e-6);
            }
        }
    });
}

#[test]
fn a_maximum_passes_nan_on() {
    on_every_path(|cpu| {
        let pool = Pool2d {
            batch: 1,
            height: 1,
            width: 3,
            channels: 1,
            kernel: [1, 3],
            stride: [1, 1],
            padding: [0, 0],
            ceil_mode: false,
        };
        for place in 0..3 {
            let mut x = [1.0, 2.0, 3.0];
            x[place] = f32::NAN;
            let (mut y, mut argmax) = ([0.0], [255]);
            max_pool2d_forward(cpu, &pool, &x, &mut y, Some(&mut argmax));
            assert!(y[0].is_nan() && argmax[0] as usize == place, "{place}: {y:?} {argmax:?}");
        }
    });
}

#[test]
fn channels_are_scaled_by_their_images_factors() {
    on_every_path(|cpu| {
        for [batch, rows, channels] in [[1, 1, 1], [3, 5, 7], [2, if cfg!(miri) { 3 } else { 600 }, 24]] {
            let n = batch * rows * channels;
            let (x, dy, scale) = (draw("x", n), draw("dy", n), draw("scale", batch * channels));
            let (mut y, mut dx, mut dscale) =
                (vec![f32::NAN; n], vec![f32::NAN; n], vec![f32::NAN; scale.len()]);
            scale_channels_forward(cpu, rows, channels, &x, &scale, &mut y);
            scale_channels_backward(cpu, rows, channels, &dy, &x, &scale, Some(&mut dx), Some(&mut dscale));
            let factor = |i: usize| f64::from(scale[i / (rows * channels) * channels + i % channels]);
            let scaled = |values: &[f32]| -> Vec<f64> {
                values.iter().enumerate().map(|(i, &v)| f64::from(v) * factor(i)).collect()
            };
            assert_close("y", &y, &scaled(&x), 1e-6, 0.0);
            assert_close("dx", &dx, &scaled(&dy), 1e-6, 0.0);
            let mut expected = vec![0.0; scale.len()];
            for i in 0..n {
                expected[i / (rows * channels) * channels + i % channels] +=
                    f64::from(dy[i]) * f64::from(x[i]);
            }
            assert_close("dscale", &dscale, &expected, 2e-6, 2e-5);
        }
    });
}
