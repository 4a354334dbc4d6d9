//! Pictures: opened splits and an image classifier, as the loop sees them.

mod views;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use retune_autograd::Var;
use retune_data::image::{
    DEFAULT_MAX_PIXELS, ImageDataset, ImagePreprocessor, Picture, PictureFacts, PictureProblem, Pixels,
    ViewKey, thumbnail,
};
use retune_data::{ReadAhead, Target};
use retune_models::vision::{ImageBatch, ImageClassifier, ImageConfig, Layout};
use retune_nn::{Forward, ParameterStore, Randomness, Rows};
use retune_tensor::{Context, Tensor};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::plan::without_values;
use crate::stages::Stage;
use crate::trainee::{Cut, Fetch, Mixed, SampleBatch, SampleHash, Split, Trainee, read_ahead};
use views::occurrences;
pub use views::{ImageViews, TrainingSize, ViewChoice};

/// Pixels of a thumbnail's longer side.
const THUMBNAIL_SIDE: usize = 224;

/// A picture as a step asks for it: as in evaluation, or a random view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View {
    split: Split,
    sample: u32,
    key: Option<ViewKey>,
    size: usize,
}

/// An image classifier with its data.
pub struct ImageTrainee {
    /// The model.
    pub model: ImageClassifier,
    /// What its checkpoint says about itself.
    pub config: ImageConfig,
    /// Whose names its checkpoint has, and the artifact keeps.
    pub layout: Layout,
    /// Its data.
    pub splits: BTreeMap<Split, ImageDataset>,
    /// How pictures become inputs.
    pub views: Arc<ImageViews>,
    /// The shape of a picture's values at each cut ([`ImageClassifier::cut_shapes`]).
    cuts: Vec<Option<Vec<usize>>>,
    ahead: ReadAhead<View, Result<Pixels, PictureProblem>>,
    /// What was fetched and not yet asked for.
    ready: Mutex<HashMap<View, Pixels>>,
}

impl ImageTrainee {
    /// A model with its parameters, which may be without values, and its data; `workers` threads make pictures ready.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(
        (model, store): (ImageClassifier, &ParameterStore),
        (config, layout): (ImageConfig, Layout),
        splits: BTreeMap<Split, ImageDataset>,
        views: ImageViews,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let ImagePreprocessor { size, .. } = views.preprocessor;
        let picture = [size, size, views.preprocessor.channels()];
        let cuts = model.cut_shapes(&without_values(&Context::meta(), store), picture);
        let pictures: HashMap<Split, Vec<Arc<Picture>>> = splits
            .iter()
            .map(|(&split, dataset)| {
                (split, dataset.examples.iter().map(|example| Arc::clone(&example.picture)).collect())
            })
            .collect();
        let views = Arc::new(views);
        let shared = Arc::clone(&views);
        let make = move |view: &View| {
            let picture = &pictures[&view.split][view.sample as usize];
            shared.make_at(picture, view.key, view.size)
        };
        let ahead = read_ahead(workers, "pictures", make)?;
        Ok(Self { model, config, layout, splits, views, cuts, ahead, ready: Mutex::default() })
    }

    fn keys<'a>(
        &'a self,
        split: Split,
        samples: &'a [u32],
        first_occurrence: u32,
        randomness: Option<Randomness>,
    ) -> impl Iterator<Item = View> + 'a {
        let size = self.views.size(randomness.is_some());
        samples.iter().zip(first_occurrence..).map(move |(&sample, occurrence)| {
            let key = randomness
                .and_then(|randomness| self.views.key(self.picture(split, sample), randomness, occurrence));
            View { split, sample, key, size }
        })
    }

    fn picture(&self, split: Split, sample: u32) -> &Picture {
        &self.splits[&split].examples[sample as usize].picture
    }

    /// Inputs that a picture of a split becomes when the run sees it.
    fn per_picture(&self, split: Split) -> usize {
        self.views.per_picture(split == Split::Train)
    }

    /// The shape of one input's values at a cut.
    fn cut_shape(&self, cut: usize) -> &[usize] {
        self.cuts.get(cut).and_then(Option::as_deref).unwrap_or_default()
    }

    /// A small JPEG of a sample's picture for the report; none if it cannot be opened any more.
    pub(crate) fn thumbnail(&self, split: Split, index: usize) -> Option<Vec<u8>> {
        let picture = &self.splits[&split].examples[index].picture;
        thumbnail(&picture.open(3, DEFAULT_MAX_PIXELS).ok()?, THUMBNAIL_SIDE)
    }

    /// A sample's picture as the model sees it in evaluation; none if it cannot be opened any more.
    pub(crate) fn plain(&self, split: Split, index: usize) -> Option<Pixels> {
        let picture = &self.splits[&split].examples[index].picture;
        let pixels = picture.open(self.views.preprocessor.channels(), DEFAULT_MAX_PIXELS).ok()?;
        Some(self.views.preprocessor.fitted(&pixels))
    }

    /// The pictures of a batch, in the views that a pass sees. Where nothing is computed there is nothing to open.
    fn seen(&self, forward: &Forward<'_>, batch: SampleBatch<'_>) -> Seen {
        let SampleBatch { split, samples, first_occurrence } = batch;
        let views: Vec<View> = self.keys(split, samples, first_occurrence, forward.randomness()).collect();
        let ready = if forward.context().kernels().is_some() { self.take(&views) } else { HashMap::new() };
        Seen { views, ready }
    }

    /// What was fetched of a batch; what was not is made on the spot.
    fn take(&self, views: &[View]) -> HashMap<View, Pixels> {
        let mut ready = std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner));
        let missing: Vec<View> = views.iter().filter(|view| !ready.contains_key(view)).copied().collect();
        for (view, result) in missing.iter().zip(self.ahead.take(&missing)) {
            // A picture that cannot be opened any more is an error of `fetch`; without it the loss is not a number.
            ready.extend(result.ok().map(|pixels| (*view, pixels)));
        }
        ready
    }
}

/// The views of a batch, with those pictures that could be opened.
struct Seen {
    views: Vec<View>,
    ready: HashMap<View, Pixels>,
}

impl Seen {
    fn pictures(&self) -> impl ExactSizeIterator<Item = Option<&Pixels>> {
        self.views.iter().map(|view| self.ready.get(view))
    }
}

impl Trainee for ImageTrainee {
    fn samples(&self, split: Split) -> usize {
        self.splits.get(&split).map_or(0, ImageDataset::len)
    }

    /// All inputs have one size, so that a picture counts as one.
    fn length(&self, _split: Split, _sample: u32) -> u32 {
        1
    }

    fn target(&self, split: Split, sample: u32) -> &Target {
        &self.splits[&split].examples[sample as usize].target
    }

    fn origin(&self, split: Split, sample: u32) -> String {
        self.splits[&split].origin(sample as usize)
    }

    fn enter_stage(&self, stage: &Stage) {
        self.views.training_size.set(stage.image_size);
    }

    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        let views = |fetch: &Fetch<'_>| -> Vec<View> {
            self.keys(fetch.split, fetch.samples, fetch.first_occurrence, fetch.randomness).collect()
        };
        let (wanted, mut announced) = (views(batch), views(batch));
        announced.extend(next.map(views).unwrap_or_default());
        self.ahead.announce(&announced);
        let mut ready = HashMap::with_capacity(wanted.len());
        for (&view, result) in wanted.iter().zip(self.ahead.take(&wanted)) {
            let pixels = result.map_err(|problem| {
                TrainError::Setting(format!(
                    "{} {problem}; it could be opened when the run began",
                    self.origin(view.split, view.sample)
                ))
            })?;
            ready.insert(view, pixels);
        }
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = ready;
        Ok(())
    }

    fn mixed(&self, batch: &Fetch<'_>) -> Option<Vec<Mixed>> {
        let randomness = batch.randomness.filter(|_| self.views.augmentation.mixing.is_on())?;
        let samples = batch.samples.len();
        let mut mixed: Vec<Mixed> = (0..samples).map(|partner| Mixed { partner, share: 1.0 }).collect();
        for (mix, [first, second]) in self.views.mixes(randomness, batch.first_occurrence, samples) {
            let share = mix.share() as f32;
            mixed[first] = Mixed { partner: second, share };
            mixed[second] = Mixed { partner: first, share };
        }
        Some(mixed)
    }

    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var {
        let seen = self.seen(forward, SampleBatch { split, samples, first_occurrence });
        self.views.logits(&self.model, forward, seen.pictures(), first_occurrence)
    }

    fn trained_logits<'s>(&'s self, forward: &mut Forward<'s>, batch: SampleBatch<'_>) -> Vec<(Var, f32)> {
        let seen = self.seen(forward, batch);
        self.views.trained_logits(&self.model, forward, seen.pictures(), batch.first_occurrence)
    }

    fn cut(&self) -> Option<&dyn Cut> {
        Some(self)
    }
}

impl Cut for ImageTrainee {
    /// Evaluation always sees a picture alike; training does where nothing is random, or a fixed set of views is drawn. An
    /// auxiliary head has no place in a path that is cut, whose shapes are those of evaluation's size.
    fn is_worth_keeping(&self, split: Split, is_training: bool, cut: usize) -> bool {
        let has_size = self.views.size(is_training) == self.views.size(false);
        let is_alike = !is_training || self.views.repeat() && !self.model.has_auxiliary_above(cut);
        // Features of training pictures are as long as training makes them.
        let has_length = is_training == (split == Split::Train) || self.views.per_picture(is_training) == 1;
        has_size && is_alike && has_length && !self.cut_shape(cut).is_empty()
    }

    fn views(&self, split: Split) -> usize {
        match self.views.choice {
            ViewChoice::Few { views, .. } if split == Split::Train && self.views.augmentation.is_random() => {
                views as usize
            }
            _ => 1,
        }
    }

    fn feature_len(&self, split: Split, _sample: u32, cut: usize) -> usize {
        self.per_picture(split) * self.cut_shape(cut).iter().product::<usize>()
    }

    fn feature_width(&self, cut: usize) -> usize {
        self.cut_shape(cut).last().copied().unwrap_or(1)
    }

    fn signature(&self) -> String {
        let eps = self.config.layer_norm_eps.map(|eps| format!(" {eps}")).unwrap_or_default();
        format!("{}{eps}", self.model.architecture().name)
    }

    fn sample_hash(&self, split: Split, sample: u32, randomness: Option<Randomness>) -> SampleHash {
        let picture = self.picture(split, sample);
        let mut hasher = Sha256::new();
        if let Some(PictureFacts { width, height, sha256, .. }) = picture.facts {
            hasher.update(sha256);
            [width, height].iter().for_each(|&side| hasher.update((side as u64).to_le_bytes()));
        }
        let ImageViews { preprocessor, augmentation, .. } = &*self.views;
        hasher.update(format!("{preprocessor:?} {}", self.views.per_picture(randomness.is_some())));
        if let Some(key) = randomness.and_then(|randomness| self.views.key(picture, randomness, 0)) {
            hasher.update(format!("{augmentation:?} {key:?}"));
        }
        let mut hash = SampleHash::default();
        hash.copy_from_slice(&hasher.finalize()[..16]);
        hash
    }

    fn features<'s>(&'s self, forward: &mut Forward<'s>, split: Split, samples: &[u32], cut: usize) -> Var {
        let seen = self.seen(forward, SampleBatch { split, samples, first_occurrence: 0 });
        let per_picture = self.views.per_picture(forward.is_training());
        let size = self.views.size(forward.is_training());
        let pixels = self.views.batch_at(forward.context(), seen.pictures(), per_picture, size);
        // Below the cut all is frozen, so that no occurrence is drawn by.
        let batch = ImageBatch::new(pixels, &vec![0; samples.len() * per_picture]);
        self.model.below_cut(forward, &batch, cut)
    }

    fn logits_from_features<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        features: &Tensor,
        batch: SampleBatch<'_>,
        cut: usize,
    ) -> Var {
        let per_picture = self.views.per_picture(forward.is_training());
        let occurrences = occurrences(batch.samples.len(), per_picture, batch.first_occurrence);
        let shape: Vec<usize> = [occurrences.len()].iter().chain(self.cut_shape(cut)).copied().collect();
        let rows = Rows::packed((0..=occurrences.len() as u32).collect(), &occurrences);
        let x = Var::constant(features.reshape(shape.as_slice()));
        let logits = self.model.logits_above_cut(forward, x, &rows, cut);
        self.views.average(forward, logits, per_picture)
    }
}
