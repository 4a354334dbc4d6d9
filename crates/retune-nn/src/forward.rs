//! One pass through a model: its parameters, its mode and its tape.

use std::cell::Cell;
use std::sync::Arc;

use retune_autograd::{Backward, Tape, Var};
use retune_kernels::philox4x32;
use retune_tensor::{ChannelStatistics, Context, DropoutSpec, RowKey, Tensor, ops};

use crate::buffers::{BufferUpdates, NormObservation};
use crate::initialization::random_key;
use crate::store::{ParameterId, ParameterStore, Trainable};

/// The randomness of one training step. Everything drawn in it is keyed by these, the module path and the place of the
/// value in its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Randomness {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step, from 0.
    pub step: u64,
}

/// What every pass of one step shares.
#[derive(Clone)]
pub struct Environment<'s> {
    /// Device, kernels, pool.
    pub context: Context,
    /// The parameters' values.
    pub store: &'s ParameterStore,
    /// Which of them train.
    pub trainable: &'s Trainable,
    /// `None` in evaluation mode: dropout is off.
    pub randomness: Option<Randomness>,
    /// Whether blocks are kept as their input and computed again in backward.
    pub gradient_checkpointing: bool,
}

impl<'s> Environment<'s> {
    /// What evaluation shares: nothing is drawn and nothing computed twice. `trainable` says of which parameters a gradient
    /// may still be asked, as an explanation does.
    pub fn evaluation(context: &Context, store: &'s ParameterStore, trainable: &'s Trainable) -> Self {
        Self { context: context.clone(), store, trainable, randomness: None, gradient_checkpointing: false }
    }
}

/// A place that draws random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub(crate) hash: u64,
    pub(crate) group: usize,
}

/// The rows of a packed batch: where each sequence starts, and which sample and position each row is.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Row where each sequence starts, and the end: sequences + 1.
    pub offsets: Arc<Vec<u32>>,
    /// The key of each row.
    pub keys: Arc<Vec<RowKey>>,
}

impl Rows {
    /// The rows of packed sequences; `samples` is the occurrence of each sequence in the step.
    pub fn packed(offsets: Vec<u32>, samples: &[u32]) -> Self {
        let keys = samples
            .iter()
            .zip(offsets.windows(2))
            .flat_map(|(&sample, span)| {
                (0..span[1] - span[0]).map(move |position| RowKey { sample, position })
            })
            .collect();
        Self { offsets: Arc::new(offsets), keys: Arc::new(keys) }
    }

    /// The first row of each sequence, as sequences of one row.
    pub fn first_of_each(&self) -> Self {
        let starts = &self.offsets[..self.offsets.len() - 1];
        let keys = starts.iter().map(|&row| self.keys[row as usize]).collect();
        Self { offsets: Arc::new((0..=starts.len() as u32).collect()), keys: Arc::new(keys) }
    }

    /// The rows of every value from one row each: the pixels of pictures, `rows` in all.
    pub fn spread(&self, rows: usize) -> Self {
        let samples: Vec<u32> = self.keys.iter().map(|key| key.sample).collect();
        let each = (rows / samples.len().max(1)) as u32;
        Self::packed((0..=samples.len() as u32).map(|sample| sample * each).collect(), &samples)
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// One pass through a model.
pub struct Forward<'s> {
    environment: Arc<Environment<'s>>,
    tape: Tape<'s>,
    /// Off in the first run of a checkpointed block, whose inside is not kept.
    records: bool,
    met_trainable: Cell<bool>,
    /// One row per picture, in a pass over pictures.
    pictures: Option<Rows>,
    /// Whether norms report the statistics of their input although they don't train.
    observes_norms: bool,
    observations: Vec<NormObservation>,
}

impl<'s> Forward<'s> {
    /// A pass that has computed nothing yet.
    pub fn new(environment: Environment<'s>) -> Self {
        Self::nested(&Arc::new(environment), true)
    }

    /// A pass in evaluation mode in which every batch normalization reports the statistics of its input.
    pub fn observing(environment: Environment<'s>) -> Self {
        let mut forward = Self::new(Environment { randomness: None, ..environment });
        forward.observes_norms = true;
        forward
    }

    /// Device, kernels, pool.
    pub fn context(&self) -> &Context {
        &self.environment.context
    }

    /// What keys the random numbers of this step; `None` in evaluation mode.
    pub fn randomness(&self) -> Option<Randomness> {
        self.environment.randomness
    }

    /// The tape, to compute on.
    pub fn tape(&mut self) -> &mut Tape<'s> {
        &mut self.tape
    }

    /// Ends the pass: its tape, to walk back, and what it wants to change about buffers.
    pub fn finish(self) -> (Tape<'s>, BufferUpdates) {
        (self.tape, BufferUpdates::new(self.observations))
    }

    /// Ends a pass that leaves buffers as they are, and gives up its tape.
    pub fn into_tape(self) -> Tape<'s> {
        self.tape
    }

    /// Whether the pass is one of a training step, not of an evaluation.
    pub fn is_training(&self) -> bool {
        self.environment.randomness.is_some()
    }

    /// Whether a parameter trains.
    pub fn trains(&self, id: ParameterId) -> bool {
        self.environment.trainable.slot(id).is_some()
    }

    /// The value of a buffer.
    pub fn buffer(&self, id: ParameterId) -> Tensor {
        self.environment.store.tensor(id).clone()
    }

    pub(crate) fn observes_norms(&self) -> bool {
        self.observes_norms
    }

    pub(crate) fn channel_statistics(&self, x: &Var) -> ChannelStatistics {
        ops::channel_statistics(&self.environment.context, x.tensor())
    }

    pub(crate) fn observe_norm(&mut self, observation: NormObservation) {
        self.observations.push(observation);
    }

    /// A parameter as a variable: it needs a gradient if it trains.
    pub fn parameter(&self, id: ParameterId) -> Var {
        let tensor = self.environment.store.tensor(id).clone();
        match self.environment.trainable.slot(id) {
            Some(slot) => {
                self.met_trainable.set(true);
                if self.records { Var::parameter(tensor, slot) } else { Var::constant(tensor) }
            }
            None => Var::constant(tensor),
        }
    }

    /// Dropout at a site with the given probability, or `None` where it is off: in evaluation, in a frozen layer group,
    /// or with probability 0.
    pub fn dropout_spec(&self, site: Site, probability: f32, rows: &Rows) -> Option<DropoutSpec> {
        let randomness = self.environment.randomness?;
        if probability <= 0.0 || !self.environment.trainable.group_trains(site.group) {
            return None;
        }
        let key = random_key(&[randomness.seed, randomness.step, site.hash]);
        Some(DropoutSpec { probability, key, rows: Arc::clone(&rows.keys) })
    }

    /// Says which pictures the pass is over, one row each: what keys the randomness of their pixels.
    pub fn set_pictures(&mut self, pictures: &Rows) {
        self.pictures = Some(pictures.clone());
    }

    /// Dropout on the pixels of `x` [batch, height, width, channels].
    ///
    /// # Panics
    /// If it is on and nobody said which pictures these are.
    pub(crate) fn pixel_dropout(&self, site: Site, probability: f32, x: &Var) -> Option<DropoutSpec> {
        if !self.is_training() || probability <= 0.0 {
            return None;
        }
        let Some(pictures) = &self.pictures else { panic!("a pass over pictures that were not named") };
        self.dropout_spec(site, probability, &pictures.spread(x.tensor().rows()))
    }

    /// Stochastic depth (Huang et al. 2016) at a site: the factor of each sample's branch, [samples, channels], 0 or
    /// `1 / (1 - probability)`; `None` where it is off, as for dropout. `samples` has one row per sample.
    pub fn drop_path(&self, site: Site, probability: f32, samples: &Rows, channels: usize) -> Option<Var> {
        let DropoutSpec { probability, key, rows } = self.dropout_spec(site, probability, samples)?;
        let kept = 1.0 / (1.0 - probability);
        let factor = |row: &RowKey| {
            let uniform = philox4x32([row.sample, 0, 0, 0], key)[0] as f32 / 4_294_967_296.0;
            if uniform < probability { 0.0 } else { kept }
        };
        let factors: Vec<f32> =
            rows.iter().flat_map(|row| std::iter::repeat_n(factor(row), channels)).collect();
        Some(Var::constant(self.environment.context.tensor([rows.len(), channels], factors)))
    }

    /// Runs a block; with gradient checkpointing its inside is dropped and computed again in backward.
    pub fn block(&mut self, x: &Var, run: impl Fn(&mut Forward<'s>, &Var) -> Var + 's) -> Var {
        if !self.environment.gradient_checkpointing {
            return run(self, x);
        }
        let mut first = Forward::nested(&self.environment, false);
        first.observes_norms = self.observes_norms;
        first.pictures.clone_from(&self.pictures);
        let y = run(&mut first, &Var::constant(x.tensor().clone())).tensor().clone();
        // What the second run observes is dropped with it: a block's statistics count once.
        self.observations.append(&mut first.observations);
        let needs_gradient = x.needs_gradient() || first.met_trainable.get();
        let environment = Arc::clone(&self.environment);
        let pictures = self.pictures.clone();
        let input = x.clone();
        self.tape.record_if(needs_gradient, y, || {
            move |walk: &mut Backward<'_>, dy: Tensor| {
                let mut again = Forward::nested(&environment, true);
                again.pictures = pictures;
                let x = input.tensor().clone();
                let x = if input.needs_gradient() { again.tape.leaf(x) } else { Var::constant(x) };
                let y = run(&mut again, &x);
                let mut leaves = again.tape.backward(vec![(y, dy)], walk.gradients());
                if let Some(dx) = leaves.take(&x) {
                    walk.accumulate(&input, dx);
                }
            }
        })
    }

    fn nested(environment: &Arc<Environment<'s>>, records: bool) -> Self {
        let tape = Tape::new(environment.context.clone());
        Self {
            environment: Arc::clone(environment),
            tape,
            records,
            met_trainable: Cell::new(false),
            pictures: None,
            observes_norms: false,
            observations: Vec::new(),
        }
    }
}
