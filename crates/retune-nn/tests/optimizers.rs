//! Every optimizer against 20 steps of PyTorch's, `transformers`' or the paper's on a small least-squares problem
//! (`fixtures/optimizers/make_golden.py`), and who has optimizer state.

use std::sync::Arc;

use retune_autograd::{Gradients, Reach};
use retune_kernels::{Cpu, Isa};
use retune_nn::{
    Embedding, Environment, Forward, Initialization, Linear, Optimizer, OptimizerConfig, OptimizerKind,
    ParameterBuilder, ParameterRates, ParameterStore, Rows, Trainable,
};
use retune_tensor::{Activation, Context};
use retune_testing::{assert_close, counter_normal_like};
use serde_json::Value;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn config(case: &Value) -> OptimizerConfig {
    let kind: OptimizerKind = serde_json::from_value(case["optimizer"].clone()).unwrap();
    let settings = &case["settings"];
    let defaults = OptimizerConfig::new(kind);
    let number = |name: &str, default: f64| settings[name].as_f64().unwrap_or(default);
    OptimizerConfig {
        kind,
        beta1: settings["betas"][0].as_f64().unwrap_or(defaults.beta1),
        beta2: settings["betas"][1].as_f64().unwrap_or(defaults.beta2),
        eps: number("eps", defaults.eps),
        momentum: number("momentum", defaults.momentum),
        nesterov: settings["nesterov"] == true,
        alpha: number("alpha", defaults.alpha),
    }
}

/// Least squares with one linear layer.
struct Problem {
    context: Context,
    layer: Linear,
    store: ParameterStore,
    samples: usize,
    inputs: usize,
    outputs: usize,
}

impl Problem {
    fn new(sizes: &Value) -> Self {
        let size = |name: &str| sizes[name].as_u64().unwrap() as usize;
        let (samples, inputs, outputs) = (size("samples"), size("inputs"), size("outputs"));
        let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
        let mut builder = ParameterBuilder::default();
        builder.begin_group("all");
        let layer = Linear::declare(&mut builder, "layer", inputs, outputs, Initialization::Zeros);
        let store = builder
            .build(&context, 0, |declaration| {
                Ok::<_, ()>(Some(counter_normal_like(&declaration.name, declaration.elements(), 1.0)))
            })
            .unwrap();
        Self { context, layer, store, samples, inputs, outputs }
    }

    /// The mean squared error; its gradients are added.
    fn loss(&self, trainable: &Trainable, gradients: &mut Gradients) -> f64 {
        let mut forward = Forward::new(Environment::evaluation(&self.context, &self.store, trainable));
        let x = counter_normal_like("x", self.samples * self.inputs, 1.0);
        let target = counter_normal_like("target", self.samples * self.outputs, 1.0);
        let x = retune_autograd::Var::constant(self.context.tensor([self.samples, self.inputs], x));
        let lone: Vec<u32> = (0..self.samples as u32).collect();
        let rows = Rows::packed((0..=self.samples as u32).collect(), &lone);
        let y = self.layer.forward(&mut forward, &x, Activation::Identity, &rows);
        let mut losses = vec![0.0; self.samples];
        let mut dy = vec![0.0; target.len()];
        let weights = vec![1.0 / self.samples as f32; self.samples];
        let (cpu, values) = (self.context.kernels().unwrap(), y.tensor().values());
        retune_kernels::mse(cpu, self.outputs, values, &target, &weights, &mut losses, Some(&mut dy));
        let dy = self.context.tensor([self.samples, self.outputs], dy);
        forward.into_tape().backward(vec![(y, dy)], gradients);
        losses.iter().map(|&loss| f64::from(loss)).sum()
    }
}

#[test]
fn every_optimizer_follows_its_reference_for_twenty_steps() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/optimizers/golden.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let what = format!("{} {} clipped to {}", case["optimizer"], case["settings"], case["max_grad_norm"]);
        let mut problem = Problem::new(&golden["sizes"]);
        let trainable = Trainable::new(&problem.store, |_, _| true);
        let mut optimizer = Optimizer::new(config(case));
        optimizer.set_trainable(&problem.store, &trainable);
        let mut gradients = Gradients::new(trainable.slot_lengths(&problem.store));
        let expected = floats(&case["losses"]);
        for (step, expected) in expected.iter().enumerate() {
            gradients.clear();
            let loss = problem.loss(&trainable, &mut gradients);
            assert!((loss - expected).abs() < 1e-5, "{what}, step {step}: loss {loss}, reference {expected}");
            let cpu = problem.context.kernels().unwrap().clone();
            let norm = retune_kernels::sum_of_squares(&cpu, gradients.values()).sqrt();
            // PyTorch's clip_grad_norm_ adds 1e-6 to the norm.
            let clip =
                case["max_grad_norm"].as_f64().map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0) as f32);
            let setting = |name: &str| case["settings"][name].as_f64().unwrap();
            let learning_rate = setting("lr") * (1.0 - step as f64 / 20.0);
            let decays: Vec<bool> =
                problem.store.ids().map(|id| problem.store.declaration(id).decays()).collect();
            optimizer.step(&cpu, &mut problem.store, &trainable, &gradients, clip, |id| ParameterRates {
                learning_rate,
                weight_decay: if decays[id.index()] { setting("weight_decay") } else { 0.0 },
            });
        }
        for (name, key) in [("layer.weight", "weight"), ("layer.bias", "bias")] {
            let id = problem.store.find(name).unwrap();
            let values = problem.store.tensor(id).values();
            assert_close(&format!("{what}: {name}"), values, &floats(&case[key]), 1e-5, 1e-5);
        }
    }
}

/// Three layer groups of one layer each.
fn three_groups(context: &Context) -> (Vec<Linear>, ParameterStore) {
    let mut builder = ParameterBuilder::default();
    let layers = ["low", "middle", "head"]
        .iter()
        .map(|name| {
            builder.begin_group(name);
            Linear::declare(&mut builder, name, 4, 4, Initialization::Normal { std: 0.5 })
        })
        .collect();
    let store = builder.build(context, 1, |_| Ok::<_, ()>(None)).unwrap();
    (layers, store)
}

#[test]
fn only_parameters_that_train_have_optimizer_state_or_move() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    for kind in [
        OptimizerKind::AdamW,
        OptimizerKind::Adam,
        OptimizerKind::Sgd,
        OptimizerKind::RmsProp,
        OptimizerKind::Lion,
        OptimizerKind::Adafactor,
    ] {
        let (_, mut store) = three_groups(&context);
        let before = store.clone();
        let trainable = Trainable::new(&store, |_, declaration| declaration.group == 2);
        let mut optimizer = Optimizer::new(OptimizerConfig::new(kind));
        optimizer.set_trainable(&store, &trainable);
        let mut gradients = Gradients::new(trainable.slot_lengths(&store));
        gradients.values_mut().fill(0.5);
        let rates = ParameterRates { learning_rate: 0.1, weight_decay: 0.1 };
        let cpu = context.kernels().unwrap();
        optimizer.step(cpu, &mut store, &trainable, &gradients, 1.0, |_| rates);
        for id in store.ids().collect::<Vec<_>>() {
            let trains = store.declaration(id).group == 2;
            assert_eq!(optimizer.state(id).is_some(), trains, "{kind:?}");
            assert_eq!(store.tensor(id).values() != before.tensor(id).values(), trains, "{kind:?}");
        }
    }
}

#[test]
fn a_parameter_that_begins_to_train_later_has_fresh_state_and_the_others_keep_theirs() {
    let context = Context::cpu(Cpu::new(1, Isa::detect()).unwrap());
    let (_, mut store) = three_groups(&context);
    let from = |store: &ParameterStore, group: usize| {
        Trainable::new(store, |_, declaration| declaration.group >= group)
    };
    let mut optimizer = Optimizer::new(OptimizerConfig::new(OptimizerKind::AdamW));
    let rates = ParameterRates { learning_rate: 0.01, weight_decay: 0.0 };
    for first in [2, 1] {
        let trainable = from(&store, first);
        optimizer.set_trainable(&store, &trainable);
        let mut gradients = Gradients::new(trainable.slot_lengths(&store));
        gradients.values_mut().fill(0.25);
        for _ in 0..3 {
            let cpu = context.kernels().unwrap();
            optimizer.step(cpu, &mut store, &trainable, &gradients, 1.0, |_| rates);
        }
    }
    let steps = |optimizer: &Optimizer, name: &str| {
        optimizer.state(store.find(&format!("{name}.weight")).unwrap()).map(|state| state.step)
    };
    assert_eq!(["low", "middle", "head"].map(|name| steps(&optimizer, name)), [None, Some(3), Some(6)]);
    optimizer.set_trainable(&store, &from(&store, 2));
    assert_eq!(["low", "middle", "head"].map(|name| steps(&optimizer, name)), [None, None, Some(6)]);
}

/// How a table's gradient reaches the optimizer.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    ByRows,
    Densely,
    /// By rows, with an optimizer restored from a checkpoint after the third step.
    Restored,
}

/// A table of 40 rows trained for six steps, in each of which three of its rows are looked up.
fn train_table(kind: OptimizerKind, weight_decay: f64, known: Known) -> Vec<u32> {
    let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
    let cpu = context.kernels().unwrap();
    let mut builder = ParameterBuilder::default();
    builder.begin_group("all");
    let table = Embedding::declare(&mut builder, "table", 40, 5, Initialization::Normal { std: 1.0 });
    let mut store = builder.build(&context, 3, |_| Ok::<_, ()>(None)).unwrap();
    let id = store.ids().next().unwrap();
    let trainable = Trainable::new(&store, |_, _| true);
    let lengths = || trainable.slot_lengths(&store);
    let (mut gradients, mut dense) = (Gradients::new(lengths()), Gradients::new(lengths()));
    let mut optimizer = Optimizer::new(OptimizerConfig::new(kind));
    optimizer.set_trainable(&store, &trainable);
    for step in 0..6 {
        if known == Known::Restored && step == 3 {
            let state = optimizer.state(id).unwrap().clone();
            optimizer = Optimizer::new(*optimizer.config());
            optimizer.set_trainable(&store, &trainable);
            *optimizer.state_mut(id).unwrap() = state;
        }
        let rows = [step, 7 + 2 * step, step];
        gradients.clear();
        assert_eq!(gradients.reach(0), &Reach::Nothing);
        assert!(gradients.values().iter().all(|&g| g == 0.0), "step {step}: a row was not cleared");
        let mut forward = Forward::new(Environment::evaluation(&context, &store, &trainable));
        let weight = table.table(&forward);
        let y = forward.tape().embedding(&[(&weight, Arc::new(rows.to_vec()))]);
        let dy = context.tensor([3, 5], counter_normal_like(&format!("dy {step}"), 15, 1.0));
        forward.into_tape().backward(vec![(y, dy)], &mut gradients);
        let live: Vec<bool> = (0..40).map(|row| rows.contains(&row)).collect();
        assert_eq!(gradients.reach(0), &Reach::Rows { width: 5, live });
        let gradients = if known == Known::Densely {
            dense.values_mut().copy_from_slice(gradients.values());
            &dense
        } else {
            &gradients
        };
        let rates = ParameterRates { learning_rate: 0.1, weight_decay };
        optimizer.step(cpu, &mut store, &trainable, gradients, 0.5, |_| rates);
    }
    let state = optimizer.state(id).unwrap();
    store.tensor(id).values().iter().chain(state.slots.iter().flatten()).map(|x| x.to_bits()).collect()
}

#[test]
fn a_table_whose_live_rows_are_known_trains_to_the_bits_of_a_dense_one() {
    for kind in [
        OptimizerKind::AdamW,
        OptimizerKind::Adam,
        OptimizerKind::Sgd,
        OptimizerKind::RmsProp,
        OptimizerKind::Lion,
        OptimizerKind::Adafactor,
    ] {
        for weight_decay in [0.0, 0.1] {
            let dense = train_table(kind, weight_decay, Known::Densely);
            for known in [Known::ByRows, Known::Restored] {
                assert!(train_table(kind, weight_decay, known) == dense, "{kind:?}, decay {weight_decay}");
            }
        }
    }
}
