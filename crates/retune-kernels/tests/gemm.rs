//! Matrix products against their definition in f64.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;
use retune_testing::reference::{activation, matrix};

fn check(cpu: &Cpu, layout: Layout, shape: [usize; 3], accumulate: bool, with_epilogue: bool) {
    PRECISIONS.into_iter().for_each(|p| check_in(p, cpu, layout, shape, accumulate, with_epilogue));
}

fn check_in(
    precision: Precision,
    cpu: &Cpu,
    layout: Layout,
    [m, n, k]: [usize; 3],
    accumulate: bool,
    with_epilogue: bool,
) {
    let (a, b) = (draw_in(precision, "a", m * k), draw_in(precision, "b", n * k));
    let (before, bias) = (draw("c", m * n), draw("bias", n));
    let scale = 0.75;
    let activation = if with_epilogue { Activation::GeluErf } else { Activation::Identity };
    let g = Gemm {
        layout,
        m,
        n,
        k,
        precision,
        a: (&a).into(),
        b: (&b).into(),
        accumulate,
        scale,
        bias: with_epilogue.then_some(&bias),
        activation,
    };
    let mut c = if accumulate { before.clone() } else { vec![f32::NAN; m * n] };
    let mut pre = vec![f32::NAN; m * n];
    gemm(cpu, &g, &mut c, with_epilogue.then_some(&mut pre));

    let mut expected = matrix::product(
        [m, n, k],
        |i, p| f64::from(if layout == Layout::Tn { a[p * m + i] } else { a[i * k + p] }),
        |p, j| f64::from(if layout == Layout::Nt { b[j * k + p] } else { b[p * n + j] }),
    );
    for (i, value) in expected.iter_mut().enumerate() {
        *value *= f64::from(scale);
        *value += if accumulate { f64::from(before[i]) } else { 0.0 };
        *value += if with_epilogue { f64::from(bias[i % n]) } else { 0.0 };
    }
    let what = format!("{layout:?} {m}x{n}x{k} in {precision:?} on {}", cpu.isa());
    // Each of k additions rounds a sum that is of the order of the root of k.
    let tolerance = 1e-6 * (1.0 + k as f64).sqrt();
    if with_epilogue {
        assert_close(&format!("{what} before the activation"), &pre, &expected, 1e-6, tolerance);
        expected.iter_mut().for_each(|value| *value = activation::gelu_erf(*value)[0]);
    }
    assert_close(&what, &c, &expected, 1e-6, tolerance);
}

#[test]
fn products_of_awkward_shapes_match_their_definition() {
    let shapes: &[[usize; 3]] = if cfg!(miri) {
        &[[1, 1, 1], [7, 17, 9], [3, 0, 4], [13, 16, 0]]
    } else {
        &[
            [1, 1, 1],
            [0, 5, 3],
            [5, 0, 3],
            [5, 3, 0],
            [6, 16, 256],
            [7, 17, 257],
            [1, 300, 1030],
            [300, 1, 1030],
            [33, 32, 31],
            [32, 33, 65],
            [97, 193, 513],
            [13, 29, 4200],
            [101, 7, 64],
        ]
    };
    on_every_path(|cpu| {
        for &shape in shapes {
            for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
                for (accumulate, epilogue) in [(false, false), (true, false), (false, true), (true, true)] {
                    check(cpu, layout, shape, accumulate, epilogue);
                }
            }
        }
    });
}

#[test]
#[cfg(not(miri))]
fn products_larger_than_one_packing_match_their_definition() {
    let cpu = Cpu::new(threads(), fastest_path()).unwrap();
    check(&cpu, Layout::Nn, [4050, 20, 3], false, true);
    check(&cpu, Layout::Nt, [40, 4200, 5], true, true);
    check(&cpu, Layout::Tn, [40, 24, 5000], true, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 60 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_of_any_shape_match_their_definition(
        m in 0usize..80, n in 0usize..80, k in 0usize..300, layout in 0usize..3, accumulate: bool, epilogue: bool,
    ) {
        let shape = if cfg!(miri) { [m % 8, n % 18, k % 6] } else { [m, n, k] };
        let layout = [Layout::Nt, Layout::Nn, Layout::Tn][layout];
        on_every_path(|cpu| check(cpu, layout, shape, accumulate, epilogue));
    }
}
