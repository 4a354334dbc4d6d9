//! A few steps of a forked run, judged on held-out samples: no event, no evaluation of a whole split, no checkpoint.

use retune_autograd::Gradients;
use retune_data::EpochBatches;

use super::Trainer;
use crate::TrainError;
use crate::evaluate::sample_losses;
use crate::trainee::Split;

/// What a burst came to.
pub(crate) enum Burst {
    /// The loss of each held-out sample after the last step.
    Ended(Vec<f32>),
    /// A loss or a gradient was no longer finite.
    Diverged,
    /// A stop was asked for.
    Interrupted,
}

impl Trainer<'_> {
    /// Makes the steps of the first stage, which must be given as `max_steps` (0 is allowed), and measures the loss of
    /// each of these validation samples.
    pub(crate) fn burst(&mut self, held_out: &[u32]) -> Result<Burst, TrainError> {
        let stages = self.stages;
        let Some(stage) = stages.first() else { return Ok(Burst::Ended(Vec::new())) };
        let run = self.enter_stage(stage);
        let order = self.batch_order();
        let mut gradients = Gradients::new(run.trainable.slot_lengths(&self.store));
        let mut epoch: Option<(u64, EpochBatches)> = None;
        while self.progress.stage_step < stage.max_steps.unwrap_or(0) {
            let number = self.progress.stage_step / run.steps_per_epoch;
            if epoch.as_ref().is_none_or(|(current, _)| *current != number) {
                epoch = Some((number, order.epoch(number)));
            }
            let Some((_, batches)) = &epoch else { unreachable!("the epoch was just set") };
            let done = match self.step(&run, batches, &mut gradients) {
                Ok(done) => done,
                Err(TrainError::NotFinite { .. }) => return Ok(Burst::Diverged),
                Err(error) => return Err(error),
            };
            if done.is_none() || self.stop.is_set() {
                return Ok(Burst::Interrupted);
            }
            self.progress.step += 1;
            self.progress.stage_step += 1;
        }
        let losses = sample_losses(
            &self.context,
            (&self.store, run.features.as_deref()),
            self.trainee,
            self.task,
            (Split::Validation, held_out),
            self.recipe.train.per_device_eval_batch_size,
        )?;
        Ok(if losses.iter().all(|loss| loss.is_finite()) { Burst::Ended(losses) } else { Burst::Diverged })
    }
}
