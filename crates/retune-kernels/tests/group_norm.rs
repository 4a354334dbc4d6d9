//! Group normalization against its definition.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;
use retune_testing::reference::normalization;

fn check(cpu: &Cpu, batch: usize, rows: usize, groups: usize, group_channels: usize, offset: f32) {
    let channels = groups * group_channels;
    let elements = batch * rows * channels;
    let x: Vec<f32> = draw("x", elements).into_iter().map(|value| value + offset).collect();
    let (dy, weight, bias) = (draw("dy", elements), draw("weight", channels), draw("bias", channels));
    let norm = GroupNorm { batch, rows, channels, groups, weight: &weight, bias: &bias, eps: 1e-5 };
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut y, mut mean, mut rstd) = (nan(elements), nan(batch * groups), nan(batch * groups));
    group_norm_forward(cpu, &norm, &x, &mut y, Some(&mut mean), Some(&mut rstd));
    let (mut dx, mut dweight, mut dbias) = (nan(elements), vec![1.0; channels], vec![2.0; channels]);
    let grad = GroupNormGrad { dx: Some(&mut dx), dweight: Some(&mut dweight), dbias: Some(&mut dbias) };
    group_norm_backward(cpu, &norm, &x, &mean, &rstd, &dy, grad);

    let definition =
        normalization::GroupNorm { batch, groups, weight: widen(&weight), bias: widen(&bias), eps: 1e-5 };
    let (expected_y, statistics) = definition.forward(&widen(&x));
    let [expected_dx, expected_dweight, expected_dbias] = definition.backward(&widen(&x), &widen(&dy));
    let what = |name: &str| format!("{name} of {batch}x{rows}x{channels} in {groups} on {}", cpu.isa());
    // The error of a normalized value grows with how far its group lies from zero in its own deviations.
    let greatest = statistics.iter().fold(1.0f64, |most, [_, rstd]| most.max(*rstd));
    let absolute = 2e-6 * (1.0 + greatest * (1.0 + f64::from(offset.abs())));
    let [means, rstds] = [0, 1].map(|i| statistics.iter().map(|pair| pair[i]).collect::<Vec<_>>());
    assert_close(&what("mean"), &mean, &means, 1e-5, 1e-6);
    assert_close(&what("rstd"), &rstd, &rstds, 1e-4, absolute);
    assert_close(&what("y"), &y, &expected_y, 1e-5, 3.0 * absolute);
    assert_close(&what("dx"), &dx, &expected_dx, 1e-4, 10.0 * absolute * greatest);
    let terms = (batch * rows) as f64;
    let sum: Vec<f64> = expected_dweight.iter().map(|value| value + 1.0).collect();
    assert_close(&what("dweight"), &dweight, &sum, 1e-4, 5.0 * absolute * terms.sqrt().max(1.0));
    let sum: Vec<f64> = expected_dbias.iter().map(|value| value + 2.0).collect();
    assert_close(&what("dbias"), &dbias, &sum, 1e-5, 1e-5 * terms.sqrt().max(1.0));
}

#[test]
fn images_of_every_kind_match_the_definition() {
    on_every_path(|cpu| {
        for (batch, rows, groups, group_channels) in
            [(1, 1, 1, 1), (2, 3, 1, 5), (3, 4, 5, 1), (2, 65, 2, 9), (0, 4, 2, 2), (1, 2, 4, 8)]
        {
            check(cpu, batch, rows, groups, group_channels, 0.0);
        }
        if !cfg!(miri) {
            check(cpu, 2, 56 * 56, 32, 2, 0.0);
            check(cpu, 3, 14 * 14, 32, 8, 0.0);
            // Far from zero the variance must not cancel.
            check(cpu, 2, 196, 4, 4, 100.0);
        }
    });
}

#[test]
fn an_image_is_normalized_alike_alone_and_in_a_batch() {
    let (batch, rows, channels, groups) = (3, 20, 12, 4);
    let (x, weight, bias) = (draw("x", batch * rows * channels), draw("w", channels), draw("b", channels));
    on_every_path(|cpu| {
        let normalize = |batch, x: &[f32]| {
            let norm = GroupNorm { batch, rows, channels, groups, weight: &weight, bias: &bias, eps: 1e-5 };
            let mut y = vec![f32::NAN; x.len()];
            group_norm_forward(cpu, &norm, x, &mut y, None, None);
            y
        };
        let together = normalize(batch, &x);
        for image in 0..batch {
            let own = image * rows * channels..(image + 1) * rows * channels;
            assert_same_bits("image", &together[own.clone()], &normalize(1, &x[own]));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 40 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_of_any_size_match_the_definition(batch in 0usize..4, rows in 2usize..150, groups in 1usize..9, group_channels in 1usize..20) {
        let (rows, group_channels) = if cfg!(miri) { (rows % 5 + 2, group_channels % 3 + 1) } else { (rows, group_channels) };
        on_every_path(|cpu| check(cpu, batch, rows, groups, group_channels, 0.0));
    }
}
