//! Optimizer steps over one contiguous slice, with PyTorch's semantics.
//!
//! Every gradient is first multiplied by `clip`. Hyperparameters are f64, as PyTorch's are: `1 - 0.999` in f32
//! is already wrong in the fifth digit.

use std::ops::Range;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

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

/// Which rows of a table may have a gradient or a state that is not zero. A step passes over the others quickly, with
/// the same result: most rows of an embedding table have never been looked up.
#[derive(Clone, Copy, Debug)]
pub struct LiveRows<'a> {
    /// Elements of a row.
    pub width: usize,
    /// Whether each row is live.
    pub live: &'a [bool],
}

/// How one element changes: from weight, clipped gradient and two states to weight and states.
trait Rule: Sync {
    fn apply<S: Simd>(&self, s: S, w: S::F, g: S::F, states: [S::F; 2]) -> (S::F, [S::F; 2]);

    /// What a weight is multiplied by where gradient and states are zero and stay so; `None` if they do not.
    fn idle(&self) -> Option<f32>;
}

struct Update<'a, R> {
    rule: R,
    clip: f32,
    w: Shared<'a, f32>,
    g: &'a [f32],
    /// States that a rule has no use for are absent, read as zero and not written.
    states: [Option<Shared<'a, f32>>; 2],
}

impl<R: Rule> Update<'_, R> {
    /// # Safety
    /// While this runs, nothing else uses these elements.
    #[inline(always)]
    unsafe fn span<S: Simd>(&self, s: S, range: Range<usize>) {
        let n = range.len();
        let g = &self.g[range.clone()][..n];
        // SAFETY: as the caller vouches.
        let (w, [a, b]) = unsafe {
            (
                self.w.range(range.clone()),
                self.states.map(|x| x.map_or(&mut [][..], |x| x.range(range.clone()))),
            )
        };
        let w = &mut w[..n];
        let clip = s.splat(self.clip);
        lanes!(S, i in n, {
            let before = [
                if a.is_empty() { s.zero() } else { s.read(a, i) },
                if b.is_empty() { s.zero() } else { s.read(b, i) },
            ];
            let (weight, after) = self.rule.apply(s, s.read(w, i), s.mul(s.read(g, i), clip), before);
            s.write(w, i, weight);
            if !a.is_empty() {
                s.write(a, i, after[0]);
            }
            if !b.is_empty() {
                s.write(b, i, after[1]);
            }
        });
    }
}

impl<R: Rule> Task for Update<'_, R> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        // SAFETY: pieces do not overlap.
        unsafe { self.span(s, elementwise::piece(piece, self.g.len())) };
    }
}

/// An update of a table, a piece of rows at a time.
struct UpdateRows<'a, R> {
    update: Update<'a, R>,
    rows: LiveRows<'a>,
    piece_rows: usize,
    idle: f32,
}

impl<R: Rule> Task for UpdateRows<'_, R> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let LiveRows { width, live } = self.rows;
        let idle = s.splat(self.idle);
        let rows = piece * self.piece_rows..((piece + 1) * self.piece_rows).min(live.len());
        for (row, &live) in rows.clone().zip(&live[rows]) {
            let range = row * width..(row + 1) * width;
            if live {
                // SAFETY: pieces do not overlap.
                unsafe { self.update.span(s, range) };
            } else if self.idle != 1.0 {
                // SAFETY: as above.
                let w = unsafe { self.update.w.range(range) };
                lanes!(S, i in width, {
                    s.write(w, i, s.mul(s.read(w, i), idle));
                });
            }
        }
    }
}

fn update<'a, R: Rule>(
    cpu: &Cpu,
    rule: R,
    clip: f32,
    w: &'a mut [f32],
    g: &'a [f32],
    states: [Option<&'a mut [f32]>; 2],
    rows: Option<LiveRows<'a>>,
) {
    let states = states.map(|state| state.map(Shared::new));
    let idle = rule.idle();
    let update = Update { rule, clip, w: Shared::new(w), g, states };
    match (rows, idle) {
        (Some(rows), Some(idle)) => {
            assert_eq!(rows.width * rows.live.len(), g.len(), "the live rows are not those of the table");
            let piece_rows = (elementwise::ALONE / rows.width.max(1)).max(1);
            let task = UpdateRows { update, rows, piece_rows, idle };
            cpu.run(rows.live.len().div_ceil(piece_rows), g.len() <= elementwise::ALONE, &task);
        }
        _ => elementwise::run(cpu, g.len(), &update),
    }
}

struct AdamWRule {
    first_rate: f32,
    beta2: f32,
    second_rate: f32,
    step_size: f32,
    inverse_root_correction: f32,
    eps: f32,
    shrink: f32,
    l2: f32,
}

impl Rule for AdamWRule {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, w: S::F, g: S::F, [m, v]: [S::F; 2]) -> (S::F, [S::F; 2]) {
        let g = s.mul_add(w, s.splat(self.l2), g);
        let w = s.mul(w, s.splat(self.shrink));
        let m = s.mul_add(s.sub(g, m), s.splat(self.first_rate), m);
        let v = s.mul_add(s.mul(g, g), s.splat(self.second_rate), s.mul(v, s.splat(self.beta2)));
        let denominator = s.mul_add(s.sqrt(v), s.splat(self.inverse_root_correction), s.splat(self.eps));
        (s.neg_mul_add(s.div(m, denominator), s.splat(self.step_size), w), [m, v])
    }

    fn idle(&self) -> Option<f32> {
        (self.l2 == 0.0 && self.eps > 0.0).then_some(self.shrink)
    }
}

/// One step of Adam or AdamW on weights `w`, gradient `g` and moments `m`, `v`.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn adamw_step(
    cpu: &Cpu,
    p: &AdamW,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    rows: Option<LiveRows>,
) {
    assert_eq!(w.len(), g.len(), "adamw_step: w and g differ in length");
    assert_eq!(w.len(), m.len(), "adamw_step: w and m differ in length");
    assert_eq!(w.len(), v.len(), "adamw_step: w and v differ in length");
    assert!(p.step > 0, "adamw_step: steps count from 1");
    let rule = AdamWRule {
        first_rate: (1.0 - p.beta1) as f32,
        beta2: p.beta2 as f32,
        second_rate: (1.0 - p.beta2) as f32,
        step_size: (p.learning_rate / (1.0 - p.beta1.powf(p.step as f64))) as f32,
        inverse_root_correction: (1.0 / (1.0 - p.beta2.powf(p.step as f64)).sqrt()) as f32,
        eps: p.eps as f32,
        shrink: if p.decoupled { (1.0 - p.learning_rate * p.weight_decay) as f32 } else { 1.0 },
        l2: if p.decoupled { 0.0 } else { p.weight_decay as f32 },
    };
    update(cpu, rule, clip, w, g, [Some(m), Some(v)], rows);
}

struct SgdRule {
    learning_rate: f32,
    weight_decay: f32,
    momentum: f32,
    entering: f32,
    nesterov: bool,
}

impl Rule for SgdRule {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, w: S::F, g: S::F, [buffer, unused]: [S::F; 2]) -> (S::F, [S::F; 2]) {
        let g = s.mul_add(w, s.splat(self.weight_decay), g);
        let buffer = s.mul_add(g, s.splat(self.entering), s.mul(buffer, s.splat(self.momentum)));
        let direction = if self.nesterov { s.mul_add(buffer, s.splat(self.momentum), g) } else { buffer };
        (s.neg_mul_add(direction, s.splat(self.learning_rate), w), [buffer, unused])
    }

    fn idle(&self) -> Option<f32> {
        (self.weight_decay == 0.0).then_some(1.0)
    }
}

/// One step of stochastic gradient descent; `momentum_buffer` is needed when momentum is not zero.
pub fn sgd_step(
    cpu: &Cpu,
    p: &Sgd,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    momentum_buffer: Option<&mut [f32]>,
    rows: Option<LiveRows>,
) {
    assert_eq!(w.len(), g.len(), "sgd_step: w and g differ in length");
    assert!(p.momentum == 0.0 || momentum_buffer.is_some(), "sgd_step: momentum needs its buffer");
    check_momentum("sgd_step", momentum_buffer.as_deref(), w.len());
    let with_momentum = p.momentum != 0.0;
    let mut momentum_buffer = momentum_buffer.filter(|_| with_momentum);
    if p.first
        && let Some(buffer) = momentum_buffer.as_deref_mut()
    {
        buffer.fill(0.0);
    }
    let rule = SgdRule {
        learning_rate: p.learning_rate as f32,
        weight_decay: p.weight_decay as f32,
        momentum: p.momentum as f32,
        entering: if with_momentum && !p.first { (1.0 - p.dampening) as f32 } else { 1.0 },
        nesterov: p.nesterov && with_momentum,
    };
    update(cpu, rule, clip, w, g, [momentum_buffer, None], rows);
}

fn check_momentum(kernel: &str, buffer: Option<&[f32]>, len: usize) {
    assert!(buffer.is_none_or(|b| b.len() == len), "{kernel}: w and momentum_buffer differ in length");
}

struct RmsPropRule {
    learning_rate: f32,
    weight_decay: f32,
    alpha: f32,
    entering: f32,
    eps: f32,
    momentum: f32,
}

impl Rule for RmsPropRule {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, w: S::F, g: S::F, [average, buffer]: [S::F; 2]) -> (S::F, [S::F; 2]) {
        let g = s.mul_add(w, s.splat(self.weight_decay), g);
        let average = s.mul_add(s.mul(g, g), s.splat(self.entering), s.mul(average, s.splat(self.alpha)));
        let update = s.div(g, s.add(s.sqrt(average), s.splat(self.eps)));
        let buffer = s.mul_add(buffer, s.splat(self.momentum), update);
        (s.neg_mul_add(buffer, s.splat(self.learning_rate), w), [average, buffer])
    }

    fn idle(&self) -> Option<f32> {
        (self.weight_decay == 0.0 && self.eps > 0.0).then_some(1.0)
    }
}

/// One step of RMSprop; `momentum_buffer` is needed when momentum is not zero.
#[expect(clippy::too_many_arguments, reason = "the operands of one kernel")]
pub fn rmsprop_step(
    cpu: &Cpu,
    p: &RmsProp,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    square_avg: &mut [f32],
    momentum_buffer: Option<&mut [f32]>,
    rows: Option<LiveRows>,
) {
    assert_eq!(w.len(), g.len(), "rmsprop_step: w and g differ in length");
    assert_eq!(w.len(), square_avg.len(), "rmsprop_step: w and square_avg differ in length");
    assert!(p.momentum == 0.0 || momentum_buffer.is_some(), "rmsprop_step: momentum needs its buffer");
    check_momentum("rmsprop_step", momentum_buffer.as_deref(), w.len());
    let rule = RmsPropRule {
        learning_rate: p.learning_rate as f32,
        weight_decay: p.weight_decay as f32,
        alpha: p.alpha as f32,
        entering: (1.0 - p.alpha) as f32,
        eps: p.eps as f32,
        momentum: p.momentum as f32,
    };
    let momentum_buffer = momentum_buffer.filter(|_| p.momentum != 0.0);
    update(cpu, rule, clip, w, g, [Some(square_avg), momentum_buffer], rows);
}

struct LionRule {
    learning_rate: f32,
    shrink: f32,
    beta1: f32,
    first_rate: f32,
    beta2: f32,
    second_rate: f32,
}

impl Rule for LionRule {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, w: S::F, g: S::F, [m, unused]: [S::F; 2]) -> (S::F, [S::F; 2]) {
        let direction = s.mul_add(g, s.splat(self.first_rate), s.mul(m, s.splat(self.beta1)));
        let rate = s.splat(self.learning_rate);
        let change = s.select(s.less(s.zero(), direction), rate, s.zero());
        let change = s.select(s.less(direction, s.zero()), s.sub(s.zero(), rate), change);
        let w = s.sub(s.mul(w, s.splat(self.shrink)), change);
        (w, [s.mul_add(g, s.splat(self.second_rate), s.mul(m, s.splat(self.beta2))), unused])
    }

    fn idle(&self) -> Option<f32> {
        Some(self.shrink)
    }
}

/// One step of Lion on weights `w`, gradient `g` and momentum `m`.
pub fn lion_step(
    cpu: &Cpu,
    p: &Lion,
    clip: f32,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    rows: Option<LiveRows>,
) {
    assert_eq!(w.len(), g.len(), "lion_step: w and g differ in length");
    assert_eq!(w.len(), m.len(), "lion_step: w and m differ in length");
    let rule = LionRule {
        learning_rate: p.learning_rate as f32,
        shrink: (1.0 - p.learning_rate * p.weight_decay) as f32,
        beta1: p.beta1 as f32,
        first_rate: (1.0 - p.beta1) as f32,
        beta2: p.beta2 as f32,
        second_rate: (1.0 - p.beta2) as f32,
    };
    update(cpu, rule, clip, w, g, [Some(m), None], rows);
}

struct EmaRule {
    rate: f32,
}

impl Rule for EmaRule {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, ema: S::F, w: S::F, states: [S::F; 2]) -> (S::F, [S::F; 2]) {
        (s.mul_add(s.sub(w, ema), s.splat(self.rate), ema), states)
    }

    fn idle(&self) -> Option<f32> {
        None
    }
}

/// `ema = decay · ema + (1 - decay) · w`.
pub fn ema_update(cpu: &Cpu, decay: f64, ema: &mut [f32], w: &[f32]) {
    assert_eq!(ema.len(), w.len(), "ema_update: ema and w differ in length");
    update(cpu, EmaRule { rate: (1.0 - decay) as f32 }, 1.0, ema, w, [None, None], None);
}
