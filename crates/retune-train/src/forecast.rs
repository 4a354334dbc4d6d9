//! What a run will take on this machine, said before its first step and held against what it took.
//!
//! Time is work, counted without numbers, at the speeds that [`MachineRates`] measured here, and what the system takes to hand
//! out memory; memory is what the process holds once everything is loaded and what a step adds to it.

use std::time::Instant;

use retune_nn::Randomness;
use retune_tensor::{Work, WorkCounts};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::memory::used_bytes;
use crate::plan::{RunPlan, StagePlan};
use crate::prepare::Prepared;
use crate::rates::MachineRates;
use crate::recipe::Recipe;
use crate::state::StageTiming;
use crate::trainee::{Fetch, Split, Trainee};

/// What a run is expected to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Its stages.
    pub stages: Vec<StageForecast>,
    /// Seconds of training, with the evaluations on the way, if no stage ends early.
    pub seconds: f64,
    /// Bytes of the process that are in memory at most, where the system tells what it holds now.
    pub resident_bytes: Option<u64>,
}

/// What a stage is expected to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageForecast {
    /// Optimizer steps, if it does not end early.
    pub steps: u64,
    /// Seconds of all its steps.
    pub seconds: f64,
    /// Evaluations on the way.
    pub evaluations: u64,
    /// Seconds of all of them.
    pub evaluation_seconds: f64,
}

/// Samples that are made ready to see how long that takes.
const TIMED_SAMPLES: usize = 8;

/// Seconds that it takes to make a sample ready (to open a picture, say) with nothing else to do.
///
/// # Errors
/// If a sample cannot be read.
pub fn input_seconds(trainee: &dyn Trainee, split: Split) -> Result<f64, TrainError> {
    let samples = trainee.samples(split);
    let chosen = samples.min(TIMED_SAMPLES);
    let timed: Vec<u32> = (0..chosen).map(|index| (index * samples / chosen) as u32).collect();
    // The views of a step that no run reaches.
    let randomness = Randomness { seed: 0, step: u64::from(u32::MAX) };
    let started = Instant::now();
    trainee.fetch(&Fetch::training(&timed, 0, randomness), None)?;
    Ok(started.elapsed().as_secs_f64() / chosen.max(1) as f64)
}

/// Work of one update of so many values with so many values of state, gradients cleared, measured and clipped.
pub(crate) fn update_work(parameters: u64, state: u64, keeps_average: bool) -> WorkCounts {
    // Gradient cleared, read for its norm and read again; weight and state read and written.
    let moved = 5 * parameters + 2 * state + if keeps_average { 3 * parameters } else { 0 };
    WorkCounts::from_fn(|kind| if kind == Work::Memory { moved } else { 0 })
}

impl Forecast {
    /// What a planned run will take at these speeds, when `input_seconds` make a sample ready. To be asked when everything is
    /// loaded and nothing computed yet: memory is what the process has in use now, and what training adds.
    pub fn new(prepared: &Prepared, plan: &RunPlan, rates: &MachineRates, input_seconds: f64) -> Self {
        let recipe = &prepared.recipe;
        let samples = |split| prepared.trainee.samples(split) as f64;
        let stage = |stage: &StagePlan| {
            let passes = stage.steps as f64 / plan.steps_per_epoch as f64;
            let evaluations = match prepared.trainee.samples(Split::Validation) {
                0 => 0,
                _ => stage.evaluations(recipe, plan.steps_per_epoch),
            };
            let kept = stage.features.as_ref().map(|features| features.kept_share);
            let training_passes = stage.features.as_ref().and_then(|features| features.training_passes);
            // What features stand for is not made ready again.
            let opened = |passes: f64, computing: Option<usize>| match (computing, kept) {
                (Some(computing), Some(kept)) => {
                    passes.min(computing as f64) + (passes - computing as f64).max(0.0) * (1.0 - kept)
                }
                _ => passes,
            };
            let updates = stage.steps as f64;
            let update = update_work(
                stage.trainable_parameters as u64,
                stage.cost.optimizer_bytes / 4,
                recipe.train.ema_decay.is_some(),
            );
            let input = input_seconds * samples(Split::Train) * opened(passes, training_passes);
            let evaluation_input =
                input_seconds * samples(Split::Validation) * opened(evaluations as f64, kept.map(|_| 1));
            let evaluation = stage.evaluation_work(evaluations as f64, plan.evaluation_work);
            StageForecast {
                steps: stage.steps,
                seconds: rates.seconds(&stage.training_work(passes))
                    + rates.seconds(&update.scaled(updates))
                    + input,
                evaluations,
                evaluation_seconds: rates.seconds(&evaluation) + evaluation_input,
            }
        };
        let mut stages: Vec<StageForecast> = plan.stages.iter().map(stage).collect();
        let added = added_bytes(prepared, plan);
        if let Some(first) = stages.first_mut() {
            first.seconds += added as f64 / rates.new_memory;
        }
        Self {
            seconds: stages.iter().map(|stage| stage.seconds + stage.evaluation_seconds).sum(),
            stages,
            resident_bytes: used_bytes().map(|now| now + added),
        }
    }

    /// Seconds of an optimizer step, the mean over all of them.
    pub fn step_seconds(&self) -> f64 {
        let steps: u64 = self.stages.iter().map(|stage| stage.steps).sum();
        self.stages.iter().map(|stage| stage.seconds).sum::<f64>() / steps.max(1) as f64
    }

    /// Beside what a run took: of each stage as much as was done of it.
    pub fn compare(&self, taken: &[StageTiming], peak_resident_bytes: Option<u64>) -> ForecastComparison {
        let share = |done: u64, planned: u64| done as f64 / planned.max(1) as f64;
        let pairs = || self.stages.iter().zip(taken);
        let predicted_training: f64 =
            pairs().map(|(stage, taken)| stage.seconds * share(taken.steps, stage.steps)).sum();
        let predicted_evaluations: f64 = pairs()
            .map(|(stage, taken)| stage.evaluation_seconds * share(taken.evaluations, stage.evaluations))
            .sum();
        let steps: u64 = taken.iter().map(|stage| stage.steps).sum();
        let training: f64 = taken.iter().map(|stage| stage.seconds).sum();
        let evaluations: f64 = taken.iter().map(|stage| stage.evaluation_seconds).sum();
        ForecastComparison {
            steps,
            predicted_step_seconds: predicted_training / steps.max(1) as f64,
            step_seconds: training / steps.max(1) as f64,
            predicted_seconds: predicted_training + predicted_evaluations,
            seconds: training + evaluations,
            predicted_resident_bytes: self.resident_bytes,
            resident_bytes: peak_resident_bytes,
        }
    }
}

/// Bytes that training adds to a process in which everything is loaded.
fn added_bytes(prepared: &Prepared, plan: &RunPlan) -> u64 {
    let Prepared { recipe, store, .. } = prepared;
    let learning = |StagePlan { cost, .. }: &StagePlan| {
        cost.gradient_bytes + cost.optimizer_bytes - cost.unreached_bytes
    };
    let learning = plan.stages.iter().map(learning).max().unwrap_or(0);
    // The recipe's average is a second copy of what is loaded.
    let average = if recipe.train.ema_decay.is_some() { 4 * store.elements() as u64 } else { 0 };
    let features = plan.stages.iter().filter_map(|stage| stage.features.as_ref());
    let features = features.map(|features| features.bytes.min(feature_memory(recipe))).max().unwrap_or(0);
    plan.held_activation_bytes + learning + average + features
}

fn feature_memory(recipe: &Recipe) -> u64 {
    crate::features::FeatureLimits::of(recipe).memory
}

/// A forecast beside what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForecastComparison {
    /// Optimizer steps that were made.
    pub steps: u64,
    /// Seconds of a step, their mean, as predicted.
    pub predicted_step_seconds: f64,
    /// Seconds of a step, their mean.
    pub step_seconds: f64,
    /// Seconds of training with its evaluations, as predicted for the steps that were made.
    pub predicted_seconds: f64,
    /// Seconds of training with its evaluations.
    pub seconds: f64,
    /// Bytes in memory at most, as predicted.
    pub predicted_resident_bytes: Option<u64>,
    /// Bytes in memory at most, looked at after each step and each evaluation.
    pub resident_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_ended_early_is_compared_with_as_much_of_its_forecast() {
        let stage = |steps, seconds, evaluations, evaluation_seconds| StageForecast {
            steps,
            seconds,
            evaluations,
            evaluation_seconds,
        };
        let forecast = Forecast {
            stages: vec![stage(10, 20.0, 2, 4.0), stage(40, 40.0, 4, 8.0)],
            seconds: 72.0,
            resident_bytes: Some(1000),
        };
        let timing = |steps, seconds, evaluations, evaluation_seconds| StageTiming {
            steps,
            seconds,
            evaluations,
            evaluation_seconds,
        };
        let taken = [timing(10, 22.0, 2, 5.0), timing(20, 18.0, 2, 3.0)];
        let compared = forecast.compare(&taken, Some(1100));
        assert_eq!((compared.steps, compared.predicted_seconds, compared.seconds), (30, 48.0, 48.0));
        assert_eq!((compared.predicted_step_seconds, compared.step_seconds), (40.0 / 30.0, 40.0 / 30.0));
        assert_eq!((compared.predicted_resident_bytes, compared.resident_bytes), (Some(1000), Some(1100)));
    }
}
