//! Layer and root-mean-square normalization against their definitions, with dropout and residual.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;
use retune_testing::reference::{dropout, normalization};

fn check(cpu: &Cpu, rows: usize, width: usize, with_dropout: bool, with_residual: bool, scale: f32) {
    let x = counter_normal_like("x", rows * width, scale);
    let (residual, dy) = (draw("residual", rows * width), draw("dy", rows * width));
    let (gamma, beta) = (draw("gamma", width), draw("beta", width));
    let keys = row_keys(rows);
    let drop = with_dropout.then_some(Dropout { probability: 0.3, key: [1, 2], rows: &keys });
    let input = LayerNormInput {
        x: &x,
        residual: with_residual.then_some(&residual[..]),
        dropout: drop,
        gamma: &gamma,
        beta: &beta,
        eps: 1e-5,
        width,
    };
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut y, mut sum, mut mean, mut rstd) = (nan(rows * width), nan(rows * width), nan(rows), nan(rows));
    layer_norm_forward(cpu, &input, &mut y, Some(&mut sum), Some(&mut mean), Some(&mut rstd));
    let (mut dx, mut dresidual) = (nan(rows * width), nan(rows * width));
    let (mut dgamma, mut dbeta) = (vec![1.0; width], vec![2.0; width]);
    let grad = LayerNormGrad {
        dx: Some(&mut dx),
        dresidual: Some(&mut dresidual),
        dgamma: Some(&mut dgamma),
        dbeta: Some(&mut dbeta),
    };
    layer_norm_backward(cpu, width, &dy, &sum, &mean, &rstd, &gamma, drop.as_ref(), grad);

    let (gamma, beta) = (widen(&gamma), widen(&beta));
    let (mut all_dgamma, mut all_dbeta) = (vec![1.0; width], vec![2.0; width]);
    for row in 0..rows {
        let at = row * width..(row + 1) * width;
        let RowKey { sample, position } = keys[row];
        let factors: Vec<f64> = (0..width)
            .map(|j| if with_dropout { dropout::factor(0.3, [1, 2], sample, position, 0, j) } else { 1.0 })
            .collect();
        let s: Vec<f64> = (0..width)
            .map(|j| {
                let residual = if with_residual { f64::from(residual[at.start + j]) } else { 0.0 };
                f64::from(x[at.start + j]) * factors[j] + residual
            })
            .collect();
        let (y_row, mean_row, rstd_row) = normalization::layer_norm(&s, &gamma, &beta, 1e-5);
        // The error of a normalized value grows with how far the row lies from zero in its own deviations.
        let far = 1.0 + rstd_row * (mean_row.abs() + 1.0);
        let absolute = 2e-6 * far;
        assert_close("sum", &sum[at.clone()], &s, 1e-6, 1e-6);
        assert_close("y", &y[at.clone()], &y_row, 1e-5, absolute);
        assert_close("mean", &mean[row..=row], &[mean_row], 1e-5, 1e-6);
        assert_close("rstd", &rstd[row..=row], &[rstd_row], 1e-5, absolute);
        let (ds, g, b) =
            normalization::layer_norm_backward(&s, &widen(&dy[at.clone()]), &gamma, mean_row, rstd_row);
        assert_close("dresidual", &dresidual[at.clone()], &ds, 1e-4, 1e-5 * rstd_row * far);
        let masked: Vec<f64> = ds.iter().zip(&factors).map(|(d, f)| d * f).collect();
        assert_close("dx", &dx[at], &masked, 1e-4, 1e-5 * rstd_row * far);
        for j in 0..width {
            all_dgamma[j] += g[j];
            all_dbeta[j] += b[j];
        }
    }
    assert_close("dgamma", &dgamma, &all_dgamma, 1e-4, 1e-5 * rows as f64);
    assert_close("dbeta", &dbeta, &all_dbeta, 1e-5, 1e-5);
}

#[test]
fn rows_of_every_kind_of_width_match_the_definition() {
    on_every_path(|cpu| {
        for width in [1, 2, 7, 8, 9, 16, 31, if cfg!(miri) { 17 } else { 768 }] {
            for (with_dropout, with_residual) in [(false, false), (false, true), (true, false), (true, true)]
            {
                check(cpu, 5, width, with_dropout, with_residual, 1.0);
            }
        }
        check(cpu, 0, 8, true, true, 1.0);
        if !cfg!(miri) {
            check(cpu, 1, 20_011, true, true, 3.0);
            check(cpu, 131, 384, true, true, 1.0);
        }
    });
}

fn check_rms(cpu: &Cpu, rows: usize, width: usize, with_dropout: bool, with_residual: bool, scale: f32) {
    let x = counter_normal_like("x", rows * width, scale);
    let (residual, dy, gamma) =
        (draw("residual", rows * width), draw("dy", rows * width), draw("gamma", width));
    let keys = row_keys(rows);
    let drop = with_dropout.then_some(Dropout { probability: 0.3, key: [1, 2], rows: &keys });
    let input = RmsNormInput {
        x: &x,
        residual: with_residual.then_some(&residual[..]),
        dropout: drop,
        gamma: &gamma,
        eps: 1e-5,
        width,
    };
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut y, mut sum, mut rrms) = (nan(rows * width), nan(rows * width), nan(rows));
    rms_norm_forward(cpu, &input, &mut y, Some(&mut sum), Some(&mut rrms));
    let (mut dx, mut dresidual, mut dgamma) = (nan(rows * width), nan(rows * width), vec![1.0; width]);
    let grad = RmsNormGrad { dx: Some(&mut dx), dresidual: Some(&mut dresidual), dgamma: Some(&mut dgamma) };
    rms_norm_backward(cpu, width, &dy, &sum, &rrms, &gamma, drop.as_ref(), grad);

    let gamma = widen(&gamma);
    let mut all_dgamma = vec![1.0; width];
    for row in 0..rows {
        let at = row * width..(row + 1) * width;
        let RowKey { sample, position } = keys[row];
        let factors: Vec<f64> = (0..width)
            .map(|j| if with_dropout { dropout::factor(0.3, [1, 2], sample, position, 0, j) } else { 1.0 })
            .collect();
        let s: Vec<f64> = (0..width)
            .map(|j| {
                let residual = if with_residual { f64::from(residual[at.start + j]) } else { 0.0 };
                f64::from(x[at.start + j]) * factors[j] + residual
            })
            .collect();
        let (y_row, rrms_row) = normalization::rms_norm(&s, &gamma, 1e-5);
        assert_close("sum", &sum[at.clone()], &s, 1e-6, 1e-6);
        assert_close("y", &y[at.clone()], &y_row, 1e-5, 2e-6);
        assert_close("rrms", &rrms[row..=row], &[rrms_row], 1e-5, 1e-6);
        let (ds, g) = normalization::rms_norm_backward(&s, &widen(&dy[at.clone()]), &gamma, rrms_row);
        assert_close("dresidual", &dresidual[at.clone()], &ds, 1e-4, 1e-5 * rrms_row.max(1.0));
        let masked: Vec<f64> = ds.iter().zip(&factors).map(|(d, f)| d * f).collect();
        assert_close("dx", &dx[at], &masked, 1e-4, 1e-5 * rrms_row.max(1.0));
        all_dgamma.iter_mut().zip(g).for_each(|(all, g)| *all += g);
    }
    assert_close("dgamma", &dgamma, &all_dgamma, 1e-4, 1e-5 * rows as f64);
}

#[test]
fn rows_of_every_kind_of_width_match_the_definition_by_root_mean_square() {
    on_every_path(|cpu| {
        for width in [1, 2, 7, 8, 9, 16, 31, if cfg!(miri) { 17 } else { 768 }] {
            for (with_dropout, with_residual) in [(false, false), (false, true), (true, false), (true, true)]
            {
                check_rms(cpu, 5, width, with_dropout, with_residual, 1.0);
            }
        }
        check_rms(cpu, 0, 8, true, true, 1.0);
        if !cfg!(miri) {
            check_rms(cpu, 1, 20_011, true, true, 3.0);
            check_rms(cpu, 131, 384, true, true, 1.0);
        }
    });
}

#[test]
fn a_row_of_zeros_has_no_direction_and_stays_finite() {
    on_every_path(|cpu| {
        let input = RmsNormInput {
            x: &[0.0; 12],
            residual: None,
            dropout: None,
            gamma: &[2.0; 12],
            eps: 1e-6,
            width: 12,
        };
        let mut y = [f32::NAN; 12];
        rms_norm_forward(cpu, &input, &mut y, None, None);
        assert_eq!(y, [0.0; 12]);
    });
}

#[test]
fn a_constant_row_stays_finite() {
    on_every_path(|cpu| {
        let (gamma, beta) = ([1.0; 24], [0.5; 24]);
        let input = LayerNormInput {
            x: &[3.0; 24],
            residual: None,
            dropout: None,
            gamma: &gamma,
            beta: &beta,
            eps: 1e-12,
            width: 24,
        };
        let mut y = [f32::NAN; 24];
        layer_norm_forward(cpu, &input, &mut y, None, None, None);
        assert_eq!(y, [0.5; 24]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 40 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_of_any_width_match_the_definition(rows in 0usize..70, width in 2usize..150, with_dropout: bool, with_residual: bool) {
        let (rows, width) = if cfg!(miri) { (rows % 3, width % 20 + 2) } else { (rows, width) };
        on_every_path(|cpu| check(cpu, rows, width, with_dropout, with_residual, 1.0));
        on_every_path(|cpu| check_rms(cpu, rows, width, with_dropout, with_residual, 1.0));
    }
}
