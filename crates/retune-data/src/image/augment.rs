//! Random views of a picture for training. Every draw is a function of (seed, step, occurrence) and of the operation
//! that draws, so that switching one operation on leaves the others as they were.

use serde::{Deserialize, Serialize};

use super::affine::{Affine, transform};
use super::color::{adjust_brightness, adjust_contrast, adjust_saturation, shift_hue};
use super::mixing::Mixing;
use super::pixels::Pixels;
use super::policy::{Policy, apply_policy};
use super::preprocess::ImagePreprocessor;
use super::resize::{Region, resize};
use crate::batch::{mix, random};

/// How a training picture is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// A part of random size and shape, scaled to the input (Szegedy et al. 2014; torchvision's `RandomResizedCrop`).
    #[default]
    RandomResized,
    /// The picture as in evaluation, moved by up to an eighth of the input with a border around it (He et al. 2015, on
    /// CIFAR).
    RandomPad,
    /// As in evaluation.
    Center,
}

/// What is done to training pictures. The default does nothing but cut and scale them as in evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// How the picture is cut.
    pub crop: Crop,
    /// The least share of the picture's area that a random resized crop has.
    pub min_scale: f64,
    /// The greatest.
    pub max_scale: f64,
    /// The least width by height of a random resized crop; its inverse is the greatest.
    pub min_ratio: f64,
    /// Probability that left and right are swapped.
    pub horizontal_flip: f64,
    /// Probability that top and bottom are swapped.
    pub vertical_flip: f64,
    /// The greatest angle by which the picture is turned, in degrees.
    pub rotation: f64,
    /// Brightness is multiplied by 1 ± this.
    pub brightness: f64,
    /// Contrast.
    pub contrast: f64,
    /// Saturation.
    pub saturation: f64,
    /// Hue is turned by up to this share of the colour circle.
    pub hue: f64,
    /// A policy of many operations.
    pub policy: Policy,
    /// Operations of RandAugment on one picture.
    pub num_ops: usize,
    /// Strength of RandAugment's operations, up to 30.
    pub magnitude: usize,
    /// Probability that a rectangle is erased (Zhong et al. 2017).
    pub random_erasing: f64,
    /// What two pictures of a step take from each other, after all of the above.
    pub mixing: Mixing,
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation {
            crop: Crop::Center,
            min_scale: 0.35,
            max_scale: 1.0,
            min_ratio: 0.75,
            horizontal_flip: 0.0,
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
            mixing: Mixing::default(),
        }
    }
}

/// What the randomness of one view of a picture, or of a text, is keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// The sample's place in the step's effective batch.
    pub occurrence: u32,
}

/// The random numbers of one operation on one view.
pub(crate) struct Draws {
    key: u64,
    counter: u64,
}

impl Draws {
    pub(crate) fn new(key: ViewKey, operation: &str) -> Self {
        // FNV-1a: an operation's name is its stream.
        let name = operation.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let key = [key.step, u64::from(key.occurrence), name]
            .iter()
            .fold(mix(key.seed ^ 0x7069_6374), |hash, &part| mix(hash ^ random(part, 0)));
        Draws { key, counter: 0 }
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.counter += 1;
        (random(self.key, self.counter) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// From 0 to `end`, without `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end.saturating_sub(1))
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }
}

impl Augmentation {
    /// Whether views differ from each other, and from the picture as evaluation sees it.
    pub fn is_random(&self) -> bool {
        let Augmentation { min_scale, max_scale, min_ratio, num_ops, magnitude, .. } = *self;
        let plain = Augmentation { min_scale, max_scale, min_ratio, num_ops, magnitude, ..Self::default() };
        *self != plain
    }

    /// One view of a picture, in the size of the model's input.
    pub fn view(&self, pixels: &Pixels, to: &ImagePreprocessor, key: ViewKey) -> Pixels {
        let fill = to.mean_color();
        let mut view = self.cut(pixels, to, key);
        if Draws::new(key, "horizontal_flip").chance(self.horizontal_flip) {
            view.flip_horizontally();
        }
        if Draws::new(key, "vertical_flip").chance(self.vertical_flip) {
            view.flip_vertically();
        }
        if self.rotation > 0.0 {
            let angle = Draws::new(key, "rotation").between(-self.rotation, self.rotation);
            view = transform(&view, &Affine::rotation(angle.to_radians()), &fill);
        }
        self.jitter(&mut view, key);
        view = apply_policy(self, view, &mut Draws::new(key, "policy"), &fill);
        self.erase(&mut view, key, &fill);
        view
    }

    fn cut(&self, pixels: &Pixels, to: &ImagePreprocessor, key: ViewKey) -> Pixels {
        match self.crop {
            Crop::Center => to.fitted(pixels),
            Crop::RandomResized => {
                let region = self.random_region(pixels, &mut Draws::new(key, "crop"));
                resize(pixels, region, to.size, to.size, to.interpolation)
            }
            Crop::RandomPad => {
                let border = to.size.div_ceil(8);
                let mut draws = Draws::new(key, "crop");
                let (left, top) = (draws.below(2 * border + 1), draws.below(2 * border + 1));
                to.fitted(pixels).padded(border, &to.mean_color()).cropped(left, top, to.size, to.size)
            }
        }
    }

    /// torchvision's `RandomResizedCrop.get_params`, from our own random numbers.
    fn random_region(&self, pixels: &Pixels, draws: &mut Draws) -> Region {
        const TRIES: usize = 10;
        let (width, height) = (pixels.width as f64, pixels.height as f64);
        let (low, high) = (self.min_ratio.ln(), -self.min_ratio.ln());
        for _ in 0..TRIES {
            let area = width * height * draws.between(self.min_scale, self.max_scale);
            let ratio = draws.between(low, high).exp();
            let cut_width = (area * ratio).sqrt().round() as usize;
            let cut_height = (area / ratio).sqrt().round() as usize;
            if (1..=pixels.width).contains(&cut_width) && (1..=pixels.height).contains(&cut_height) {
                let left = draws.below(pixels.width - cut_width + 1);
                let top = draws.below(pixels.height - cut_height + 1);
                return Region { left, top, width: cut_width, height: cut_height };
            }
        }
        // The middle, in the nearest shape that is allowed.
        let ratio = (width / height).clamp(self.min_ratio, 1.0 / self.min_ratio);
        let cut_width = ((height * ratio).round().min(width) as usize).max(1);
        let cut_height = ((width / ratio).round().min(height) as usize).max(1);
        let left = (pixels.width - cut_width) / 2;
        Region { left, top: (pixels.height - cut_height) / 2, width: cut_width, height: cut_height }
    }

    /// torchvision's `ColorJitter`: four changes in random order.
    fn jitter(&self, view: &mut Pixels, key: ViewKey) {
        if self.brightness + self.contrast + self.saturation + self.hue == 0.0 {
            return;
        }
        let mut draws = Draws::new(key, "jitter");
        let mut order = [0, 1, 2, 3];
        for last in (1..order.len()).rev() {
            order.swap(last, draws.below(last + 1));
        }
        let mut factor = |strength: f64| draws.between((1.0 - strength).max(0.0), 1.0 + strength) as f32;
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let hue = draws.between(-self.hue, self.hue);
        for change in order {
            match change {
                0 if self.brightness > 0.0 => adjust_brightness(view, brightness),
                1 if self.contrast > 0.0 => adjust_contrast(view, contrast),
                2 if self.saturation > 0.0 => adjust_saturation(view, saturation),
                3 if self.hue > 0.0 => shift_hue(view, hue),
                _ => {}
            }
        }
    }

    /// Random erasing with the usual shapes: 2 to 33% of the area, 0.3 to 3.3 as wide as high.
    fn erase(&self, view: &mut Pixels, key: ViewKey, fill: &[u8]) {
        const TRIES: usize = 10;
        let mut draws = Draws::new(key, "erasing");
        if !draws.chance(self.random_erasing) {
            return;
        }
        let area = (view.width * view.height) as f64;
        for _ in 0..TRIES {
            let erased = area * draws.between(0.02, 0.33);
            let ratio = draws.between(0.3_f64.ln(), 3.3_f64.ln()).exp();
            let (width, height) =
                ((erased * ratio).sqrt().round() as usize, (erased / ratio).sqrt().round() as usize);
            if width == 0 || height == 0 || width >= view.width || height >= view.height {
                continue;
            }
            let (left, top) = (draws.below(view.width - width + 1), draws.below(view.height - height + 1));
            let (stride, channels) = (view.width * view.channels, view.channels);
            for row in view.data.chunks_exact_mut(stride).skip(top).take(height) {
                for pixel in row[left * channels..(left + width) * channels].chunks_exact_mut(channels) {
                    pixel.copy_from_slice(&fill[..channels]);
                }
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Fit;

    fn picture() -> Pixels {
        let data = (0..60 * 40 * 3).map(|index| (index * 31 % 253) as u8).collect();
        Pixels { width: 60, height: 40, channels: 3, data }
    }

    fn to() -> ImagePreprocessor {
        ImagePreprocessor { size: 24, fit: Fit::ShorterEdge(27), ..ImagePreprocessor::default() }
    }

    fn key(step: u64, occurrence: u32) -> ViewKey {
        ViewKey { seed: 5, step, occurrence }
    }

    fn everything() -> Augmentation {
        Augmentation {
            crop: Crop::RandomResized,
            horizontal_flip: 0.5,
            vertical_flip: 0.5,
            rotation: 30.0,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
            policy: Policy::TrivialAugment,
            random_erasing: 0.5,
            ..Augmentation::default()
        }
    }

    #[test]
    fn a_view_is_a_function_of_its_key() {
        let augmentation = everything();
        let view = |key| augmentation.view(&picture(), &to(), key);
        assert_eq!(view(key(3, 1)), view(key(3, 1)));
        assert_ne!(view(key(3, 1)), view(key(3, 2)));
        assert_ne!(view(key(3, 1)), view(key(4, 1)));
    }

    #[test]
    fn what_is_not_random_is_seen_as_in_evaluation() {
        let plain = Augmentation { min_scale: 0.9, magnitude: 3, ..Augmentation::default() };
        assert!(!plain.is_random());
        assert_eq!(plain.view(&picture(), &to(), key(1, 2)), to().fitted(&picture()));
        assert!(Augmentation { horizontal_flip: 0.1, ..plain.clone() }.is_random());
        assert!(Augmentation { crop: Crop::RandomPad, ..plain }.is_random());
    }

    #[test]
    fn every_view_has_the_size_of_the_input_whatever_the_picture() {
        for policy in [Policy::None, Policy::TrivialAugment, Policy::RandAugment, Policy::AutoAugment] {
            for (width, height) in [(1, 1), (1, 50), (300, 2), (24, 24)] {
                for channels in [1, 3, 4] {
                    let to =
                        ImagePreprocessor { mean: vec![0.5; channels], std: vec![1.0; channels], ..to() };
                    let plain = Pixels::filled(width, height, &vec![9; channels]);
                    for crop in [Crop::RandomResized, Crop::RandomPad, Crop::Center] {
                        let augmentation = Augmentation { crop, policy, ..everything() };
                        for occurrence in 0..8 {
                            let view = augmentation.view(&plain, &to, key(1, occurrence));
                            assert_eq!((view.width, view.height, view.channels), (24, 24, channels));
                            assert_eq!(view.data.len(), to.elements());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn crops_keep_the_share_that_was_asked_for_and_flips_come_half_the_time() {
        let augmentation = Augmentation { min_scale: 0.5, ..everything() };
        let mut flips = 0;
        for step in 0..400 {
            let region = augmentation.random_region(&picture(), &mut Draws::new(key(step, 0), "crop"));
            let share = (region.width * region.height) as f64 / 2400.0;
            assert!((0.45..=1.0).contains(&share), "{region:?}");
            assert!(region.left + region.width <= 60 && region.top + region.height <= 40, "{region:?}");
            flips += usize::from(Draws::new(key(step, 0), "horizontal_flip").chance(0.5));
        }
        // Four standard deviations of a fair coin's 400 throws are 40.
        assert!((160..=240).contains(&flips), "{flips}");
    }

    #[test]
    fn switching_one_operation_on_leaves_the_draws_of_the_others() {
        let plain =
            Augmentation { crop: Crop::RandomResized, horizontal_flip: 0.5, ..Augmentation::default() };
        let erasing = Augmentation { random_erasing: 1.0, ..plain.clone() };
        let same = |occurrence| {
            let (a, b) = (
                plain.view(&picture(), &to(), key(9, occurrence)),
                erasing.view(&picture(), &to(), key(9, occurrence)),
            );
            a.data.chunks_exact(3).zip(b.data.chunks_exact(3)).filter(|(a, b)| a == b).count()
        };
        // At most a third of the area is erased.
        assert!((0..8).all(|occurrence| same(occurrence) * 100 >= 24 * 24 * 60));
    }
}
