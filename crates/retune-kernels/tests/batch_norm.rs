//! Batch normalization against its definition.

mod common;

use common::*;
use retune_kernels::*;
use retune_testing::reference::{activation, normalization};

fn function(act: Activation) -> fn(f64) -> [f64; 2] {
    match act {
        Activation::Relu => activation::relu,
        Activation::Relu6 => activation::relu6,
        Activation::Silu => activation::silu,
        Activation::Hardswish => activation::hardswish,
        _ => |x| [x, 1.0],
    }
}

fn shapes() -> Vec<[usize; 2]> {
    if cfg!(miri) {
        vec![[1, 1], [5, 9]]
    } else {
        vec![[1, 1], [2, 3], [7, 17], [300, 8], [1100, 64], [3000, 24], [40, 2048], [9, 1]]
    }
}

#[test]
fn statistics_match_their_definition_far_from_zero() {
    on_every_path(|cpu| {
        for [rows, channels] in shapes() {
            // Means of up to a hundred standard deviations.
            let mut x = draw("x", rows * channels);
            x.iter_mut().enumerate().for_each(|(i, x)| *x += (i % channels % 3) as f32 * 30.0);
            let (mut mean, mut variance) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
            batch_norm_statistics(cpu, &x, channels, &mut mean, &mut variance);
            let [expected_mean, expected_variance] = normalization::column_statistics(&widen(&x), channels);
            assert_close("mean", &mean, &expected_mean, 1e-6, 1e-6);
            assert_close("variance", &variance, &expected_variance, 2e-6, 1e-11);
        }
    });
}

#[test]
fn forward_and_backward_match_their_definition() {
    on_every_path(|cpu| {
        for [rows, channels] in shapes() {
            for act in [
                Activation::Identity,
                Activation::Relu,
                Activation::Relu6,
                Activation::Silu,
                Activation::Hardswish,
            ] {
                for with_residual in [false, true] {
                    for batch_statistics in [false, true] {
                        check(cpu, [rows, channels], act, with_residual, batch_statistics);
                    }
                }
            }
        }
    });
}

fn check(
    cpu: &Cpu,
    [rows, channels]: [usize; 2],
    activation: Activation,
    with_residual: bool,
    batch_statistics: bool,
) {
    let n = rows * channels;
    let (x, dy, residual) = (draw("x", n), draw("dy", n), draw("residual", n));
    let (weight, bias) = (draw("weight", channels), draw("bias", channels));
    let residual = with_residual.then_some(&residual[..]);
    let (mut mean, mut variance) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
    if batch_statistics {
        batch_norm_statistics(cpu, &x, channels, &mut mean, &mut variance);
    } else {
        mean = draw("mean", channels);
        variance = draw("variance", channels).iter().map(|v| v * v + 0.1).collect();
    }
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
    let what =
        format!("{rows}x{channels}, {activation:?}, residual {with_residual}, batch {batch_statistics}");
    let statistics = [&widen(&mean)[..], &widen(&variance)[..]];
    let (wide_x, wide_weight) = (widen(&x), widen(&weight));
    let mut before = normalization::batch_norm(&wide_x, statistics, &wide_weight, &widen(&bias), 1e-3);
    if let Some(residual) = residual {
        before.iter_mut().zip(residual).for_each(|(y, &r)| *y += f64::from(r));
    }
    let values: Vec<[f64; 2]> = before.iter().map(|&v| function(activation)(v)).collect();
    let mut y = vec![f32::NAN; n];
    batch_norm_forward(cpu, &norm, &x, residual, &mut y);
    let expected: Vec<f64> = values.iter().map(|v| v[0]).collect();
    assert_close(&what, &y, &expected, 2e-6, 4e-6);

    let gradient: Vec<f64> = values.iter().zip(&dy).map(|(v, &dy)| v[1] * f64::from(dy)).collect();
    let [dx, dweight, dbias] = normalization::batch_norm_backward(
        &wide_x,
        &gradient,
        statistics,
        &wide_weight,
        1e-3,
        batch_statistics,
    );
    let root = (rows as f64).sqrt();
    // All outputs together, and each asked for alone.
    for wanted in [
        [true; 4],
        [true, false, false, false],
        [false, false, true, false],
        [false, with_residual, false, true],
    ] {
        let (mut actual_dx, mut actual_dresidual) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        let (mut actual_dweight, mut actual_dbias) = (vec![1.0; channels], vec![2.0; channels]);
        batch_norm_backward(
            cpu,
            &norm,
            batch_statistics,
            &dy,
            &x,
            residual,
            wanted[0].then_some(&mut actual_dx),
            wanted[1].then_some(&mut actual_dresidual),
            wanted[2].then_some(&mut actual_dweight),
            wanted[3].then_some(&mut actual_dbias),
        );
        if wanted[0] {
            assert_close(&format!("dx {what}"), &actual_dx, &dx, 5e-6, 2e-5);
        }
        if wanted[1] {
            assert_close(&format!("dresidual {what}"), &actual_dresidual, &gradient, 5e-6, 5e-6);
        }
        if wanted[2] {
            let expected: Vec<f64> = dweight.iter().map(|d| d + 1.0).collect();
            assert_close(&format!("dweight {what}"), &actual_dweight, &expected, 2e-6, 2e-6 * root + 1e-6);
        }
        if wanted[3] {
            let expected: Vec<f64> = dbias.iter().map(|d| d + 2.0).collect();
            assert_close(&format!("dbias {what}"), &actual_dbias, &expected, 2e-6, 2e-6 * root + 1e-6);
        }
    }
}

#[test]
fn statistics_of_no_rows_are_zero() {
    on_every_path(|cpu| {
        let (mut mean, mut variance) = ([f32::NAN; 3], [f32::NAN; 3]);
        batch_norm_statistics(cpu, &[], 3, &mut mean, &mut variance);
        assert_eq!((mean, variance), ([0.0; 3], [0.0; 3]));
    });
}
