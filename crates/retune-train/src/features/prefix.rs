//! The features below one cut with one set of weights: memory first, then files, then the layers themselves.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use retune_autograd::Var;
use retune_nn::Forward;
use retune_tensor::Tensor;

use super::folder::{Folder, Found};
use super::part::Cost;
use crate::trainee::{Cut, Fetch, SampleBatch, SampleHash, Trainee};

/// Bytes that a record in memory costs beside its values, about.
const OVERHEAD: u64 = 64;

/// The features below a cut.
pub(crate) struct Prefix {
    cut: usize,
    below: String,
    kept: Mutex<Kept>,
}

struct Kept {
    memory: HashMap<SampleHash, Box<[f32]>>,
    memory_bytes: u64,
    memory_limit: u64,
    folder: Option<Folder>,
    counted: Counted,
    /// What computing took, over the whole run.
    cost: Cost,
    failures: Vec<String>,
}

/// What happened since it was last told.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    computed: u64,
    reused: u64,
    from_disk: u64,
    /// Lengths of the reused samples.
    reused_units: u64,
    /// Seconds of computing.
    seconds: f64,
    /// Seconds of looking up, hits and misses.
    lookup_seconds: f64,
}

/// What the features of a prefix did in a while.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    /// The layer group below which all is frozen.
    pub below: String,
    /// Samples whose features were computed.
    pub computed: u64,
    /// Samples whose features were there.
    pub reused: u64,
    /// How many of those came from disk.
    pub from_disk: u64,
    /// Seconds that computing took.
    pub computed_seconds: f64,
    /// Seconds that the reused ones would have taken at the rate of those that were computed, less those spent on
    /// looking up. `None` if none was ever computed.
    pub saved_seconds: Option<f64>,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

impl Prefix {
    pub(super) fn new(
        cut: usize,
        below: String,
        memory_limit: u64,
        folder: Option<Folder>,
        failure: Option<String>,
    ) -> Self {
        let kept = Kept {
            memory: HashMap::new(),
            memory_bytes: 0,
            memory_limit,
            folder,
            counted: Counted::default(),
            cost: Cost::default(),
            failures: failure.into_iter().collect(),
        };
        Self { cut, below, kept: Mutex::new(kept) }
    }

    /// The layer group above the cut.
    pub fn cut(&self) -> usize {
        self.cut
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Features that are kept nowhere, for a caller that wants them all the same.
    pub fn nowhere(cut: usize) -> Self {
        Self::new(cut, String::new(), 0, None, None)
    }

    /// Logits of samples from their features.
    pub fn logits<'s>(
        &self,
        forward: &mut Forward<'s>,
        trainee: &dyn Trainee,
        model: &'s dyn Cut,
        batch: SampleBatch<'_>,
    ) -> Var {
        let features = self.features(forward, trainee, model, batch);
        model.logits_from_features(forward, &features, batch, self.cut)
    }

    /// Features of samples, one sample after the other; those that are not there are computed, in one batch, and kept.
    pub fn features<'s>(
        &self,
        forward: &mut Forward<'s>,
        trainee: &dyn Trainee,
        model: &'s dyn Cut,
        batch: SampleBatch<'_>,
    ) -> Tensor {
        let SampleBatch { split, samples, .. } = batch;
        let randomness = forward.randomness();
        let mut end = 0;
        let wanted: Vec<Wanted> = samples
            .iter()
            .map(|&sample| {
                let start = end;
                end += model.feature_len(split, sample, self.cut);
                let hash = model.sample_hash(split, sample, randomness);
                Wanted { sample, hash, start, end, units: u64::from(trainee.length(split, sample)) }
            })
            .collect();
        let mut features = forward.tape().context().clone().zeros([end]);
        let values = features.make_mut();
        let mut kept = self.kept();
        let missing = kept.look_up(&wanted, values);
        if !missing.is_empty() {
            let started = Instant::now();
            let samples: Vec<u32> = missing.iter().map(|wanted| wanted.sample).collect();
            let computed = model.features(forward, split, &samples, self.cut);
            let cost = Cost {
                units: missing.iter().map(|wanted| wanted.units).sum(),
                seconds: started.elapsed().as_secs_f64(),
            };
            kept.take_in(&missing, computed.tensor().values(), values, cost);
        }
        drop(kept);
        features
    }

    /// The samples of a batch whose features would have to be computed.
    pub fn missing(&self, model: &dyn Cut, batch: &Fetch<'_>) -> Vec<u32> {
        let hash = |sample| model.sample_hash(batch.split, sample, batch.randomness);
        let kept = self.kept();
        batch.samples.iter().copied().filter(|&sample| !kept.has(&hash(sample))).collect()
    }

    /// Makes what was written so far visible to other runs.
    pub fn finish(&self) {
        if let Some(folder) = &mut self.kept().folder {
            folder.finish();
        }
    }

    /// What happened since the last call; `None` if nothing did.
    pub fn take_usage(&self) -> Option<Usage> {
        let mut kept = self.kept();
        let counted = std::mem::take(&mut kept.counted);
        if counted.computed + counted.reused == 0 {
            return None;
        }
        // What other runs wrote down weighs in: a run that found everything has computed next to nothing itself.
        let recorded = kept.folder.as_ref().map(Folder::cost).filter(|cost| cost.units > 0);
        let rate = recorded.or_else(|| (kept.cost.units > 0).then_some(kept.cost));
        let rate = rate.map(|cost| cost.seconds / cost.units as f64);
        Some(Usage {
            below: self.below.clone(),
            computed: counted.computed,
            reused: counted.reused,
            from_disk: counted.from_disk,
            computed_seconds: counted.seconds,
            saved_seconds: rate.map(|rate| rate * counted.reused_units as f64 - counted.lookup_seconds),
            memory_bytes: kept.memory_bytes,
            disk_bytes: kept.folder.as_ref().map_or(0, Folder::bytes),
        })
    }

    /// What went wrong since the last call.
    pub fn take_failures(&self) -> Vec<String> {
        let mut kept = self.kept();
        let mut failures = std::mem::take(&mut kept.failures);
        failures.extend(kept.folder.as_mut().and_then(Folder::take_failure));
        failures
    }
}

/// A sample of a batch, and where its features go in the batch's.
#[derive(Clone, Copy)]
struct Wanted {
    sample: u32,
    hash: SampleHash,
    start: usize,
    end: usize,
    units: u64,
}

impl Kept {
    /// Whether a sample's features will be found. A record that turns out to be damaged will not.
    fn has(&self, sample: &SampleHash) -> bool {
        self.memory.contains_key(sample) || self.folder.as_ref().is_some_and(|folder| folder.has(sample))
    }

    /// Fills in what there is and names what is missing.
    fn look_up(&mut self, wanted: &[Wanted], values: &mut [f32]) -> Vec<Wanted> {
        let started = Instant::now();
        let mut missing = Vec::new();
        for &wanted in wanted {
            let values = &mut values[wanted.start..wanted.end];
            if let Some(known) = self.memory.get(&wanted.hash) {
                values.copy_from_slice(known);
            } else if self.read(&wanted, values) {
                self.counted.from_disk += 1;
            } else {
                missing.push(wanted);
                continue;
            }
            self.counted.reused += 1;
            self.counted.reused_units += wanted.units;
        }
        self.counted.lookup_seconds += started.elapsed().as_secs_f64();
        missing
    }

    fn read(&mut self, wanted: &Wanted, values: &mut [f32]) -> bool {
        let found = self.folder.as_mut().map(|folder| folder.read(&wanted.hash, values));
        if found != Some(Found::Read) {
            return false;
        }
        self.remember(wanted.hash, values);
        true
    }

    fn remember(&mut self, hash: SampleHash, values: &[f32]) {
        let bytes = 4 * values.len() as u64 + OVERHEAD;
        if self.memory_bytes + bytes <= self.memory_limit && self.memory.insert(hash, values.into()).is_none()
        {
            self.memory_bytes += bytes;
        }
    }

    /// Keeps computed features, and puts them where the batch wants them.
    fn take_in(&mut self, missing: &[Wanted], computed: &[f32], values: &mut [f32], cost: Cost) {
        self.counted.computed += missing.len() as u64;
        self.counted.seconds += cost.seconds;
        self.cost = Cost { units: self.cost.units + cost.units, seconds: self.cost.seconds + cost.seconds };
        let mut computed = computed;
        for wanted in missing {
            let (own, others) = computed.split_at(wanted.end - wanted.start);
            computed = others;
            values[wanted.start..wanted.end].copy_from_slice(own);
            self.remember(wanted.hash, own);
            let share = wanted.units as f64 / cost.units.max(1) as f64;
            let cost = Cost { units: wanted.units, seconds: cost.seconds * share };
            if let Some(folder) = &mut self.folder
                && !folder.take_in(wanted.hash, own, cost)
            {
                self.failures.push(
                    "features that another run had written are not what this run computes; they are not used"
                        .to_owned(),
                );
            }
        }
        if let Some(folder) = &mut self.folder {
            let hashes: Vec<SampleHash> = missing.iter().map(|wanted| wanted.hash).collect();
            folder.trust(&hashes);
        }
    }
}
