//! An operation against its definition: forward, gradients, and that only what is wanted is computed.

use retune_autograd::{Gradients, Tape, Var};
use retune_kernels::{Cpu, Isa, bf16};
use retune_tensor::{Context, Precision, Tensor};
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

    fn draw(self, precision: Precision) -> Vec<f32> {
        draw(precision, self.name(), self.shape().iter().product())
    }
}

/// Values that the precision's products take as they are.
fn draw(precision: Precision, name: &str, elements: usize) -> Vec<f32> {
    let values = counter_normal_like(name, elements, 1.0);
    match precision {
        Precision::F32 => values,
        Precision::Bf16 => values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect(),
    }
}

/// The output of a graph, and the gradient of `Σ dy · output` by each input for which `wanted` says so.
fn run(
    precision: Precision,
    inputs: &[Input],
    wanted: &[bool],
    graph: &impl Fn(&mut Tape<'_>, &[Var]) -> Var,
) -> (Tensor, Vec<f32>, Vec<Option<Vec<f32>>>) {
    let context = Context::cpu(Cpu::new(2, Isa::detect()).unwrap()).with_precision(precision);
    let mut tape = Tape::new(context.clone());
    let mut lengths = Vec::new();
    let mut slots = Vec::new();
    let mut variables = Vec::new();
    for (input, &wanted) in inputs.iter().zip(wanted) {
        let values = input.draw(precision);
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
    let dy = draw(precision, "dy", output.elements());
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

/// Checks forward and gradients in both precisions, and that an input's gradient has the same bits whichever others are
/// wanted beside it.
#[track_caller]
pub fn check(
    what: &str,
    inputs: &[Input],
    graph: impl Fn(&mut Tape<'_>, &[Var]) -> Var,
    definition: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    check_in(Precision::F32, what, inputs, &graph, &definition);
    check_in(Precision::Bf16, &format!("{what} in bf16"), inputs, &graph, &definition);
}

#[track_caller]
fn check_in(
    precision: Precision,
    what: &str,
    inputs: &[Input],
    graph: &impl Fn(&mut Tape<'_>, &[Var]) -> Var,
    definition: &impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    // Between two products values are rounded to eight bits, a 2⁻⁹ part of each; a few such roundings add up.
    let [tolerance, gradient_tolerance] = match precision {
        Precision::F32 => [1e-5, 3e-5],
        Precision::Bf16 => [1.5e-2, 2.5e-2],
    };
    let values: Vec<Vec<f64>> = inputs.iter().map(|input| widen(&input.draw(precision))).collect();
    let (output, dy, gradients) = run(precision, inputs, &vec![true; inputs.len()], graph);
    assert_close(what, output.values(), &definition(&values), tolerance, tolerance);
    let loss = |values: &[Vec<f64>]| -> f64 {
        definition(values).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    for (index, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
        let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{what}: no gradient of {}", input.name()));
        assert_gradient(
            &format!("{what}: d{}", input.name()),
            &values[index],
            &widen(gradient),
            gradient_tolerance,
            |moved| {
                let mut values = values.clone();
                values[index] = moved.to_vec();
                loss(&values)
            },
        );
    }
    for choice in 1_usize..1 << inputs.len() {
        let wanted: Vec<bool> = (0..inputs.len()).map(|index| choice >> index & 1 == 1).collect();
        let (_, _, some) = run(precision, inputs, &wanted, graph);
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
