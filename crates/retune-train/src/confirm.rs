//! A plan put to the test: the largest batch that training can meet, once forward, backward and through the optimizer, on
//! the real model and its real data.

use std::time::Instant;

use retune_autograd::{Gradients, Var};
use retune_data::Target;
use retune_nn::{Environment, Forward, Optimizer, ParameterRates, Randomness};
use serde::Serialize;

use crate::TrainError;
use crate::fit::optimizer_config;
use crate::forecast::{input_seconds, update_work};
use crate::memory::{resident_bytes, used_bytes};
use crate::plan::{RunPlan, StagePlan, longest_samples, unreached_bytes};
use crate::prepare::Prepared;
use crate::rates::MachineRates;
use crate::trainee::{Fetch, SampleBatch, Split, Trainee};
use crate::trainer::Trainer;

/// A step on the largest batch: predicted beside measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confirmation {
    /// The stage whose step needs most memory.
    pub stage: String,
    /// Samples of the batch.
    pub samples: usize,
    /// Tokens of the batch.
    pub tokens: u64,
    /// Seconds, as predicted from the machine's speeds.
    pub predicted_seconds: f64,
    /// Seconds of the second run; in the first the system hands out the memory.
    pub seconds: f64,
    /// Bytes of the process in memory, as predicted.
    pub predicted_resident_bytes: Option<u64>,
    /// Bytes of the process in memory afterwards, which are the most it had: buffers are kept.
    pub resident_bytes: Option<u64>,
}

/// Runs the largest batch of the stage that needs most memory. The parameters have moved afterwards, so that nothing else
/// can be done with what was prepared.
///
/// # Errors
/// If a sample cannot be read, or the context does not compute.
pub fn confirm_plan(
    mut prepared: Prepared,
    plan: &RunPlan,
    rates: &MachineRates,
) -> Result<Confirmation, TrainError> {
    let largest = plan.stages.iter().enumerate().max_by_key(|(_, stage)| stage.cost.bytes());
    let (Some((index, stage)), Some(cpu)) = (largest, prepared.context.kernels().cloned()) else {
        return Err(TrainError::Setting("there is nothing to confirm: no stage trains".to_owned()));
    };
    prepared.trainee.enter_stage(&prepared.stages[index]);
    let resident_before = used_bytes();
    let batch_size = prepared.recipe.train.per_device_train_batch_size;
    let samples = longest_samples(&prepared.trainee, batch_size);
    let input = input_seconds(&prepared.trainee, Split::Train)? * samples.len() as f64;
    let trainable = Trainer::stage_trainable(&prepared.store, &prepared.stages[index]);
    let mut optimizer = Optimizer::new(optimizer_config(&prepared.recipe));
    optimizer.set_trainable(&prepared.store, &trainable);
    let mut gradients = Gradients::new(trainable.slot_lengths(&prepared.store));
    let mut seconds = 0.0;
    for step in 0..2 {
        let started = Instant::now();
        let Prepared { recipe, task, trainee, store, context, .. } = &mut prepared;
        let randomness = Randomness { seed: recipe.train.seed, step };
        trainee.fetch(&Fetch::training(&samples, 0, randomness), None)?;
        gradients.clear();
        let mut forward = Forward::new(Environment {
            context: context.clone(),
            store,
            trainable: &trainable,
            randomness: Some(randomness),
            gradient_checkpointing: recipe.train.gradient_checkpointing,
        });
        let batch = SampleBatch { split: Split::Train, samples: &samples, first_occurrence: 0 };
        let trained = trainee.trained_logits(&mut forward, batch);
        let targets: Vec<&Target> =
            samples.iter().map(|&sample| trainee.target(Split::Train, sample)).collect();
        let end = |(logits, share): (Var, f32)| {
            let loss = task.loss(context, logits.tensor(), &targets, targets.len() as f32 / share);
            (logits, loss.dlogits)
        };
        let ends = trained.into_iter().map(end).collect();
        let (tape, updates) = forward.finish();
        tape.backward(ends, &mut gradients);
        // A rate of 0 writes every weight as it was: the work of an update without its effect.
        let still = ParameterRates { learning_rate: 0.0, weight_decay: 0.0 };
        optimizer.step(&cpu, store, &trainable, &gradients, 1.0, |_| still);
        updates.apply(store);
        seconds = started.elapsed().as_secs_f64();
    }
    let StagePlan { name, cost, trainable_parameters, .. } = stage;
    let update = update_work(*trainable_parameters as u64, cost.optimizer_bytes / 4, false);
    let live = |live: &[bool]| live.iter().filter(|live| **live).count();
    let unreached = unreached_bytes(&prepared, &trainable, &gradients, live);
    let added = cost.peak_activation_bytes + cost.gradient_bytes + cost.optimizer_bytes - unreached;
    Ok(Confirmation {
        stage: name.clone(),
        samples: cost.samples,
        tokens: cost.tokens,
        predicted_seconds: rates.seconds(&(cost.work + update)) + input,
        seconds,
        predicted_resident_bytes: resident_before.map(|before| before + added),
        resident_bytes: resident_bytes(),
    })
}
