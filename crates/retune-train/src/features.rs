//! The cache of features: what frozen layer groups make of a sample is computed once and used again, in later epochs, in
//! evaluations and in other runs.
//!
//! Values come from memory, from Retune's cache folder, or from the layers themselves, with the same bits: forward
//! kernels do not depend on the batch, the key hashes all that the values depend on, and a file of another run is held
//! against values computed here before it is believed. Knows no modality: a model is cut through [`Cut`].

mod folder;
mod key;
mod part;
mod pooled;
mod prefix;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use retune_autograd::Var;
use retune_checkpoint::available_space;
use retune_checkpoint::cache::{CacheEntry, files, remove_oldest};
use retune_data::{TokenSet, list_tokens, tidy_tokens};
use retune_nn::{Forward, ParameterStore};
use retune_tensor::Context;

pub use folder::About;
pub(crate) use pooled::pooled_features;
pub(crate) use prefix::{Prefix, Usage};

use crate::TrainError;
use crate::recipe::{FeatureCacheMode, Recipe};
use crate::trainee::{Cut, Fetch, SampleBatch, Split, Trainee};
use folder::Folder;
use key::{Key, Setting};

/// The folder below the cache folder.
const FEATURES: &str = "features";

/// Where features are kept, and how many bytes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureLimits {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes of all features on disk.
    pub disk: u64,
}

impl FeatureLimits {
    /// What a recipe allows. Both are 0 if it turns the cache off.
    pub fn of(recipe: &Recipe) -> Self {
        let train = &recipe.train;
        let (memory, disk) = match train.feature_cache {
            FeatureCacheMode::Auto => (true, true),
            FeatureCacheMode::Memory => (true, false),
            FeatureCacheMode::Disk => (false, true),
            FeatureCacheMode::Off => (false, false),
        };
        Self {
            memory: if memory { train.feature_cache_bytes } else { 0 },
            disk: if disk { train.feature_cache_disk_bytes } else { 0 },
        }
    }

    /// Whether anything is kept.
    pub fn keep_anything(self) -> bool {
        self.memory.max(self.disk) > 0
    }
}

/// Bytes of the features of all splits at a cut, as far as they are worth keeping; `None` if those of no split are.
pub fn feature_bytes(trainee: &dyn Trainee, cut: usize) -> Option<u64> {
    bytes_of_splits(trainee, cut, true)
}

/// The same where the training data is learned from, or only looked at.
fn bytes_of_splits(trainee: &dyn Trainee, cut: usize, learns: bool) -> Option<u64> {
    let model = trainee.cut()?;
    let splits = [Split::Train, Split::Validation, Split::Test];
    let mut kept = splits
        .into_iter()
        .filter(|&split| {
            trainee.samples(split) > 0 && model.is_worth_keeping(split, learns && split == Split::Train, cut)
        })
        .peekable();
    kept.peek()?;
    let values = |split| {
        let samples = 0..trainee.samples(split) as u32;
        let values = samples.map(|sample| model.feature_len(split, sample, cut) as u64).sum::<u64>();
        if learns { model.views(split) as u64 * values } else { values }
    };
    Some(4 * kept.map(values).sum::<u64>())
}

/// The features of one run.
pub(crate) struct FeatureCache {
    limits: FeatureLimits,
    root: PathBuf,
    model: String,
    /// Whether training data is seen as training sees it.
    learns: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was found since weights last changed below a cut.
    known: Vec<Known>,
    /// Every prefix that is open.
    open: Vec<(Key, Arc<Prefix>)>,
}

/// What was found for a cut and a store.
struct Known {
    cut: usize,
    is_average: bool,
    prefix: Option<Arc<Prefix>>,
}

impl FeatureCache {
    /// The cache of a run, whose files lie below Retune's cache folder.
    pub fn new(recipe: &Recipe, cache_dir: &Path) -> Self {
        Self {
            limits: FeatureLimits::of(recipe),
            root: cache_dir.join(FEATURES),
            model: recipe.model.name_or_path.clone(),
            learns: true,
            state: Mutex::default(),
        }
    }

    /// The cache of one who learns nothing and sees all data as evaluation does.
    pub fn of_evaluation(recipe: &Recipe, cache_dir: &Path) -> Self {
        Self { learns: false, ..Self::new(recipe, cache_dir) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The features below a cut with the weights of a store, or `None` if they are not kept. What is said of a cut holds
    /// until [`FeatureCache::weights_changed`].
    pub fn below(
        &self,
        context: &Context,
        (store, is_average): (&ParameterStore, bool),
        trainee: &dyn Trainee,
        cut: usize,
    ) -> Option<Arc<Prefix>> {
        let mut state = self.state();
        let is_this = |known: &&Known| known.cut == cut && known.is_average == is_average;
        if let Some(known) = state.known.iter().find(is_this) {
            return known.prefix.clone();
        }
        let prefix = self.find(&mut state, context, store, trainee, cut);
        state.known.push(Known { cut, is_average, prefix: prefix.clone() });
        prefix
    }

    fn find(
        &self,
        state: &mut State,
        context: &Context,
        store: &ParameterStore,
        trainee: &dyn Trainee,
        cut: usize,
    ) -> Option<Arc<Prefix>> {
        if !self.limits.keep_anything() {
            return None;
        }
        let (bytes, cpu) = (bytes_of_splits(trainee, cut, self.learns)?, context.kernels()?);
        let isa = cpu.isa().to_string();
        let signature = trainee.cut()?.signature();
        let setting = Setting { cut, signature: &signature, isa: &isa, precision: context.precision() };
        let key = key::key(store, setting, cpu.threads());
        if let Some((_, prefix)) = state.open.iter().find(|(open, _)| *open == key) {
            return Some(Arc::clone(prefix));
        }
        // Features of other cuts are not needed in memory any more; files keep theirs.
        state.open.retain(|(_, prefix)| prefix.cut() == cut);
        let below = store.groups().get(cut).map(|group| group.name.clone()).unwrap_or_default();
        let mut failure = None;
        let folder = (self.limits.disk > 0).then(|| {
            let about = About {
                model: self.model.clone(),
                below: below.clone(),
                isa,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            self.open_folder(&key, &about, bytes)
        });
        let folder = folder.and_then(|opened| {
            opened.map_err(|error| failure = Some(format!("{}: {error}", self.root.display()))).ok()
        });
        let prefix = Arc::new(Prefix::new(cut, below, self.limits.memory, folder, failure));
        state.open.push((key, Arc::clone(&prefix)));
        Some(prefix)
    }

    /// Opens a key's folder, after making room for so many bytes by removing what was not used for longest. At most half
    /// of what is free on the disk is taken.
    fn open_folder(&self, key: &Key, about: &About, bytes: u64) -> std::io::Result<Folder> {
        let name = key::folder_name(key);
        let path = self.root.join(&name);
        std::fs::create_dir_all(&self.root)?;
        let others: Vec<FeatureSet> = sets(&self.root)?.into_iter().filter(|set| set.path != path).collect();
        // What does not fit even alone is kept in part, and not at the cost of everything else.
        let disk = self.limits.disk;
        let others_may_hold = if bytes <= disk { disk - bytes } else { disk / 2 };
        let removed = remove_oldest(entries(&others), others_may_hold)?;
        let left: u64 = others.iter().map(|set| set.bytes).sum::<u64>().saturating_sub(removed);
        let free = available_space(&self.root).map_err(std::io::Error::other)?;
        let own = if path.is_dir() { folder::examine(&path)?.bytes } else { 0 };
        let room = disk.saturating_sub(left).min(own + free / 2);
        Folder::open(path, about, room)
    }

    /// Forgets what it knows of the weights, because a frozen prefix may have changed: another stage trained, or other
    /// weights were loaded. Prefixes of the same weights are found again by their hash.
    pub fn weights_changed(&self) {
        self.state().known.clear();
    }

    /// Makes what was written so far visible to other runs.
    pub fn finish(&self) {
        self.state().open.iter().for_each(|(_, prefix)| prefix.finish());
    }

    /// What was computed and reused since the last call, of each open prefix.
    pub fn take_usage(&self) -> Vec<Usage> {
        self.state().open.iter().filter_map(|(_, prefix)| prefix.take_usage()).collect()
    }

    /// What went wrong since the last call. The run does without.
    pub fn take_failures(&self) -> Vec<String> {
        self.state().open.iter().flat_map(|(_, prefix)| prefix.take_failures()).collect()
    }
}

/// Logits of samples: from their features where these are kept, else from the bottom.
pub(crate) fn logits<'s>(
    features: Option<&Prefix>,
    trainee: &'s dyn Trainee,
    forward: &mut Forward<'s>,
    batch: SampleBatch<'_>,
) -> Var {
    let model: Option<&'s dyn Cut> = trainee.cut();
    match (features, model) {
        (Some(prefix), Some(model))
            if model.is_worth_keeping(batch.split, forward.is_training(), prefix.cut()) =>
        {
            prefix.logits(forward, trainee, model, batch)
        }
        _ => trainee.logits(forward, batch.split, batch.samples, batch.first_occurrence),
    }
}

/// What a training step's loss is of, as [`Trainee::trained_logits`] has it: from features where these are kept, which is
/// where no auxiliary head trains.
pub(crate) fn trained_logits<'s>(
    features: Option<&Prefix>,
    trainee: &'s dyn Trainee,
    forward: &mut Forward<'s>,
    batch: SampleBatch<'_>,
) -> Vec<(Var, f32)> {
    let model: Option<&'s dyn Cut> = trainee.cut();
    match (features, model) {
        (Some(prefix), Some(model)) if model.is_worth_keeping(batch.split, true, prefix.cut()) => {
            vec![(prefix.logits(forward, trainee, model, batch), 1.0)]
        }
        _ => trainee.trained_logits(forward, batch),
    }
}

/// Makes the samples of a batch ready whose features are not kept, and begins with those of the next: the others are
/// not read at all.
///
/// # Errors
/// If a sample cannot be read.
pub(crate) fn fetch(
    features: Option<&Prefix>,
    trainee: &dyn Trainee,
    batch: &Fetch<'_>,
    next: Option<&Fetch<'_>>,
) -> Result<(), TrainError> {
    let (Some(prefix), Some(model)) = (features, trainee.cut()) else { return trainee.fetch(batch, next) };
    let wanted = |fetch: &Fetch<'_>| {
        if model.is_worth_keeping(fetch.split, fetch.randomness.is_some(), prefix.cut()) {
            prefix.missing(model, fetch)
        } else {
            fetch.samples.to_vec()
        }
    };
    let (own, later) = (wanted(batch), next.map(wanted));
    let later = next.zip(later.as_deref()).map(|(next, samples)| Fetch { samples, ..*next });
    trainee.fetch(&Fetch { samples: &own, ..*batch }, later.as_ref())
}

/// Features on disk that share a key.
#[derive(Clone, Debug)]
pub struct FeatureSet {
    /// Their folder.
    pub path: PathBuf,
    /// What they are of.
    pub about: About,
    /// Samples that have features.
    pub samples: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a run last opened them.
    pub used: Option<SystemTime>,
    /// Files that are damaged.
    pub damaged: Vec<PathBuf>,
}

/// The features in a cache folder, those used last first.
///
/// # Errors
/// If the folder cannot be read.
pub fn list_features(cache_dir: &Path) -> Result<Vec<FeatureSet>, TrainError> {
    let root = cache_dir.join(FEATURES);
    let mut sets = sets(&root).map_err(TrainError::io(&root))?;
    sets.sort_by_key(|set| std::cmp::Reverse(set.used));
    Ok(sets)
}

/// Removes what killed runs and damage left, then the features and token ids that were not used for longest, until all of
/// them take at most `limit` bytes. Returns the bytes that were freed.
///
/// # Errors
/// If a file cannot be removed.
pub fn clean_cache(cache_dir: &Path, limit: u64) -> Result<u64, TrainError> {
    let root = cache_dir.join(FEATURES);
    let clean = || {
        let before = sets(&root)?;
        before.iter().try_for_each(|set| folder::tidy(&set.path))?;
        let after = sets(&root)?;
        let bytes = |sets: &[FeatureSet]| sets.iter().map(|set| set.bytes).sum::<u64>();
        Ok((bytes(&before).saturating_sub(bytes(&after)), after))
    };
    let (freed_features, features) = clean().map_err(TrainError::io(&root))?;
    let freed_tokens = tidy_tokens(cache_dir)?;
    let tokens = list_tokens(cache_dir)?;
    let all = entries(&features).into_iter().chain(tokens.iter().map(TokenSet::entry)).collect();
    let removed = remove_oldest(all, limit).map_err(TrainError::io(cache_dir))?;
    Ok(freed_features + freed_tokens + removed)
}

fn sets(root: &Path) -> std::io::Result<Vec<FeatureSet>> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let folders = files(root)?.into_iter().filter(|path| path.is_dir());
    folders
        .map(|path| {
            let folder::Examined { about, samples, bytes, used, damaged } = folder::examine(&path)?;
            Ok(FeatureSet { path, about, samples, bytes, used, damaged })
        })
        .collect()
}

/// Sets as what may be removed for want of room.
fn entries(sets: &[FeatureSet]) -> Vec<CacheEntry<'_>> {
    sets.iter().map(|set| CacheEntry { path: &set.path, bytes: set.bytes, used: set.used }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_off_keeps_nothing() {
        let mut recipe = Recipe::default();
        assert!(FeatureLimits::of(&recipe).keep_anything());
        recipe.train.feature_cache = FeatureCacheMode::Memory;
        assert_eq!(FeatureLimits::of(&recipe).disk, 0);
        recipe.train.feature_cache = FeatureCacheMode::Off;
        assert!(!FeatureLimits::of(&recipe).keep_anything());
    }
}
