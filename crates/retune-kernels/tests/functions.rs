//! Activations, softmax, dropout and Philox against their definitions.

mod common;

use common::*;
use retune_kernels::*;
use retune_testing::reference::{activation, dropout as dropout_reference, matrix};

fn reference(act: Activation, x: f64) -> [f64; 2] {
    match act {
        Activation::GeluErf => activation::gelu_erf(x),
        Activation::GeluTanh => activation::gelu_tanh(x),
        Activation::Relu => activation::relu(x),
        Activation::Silu => activation::silu(x),
        Activation::Tanh => activation::tanh(x),
        Activation::Relu6 => activation::relu6(x),
        Activation::Sigmoid => activation::sigmoid(x),
        Activation::Hardswish => activation::hardswish(x),
        Activation::Hardsigmoid => activation::hardsigmoid(x),
        _ => [x, 1.0],
    }
}

#[test]
fn activations_are_within_their_error_bounds_everywhere() {
    let step = if cfg!(miri) { 1000 } else { 1 };
    let mut x: Vec<f32> = (-40_000..40_000).step_by(step).map(|i| i as f32 * 5e-4).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-6, 88.0, -88.0, 100.0, -100.0, 1e4, -1e4]);
    on_every_path(|cpu| {
        for act in ACTIVATIONS {
            let expected: Vec<[f64; 2]> = x.iter().map(|&x| reference(act, f64::from(x))).collect();
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            activation_forward(cpu, act, &x, &mut y);
            activation_backward(cpu, act, &x, &vec![1.0; x.len()], &mut dx);
            let (values, slopes): (Vec<f64>, Vec<f64>) = expected.iter().map(|e| (e[0], e[1])).unzip();
            assert_close(&format!("{act:?}"), &y, &values, 4e-7, 2e-7);
            assert_close(&format!("{act:?}'s derivative"), &dx, &slopes, 4e-7, 6e-7);
        }
    });
}

#[test]
fn activations_pass_nan_on() {
    on_every_path(|cpu| {
        for act in ACTIVATIONS {
            let mut y = [0.0];
            activation_forward(cpu, act, &[f32::NAN], &mut y);
            assert!(y[0].is_nan(), "{act:?} on {}", cpu.isa());
        }
    });
}

#[test]
fn bias_gradients_are_column_sums() {
    on_every_path(|cpu| {
        for (rows, width) in [(1, 1), (3, 7), (65, 33), (if cfg!(miri) { 2 } else { 200 }, 300)] {
            let (pre, dy) = (draw("pre", rows * width), draw("dy", rows * width));
            let mut bias = vec![1.0; width];
            activation_backward_bias(cpu, Activation::Identity, width, None, &dy, None, Some(&mut bias));
            let sum =
                |j: usize, f: &dyn Fn(usize) -> f64| (0..rows).map(|r| f(r * width + j)).sum::<f64>() + 1.0;
            let expected: Vec<f64> = (0..width).map(|j| sum(j, &|i| f64::from(dy[i]))).collect();
            assert_close("identity", &bias, &expected, 1e-6, 1e-5);
            let (mut dx, mut bias) = (vec![f32::NAN; dy.len()], vec![1.0; width]);
            activation_backward_bias(
                cpu,
                Activation::GeluErf,
                width,
                Some(&pre),
                &dy,
                Some(&mut dx),
                Some(&mut bias),
            );
            let slope = |i: usize| f64::from(dy[i]) * activation::gelu_erf(f64::from(pre[i]))[1];
            assert_close("dx", &dx, &(0..dy.len()).map(slope).collect::<Vec<_>>(), 1e-6, 1e-6);
            assert_close("bias", &bias, &(0..width).map(|j| sum(j, &slope)).collect::<Vec<_>>(), 1e-6, 1e-5);
        }
    });
}

#[test]
fn softmax_matches_its_definition_even_where_exponentials_overflow() {
    on_every_path(|cpu| {
        for (width, scale) in
            [(1, 1.0), (2, 1.0), (8, 100.0), (13, 1000.0), (if cfg!(miri) { 9 } else { 1031 }, 5.0)]
        {
            let x = counter_normal_like("softmax", 5 * width, scale);
            let mut y = vec![f32::NAN; x.len()];
            softmax(cpu, width, &x, &mut y);
            let expected: Vec<f64> = widen(&x).chunks(width).flat_map(matrix::softmax).collect();
            assert_close("softmax", &y, &expected, 3e-6, 1e-34);
        }
    });
}

#[test]
fn philox_gives_the_papers_test_vectors() {
    // Random123's known answers for philox4x32 with seven rounds.
    assert_eq!(philox4x32([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
    assert_eq!(
        philox4x32([u32::MAX; 4], [u32::MAX; 2]),
        [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]
    );
    assert_eq!(philox4x32([1, 2, 3, 4], [5, 6]), dropout_reference::philox([1, 2, 3, 4], [5, 6]));
}

#[test]
fn dropout_is_exactly_its_definition() {
    on_every_path(|cpu| {
        for width in [1, 7, 8, 64, 129, 200] {
            for probability in [0.0, 0.1, 0.5, 0.9] {
                let rows = [RowKey { sample: 3, position: 0 }, RowKey { sample: 9, position: 77 }];
                let x = draw("x", 2 * width);
                let mut y = vec![f32::NAN; x.len()];
                dropout(cpu, &Dropout { probability, key: [5, 8], rows: &rows }, width, &x, &mut y);
                let expected: Vec<f64> = (0..2 * width)
                    .map(|i| {
                        let RowKey { sample, position } = rows[i / width];
                        let p = f64::from(probability);
                        f64::from(x[i]) * dropout_reference::factor(p, [5, 8], sample, position, 0, i % width)
                    })
                    .collect();
                assert_close("dropout", &y, &expected, 2e-7, 0.0);
            }
        }
    });
}

#[test]
fn dropout_of_everything_leaves_zeros() {
    on_every_path(|cpu| {
        let mut y = [f32::NAN; 10];
        let rows = [RowKey { sample: 0, position: 0 }];
        dropout(cpu, &Dropout { probability: 1.0, key: [1, 2], rows: &rows }, 10, &[1.0; 10], &mut y);
        assert_eq!(y, [0.0; 10]);
    });
}

#[test]
#[cfg(not(miri))]
fn dropout_drops_its_share() {
    let cpu = Cpu::new(threads(), fastest_path()).unwrap();
    let rows = row_keys(1000);
    let mut y = vec![0.0; 1000 * 768];
    dropout(&cpu, &Dropout { probability: 0.1, key: [1, 2], rows: &rows }, 768, &vec![1.0; y.len()], &mut y);
    let dropped = y.iter().filter(|&&v| v == 0.0).count() as f64 / y.len() as f64;
    // Four standard deviations of a share of 0.1 among 768,000.
    assert!((dropped - 0.1).abs() < 0.0014, "{dropped}");
}
