//! The `[augmentation]` section: random views of pictures.

use retune_data::image::{Augmentation, Crop, Policy};
use serde::{Deserialize, Serialize};

/// `[augmentation]`. The default is what a small set of pictures wants: random crops and mirror images.
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
    /// What is averaged in evaluation and prediction.
    pub test_time: TestTime,
}

/// What is averaged in evaluation and prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestTime {
    /// Nothing: one view.
    #[default]
    None,
    /// The logits of the picture and of its mirror image.
    Flip,
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
            test_time: TestTime::None,
        }
    }
}

impl AugmentationSection {
    /// Whether nothing was changed.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As the data crate takes it.
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
            ..Augmentation::default()
        }
    }
}
