//! One optimizer step: micro-batches that fit, their losses and gradients, and what the optimizer makes of them.

use retune_autograd::Gradients;
use retune_data::{EpochBatches, Target};
use retune_kernels as kernels;
use retune_nn::{
    Environment, Forward, ParameterId, ParameterRates, ParameterStore, Randomness, Role, Trainable,
};
use retune_tasks::BatchLoss;
use retune_tensor::Tensor;

use super::{StageRun, Trainer};
use crate::TrainError;
use crate::dynamics::Observed;
use crate::event::Event;
use crate::features::{fetch, trained_logits};
use crate::schedule::ReducePlateau;
use crate::trainee::{Fetch, SampleBatch, Split};

/// What one optimizer step did.
#[derive(Default)]
pub(super) struct StepDone {
    pub(super) loss: f64,
    pub(super) gradient_norm: f64,
    pub(super) factor: f64,
    pub(super) samples: u64,
    pub(super) tokens: u64,
    /// Margins of the samples, if the recipe asks for them.
    pub(super) observed: Vec<Observed>,
}

impl Trainer<'_> {
    /// One optimizer step. `None` if a stop was asked for between two micro-batches: nothing has changed then.
    pub(super) fn step(
        &mut self,
        run: &StageRun<'_>,
        batches: &EpochBatches,
        gradients: &mut Gradients,
    ) -> Result<Option<StepDone>, TrainError> {
        let train = &self.recipe.train;
        let accumulation = train.gradient_accumulation_steps;
        let first = (self.progress.stage_step % run.steps_per_epoch) as usize * accumulation;
        let randomness = Randomness { seed: train.seed, step: self.progress.step };
        let micro_batches: Vec<Vec<u32>> = (first..(first + accumulation).min(batches.batches()))
            .map(|index| batches.batch(index))
            .collect();
        let micro_batches = self.split_to_fit(run, micro_batches);
        let total_weight: f32 = micro_batches
            .iter()
            .flatten()
            .map(|&sample| self.task.sample_weight(self.trainee.target(Split::Train, sample)))
            .sum();
        gradients.clear();
        let mut done = StepDone::default();
        let mut buffer_updates = Vec::with_capacity(micro_batches.len());
        // Of the step that follows in this epoch.
        let after = batches.batch(first + accumulation);
        for (index, samples) in micro_batches.iter().enumerate() {
            if self.stop.is_set() && done.samples > 0 {
                return Ok(None);
            }
            let batch = Fetch::training(samples, done.samples as u32, randomness);
            let next = match micro_batches.get(index + 1) {
                Some(next) => {
                    Fetch::training(next, batch.first_occurrence + samples.len() as u32, randomness)
                }
                None => Fetch::training(&after, 0, Randomness { step: randomness.step + 1, ..randomness }),
            };
            fetch(run.features.as_deref(), self.trainee, &batch, Some(&next))?;
            let mut forward = Forward::new(Environment {
                context: self.context.clone(),
                store: &self.store,
                trainable: &run.trainable,
                randomness: Some(randomness),
                gradient_checkpointing: train.gradient_checkpointing,
            });
            let first_occurrence = done.samples as u32;
            let chosen = SampleBatch { split: Split::Train, samples, first_occurrence };
            let trained = trained_logits(run.features.as_deref(), self.trainee, &mut forward, chosen);
            let targets: Vec<&Target> =
                samples.iter().map(|&sample| self.trainee.target(Split::Train, sample)).collect();
            if train.record_dynamics
                && self.context.kernels().is_some()
                && self.trainee.mixed(&batch).is_none()
                && let Some((logits, _)) = trained.first()
            {
                let rows = logits.tensor().values().chunks_exact(self.task.outputs());
                let seen = samples.iter().zip(rows).zip(&targets);
                done.observed.extend(
                    seen.filter_map(|((&sample, logits), target)| Observed::of(sample, logits, target)),
                );
            }
            let mut ends = Vec::with_capacity(trained.len());
            for (logits, share) in trained {
                let loss = self.batch_loss(logits.tensor(), &batch, &targets, total_weight / share);
                if !loss.loss.is_finite() {
                    let position = loss.per_sample.iter().position(|loss| !loss.is_finite());
                    let named = position.map_or_else(|| samples.clone(), |position| vec![samples[position]]);
                    return Err(self.not_finite("the loss".to_owned(), &named));
                }
                done.loss += loss.loss;
                ends.push((logits, loss.dlogits));
            }
            let (tape, updates) = forward.finish();
            buffer_updates.push(updates);
            tape.backward(ends, gradients);
            done.samples += samples.len() as u64;
            done.tokens +=
                samples.iter().map(|&s| u64::from(self.trainee.length(Split::Train, s))).sum::<u64>();
        }
        let Some(cpu) = self.context.kernels().cloned() else { return Ok(Some(done)) };
        done.gradient_norm = kernels::sum_of_squares(&cpu, gradients.values()).sqrt();
        if !done.gradient_norm.is_finite() {
            let slots = run.trainable.ids().iter().enumerate();
            let broken = slots
                .map(|(slot, &id)| (slot, id))
                .find(|&(slot, _)| !kernels::all_finite(&cpu, gradients.slot(slot)));
            let name = broken.map_or("of all parameters", |(_, id)| &self.store.declaration(id).name);
            return Err(self.not_finite(format!("the gradient {name}"), &micro_batches.concat()));
        }
        let limit = self.recipe.optimizer.max_grad_norm.unwrap_or(0.0);
        // PyTorch's clip_grad_norm_ adds 1e-6 to the norm.
        let clip = if limit > 0.0 { (limit / (done.gradient_norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let plateau = self.progress.plateau.as_ref().map_or(1.0, ReducePlateau::factor);
        let factor = run.schedule.factor(self.progress.stage_step) * plateau;
        let weight_decay = self.recipe.optimizer.weight_decay;
        let rates: Vec<ParameterRates> = self
            .store
            .ids()
            .map(|id| {
                let declaration = self.store.declaration(id);
                ParameterRates {
                    learning_rate: run.stage.learning_rates[declaration.group] * factor,
                    weight_decay: if declaration.decays() { weight_decay } else { 0.0 },
                }
            })
            .collect();
        done.factor = factor;
        let rate = |id: ParameterId| rates[id.index()];
        self.optimizer.step(&cpu, &mut self.store, &run.trainable, gradients, clip, rate);
        for updates in &buffer_updates {
            updates.apply(&mut self.store);
        }
        if let (Some(average), Some(decay)) = (&mut self.average, train.ema_decay) {
            // Running statistics follow the weights at the same pace; what is counted is copied.
            let (averaged, copied) = averaged_values(&self.store, &run.trainable);
            for id in averaged {
                kernels::ema_update(&cpu, decay, average.values_mut(id), self.store.tensor(id).values());
            }
            for id in copied {
                average.values_mut(id).copy_from_slice(self.store.tensor(id).values());
            }
        }
        Ok(Some(done))
    }

    /// The loss of a batch; a sample that was mixed with another is held against both targets. The two of a pair give each
    /// other the same share, so that the weights of a step add up to what they would be without.
    fn batch_loss(
        &self,
        logits: &Tensor,
        batch: &Fetch<'_>,
        targets: &[&Target],
        total_weight: f32,
    ) -> BatchLoss {
        let loss = |targets: &[&Target]| match self.loss {
            Some(loss) => loss(&self.context, logits, targets, total_weight),
            None => self.task.loss(&self.context, logits, targets, total_weight),
        };
        let own = loss(targets);
        let mixed = self.trainee.mixed(batch).filter(|_| self.context.kernels().is_some());
        let Some(mixed) = mixed else { return own };
        let partners: Vec<&Target> = mixed.iter().map(|mixed| targets[mixed.partner]).collect();
        let shares: Vec<f32> = mixed.iter().map(|mixed| mixed.share).collect();
        own.mixed(&loss(&partners), &shares)
    }

    /// Splits batches that are known to need more memory than there is room for, each into as few like parts as fit.
    fn split_to_fit(&mut self, run: &StageRun<'_>, batches: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
        let Some(limit) = run.step_bytes else { return batches };
        let (mut fitting, mut events) = (Vec::new(), Vec::new());
        {
            let meter = self.meter();
            let needed = |samples: &[u32]| meter.train(&run.trainable, samples, None).peak_bytes;
            for batch in batches {
                let whole = needed(&batch);
                // The two of a mixed pair stay together.
                let smallest = self.recipe.augmentation.smallest_batch();
                let each = |parts: usize| batch.len().div_ceil(parts).next_multiple_of(smallest);
                let fits = |parts: &usize| batch.chunks(each(*parts)).all(|part| needed(part) <= limit);
                // The smallest was found to fit before the run began.
                let each = (1..batch.len()).find(fits).map_or(smallest, each);
                if each < batch.len() {
                    events.push(Event::BatchSplit {
                        stage: self.progress.stage,
                        step: self.progress.step + 1,
                        samples: batch.len(),
                        needed_bytes: whole,
                        parts: batch.len().div_ceil(each),
                    });
                }
                fitting.extend(batch.chunks(each).map(<[u32]>::to_vec));
            }
        }
        events.iter().for_each(|event| self.emit(event));
        fitting
    }

    fn not_finite(&self, what: String, samples: &[u32]) -> TrainError {
        const SHOWN: usize = 8;
        let mut named: Vec<String> =
            samples.iter().take(SHOWN).map(|&sample| self.trainee.origin(Split::Train, sample)).collect();
        if samples.len() > SHOWN {
            named.push(format!("{} more", samples.len() - SHOWN));
        }
        TrainError::NotFinite { what, step: self.progress.step + 1, samples: named.join(", ") }
    }
}

/// What a moving average averages of a store while these parameters train, and what it copies.
fn averaged_values(store: &ParameterStore, trainable: &Trainable) -> (Vec<ParameterId>, Vec<ParameterId>) {
    let moves = |id: &ParameterId| {
        let declaration = store.declaration(*id);
        trainable.slot(*id).is_some()
            || !declaration.is_parameter() && trainable.group_trains(declaration.group)
    };
    store.ids().filter(moves).partition(|&id| store.declaration(id).role != Role::Counter)
}
