//! The optimizers, with their state per parameter.

use retune_autograd::{Gradients, Reach};
use retune_kernels as kernels;
use retune_kernels::{AdamW, Cpu, Lion, LiveRows, RmsProp, Sgd};
use serde::{Deserialize, Serialize};

use crate::store::{ParameterId, ParameterStore, Trainable};

/// Which update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Adam (Kingma and Ba 2015); weight decay is L2.
    Adam,
    /// Stochastic gradient descent with momentum; weight decay is L2.
    Sgd,
    /// RMSprop (Hinton 2012) as PyTorch has it; weight decay is L2.
    RmsProp,
    /// Lion (Chen et al. 2023), decoupled weight decay.
    Lion,
    /// Adafactor (Shazeer and Stern 2018) with a given learning rate, decoupled weight decay.
    Adafactor,
}

/// An optimizer's constants, under the reference's names and with its defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The update rule.
    pub kind: OptimizerKind,
    /// Decay of the first moment (Adam, Lion).
    pub beta1: f64,
    /// Decay of the second moment (Adam, Lion).
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Momentum (SGD, RMSprop).
    pub momentum: f64,
    /// Nesterov's momentum (SGD).
    pub nesterov: bool,
    /// Decay of the squared average (RMSprop).
    pub alpha: f64,
}

impl OptimizerConfig {
    /// The defaults of a rule.
    pub fn new(kind: OptimizerKind) -> Self {
        let (beta1, beta2) = if kind == OptimizerKind::Lion { (0.9, 0.99) } else { (0.9, 0.999) };
        let momentum = if kind == OptimizerKind::Sgd { 0.9 } else { 0.0 };
        Self { kind, beta1, beta2, eps: 1e-8, momentum, nesterov: false, alpha: 0.99 }
    }

    /// The names of the state that a parameter of this shape has, in the order of [`ParameterState::slots`].
    pub fn slot_names(&self, shape: &[usize]) -> &'static [&'static str] {
        match self.kind {
            OptimizerKind::AdamW | OptimizerKind::Adam => &["exp_avg", "exp_avg_sq"],
            OptimizerKind::Sgd if self.momentum == 0.0 => &[],
            OptimizerKind::Sgd => &["momentum_buffer"],
            OptimizerKind::RmsProp if self.momentum == 0.0 => &["square_avg"],
            OptimizerKind::RmsProp => &["square_avg", "momentum_buffer"],
            OptimizerKind::Lion => &["exp_avg"],
            OptimizerKind::Adafactor if is_matrix(shape) => &["exp_avg_sq_row", "exp_avg_sq_col"],
            OptimizerKind::Adafactor => &["exp_avg_sq"],
        }
    }

    fn decays_by_gradient(&self) -> bool {
        matches!(self.kind, OptimizerKind::Adam | OptimizerKind::Sgd | OptimizerKind::RmsProp)
    }

    fn slot_length(&self, slot: usize, shape: &[usize]) -> usize {
        match (self.kind, slot) {
            (OptimizerKind::Adafactor, 0) if is_matrix(shape) => shape[0],
            (OptimizerKind::Adafactor, 1) => shape[1],
            _ => shape.iter().product(),
        }
    }

    /// Values of optimizer state for a parameter of this shape.
    pub fn state_elements(&self, shape: &[usize]) -> usize {
        (0..self.slot_names(shape).len()).map(|slot| self.slot_length(slot, shape)).sum()
    }
}

fn is_matrix(shape: &[usize]) -> bool {
    shape.len() == 2
}

/// The learning rate and weight decay of one parameter in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParameterRates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// The optimizer's state of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterState {
    /// Updates made to this parameter.
    pub step: u64,
    /// One buffer for each of [`OptimizerConfig::slot_names`].
    pub slots: Vec<Vec<f32>>,
}

/// Which rows of a table have a gradient or a state that is not zero.
#[derive(Clone, Debug, Default)]
struct Live {
    /// Empty until a gradient comes that is known by its rows.
    rows: Vec<bool>,
}

impl Live {
    /// The rows that an update must visit: those of the gradient and those with a state. `None`: all.
    fn widen(&mut self, reach: &Reach, slots: &[Vec<f32>]) -> Option<LiveRows<'_>> {
        let Reach::Rows { width, live } = reach else {
            self.rows.clear();
            return None;
        };
        if self.rows.is_empty() {
            self.rows = vec![false; live.len()];
            for slot in slots.iter().filter(|slot| slot.len() == width * live.len()) {
                for (known, state) in self.rows.iter_mut().zip(slot.chunks_exact(*width)) {
                    *known |= state.iter().any(|&value| value != 0.0);
                }
            }
        }
        self.rows.iter_mut().zip(live).for_each(|(known, &live)| *known |= live);
        Some(LiveRows { width: *width, live: &self.rows })
    }
}

/// An optimizer and its state. A parameter gets fresh state when it first trains and loses it when it no longer does.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    states: Vec<Option<ParameterState>>,
    live: Vec<Live>,
}

impl Optimizer {
    /// An optimizer without state.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, states: Vec::new(), live: Vec::new() }
    }

    /// Its constants.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Gives fresh state to parameters that begin to train and drops that of those that stopped.
    pub fn set_trainable(&mut self, store: &ParameterStore, trainable: &Trainable) {
        self.states.resize(store.ids().count(), None);
        self.live.resize_with(store.ids().count(), Live::default);
        for id in store.ids() {
            let state = &mut self.states[id.index()];
            if trainable.slot(id).is_none() {
                *state = None;
            } else if state.is_none() {
                let shape = &store.declaration(id).shape;
                let slots = (0..self.config.slot_names(shape).len())
                    .map(|slot| vec![0.0; self.config.slot_length(slot, shape)])
                    .collect();
                *state = Some(ParameterState { step: 0, slots });
                self.live[id.index()] = Live::default();
            }
        }
    }

    /// The state of a parameter, if it trains.
    pub fn state(&self, id: ParameterId) -> Option<&ParameterState> {
        self.states.get(id.index()).and_then(Option::as_ref)
    }

    /// The state of a parameter for writing (restoring a checkpoint).
    pub fn state_mut(&mut self, id: ParameterId) -> Option<&mut ParameterState> {
        if let Some(live) = self.live.get_mut(id.index()) {
            *live = Live::default();
        }
        self.states.get_mut(id.index()).and_then(Option::as_mut)
    }

    /// One update of every trainable parameter. Gradients are multiplied by `clip` first.
    pub fn step(
        &mut self,
        cpu: &Cpu,
        store: &mut ParameterStore,
        trainable: &Trainable,
        gradients: &Gradients,
        clip: f32,
        rates: impl Fn(ParameterId) -> ParameterRates,
    ) {
        for (slot, &id) in trainable.ids().iter().enumerate() {
            let Some(state) = self.states.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            state.step += 1;
            let shape = store.declaration(id).shape.clone();
            let rates = rates(id);
            // L2 gives every row a gradient.
            let l2 = self.config.decays_by_gradient() && rates.weight_decay != 0.0;
            let reach = if l2 { &Reach::Everything } else { gradients.reach(slot) };
            let rows = self.live[id.index()].widen(reach, &state.slots);
            let update = Update { config: self.config, rates, clip, shape: &shape, rows };
            update.apply(cpu, store.values_mut(id), gradients.slot(slot), state);
        }
    }
}

/// One parameter's update.
struct Update<'a> {
    config: OptimizerConfig,
    rates: ParameterRates,
    clip: f32,
    shape: &'a [usize],
    rows: Option<LiveRows<'a>>,
}

impl Update<'_> {
    fn apply(&self, cpu: &Cpu, weights: &mut [f32], gradient: &[f32], state: &mut ParameterState) {
        let ParameterRates { learning_rate, weight_decay } = self.rates;
        let OptimizerConfig { kind, beta1, beta2, eps, momentum, nesterov, alpha } = self.config;
        let (clip, step, rows) = (self.clip, state.step, self.rows);
        match (kind, state.slots.as_mut_slice()) {
            (OptimizerKind::AdamW | OptimizerKind::Adam, [first, second]) => {
                let decoupled = kind == OptimizerKind::AdamW;
                let constants = AdamW { learning_rate, beta1, beta2, eps, weight_decay, step, decoupled };
                kernels::adamw_step(cpu, &constants, clip, weights, gradient, first, second, rows);
            }
            (OptimizerKind::Sgd, slots) => {
                let first = step == 1;
                let constants =
                    Sgd { learning_rate, momentum, dampening: 0.0, nesterov, weight_decay, first };
                let buffer = slots.first_mut().map(Vec::as_mut_slice);
                kernels::sgd_step(cpu, &constants, clip, weights, gradient, buffer, rows);
            }
            (OptimizerKind::RmsProp, [square_avg, rest @ ..]) => {
                let constants = RmsProp { learning_rate, alpha, eps, momentum, weight_decay };
                let buffer = rest.first_mut().map(Vec::as_mut_slice);
                kernels::rmsprop_step(cpu, &constants, clip, weights, gradient, square_avg, buffer, rows);
            }
            (OptimizerKind::Lion, [first]) => {
                let constants = Lion { learning_rate, beta1, beta2, weight_decay };
                kernels::lion_step(cpu, &constants, clip, weights, gradient, first, rows);
            }
            (OptimizerKind::Adafactor, slots) => self.adafactor(weights, gradient, slots, step),
            _ => unreachable!("state was made for this optimizer"),
        }
    }

    /// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5) with an external learning rate, no first moment,
    /// update clipping at 1 and second-moment decay `1 - t^-0.8`.
    fn adafactor(&self, weights: &mut [f32], gradient: &[f32], slots: &mut [Vec<f32>], step: u64) {
        const EPS: f64 = 1e-30;
        let decay = 1.0 - (step as f64).powf(-0.8);
        let squared = |value: f32| {
            let value = f64::from(value * self.clip);
            value * value + EPS
        };
        let blend = |old: &mut f32, new: f64| *old = (decay * f64::from(*old) + (1.0 - decay) * new) as f32;
        let mut update: Vec<f64> = gradient.iter().map(|&g| f64::from(g * self.clip)).collect();
        if let [row, column] = slots {
            let (rows, columns) = (self.shape[0], self.shape[1]);
            let mut column_sums = vec![0.0; columns];
            for (r, values) in gradient.chunks_exact(columns).enumerate() {
                let mut sum = 0.0;
                for (column_sum, &value) in column_sums.iter_mut().zip(values) {
                    sum += squared(value);
                    *column_sum += squared(value);
                }
                blend(&mut row[r], sum / columns as f64);
            }
            for (column, sum) in column.iter_mut().zip(column_sums) {
                blend(column, sum / rows as f64);
            }
            let row_mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / rows as f64;
            for (r, values) in update.chunks_exact_mut(columns).enumerate() {
                let row_factor = f64::from(row[r]) / row_mean;
                for (value, &column) in values.iter_mut().zip(column.iter()) {
                    *value /= (row_factor * f64::from(column)).sqrt();
                }
            }
        } else if let [second] = slots {
            for ((value, second), &g) in update.iter_mut().zip(second.iter_mut()).zip(gradient) {
                blend(second, squared(g));
                *value /= f64::from(*second).sqrt();
            }
        }
        let mean_square = update.iter().map(|value| value * value).sum::<f64>() / update.len() as f64;
        let factor = self.rates.learning_rate / mean_square.sqrt().max(1.0);
        let kept = (1.0 - self.rates.learning_rate * self.rates.weight_decay) as f32;
        for (weight, value) in weights.iter_mut().zip(update) {
            *weight = *weight * kept - (factor * value) as f32;
        }
    }
}
