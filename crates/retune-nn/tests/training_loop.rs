//! Steps one after the other: memory that comes back, groups that are frozen, blocks that are computed twice.

use retune_autograd::{Gradients, Var};
use retune_kernels::{Cpu, Isa};
use retune_nn::{
    Environment, FeedForward, Forward, Initialization, LayerNorm, Linear, Optimizer, OptimizerConfig,
    OptimizerKind, ParameterBuilder, ParameterRates, ParameterStore, Randomness, Rows, Site, Trainable,
};
use retune_tensor::{Activation, Context};
use retune_testing::counter_normal_like;

const WIDTH: usize = 8;

/// Two post-norm feed-forward blocks with dropout and a head, each a layer group; the blocks carry low-rank branches.
struct Network {
    blocks: Vec<(FeedForward, LayerNorm, Site)>,
    head: Linear,
}

impl Network {
    fn new(context: &Context) -> (Self, ParameterStore) {
        let mut builder = ParameterBuilder::default();
        let normal = Initialization::Normal { std: 0.3 };
        let blocks = (0..2)
            .map(|index| {
                let name = format!("block.{index}");
                builder.begin_group(&name);
                let mut first = Linear::declare(&mut builder, &format!("{name}.first"), WIDTH, 12, normal);
                first.attach_low_rank(&mut builder, 2, 2.0, 0.1);
                let feed_forward = FeedForward {
                    first,
                    activation: Activation::GeluErf,
                    second: Linear::declare(&mut builder, &format!("{name}.second"), 12, WIDTH, normal),
                };
                let norm = LayerNorm::declare(&mut builder, &format!("{name}.norm"), WIDTH, 1e-5);
                (feed_forward, norm, builder.site(&format!("{name}.dropout")))
            })
            .collect();
        builder.begin_group("head");
        let head = Linear::declare(&mut builder, "head", WIDTH, 3, normal);
        let store = builder.build(context, 5, |_| Ok::<_, ()>(None)).unwrap();
        (Self { blocks, head }, store)
    }

    fn forward<'s>(&'s self, forward: &mut Forward<'s>, x: Var, rows: &Rows) -> Var {
        let mut x = x;
        for (feed_forward, norm, site) in &self.blocks {
            let rows = rows.clone();
            x = forward.block(&x, move |forward, x| {
                let y = feed_forward.forward(forward, x, &rows);
                norm.forward_residual(forward, &y, x, (*site, 0.2), &rows)
            });
        }
        self.head.forward(forward, &x, Activation::Identity, rows)
    }
}

/// Packed sequences whose number and lengths change with the step.
fn rows(step: u64) -> Rows {
    let lengths = [3 + step as u32 % 4, 1, 5 - step as u32 % 3];
    let offsets = lengths.iter().fold(vec![0], |mut offsets, length| {
        offsets.push(offsets.last().unwrap() + length);
        offsets
    });
    Rows::packed(offsets, &[0, 1, 2])
}

/// Logits and gradients of `Σ logits²/2` in one step.
fn step(
    context: &Context,
    network: &Network,
    store: &ParameterStore,
    trainable: &Trainable,
    number: u64,
    gradient_checkpointing: bool,
) -> (Vec<f32>, Gradients) {
    let mut forward = Forward::new(Environment {
        context: context.clone(),
        store,
        trainable,
        randomness: Some(Randomness { seed: 3, step: number }),
        gradient_checkpointing,
    });
    let rows = rows(number);
    let count = rows.keys.len();
    let x = context.tensor([count, WIDTH], counter_normal_like(&format!("x {number}"), count * WIDTH, 1.0));
    let logits = network.forward(&mut forward, Var::constant(x), &rows);
    let values = logits.tensor().values().to_vec();
    let gradient = context.tensor([count, 3], values.clone());
    let mut gradients = Gradients::new(trainable.slot_lengths(store));
    forward.into_tape().backward(vec![(logits, gradient)], &mut gradients);
    (values, gradients)
}

#[test]
fn a_thousand_steps_leave_nothing_in_the_pool() {
    for gradient_checkpointing in [false, true] {
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let (network, mut store) = Network::new(&context);
        let trainable = Trainable::new(&store, |_, _| true);
        let mut optimizer = Optimizer::new(OptimizerConfig::new(OptimizerKind::AdamW));
        optimizer.set_trainable(&store, &trainable);
        let held = context.pool().memory_use().current;
        assert_eq!(held, 4 * store.elements() as u64);
        let mut peaks = Vec::new();
        for number in 0..1000 {
            context.pool().reset_peak();
            let (_, gradients) = step(&context, &network, &store, &trainable, number, gradient_checkpointing);
            let rates = ParameterRates { learning_rate: 1e-3, weight_decay: 0.01 };
            let cpu = context.kernels().unwrap();
            optimizer.step(cpu, &mut store, &trainable, &gradients, 1.0, |_| rates);
            assert_eq!(context.pool().memory_use().current, held, "after step {number}");
            peaks.push(context.pool().memory_use().peak);
        }
        // Lengths repeat every 12 steps, and with them the memory of a step.
        assert!(peaks.iter().zip(&peaks[12..]).all(|(before, after)| before == after));
    }
}

#[test]
fn a_checkpointed_block_gives_the_same_bits_whatever_trains() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    let (network, store) = Network::new(&context);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for first_group in 0..3 {
        for adapters_only in [false, true] {
            let trainable = Trainable::new(&store, |_, declaration| {
                declaration.group >= first_group
                    && (!adapters_only || declaration.group == 2 || declaration.name.contains(".lora_"))
            });
            let (plain_logits, plain) = step(&context, &network, &store, &trainable, 7, false);
            let (logits, gradients) = step(&context, &network, &store, &trainable, 7, true);
            assert_eq!(bits(&logits), bits(&plain_logits));
            assert_eq!(bits(gradients.values()), bits(plain.values()), "{first_group} {adapters_only}");
        }
    }
}

#[test]
fn a_frozen_group_runs_without_dropout() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    let (network, store) = Network::new(&context);
    let logits = |first_group: usize, number: u64| {
        let trainable = Trainable::new(&store, |_, declaration| declaration.group >= first_group);
        let mut forward = Forward::new(Environment {
            context: context.clone(),
            store: &store,
            trainable: &trainable,
            randomness: Some(Randomness { seed: 3, step: number }),
            gradient_checkpointing: false,
        });
        let rows = rows(0);
        let x = counter_normal_like("x", rows.keys.len() * WIDTH, 1.0);
        let x = Var::constant(context.tensor([rows.keys.len(), WIDTH], x));
        network.forward(&mut forward, x, &rows).tensor().values().to_vec()
    };
    // With only the head trained there is no mask left to draw; with a block trained every step draws another.
    assert_eq!(logits(2, 0), logits(2, 1));
    assert_ne!(logits(1, 0), logits(1, 1));
    assert_eq!(logits(1, 0), logits(1, 0));
}

#[test]
fn a_sample_is_dropped_alike_whichever_batch_it_is_in() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    let (network, store) = Network::new(&context);
    let trainable = Trainable::new(&store, |_, _| true);
    let values = counter_normal_like("packed", 9 * WIDTH, 1.0);
    let run = |first: usize, last: usize, offsets: Vec<u32>, samples: &[u32]| {
        let mut forward = Forward::new(Environment {
            context: context.clone(),
            store: &store,
            trainable: &trainable,
            randomness: Some(Randomness { seed: 3, step: 4 }),
            gradient_checkpointing: false,
        });
        let rows = Rows::packed(offsets, samples);
        let x = context.tensor([last - first, WIDTH], values[first * WIDTH..last * WIDTH].to_vec());
        network.forward(&mut forward, Var::constant(x), &rows).tensor().values().to_vec()
    };
    let together = run(0, 9, vec![0, 4, 9], &[0, 1]);
    let apart = [run(0, 4, vec![0, 4], &[0]), run(4, 9, vec![0, 5], &[1])].concat();
    assert_eq!(together, apart);
}
