//! Evaluation: logits of a whole split, and what is measured on them.

use retune_data::Target;
use retune_nn::{Environment, Forward, ParameterStore, Trainable};
use retune_tasks::ClassificationTask;
use retune_tasks::metrics::{EvaluationOptions, EvaluationReport};
use retune_tensor::Context;

use crate::TrainError;
use crate::features::{Prefix, fetch, logits};
use crate::trainee::{Fetch, SampleBatch, Split, Trainee};

/// A split's logits and what was measured on them.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// [samples, outputs], in the split's order.
    pub logits: Vec<f32>,
    /// Mean loss.
    pub loss: f64,
    /// Loss of each sample.
    pub losses: Vec<f32>,
    /// Metrics with intervals.
    pub report: EvaluationReport,
}

/// Logits [samples, outputs] of the named samples, in evaluation mode. No sample's logits depend on `batch_size`.
///
/// # Errors
/// If a sample cannot be read.
pub fn evaluate_logits(
    context: &Context,
    store: &ParameterStore,
    trainee: &dyn Trainee,
    split: Split,
    samples: &[u32],
    batch_size: usize,
) -> Result<Vec<f32>, TrainError> {
    logits_in_batches(context, (store, None), trainee, split, samples, batch_size)
}

/// As [`evaluate_logits`], with the features that are kept of the store's frozen layer groups.
fn logits_in_batches(
    context: &Context,
    (store, features): (&ParameterStore, Option<&Prefix>),
    trainee: &dyn Trainee,
    split: Split,
    samples: &[u32],
    batch_size: usize,
) -> Result<Vec<f32>, TrainError> {
    let trainable = Trainable::none(store);
    let mut values = Vec::new();
    let mut batches = samples.chunks(batch_size.max(1)).peekable();
    while let Some(samples) = batches.next() {
        let next = batches.peek().map(|next| Fetch::evaluation(split, next));
        fetch(features, trainee, &Fetch::evaluation(split, samples), next.as_ref())?;
        let mut forward = Forward::new(Environment::evaluation(context, store, &trainable));
        let batch = SampleBatch { split, samples, first_occurrence: 0 };
        values.extend_from_slice(logits(features, trainee, &mut forward, batch).tensor().values());
    }
    Ok(values)
}

/// The loss of each of the named samples in evaluation mode, not a number where the weights have run away.
///
/// # Errors
/// If a sample cannot be read.
pub(crate) fn sample_losses(
    context: &Context,
    store: (&ParameterStore, Option<&Prefix>),
    trainee: &dyn Trainee,
    task: &ClassificationTask,
    (split, samples): (Split, &[u32]),
    batch_size: usize,
) -> Result<Vec<f32>, TrainError> {
    let logits = logits_in_batches(context, store, trainee, split, samples, batch_size)?;
    let targets: Vec<_> = samples.iter().map(|&sample| trainee.target(split, sample)).collect();
    Ok(plain_losses(context, task, &targets, logits))
}

/// The losses of logits [samples, outputs]: plain, with no smoothing and no class weights, so that recipes can be
/// compared.
fn plain_losses(
    context: &Context,
    task: &ClassificationTask,
    targets: &[&Target],
    logits: Vec<f32>,
) -> Vec<f32> {
    let rows = context.tensor([targets.len(), task.outputs()], logits);
    let plain = ClassificationTask::new(task.problem_type, task.labels.clone());
    plain.loss(context, &rows, targets, 1.0).per_sample
}

/// Evaluates a whole split, with the features that are kept of the store's frozen layer groups.
pub(crate) fn evaluate(
    context: &Context,
    (store, features): (&ParameterStore, Option<&Prefix>),
    trainee: &dyn Trainee,
    task: &ClassificationTask,
    split: Split,
    batch_size: usize,
    options: &EvaluationOptions,
) -> Result<Evaluation, TrainError> {
    let samples: Vec<u32> = (0..trainee.samples(split) as u32).collect();
    let logits = logits_in_batches(context, (store, features), trainee, split, &samples, batch_size)?;
    let targets: Vec<_> = samples.iter().map(|&sample| trainee.target(split, sample)).collect();
    Evaluation::measure(context, task, &targets, logits, options)
}

impl Evaluation {
    /// Loss and metrics of logits [samples, outputs].
    pub(crate) fn measure(
        context: &Context,
        task: &ClassificationTask,
        targets: &[&Target],
        logits: Vec<f32>,
        options: &EvaluationOptions,
    ) -> Result<Self, TrainError> {
        let losses = plain_losses(context, task, targets, logits.clone());
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len().max(1) as f64;
        let report = task.evaluate(targets, &logits, options)?;
        Ok(Self { logits, loss, losses, report })
    }
}
