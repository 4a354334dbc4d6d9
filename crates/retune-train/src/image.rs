//! Pictures: opened splits and an image classifier, as the loop sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use retune_autograd::{Pooling, Var};
use retune_data::Target;
use retune_data::image::{
    Augmentation, DEFAULT_MAX_PIXELS, ImageDataset, ImagePreprocessor, LoadRequest, Picture, PictureLoader,
    PictureProblem, Pixels, ViewKey, thumbnail,
};
use retune_models::vision::{ImageBatch, ImageClassifier, ImageConfig, Layout};
use retune_nn::{Forward, Randomness};
use retune_tensor::{Context, Tensor};

use crate::TrainError;
use crate::recipe::TestTime;
use crate::trainee::{Fetch, Split, Trainee};

/// Pixels of a thumbnail's longer side.
const THUMBNAIL_SIDE: usize = 224;

/// A picture as a step asks for it: as in evaluation, or a random view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View {
    split: Split,
    sample: u32,
    key: Option<ViewKey>,
}

/// A loader with a message about the key that its threads come from.
pub(crate) fn picture_loader<R: LoadRequest, T: Send + 'static>(
    workers: usize,
    make: impl Fn(&R) -> T + Send + Sync + 'static,
) -> Result<PictureLoader<R, T>, TrainError> {
    PictureLoader::new(workers, make).map_err(|source| {
        TrainError::Setting(format!(
            "cannot start {workers} threads for pictures ({source}); set data.workers"
        ))
    })
}

/// How the pictures of a run become inputs.
pub struct ImageViews {
    /// As in evaluation.
    pub preprocessor: ImagePreprocessor,
    /// Random views, in training.
    pub augmentation: Augmentation,
    /// What is averaged in evaluation.
    pub test_time: TestTime,
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
    loader: PictureLoader<View, Result<Pixels, PictureProblem>>,
    /// What was fetched and not yet asked for.
    ready: Mutex<HashMap<View, Pixels>>,
}

impl ImageTrainee {
    /// A model with its data; `workers` threads make pictures ready.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(
        model: ImageClassifier,
        (config, layout): (ImageConfig, Layout),
        splits: BTreeMap<Split, ImageDataset>,
        views: ImageViews,
        workers: usize,
    ) -> Result<Self, TrainError> {
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
            shared.make(picture, view.key)
        };
        let loader = picture_loader(workers, make)?;
        Ok(Self { model, config, layout, splits, views, loader, ready: Mutex::default() })
    }

    fn keys<'a>(
        split: Split,
        samples: &'a [u32],
        first_occurrence: u32,
        randomness: Option<Randomness>,
    ) -> impl Iterator<Item = View> + 'a {
        samples.iter().zip(first_occurrence..).map(move |(&sample, occurrence)| {
            let key = randomness.map(|Randomness { seed, step }| ViewKey { seed, step, occurrence });
            View { split, sample, key }
        })
    }

    /// A small JPEG of a sample's picture for the report; none if it cannot be opened any more.
    pub(crate) fn thumbnail(&self, split: Split, index: usize) -> Option<Vec<u8>> {
        let picture = &self.splits[&split].examples[index].picture;
        thumbnail(&picture.open(3, DEFAULT_MAX_PIXELS).ok()?, THUMBNAIL_SIDE)
    }

    /// What was fetched of a batch; what was not is made on the spot.
    fn take(&self, views: &[View]) -> HashMap<View, Pixels> {
        let mut ready = std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner));
        let missing: Vec<View> = views.iter().filter(|view| !ready.contains_key(view)).copied().collect();
        for (view, result) in missing.iter().zip(self.loader.take(&missing)) {
            // A picture that cannot be opened any more is an error of `fetch`; without it the loss is not a number.
            ready.extend(result.ok().map(|pixels| (*view, pixels)));
        }
        ready
    }
}

impl ImageViews {
    /// A picture's pixels in the input's size.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn make(&self, picture: &Picture, key: Option<ViewKey>) -> Result<Pixels, PictureProblem> {
        let pixels = picture.open(self.preprocessor.channels(), DEFAULT_MAX_PIXELS)?;
        Ok(match key {
            Some(key) => self.augmentation.view(&pixels, &self.preprocessor, key),
            None => self.preprocessor.fitted(&pixels),
        })
    }

    /// Inputs of one picture: itself, in evaluation perhaps its mirror image too.
    fn per_picture(&self, is_training: bool) -> usize {
        if !is_training && self.test_time == TestTime::Flip { 2 } else { 1 }
    }

    /// Logits of pictures, [pictures, outputs]; in evaluation the average over the views that the recipe asks for. The
    /// logits of a picture that is missing are not numbers.
    pub fn logits<'s, 'p>(
        &self,
        model: &'s ImageClassifier,
        forward: &mut Forward<'s>,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        first_occurrence: u32,
    ) -> Var {
        let per_picture = self.per_picture(forward.is_training());
        let samples = pictures.len();
        let occurrences: Vec<u32> = (first_occurrence..)
            .take(samples)
            .flat_map(|occurrence| std::iter::repeat_n(occurrence, per_picture))
            .collect();
        let pixels = self.batch(forward.context(), pictures, per_picture);
        let logits = model.logits(forward, &ImageBatch::new(pixels, &occurrences));
        if per_picture == 1 {
            return logits;
        }
        let offsets = (0..=samples).map(|sample| (sample * per_picture) as u32).collect();
        forward.tape().pool(&logits, &Arc::new(offsets), Pooling::Mean)
    }

    /// Normalized inputs, [pictures · per_picture, height, width, channels].
    pub fn batch<'p>(
        &self,
        context: &Context,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        per_picture: usize,
    ) -> Tensor {
        let ImagePreprocessor { size, .. } = self.preprocessor;
        let shape = [pictures.len() * per_picture, size, size, self.preprocessor.channels()];
        if context.kernels().is_none() {
            return context.zeros(shape);
        }
        let elements = self.preprocessor.elements();
        let mut values = vec![0.0; shape.iter().product()];
        for (inputs, pixels) in values.chunks_exact_mut(elements * per_picture).zip(pictures) {
            let Some(pixels) = pixels else {
                inputs.fill(f32::NAN);
                continue;
            };
            let (first, others) = inputs.split_at_mut(elements);
            self.preprocessor.normalize(pixels, first);
            if !others.is_empty() {
                let mut mirrored = pixels.clone();
                mirrored.flip_horizontally();
                self.preprocessor.normalize(&mirrored, others);
            }
        }
        context.tensor(shape, values)
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

    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        let views = |fetch: &Fetch<'_>| -> Vec<View> {
            Self::keys(fetch.split, fetch.samples, fetch.first_occurrence, fetch.randomness).collect()
        };
        let (wanted, mut announced) = (views(batch), views(batch));
        announced.extend(next.map(views).unwrap_or_default());
        self.loader.announce(&announced);
        let mut ready = HashMap::with_capacity(wanted.len());
        for (&view, result) in wanted.iter().zip(self.loader.take(&wanted)) {
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

    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var {
        let views: Vec<View> = Self::keys(split, samples, first_occurrence, forward.randomness()).collect();
        // Without numbers there is nothing to open.
        let ready = if forward.context().kernels().is_some() { self.take(&views) } else { HashMap::new() };
        let pictures = views.iter().map(|view| ready.get(view));
        self.views.logits(&self.model, forward, pictures, first_occurrence)
    }
}
