//! What batch normalization saw in a pass, and what becomes of it: running statistics, or a recalibration.

use std::collections::BTreeMap;

use retune_tensor::ChannelStatistics;

use crate::images::BatchNorm2d;
use crate::store::{ParameterId, ParameterStore};

/// The statistics of one batch normalization's input in one pass.
#[derive(Clone, Debug)]
pub struct NormObservation {
    /// The layer.
    pub norm: BatchNorm2d,
    /// Mean and biased variance of each channel.
    pub statistics: ChannelStatistics,
    /// Values per channel they were taken over.
    pub rows: usize,
}

/// What one pass wants to change about buffers. A loop applies the updates of a step's micro-batches in their order, and
/// only with the step itself: a step that is given up leaves buffers as they were.
#[derive(Clone, Debug, Default)]
#[must_use = "running statistics stay behind unless the updates are applied with the step"]
pub struct BufferUpdates {
    observations: Vec<NormObservation>,
}

impl BufferUpdates {
    pub(crate) fn new(observations: Vec<NormObservation>) -> Self {
        Self { observations }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.observations.is_empty()
    }

    /// What was observed, in the order of the pass.
    pub fn observations(&self) -> &[NormObservation] {
        &self.observations
    }

    /// Moves running statistics towards those of the batch, as PyTorch does: `running += momentum · (batch - running)`,
    /// the variance unbiased. A batch of one value per channel has no variance and moves the mean only.
    pub fn apply(&self, store: &mut ParameterStore) {
        for NormObservation { norm, statistics, rows } in &self.observations {
            let rate = norm.momentum;
            let mut blend = |id: ParameterId, batch: &[f32], factor: f32| {
                for (running, &batch) in store.values_mut(id).iter_mut().zip(batch) {
                    *running = (1.0 - rate) * *running + rate * (batch * factor);
                }
            };
            blend(norm.running_mean, statistics.mean.values(), 1.0);
            if *rows > 1 {
                let unbiased = *rows as f64 / (*rows as f64 - 1.0);
                blend(norm.running_var, statistics.variance.values(), unbiased as f32);
            }
            for count in store.values_mut(norm.num_batches_tracked) {
                *count += 1.0;
            }
        }
    }
}

/// Mean and variance of a norm's input over several batches.
struct Seen {
    norm: BatchNorm2d,
    rows: f64,
    mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    deviations: Vec<f64>,
}

/// Recalibration of batch normalization whose running statistics carry no information, because they were folded into
/// weights at the source and are written as mean 0 and variance 1. Training such a layer by batch statistics would change
/// the function that the checkpoint computes. Recalibrated, it computes the same function and has true statistics.
#[derive(Default)]
pub struct NormRecalibration {
    seen: BTreeMap<ParameterId, Seen>,
}

impl NormRecalibration {
    /// Nothing observed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what a pass observed (see [`Forward::observing`](crate::Forward::observing)).
    pub fn observe(&mut self, updates: &BufferUpdates) {
        for NormObservation { norm, statistics, rows } in &updates.observations {
            let channels = statistics.mean.values().len();
            let seen = self.seen.entry(norm.weight).or_insert_with(|| Seen {
                norm: *norm,
                rows: 0.0,
                mean: vec![0.0; channels],
                deviations: vec![0.0; channels],
            });
            // Chan, Golub and LeVeque 1979: two samples' moments become those of both together.
            let (old, new) = (seen.rows, *rows as f64);
            let batch = statistics.mean.values().iter().zip(statistics.variance.values());
            for ((mean, deviations), (&batch_mean, &batch_variance)) in
                seen.mean.iter_mut().zip(&mut seen.deviations).zip(batch)
            {
                let difference = f64::from(batch_mean) - *mean;
                *mean += difference * new / (old + new);
                *deviations +=
                    f64::from(batch_variance) * new + difference * difference * old * new / (old + new);
            }
            seen.rows = old + new;
        }
    }

    /// Gives each observed norm that `chosen` picks the statistics of its input, with weight and bias changed so that it
    /// computes what it did: mean ← μ, variance ← σ², weight ← w·√((σ² + ε) / (v + ε)),
    /// bias ← b + w·(μ − m) / √(v + ε) for old statistics m, v and measured μ, σ². Returns how many were changed.
    pub fn apply(&self, store: &mut ParameterStore, chosen: impl Fn(&BatchNorm2d) -> bool) -> usize {
        let mut changed = 0;
        for Seen { norm, rows, mean, deviations } in self.seen.values().filter(|seen| chosen(&seen.norm)) {
            changed += 1;
            let eps = f64::from(norm.eps);
            let [weight, bias, old_mean, old_variance] =
                [norm.weight, norm.bias, norm.running_mean, norm.running_var]
                    .map(|id| store.tensor(id).values().to_vec());
            for channel in 0..mean.len() {
                let [w, b, m, v] =
                    [&weight, &bias, &old_mean, &old_variance].map(|values| f64::from(values[channel]));
                // The unbiased variance, which is what running statistics estimate.
                let variance = deviations[channel] / (rows - 1.0).max(1.0);
                let old_deviation = (v + eps).sqrt();
                store.values_mut(norm.weight)[channel] = (w * (variance + eps).sqrt() / old_deviation) as f32;
                store.values_mut(norm.bias)[channel] = (b + w * (mean[channel] - m) / old_deviation) as f32;
                store.values_mut(norm.running_mean)[channel] = mean[channel] as f32;
                store.values_mut(norm.running_var)[channel] = variance as f32;
            }
        }
        changed
    }
}

impl ParameterStore {
    /// The module paths of batch normalizations whose running statistics say nothing: mean 0 and variance 1 in every
    /// channel. In a loaded checkpoint that means that they were folded into weights at the source.
    pub fn uninformative_norms(&self) -> Vec<String> {
        let all = |name: &str, value: f32| {
            self.find(name).is_some_and(|id| self.tensor(id).values().iter().all(|&v| v == value))
        };
        self.ids()
            .filter_map(|id| self.declaration(id).name.strip_suffix(".running_mean"))
            .filter(|norm| {
                all(&format!("{norm}.running_mean"), 0.0) && all(&format!("{norm}.running_var"), 1.0)
            })
            .map(str::to_owned)
            .collect()
    }
}
