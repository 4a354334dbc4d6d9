//! Views of pictures: what a step sees of each, and in which size.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use retune_autograd::Var;
use retune_data::image::{
    Augmentation, DEFAULT_MAX_PIXELS, ImagePreprocessor, Mixing, PairMix, Picture, PictureProblem, Pixels,
    Place, ViewKey,
};
use retune_models::vision::{ImageBatch, ImageClassifier};
use retune_nn::{Forward, Randomness};
use retune_tasks::ProblemType;
use retune_tensor::{Context, Tensor};

use crate::recipe::TestTime;

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
    /// Height and width of training pictures in the current stage.
    pub training_size: TrainingSize,
}

/// Height and width of training pictures; until a stage says otherwise those of evaluation.
#[derive(Debug, Default)]
pub struct TrainingSize(AtomicUsize);

impl TrainingSize {
    pub(super) fn set(&self, size: Option<usize>) {
        self.0.store(size.unwrap_or(0), Ordering::Relaxed);
    }

    fn get(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&size| size > 0)
    }
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

impl ImageViews {
    /// Height and width of inputs.
    pub(super) fn size(&self, is_training: bool) -> usize {
        self.training_size.get().filter(|_| is_training).unwrap_or(self.preprocessor.size)
    }

    /// How pictures become inputs of a size.
    fn preprocessor(&self, size: usize) -> Cow<'_, ImagePreprocessor> {
        if size == self.preprocessor.size {
            Cow::Borrowed(&self.preprocessor)
        } else {
            Cow::Owned(self.preprocessor.at_size(size))
        }
    }

    /// A picture's pixels: a random view in the input's size, or what the views of evaluation are cut out of.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn make(&self, picture: &Picture, key: Option<ViewKey>) -> Result<Pixels, PictureProblem> {
        self.make_at(picture, key, self.size(false))
    }

    /// The same for inputs of another size.
    pub(super) fn make_at(
        &self,
        picture: &Picture,
        key: Option<ViewKey>,
        size: usize,
    ) -> Result<Pixels, PictureProblem> {
        let preprocessor = self.preprocessor(size);
        let pixels = picture.open(preprocessor.channels(), DEFAULT_MAX_PIXELS)?;
        Ok(match key {
            Some(key) => self.augmentation.view(&pixels, &preprocessor, key),
            None if self.test_time.has_corners() => preprocessor.scaled(&pixels),
            None => preprocessor.fitted(&pixels),
        })
    }

    /// Inputs of one picture: itself, in evaluation perhaps other views of it too.
    pub(super) fn per_picture(&self, is_training: bool) -> usize {
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
        let size = self.size(forward.is_training());
        let mut pixels = self.batch_at(forward.context(), pictures, per_picture, size);
        if let Some(randomness) = forward.randomness() {
            self.mix(&mut pixels, randomness, first_occurrence);
        }
        ImageBatch::new(pixels, &occurrences)
    }

    /// Whether a training picture is seen in the same view again, and as no other's part.
    pub(super) fn repeat(&self) -> bool {
        let are_few = self.choice != ViewChoice::Fresh || !self.augmentation.is_random();
        are_few && !self.augmentation.mixing.is_on()
    }

    /// The view that a step asks for; `None` if it is the one of evaluation.
    pub(super) fn key(
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
        self.batch_at(context, pictures, per_picture, self.size(false))
    }

    /// The same of another size.
    pub(super) fn batch_at<'p>(
        &self,
        context: &Context,
        pictures: impl ExactSizeIterator<Item = Option<&'p Pixels>>,
        per_picture: usize,
        size: usize,
    ) -> Tensor {
        let preprocessor = self.preprocessor(size);
        let shape = [pictures.len() * per_picture, size, size, preprocessor.channels()];
        if context.kernels().is_none() {
            return context.zeros(shape);
        }
        let elements = preprocessor.elements();
        let views = self.test_time.views();
        // From the pool, which would keep a vector of ours after each batch.
        let mut batch = context.zeros(shape);
        for (inputs, pixels) in batch.make_mut().chunks_exact_mut(elements * per_picture).zip(pictures) {
            let Some(pixels) = pixels else {
                inputs.fill(f32::NAN);
                continue;
            };
            for (input, &view) in inputs.chunks_exact_mut(elements).zip(&views) {
                write(&preprocessor, pixels, view, input);
            }
        }
        batch
    }

    /// What each pair of a training batch takes from the other, with their places in the batch.
    pub(super) fn mixes(
        &self,
        Randomness { seed, step }: Randomness,
        first_occurrence: u32,
        samples: usize,
    ) -> impl Iterator<Item = (PairMix, [usize; 2])> {
        let (mixing, size) = (self.augmentation.mixing, self.size(true));
        Mixing::pairs(first_occurrence, samples).filter_map(move |(occurrence, places)| {
            Some((mixing.of_pair(ViewKey { seed, step, occurrence }, size)?, places))
        })
    }

    /// Mixes a training batch in pairs.
    fn mix(&self, pixels: &mut Tensor, randomness: Randomness, first_occurrence: u32) {
        if !self.augmentation.mixing.is_on() || pixels.values().is_empty() {
            return;
        }
        let size = self.size(true);
        let samples = pixels.shape().sizes()[0];
        let elements = pixels.elements() / samples.max(1);
        let values = pixels.make_mut();
        for (mix, [first, second]) in self.mixes(randomness, first_occurrence, samples) {
            let (before, from_second) = values.split_at_mut(second * elements);
            mix.apply(&mut before[first * elements..], &mut from_second[..elements], size);
        }
    }

    /// One answer out of the views of each picture.
    pub(super) fn average(&self, forward: &Forward<'_>, logits: Var, per_picture: usize) -> Var {
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

/// Writes one view of a picture that was [made](ImageViews::make_at).
fn write(
    preprocessor: &ImagePreprocessor,
    pixels: &Pixels,
    (place, is_mirrored): (Place, bool),
    input: &mut [f32],
) {
    let fits = pixels.data.len() == preprocessor.elements();
    let mut part = if fits { Cow::Borrowed(pixels) } else { Cow::Owned(preprocessor.part(pixels, place)) };
    if is_mirrored {
        part.to_mut().flip_horizontally();
    }
    preprocessor.normalize(&part, input);
}

/// The occurrence of each input.
pub(super) fn occurrences(pictures: usize, per_picture: usize, first_occurrence: u32) -> Vec<u32> {
    let occurrences = (first_occurrence..).take(pictures);
    occurrences.flat_map(|occurrence| std::iter::repeat_n(occurrence, per_picture)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::AugmentationSection;
    use retune_data::image::{Fit, Interpolation, Middle};
    use retune_models::vision::{self, ImageClassifierParts, ImageConfig};
    use retune_nn::{Environment, ParameterBuilder, Trainable};

    fn views(size: usize) -> ImageViews {
        ImageViews {
            preprocessor: ImagePreprocessor {
                size,
                fit: Fit::Exact(size),
                middle: Middle::default(),
                interpolation: Interpolation::Bilinear,
                mean: vec![0.5; 3],
                std: vec![0.5; 3],
            },
            augmentation: AugmentationSection::default().to_augmentation(),
            choice: ViewChoice::Fresh,
            test_time: TestTime::None,
            problem_type: ProblemType::SingleLabelClassification,
            training_size: TrainingSize::default(),
        }
    }

    #[test]
    fn a_stages_size_is_that_of_training_pictures_alone() {
        let context = Context::meta();
        let store = ParameterBuilder::default().build_meta(&context);
        let none = Trainable::none(&store);
        let views = views(64);
        let shape = |randomness: Option<Randomness>| {
            let environment = Environment {
                context: context.clone(),
                store: &store,
                trainable: &none,
                randomness,
                gradient_checkpointing: false,
            };
            let inputs = views.inputs(&Forward::new(environment), [None, None].into_iter(), 0);
            inputs.pixels.shape().sizes().to_vec()
        };
        let training = Some(Randomness { seed: 0, step: 0 });
        assert_eq!([shape(training), shape(None)], [[2, 64, 64, 3], [2, 64, 64, 3]]);
        views.training_size.set(Some(40));
        assert_eq!([shape(training), shape(None)], [[2, 40, 40, 3], [2, 64, 64, 3]]);
        views.training_size.set(None);
        assert_eq!(shape(training), [2, 64, 64, 3]);
    }

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
        let views = views(size);
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
