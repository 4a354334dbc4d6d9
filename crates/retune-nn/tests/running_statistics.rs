//! Buffers: running statistics that move with a step, stay where nothing trains, and survive what parameters survive.

use retune_autograd::Var;
use retune_kernels::{Cpu, Isa};
use retune_nn::{
    BatchNorm2d, BufferUpdates, Conv2d, ConvSizes, Environment, Forward, NormRecalibration, ParameterBuilder,
    ParameterStore, Randomness, Role, Trainable,
};
use retune_tensor::{Activation, Context, Tensor};
use retune_testing::reference::normalization::column_statistics;
use retune_testing::{assert_close, counter_normal_like, widen};

const CHANNELS: usize = 5;
const SHAPE: [usize; 4] = [3, 4, 2, CHANNELS];

/// Two norms with a convolution between them, each a layer group.
struct Network {
    first: BatchNorm2d,
    conv: Conv2d,
    second: BatchNorm2d,
}

impl Network {
    fn new(context: &Context) -> (Self, ParameterStore) {
        let mut builder = ParameterBuilder::default();
        builder.begin_group("first");
        let first = BatchNorm2d::declare(&mut builder, "first", CHANNELS);
        builder.begin_group("second");
        let sizes = ConvSizes::same(CHANNELS, CHANNELS, 3);
        let conv = Conv2d::declare(&mut builder, "conv", sizes, sizes.kaiming_fan_out());
        let second = BatchNorm2d::declare(&mut builder, "second", CHANNELS);
        let store = builder.build(context, 7, |_| Ok::<_, ()>(None)).unwrap();
        (Self { first, conv, second }, store)
    }

    fn forward<'s>(&'s self, forward: &mut Forward<'s>, x: &Tensor) -> Tensor {
        let x = Var::constant(x.clone());
        let y = forward.block(&x, |forward, x| {
            let x = self.first.forward(forward, x, None, Activation::Relu);
            let y = self.conv.forward(forward, &x);
            self.second.forward(forward, &y, Some(&x), Activation::Identity)
        });
        y.tensor().clone()
    }
}

fn context() -> Context {
    Context::cpu(Cpu::new(2, Isa::detect()).unwrap())
}

fn pictures(context: &Context, name: &str) -> Tensor {
    let values = counter_normal_like(name, SHAPE.iter().product(), 2.0);
    context.tensor(SHAPE, values.iter().map(|v| v + 0.5).collect())
}

fn pass(
    context: &Context,
    network: &Network,
    store: &ParameterStore,
    x: &Tensor,
    first_group: usize,
    gradient_checkpointing: bool,
) -> (Tensor, BufferUpdates) {
    let trainable = Trainable::new(store, |_, declaration| declaration.group >= first_group);
    let mut forward = Forward::new(Environment {
        context: context.clone(),
        store,
        trainable: &trainable,
        randomness: Some(Randomness { seed: 1, step: 0 }),
        gradient_checkpointing,
    });
    let y = network.forward(&mut forward, x);
    (y, forward.finish().1)
}

fn evaluate(context: &Context, network: &Network, store: &ParameterStore, x: &Tensor) -> Vec<f32> {
    let none = Trainable::none(store);
    let mut forward = Forward::new(Environment::evaluation(context, store, &none));
    let y = network.forward(&mut forward, x).values().to_vec();
    assert!(forward.finish().1.is_empty(), "an evaluation changes no buffer");
    y
}

#[test]
fn running_statistics_move_a_tenth_of_the_way_to_the_batch_with_its_unbiased_variance() {
    let context = context();
    let (network, mut store) = Network::new(&context);
    let batches = [pictures(&context, "one"), pictures(&context, "two")];
    let (mut mean, mut variance) = (vec![0.0; CHANNELS], vec![1.0; CHANNELS]);
    for x in &batches {
        let (_, updates) = pass(&context, &network, &store, x, 0, false);
        updates.apply(&mut store);
        let [batch_mean, batch_variance] = column_statistics(&widen(x.values()), CHANNELS);
        let rows = (x.elements() / CHANNELS) as f64;
        for channel in 0..CHANNELS {
            mean[channel] = 0.9 * mean[channel] + 0.1 * batch_mean[channel];
            let unbiased = batch_variance[channel] * rows / (rows - 1.0);
            variance[channel] = 0.9 * variance[channel] + 0.1 * unbiased;
        }
    }
    assert_close("mean", store.tensor(network.first.running_mean).values(), &mean, 1e-6, 1e-6);
    assert_close("variance", store.tensor(network.first.running_var).values(), &variance, 1e-6, 1e-6);
    assert_eq!(store.tensor(network.first.num_batches_tracked).values(), [2.0]);
}

#[test]
fn a_step_that_is_given_up_leaves_buffers_as_they_were() {
    let context = context();
    let (network, store) = Network::new(&context);
    let before = store.clone();
    let (_, updates) = pass(&context, &network, &store, &pictures(&context, "x"), 0, false);
    assert!(!updates.is_empty());
    drop(updates);
    for id in store.ids() {
        assert_eq!(store.tensor(id).values(), before.tensor(id).values());
    }
}

#[test]
fn a_norm_that_does_not_train_uses_its_running_statistics_and_reports_nothing() {
    let context = context();
    let (network, store) = Network::new(&context);
    let x = pictures(&context, "x");
    let observed = |first_group| {
        let (_, updates) = pass(&context, &network, &store, &x, first_group, false);
        updates.observations().len()
    };
    assert_eq!([observed(0), observed(1), observed(2)], [2, 1, 0]);
    let (frozen, _) = pass(&context, &network, &store, &x, 2, false);
    assert_eq!(frozen.values(), evaluate(&context, &network, &store, &x));
}

#[test]
fn a_checkpointed_block_reports_its_statistics_once() {
    let context = context();
    let (network, store) = Network::new(&context);
    let trainable = Trainable::new(&store, |_, _| true);
    let mut forward = Forward::new(Environment {
        context: context.clone(),
        store: &store,
        trainable: &trainable,
        randomness: Some(Randomness { seed: 1, step: 0 }),
        gradient_checkpointing: true,
    });
    let x = Var::constant(pictures(&context, "x"));
    let y = forward.block(&x, |forward, x| {
        let x = network.first.forward(forward, x, None, Activation::Relu);
        // A block within a block.
        forward.block(&x, |forward, x| {
            let y = network.conv.forward(forward, x);
            network.second.forward(forward, &y, None, Activation::Identity)
        })
    });
    let dy = context.tensor(SHAPE, counter_normal_like("dy", SHAPE.iter().product(), 1.0));
    let (tape, updates) = forward.finish();
    let mut gradients = retune_autograd::Gradients::new(trainable.slot_lengths(&store));
    tape.backward(vec![(y, dy)], &mut gradients);
    assert_eq!(updates.observations().len(), 2);
    assert!(gradients.values().iter().any(|&g| g != 0.0));
}

#[test]
fn buffers_are_no_parameters() {
    let context = context();
    let (_, store) = Network::new(&context);
    assert_eq!(store.elements(), 2 * 2 * CHANNELS + CHANNELS * CHANNELS * 9);
    assert_eq!(store.buffer_elements(), 2 * (2 * CHANNELS + 1));
    let trainable = Trainable::new(&store, |_, _| true);
    assert!(trainable.ids().iter().all(|&id| store.declaration(id).role == Role::Parameter));
    let groups = store.groups();
    assert_eq!((groups[0].parameters.len(), groups[0].buffers.len()), (2, 3));
}

#[test]
fn recalibration_gives_true_statistics_and_changes_no_answer() {
    let context = context();
    let (network, mut store) = Network::new(&context);
    // As folding leaves it: any weight and bias, mean 0 and variance 1.
    for (name, shift) in
        [("first.weight", 1.5), ("first.bias", 0.1), ("second.weight", 0.7), ("second.bias", -0.2)]
    {
        let id = store.find(name).unwrap();
        let values = counter_normal_like(name, CHANNELS, 0.5);
        store.values_mut(id).iter_mut().zip(values).for_each(|(value, draw)| *value = shift + draw);
    }
    assert_eq!(store.uninformative_norms(), ["first", "second"]);
    let batches = [pictures(&context, "one"), pictures(&context, "two"), pictures(&context, "three")];
    let before = evaluate(&context, &network, &store, &batches[0]);
    let mut recalibration = NormRecalibration::new();
    for x in &batches {
        let none = Trainable::none(&store);
        let mut forward = Forward::observing(Environment::evaluation(&context, &store, &none));
        network.forward(&mut forward, x);
        recalibration.observe(&forward.finish().1);
    }
    assert_eq!(recalibration.apply(&mut store, |_| true), 2);
    assert_close("answers", &evaluate(&context, &network, &store, &batches[0]), &widen(&before), 1e-5, 1e-5);
    let all: Vec<f32> = batches.iter().flat_map(|x| x.values().to_vec()).collect();
    let [mean, variance] = column_statistics(&widen(&all), CHANNELS);
    let rows = (all.len() / CHANNELS) as f64;
    let unbiased: Vec<f64> = variance.iter().map(|v| v * rows / (rows - 1.0)).collect();
    assert_close("mean", store.tensor(network.first.running_mean).values(), &mean, 1e-5, 1e-6);
    assert_close("variance", store.tensor(network.first.running_var).values(), &unbiased, 1e-5, 1e-6);
    assert!(store.uninformative_norms().is_empty());
}
