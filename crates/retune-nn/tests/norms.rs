//! The norm layers against the golden file that `fixtures/norms/make_golden.py` made with PyTorch: values and gradients.

use std::path::Path;

use retune_autograd::{Gradients, Var};
use retune_kernels::{Cpu, Isa};
use retune_nn::{
    Environment, Forward, GroupNorm, ParameterBuilder, ParameterStore, Randomness, RmsNorm, Trainable,
};
use retune_tensor::Context;
use retune_testing::{assert_close, counter_normal_like};
use serde_json::Value;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/norms/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Runs a layer on the counter's values under everything trainable and compares with the golden file's answers.
fn check(
    expected: &Value,
    shape: &[usize],
    declare: impl FnOnce(&mut ParameterBuilder) -> Box<dyn Fn(&mut Forward<'_>, &Var) -> Var>,
) {
    let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap());
    let mut builder = ParameterBuilder::default();
    builder.begin_group("norm");
    let layer = declare(&mut builder);
    // Names in the golden file are the layer's own: `weight`, `bias`.
    let own = |name: &str| name.rsplit('.').next().unwrap().to_owned();
    let store: ParameterStore = builder
        .build(&context, 0, |d| Ok::<_, ()>(Some(counter_normal_like(&own(&d.name), d.elements(), 1.0))))
        .unwrap();
    let trainable = Trainable::new(&store, |_, _| true);
    let mut gradients = Gradients::new(trainable.slot_lengths(&store));
    let mut forward = Forward::new(Environment {
        context: context.clone(),
        store: &store,
        trainable: &trainable,
        randomness: Some(Randomness { seed: 0, step: 0 }),
        gradient_checkpointing: false,
    });
    let elements = shape.iter().product();
    let draw = |name: &str| context.tensor(shape, counter_normal_like(name, elements, 1.0));
    let x = forward.tape().leaf(draw("x"));
    let y = layer(&mut forward, &x);
    assert_close("y", y.tensor().values(), &floats(&expected["y"]), 1e-5, 2e-6);
    let mut leaves = forward.into_tape().backward(vec![(y, draw("dy"))], &mut gradients);
    let dx = leaves.take(&x).unwrap();
    assert_close("dx", dx.values(), &floats(&expected["dx"]), 1e-5, 5e-6);
    for (slot, &id) in trainable.ids().iter().enumerate() {
        let name = format!("d{}", own(&store.declaration(id).name));
        assert_close(&name, gradients.slot(slot), &floats(&expected[&name]), 1e-5, 1e-5);
    }
}

#[test]
fn rms_norm_equals_the_reference() {
    let golden = golden();
    let expected = &golden["rms_norm"];
    let number = |key: &str| expected[key].as_u64().unwrap() as usize;
    let (width, eps) = (number("width"), expected["eps"].as_f64().unwrap() as f32);
    check(expected, &[number("rows"), width], |builder| {
        let layer = RmsNorm::declare(builder, "norm", width, eps);
        Box::new(move |forward, x| layer.forward(forward, x))
    });
}

#[test]
fn group_norm_equals_the_reference() {
    let golden = golden();
    let expected = &golden["group_norm"];
    let shape: Vec<usize> =
        expected["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    let (groups, channels) = (expected["groups"].as_u64().unwrap() as usize, shape[3]);
    check(expected, &shape, |builder| {
        let layer = GroupNorm::declare(builder, "norm", groups, channels);
        Box::new(move |forward, x| layer.forward(forward, x))
    });
}
