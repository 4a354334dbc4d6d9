//! A prepared model on a context without numbers: what its passes allocate and how much work they are.

use std::cell::OnceCell;

use retune_autograd::{Gradients, Var};
use retune_data::{BatchOrder, Target};
use retune_nn::{Environment, Forward, ParameterBuilder, ParameterStore, Randomness, Trainable};
use retune_tasks::ClassificationTask;
use retune_tensor::{Context, WorkCounts};

use super::{GroupActivations, training_order};
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::trainee::{SampleBatch, Split, Trainee};

/// At most this many batches of an epoch are measured; the work of the others is taken in proportion.
const MEASURED_BATCHES: usize = 32;

/// What was measured of one batch.
pub(crate) struct Measured {
    /// Most bytes of tensors alive at once, beside the parameters.
    pub peak_bytes: u64,
    /// Its work.
    pub work: WorkCounts,
    /// Its gradients, of which it is known where they are not zero.
    pub gradients: Gradients,
}

/// The model of a run on a context without numbers.
pub(crate) struct Meter<'a> {
    recipe: &'a Recipe,
    task: &'a ClassificationTask,
    trainee: &'a dyn Trainee,
    context: Context,
    store: ParameterStore,
    /// Bytes of the parameters.
    resting: u64,
    rows_looked_up: OnceCell<usize>,
}

impl<'a> Meter<'a> {
    /// A meter of a model with these parameters, of which the shapes alone count.
    pub fn new(
        recipe: &'a Recipe,
        task: &'a ClassificationTask,
        trainee: &'a dyn Trainee,
        store: &ParameterStore,
    ) -> Self {
        let context = Context::meta().with_precision(recipe.train.precision.of_products());
        let store = without_values(&context, store);
        let resting = context.pool().memory_use().held;
        Self { recipe, task, trainee, context, store, resting, rows_looked_up: OnceCell::new() }
    }

    /// A meter of a prepared run.
    pub fn of(prepared: &'a Prepared) -> Self {
        let Prepared { recipe, task, trainee, store, .. } = prepared;
        Self::new(recipe, task, trainee, store)
    }

    /// Bytes of all buffers that what was measured so far would have left behind, beside the parameters.
    pub fn held_bytes(&self) -> u64 {
        self.context.pool().memory_use().held - self.resting
    }

    /// Rows of its largest table that the training data looks up; more than any has, where that is not known.
    pub fn rows_looked_up(&self) -> usize {
        *self.rows_looked_up.get_or_init(|| self.trainee.rows_looked_up().unwrap_or(usize::MAX))
    }

    fn environment<'s>(&'s self, trainable: &'s Trainable, is_training: bool) -> Environment<'s> {
        let train = &self.recipe.train;
        Environment {
            context: self.context.clone(),
            store: &self.store,
            trainable,
            randomness: is_training.then_some(Randomness { seed: train.seed, step: 0 }),
            gradient_checkpointing: is_training && train.gradient_checkpointing,
        }
    }

    /// Logits of samples, from the features at a cut if one is given.
    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        cut: Option<usize>,
    ) -> Var {
        let trainee = self.trainee;
        let (Some(cut), Some(model)) = (cut, trainee.cut()) else {
            return trainee.logits(forward, split, samples, 0);
        };
        let values = samples.iter().map(|&sample| model.feature_len(split, sample, cut)).sum::<usize>();
        let features = self.context.zeros([values]);
        let batch = SampleBatch { split, samples, first_occurrence: 0 };
        model.logits_from_features(forward, &features, batch, cut)
    }

    /// Forward and backward of one micro-batch, as the loop does them.
    pub fn train(&self, trainable: &Trainable, samples: &[u32], cut: Option<usize>) -> Measured {
        let Self { task, trainee, .. } = *self;
        let pool = self.context.pool();
        pool.reset_peak();
        let (resting, counted) = (pool.memory_use().current, self.context.work());
        let mut gradients = Gradients::meta(trainable.slot_lengths(&self.store));
        let mut forward = Forward::new(self.environment(trainable, true));
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
        let work = self.context.work() - counted;
        Measured { peak_bytes: pool.memory_use().peak - resting, work, gradients }
    }

    /// Forward of one batch in evaluation mode.
    fn evaluate(&self, split: Split, samples: &[u32], cut: Option<usize>) -> WorkCounts {
        let counted = self.context.work();
        let trainable = Trainable::none(&self.store);
        let mut forward = Forward::new(self.environment(&trainable, false));
        self.logits(&mut forward, split, samples, cut);
        self.context.work() - counted
    }

    /// Work of one pass over the training data, from the features at a cut if one is given.
    pub fn epoch_work(&self, trainable: &Trainable, cut: Option<usize>) -> WorkCounts {
        let samples = self.trainee.samples(Split::Train);
        let order = self.first_epoch();
        let chosen = spread(order.batches()).map(|index| order.batch(index));
        in_proportion(chosen, samples, |batch| self.train(trainable, batch, cut).work)
    }

    fn first_epoch(&self) -> retune_data::EpochBatches {
        training_order(self.recipe, self.trainee).epoch(0)
    }

    /// Work of evaluating a split once, from the features at a cut if one is given.
    pub fn evaluation_work(&self, split: Split, cut: Option<usize>) -> WorkCounts {
        let samples = self.trainee.samples(split);
        let batch_size = self.recipe.train.per_device_eval_batch_size;
        let batches = BatchOrder::sequential(samples, batch_size).epoch(0);
        let chosen = spread(batches.batches()).map(|index| batches.batch(index));
        in_proportion(chosen, samples, |batch| self.evaluate(split, batch, cut))
    }

    /// The share of padding that batches of this run would have if they were padded.
    pub fn padding_avoided(&self) -> f64 {
        let length = |sample: u32| u64::from(self.trainee.length(Split::Train, sample));
        let order = self.first_epoch();
        let (mut tokens, mut padded) = (0, 0);
        for batch in (0..order.batches()).map(|index| order.batch(index)) {
            let longest = batch.iter().map(|&sample| length(sample)).max().unwrap_or(0);
            tokens += batch.iter().map(|&sample| length(sample)).sum::<u64>();
            padded += longest * batch.len() as u64;
        }
        1.0 - tokens as f64 / padded.max(1) as f64
    }

    /// What each layer group keeps of a batch for the backward pass; groups that the path cannot be cut between are told
    /// together. Empty if it cannot be cut at all.
    pub fn activations(&self, trainable: &Trainable, samples: &[u32]) -> Vec<GroupActivations> {
        let trainee = self.trainee;
        let Some(model) = trainee.cut() else { return Vec::new() };
        let groups = self.store.groups();
        let context = Context::meta().with_precision(self.context.precision());
        let kept = |cut: usize| {
            let environment = Environment { context: context.clone(), ..self.environment(trainable, true) };
            let mut forward = Forward::new(environment);
            let output = if cut == groups.len() {
                trainee.logits(&mut forward, Split::Train, samples, 0)
            } else {
                model.features(&mut forward, Split::Train, samples, cut)
            };
            // The output itself is the next group's input, which keeps it if it needs it.
            drop(output);
            context.pool().memory_use().current
        };
        let mut activations = Vec::new();
        let (mut below, mut first) = (0, 0);
        for cut in 1..=groups.len() {
            if cut < groups.len() && !model.is_worth_keeping(Split::Validation, false, cut) {
                continue;
            }
            let now = kept(cut);
            let names: Vec<&str> = groups[first..cut].iter().map(|group| group.name.as_str()).collect();
            let bytes = now.saturating_sub(below);
            activations.push(GroupActivations { group: names.join(", "), bytes });
            (below, first) = (now.max(below), cut);
        }
        activations
    }
}

/// Up to [`MEASURED_BATCHES`] places, spread evenly over `count`.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let chosen = count.min(MEASURED_BATCHES);
    (0..chosen).map(move |index| index * count / chosen)
}

/// The work of `samples` samples, from that of some batches of them.
fn in_proportion(
    batches: impl Iterator<Item = Vec<u32>>,
    samples: usize,
    mut work: impl FnMut(&[u32]) -> WorkCounts,
) -> WorkCounts {
    let (mut measured, mut sum) = (0, WorkCounts::default());
    for batch in batches {
        measured += batch.len();
        sum += work(&batch);
    }
    if measured == samples { sum } else { sum.scaled(samples as f64 / measured.max(1) as f64) }
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
    use retune_tensor::Work;

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
        let work = |count: u64| WorkCounts::from_fn(|kind| if kind == Work::Product { count } else { 0 });
        let of = |batch: &[u32]| work(10 * batch.len() as u64);
        assert_eq!(in_proportion(batches(), 4, of), work(40));
        assert_eq!(in_proportion(batches(), 10, of), work(100));
    }
}
