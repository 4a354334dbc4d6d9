//! What a run will cost, known before its first step: steps, memory, arithmetic, disk.
//!
//! A step on a context without numbers allocates and counts as the real one does and computes nothing, so what is said
//! here is measured, not modelled.

use std::collections::BTreeMap;

use retune_autograd::{Gradients, Var};
use retune_data::{BatchOrder, Target};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Randomness, Trainable};
use retune_tensor::Context;
use serde::Serialize;

use crate::features::{FeatureLimits, feature_bytes};
use crate::fit::optimizer_config;
use crate::prepare::Prepared;
use crate::recipe::{Recipe, Sampling};
use crate::stages::Stage;
use crate::trainee::{SampleBatch, Split, Trainee};
use crate::trainer::Trainer;

/// At most this many batches of an epoch are measured; the arithmetic of the others is taken in proportion.
const MEASURED_BATCHES: usize = 32;

/// What a stage keeps in memory from step to step, whatever the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// Values that train.
    pub trainable_parameters: usize,
    /// Bytes of all weights and buffers, and of their moving average if the run keeps one.
    pub parameter_bytes: u64,
    /// Bytes of the gradients.
    pub gradient_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
}

/// What one step of a stage costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepCost {
    /// Samples of the longest batch.
    pub samples: usize,
    /// Tokens of the longest batch.
    pub tokens: u64,
    /// Most bytes alive at once in forward and backward of the longest batch, beside weights and gradients.
    pub peak_activation_bytes: u64,
    /// Bytes of all weights and buffers, and of their moving average if the run keeps one.
    pub parameter_bytes: u64,
    /// Bytes of the gradients.
    pub gradient_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
    /// Floating-point operations (a multiply-add counts two) of the longest batch.
    pub operations: u64,
    /// Floating-point operations of one pass over the training data.
    pub epoch_operations: u64,
}

impl StepCost {
    /// All of its memory.
    pub fn bytes(&self) -> u64 {
        self.peak_activation_bytes + self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
    }
}

/// What is kept of the layer groups that are frozen below all others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeaturePlan {
    /// The layer group below which everything is frozen.
    pub below: String,
    /// Bytes of the features of all splits.
    pub bytes: u64,
    /// How much of them there is room for, in memory and on disk, from 0 to 1.
    pub kept_share: f64,
    /// Floating-point operations of one pass over the training data from features alone.
    pub epoch_operations: u64,
    /// Floating-point operations of evaluating the validation split from features alone.
    pub evaluation_operations: u64,
}

/// A stage with its length and its cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    /// What the log and the report call it.
    pub name: String,
    /// Greatest length in passes over the training data.
    pub epochs: f64,
    /// Greatest length in optimizer steps.
    pub steps: u64,
    /// Layer groups that train.
    pub trainable_groups: Vec<String>,
    /// Values that train.
    pub trainable_parameters: usize,
    /// The base learning rate of each layer group that trains.
    pub learning_rates: BTreeMap<String, f64>,
    /// What a step costs.
    pub cost: StepCost,
    /// What is computed once instead of in every epoch; `None` if nothing is, or `train.feature_cache` is off.
    pub features: Option<FeaturePlan>,
}

impl StagePlan {
    /// Floating-point operations of `passes` passes of which each costs `full` from the bottom and `above` from
    /// features: those that there is no room for are computed again.
    fn operations(&self, passes: f64, full: u64, above: impl Fn(&FeaturePlan) -> u64) -> f64 {
        let full = full as f64;
        let Some(features) = &self.features else { return passes * full };
        let later = features.kept_share * above(features) as f64 + (1.0 - features.kept_share) * full;
        passes.min(1.0) * full + (passes - 1.0).max(0.0) * later
    }
}

/// A run before it begins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPlan {
    /// Optimizer steps of one pass over the training data.
    pub steps_per_epoch: u64,
    /// Optimizer steps of all stages, if none ends early.
    pub total_steps: u64,
    /// Tokens of one pass over the training data.
    pub tokens_per_epoch: u64,
    /// The stages.
    pub stages: Vec<StagePlan>,
    /// Floating-point operations of all training steps.
    pub training_operations: f64,
    /// Floating-point operations of all evaluations.
    pub evaluation_operations: f64,
    /// Bytes that the run folder may come to hold.
    pub disk_bytes: u64,
}

/// Optimizer steps of one pass over `train_samples` samples.
pub fn steps_per_epoch(recipe: &Recipe, train_samples: usize) -> u64 {
    let train = &recipe.train;
    let batches = train_samples.div_ceil(train.per_device_train_batch_size.max(1));
    (batches.div_ceil(train.gradient_accumulation_steps.max(1)) as u64).max(1)
}

/// The order in which training data is drawn.
pub(crate) fn training_order(recipe: &Recipe, trainee: &dyn Trainee) -> BatchOrder {
    let train = &recipe.train;
    let samples = 0..trainee.samples(Split::Train) as u32;
    let lengths = samples.clone().map(|sample| trainee.length(Split::Train, sample)).collect();
    let batch_size = train.per_device_train_batch_size;
    let order = BatchOrder::new(lengths, batch_size, train.seed, train.group_by_length, true, false);
    if train.sampling == Sampling::Uniform {
        return order;
    }
    let class = |sample| match trainee.target(Split::Train, sample) {
        Target::Class(class) => *class,
        _ => 0,
    };
    order.balanced(&samples.map(class).collect::<Vec<u32>>())
}

/// Optimizer steps of a stage, if it does not end early.
pub fn stage_steps(stage: &Stage, steps_per_epoch: u64) -> u64 {
    let by_epochs = (stage.epochs * steps_per_epoch as f64).ceil() as u64;
    stage.max_steps.unwrap_or(by_epochs).max(1)
}

/// What a stage keeps in memory on these parameters, which may be without values.
pub fn stage_memory(recipe: &Recipe, store: &ParameterStore, stage: &Stage) -> StageMemory {
    let trainable = Trainer::stage_trainable(store, stage);
    let trainable_parameters: usize = trainable.slot_lengths(store).sum();
    let optimizer = optimizer_config(recipe);
    let shapes = trainable.ids().iter().map(|&id| &store.declaration(id).shape);
    let state: usize = shapes.map(|shape| optimizer.state_elements(shape)).sum();
    StageMemory {
        trainable_parameters,
        parameter_bytes: parameter_bytes(recipe, store),
        gradient_bytes: 4 * trainable_parameters as u64,
        optimizer_bytes: 4 * state as u64,
    }
}

fn parameter_bytes(recipe: &Recipe, store: &ParameterStore) -> u64 {
    let copies = 1 + u64::from(recipe.train.ema_decay.is_some());
    4 * copies * (store.elements() + store.buffer_elements()) as u64
}

/// Bytes that the run folder may come to hold: checkpoints of weights with two moments, the best weights, the artifact.
pub fn disk_bytes(recipe: &Recipe, store: &ParameterStore) -> u64 {
    let checkpoints = recipe.train.save_total_limit.unwrap_or(2) as u64 + 1;
    parameter_bytes(recipe, store) * (3 * checkpoints + 2)
}

/// Measures a training step of a stage on the longest samples, and the arithmetic of an epoch.
pub fn measure_step(prepared: &Prepared, stage: &Stage) -> StepCost {
    let meter = Meter::new(prepared);
    let trainable = Trainer::stage_trainable(&prepared.store, stage);
    let longest = longest_samples(prepared);
    let step = meter.train(&trainable, &longest, None);
    let memory = stage_memory(&prepared.recipe, &prepared.store, stage);
    StepCost {
        samples: longest.len(),
        tokens: tokens(prepared, &longest),
        peak_activation_bytes: step.peak_bytes,
        parameter_bytes: memory.parameter_bytes,
        gradient_bytes: memory.gradient_bytes,
        optimizer_bytes: memory.optimizer_bytes,
        operations: step.operations,
        epoch_operations: meter.epoch_operations(&trainable, None),
    }
}

/// Floating-point operations of evaluating a split once.
pub fn measure_evaluation(prepared: &Prepared, split: Split) -> u64 {
    let samples = prepared.trainee.samples(split);
    if samples == 0 {
        return 0;
    }
    evaluation_operations(&Meter::new(prepared), split, None)
}

/// As [`measure_evaluation`], from the features at a cut if one is given.
fn evaluation_operations(meter: &Meter<'_>, split: Split, cut: Option<usize>) -> u64 {
    let samples = meter.prepared.trainee.samples(split);
    let batch_size = meter.prepared.recipe.train.per_device_eval_batch_size;
    let batches = BatchOrder::sequential(samples, batch_size).epoch(0);
    let chosen = spread(batches.batches()).map(|index| batches.batch(index));
    in_proportion(chosen, samples, |batch| meter.evaluate(split, batch, cut))
}

/// Steps, memory, arithmetic and disk of a prepared run.
pub fn plan_run(prepared: &Prepared) -> RunPlan {
    let Prepared { recipe, trainee, store, .. } = prepared;
    let train_samples = trainee.samples(Split::Train);
    let steps_per_epoch = steps_per_epoch(recipe, train_samples);
    let stages: Vec<StagePlan> =
        prepared.stages.iter().map(|stage| plan_stage(prepared, stage, steps_per_epoch)).collect();
    let total_steps: u64 = stages.iter().map(|stage| stage.steps).sum();
    let epochs = |stage: &StagePlan| stage.steps as f64 / steps_per_epoch as f64;
    let training: f64 = stages
        .iter()
        .map(|stage| {
            let full = stage.cost.epoch_operations;
            stage.operations(epochs(stage), full, |features| features.epoch_operations)
        })
        .sum();
    let evaluation = measure_evaluation(prepared, Split::Validation);
    let while_training = |stage: &StagePlan| match recipe.train.eval_steps {
        Some(eval_steps) => stage.steps / eval_steps.max(1),
        None => stage.steps.div_ceil(steps_per_epoch),
    };
    // Both splits are measured with the untrained head before, and with the final model after.
    let validation: f64 = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let at_the_ends = u64::from(index == 0) + u64::from(index + 1 == stages.len());
            let passes = (while_training(stage) + at_the_ends) as f64;
            stage.operations(passes, evaluation, |features| features.evaluation_operations)
        })
        .sum();
    let test = measure_evaluation(prepared, Split::Test) as f64 * 2.0;
    let all: Vec<u32> = (0..train_samples as u32).collect();
    RunPlan {
        steps_per_epoch,
        total_steps,
        tokens_per_epoch: tokens(prepared, &all),
        stages,
        training_operations: training,
        evaluation_operations: validation + test,
        disk_bytes: disk_bytes(recipe, store),
    }
}

fn plan_stage(prepared: &Prepared, stage: &Stage, steps_per_epoch: u64) -> StagePlan {
    let trained = prepared.store.groups().into_iter().zip(&stage.trainable_groups).zip(&stage.learning_rates);
    let learning_rates: Vec<(String, f64)> = trained
        .filter(|((_, trains), _)| **trains)
        .map(|((group, _), &learning_rate)| (group.name, learning_rate))
        .collect();
    let cost = measure_step(prepared, stage);
    StagePlan {
        name: stage.name.clone(),
        epochs: stage.epochs,
        steps: stage_steps(stage, steps_per_epoch),
        trainable_groups: learning_rates.iter().map(|(name, _)| name.clone()).collect(),
        trainable_parameters: (cost.gradient_bytes / 4) as usize,
        learning_rates: learning_rates.into_iter().collect(),
        cost,
        features: plan_features(prepared, stage),
    }
}

/// What a stage keeps of its frozen prefix.
fn plan_features(prepared: &Prepared, stage: &Stage) -> Option<FeaturePlan> {
    let Prepared { recipe, trainee, store, .. } = prepared;
    let trainable = Trainer::stage_trainable(store, stage);
    let cut = trainable.deepest_group()?;
    let bytes = feature_bytes(trainee, cut)?;
    let limits = FeatureLimits::of(recipe);
    if !limits.keep_anything() {
        return None;
    }
    let meter = Meter::new(prepared);
    let room = limits.memory.saturating_add(limits.disk);
    Some(FeaturePlan {
        below: store.groups().get(cut).map(|group| group.name.clone()).unwrap_or_default(),
        bytes,
        kept_share: (room as f64 / bytes.max(1) as f64).min(1.0),
        epoch_operations: meter.epoch_operations(&trainable, Some(cut)),
        evaluation_operations: evaluation_operations(&meter, Split::Validation, Some(cut)),
    })
}

fn tokens(prepared: &Prepared, samples: &[u32]) -> u64 {
    samples.iter().map(|&sample| u64::from(prepared.trainee.length(Split::Train, sample))).sum()
}

/// The samples of the largest batch that training can meet.
fn longest_samples(prepared: &Prepared) -> Vec<u32> {
    let trainee = &prepared.trainee;
    let mut samples: Vec<u32> = (0..trainee.samples(Split::Train) as u32).collect();
    samples.sort_by_key(|&sample| std::cmp::Reverse(trainee.length(Split::Train, sample)));
    samples.truncate(prepared.recipe.train.per_device_train_batch_size.max(1));
    samples
}

/// Up to [`MEASURED_BATCHES`] places, spread evenly over `count`.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let chosen = count.min(MEASURED_BATCHES);
    (0..chosen).map(move |index| index * count / chosen)
}

/// The operations of `samples` samples, from those of some batches of them.
fn in_proportion(
    batches: impl Iterator<Item = Vec<u32>>,
    samples: usize,
    mut operations: impl FnMut(&[u32]) -> u64,
) -> u64 {
    let (mut measured, mut sum) = (0, 0);
    for batch in batches {
        measured += batch.len();
        sum += operations(&batch);
    }
    if measured == samples {
        return sum;
    }
    (sum as f64 * samples as f64 / measured.max(1) as f64).round() as u64
}

/// What was measured of one batch.
struct Measured {
    peak_bytes: u64,
    operations: u64,
}

/// The model of a prepared run on a context without numbers.
struct Meter<'a> {
    prepared: &'a Prepared,
    context: Context,
    store: ParameterStore,
}

impl<'a> Meter<'a> {
    fn new(prepared: &'a Prepared) -> Self {
        let context = Context::meta();
        let store = without_values(&context, &prepared.store);
        Self { prepared, context, store }
    }

    /// Logits of samples, from the features at a cut if one is given.
    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        cut: Option<usize>,
    ) -> Var {
        let trainee = &self.prepared.trainee;
        let (Some(cut), Some(model)) = (cut, trainee.cut()) else {
            return trainee.logits(forward, split, samples, 0);
        };
        let values = samples.iter().map(|&sample| model.feature_len(split, sample, cut)).sum::<usize>();
        let features = self.context.zeros([values]);
        let batch = SampleBatch { split, samples, first_occurrence: 0 };
        model.logits_from_features(forward, &features, batch, cut)
    }

    /// Forward and backward of one micro-batch, as the loop does them.
    fn train(&self, trainable: &Trainable, samples: &[u32], cut: Option<usize>) -> Measured {
        let Prepared { recipe, task, trainee, .. } = self.prepared;
        let pool = self.context.pool();
        pool.reset_peak();
        let (resting, counted) = (pool.memory_use().current, self.context.operations());
        let mut gradients = Gradients::meta(trainable.slot_lengths(&self.store));
        let mut forward = Forward::new(Environment {
            context: self.context.clone(),
            store: &self.store,
            trainable,
            randomness: Some(Randomness { seed: recipe.train.seed, step: 0 }),
            gradient_checkpointing: recipe.train.gradient_checkpointing,
        });
        let trained = match cut {
            Some(_) => vec![(self.logits(&mut forward, Split::Train, samples, cut), 1.0)],
            None => {
                let batch = SampleBatch { split: Split::Train, samples, first_occurrence: 0 };
                trainee.trained_logits(&mut forward, batch)
            }
        };
        let targets: Vec<&Target> =
            samples.iter().map(|&sample| trainee.target(Split::Train, sample)).collect();
        let end = |(logits, share): (Var, f32)| {
            let loss = task.loss(&self.context, logits.tensor(), &targets, 1.0 / share);
            (logits, loss.dlogits)
        };
        let ends = trained.into_iter().map(end).collect();
        forward.into_tape().backward(ends, &mut gradients);
        Measured {
            peak_bytes: pool.memory_use().peak - resting,
            operations: self.context.operations() - counted,
        }
    }

    /// Forward of one batch in evaluation mode: its operations.
    fn evaluate(&self, split: Split, samples: &[u32], cut: Option<usize>) -> u64 {
        let counted = self.context.operations();
        let trainable = Trainable::none(&self.store);
        let mut forward = Forward::new(Environment {
            context: self.context.clone(),
            store: &self.store,
            trainable: &trainable,
            randomness: None,
            gradient_checkpointing: false,
        });
        self.logits(&mut forward, split, samples, cut);
        self.context.operations() - counted
    }

    fn epoch_operations(&self, trainable: &Trainable, cut: Option<usize>) -> u64 {
        let Prepared { recipe, trainee, .. } = self.prepared;
        let samples = trainee.samples(Split::Train);
        let order = training_order(recipe, trainee).epoch(0);
        let chosen = spread(order.batches()).map(|index| order.batch(index));
        in_proportion(chosen, samples, |batch| self.train(trainable, batch, cut).operations)
    }
}

/// The same parameters without values: handles of the one are handles of the other.
pub(crate) fn without_values(context: &Context, store: &ParameterStore) -> ParameterStore {
    let mut builder = ParameterBuilder::default();
    for group in store.groups() {
        builder.begin_group(&group.name);
    }
    for id in store.ids() {
        builder.declare(store.declaration(id).clone());
    }
    builder.build_meta(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_batches_are_all_measured_and_many_are_spread_over_the_epoch() {
        assert_eq!(spread(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(0).count(), 0);
        let places: Vec<usize> = spread(64).collect();
        assert_eq!(places.len(), MEASURED_BATCHES);
        assert!(places.iter().enumerate().all(|(index, &place)| place == 2 * index));
    }

    #[test]
    fn unmeasured_samples_count_as_the_measured_ones_do() {
        let batches = || [vec![0, 1], vec![2, 3]].into_iter();
        assert_eq!(in_proportion(batches(), 4, |batch| 10 * batch.len() as u64), 40);
        assert_eq!(in_proportion(batches(), 10, |batch| 10 * batch.len() as u64), 100);
    }

    #[test]
    fn a_part_of_a_batch_is_a_step_too() {
        let mut recipe = Recipe::default();
        recipe.train.per_device_train_batch_size = 16;
        recipe.train.gradient_accumulation_steps = 2;
        assert_eq!(steps_per_epoch(&recipe, 100), 4);
        assert_eq!(steps_per_epoch(&recipe, 0), 1);
    }
}
