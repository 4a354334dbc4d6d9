//! Every operation's forward against its definition in f64, and its gradients against finite differences of that
//! definition, for every choice of inputs that need one.

mod common;

use std::sync::Arc;

use common::Input::{Matrix, Value, Vector};
use common::check;
use retune_autograd::Pooling;
use retune_tensor::ops::AttentionShape;
use retune_tensor::{Activation, DropoutSpec, RowKey};
use retune_testing::reference::{activation, attention, dropout, matrix, normalization};

/// A value and its derivative.
type Definition = fn(f64) -> [f64; 2];

const ACTIVATIONS: &[(Activation, Definition)] = &[
    (Activation::Identity, |x| [x, 1.0]),
    (Activation::GeluErf, activation::gelu_erf),
    (Activation::GeluTanh, activation::gelu_tanh),
    (Activation::Relu, activation::relu),
    (Activation::Silu, activation::silu),
    (Activation::Tanh, activation::tanh),
];

/// `x·wᵀ + bias` for `x` [rows, inputs] and `w` [outputs, inputs].
fn affine(x: &[f64], w: &[f64], bias: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut y = matrix::product([rows, outputs, inputs], |i, p| x[i * inputs + p], |p, j| w[j * inputs + p]);
    if let Some(bias) = bias {
        y.iter_mut().enumerate().for_each(|(index, y)| *y += bias[index % outputs]);
    }
    y
}

/// Rows of three samples, of lengths that no vector width divides.
fn row_keys(rows: usize) -> Arc<Vec<RowKey>> {
    let key = |row: usize| RowKey { sample: (row / 3) as u32, position: (row % 3) as u32 };
    Arc::new((0..rows).map(key).collect())
}

fn dropout_spec(rows: usize) -> DropoutSpec {
    DropoutSpec { probability: 0.3, key: [11, 12], rows: row_keys(rows) }
}

/// `x` [rows, width] with the mask of [`dropout_spec`].
fn dropped(x: &[f64], width: usize) -> Vec<f64> {
    let keys = row_keys(x.len() / width);
    x.iter()
        .enumerate()
        .map(|(index, x)| {
            let RowKey { sample, position } = keys[index / width];
            x * dropout::factor(f64::from(0.3_f32), [11, 12], sample, position, 0, index % width)
        })
        .collect()
}

#[test]
fn linear_has_the_gradients_of_its_definition() {
    for (activation, function) in ACTIVATIONS {
        check(
            &format!("linear with {activation:?}"),
            &[Value("x", [5, 7]), Matrix("w", [6, 7]), Vector("b", 6)],
            |tape, v| tape.linear(&v[0], &v[1], Some(&v[2]), *activation),
            |v| affine(&v[0], &v[1], Some(&v[2]), 7).into_iter().map(|x| function(x)[0]).collect(),
        );
    }
    check(
        "linear without bias",
        &[Value("x", [1, 9]), Matrix("w", [3, 9])],
        |tape, v| tape.linear(&v[0], &v[1], None, Activation::GeluErf),
        |v| affine(&v[0], &v[1], None, 9).into_iter().map(|x| activation::gelu_erf(x)[0]).collect(),
    );
}

#[test]
fn feed_forward_has_the_gradients_of_its_definition() {
    for (activation, function) in &ACTIVATIONS[1..] {
        check(
            &format!("feed_forward with {activation:?}"),
            &[
                Value("x", [4, 5]),
                Matrix("w1", [9, 5]),
                Vector("b1", 9),
                Matrix("w2", [5, 9]),
                Vector("b2", 5),
            ],
            |tape, v| tape.feed_forward(&v[0], (&v[1], &v[2]), *activation, (&v[3], &v[4])),
            |v| {
                let hidden = affine(&v[0], &v[1], Some(&v[2]), 5);
                let hidden: Vec<f64> = hidden.into_iter().map(|x| function(x)[0]).collect();
                affine(&hidden, &v[3], Some(&v[4]), 9)
            },
        );
    }
}

#[test]
fn low_rank_add_has_the_gradients_of_its_definition() {
    for with_dropout in [false, true] {
        check(
            &format!("low_rank_add, dropout {with_dropout}"),
            &[Value("base", [7, 6]), Value("x", [7, 10]), Matrix("a", [2, 10]), Matrix("b", [6, 2])],
            |tape, v| {
                let spec = with_dropout.then(|| dropout_spec(7));
                tape.low_rank_add(v[0].clone(), &v[1], &v[2], &v[3], 0.75, spec)
            },
            |v| {
                let x = if with_dropout { dropped(&v[1], 10) } else { v[1].clone() };
                let branch = affine(&affine(&x, &v[2], None, 10), &v[3], None, 2);
                v[0].iter().zip(branch).map(|(base, branch)| base + 0.75 * branch).collect()
            },
        );
    }
}

#[test]
fn layer_norm_has_the_gradients_of_its_definition() {
    for with_residual in [false, true] {
        for with_dropout in [false, true] {
            let mut inputs = vec![Value("x", [5, 11]), Vector("gamma", 11), Vector("beta", 11)];
            inputs.extend(with_residual.then_some(Value("residual", [5, 11])));
            check(
                &format!("layer_norm, residual {with_residual}, dropout {with_dropout}"),
                &inputs,
                |tape, v| {
                    let spec = with_dropout.then(|| dropout_spec(5));
                    tape.layer_norm(&v[0], v.get(3), spec, &v[1], &v[2], 1e-5)
                },
                |v| {
                    let mut sum = if with_dropout { dropped(&v[0], 11) } else { v[0].clone() };
                    if let Some(residual) = v.get(3) {
                        sum.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual);
                    }
                    sum.chunks(11)
                        .flat_map(|row| normalization::layer_norm(row, &v[1], &v[2], f64::from(1e-5_f32)).0)
                        .collect()
                },
            );
        }
    }
}

#[test]
fn rms_norm_has_the_gradients_of_its_definition() {
    let definition = |sum: &[f64], gamma: &[f64]| -> Vec<f64> {
        sum.chunks_exact(7).flat_map(|row| normalization::rms_norm(row, gamma, 1e-3).0).collect()
    };
    for with_dropout in [false, true] {
        let spec = || with_dropout.then(|| dropout_spec(4));
        let masked = move |x: &[f64]| if with_dropout { dropped(x, 7) } else { x.to_vec() };
        check(
            &format!("rms_norm, dropout {with_dropout}"),
            &[Value("x", [4, 7]), Vector("gamma", 7)],
            |tape, v| tape.rms_norm(&v[0], None, spec(), &v[1], 1e-3),
            |v| definition(&masked(&v[0]), &v[1]),
        );
        check(
            &format!("rms_norm with residual, dropout {with_dropout}"),
            &[Value("x", [4, 7]), Value("residual", [4, 7]), Vector("gamma", 7)],
            |tape, v| tape.rms_norm(&v[0], Some(&v[1]), spec(), &v[2], 1e-3),
            |v| {
                let sum: Vec<f64> = masked(&v[0]).iter().zip(&v[1]).map(|(x, r)| x + r).collect();
                definition(&sum, &v[2])
            },
        );
    }
}

fn offsets(lengths: &[usize]) -> Arc<Vec<u32>> {
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as u32;
        Some(*end)
    });
    Arc::new([0].into_iter().chain(ends).collect())
}

/// Multi-head attention over packed sequences, head by head and sequence by sequence.
fn attention_definition(
    shape: &AttentionShape,
    width: usize,
    v: &[Vec<f64>],
    with_dropout: bool,
) -> Vec<f64> {
    let dim = width / shape.heads;
    let mut out = vec![0.0; v[0].len()];
    let keys_of_rows = row_keys(v[0].len() / width);
    let spans = |offsets: &[u32]| -> Vec<(usize, usize)> {
        offsets.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize)).collect()
    };
    for (queries, keys) in spans(&shape.query_offsets).into_iter().zip(spans(&shape.key_offsets)) {
        for head in 0..shape.heads {
            let cut = |data: &[f64], (start, end): (usize, usize)| -> Vec<f64> {
                (start..end).flat_map(|row| data[row * width + head * dim..][..dim].to_vec()).collect()
            };
            let factor = |row: usize, column: usize| {
                let RowKey { sample, position } = keys_of_rows[row];
                dropout::factor(f64::from(0.3_f32), [11, 12], sample, position, head as u32, column)
            };
            let pairs =
                (queries.0..queries.1).flat_map(|row| (0..keys.1 - keys.0).map(move |column| (row, column)));
            let factors =
                pairs.map(|(row, column)| if with_dropout { factor(row, column) } else { 1.0 }).collect();
            let one = attention::Head {
                dim,
                scale: f64::from(shape.scale),
                causal: shape.causal,
                q: cut(&v[0], queries),
                k: cut(&v[1], keys),
                v: cut(&v[2], keys),
                factors,
            };
            for (row, values) in one.forward().0.chunks(dim).enumerate() {
                out[(queries.0 + row) * width + head * dim..][..dim].copy_from_slice(values);
            }
        }
    }
    out
}

#[track_caller]
fn check_attention(query_lengths: &[usize], key_lengths: &[usize], causal: bool, with_dropout: bool) {
    const WIDTH: usize = 6;
    let shape = AttentionShape {
        heads: 2,
        scale: 0.5,
        causal,
        query_offsets: offsets(query_lengths),
        key_offsets: offsets(key_lengths),
    };
    let (queries, keys) = (query_lengths.iter().sum(), key_lengths.iter().sum());
    let inputs = [Value("q", [queries, WIDTH]), Value("k", [keys, WIDTH]), Value("v", [keys, WIDTH])];
    check(
        &format!("attention {query_lengths:?} over {key_lengths:?}, causal {causal}, dropout {with_dropout}"),
        &inputs,
        |tape, v| {
            let spec = with_dropout.then(|| dropout_spec(queries));
            tape.attention(&shape, &v[0], &v[1], &v[2], spec)
        },
        |v| attention_definition(&shape, WIDTH, v, with_dropout),
    );
}

#[test]
fn attention_has_the_gradients_of_its_definition() {
    for with_dropout in [false, true] {
        for causal in [false, true] {
            check_attention(&[3, 1, 9], &[3, 1, 9], causal, with_dropout);
        }
        // The last block of a classifier asks for the first token only.
        check_attention(&[1, 1, 1], &[4, 1, 11], false, with_dropout);
        check_attention(&[2, 3], &[5, 3], true, with_dropout);
    }
}

#[test]
fn embedding_has_the_gradients_of_its_definition() {
    let (words, types) = (Arc::new(vec![2, 0, 2, 4, 2]), Arc::new(vec![0, 0, 1, 1, 0]));
    check(
        "embedding",
        &[Matrix("words", [5, 3]), Matrix("types", [2, 3])],
        |tape, v| tape.embedding(&[(&v[0], Arc::clone(&words)), (&v[1], Arc::clone(&types))]),
        |v| {
            let row = |table: &[f64], row: u32| table[row as usize * 3..][..3].to_vec();
            let pairs = words.iter().zip(types.iter());
            pairs
                .flat_map(|(&word, &kind)| {
                    let sum = row(&v[0], word).into_iter().zip(row(&v[1], kind)).map(|(a, b)| a + b);
                    sum.collect::<Vec<f64>>()
                })
                .collect()
        },
    );
}

#[test]
fn gathering_pooling_dropout_and_activation_have_the_gradients_of_their_definitions() {
    let x = [Value("x", [6, 5])];
    let rows = Arc::new(vec![4, 0, 4, 5]);
    check(
        "gather_rows",
        &x,
        |tape, v| tape.gather_rows(&v[0], Arc::clone(&rows)),
        |v| rows.iter().flat_map(|&row| v[0][row as usize * 5..][..5].to_vec()).collect(),
    );
    check("view", &x, |tape, v| tape.view(&v[0], [10, 3]), |v| v[0].clone());
    let sequences = offsets(&[1, 3, 2]);
    check(
        "mean pooling",
        &x,
        |tape, v| tape.pool(&v[0], &sequences, Pooling::Mean),
        |v| {
            let mean = |start: usize, end: usize, column: usize| {
                (start..end).map(|row| v[0][row * 5 + column]).sum::<f64>() / (end - start) as f64
            };
            let spans = [(0, 1), (1, 4), (4, 6)];
            spans
                .iter()
                .flat_map(|&(start, end)| (0..5).map(move |column| mean(start, end, column)))
                .collect()
        },
    );
    check(
        "first of each",
        &x,
        |tape, v| tape.pool(&v[0], &sequences, Pooling::First),
        |v| [0, 1, 4].iter().flat_map(|&row| v[0][row * 5..][..5].to_vec()).collect(),
    );
    check("dropout", &x, |tape, v| tape.dropout(&v[0], Some(dropout_spec(6))), |v| dropped(&v[0], 5));
    for (activation, function) in &ACTIVATIONS[1..] {
        check(
            &format!("{activation:?}"),
            &x,
            |tape, v| tape.activation(&v[0], *activation),
            |v| v[0].iter().map(|&x| function(x)[0]).collect(),
        );
    }
}

#[test]
fn a_value_that_is_used_twice_gets_the_sum_of_both_gradients() {
    check(
        "x·wᵀ behind a norm with x itself as residual, through one w twice",
        &[Value("x", [4, 6]), Matrix("w", [6, 6]), Vector("gamma", 6), Vector("beta", 6)],
        |tape, v| {
            let once = tape.linear(&v[0], &v[1], None, Activation::Tanh);
            let normed = tape.layer_norm(&once, Some(&v[0]), None, &v[2], &v[3], 1e-5);
            let twice = tape.linear(&normed, &v[1], None, Activation::Identity);
            tape.layer_norm(&twice, Some(&normed), None, &v[2], &v[3], 1e-5)
        },
        |v| {
            let norm = |x: &[f64], residual: &[f64]| -> Vec<f64> {
                let sum: Vec<f64> = x.iter().zip(residual).map(|(x, residual)| x + residual).collect();
                let eps = f64::from(1e-5_f32);
                sum.chunks(6).flat_map(|row| normalization::layer_norm(row, &v[2], &v[3], eps).0).collect()
            };
            let once: Vec<f64> = affine(&v[0], &v[1], None, 6).into_iter().map(f64::tanh).collect();
            let normed = norm(&once, &v[0]);
            norm(&affine(&normed, &v[1], None, 6), &normed)
        },
    );
}
