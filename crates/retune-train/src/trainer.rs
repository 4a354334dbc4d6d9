//! The loop: stages, steps, evaluations, checkpoints.

mod burst;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use retune_autograd::Gradients;
use retune_data::{BatchOrder, EpochBatches, Target};
use retune_kernels as kernels;
use retune_nn::{
    Environment, Forward, Optimizer, ParameterId, ParameterRates, ParameterStore, Randomness, Role, Trainable,
};
use retune_tasks::metrics::{EvaluationOptions, EvaluationReport, Metric};
use retune_tasks::{BatchLoss, ClassificationTask};
use retune_tensor::{Context, Tensor};
use serde_json::Value;

use crate::evaluate::{Evaluation, evaluate};
use crate::event::{Event, Listener};
use crate::features::{FeatureCache, Prefix, fetch, trained_logits};
use crate::plan::{Meter, longest_samples, stage_steps, steps_per_epoch, training_order};
use crate::recipe::Recipe;
use crate::schedule::{ReducePlateau, Schedule};
use crate::stages::Stage;
use crate::state::{
    Best, Progress, Snapshot, Unlogged, list_checkpoints, read_checkpoint, read_parameters,
    rotate_checkpoints, write_parameters,
};
use crate::trainee::{Fetch, SampleBatch, Split, Trainee};
use crate::{RunFolder, TrainError};

pub(crate) use burst::Burst;

/// Asks a run to stop at the next step. Shared with a signal handler or another thread.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks the run to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A loss of the user's own: context, logits [samples, outputs], targets and total weight to loss and gradient.
pub type LossFunction<'a> = dyn Fn(&Context, &Tensor, &[&Target], f32) -> BatchLoss + 'a;

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All stages ran to their end.
    Completed,
    /// The last stage ended because the metric no longer improved.
    EarlyStopping,
    /// A stop was asked for; a checkpoint was written.
    Interrupted,
}

impl Outcome {
    /// Its name in `log.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::EarlyStopping => "early_stopping",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One run's loop and all that changes in it.
pub struct Trainer<'a> {
    /// The recipe, every default resolved.
    pub recipe: &'a Recipe,
    /// Its stages.
    pub stages: &'a [Stage],
    /// The model with its data.
    pub trainee: &'a dyn Trainee,
    /// Loss and metrics.
    pub task: &'a ClassificationTask,
    /// Instead of the task's loss.
    pub loss: Option<&'a LossFunction<'a>>,
    /// Device, kernels, pool.
    pub context: Context,
    /// The parameters.
    pub store: ParameterStore,
    /// Moving average of the parameters (`train.ema_decay`).
    pub average: Option<ParameterStore>,
    /// The optimizer and its state.
    pub optimizer: Optimizer,
    /// Where the run stands.
    pub progress: Progress,
    /// Where checkpoints go.
    pub folder: &'a RunFolder,
    /// Who hears of it.
    pub listeners: Vec<&'a mut dyn Listener>,
    /// Asks the loop to stop.
    pub stop: StopFlag,
    /// What frozen layer groups computed.
    pub(crate) features: Arc<FeatureCache>,
}

/// What stays the same over one stage.
struct StageRun<'a> {
    stage: &'a Stage,
    trainable: Trainable,
    features: Option<Arc<Prefix>>,
    /// Bytes that a batch's forward and backward may take, if the largest batch takes more.
    step_bytes: Option<u64>,
    schedule: Schedule,
    total_steps: u64,
    steps_per_epoch: u64,
    group_names: Vec<String>,
}

/// Why a stage ended.
enum StageEnd {
    Finished,
    NoImprovement,
    Interrupted,
}

impl Trainer<'_> {
    /// Runs from where `progress` stands to the end, or until a stop is asked for.
    ///
    /// # Errors
    /// If the loss or a gradient is not finite, or a file cannot be written.
    pub fn run(&mut self) -> Result<Outcome, TrainError> {
        let mut outcome = Outcome::Completed;
        while self.progress.stage < self.stages.len() {
            let index = self.progress.stage;
            let stages = self.stages;
            let stage_run = self.enter_stage(&stages[index]);
            let end = self.run_stage(&stage_run)?;
            self.features.weights_changed();
            self.tell_of_features();
            match end {
                StageEnd::Interrupted => return Ok(Outcome::Interrupted),
                StageEnd::NoImprovement if index + 1 == self.stages.len() => {
                    outcome = Outcome::EarlyStopping;
                }
                _ => {}
            }
            let epochs = self.progress.stage_step.div_ceil(stage_run.steps_per_epoch);
            self.progress.first_epoch += epochs;
            self.progress.stage += 1;
            self.progress.stage_step = 0;
            self.progress.stage_best = None;
            self.progress.evaluations_without_improvement = 0;
            self.progress.plateau = None;
        }
        Ok(outcome)
    }

    /// Sums of all steps of all stages.
    pub fn total_steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage_steps(stage, self.steps_per_epoch())).sum()
    }

    fn steps_per_epoch(&self) -> u64 {
        steps_per_epoch(self.recipe, self.trainee.samples(Split::Train))
    }

    /// The parameters that train in a stage.
    pub fn stage_trainable(store: &ParameterStore, stage: &Stage) -> Trainable {
        let head = stage.trainable_groups.len() - 1;
        Trainable::new(store, |_, declaration| {
            let group = declaration.group;
            stage.trainable_groups[group]
                && (!stage.adapters_only || group == head || declaration.name.contains(".lora_"))
        })
    }

    fn enter_stage<'s>(&mut self, stage: &'s Stage) -> StageRun<'s> {
        let trainable = Self::stage_trainable(&self.store, stage);
        self.optimizer.set_trainable(&self.store, &trainable);
        let features = self.features_of(&self.store, false, &trainable);
        let total_steps = stage_steps(stage, self.steps_per_epoch());
        let step_bytes = self.recipe.train.max_step_bytes.filter(|&limit| {
            let largest = longest_samples(self.trainee, self.recipe.train.per_device_train_batch_size);
            self.meter().train(&trainable, &largest, None).peak_bytes > limit
        });
        let schedule = Schedule::new(&stage.schedule, total_steps);
        if self.progress.plateau.is_none() {
            self.progress.plateau = ReducePlateau::for_section(&stage.schedule);
        }
        let group_names: Vec<String> = self.store.groups().into_iter().map(|group| group.name).collect();
        let run = StageRun {
            stage,
            trainable,
            features,
            step_bytes,
            schedule,
            total_steps,
            steps_per_epoch: self.steps_per_epoch(),
            group_names,
        };
        if self.progress.stage_step == 0 {
            let named = |trains: bool| {
                let groups = run.group_names.iter().enumerate();
                let chosen = groups.filter(|&(group, _)| run.trainable.group_trains(group) == trains);
                chosen.map(|(_, name)| name.clone()).collect()
            };
            self.emit(&Event::StageEntered {
                stage: self.progress.stage,
                name: stage.name.clone(),
                step: self.progress.step,
                epoch: self.progress.first_epoch as f64,
                trainable_groups: named(true),
                frozen_groups: named(false),
                trainable_parameters: run.trainable.slot_lengths(&self.store).sum(),
                total_parameters: self.store.elements(),
            });
        }
        run
    }

    fn run_stage(&mut self, run: &StageRun<'_>) -> Result<StageEnd, TrainError> {
        let train = &self.recipe.train;
        let order = self.batch_order();
        let mut gradients = Gradients::new(run.trainable.slot_lengths(&self.store));
        let mut epoch: Option<(u64, EpochBatches)> = None;
        while self.progress.stage_step < run.total_steps {
            let started = Instant::now();
            let number = self.progress.first_epoch + self.progress.stage_step / run.steps_per_epoch;
            if epoch.as_ref().is_none_or(|(current, _)| *current != number) {
                epoch = Some((number, order.epoch(number)));
            }
            let Some((_, batches)) = &epoch else { unreachable!("the epoch was just set") };
            let Some(done) = self.step(run, batches, &mut gradients)? else {
                return self.interrupt();
            };
            self.progress.step += 1;
            self.progress.stage_step += 1;
            let seconds = started.elapsed().as_secs_f64();
            self.after_step(run, &done, seconds)?;
            let epoch_ended = self.progress.stage_step.is_multiple_of(run.steps_per_epoch);
            let stage_ended = self.progress.stage_step == run.total_steps;
            let due = |steps: Option<u64>| match steps {
                Some(steps) => self.progress.step.is_multiple_of(steps) || stage_ended,
                None => epoch_ended || stage_ended,
            };
            let (evaluation_due, save_due) = (due(train.eval_steps), due(train.save_steps));
            if evaluation_due && self.trainee.samples(Split::Validation) > 0 {
                let ends_stage = self.evaluate_and_judge(run)?;
                if ends_stage && !stage_ended {
                    return Ok(StageEnd::NoImprovement);
                }
            }
            if stage_ended {
                self.tell_of_features();
            } else if epoch_ended {
                self.features.finish();
            }
            if save_due {
                self.save_checkpoint()?;
            }
            if self.stop.is_set() && !stage_ended {
                return self.interrupt();
            }
        }
        Ok(StageEnd::Finished)
    }

    /// The order of the training samples over all epochs.
    fn batch_order(&self) -> BatchOrder {
        training_order(self.recipe, self.trainee)
    }

    fn interrupt(&mut self) -> Result<StageEnd, TrainError> {
        self.tell_of_features();
        self.save_checkpoint()?;
        Ok(StageEnd::Interrupted)
    }

    /// One optimizer step. `None` if a stop was asked for between two micro-batches: nothing has changed then.
    fn step(
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

    /// The model on a context without numbers.
    fn meter(&self) -> Meter<'_> {
        Meter::new(self.recipe, self.task, self.trainee, &self.store)
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

    fn after_step(&mut self, run: &StageRun<'_>, done: &StepDone, seconds: f64) -> Result<(), TrainError> {
        let progress = &mut self.progress;
        progress.loss_sum += done.loss;
        progress.samples += done.samples;
        progress.seconds += seconds;
        let timing = progress.timing();
        timing.steps += 1;
        timing.seconds += seconds;
        let unlogged = &mut progress.unlogged;
        unlogged.loss += done.loss;
        unlogged.steps += 1;
        unlogged.tokens += done.tokens;
        unlogged.samples += done.samples;
        unlogged.seconds += seconds;
        let logging_steps = self.recipe.train.logging_steps.max(1);
        let stage_ended = progress.stage_step == run.total_steps;
        if !progress.step.is_multiple_of(logging_steps) && !stage_ended {
            return Ok(());
        }
        let unlogged: Unlogged = std::mem::take(unlogged);
        let learning_rates: BTreeMap<String, f64> = run
            .group_names
            .iter()
            .enumerate()
            .filter(|&(group, _)| run.trainable.group_trains(group))
            .map(|(group, name)| (name.clone(), run.stage.learning_rates[group] * done.factor))
            .collect();
        let event = Event::StepEnded {
            stage: progress.stage,
            step: progress.step,
            epoch: self.epoch(),
            loss: unlogged.loss / unlogged.steps as f64,
            grad_norm: done.gradient_norm,
            learning_rates,
            tokens: unlogged.tokens,
            samples: unlogged.samples,
            seconds: unlogged.seconds,
        };
        self.emit(&event);
        Ok(())
    }

    /// Epochs made so far.
    fn epoch(&self) -> f64 {
        self.progress.first_epoch as f64 + self.progress.stage_step as f64 / self.steps_per_epoch() as f64
    }

    /// The parameters that are evaluated and saved: the moving average if the run keeps one.
    pub fn evaluated_store(&self) -> &ParameterStore {
        self.average.as_ref().unwrap_or(&self.store)
    }

    /// Evaluates a split with the current weights.
    ///
    /// # Errors
    /// If a logit is not finite.
    pub fn evaluate(&self, split: Split, options: &EvaluationOptions) -> Result<Evaluation, TrainError> {
        let batch_size = self.recipe.train.per_device_eval_batch_size;
        let store = self.evaluated_store();
        // After the last stage its cut still holds: what it froze is frozen in the final model.
        let stage = self.stages.get(self.progress.stage).or(self.stages.last());
        let features = stage.and_then(|stage| {
            let trainable = Self::stage_trainable(store, stage);
            self.features_of(store, self.average.is_some(), &trainable)
        });
        let store = (store, features.as_deref());
        evaluate(&self.context, store, self.trainee, self.task, split, batch_size, options)
    }

    /// What is kept of the layer groups below all that train.
    fn features_of(
        &self,
        store: &ParameterStore,
        is_average: bool,
        trainable: &Trainable,
    ) -> Option<Arc<Prefix>> {
        let cut = trainable.deepest_group()?;
        self.features.below(&self.context, (store, is_average), self.trainee, cut)
    }

    /// Makes computed features visible to other runs, and tells what they saved.
    pub(crate) fn tell_of_features(&mut self) {
        self.features.finish();
        for failure in self.features.take_failures() {
            self.emit(&Event::warning("feature-cache", failure));
        }
        for usage in self.features.take_usage() {
            self.emit(&Event::FeaturesCached {
                stage: self.progress.stage,
                step: self.progress.step,
                below: usage.below,
                computed: usage.computed,
                reused: usage.reused,
                from_disk: usage.from_disk,
                computed_seconds: usage.computed_seconds,
                saved_seconds: usage.saved_seconds,
                memory_bytes: usage.memory_bytes,
                disk_bytes: usage.disk_bytes,
            });
        }
    }

    /// Evaluates the validation split, keeps the best model, and says whether the stage should end.
    fn evaluate_and_judge(&mut self, run: &StageRun<'_>) -> Result<bool, TrainError> {
        let value = self.evaluate_and_keep_best()?;
        let greater_is_better = self.greater_is_better(&self.metric_name());
        if let Some(plateau) = &mut self.progress.plateau {
            plateau.observe(value, greater_is_better);
        }
        let margin = self.recipe.train.early_stopping_threshold;
        if self.progress.stage_best.is_none_or(|old| improves(greater_is_better, value, old, margin)) {
            self.progress.stage_best = Some(value);
            self.progress.evaluations_without_improvement = 0;
        } else {
            self.progress.evaluations_without_improvement += 1;
        }
        let patience = run.stage.early_stopping_patience;
        Ok(patience.is_some_and(|patience| self.progress.evaluations_without_improvement >= patience.max(1)))
    }

    /// Evaluates the validation split and keeps the weights if they are the best so far. Returns the metric that judges.
    fn evaluate_and_keep_best(&mut self) -> Result<f64, TrainError> {
        let started = Instant::now();
        // Intervals are drawn once, for the final result.
        let mut options = EvaluationOptions::default();
        options.bootstrap.resamples = 0;
        let evaluation = self.evaluate(Split::Validation, &options)?;
        let seconds = started.elapsed().as_secs_f64();
        self.progress.seconds += seconds;
        let timing = self.progress.timing();
        timing.evaluations += 1;
        timing.evaluation_seconds += seconds;
        self.emit(&Event::EvalEnded {
            stage: self.progress.stage,
            step: self.progress.step,
            epoch: self.epoch(),
            split: Split::Validation.name().to_owned(),
            metrics: metric_values(&evaluation.report, evaluation.loss),
            seconds,
        });
        let name = self.metric_name();
        let value = metric_value(&evaluation, &name).ok_or_else(|| {
            TrainError::Setting(format!(
                "train.metric_for_best_model = \"{name}\" is not defined on the validation data; choose another metric"
            ))
        })?;
        let greater_is_better = self.greater_is_better(&name);
        let is_best = self.progress.best.as_ref().is_none_or(|best| {
            improves(greater_is_better, value, best.value, 0.0)
                || value == best.value && evaluation.loss < best.loss
        });
        if is_best {
            let best = Best { step: self.progress.step, metric: name, value, loss: evaluation.loss };
            self.emit(&Event::BestModel { step: best.step, metric: best.metric.clone(), value });
            self.progress.best = Some(best);
            if self.recipe.train.load_best_model_at_end {
                write_parameters(self.evaluated_store(), &self.folder.best_weights()?)?;
            }
        }
        Ok(value)
    }

    fn metric_name(&self) -> String {
        let name = self.recipe.train.metric_for_best_model.as_deref();
        let name = name.unwrap_or(self.task.default_metric());
        name.strip_prefix("eval_").unwrap_or(name).to_owned()
    }

    fn greater_is_better(&self, metric: &str) -> bool {
        self.recipe
            .train
            .greater_is_better
            .unwrap_or_else(|| Metric::find(metric).is_some_and(|metric| metric.better(1.0, 0.0)))
    }

    fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        self.progress.log_bytes = self.folder.log_length();
        let checkpoints = self.folder.checkpoints();
        let snapshot = Snapshot {
            store: &self.store,
            average: self.average.as_ref(),
            optimizer: &self.optimizer,
            progress: &self.progress,
        };
        let path = snapshot.write(&checkpoints)?;
        rotate_checkpoints(&checkpoints, self.recipe.train.save_total_limit)?;
        self.emit(&Event::CheckpointWritten { step: self.progress.step, path });
        Ok(())
    }

    /// Averages the newest checkpoints (`train.average_checkpoints`) and judges the result like any other model: where
    /// there is validation data it must beat the best so far, else it replaces the last.
    ///
    /// # Errors
    /// If a checkpoint cannot be read.
    pub fn average_checkpoints(&mut self) -> Result<(), TrainError> {
        let Some(count) = self.recipe.train.average_checkpoints else { return Ok(()) };
        let found = list_checkpoints(&self.folder.checkpoints())?;
        let averaged = &found[found.len().saturating_sub(count)..];
        let Some((first, others)) = averaged.split_first() else { return Ok(()) };
        self.average = None;
        self.features.weights_changed();
        read_checkpoint(first, &mut self.store)?;
        for (done, checkpoint) in (1..).zip(others) {
            let mut next = self.store.clone();
            read_checkpoint(checkpoint, &mut next)?;
            let share = 1.0 / f64::from(done + 1);
            for id in self.store.ids() {
                if self.store.declaration(id).role == Role::Counter {
                    self.store.values_mut(id).copy_from_slice(next.tensor(id).values());
                    continue;
                }
                let values = next.tensor(id).values().iter();
                for (mean, &value) in self.store.values_mut(id).iter_mut().zip(values) {
                    *mean += ((f64::from(value) - f64::from(*mean)) * share) as f32;
                }
            }
        }
        self.emit(&Event::note(format!("averaged the weights of {} checkpoints", averaged.len())));
        if self.trainee.samples(Split::Validation) > 0 {
            self.evaluate_and_keep_best()?;
        }
        Ok(())
    }

    /// Puts the best weights back, if the recipe asks for it and there are any.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load_best(&mut self) -> Result<(), TrainError> {
        self.features.weights_changed();
        if self.recipe.train.load_best_model_at_end && self.progress.best.is_some() {
            read_parameters(&mut self.store, &self.folder.best_weights()?)?;
            self.average = None;
        } else if let Some(average) = self.average.take() {
            self.store = average;
        }
        Ok(())
    }

    /// Tells all listeners.
    pub fn emit(&mut self, event: &Event) {
        for listener in &mut self.listeners {
            listener.on_event(event);
        }
    }
}

/// What one optimizer step did.
#[derive(Default)]
struct StepDone {
    loss: f64,
    gradient_norm: f64,
    factor: f64,
    samples: u64,
    tokens: u64,
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

/// Whether a metric's value beats an older one by more than a margin.
fn improves(greater_is_better: bool, value: f64, old: f64, margin: f64) -> bool {
    if greater_is_better { value > old + margin } else { value < old - margin }
}

/// A metric of an evaluation by name; `loss` too.
fn metric_value(evaluation: &Evaluation, name: &str) -> Option<f64> {
    if name == "loss" { Some(evaluation.loss) } else { evaluation.report.value(name) }
}

/// All defined metrics by name, with the loss.
pub(crate) fn metric_values(report: &EvaluationReport, loss: f64) -> serde_json::Map<String, Value> {
    let mut values = serde_json::Map::from_iter([("loss".to_owned(), Value::from(loss))]);
    for score in &report.scores {
        if let Some(value) = score.value {
            values.insert(score.metric.name.to_owned(), Value::from(value));
        }
    }
    values
}
