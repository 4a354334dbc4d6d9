//! How a picture becomes a model's input outside of training, as the checkpoint's own ecosystem does it: resize, cut out
//! the middle, scale, normalize.

use serde::{Deserialize, Serialize};

use super::pixels::Pixels;
use super::resize::{Interpolation, Region, resize};
use crate::error::DataError;

/// More pixels than this a side of an input has only by mistake.
const MOST_PIXELS: usize = 8192;

/// The size of a picture before its middle is cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The shorter side becomes this many pixels, the longer follows.
    ShorterEdge(usize),
    /// Both sides become this many pixels, each by itself.
    Exact(usize),
}

/// Where the middle of a picture begins if what is left over is odd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Middle {
    /// At half of it, rounded to even: torchvision's and timm's `CenterCrop`.
    #[default]
    HalfToEven,
    /// At half of it, rounded down: `center_crop` of `transformers`.
    HalfDown,
}

/// Which part of a scaled picture a model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The middle, as in evaluation.
    Middle,
    /// The upper left corner.
    TopLeft,
    /// The upper right corner.
    TopRight,
    /// The lower left corner.
    BottomLeft,
    /// The lower right corner.
    BottomRight,
}

/// How pictures become inputs of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImagePreprocessor {
    /// Height and width of the input.
    pub size: usize,
    /// The size before the middle is cut out.
    pub fit: Fit,
    /// Where the middle begins.
    #[serde(default)]
    pub middle: Middle,
    /// How pixels between pixels are found.
    pub interpolation: Interpolation,
    /// What is taken off each channel, with pixels from 0 to 1. As many as the input has channels: 1 is grey, 3 RGB, 4
    /// RGBA.
    pub mean: Vec<f32>,
    /// What each channel is divided by then.
    pub std: Vec<f32>,
}

impl Default for ImagePreprocessor {
    /// torchvision's for ImageNet: the shorter side to 256, 224 of it, bilinear.
    fn default() -> Self {
        ImagePreprocessor {
            size: 224,
            fit: Fit::ShorterEdge(256),
            middle: Middle::default(),
            interpolation: Interpolation::Bilinear,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }
    }
}

impl ImagePreprocessor {
    /// Channels of the input.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// Checks that the values fit each other.
    ///
    /// # Errors
    /// [`DataError::Setting`] naming the first that does not.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |message: String| Err(DataError::Setting(message));
        let channels = self.channels();
        if !matches!(channels, 1 | 3 | 4) {
            return wrong(format!(
                "pictures with {channels} channels are not read; 1 (grey), 3 (RGB) and 4 (RGBA) are"
            ));
        }
        if self.std.len() != channels || self.mean.iter().chain(&self.std).any(|value| !value.is_finite()) {
            return wrong(format!(
                "mean = {:?} and std = {:?} must be as many finite numbers",
                self.mean, self.std
            ));
        }
        if self.std.iter().any(|&value| value <= 0.0) {
            return wrong(format!("std = {:?} must be above 0", self.std));
        }
        let (Fit::ShorterEdge(edge) | Fit::Exact(edge)) = self.fit;
        if self.size == 0 || edge < self.size || edge > MOST_PIXELS {
            return wrong(format!(
                "a middle of {} pixels cannot be cut out of {edge}; both are from 1 to {MOST_PIXELS}",
                self.size
            ));
        }
        Ok(())
    }

    /// The same for inputs of another size, the margin around the middle in proportion.
    pub fn at_size(&self, size: usize) -> Self {
        let scaled =
            |edge: usize| (edge as f64 * size as f64 / self.size as f64).round().max(size as f64) as usize;
        let fit = match self.fit {
            Fit::ShorterEdge(edge) => Fit::ShorterEdge(scaled(edge)),
            Fit::Exact(edge) => Fit::Exact(scaled(edge)),
        };
        Self { size, fit, ..self.clone() }
    }

    /// Values of one input: size · size · channels.
    pub fn elements(&self) -> usize {
        self.size * self.size * self.channels()
    }

    /// A picture in the size of the model's input, its middle kept: `Resize` and `CenterCrop` of torchvision, `resize` and
    /// `center_crop` of `transformers`.
    pub fn fitted(&self, pixels: &Pixels) -> Pixels {
        let scaled = self.scaled(pixels);
        if (scaled.width, scaled.height) == (self.size, self.size) {
            return scaled;
        }
        self.part(&scaled, Place::Middle)
    }

    /// A picture in the size that its parts are cut out of: torchvision's `Resize`.
    pub fn scaled(&self, pixels: &Pixels) -> Pixels {
        let (width, height) = match self.fit {
            Fit::Exact(edge) => (edge, edge),
            Fit::ShorterEdge(edge) => {
                let longer = |long: usize, short: usize| (edge as f64 * long as f64 / short as f64) as usize;
                if pixels.width <= pixels.height {
                    (edge, longer(pixels.height, pixels.width).max(edge))
                } else {
                    (longer(pixels.width, pixels.height).max(edge), edge)
                }
            }
        };
        resize(pixels, Region::whole(pixels), width, height, self.interpolation)
    }

    /// A part of a [scaled](Self::scaled) picture in the size of the model's input: torchvision's `FiveCrop`.
    pub fn part(&self, scaled: &Pixels, place: Place) -> Pixels {
        let size = self.size;
        let (right, bottom) = (scaled.width - size, scaled.height - size);
        let (left, top) = match place {
            Place::Middle => (self.middle.start(right), self.middle.start(bottom)),
            Place::TopLeft => (0, 0),
            Place::TopRight => (right, 0),
            Place::BottomLeft => (0, bottom),
            Place::BottomRight => (right, bottom),
        };
        scaled.cropped(left, top, size, size)
    }

    /// Writes pixels as the model takes them: `(pixel / 255 − mean) / std`, channels last.
    ///
    /// # Panics
    /// If the picture has another size, or `out` another length than [`elements`](Self::elements).
    pub fn normalize(&self, pixels: &Pixels, out: &mut [f32]) {
        assert_eq!((pixels.data.len(), out.len()), (self.elements(), self.elements()), "a fitted picture");
        let channels = self.channels();
        let tables: Vec<[f32; 256]> = self
            .mean
            .iter()
            .zip(&self.std)
            .map(|(mean, std)| std::array::from_fn(|sample| (sample as f32 / 255.0 - mean) / std))
            .collect();
        let pixels = pixels.data.chunks_exact(channels).zip(out.chunks_exact_mut(channels));
        for (pixel, out) in pixels {
            for ((out, &sample), table) in out.iter_mut().zip(pixel).zip(&tables) {
                *out = table[usize::from(sample)];
            }
        }
    }

    /// The colour that becomes 0: what lies outside of a picture is filled with it.
    pub fn mean_color(&self) -> Vec<u8> {
        self.mean.iter().map(|mean| (mean * 255.0).round().clamp(0.0, 255.0) as u8).collect()
    }
}

impl Middle {
    /// Where it begins if so many pixels are left over.
    fn start(self, rest: usize) -> usize {
        match self {
            Middle::HalfToEven => (rest as f64 / 2.0).round_ties_even() as usize,
            Middle::HalfDown => rest / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_middle_of_a_wide_picture_is_kept() {
        let preprocessor =
            ImagePreprocessor { size: 4, fit: Fit::ShorterEdge(4), ..ImagePreprocessor::default() };
        let data = (0..4 * 9).flat_map(|index| [(index % 9) as u8; 3]).collect();
        let wide = Pixels { width: 9, height: 4, channels: 3, data };
        // (9 − 4) / 2 = 2.5, which Python rounds to 2.
        assert_eq!(preprocessor.fitted(&wide), wide.cropped(2, 0, 4, 4));
    }

    proptest! {
        #[test]
        fn every_part_has_the_size_of_the_input_and_a_plain_colour_stays(
            width in 1_usize..70,
            height in 1_usize..70,
            size in 1_usize..40,
            border in 0_usize..9,
            exact: bool,
            color: u8,
        ) {
            let edge = size + border;
            let fit = if exact { Fit::Exact(edge) } else { Fit::ShorterEdge(edge) };
            let preprocessor = ImagePreprocessor { size, fit, mean: vec![0.5], std: vec![1.0], ..default() };
            let scaled = preprocessor.scaled(&Pixels::filled(width, height, &[color]));
            for place in [Place::Middle, Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight] {
                let part = preprocessor.part(&scaled, place);
                prop_assert_eq!((part.width, part.height), (size, size));
                prop_assert!(part.data.iter().all(|&sample| sample == color));
            }
        }
    }

    #[test]
    fn at_another_size_the_margin_is_in_proportion() {
        let sizes = |preprocessor: ImagePreprocessor| (preprocessor.size, preprocessor.fit);
        assert_eq!(sizes(default().at_size(112)), (112, Fit::ShorterEdge(128)));
        let squashed = ImagePreprocessor { size: 224, fit: Fit::Exact(224), ..default() };
        assert_eq!(sizes(squashed.at_size(96)), (96, Fit::Exact(96)));
        assert_eq!(default().at_size(224), default());
    }

    #[test]
    fn the_corners_are_where_their_names_say() {
        let preprocessor =
            ImagePreprocessor { size: 2, fit: Fit::Exact(4), mean: vec![0.5], std: vec![1.0], ..default() };
        let scaled = Pixels { width: 4, height: 4, channels: 1, data: (0..16).collect() };
        let first = |place| preprocessor.part(&scaled, place).data[0];
        let places = [Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight, Place::Middle];
        assert_eq!(places.map(first), [0, 2, 8, 10, 5]);
    }

    fn default() -> ImagePreprocessor {
        ImagePreprocessor::default()
    }

    #[test]
    fn the_longer_side_follows_the_shorter_or_is_squashed() {
        // 500 × 375 becomes 341 × 256 (256 · 500 / 375 = 341.3), and the middle 224 begin at 58 (58.5 to even) and 16.
        let (edge, squashed) = (ImagePreprocessor::default(), Fit::Exact(224));
        let columns: Vec<u8> = (0..500).map(|x| (x / 2) as u8).collect();
        let data = (0..375).flat_map(|_| columns.iter().flat_map(|&value| [value; 3])).collect();
        let picture = Pixels { width: 500, height: 375, channels: 3, data };
        let fitted = edge.fitted(&picture);
        assert_eq!((fitted.width, fitted.height), (224, 224));
        // The first column is about column 58.5 of 341, which was 58.5 · 500 / 341 = 85.8 of 500: a sample of 42.
        assert!((41..=43).contains(&fitted.at(0, 0)[0]), "{:?}", fitted.at(0, 0));
        let squashed = ImagePreprocessor { fit: squashed, ..edge }.fitted(&picture);
        assert!(squashed.at(0, 0)[0] <= 1 && squashed.at(223, 0)[0] >= 248);
    }

    #[test]
    fn the_mean_becomes_zero_and_a_deviation_one() {
        let preprocessor = ImagePreprocessor {
            size: 1,
            fit: Fit::Exact(1),
            mean: vec![0.0, 0.2, 1.0],
            std: vec![1.0, 0.4, 0.5],
            ..ImagePreprocessor::default()
        };
        let mut out = [9.0; 3];
        preprocessor.normalize(&Pixels::filled(1, 1, &[255, 51, 0]), &mut out);
        assert!((out[0] - 1.0).abs() < 1e-6 && out[1].abs() < 1e-6 && (out[2] + 2.0).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn impossible_settings_are_named() {
        let default = ImagePreprocessor::default;
        let error = |preprocessor: ImagePreprocessor| preprocessor.check().unwrap_err().to_string();
        assert!(error(ImagePreprocessor { std: vec![1.0, 0.0, 1.0], ..default() }).contains("above 0"));
        assert!(error(ImagePreprocessor { mean: vec![1.0; 2], ..default() }).contains("2 channels"));
        let error = error(ImagePreprocessor { size: 300, ..default() });
        assert_eq!(error, "a middle of 300 pixels cannot be cut out of 256; both are from 1 to 8192");
    }
}
