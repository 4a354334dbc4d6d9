//! Learning-rate schedules, each equal to the definition of the same name in `transformers` or PyTorch.
//!
//! A schedule is a pure function of the step: nothing to save, nothing to resume. Only [`ReducePlateau`] has state.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::recipe::{ScheduleName, ScheduleSection};

/// A schedule over one stage: the factor on the learning rate of each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    shape: Shape,
    warmup_steps: u64,
    /// The steps after warm-up.
    steps: u64,
}

/// The shapes after warm-up, with their constants.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Constant,
    Linear,
    Cosine { num_cycles: f64 },
    CosineWithRestarts { num_cycles: f64 },
    Polynomial { power: f64, end: f64 },
    Exponential { gamma: f64 },
    Step { gamma: f64, step_size: u64 },
    OneCycle { pct_start: f64, first: f64, last: f64 },
    SlantedTriangular { cut_frac: f64, ratio: f64 },
}

impl Schedule {
    /// The schedule of a stage of `total_steps` optimizer steps.
    ///
    /// Warm-up takes `warmup_steps`, else `ceil(warmup_ratio · total_steps)` of them, as in `transformers`, but never
    /// more than there are; the shape spans the rest.
    pub fn new(section: &ScheduleSection, total_steps: u64) -> Self {
        let by_ratio = (section.warmup_ratio * total_steps as f64).ceil() as u64;
        let warmup_steps = section.warmup_steps.unwrap_or(by_ratio).min(total_steps);
        Self { shape: Shape::new(section), warmup_steps, steps: total_steps - warmup_steps }
    }

    /// The factor for update number `step`, counted from 0. After the last step the schedule stays where it ended.
    ///
    /// Warm-up rises in a line from 0 at step 0 to where the shape starts: 1, but for `one_cycle` and
    /// `slanted_triangular`, which start low.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.shape.factor(0, self.steps) * (step as f64 / self.warmup_steps as f64);
        }
        self.shape.factor(step - self.warmup_steps, self.steps)
    }
}

impl Shape {
    fn new(section: &ScheduleSection) -> Self {
        match section.name {
            // Between drops the rate is constant; [`ReducePlateau`] has the rest.
            ScheduleName::Constant | ScheduleName::ReduceOnPlateau => Self::Constant,
            ScheduleName::Linear => Self::Linear,
            ScheduleName::Cosine => Self::Cosine { num_cycles: section.num_cycles.unwrap_or(0.5) },
            ScheduleName::CosineWithRestarts => {
                Self::CosineWithRestarts { num_cycles: section.num_cycles.unwrap_or(1.0) }
            }
            ScheduleName::Polynomial => {
                Self::Polynomial { power: section.power.unwrap_or(1.0), end: section.lr_end.unwrap_or(1e-7) }
            }
            // A recipe must give gamma and step_size; without them the rate is constant.
            ScheduleName::Exponential => Self::Exponential { gamma: section.gamma.unwrap_or(1.0) },
            ScheduleName::Step => Self::Step {
                gamma: section.gamma.unwrap_or(0.1),
                step_size: section.step_size.unwrap_or(u64::MAX).max(1),
            },
            ScheduleName::OneCycle => {
                let first = 1.0 / section.div_factor.unwrap_or(25.0);
                Self::OneCycle {
                    pct_start: section.pct_start.unwrap_or(0.3),
                    first,
                    last: first / section.final_div_factor.unwrap_or(1e4),
                }
            }
            ScheduleName::SlantedTriangular => Self::SlantedTriangular {
                cut_frac: section.cut_frac.unwrap_or(0.1),
                ratio: section.ratio.unwrap_or(32.0),
            },
        }
    }

    /// The factor `step` steps after warm-up, of `steps`.
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let progress = step.min(steps) as f64 / steps.max(1) as f64;
        match *self {
            Self::Constant => 1.0,
            Self::Linear => (steps.max(1) - step.min(steps)) as f64 / steps.max(1) as f64,
            Self::Cosine { num_cycles } => 0.5 * (1.0 + (PI * num_cycles * 2.0 * progress).cos()),
            Self::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Self::CosineWithRestarts { num_cycles } => {
                0.5 * (1.0 + (PI * ((num_cycles * progress) % 1.0)).cos())
            }
            Self::Polynomial { power, end } => (1.0 - end) * (1.0 - progress).powf(power) + end,
            Self::Exponential { gamma } => gamma.powf(step.min(steps) as f64),
            Self::Step { gamma, step_size } => gamma.powf((step.min(steps) / step_size) as f64),
            Self::OneCycle { pct_start, first, last } => one_cycle(step, steps, pct_start, first, last),
            Self::SlantedTriangular { cut_frac, ratio } => slanted_triangular(step, steps, cut_frac, ratio),
        }
    }
}

/// PyTorch's `OneCycleLR` with two phases of cosine annealing (Smith and Topin 2018,
/// <https://arxiv.org/abs/1708.07120>): `first` to 1 at step `pct_start · steps − 1`, then to `last` at step `steps − 1`.
fn one_cycle(step: u64, steps: u64, pct_start: f64, first: f64, last: f64) -> f64 {
    let final_step = steps.saturating_sub(1) as f64;
    let peak = (pct_start * steps as f64 - 1.0).clamp(0.0, final_step);
    let step = (step as f64).min(final_step);
    let anneal = |from: f64, to: f64, share: f64| to + (from - to) / 2.0 * (1.0 + (PI * share).cos());
    if step <= peak && peak > 0.0 {
        anneal(first, 1.0, step / peak)
    } else if final_step > peak {
        anneal(1.0, last, (step - peak) / (final_step - peak))
    } else {
        1.0
    }
}

/// ULMFiT's slanted triangle (Howard and Ruder 2018, equation 3, <https://arxiv.org/abs/1801.06146>), never below its
/// lowest rate, which the rounding of the cut would allow on the last steps.
fn slanted_triangular(step: u64, steps: u64, cut_frac: f64, ratio: f64) -> f64 {
    let cut = (steps as f64 * cut_frac).floor().max(1.0);
    let step = step.min(steps) as f64;
    let share = if step < cut { step / cut } else { 1.0 - (step - cut) / (cut * (1.0 / cut_frac - 1.0)) };
    (1.0 + share.max(0.0) * (ratio - 1.0)) / ratio
}

/// PyTorch's `ReduceLROnPlateau` with a relative threshold of 1e-4 and no cooldown: after more than `patience`
/// evaluations without improvement the rate is multiplied by `factor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReducePlateau {
    reduction: f64,
    patience: u32,
    factor: f64,
    best: Option<f64>,
    bad_evaluations: u32,
}

impl ReducePlateau {
    const THRESHOLD: f64 = 1e-4;

    /// The state at the beginning of a stage; `None` if the schedule is another.
    pub fn for_section(section: &ScheduleSection) -> Option<Self> {
        (section.name == ScheduleName::ReduceOnPlateau).then(|| Self {
            reduction: section.factor.unwrap_or(0.1),
            patience: section.patience.unwrap_or(10),
            factor: 1.0,
            best: None,
            bad_evaluations: 0,
        })
    }

    /// The factor on the learning rate, beside [`Schedule::factor`].
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Takes an evaluation's metric into account. A metric that is not a number is no improvement.
    pub fn observe(&mut self, metric: f64, greater_is_better: bool) {
        let improved = match self.best {
            None => !metric.is_nan(),
            Some(best) if greater_is_better => metric > best * (1.0 + Self::THRESHOLD),
            Some(best) => metric < best * (1.0 - Self::THRESHOLD),
        };
        if improved {
            self.best = Some(metric);
            self.bad_evaluations = 0;
        } else {
            self.bad_evaluations += 1;
        }
        if self.bad_evaluations > self.patience {
            self.factor *= self.reduction;
            self.bad_evaluations = 0;
        }
    }
}

#[cfg(test)]
mod tests;
