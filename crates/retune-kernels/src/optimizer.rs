//! Optimizer steps over one contiguous slice, with PyTorch's semantics.
//!
//! Every gradient is first multiplied by `clip`. Hyperparameters are f64, as PyTorch's are: `1 - 0.999` in f32
//! is already wrong in the fifth digit.

use crate::Cpu;

/// Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019; `torch.optim.AdamW`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
    /// Whether weight decay shrinks the weights directly (AdamW) or is added to the gradient (Adam with L2).
    pub decoupled: bool,
}

/// Stochastic gradient descent (`torch.optim.SGD`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the momentum buffer; zero for none.
    pub momentum: f64,
    /// What is taken off the gradient as it enters the buffer.
    pub dampening: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Whether this is the first step, in which the buffer becomes the gradient itself.
    pub first: bool,
}

/// RMSprop, not centered (`torch.optim.RMSprop`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the squared average.
    pub alpha: f64,
    /// Added to the root of the squared average.
    pub eps: f64,
    /// Decay of the momentum buffer; zero for none.
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Step size.
    pub learning_rate: f64,
    /// The weight of the momentum in the update's sign.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// One step of Adam or AdamW on weights `w`, gradient `g` and moments `m`, `v`.
pub fn adamw_step(_cpu: &Cpu, p: &AdamW, clip: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    assert_eq!(w.len(), g.len(), "adamw_step: w and g differ in length");
    assert_eq!(w.len(), m.len(), "adamw_step: w and m differ in length");
    assert_eq!(w.len(), v.len(), "adamw_step: w and v differ in length");
    assert!(p.step > 0, "adamw_step: steps count from 1");
    let step_size = p.learning_rate / (1.0 - p.beta1.powf(p.step as f64));
    let root_correction = (1.0 - p.beta2.powf(p.step as f64)).sqrt();
    for i in 0..w.len() {
        let mut gradient = g[i] * clip;
        if p.decoupled {
            w[i] *= (1.0 - p.learning_rate * p.weight_decay) as f32;
        } else {
            gradient += p.weight_decay as f32 * w[i];
        }
        m[i] += (1.0 - p.beta1) as f32 * (gradient - m[i]);
        v[i] = p.beta2 as f32 * v[i] + (1.0 - p.beta2) as f32 * gradient * gradient;
        w[i] -= step_size as f32 * m[i] / (v[i].sqrt() / root_correction as f32 + p.eps as f32);
    }
}

/// One step of stochastic gradient descent; `momentum_buffer` is needed when momentum is not zero.
pub fn sgd_step(
    _cpu: &Cpu,
    p: &Sgd,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    mut momentum_buffer: Option<&mut [f32]>,
) {
    assert_eq!(w.len(), g.len(), "sgd_step: w and g differ in length");
    assert!(p.momentum == 0.0 || momentum_buffer.is_some(), "sgd_step: momentum needs its buffer");
    assert!(
        momentum_buffer.as_ref().is_none_or(|b| b.len() == w.len()),
        "sgd_step: w and momentum_buffer differ in length"
    );
    for i in 0..w.len() {
        let mut gradient = g[i] * clip + p.weight_decay as f32 * w[i];
        if p.momentum != 0.0
            && let Some(buffer) = momentum_buffer.as_deref_mut()
        {
            buffer[i] = if p.first {
                gradient
            } else {
                p.momentum as f32 * buffer[i] + (1.0 - p.dampening) as f32 * gradient
            };
            gradient = if p.nesterov { gradient + p.momentum as f32 * buffer[i] } else { buffer[i] };
        }
        w[i] -= p.learning_rate as f32 * gradient;
    }
}

/// One step of RMSprop; `momentum_buffer` is needed when momentum is not zero.
pub fn rmsprop_step(
    _cpu: &Cpu,
    p: &RmsProp,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    square_avg: &mut [f32],
    mut momentum_buffer: Option<&mut [f32]>,
) {
    assert_eq!(w.len(), g.len(), "rmsprop_step: w and g differ in length");
    assert_eq!(w.len(), square_avg.len(), "rmsprop_step: w and square_avg differ in length");
    assert!(p.momentum == 0.0 || momentum_buffer.is_some(), "rmsprop_step: momentum needs its buffer");
    assert!(
        momentum_buffer.as_ref().is_none_or(|b| b.len() == w.len()),
        "rmsprop_step: w and momentum_buffer differ in length"
    );
    for i in 0..w.len() {
        let gradient = g[i] * clip + p.weight_decay as f32 * w[i];
        square_avg[i] = p.alpha as f32 * square_avg[i] + (1.0 - p.alpha) as f32 * gradient * gradient;
        let mut update = gradient / (square_avg[i].sqrt() + p.eps as f32);
        if p.momentum != 0.0
            && let Some(buffer) = momentum_buffer.as_deref_mut()
        {
            buffer[i] = p.momentum as f32 * buffer[i] + update;
            update = buffer[i];
        }
        w[i] -= p.learning_rate as f32 * update;
    }
}

/// One step of Lion on weights `w`, gradient `g` and momentum `m`.
pub fn lion_step(_cpu: &Cpu, p: &Lion, clip: f32, w: &mut [f32], g: &[f32], m: &mut [f32]) {
    assert_eq!(w.len(), g.len(), "lion_step: w and g differ in length");
    assert_eq!(w.len(), m.len(), "lion_step: w and m differ in length");
    for i in 0..w.len() {
        let gradient = g[i] * clip;
        let direction = p.beta1 as f32 * m[i] + (1.0 - p.beta1) as f32 * gradient;
        let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
        w[i] = w[i] * (1.0 - p.learning_rate * p.weight_decay) as f32 - p.learning_rate as f32 * sign;
        m[i] = p.beta2 as f32 * m[i] + (1.0 - p.beta2) as f32 * gradient;
    }
}

/// `ema = decay · ema + (1 - decay) · w`.
pub fn ema_update(_cpu: &Cpu, decay: f64, ema: &mut [f32], w: &[f32]) {
    assert_eq!(ema.len(), w.len(), "ema_update: ema and w differ in length");
    for i in 0..w.len() {
        ema[i] += (1.0 - decay) as f32 * (w[i] - ema[i]);
    }
}
