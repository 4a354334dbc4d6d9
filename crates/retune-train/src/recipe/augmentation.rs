//! The `[augmentation]` section: random views of pictures and texts.

use retune_data::TextAugmentation;
use retune_data::image::{Augmentation, Crop, Mixing, Place, Policy};
use serde::{Deserialize, Serialize};

/// `[augmentation]`. The default is what a small set of pictures wants: random crops and mirror images. Texts are left as
/// they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentationSection {
    /// How a training picture is cut.
    pub crop: Crop,
    /// The least share of the area that a random resized crop has.
    pub min_scale: f64,
    /// Probability of swapping left and right.
    pub horizontal_flip: f64,
    /// Probability of swapping top and bottom.
    pub vertical_flip: f64,
    /// The greatest angle in degrees.
    pub rotation: f64,
    /// Brightness times 1 ± this.
    pub brightness: f64,
    /// Contrast times 1 ± this.
    pub contrast: f64,
    /// Saturation times 1 ± this.
    pub saturation: f64,
    /// The greatest turn of the hue, as a share of the circle.
    pub hue: f64,
    /// A policy of many operations.
    pub policy: Policy,
    /// RandAugment's operations on a picture.
    pub num_ops: usize,
    /// RandAugment's strength.
    pub magnitude: usize,
    /// Probability of erasing a rectangle.
    pub random_erasing: f64,
    /// How many views of a picture are drawn, to be seen in turn; a new one each time if unset.
    pub cached_views: Option<u64>,
    /// MixUp's α; 0 turns it off.
    pub mixup_alpha: f64,
    /// CutMix's α; 0 turns it off.
    pub cutmix_alpha: f64,
    /// Probability that a pair of pictures is mixed.
    pub mixup_prob: f64,
    /// Probability of CutMix instead of MixUp where both are on.
    pub mixup_switch_prob: f64,
    /// What is averaged in evaluation and prediction.
    pub test_time: TestTime,
    /// Probability of each word to be left out.
    pub word_dropout: f64,
    /// Probability of each word to change places with the next.
    pub word_swap: f64,
    /// Probability that a text is written in another casing.
    pub casing: f64,
    /// Probability of each letter to be mistyped.
    pub typos: f64,
    /// A file with paraphrases of training texts.
    pub paraphrases: Option<String>,
    /// A command that answers training texts with paraphrases.
    pub paraphrase_command: Vec<String>,
    /// Probability that a paraphrase stands for its text.
    pub paraphrase_probability: f64,
}

/// What is averaged in evaluation and prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestTime {
    /// Nothing: one view.
    #[default]
    None,
    /// The picture and its mirror image.
    Flip,
    /// The middle and the four corners.
    FiveCrop,
    /// These and their mirror images.
    TenCrop,
}

const PLACES: [Place; 5] =
    [Place::Middle, Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight];

impl TestTime {
    /// The views of a picture: a part of it, and whether left and right are swapped. The first is the plain one.
    pub fn views(self) -> Vec<(Place, bool)> {
        let places = if self.has_corners() { &PLACES[..] } else { &PLACES[..1] };
        let mirrors: &[bool] =
            if matches!(self, Self::Flip | Self::TenCrop) { &[false, true] } else { &[false] };
        mirrors.iter().flat_map(|&mirrored| places.iter().map(move |&place| (place, mirrored))).collect()
    }

    /// Whether more of a picture is looked at than its middle.
    pub fn has_corners(self) -> bool {
        matches!(self, Self::FiveCrop | Self::TenCrop)
    }
}

impl Default for AugmentationSection {
    fn default() -> Self {
        Self {
            crop: Crop::RandomResized,
            min_scale: 0.35,
            horizontal_flip: 0.5,
            vertical_flip: 0.0,
            rotation: 0.0,
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
            policy: Policy::None,
            num_ops: 2,
            magnitude: 9,
            random_erasing: 0.0,
            cached_views: None,
            mixup_alpha: 0.0,
            cutmix_alpha: 0.0,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            test_time: TestTime::None,
            word_dropout: 0.0,
            word_swap: 0.0,
            casing: 0.0,
            typos: 0.0,
            paraphrases: None,
            paraphrase_command: Vec::new(),
            paraphrase_probability: 0.5,
        }
    }
}

impl AugmentationSection {
    /// The least number of pictures that a batch is cut into: those that are mixed stay together.
    pub(crate) fn smallest_batch(&self) -> usize {
        if self.mixing_key().is_some() { 2 } else { 1 }
    }

    /// Whether nothing was changed.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The key that turns mixing on, if one does.
    pub(crate) fn mixing_key(&self) -> Option<&'static str> {
        let keys = [
            ("augmentation.mixup_alpha", self.mixup_alpha),
            ("augmentation.cutmix_alpha", self.cutmix_alpha),
        ];
        keys.into_iter().find(|&(_, alpha)| alpha > 0.0).map(|(key, _)| key)
    }

    /// Whether nothing was changed that is about pictures.
    pub fn leaves_pictures(&self) -> bool {
        let TextAugmentation { word_dropout, word_swap, casing, typos } = self.to_text_augmentation();
        let mut texts_alone = Self { word_dropout, word_swap, casing, typos, ..Self::default() };
        texts_alone.paraphrases.clone_from(&self.paraphrases);
        texts_alone.paraphrase_command.clone_from(&self.paraphrase_command);
        texts_alone.paraphrase_probability = self.paraphrase_probability;
        *self == texts_alone
    }

    /// Whether nothing was changed that is about texts.
    pub fn leaves_texts(&self) -> bool {
        let default = Self::default();
        self.to_text_augmentation().is_none()
            && !self.has_paraphrases()
            && self.paraphrase_probability == default.paraphrase_probability
    }

    /// Whether paraphrases stand for training texts.
    pub(crate) fn has_paraphrases(&self) -> bool {
        self.paraphrases.is_some() || !self.paraphrase_command.is_empty()
    }

    /// As the data crate takes it for texts.
    pub fn to_text_augmentation(&self) -> TextAugmentation {
        let Self { word_dropout, word_swap, casing, typos, .. } = *self;
        TextAugmentation { word_dropout, word_swap, casing, typos }
    }

    /// As the data crate takes it for pictures.
    pub fn to_augmentation(&self) -> Augmentation {
        Augmentation {
            crop: self.crop,
            min_scale: self.min_scale,
            horizontal_flip: self.horizontal_flip,
            vertical_flip: self.vertical_flip,
            rotation: self.rotation,
            brightness: self.brightness,
            contrast: self.contrast,
            saturation: self.saturation,
            hue: self.hue,
            policy: self.policy,
            num_ops: self.num_ops,
            magnitude: self.magnitude,
            random_erasing: self.random_erasing,
            mixing: Mixing {
                mixup_alpha: self.mixup_alpha,
                cutmix_alpha: self.cutmix_alpha,
                probability: self.mixup_prob,
                switch_probability: self.mixup_switch_prob,
            },
            ..Augmentation::default()
        }
    }
}
