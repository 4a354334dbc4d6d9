//! The loop: stages, steps, evaluations, checkpoints.

mod best;
mod burst;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use retune_autograd::Gradients;
use retune_data::{BatchOrder, EpochBatches, Target};
use retune_nn::{Optimizer, ParameterStore, Trainable};
use retune_tasks::metrics::{EvaluationOptions, EvaluationReport};
use retune_tasks::{BatchLoss, ClassificationTask};
use retune_tensor::{Context, Tensor};
use serde_json::Value;

use crate::dynamics::Dynamics;
use crate::evaluate::{Evaluation, evaluate};
use crate::event::{Event, Listener};
use crate::features::{FeatureCache, Prefix};
use crate::plan::{Meter, longest_samples, stage_steps, steps_per_epoch, training_order};
use crate::recipe::Recipe;
use crate::schedule::{ReducePlateau, Schedule};
use crate::stages::Stage;
use crate::state::{Progress, Snapshot, Unlogged, rotate_checkpoints};
use crate::trainee::{Split, Trainee};
use crate::{RunFolder, TrainError};
use step::StepDone;

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
        self.trainee.enter_stage(stage);
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

    /// The model on a context without numbers.
    fn meter(&self) -> Meter<'_> {
        Meter::new(self.recipe, self.task, self.trainee, &self.store)
    }

    fn after_step(&mut self, run: &StageRun<'_>, done: &StepDone, seconds: f64) -> Result<(), TrainError> {
        let progress = &mut self.progress;
        if self.recipe.train.record_dynamics {
            let samples = self.trainee.samples(Split::Train);
            progress.dynamics.get_or_insert_with(|| Dynamics::new(samples)).observe(&done.observed);
        }
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

    /// Tells all listeners.
    pub fn emit(&mut self, event: &Event) {
        for listener in &mut self.listeners {
            listener.on_event(event);
        }
    }
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
