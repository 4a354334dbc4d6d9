//! Batches that fit the memory: `per_device_train_batch_size = "auto"`, and batches that are split because they are known
//! to need too much. What is chosen is written into the recipe before anything is computed, so that a resumed run does
//! the same.

use retune_nn::{ParameterStore, Trainable};

use super::Prepared;
use crate::TrainError;
use crate::event::Event;
use crate::features::{FeatureLimits, feature_bytes};
use crate::memory::{available_bytes, used_bytes};
use crate::plan::{Meter, longest_samples, stage_memory};
use crate::recipe::{Recipe, TrainSection};
use crate::stages::Stage;
use crate::trainee::Trainee;
use crate::trainer::Trainer;

/// The share of what is free that a run takes unless told otherwise.
const SHARE_OF_FREE: f64 = 0.9;

/// Chooses the batch size if the recipe leaves it open, and holds the largest batch that training can meet against the
/// memory there is.
///
/// # Errors
/// If no batch fits, or one that does not cannot be split because batch normalization sees the batch as a whole.
pub(super) fn settle(prepared: &mut Prepared, tell: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
    let train = &prepared.recipe.train;
    let is_auto = train.per_device_train_batch_size == TrainSection::AUTO;
    let batch_size = if is_auto { train.total_batch_size() } else { train.per_device_train_batch_size };
    let limit = match train.max_step_bytes {
        Some(limit) => Some(limit),
        None => room_for_steps(prepared),
    };
    let needs = Needs { prepared, meter: Meter::of(prepared) };
    let (needed, hungriest) = needs.of_largest(batch_size);
    let Some(limit) = limit.filter(|&limit| needed > limit) else {
        if is_auto {
            prepared.recipe.train.per_device_train_batch_size = batch_size;
            tell(Event::note(format!(
                "per_device_train_batch_size = {batch_size}: the whole step fits the memory"
            )));
        }
        return Ok(());
    };
    let smallest = prepared.recipe.augmentation.smallest_batch();
    let divides = |size: &usize| batch_size.is_multiple_of(*size) && size.is_multiple_of(smallest);
    let fitting = (1..batch_size).rev().filter(divides).find(|&size| needs.of_largest(size).0 <= limit);
    let Some(size) = fitting else { return Err(needs.too_small(limit, hungriest)) };
    if let Some(norm) = live_norm(&prepared.store, &prepared.stages) {
        return Err(TrainError::Setting(format!(
            "a batch of {batch_size} needs {} beside weights, gradients and optimizer state, but there is room for {}; it \
             cannot be split, since batch normalization ({norm}) trains on the statistics of the whole batch. Set \
             per_device_train_batch_size = {size} and gradient_accumulation_steps = {} so that each batch of {size} is \
             normalized by itself, freeze the groups that have such norms, or set gradient_checkpointing = true ({})",
            in_megabytes(needed),
            in_megabytes(limit),
            batch_size / size,
            in_megabytes(needs.checkpointed(batch_size)),
        )));
    }
    let train = &mut prepared.recipe.train;
    if is_auto {
        train.per_device_train_batch_size = size;
        train.gradient_accumulation_steps = batch_size / size;
        tell(Event::note(format!(
            "per_device_train_batch_size = {size}, gradient_accumulation_steps = {}: the largest batch of which {batch_size} \
             is a multiple and that fits the memory ({} for forward and backward)",
            batch_size / size,
            in_megabytes(limit)
        )));
        return Ok(());
    }
    train.max_step_bytes = Some(limit);
    tell(Event::warning(
        "split-batches",
        format!(
            "the largest batches of {batch_size} need {} for forward and backward, but there is room for {}: they are split, \
             which changes the gradient by rounding alone. per_device_train_batch_size = {size} with \
             gradient_accumulation_steps = {} fits as it is",
            in_megabytes(needed),
            in_megabytes(limit),
            batch_size / size * train.gradient_accumulation_steps
        ),
    ));
    Ok(())
}

/// What batches of a run need.
struct Needs<'a> {
    prepared: &'a Prepared,
    meter: Meter<'a>,
}

impl Needs<'_> {
    /// Bytes that forward and backward of the largest batch of so many samples take, and the stage that takes most.
    fn of_largest(&self, batch_size: usize) -> (u64, usize) {
        let Prepared { store, stages, trainee, .. } = self.prepared;
        let samples = longest_samples(trainee, batch_size);
        let needed = |stage: &Stage| {
            trainee.enter_stage(stage);
            self.meter.train(&Trainer::stage_trainable(store, stage), &samples, None).peak_bytes
        };
        let needs = stages.iter().enumerate().map(|(index, stage)| (needed(stage), index));
        needs.max_by_key(|&(bytes, _)| bytes).unwrap_or_default()
    }

    /// The same with gradient checkpointing.
    fn checkpointed(&self, batch_size: usize) -> u64 {
        let Prepared { recipe, task, trainee, store, .. } = self.prepared;
        let mut recipe: Recipe = recipe.clone();
        recipe.train.gradient_checkpointing = true;
        let meter = Meter::new(&recipe, task, trainee, store);
        Needs { prepared: self.prepared, meter }.of_largest(batch_size).0
    }

    /// Not even one sample fits.
    fn too_small(&self, limit: u64, stage: usize) -> TrainError {
        let one = self.of_largest(1).0;
        let advice = if self.prepared.trainee.text().is_some() {
            "a smaller data.max_length, strategy.method = \"lora\" or \"head\""
        } else {
            "a smaller data.image_size, strategy.method = \"head\" or \"last_n\""
        };
        TrainError::Setting(format!(
            "not even one sample fits the memory: forward and backward of the longest need {} (stage {}), and there is room \
             for {} beside weights, gradients and optimizer state. Try gradient_checkpointing = true ({}), {advice}, or a \
             larger max_memory_bytes",
            in_megabytes(one),
            self.prepared.stages[stage].name,
            in_megabytes(limit),
            in_megabytes(self.checkpointed(1)),
        ))
    }
}

/// Bytes that are left for forward and backward of a batch: of what the process may hold, without what it holds now and
/// what learning adds to it. `None` where the system does not tell.
fn room_for_steps(prepared: &Prepared) -> Option<u64> {
    let Prepared { recipe, store, stages, trainee, .. } = prepared;
    let resident = used_bytes()?;
    let limit = match recipe.train.max_memory_bytes {
        Some(limit) => limit,
        None => resident + (available_bytes()? as f64 * SHARE_OF_FREE) as u64,
    };
    let added = |stage: &Stage| {
        trainee.enter_stage(stage);
        let memory = stage_memory(recipe, store, stage);
        let cut = Trainer::stage_trainable(store, stage).deepest_group();
        let features = cut.and_then(|cut| feature_bytes(trainee, cut)).unwrap_or(0);
        memory.gradient_bytes + memory.optimizer_bytes + features.min(FeatureLimits::of(recipe).memory)
    };
    let average = if recipe.train.ema_decay.is_some() { 4 * store.elements() as u64 } else { 0 };
    let added = stages.iter().map(added).max().unwrap_or(0) + average;
    Some(limit.saturating_sub(resident + added))
}

/// A batch normalization that trains in some stage: it makes a batch's samples depend on each other.
fn live_norm(store: &ParameterStore, stages: &[Stage]) -> Option<String> {
    let trainables: Vec<Trainable> =
        stages.iter().map(|stage| Trainer::stage_trainable(store, stage)).collect();
    let is_live = |name: &str| {
        let weight = store.find(&format!("{name}.weight"));
        weight.is_some_and(|id| trainables.iter().any(|trainable| trainable.slot(id).is_some()))
    };
    let mut norms = store.ids().filter_map(|id| store.declaration(id).name.strip_suffix(".running_mean"));
    norms.find(|name| is_live(name)).map(str::to_owned)
}

fn in_megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
