//! Learning rates from evidence: short bursts of training at several rates, each from the same forked state, judged on
//! held-out samples.
//!
//! The usual range test (Smith 2017, <https://arxiv.org/abs/1506.01186>) raises the rate within one run and reads its
//! training loss: each rate finds what the lower ones left behind. Here every burst begins where the run will begin, warms
//! up, and is judged on validation data in evaluation mode; the run afterwards has the bits it would have had.

mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use retune_data::BatchOrder;
use retune_nn::{Optimizer, ParameterStore};
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::features::FeatureCache;
use crate::fit::optimizer_config;
use crate::prepare::Prepared;
use crate::recipe::{LearningRate, Recipe, ScheduleName, ScheduleSection};
use crate::stages::{Stage, plan_stages};
use crate::state::Progress;
use crate::trainee::{Split, Trainee};
use crate::trainer::{Burst, LossFunction, StopFlag, Trainer};
use crate::{RunFolder, TrainError};
use verdict::{Bursts, Difference, around, best};

/// Neighbouring rates differ by this factor: the square root of ten.
const SPACING: f64 = 3.162_277_660_168_379_5;

/// The share of the best rate's gain in held-out loss that the suggested rate must have.
const ENOUGH: f64 = 0.75;

/// How a learning rate is searched for.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRateOptions {
    /// Rates that are tried first, about the method's usual one, each √10 times the one below.
    pub rates: usize,
    /// Rates that may be added where the best lies at an end.
    pub more_rates: usize,
    /// Optimizer steps of a burst; the first quarter warms up.
    pub burst_steps: u64,
    /// Orders of the training data: every rate sees the first, those near the best the others too.
    pub orders: usize,
    /// Validation samples that judge, at most.
    pub held_out: usize,
    /// Which stage is searched, by its place; the one that trains the most layer groups if `None`.
    pub stage: Option<usize>,
    /// Whether to try other rates for the head and the layers below too.
    pub layer_groups: bool,
}

impl Default for LearningRateOptions {
    fn default() -> Self {
        Self {
            rates: 7,
            more_rates: 3,
            burst_steps: 8,
            orders: 2,
            held_out: 256,
            stage: None,
            layer_groups: false,
        }
    }
}

impl LearningRateOptions {
    /// Rates next to the best on each side that see every data order.
    const NEIGHBOURS: usize = 2;

    /// Optimizer steps that a search makes at most.
    pub fn most_steps(&self) -> u64 {
        let near = 2 * Self::NEIGHBOURS + 1;
        let first = self.rates + self.more_rates;
        let again = near.min(first) * self.orders.saturating_sub(1);
        let groups = if self.layer_groups { VARIANTS.len() * self.orders } else { 0 };
        self.burst_steps * (first + again + groups) as u64
    }
}

/// What a search found. `learning_rate.json` in the run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRateSearch {
    /// The stage that was searched.
    pub stage: String,
    /// The rate that is suggested: the lowest of the range that gains at least three quarters of what the best gains.
    pub learning_rate: f64,
    /// The lowest of the neighbouring rates whose held-out loss is within one standard error of the best.
    pub low: f64,
    /// The highest of them.
    pub high: f64,
    /// The rate with the lowest held-out loss after a burst.
    pub best: f64,
    /// Mean held-out loss before training.
    pub loss_before: f64,
    /// Every rate that was tried, in rising order.
    pub probes: Vec<RateProbe>,
    /// What other rates for the head and the layers below did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_groups: Vec<GroupProbe>,
    /// Validation samples that judged.
    pub held_out_samples: usize,
    /// Optimizer steps of a burst.
    pub burst_steps: u64,
    /// Optimizer steps of all bursts.
    pub steps: u64,
    /// Seconds of the search.
    pub seconds: f64,
}

/// One learning rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateProbe {
    /// The base learning rate.
    pub learning_rate: f64,
    /// Mean held-out loss after a burst, for each data order; `None` where it diverged.
    pub losses: Vec<Option<f64>>,
    /// Their mean; `None` if one diverged.
    pub loss: Option<f64>,
    /// How much more than the best rate's that is, over the data orders that both have seen.
    pub above_best: Option<f64>,
    /// The standard error of that difference.
    pub standard_error: Option<f64>,
    /// What this says.
    pub outcome: RateOutcome,
}

/// What the bursts of a rate say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateOutcome {
    /// The lowest held-out loss.
    Best,
    /// Within one standard error of the best.
    WithinNoise,
    /// Worse than the best.
    Worse,
    /// Worse than no training at all.
    WorseThanUntrained,
    /// A loss or a gradient was no longer finite.
    Diverged,
}

/// Other learning rates for some layer groups, at the base rate that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupProbe {
    /// The setting as a recipe has it.
    pub setting: String,
    /// How much greater the held-out loss is than with one rate for all; `None` if a burst diverged.
    pub difference: Option<f64>,
    /// The standard error of that difference.
    pub standard_error: Option<f64>,
    /// Whether it lowers the loss by more than two standard errors.
    pub helps: bool,
}

/// What is changed of one rate for all layer groups.
const VARIANTS: [Variant; 3] = [Variant::Decay(0.8), Variant::Decay(0.6), Variant::Head(10.0)];

#[derive(Clone, Copy)]
enum Variant {
    /// `learning_rate_decay`.
    Decay(f64),
    /// The head's rate is so many times the others'.
    Head(f64),
}

/// What a search needs of a run beside what is prepared.
pub(crate) struct Searched<'a> {
    /// The run, whose parameters may have been taken out.
    pub prepared: &'a Prepared,
    /// The parameters at its beginning.
    pub store: &'a ParameterStore,
    /// Instead of the task's loss.
    pub loss: Option<&'a LossFunction<'a>>,
    /// Asks the search to stop.
    pub stop: &'a StopFlag,
    /// What frozen layer groups computed; shared with the run.
    pub features: &'a Arc<FeatureCache>,
}

/// Searches for the base learning rate of a prepared run, whose state stays as it is. What it will cost is told first.
///
/// # Errors
/// If there is no validation data, the recipe's rate has no effect on the stage that is searched, every rate diverges, or a
/// sample cannot be read.
pub fn find_learning_rate(
    prepared: &Prepared,
    options: &LearningRateOptions,
    cache_dir: &Path,
    tell: &mut dyn FnMut(Event),
) -> Result<LearningRateSearch, TrainError> {
    let features = Arc::new(FeatureCache::new(&prepared.recipe, cache_dir));
    let searched = Searched {
        prepared,
        store: &prepared.store,
        loss: None,
        stop: &StopFlag::default(),
        features: &features,
    };
    let found = search(&searched, options, tell)?;
    features.finish();
    found.ok_or_else(|| TrainError::Setting("the search for a learning rate was stopped".to_owned()))
}

/// As [`find_learning_rate`]; `None` if a stop was asked for.
pub(crate) fn search(
    searched: &Searched<'_>,
    options: &LearningRateOptions,
    tell: &mut dyn FnMut(Event),
) -> Result<Option<LearningRateSearch>, TrainError> {
    let started = Instant::now();
    let mut prober = Prober::new(searched, options)?;
    tell(Event::note(format!(
        "searching the learning rate: bursts of {} steps, at most {} steps in all, judged on {} validation samples",
        options.burst_steps,
        options.most_steps(),
        prober.held_out.len()
    )));
    match prober.search() {
        Ok(mut found) => {
            found.seconds = started.elapsed().as_secs_f64();
            let learns = |probe: &RateProbe| probe.loss.is_some_and(|loss| loss < found.loss_before);
            if !found.probes.iter().any(learns) {
                let message = format!(
                    "no learning rate lowered the held-out loss within {} steps: what was found says little; longer \
                     bursts (retune lr-find --burst-steps) would say more",
                    options.burst_steps
                );
                tell(Event::warning("learning-rate-unclear", message));
            }
            Ok(Some(found))
        }
        Err(Ended::Interrupted) => Ok(None),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// Why a search has no result.
enum Ended {
    Interrupted,
    Failed(TrainError),
}

impl From<TrainError> for Ended {
    fn from(error: TrainError) -> Self {
        Self::Failed(error)
    }
}

/// Two significant digits: more would say too much.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

struct Prober<'a> {
    searched: &'a Searched<'a>,
    options: &'a LearningRateOptions,
    /// The stage that is searched.
    stage: usize,
    held_out: Vec<u32>,
    steps: u64,
}

impl<'a> Prober<'a> {
    fn new(searched: &'a Searched<'a>, options: &'a LearningRateOptions) -> Result<Self, TrainError> {
        let Prepared { recipe, trainee, stages, .. } = searched.prepared;
        let samples = trainee.samples(Split::Validation);
        if samples == 0 {
            return Err(TrainError::Setting(
                "a learning rate is searched for on validation data, and there is none; set data.validation or \
                 data.validation_split"
                    .to_owned(),
            ));
        }
        let width = |stage: &Stage| stage.trainable_groups.iter().filter(|trains| **trains).count();
        // The first of those that train the most: what is right for it does least harm elsewhere.
        let widest = (0..stages.len()).rev().max_by_key(|&stage| width(&stages[stage])).unwrap_or(0);
        let stage = options.stage.unwrap_or(widest);
        if stage >= stages.len() {
            let count = stages.len();
            return Err(TrainError::Setting(format!("there is no stage {}, but {count}", stage + 1)));
        }
        let mut held_out =
            BatchOrder::new(vec![1; samples], options.held_out, recipe.train.seed, false, true, false)
                .epoch(0)
                .batch(0);
        held_out.sort_unstable();
        let prober = Self { searched, options, stage, held_out, steps: 0 };
        let rate = recipe.learning_rate();
        let [one, other] = [rate, 2.0 * rate].map(|rate| prober.stage_at(rate, |_| {}));
        if one?.learning_rates == other?.learning_rates {
            return Err(TrainError::Setting(format!(
                "the stage \"{}\" has learning rates of its own, so that there is none to search for: remove them, or \
                 optimizer.learning_rate = \"auto\"",
                stages[stage].name
            )));
        }
        Ok(prober)
    }

    /// The stage at a base rate, as long as a burst.
    fn stage_at(&self, rate: f64, change: impl FnOnce(&mut Recipe)) -> Result<Stage, TrainError> {
        let mut recipe = self.searched.prepared.recipe.clone();
        recipe.optimizer.learning_rate = Some(LearningRate::Value(rate));
        change(&mut recipe);
        let mut stages = plan_stages(&recipe, &self.searched.store.groups())?;
        let mut stage = stages.swap_remove(self.stage);
        let steps = self.options.burst_steps;
        stage.max_steps = Some(steps);
        stage.schedule = ScheduleSection {
            name: ScheduleName::Constant,
            warmup_steps: Some(steps / 4),
            ..ScheduleSection::default()
        };
        Ok(stage)
    }

    /// The held-out losses after a burst from the run's beginning; `None` if it diverged.
    fn burst(&mut self, stage: Stage, order: usize) -> Result<Option<Vec<f32>>, Ended> {
        let Searched { prepared, store, loss, stop, features } = self.searched;
        let mut recipe = prepared.recipe.clone();
        // The first order is the run's own.
        recipe.train.seed ^= (order as u64) << 32;
        let folder = RunFolder::open(&recipe.train.output_dir);
        self.steps += stage.max_steps.unwrap_or(0);
        let stages = [stage];
        let mut trainer = Trainer {
            recipe: &recipe,
            stages: &stages,
            trainee: &prepared.trainee,
            task: &prepared.task,
            loss: *loss,
            context: prepared.context.clone(),
            // Copied where a burst writes to it, and nowhere else.
            store: (*store).clone(),
            average: None,
            optimizer: Optimizer::new(optimizer_config(&recipe)),
            progress: Progress::default(),
            folder: &folder,
            listeners: Vec::new(),
            stop: (*stop).clone(),
            features: Arc::clone(features),
        };
        match trainer.burst(&self.held_out)? {
            Burst::Ended(losses) => Ok(Some(losses)),
            Burst::Diverged => Ok(None),
            Burst::Interrupted => Err(Ended::Interrupted),
        }
    }

    fn probe(&mut self, learning_rate: f64) -> Result<Bursts, Ended> {
        let stage = self.stage_at(learning_rate, |_| {})?;
        Ok(Bursts { learning_rate, losses: vec![self.burst(stage, 0)?] })
    }

    fn search(&mut self) -> Result<LearningRateSearch, Ended> {
        let mut untrained = self.stage_at(self.searched.prepared.recipe.learning_rate(), |_| {})?;
        untrained.max_steps = Some(0);
        let before = Bursts { learning_rate: 0.0, losses: vec![self.burst(untrained, 0)?] };
        let before = before.mean().unwrap_or(f64::INFINITY);
        let mut bursts = self.first_round(before)?;
        let Some(leader) = best(&bursts) else { return Err(self.all_diverged(&bursts).into()) };
        // What one order cannot tell apart is tried on others.
        let (first, last) =
            around(&bursts, leader, |_, difference| difference.mean <= 2.0 * difference.standard_error);
        let near = LearningRateOptions::NEIGHBOURS;
        let first = first.clamp(leader.saturating_sub(near), leader.saturating_sub(1));
        let last = last.clamp(leader + 1, leader + near).min(bursts.len() - 1);
        for order in 1..self.options.orders {
            for one in &mut bursts[first..=last] {
                if !one.diverged() {
                    let stage = self.stage_at(one.learning_rate, |_| {})?;
                    one.losses.push(self.burst(stage, order)?);
                }
            }
        }
        let Some(leader) = best(&bursts) else { return Err(self.all_diverged(&bursts).into()) };
        let (first, last) = around(&bursts, leader, |other, difference| {
            difference.is_within_noise() && other.mean().is_some_and(|loss| loss <= before)
        });
        // Short bursts favour fast rates: of those that cannot be told from the best the lowest is safest, unless noise alone
        // hides that it hardly trains.
        let gain = |one: &Bursts| one.mean().map_or(f64::NEG_INFINITY, |loss| before - loss);
        let least = ENOUGH * gain(&bursts[leader]);
        let learning_rate = bursts[first..leader]
            .iter()
            .find(|one| gain(one) >= least.max(f64::MIN_POSITIVE))
            .map_or(bursts[leader].learning_rate, |one| one.learning_rate);
        let layer_groups = match self.options.layer_groups {
            true => self.probe_groups(&bursts[leader])?,
            false => Vec::new(),
        };
        Ok(LearningRateSearch {
            stage: self.searched.prepared.stages[self.stage].name.clone(),
            learning_rate,
            low: bursts[first].learning_rate,
            high: bursts[last].learning_rate,
            best: bursts[leader].learning_rate,
            loss_before: before,
            probes: bursts.iter().map(|one| probe_of(one, &bursts[leader], before)).collect(),
            layer_groups,
            held_out_samples: self.held_out.len(),
            burst_steps: self.options.burst_steps,
            steps: self.steps,
            seconds: 0.0,
        })
    }

    /// All rates on one data order, in rising order; more of them where the best is at an end, or none is better than no
    /// training, whose loss is `before`.
    fn first_round(&mut self, before: f64) -> Result<Vec<Bursts>, Ended> {
        let middle = self.searched.prepared.recipe.learning_rate();
        let lowest = middle / SPACING.powi(self.options.rates as i32 / 2);
        let mut bursts = Vec::with_capacity(self.options.rates);
        for place in 0..self.options.rates {
            bursts.push(self.probe(rounded(lowest * SPACING.powi(place as i32)))?);
        }
        for _ in 0..self.options.more_rates {
            let leader = best(&bursts);
            let learns = leader.and_then(|place| bursts[place].mean()).is_some_and(|loss| loss < before);
            if leader == Some(bursts.len() - 1) && learns {
                let rate = rounded(bursts[bursts.len() - 1].learning_rate * SPACING);
                bursts.push(self.probe(rate)?);
            } else if leader == Some(0) || !learns {
                let rate = rounded(bursts[0].learning_rate / SPACING);
                bursts.insert(0, self.probe(rate)?);
            } else {
                break;
            }
        }
        Ok(bursts)
    }

    fn all_diverged(&self, bursts: &[Bursts]) -> TrainError {
        let lowest = bursts.first().map_or(0.0, |one| one.learning_rate);
        TrainError::Setting(format!(
            "training diverged within {} steps at every learning rate from {lowest:.1e} up: look at the data and at \
             optimizer.max_grad_norm before choosing a rate",
            self.options.burst_steps
        ))
    }

    /// Other rates for some layer groups, on the data orders that the flat rate has seen.
    fn probe_groups(&mut self, flat: &Bursts) -> Result<Vec<GroupProbe>, Ended> {
        let Prepared { recipe, stages, .. } = self.searched.prepared;
        let strategy = &recipe.strategy;
        let trains = stages[self.stage].trainable_groups.iter().filter(|trains| **trains).count();
        let is_set = strategy.learning_rate_decay.is_some() || !strategy.group_learning_rates.is_empty();
        if trains < 2 || is_set {
            return Ok(Vec::new());
        }
        let groups = self.searched.store.groups();
        let Some(head) = groups.last().map(|group| group.name.clone()) else { return Ok(Vec::new()) };
        let mut probes = Vec::new();
        for variant in VARIANTS {
            let rate = flat.learning_rate;
            let change = |recipe: &mut Recipe| match variant {
                Variant::Decay(decay) => recipe.strategy.learning_rate_decay = Some(decay),
                Variant::Head(factor) => {
                    recipe.strategy.group_learning_rates.insert(head.clone(), rounded(factor * rate));
                }
            };
            let mut bursts = Bursts { learning_rate: rate, losses: Vec::new() };
            for order in 0..flat.losses.len() {
                let stage = self.stage_at(rate, change)?;
                bursts.losses.push(self.burst(stage, order)?);
            }
            let difference = Difference::between(flat, &bursts);
            probes.push(GroupProbe {
                setting: match variant {
                    Variant::Decay(decay) => format!("strategy.learning_rate_decay = {decay}"),
                    Variant::Head(factor) => {
                        format!("strategy.group_learning_rates.{head} = {:e}", rounded(factor * rate))
                    }
                },
                difference: difference.map(|difference| difference.mean),
                standard_error: difference.map(|difference| difference.standard_error),
                helps: difference
                    .is_some_and(|difference| difference.mean < -2.0 * difference.standard_error),
            });
        }
        Ok(probes)
    }
}

fn probe_of(bursts: &Bursts, best: &Bursts, before: f64) -> RateProbe {
    let difference = Difference::between(best, bursts);
    let loss = bursts.mean();
    let outcome = match (loss, difference) {
        (Some(_), Some(_)) if bursts.learning_rate == best.learning_rate => RateOutcome::Best,
        (Some(loss), Some(_)) if loss > before => RateOutcome::WorseThanUntrained,
        (Some(_), Some(difference)) if difference.is_within_noise() => RateOutcome::WithinNoise,
        (Some(_), Some(_)) => RateOutcome::Worse,
        _ => RateOutcome::Diverged,
    };
    RateProbe {
        learning_rate: bursts.learning_rate,
        losses: bursts.means(),
        loss,
        above_best: difference.map(|difference| difference.mean),
        standard_error: difference.map(|difference| difference.standard_error),
        outcome,
    }
}
