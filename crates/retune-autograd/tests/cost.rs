//! What a step costs: nothing below the first trainable parameter, and on `Meta` exactly what it costs on the CPU.

use std::sync::Arc;

use retune_autograd::{Gradients, Pooling, Tape, Var};
use retune_kernels::{Cpu, Isa};
use retune_tensor::ops::AttentionShape;
use retune_tensor::{Activation, Context, Conv2dParameters, DropoutSpec, Precision, RowKey, Tensor};
use retune_testing::counter_normal_like;

const WIDTH: usize = 16;

fn cpu() -> Context {
    Context::cpu(Cpu::new(2, Isa::detect()).unwrap())
}

fn tensor<const N: usize>(context: &Context, name: &str, shape: [usize; N]) -> Tensor {
    context.tensor(shape, counter_normal_like(name, shape.iter().product(), 0.5))
}

fn gradients(context: &Context, lengths: &[usize]) -> Gradients {
    let lengths = lengths.iter().copied();
    if context.kernels().is_some() { Gradients::new(lengths) } else { Gradients::meta(lengths) }
}

/// Four linear layers; those from `first_trainable` on train. Tape entries, operations of the forward and of the
/// backward.
fn stack(first_trainable: usize) -> (usize, u64, u64) {
    let context = cpu();
    let mut tape = Tape::new(context.clone());
    let mut x = Var::constant(tensor(&context, "x", [3, WIDTH]));
    for layer in 0..4_usize {
        let weight = tensor(&context, &format!("weight {layer}"), [WIDTH, WIDTH]);
        let weight = match layer.checked_sub(first_trainable) {
            Some(slot) => Var::parameter(weight, slot),
            None => Var::constant(weight),
        };
        x = tape.linear(&x, &weight, None, Activation::GeluErf);
    }
    let (recorded, forward) = (tape.len(), context.operations());
    let dy = tensor(&context, "dy", [3, WIDTH]);
    let mut gradients = gradients(&context, &vec![WIDTH * WIDTH; 4 - first_trainable]);
    tape.backward(vec![(x, dy)], &mut gradients);
    (recorded, forward, context.operations() - forward)
}

#[test]
fn nothing_is_recorded_below_the_first_trainable_parameter() {
    let product = 2 * 3 * (WIDTH * WIDTH) as u64;
    for first_trainable in 0..=4 {
        let trainable = 4 - first_trainable as u64;
        let (recorded, forward, backward) = stack(first_trainable);
        assert_eq!(recorded as u64, trainable);
        assert_eq!(forward, 4 * product);
        // The gradient of every trainable weight, and of every layer's input but the lowest one's.
        assert_eq!(backward, (trainable + trainable.saturating_sub(1)) * product);
    }
}

#[test]
fn a_frozen_weight_above_a_trainable_one_costs_no_weight_gradient() {
    let context = cpu();
    let mut tape = Tape::new(context.clone());
    let x = Var::constant(tensor(&context, "x", [3, WIDTH]));
    let lower = Var::parameter(tensor(&context, "lower", [WIDTH, WIDTH]), 0);
    let frozen = Var::constant(tensor(&context, "frozen", [WIDTH, WIDTH]));
    let hidden = tape.linear(&x, &lower, None, Activation::Identity);
    let y = tape.linear(&hidden, &frozen, None, Activation::Identity);
    let forward = context.operations();
    let mut gradients = gradients(&context, &[WIDTH * WIDTH]);
    tape.backward(vec![(y, tensor(&context, "dy", [3, WIDTH]))], &mut gradients);
    let product = 2 * 3 * (WIDTH * WIDTH) as u64;
    assert_eq!(context.operations() - forward, 2 * product);
}

#[test]
fn a_frozen_network_keeps_nothing() {
    let context = cpu();
    let mut tape = Tape::new(context.clone());
    let mut x = Var::constant(tensor(&context, "x", [3, WIDTH]));
    let weight = Var::constant(tensor(&context, "weight", [WIDTH, WIDTH]));
    let norm = Var::constant(tensor(&context, "norm", [WIDTH]));
    let before = context.pool().memory_use().current;
    for _ in 0..4 {
        let y = tape.linear(&x, &weight, Some(&norm), Activation::GeluErf);
        x = tape.layer_norm(&y, Some(&x), None, &norm, &norm, 1e-5);
    }
    assert!(tape.is_empty());
    assert_eq!(context.pool().memory_use().current, before);
}

/// A step of a small Transformer classifier. Peak bytes and operations.
fn transformer_step(context: &Context, options: Options) -> (u64, u64) {
    let Options { dropout, adapters, frozen_below } = options;
    let mut tape = Tape::new(context.clone());
    let mut lengths = Vec::new();
    let mut parameter = |layer: usize, shape: &[usize]| {
        let elements = shape.iter().product();
        let tensor = context.tensor(shape, counter_normal_like(&format!("{layer} {shape:?}"), elements, 0.3));
        if layer < frozen_below {
            return Var::constant(tensor);
        }
        lengths.push(elements);
        Var::parameter(tensor, lengths.len() - 1)
    };
    let sequence_lengths = [5_u32, 1, 8];
    let offsets = Arc::new(vec![0, 5, 6, 14]);
    let keys: Vec<RowKey> = (0..3)
        .flat_map(|sample| {
            (0..sequence_lengths[sample]).map(move |position| RowKey { sample: sample as u32, position })
        })
        .collect();
    let keys = Arc::new(keys);
    let spec = |site: u32| {
        dropout.then(|| DropoutSpec { probability: 0.1, key: [site, 7], rows: Arc::clone(&keys) })
    };
    let table = parameter(0, &[20, WIDTH]);
    let ids: Vec<u32> = (0..14).map(|row| row * 3 % 20).collect();
    let embedded = tape.embedding(&[(&table, Arc::new(ids))]);
    let (gamma, beta) = (parameter(0, &[WIDTH]), parameter(0, &[WIDTH]));
    let mut x = tape.layer_norm(&embedded, None, None, &gamma, &beta, 1e-12);
    drop(embedded);
    x = tape.dropout(&x, spec(0));
    for layer in 1..3 {
        let mut projections = Vec::new();
        for _ in 0..3 {
            let (weight, bias) = (parameter(layer, &[WIDTH, WIDTH]), parameter(layer, &[WIDTH]));
            let mut y = tape.linear(&x, &weight, Some(&bias), Activation::Identity);
            if adapters {
                let (a, b) = (parameter(layer, &[2, WIDTH]), parameter(layer, &[WIDTH, 2]));
                y = tape.low_rank_add(y, &x, &a, &b, 2.0, spec(10 + layer as u32));
            }
            projections.push(y);
        }
        let shape = AttentionShape {
            heads: 4,
            scale: 0.5,
            causal: false,
            query_offsets: Arc::clone(&offsets),
            key_offsets: Arc::clone(&offsets),
        };
        let [q, k, v] = &projections[..] else { unreachable!("three projections were made") };
        let attended = tape.attention(&shape, q, k, v, spec(20 + layer as u32));
        drop(projections);
        let (gamma, beta) = (parameter(layer, &[WIDTH]), parameter(layer, &[WIDTH]));
        x = tape.layer_norm(&attended, Some(&x), spec(30 + layer as u32), &gamma, &beta, 1e-12);
        drop(attended);
        let (w1, b1) = (parameter(layer, &[2 * WIDTH, WIDTH]), parameter(layer, &[2 * WIDTH]));
        let (w2, b2) = (parameter(layer, &[WIDTH, 2 * WIDTH]), parameter(layer, &[WIDTH]));
        let fed = tape.feed_forward(&x, (&w1, &b1), Activation::GeluErf, (&w2, &b2));
        x = tape.layer_norm(&fed, Some(&x), spec(40 + layer as u32), &gamma, &beta, 1e-12);
    }
    let first = tape.pool(&x, &offsets, Pooling::First);
    let mean = tape.pool(&x, &offsets, Pooling::Mean);
    drop(x);
    let (weight, bias) = (parameter(3, &[WIDTH, WIDTH]), parameter(3, &[WIDTH]));
    let hidden = tape.linear(&first, &weight, Some(&bias), Activation::Tanh);
    let (gamma, beta) = (parameter(3, &[WIDTH]), parameter(3, &[WIDTH]));
    let y = tape.layer_norm(&hidden, Some(&mean), None, &gamma, &beta, 1e-12);
    drop((first, mean, hidden));
    let dy = tensor(context, "dy", [3, WIDTH]);
    let mut gradients = gradients(context, &lengths);
    tape.backward(vec![(y, dy)], &mut gradients);
    (context.pool().memory_use().peak, context.operations())
}

#[derive(Clone, Copy, Debug)]
struct Options {
    dropout: bool,
    adapters: bool,
    frozen_below: usize,
}

#[test]
fn meta_counts_the_memory_and_the_operations_of_the_cpu_exactly() {
    for dropout in [false, true] {
        for adapters in [false, true] {
            for frozen_below in 0..4 {
                let options = Options { dropout, adapters, frozen_below };
                for precision in [Precision::F32, Precision::Bf16] {
                    let measured = transformer_step(&cpu().with_precision(precision), options);
                    let planned = transformer_step(&Context::meta().with_precision(precision), options);
                    let what = format!("{options:?} in {precision:?}");
                    assert_eq!(planned, measured, "(peak bytes, operations) with {what}");
                }
            }
        }
    }
}

/// Bytes that the tape holds when the forward of a feed-forward layer and a convolution is done, their outputs aside.
fn kept_bytes(precision: Precision) -> u64 {
    let context = cpu().with_precision(precision);
    let parameter = |name: &str, shape: &[usize], slot: usize| {
        Var::parameter(context.tensor(shape, counter_normal_like(name, shape.iter().product(), 0.5)), slot)
    };
    let (w1, b1) = (parameter("w1", &[4 * WIDTH, WIDTH], 0), parameter("b1", &[4 * WIDTH], 1));
    let (w2, b2) = (parameter("w2", &[WIDTH, 4 * WIDTH], 2), parameter("b2", &[WIDTH], 3));
    let filter = parameter("filter", &[8, WIDTH, 3, 3], 4);
    let before = context.pool().memory_use().current;
    let mut tape = Tape::new(context.clone());
    let x = Var::constant(tensor(&context, "x", [10, WIDTH]));
    let image = Var::constant(tensor(&context, "image", [1, 5, 5, WIDTH]));
    let first = tape.feed_forward(&x, (&w1, &b1), Activation::GeluErf, (&w2, &b2));
    let second = tape.conv2d(&image, &filter, None, Conv2dParameters::default());
    drop((x, image, first, second));
    context.pool().memory_use().current - before
}

#[test]
fn what_products_read_again_takes_half_the_memory_in_bf16() {
    // The input of the feed-forward layer, its hidden values, the image: two bytes each instead of four.
    let values = (10 * WIDTH + 10 * 4 * WIDTH + 25 * WIDTH) as u64;
    assert_eq!(kept_bytes(Precision::F32), 4 * values);
    assert_eq!(kept_bytes(Precision::Bf16), 2 * values);
}
