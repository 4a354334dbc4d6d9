//! A linear probe: multinomial logistic regression on features, fitted to its optimum in seconds.
//!
//! With a ridge penalty the optimum is one point, so that the result depends on data alone. Minimized by L-BFGS (Liu and
//! Nocedal 1989, "On the limited memory BFGS method for large scale optimization").

use std::collections::VecDeque;

use retune_kernels::{Activation, Cpu, Gemm, Layout, Precision, gemm};

/// Steps that the Hessian is estimated from.
const MEMORY: usize = 10;
const MOST_ITERATIONS: usize = 200;
/// The gradient's norm at which the optimum is reached.
const TOLERANCE: f64 = 1e-4;

/// Rows of features, [rows, width].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub width: usize,
}

impl Rows<'_> {
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Some of the rows.
    pub fn gather(&self, rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|&row| &self.values[row * self.width..(row + 1) * self.width]).copied().collect()
    }

    /// The rows with each column at mean 0 and deviation 1; a constant column is all 0.
    pub fn standardized(&self) -> Vec<f32> {
        self.standardized_by(&self.moments())
    }

    /// The rows as others have to be that these moments are of.
    pub fn standardized_by(&self, Moments { mean, scale }: &Moments) -> Vec<f32> {
        let standardize = |row: &[f32]| -> Vec<f32> {
            let columns = row.iter().zip(mean).zip(scale);
            columns.map(|((&value, mean), scale)| ((f64::from(value) - mean) * scale) as f32).collect()
        };
        self.values.chunks_exact(self.width).flat_map(standardize).collect()
    }

    /// The moments of each column.
    pub fn moments(&self) -> Moments {
        let (count, width) = (self.len().max(1) as f64, self.width);
        let (mut mean, mut deviation) = (vec![0.0; width], vec![0.0; width]);
        for row in self.values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / count);
        }
        for row in self.values.chunks_exact(width) {
            for ((sum, &value), mean) in deviation.iter_mut().zip(row).zip(&mean) {
                *sum += (f64::from(value) - mean).powi(2) / count;
            }
        }
        let scale = |&variance: &f64| if variance > 1e-12 { variance.sqrt().recip() } else { 0.0 };
        Moments { mean, scale: deviation.iter().map(scale).collect() }
    }
}

/// What columns are standardized by.
pub(crate) struct Moments {
    mean: Vec<f64>,
    /// One over the standard deviation; 0 for a constant column.
    scale: Vec<f64>,
}

/// A fitted probe.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// [classes, width], then [classes].
    parameters: Vec<f64>,
    classes: usize,
}

impl Probe {
    /// Fits a probe: mean cross-entropy plus `ridge / 2` times the sum of the squared weights.
    pub fn fit(cpu: &Cpu, rows: Rows<'_>, targets: &[u32], classes: usize, ridge: f64) -> Self {
        let objective = |parameters: &[f64]| objective(cpu, rows, targets, classes, ridge, parameters);
        Self { parameters: minimize(vec![0.0; classes * (rows.width + 1)], objective), classes }
    }

    /// The probability of each class for each row, [rows, classes].
    pub fn probabilities(&self, cpu: &Cpu, rows: Rows<'_>) -> Vec<f64> {
        let logits = logits(cpu, rows, self.classes, &self.parameters);
        logits.chunks_exact(self.classes).flat_map(softmax).collect()
    }

    /// The most probable class of each row.
    pub fn classes(&self, cpu: &Cpu, rows: Rows<'_>) -> Vec<u32> {
        let logits = logits(cpu, rows, self.classes, &self.parameters);
        let most =
            |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
        logits.chunks_exact(self.classes).map(most).collect()
    }
}

fn logits(cpu: &Cpu, rows: Rows<'_>, classes: usize, parameters: &[f64]) -> Vec<f32> {
    let parameters: Vec<f32> = parameters.iter().map(|&value| value as f32).collect();
    let (weight, bias) = parameters.split_at(classes * rows.width);
    let mut logits = vec![0.0; rows.len() * classes];
    let product = Gemm {
        layout: Layout::Nt,
        m: rows.len(),
        n: classes,
        k: rows.width,
        precision: Precision::F32,
        a: rows.values.into(),
        b: weight.into(),
        accumulate: false,
        scale: 1.0,
        bias: Some(bias),
        activation: Activation::Identity,
    };
    gemm(cpu, &product, &mut logits, None);
    logits
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// The objective's value and gradient.
fn objective(
    cpu: &Cpu,
    rows: Rows<'_>,
    targets: &[u32],
    classes: usize,
    ridge: f64,
    parameters: &[f64],
) -> (f64, Vec<f64>) {
    let count = rows.len().max(1) as f64;
    let weights = classes * rows.width;
    let mut residuals = logits(cpu, rows, classes, parameters);
    let mut loss = 0.0;
    let mut gradient = vec![0.0; parameters.len()];
    for (row, &target) in residuals.chunks_exact_mut(classes).zip(targets) {
        let probabilities = softmax(row);
        loss -= probabilities[target as usize].max(f64::MIN_POSITIVE).ln() / count;
        for (class, (residual, probability)) in row.iter_mut().zip(probabilities).enumerate() {
            let value = (probability - f64::from(u8::from(class == target as usize))) / count;
            *residual = value as f32;
            gradient[weights + class] += value;
        }
    }
    let mut weight_gradient = vec![0.0; weights];
    let product = Gemm {
        layout: Layout::Tn,
        m: classes,
        n: rows.width,
        k: rows.len(),
        precision: Precision::F32,
        a: (&residuals).into(),
        b: rows.values.into(),
        accumulate: false,
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
    };
    gemm(cpu, &product, &mut weight_gradient, None);
    for ((gradient, &of_loss), &parameter) in gradient.iter_mut().zip(&weight_gradient).zip(parameters) {
        *gradient = f64::from(of_loss) + ridge * parameter;
    }
    let penalty: f64 = parameters[..weights].iter().map(|weight| weight * weight).sum();
    (loss + 0.5 * ridge * penalty, gradient)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(a: &mut [f64], scale: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += scale * b);
}

/// A step of the parameters, the change of the gradient over it, and their product.
struct Step {
    moved: Vec<f64>,
    turned: Vec<f64>,
    product: f64,
}

/// Minimizes a smooth function that is given with its gradient.
fn minimize(mut parameters: Vec<f64>, objective: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Vec<f64> {
    const SUFFICIENT: f64 = 1e-4;
    const MOST_HALVINGS: usize = 30;
    let (mut value, mut gradient) = objective(&parameters);
    let mut steps: VecDeque<Step> = VecDeque::new();
    for _ in 0..MOST_ITERATIONS {
        let norm = dot(&gradient, &gradient).sqrt();
        if norm < TOLERANCE {
            break;
        }
        let direction = direction(&gradient, &steps);
        let slope = dot(&direction, &gradient);
        let mut length = if steps.is_empty() { norm.recip().min(1.0) } else { 1.0 };
        let mut next = None;
        for _ in 0..MOST_HALVINGS {
            let mut tried = parameters.clone();
            add_scaled(&mut tried, length, &direction);
            let (there, gradient_there) = objective(&tried);
            if there <= value + SUFFICIENT * length * slope {
                next = Some((tried, there, gradient_there));
                break;
            }
            length *= 0.5;
        }
        // No step lowers it further: f32 sums have no more digits.
        let Some((tried, there, gradient_there)) = next else { break };
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let (moved, turned) = (difference(&tried, &parameters), difference(&gradient_there, &gradient));
        let product = dot(&moved, &turned);
        if product > 1e-12 {
            if steps.len() == MEMORY {
                steps.pop_front();
            }
            steps.push_back(Step { moved, turned, product });
        }
        (parameters, value, gradient) = (tried, there, gradient_there);
    }
    parameters
}

/// The two-loop recursion: minus the inverse Hessian's estimate times the gradient.
fn direction(gradient: &[f64], steps: &VecDeque<Step>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|value| -value).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let share = dot(&step.moved, &direction) / step.product;
        add_scaled(&mut direction, -share, &step.turned);
        shares.push(share);
    }
    if let Some(last) = steps.back() {
        let scale = last.product / dot(&last.turned, &last.turned);
        direction.iter_mut().for_each(|value| *value *= scale);
    }
    for (step, share) in steps.iter().zip(shares.into_iter().rev()) {
        let correction = share - dot(&step.turned, &direction) / step.product;
        add_scaled(&mut direction, correction, &step.moved);
    }
    direction
}

#[cfg(test)]
mod tests {
    use retune_kernels::Isa;

    use super::*;

    fn cpu() -> Cpu {
        Cpu::new(1, Isa::Portable).unwrap()
    }

    #[test]
    fn without_features_the_probe_answers_with_the_classes_shares() {
        // Three of four rows are of class 1: the best constant answer is 0.25, 0.75.
        let rows = Rows { values: &[0.0; 4], width: 1 };
        let probe = Probe::fit(&cpu(), rows, &[1, 0, 1, 1], 2, 1e-3);
        let answer = probe.probabilities(&cpu(), Rows { values: &[0.0], width: 1 });
        assert!((answer[0] - 0.25).abs() < 1e-3 && (answer[1] - 0.75).abs() < 1e-3, "{answer:?}");
    }

    #[test]
    fn at_the_optimum_the_penalty_balances_the_loss() {
        // Rows ±1 of classes 1 and 0, two classes: by symmetry weights are ±w, and w = sigmoid(-2w) / ridge.
        let rows = Rows { values: &[1.0, -1.0], width: 1 };
        let ridge = 0.1;
        let probe = Probe::fit(&cpu(), rows, &[1, 0], 2, ridge);
        let w = probe.parameters[1];
        assert!((probe.parameters[0] + w).abs() < 1e-3);
        assert!((w - 1.0 / (1.0 + (2.0 * w).exp()) / ridge).abs() < 1e-2, "{w}");
    }

    #[test]
    fn standardized_columns_have_mean_0_and_deviation_1_and_constants_vanish() {
        let rows = Rows { values: &[1.0, 5.0, 3.0, 5.0], width: 2 };
        assert_eq!(rows.standardized(), [-1.0, 0.0, 1.0, 0.0]);
        assert_eq!(rows.gather(&[1]), [3.0, 5.0]);
    }
}
