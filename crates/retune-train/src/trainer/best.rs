//! Which weights a run ends with: the best by the metric, the last, their average.

use std::time::Instant;

use retune_nn::Role;
use retune_tasks::metrics::{EvaluationOptions, Metric};

use super::{StageRun, Trainer, metric_values};
use crate::TrainError;
use crate::evaluate::Evaluation;
use crate::event::Event;
use crate::state::{Best, list_checkpoints, read_checkpoint, read_parameters, write_parameters};
use crate::trainee::Split;

impl Trainer<'_> {
    /// Evaluates the validation split, keeps the best model, and says whether the stage should end.
    pub(super) fn evaluate_and_judge(&mut self, run: &StageRun<'_>) -> Result<bool, TrainError> {
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
}

/// Whether a metric's value beats an older one by more than a margin.
fn improves(greater_is_better: bool, value: f64, old: f64, margin: f64) -> bool {
    if greater_is_better { value > old + margin } else { value < old - margin }
}

/// A metric of an evaluation by name; `loss` too.
fn metric_value(evaluation: &Evaluation, name: &str) -> Option<f64> {
    if name == "loss" { Some(evaluation.loss) } else { evaluation.report.value(name) }
}
