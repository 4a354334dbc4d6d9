//! Pictures: opened splits and an image classifier, as the loop sees them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use retune_autograd::Var;
use retune_data::Target;
use retune_data::image::{
    Augmentation, DEFAULT_MAX_PIXELS, ImageDataset, ImagePreprocessor, LoadRequest, Mixing, PairMix, Picture,
    PictureFacts, PictureLoader, PictureProblem, Pixels, Place, ViewKey, thumbnail,
};
use retune_models::vision::{ImageBatch, ImageClassifier, ImageConfig, Layout};
use retune_nn::{Forward, ParameterStore, Randomness, Rows};
use retune_tasks::ProblemType;
use retune_tensor::{Context, Tensor};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::plan::without_values;
use crate::recipe::TestTime;
use crate::trainee::{Cut, Fetch, Mixed, SampleBatch, SampleHash, Split, Trainee};

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
    /// Which of the random views a picture is seen in.
    pub choice: ViewChoice,
    /// What is averaged in evaluation.
    pub test_time: TestTime,
    /// What the outputs mean, which says how they are averaged.
    pub problem_type: ProblemType,
}

/// Which of its random views a training picture is seen in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewChoice {
    /// A new one each time.
    #[default]
    Fresh,
    /// One of a fixed set, drawn by the picture's content alone, so that runs of any seed share what is computed of them.
    Few {
        /// How many there are.
        views: u64,
        /// Optimizer steps of an epoch: from one to the next it is the next view's turn.
        steps_per_epoch: u64,
    },
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
    loader: PictureLoader<View, Result<Pixels, PictureProblem>>,
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
            shared.make(picture, view.key)
        };
        let loader = picture_loader(workers, make)?;
        Ok(Self { model, config, layout, splits, views, cuts, loader, ready: Mutex::default() })
    }

    fn keys<'a>(
        &'a self,
        split: Split,
        samples: &'a [u32],
        first_occurrence: u32,
        randomness: Option<Randomness>,
    ) -> impl Iterator<Item = View> + 'a {
        samples.iter().zip(first_occurrence..).map(move |(&sample, occurrence)| {
            let key = randomness
                .and_then(|randomness| self.views.key(self.picture(split, sample), randomness, occurrence));
            View { split, sample, key }
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
        for (view, result) in missing.iter().zip(self.loader.take(&missing)) {
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

impl ImageViews {
    /// A picture's pixels: a random view in the input's size, or what the views of evaluation are cut out of.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn make(&self, picture: &Picture, key: Option<ViewKey>) -> Result<Pixels, PictureProblem> {
        let pixels = picture.open(self.preprocessor.channels(), DEFAULT_MAX_PIXELS)?;
        Ok(match key {
            Some(key) => self.augmentation.view(&pixels, &self.preprocessor, key),
            None if self.test_time.has_corners() => self.preprocessor.scaled(&pixels),
            None => self.preprocessor.fitted(&pixels),
        })
    }

    /// Inputs of one picture: itself, in evaluation perhaps other views of it too.
    fn per_picture(&self, is_training: bool) -> usize {
        if is_training { 1 } else { self.test_time.views().len() }
    }

    /// Logits of pictures, [pictures, outputs]; in evaluation one answer out of the views that the recipe asks for. The
    /// logits of a picture that is missing are not numbers.
    pub fn logits<'s, 'p>(
        &self,
        model: &'s ImageClassifier,
        forward: &mut Forward<'s>,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        first_occurrence: u32,
    ) -> Var {
        let inputs = self.inputs(forward, pictures, first_occurrence);
        let logits = model.logits(forward, &inputs);
        let per_picture = self.per_picture(forward.is_training());
        self.average(forward, logits, per_picture)
    }

    /// What a pass over pictures begins with: in training their mixed views.
    fn inputs<'p>(
        &self,
        forward: &Forward<'_>,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        first_occurrence: u32,
    ) -> ImageBatch {
        let per_picture = self.per_picture(forward.is_training());
        let occurrences = occurrences(pictures.len(), per_picture, first_occurrence);
        let mut pixels = self.batch(forward.context(), pictures, per_picture);
        if let Some(randomness) = forward.randomness() {
            self.mix(&mut pixels, randomness, first_occurrence);
        }
        ImageBatch::new(pixels, &occurrences)
    }

    /// Whether a training picture is seen in the same view again, and as no other's part.
    fn repeat(&self) -> bool {
        let are_few = self.choice != ViewChoice::Fresh || !self.augmentation.is_random();
        are_few && !self.augmentation.mixing.is_on()
    }

    /// The view that a step asks for; `None` if it is the one of evaluation.
    fn key(
        &self,
        picture: &Picture,
        Randomness { seed, step }: Randomness,
        occurrence: u32,
    ) -> Option<ViewKey> {
        if !self.augmentation.is_random() {
            return None;
        }
        let ViewChoice::Few { views, steps_per_epoch } = self.choice else {
            return Some(ViewKey { seed, step, occurrence });
        };
        let mut content = [0; 8];
        let sha256 = picture.facts.map(|facts| facts.sha256).unwrap_or_default();
        content.copy_from_slice(&sha256[..8]);
        // Which view comes first is the seed's; what the views are is not.
        let view = (step / steps_per_epoch.max(1)).wrapping_add(seed) % views.max(1);
        Some(ViewKey { seed: u64::from_le_bytes(content), step: view, occurrence: 0 })
    }

    /// Logits of pictures in training, with those of an auxiliary head, and the share of each one's loss.
    pub fn trained_logits<'s, 'p>(
        &self,
        model: &'s ImageClassifier,
        forward: &mut Forward<'s>,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        first_occurrence: u32,
    ) -> Vec<(Var, f32)> {
        let inputs = self.inputs(forward, pictures, first_occurrence);
        model.outputs(forward, &inputs).trained()
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
        let views = self.test_time.views();
        // From the pool, which would keep a vector of ours after each batch.
        let mut batch = context.zeros(shape);
        for (inputs, pixels) in batch.make_mut().chunks_exact_mut(elements * per_picture).zip(pictures) {
            let Some(pixels) = pixels else {
                inputs.fill(f32::NAN);
                continue;
            };
            for (input, &view) in inputs.chunks_exact_mut(elements).zip(&views) {
                self.write(pixels, view, input);
            }
        }
        batch
    }

    /// Writes one view of a picture that was [made](Self::make).
    fn write(&self, pixels: &Pixels, (place, is_mirrored): (Place, bool), input: &mut [f32]) {
        let fits = pixels.data.len() == self.preprocessor.elements();
        let mut part =
            if fits { Cow::Borrowed(pixels) } else { Cow::Owned(self.preprocessor.part(pixels, place)) };
        if is_mirrored {
            part.to_mut().flip_horizontally();
        }
        self.preprocessor.normalize(&part, input);
    }

    /// What each pair of a training batch takes from the other, with their places in the batch.
    fn mixes(
        &self,
        Randomness { seed, step }: Randomness,
        first_occurrence: u32,
        samples: usize,
    ) -> impl Iterator<Item = (PairMix, [usize; 2])> {
        let (mixing, size) = (self.augmentation.mixing, self.preprocessor.size);
        Mixing::pairs(first_occurrence, samples).filter_map(move |(occurrence, places)| {
            Some((mixing.of_pair(ViewKey { seed, step, occurrence }, size)?, places))
        })
    }

    /// Mixes a training batch in pairs.
    fn mix(&self, pixels: &mut Tensor, randomness: Randomness, first_occurrence: u32) {
        if !self.augmentation.mixing.is_on() || pixels.values().is_empty() {
            return;
        }
        let ImagePreprocessor { size, .. } = self.preprocessor;
        let (samples, elements) = (pixels.shape().sizes()[0], self.preprocessor.elements());
        let values = pixels.make_mut();
        for (mix, [first, second]) in self.mixes(randomness, first_occurrence, samples) {
            let (before, from_second) = values.split_at_mut(second * elements);
            mix.apply(&mut before[first * elements..], &mut from_second[..elements], size);
        }
    }

    /// One answer out of the views of each picture.
    fn average(&self, forward: &Forward<'_>, logits: Var, per_picture: usize) -> Var {
        if per_picture == 1 {
            return logits;
        }
        let (samples, outputs) = (logits.tensor().rows() / per_picture, logits.tensor().width());
        let context = forward.context();
        if context.kernels().is_none() {
            return Var::constant(context.zeros([samples, outputs]));
        }
        let answers = logits.tensor().values().chunks(per_picture * outputs).flat_map(|answers| {
            let views: Vec<&[f32]> = answers.chunks(outputs).collect();
            self.problem_type.mean_of_views(&views, outputs)
        });
        Var::constant(context.tensor([samples, outputs], answers.collect()))
    }
}

/// The occurrence of each input.
fn occurrences(pictures: usize, per_picture: usize, first_occurrence: u32) -> Vec<u32> {
    let occurrences = (first_occurrence..).take(pictures);
    occurrences.flat_map(|occurrence| std::iter::repeat_n(occurrence, per_picture)).collect()
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
            self.keys(fetch.split, fetch.samples, fetch.first_occurrence, fetch.randomness).collect()
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
    /// auxiliary head has no place in a path that is cut.
    fn is_worth_keeping(&self, split: Split, is_training: bool, cut: usize) -> bool {
        let is_alike = !is_training || self.views.repeat() && !self.model.has_auxiliary_above(cut);
        // Features of training pictures are as long as training makes them.
        let has_length = is_training == (split == Split::Train) || self.views.per_picture(is_training) == 1;
        is_alike && has_length && !self.cut_shape(cut).is_empty()
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
        let pixels = self.views.batch(forward.context(), seen.pictures(), per_picture);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::AugmentationSection;
    use retune_data::image::{Fit, Interpolation, Middle};
    use retune_models::vision::{self, ImageClassifierParts};
    use retune_nn::{Environment, ParameterBuilder, Trainable};

    /// The shares of the losses of a step on two pictures of `size` pixels, where the layer groups from `first` on train.
    fn shares(size: usize, first: &str) -> Vec<f32> {
        let mut config = ImageConfig::new(vision::architecture("inception_v3").unwrap());
        config.set_size(size);
        let parts =
            ImageClassifierParts { config: &config, outputs: 3, channels: 3, dropout: None, drop_path: None };
        let mut builder = ParameterBuilder::default();
        let model = ImageClassifier::declare(&parts, &mut builder);
        let context = Context::meta();
        let store = builder.build_meta(&context);
        let first = store.groups().iter().position(|group| group.name == first).unwrap();
        let trainable = Trainable::new(&store, |_, declaration| declaration.group >= first);
        let preprocessor = ImagePreprocessor {
            size,
            fit: Fit::Exact(size),
            middle: Middle::default(),
            interpolation: Interpolation::Bilinear,
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
        };
        let augmentation = AugmentationSection::default().to_augmentation();
        let views = ImageViews {
            preprocessor,
            augmentation,
            choice: ViewChoice::Fresh,
            test_time: TestTime::None,
            problem_type: ProblemType::SingleLabelClassification,
        };
        let mut forward = Forward::new(Environment {
            context,
            store: &store,
            trainable: &trainable,
            randomness: Some(Randomness { seed: 0, step: 0 }),
            gradient_checkpointing: false,
        });
        let trained = views.trained_logits(&model, &mut forward, [None, None].into_iter(), 0);
        assert!(trained.iter().all(|(logits, _)| logits.tensor().shape().sizes() == [2, 3]));
        trained.into_iter().map(|(_, share)| share).collect()
    }

    #[test]
    fn inceptions_auxiliary_head_has_four_tenths_of_its_loss_where_it_trains() {
        assert_eq!(shares(299, "Mixed_6e"), [1.0, 0.4]);
        assert_eq!(shares(299, "Mixed_7a"), [1.0]);
        // Too small for its pooling.
        assert_eq!(shares(107, "Mixed_6e"), [1.0]);
    }
}
