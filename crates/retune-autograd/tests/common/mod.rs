//! An operation against its definition: forward, gradients, and that only what is wanted is computed.

use retune_autograd::{Gradients, Tape, Var};
use retune_kernels::{Cpu, Isa};
use retune_tensor::{Context, Tensor};
use retune_testing::{assert_close, assert_gradient, counter_normal_like, widen};

/// An input of an operation: a value computed before it, or a parameter.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "not every test file has inputs of every kind")]
pub enum Input {
    Value(&'static str, [usize; 2]),
    Image(&'static str, [usize; 4]),
    Matrix(&'static str, [usize; 2]),
    Filter(&'static str, [usize; 4]),
    Vector(&'static str, usize),
}
use Input::{Filter, Image, Matrix, Value, Vector};

impl Input {
    fn name(self) -> &'static str {
        match self {
            Value(name, _) | Matrix(name, _) | Vector(name, _) => name,
            Image(name, _) | Filter(name, _) => name,
        }
    }

    fn shape(self) -> Vec<usize> {
        match self {
            Value(_, shape) | Matrix(_, shape) => shape.to_vec(),
            Image(_, shape) | Filter(_, shape) => shape.to_vec(),
            Vector(_, length) => vec![length],
        }
    }

    fn draw(self) -> Vec<f32> {
        counter_normal_like(self.name(), self.shape().iter().product(), 1.0)
    }
}

fn context() -> Context {
    Context::cpu(Cpu::new(2, Isa::detect()).unwrap())
}

/// The output of a graph, and the gradient of `Σ dy · output` by each input for which `wanted` says so.
fn run(
    inputs: &[Input],
    wanted: &[bool],
    graph: &impl Fn(&mut Tape<'_>, &[Var]) -> Var,
) -> (Tensor, Vec<f32>, Vec<Option<Vec<f32>>>) {
    let context = context();
    let mut tape = Tape::new(context.clone());
    let mut lengths = Vec::new();
    let mut slots = Vec::new();
    let mut variables = Vec::new();
    for (input, &wanted) in inputs.iter().zip(wanted) {
        let values = input.draw();
        let length = values.len();
        let tensor = context.tensor(input.shape().as_slice(), values);
        let is_parameter = !matches!(input, Value(..) | Image(..));
        slots.push((wanted && is_parameter).then_some(lengths.len()));
        variables.push(match (wanted, is_parameter) {
            (false, _) => Var::constant(tensor),
            (true, false) => tape.leaf(tensor),
            (true, true) => {
                lengths.push(length);
                Var::parameter(tensor, lengths.len() - 1)
            }
        });
    }
    let y = graph(&mut tape, &variables);
    let output = y.tensor().clone();
    let dy = counter_normal_like("dy", output.elements(), 1.0);
    let mut gradients = Gradients::new(lengths);
    let dy_tensor = context.tensor(output.shape(), dy.clone());
    let mut leaves = tape.backward(vec![(y, dy_tensor)], &mut gradients);
    let found = variables
        .iter()
        .zip(&slots)
        .map(|(variable, slot)| match slot {
            Some(slot) => Some(gradients.slot(*slot).to_vec()),
            None => leaves.take(variable).map(|gradient| gradient.values().to_vec()),
        })
        .collect();
    (output, dy, found)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Checks forward and gradients, and that an input's gradient has the same bits whichever others are wanted beside it.
#[track_caller]
pub fn check(
    what: &str,
    inputs: &[Input],
    graph: impl Fn(&mut Tape<'_>, &[Var]) -> Var,
    definition: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let values: Vec<Vec<f64>> = inputs.iter().map(|input| widen(&input.draw())).collect();
    let (output, dy, gradients) = run(inputs, &vec![true; inputs.len()], &graph);
    assert_close(what, output.values(), &definition(&values), 1e-5, 1e-5);
    let loss = |values: &[Vec<f64>]| -> f64 {
        definition(values).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    for (index, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
        let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{what}: no gradient of {}", input.name()));
        assert_gradient(
            &format!("{what}: d{}", input.name()),
            &values[index],
            &widen(gradient),
            3e-5,
            |moved| {
                let mut values = values.clone();
                values[index] = moved.to_vec();
                loss(&values)
            },
        );
    }
    for choice in 1_usize..1 << inputs.len() {
        let wanted: Vec<bool> = (0..inputs.len()).map(|index| choice >> index & 1 == 1).collect();
        let (_, _, some) = run(inputs, &wanted, &graph);
        for (index, input) in inputs.iter().enumerate() {
            let expected = gradients[index].as_deref().filter(|_| wanted[index]).map(bits);
            assert!(
                some[index].as_deref().map(bits) == expected,
                "{what}: d{} differs if {wanted:?} are wanted",
                input.name()
            );
        }
    }
}
