//! Packed attention against one head of one sequence in f64.

mod common;

use common::*;
use proptest::prelude::*;
use retune_kernels::*;
use retune_testing::reference::{attention::Head, dropout};

struct Case {
    precision: Precision,
    heads: usize,
    dim: usize,
    queries: Vec<usize>,
    keys: Vec<usize>,
    causal: bool,
    with_dropout: bool,
}

fn check(cpu: &Cpu, case: &Case) {
    let &Case { heads, dim, causal, with_dropout, .. } = case;
    let width = heads * dim;
    // Strides wider than the rows, as in a fused projection.
    let (q_stride, k_stride, v_stride) = (width + 3, 2 * width, width + 8);
    let (query_offsets, key_offsets) = (offsets(&case.queries), offsets(&case.keys));
    let (query_rows, key_rows) = (case.queries.iter().sum::<usize>(), case.keys.iter().sum::<usize>());
    let precision = case.precision;
    let draw_operand = |name: &str, n: usize| draw_in(precision, name, n);
    let q = draw_operand("q", query_rows * q_stride);
    let (k, v) = (draw_operand("k", key_rows * k_stride), draw_operand("v", key_rows * v_stride));
    let dout = draw_operand("dout", query_rows * width);
    let stored = [&q, &k, &v].map(|operand| halves(operand));
    let operand = |i: usize| -> Matrix {
        if precision == Precision::Bf16 { Matrix::Bf16(&stored[i]) } else { Matrix::F32([&q, &k, &v][i]) }
    };
    let row_keys = row_keys(query_rows);
    let drop = with_dropout.then_some(Dropout { probability: 0.25, key: [3, 4], rows: &row_keys });
    let a = Attention {
        heads,
        head_dim: dim,
        scale: 0.6,
        causal,
        precision,
        q: operand(0),
        q_stride,
        k: operand(1),
        k_stride,
        v: operand(2),
        v_stride,
        query_offsets: &query_offsets,
        key_offsets: &key_offsets,
        dropout: drop,
    };
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut out, mut log_sum_exp) = (nan(query_rows * width), nan(query_rows * heads));
    attention_forward(cpu, &a, &mut out, Some(&mut log_sum_exp));
    let (mut dq, mut dk, mut dv) = (nan(query_rows * width), nan(key_rows * width), nan(key_rows * width));
    attention_backward(cpu, &a, (&out).into(), &log_sum_exp, &dout, &mut dq, &mut dk, &mut dv);

    for sequence in 0..case.queries.len() {
        let queries = query_offsets[sequence] as usize..query_offsets[sequence + 1] as usize;
        let keys = key_offsets[sequence] as usize..key_offsets[sequence + 1] as usize;
        for head in 0..heads {
            let cut = |data: &[f32], rows: &std::ops::Range<usize>, stride: usize| -> Vec<f32> {
                rows.clone().flat_map(|row| data[row * stride + head * dim..][..dim].to_vec()).collect()
            };
            let factors = queries
                .clone()
                .flat_map(|row| {
                    let RowKey { sample, position } = row_keys[row];
                    (0..keys.len()).map(move |column| match with_dropout {
                        true => dropout::factor(0.25, [3, 4], sample, position, head as u32, column),
                        false => 1.0,
                    })
                })
                .collect();
            let reference = Head {
                dim,
                scale: f64::from(0.6f32),
                causal,
                q: widen(&cut(&q, &queries, q_stride)),
                k: widen(&cut(&k, &keys, k_stride)),
                v: widen(&cut(&v, &keys, v_stride)),
                factors,
            };
            let (expected, expected_lse) = reference.forward();
            let gradient = reference.backward(&widen(&cut(&dout, &queries, width)));
            let lse: Vec<f32> = queries.clone().map(|row| log_sum_exp[row * heads + head]).collect();
            // In bf16 the operands are exact here, but probabilities and the scores' gradients are rounded to eight bits:
            // each by at most a 2⁻⁹ part of itself.
            let rounding = if precision == Precision::Bf16 { 1.0 / 512.0 } else { 0.0 };
            let magnitude = |values: &[f64]| values.iter().fold(0.0f64, |greatest, v| greatest.max(v.abs()));
            let close =
                |name: &str, actual: &[f32], expected: &[f64], relative: f64, absolute: f64, terms: usize| {
                    let sum_of_roundings =
                        rounding * (2.0 + (terms as f64).sqrt()) * magnitude(expected).max(1.0);
                    assert_close(name, actual, expected, relative, absolute + sum_of_roundings);
                };
            assert_close("log-sum-exp", &lse, &expected_lse, 2e-6, 2e-6);
            close("out", &cut(&out, &queries, width), &expected, 1e-5, 3e-6, 1);
            close("dq", &cut(&dq, &queries, width), &gradient.dq, 1e-4, 1e-5, 1);
            close("dk", &cut(&dk, &keys, width), &gradient.dk, 1e-4, 2e-5, queries.len());
            close("dv", &cut(&dv, &keys, width), &gradient.dv, 1e-4, 1e-5, queries.len());
        }
    }
}

#[test]
fn sequences_of_every_kind_match_the_definition() {
    let case = |heads, dim, queries: &[usize], keys: &[usize], causal, with_dropout| Case {
        precision: Precision::F32,
        heads,
        dim,
        queries: queries.to_vec(),
        keys: keys.to_vec(),
        causal,
        with_dropout,
    };
    let mut cases = vec![
        case(1, 1, &[1], &[1], false, false),
        case(2, 4, &[3, 0, 5], &[3, 0, 5], false, true),
        case(2, 5, &[1, 1, 1], &[4, 17, 1], false, true),
        case(3, 8, &[6, 2], &[6, 9], true, true),
        case(1, 4, &[], &[], false, false),
        // Queries without keys, keys without queries, queries before the first key.
        case(1, 3, &[2, 0, 4], &[0, 3, 2], true, false),
    ];
    if !cfg!(miri) {
        cases.push(case(2, 32, &[128, 7], &[128, 7], false, true));
        cases.push(case(1, 64, &[300], &[300], true, true));
        cases.push(case(1, 20, &[37, 260], &[700, 33], false, false));
    }
    for precision in PRECISIONS {
        cases.iter_mut().for_each(|case| case.precision = precision);
        on_every_path(|cpu| cases.iter().for_each(|case| check(cpu, case)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 30 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_of_any_lengths_match_the_definition(
        heads in 1usize..4, dim in 1usize..20, lengths in proptest::collection::vec((0usize..24, 0usize..40), 0..4),
        causal: bool, with_dropout: bool, rounds: bool,
    ) {
        let (queries, keys) = lengths.iter().map(|&(q, k)| if cfg!(miri) { (q % 4, k % 5) } else { (q, k) }).unzip();
        let precision = PRECISIONS[usize::from(rounds)];
        let case = Case { precision, heads, dim, queries, keys, causal, with_dropout };
        on_every_path(|cpu| check(cpu, &case));
    }
}
