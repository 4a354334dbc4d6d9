//! What a run will cost, known before its first step: steps, memory, arithmetic, disk.
//!
//! A step on a context without numbers allocates and counts as the real one does and computes nothing, so what is said
//! here is measured, not modelled.

mod meter;

use std::collections::BTreeMap;

use retune_autograd::{Gradients, Reach};
use retune_data::{BatchOrder, Target};
use retune_nn::{ParameterId, ParameterStore, Trainable};
use retune_tensor::WorkCounts;
use serde::Serialize;

use crate::features::{FeatureLimits, feature_bytes};
use crate::fit::optimizer_config;
use crate::prepare::Prepared;
use crate::recipe::{Recipe, Sampling, TrainSection};
use crate::stages::Stage;
use crate::trainee::{Split, Trainee};
use crate::trainer::Trainer;
pub(crate) use meter::{Meter, without_values};

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
    /// Bytes of gradients and state that no training sample reaches, rows of tables that are not looked up: the system has
    /// no need to give memory for them.
    pub unreached_bytes: u64,
    /// Floating-point operations (a multiply-add counts two) of the longest batch.
    pub operations: u64,
    /// Floating-point operations of one pass over the training data.
    pub epoch_operations: u64,
    /// All work of the longest batch.
    #[serde(skip)]
    pub work: WorkCounts,
    /// All work of one pass over the training data, the optimizer's not counted.
    #[serde(skip)]
    pub epoch_work: WorkCounts,
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
    /// Passes over the training data that compute features before all of them are there; `None` if training pictures are
    /// seen anew each time, so that only evaluations find theirs.
    pub training_passes: Option<usize>,
    /// Floating-point operations of one pass over the training data once its features are there.
    pub epoch_operations: u64,
    /// Floating-point operations of evaluating the validation split from features alone.
    pub evaluation_operations: u64,
    /// All work of such a pass.
    #[serde(skip)]
    pub epoch_work: WorkCounts,
    /// All work of such an evaluation.
    #[serde(skip)]
    pub evaluation_work: WorkCounts,
}

/// What a layer group keeps of a batch for the backward pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupActivations {
    /// The layer group.
    pub group: String,
    /// Bytes that it keeps of the longest batch.
    pub bytes: u64,
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
    /// What each layer group keeps of the longest batch for the backward pass, in depth order; what the backward pass
    /// itself needs comes on top.
    pub activations: Vec<GroupActivations>,
    /// What is computed once instead of in every epoch; `None` if nothing is, or `train.feature_cache` is off.
    pub features: Option<FeaturePlan>,
}

impl StagePlan {
    /// Work of the stage's training steps over so many passes, the optimizer's not counted.
    pub(crate) fn training_work(&self, passes: f64) -> WorkCounts {
        let above = self.features.as_ref().and_then(|features| {
            Some((features.training_passes? as f64, features.kept_share, features.epoch_work))
        });
        work_of_passes(passes, self.cost.epoch_work, above)
    }

    /// Work of evaluating the validation split so many times, `full` from the bottom.
    pub(crate) fn evaluation_work(&self, passes: f64, full: WorkCounts) -> WorkCounts {
        let features = self.features.as_ref();
        let above = features.map(|features| (1.0, features.kept_share, features.evaluation_work));
        work_of_passes(passes, full, above)
    }

    /// Times that validation data is looked at while the stage trains, if it does not end early.
    pub(crate) fn evaluations(&self, recipe: &Recipe, steps_per_epoch: u64) -> u64 {
        match recipe.train.eval_steps {
            Some(eval_steps) => self.steps / eval_steps.max(1),
            None => self.steps.div_ceil(steps_per_epoch),
        }
    }
}

/// Work of `passes` passes that cost `full` each from the bottom, and where features are kept: (passes that compute them,
/// the share that there is room for, the work from features). Those that there is no room for are computed again.
fn work_of_passes(passes: f64, full: WorkCounts, above: Option<(f64, f64, WorkCounts)>) -> WorkCounts {
    let Some((computing, kept, above)) = above else { return full.scaled(passes) };
    let later = above.scaled(kept) + full.scaled(1.0 - kept);
    full.scaled(passes.min(computing)) + later.scaled((passes - computing).max(0.0))
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
    /// Share of the tokens that would be padding if each batch were padded to its longest sequence. Batches are packed
    /// and have none.
    pub padding_avoided: f64,
    /// The stages.
    pub stages: Vec<StagePlan>,
    /// Bytes of tensors that the run comes to hold beside parameters, gradients and optimizer state: buffers are kept to be
    /// used again, so that batches of mixed lengths hold more than the longest alone.
    pub held_activation_bytes: u64,
    /// All work of evaluating the validation split once, from the bottom.
    #[serde(skip)]
    pub evaluation_work: WorkCounts,
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
    if train.per_device_train_batch_size == TrainSection::AUTO {
        // However the batch of a step is cut.
        return (train_samples.div_ceil(train.total_batch_size()) as u64).max(1);
    }
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
    step_cost(prepared, &Meter::of(prepared), stage)
}

fn step_cost(prepared: &Prepared, meter: &Meter<'_>, stage: &Stage) -> StepCost {
    prepared.trainee.enter_stage(stage);
    let trainable = Trainer::stage_trainable(&prepared.store, stage);
    let longest = longest_samples(&prepared.trainee, prepared.recipe.train.per_device_train_batch_size);
    let step = meter.train(&trainable, &longest, None);
    let memory = stage_memory(&prepared.recipe, &prepared.store, stage);
    let epoch_work = meter.epoch_work(&trainable, None);
    StepCost {
        samples: longest.len(),
        tokens: tokens(prepared, &longest),
        peak_activation_bytes: step.peak_bytes,
        parameter_bytes: memory.parameter_bytes,
        gradient_bytes: memory.gradient_bytes,
        optimizer_bytes: memory.optimizer_bytes,
        unreached_bytes: unreached_bytes(prepared, &trainable, &step.gradients, |_| meter.rows_looked_up()),
        operations: step.work.operations(),
        epoch_operations: epoch_work.operations(),
        work: step.work,
        epoch_work,
    }
}

/// Bytes of gradients and optimizer state in the pages of tables that hold none of the rows that are reached, wherever in
/// the table these are. `reached` counts them; it is given which rows these gradients reach.
pub(crate) fn unreached_bytes(
    prepared: &Prepared,
    trainable: &Trainable,
    gradients: &Gradients,
    reached: impl Fn(&[bool]) -> usize,
) -> u64 {
    let optimizer = optimizer_config(&prepared.recipe);
    let of_table = |(slot, &id): (usize, &ParameterId)| {
        let Reach::Rows { width, live } = gradients.reach(slot) else { return 0.0 };
        let reached = reached(live).min(live.len());
        let values = live.len() * width;
        let copies = 1 + optimizer.state_elements(&prepared.store.declaration(id).shape) / values.max(1);
        untouched_share(live.len(), *width, reached) * (4 * copies * values) as f64
    };
    trainable.ids().iter().enumerate().map(of_table).sum::<f64>() as u64
}

/// The share of a table's pages that have no part of a reached row, when so many rows are reached anywhere in it.
fn untouched_share(rows: usize, width: usize, reached: usize) -> f64 {
    const PAGE: f64 = 4096.0;
    let rows_of_page = 1.0 + PAGE / (size_of::<f32>() * width.max(1)) as f64;
    (1.0 - reached as f64 / rows.max(1) as f64).powf(rows_of_page)
}

/// Floating-point operations of evaluating a split once.
pub fn measure_evaluation(prepared: &Prepared, split: Split) -> u64 {
    Meter::of(prepared).evaluation_work(split, None).operations()
}

/// Steps, memory, arithmetic and disk of a prepared run.
pub fn plan_run(prepared: &Prepared) -> RunPlan {
    let Prepared { recipe, trainee, store, .. } = prepared;
    let train_samples = trainee.samples(Split::Train);
    let steps_per_epoch = steps_per_epoch(recipe, train_samples);
    // One after the other on one pool, as the run does.
    let meter = Meter::of(prepared);
    let evaluation = meter.evaluation_work(Split::Validation, None);
    let test = meter.evaluation_work(Split::Test, None);
    let stages: Vec<StagePlan> =
        prepared.stages.iter().map(|stage| plan_stage(prepared, &meter, stage, steps_per_epoch)).collect();
    let trained_bytes = meter.held_bytes();
    // An evaluation behind training finds other buffers than the first one did.
    meter.evaluation_work(Split::Validation, None);
    let total_steps: u64 = stages.iter().map(|stage| stage.steps).sum();
    let epochs = |stage: &StagePlan| stage.steps as f64 / steps_per_epoch as f64;
    let training: f64 =
        stages.iter().map(|stage| stage.training_work(epochs(stage)).operations() as f64).sum();
    // Both splits are measured with the untrained head before, and with the final model after.
    let validation: f64 = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let at_the_ends = u64::from(index == 0) + u64::from(index + 1 == stages.len());
            let passes = (stage.evaluations(recipe, steps_per_epoch) + at_the_ends) as f64;
            stage.evaluation_work(passes, evaluation).operations() as f64
        })
        .sum();
    let all: Vec<u32> = (0..train_samples as u32).collect();
    RunPlan {
        steps_per_epoch,
        total_steps,
        tokens_per_epoch: tokens(prepared, &all),
        padding_avoided: meter.padding_avoided(),
        stages,
        held_activation_bytes: meter.held_bytes().max(trained_bytes),
        evaluation_work: evaluation,
        training_operations: training,
        evaluation_operations: validation + 2.0 * test.operations() as f64,
        disk_bytes: disk_bytes(recipe, store),
    }
}

fn plan_stage(prepared: &Prepared, meter: &Meter<'_>, stage: &Stage, steps_per_epoch: u64) -> StagePlan {
    let trained = prepared.store.groups().into_iter().zip(&stage.trainable_groups).zip(&stage.learning_rates);
    let learning_rates: Vec<(String, f64)> = trained
        .filter(|((_, trains), _)| **trains)
        .map(|((group, _), &learning_rate)| (group.name, learning_rate))
        .collect();
    let cost = step_cost(prepared, meter, stage);
    let trainable = Trainer::stage_trainable(&prepared.store, stage);
    let longest = longest_samples(&prepared.trainee, prepared.recipe.train.per_device_train_batch_size);
    StagePlan {
        name: stage.name.clone(),
        epochs: stage.epochs,
        steps: stage_steps(stage, steps_per_epoch),
        trainable_groups: learning_rates.iter().map(|(name, _)| name.clone()).collect(),
        trainable_parameters: (cost.gradient_bytes / 4) as usize,
        learning_rates: learning_rates.into_iter().collect(),
        cost,
        activations: meter.activations(&trainable, &longest),
        features: plan_features(prepared, meter, &trainable),
    }
}

/// What a stage keeps of its frozen prefix.
fn plan_features(prepared: &Prepared, meter: &Meter<'_>, trainable: &Trainable) -> Option<FeaturePlan> {
    let Prepared { recipe, trainee, store, .. } = prepared;
    let cut = trainable.deepest_group()?;
    let bytes = feature_bytes(trainee, cut)?;
    let limits = FeatureLimits::of(recipe);
    if !limits.keep_anything() {
        return None;
    }
    let model = trainee.cut()?;
    let keeps_training = model.is_worth_keeping(Split::Train, true, cut);
    let room = limits.memory.saturating_add(limits.disk);
    let epoch_work = meter.epoch_work(trainable, keeps_training.then_some(cut));
    let evaluation_work = meter.evaluation_work(Split::Validation, Some(cut));
    Some(FeaturePlan {
        below: store.groups().get(cut).map(|group| group.name.clone()).unwrap_or_default(),
        bytes,
        kept_share: (room as f64 / bytes.max(1) as f64).min(1.0),
        training_passes: keeps_training.then(|| model.views(Split::Train)),
        epoch_operations: epoch_work.operations(),
        evaluation_operations: evaluation_work.operations(),
        epoch_work,
        evaluation_work,
    })
}

fn tokens(prepared: &Prepared, samples: &[u32]) -> u64 {
    samples.iter().map(|&sample| u64::from(prepared.trainee.length(Split::Train, sample))).sum()
}

/// The samples of the largest batch of so many that training can meet.
pub(crate) fn longest_samples(trainee: &dyn Trainee, batch_size: usize) -> Vec<u32> {
    let mut samples: Vec<u32> = (0..trainee.samples(Split::Train) as u32).collect();
    samples.sort_by_key(|&sample| std::cmp::Reverse(trainee.length(Split::Train, sample)));
    samples.truncate(batch_size.max(1));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_untouched_if_no_row_of_it_is_reached() {
        assert_eq!(untouched_share(1000, 768, 0), 1.0);
        assert_eq!(untouched_share(1000, 768, 1000), 0.0);
        // A row of a page's size lies in two pages as a rule; of four in a page, parts of five.
        assert_eq!(untouched_share(1000, 1024, 500), 0.25);
        assert_eq!(untouched_share(1000, 256, 500), 1.0 / 32.0);
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
