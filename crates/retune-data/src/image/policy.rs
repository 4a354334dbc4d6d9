//! Policies of many operations: TrivialAugment (Müller and Hutter 2021) in its wide form and RandAugment (Cubuk et al.
//! 2019), which need no search, and what AutoAugment (Cubuk et al. 2018) found on ImageNet, with the operations and strengths
//! of torchvision's.

use serde::{Deserialize, Serialize};

use super::affine::{Affine, transform};
use super::augment::{Augmentation, Draws};
use super::color::{adjust_brightness, adjust_contrast, adjust_saturation, colored, map_samples};
use super::pixels::Pixels;

/// A policy of many operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// None.
    #[default]
    None,
    /// One operation of random strength.
    TrivialAugment,
    /// Several operations of one strength.
    RandAugment,
    /// One of 25 pairs of operations that were found on ImageNet.
    AutoAugment,
}

/// Steps of strength of the policies without a search.
const BINS: usize = 31;
/// Of the policy that was found.
const FOUND_BINS: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

const OPERATIONS: [Operation; 14] = [
    Operation::Identity,
    Operation::ShearX,
    Operation::ShearY,
    Operation::TranslateX,
    Operation::TranslateY,
    Operation::Rotate,
    Operation::Brightness,
    Operation::Color,
    Operation::Contrast,
    Operation::Sharpness,
    Operation::Posterize,
    Operation::Solarize,
    Operation::AutoContrast,
    Operation::Equalize,
];

/// What AutoAugment found on ImageNet (the table in the paper's appendix, as torchvision has it): two operations, the probability of each
/// and its step of strength.
const FOUND: [[(Operation, f64, usize); 2]; 25] = [
    [(Operation::Posterize, 0.4, 8), (Operation::Rotate, 0.6, 9)],
    [(Operation::Solarize, 0.6, 5), (Operation::AutoContrast, 0.6, 0)],
    [(Operation::Equalize, 0.8, 0), (Operation::Equalize, 0.6, 0)],
    [(Operation::Posterize, 0.6, 7), (Operation::Posterize, 0.6, 6)],
    [(Operation::Equalize, 0.4, 0), (Operation::Solarize, 0.2, 4)],
    [(Operation::Equalize, 0.4, 0), (Operation::Rotate, 0.8, 8)],
    [(Operation::Solarize, 0.6, 3), (Operation::Equalize, 0.6, 0)],
    [(Operation::Posterize, 0.8, 5), (Operation::Equalize, 1.0, 0)],
    [(Operation::Rotate, 0.2, 3), (Operation::Solarize, 0.6, 8)],
    [(Operation::Equalize, 0.6, 0), (Operation::Posterize, 0.4, 6)],
    [(Operation::Rotate, 0.8, 8), (Operation::Color, 0.4, 0)],
    [(Operation::Rotate, 0.4, 9), (Operation::Equalize, 0.6, 0)],
    [(Operation::Equalize, 0.0, 0), (Operation::Equalize, 0.8, 0)],
    [(Operation::Invert, 0.6, 0), (Operation::Equalize, 1.0, 0)],
    [(Operation::Color, 0.6, 4), (Operation::Contrast, 1.0, 8)],
    [(Operation::Rotate, 0.8, 8), (Operation::Color, 1.0, 2)],
    [(Operation::Color, 0.8, 8), (Operation::Solarize, 0.8, 7)],
    [(Operation::Sharpness, 0.4, 7), (Operation::Invert, 0.6, 0)],
    [(Operation::ShearX, 0.6, 5), (Operation::Equalize, 1.0, 0)],
    [(Operation::Color, 0.4, 0), (Operation::Equalize, 0.6, 0)],
    [(Operation::Equalize, 0.4, 0), (Operation::Solarize, 0.2, 4)],
    [(Operation::Solarize, 0.6, 5), (Operation::AutoContrast, 0.6, 0)],
    [(Operation::Invert, 0.6, 0), (Operation::Equalize, 1.0, 0)],
    [(Operation::Color, 0.6, 4), (Operation::Contrast, 1.0, 8)],
    [(Operation::Equalize, 0.8, 0), (Operation::Equalize, 0.6, 0)],
];

/// Greatest strengths of the operations of a policy.
struct Strengths {
    shear: f64,
    /// In pixels, across and down.
    translation: [f64; 2],
    /// In degrees.
    rotation: f64,
    enhancement: f64,
    /// Bits of a sample that the strongest posterization takes.
    bits: f64,
}

impl Strengths {
    /// Those over which AutoAugment searched, and RandAugment after it.
    fn of_search(pixels: &Pixels) -> Self {
        let translation = [pixels.width, pixels.height].map(|side| 150.0 / 331.0 * side as f64);
        Strengths { shear: 0.3, translation, rotation: 30.0, enhancement: 0.9, bits: 4.0 }
    }
}

pub(super) fn apply_policy(of: &Augmentation, pixels: Pixels, draws: &mut Draws, fill: &[u8]) -> Pixels {
    let strengths = match of.policy {
        Policy::None => return pixels,
        Policy::TrivialAugment => {
            Strengths { shear: 0.99, translation: [32.0; 2], rotation: 135.0, enhancement: 0.99, bits: 6.0 }
        }
        Policy::RandAugment | Policy::AutoAugment => Strengths::of_search(&pixels),
    };
    if of.policy == Policy::AutoAugment {
        return found(pixels, draws, &strengths, fill);
    }
    let count = if of.policy == Policy::RandAugment { of.num_ops } else { 1 };
    let mut pixels = pixels;
    for _ in 0..count {
        let operation = OPERATIONS[draws.below(OPERATIONS.len())];
        let bin = match of.policy {
            Policy::TrivialAugment => draws.below(BINS),
            _ => of.magnitude.min(BINS - 1),
        };
        let sign = if draws.chance(0.5) { -1.0 } else { 1.0 };
        pixels = apply(operation, pixels, share(bin, BINS), sign, &strengths, fill);
    }
    pixels
}

/// The share of the greatest strength that a step of strength stands for.
fn share(bin: usize, bins: usize) -> f64 {
    bin as f64 / (bins as f64 - 1.0)
}

/// One of the pairs that were found.
fn found(pixels: Pixels, draws: &mut Draws, strengths: &Strengths, fill: &[u8]) -> Pixels {
    let pair = FOUND[draws.below(FOUND.len())];
    pair.into_iter().fold(pixels, |pixels, (operation, probability, bin)| {
        // Both are always drawn, so that the second operation does not depend on the first.
        let (happens, sign) = (draws.chance(probability), if draws.unit() < 0.5 { -1.0 } else { 1.0 });
        if happens { apply(operation, pixels, share(bin, FOUND_BINS), sign, strengths, fill) } else { pixels }
    })
}

/// One operation at a share of its greatest strength.
fn apply(
    operation: Operation,
    mut pixels: Pixels,
    share: f64,
    sign: f64,
    most: &Strengths,
    fill: &[u8],
) -> Pixels {
    let factor = (1.0 + sign * share * most.enhancement) as f32;
    // torchvision moves by whole pixels and shears about the first corner.
    let [across, down] = most.translation.map(|most| (sign * share * most).trunc());
    let sheared = sign * share * most.shear;
    match operation {
        Operation::Identity => {}
        Operation::ShearX => {
            return transform(&pixels, &Affine::shear_x(sheared, pixels.height), fill);
        }
        Operation::ShearY => {
            return transform(&pixels, &Affine::shear_y(sheared, pixels.width), fill);
        }
        Operation::TranslateX => return transform(&pixels, &Affine::translation(across, 0.0), fill),
        Operation::TranslateY => return transform(&pixels, &Affine::translation(0.0, down), fill),
        Operation::Rotate => {
            let angle = (sign * share * most.rotation).to_radians();
            return transform(&pixels, &Affine::rotation(angle), fill);
        }
        Operation::Brightness => adjust_brightness(&mut pixels, factor),
        Operation::Color => adjust_saturation(&mut pixels, factor),
        Operation::Contrast => adjust_contrast(&mut pixels, factor),
        Operation::Sharpness => return sharpen(&pixels, factor),
        Operation::Posterize => {
            let kept = 8 - (share * most.bits).round() as u32;
            let mask = 0xFF_u8 << (8 - kept);
            map_samples(&mut pixels, &std::array::from_fn(|sample| sample as u8 & mask));
        }
        Operation::Solarize => {
            let threshold = 255.0 * (1.0 - share);
            let inverted = |sample: usize| if sample as f64 >= threshold { 255 - sample } else { sample };
            map_samples(&mut pixels, &std::array::from_fn(|sample| inverted(sample) as u8));
        }
        Operation::Invert => map_samples(&mut pixels, &std::array::from_fn(|sample| 255 - sample as u8)),
        Operation::AutoContrast => per_channel(&mut pixels, stretched),
        Operation::Equalize => per_channel(&mut pixels, equalized),
    }
    pixels
}

/// Changes each channel by a table made of its histogram.
fn per_channel(pixels: &mut Pixels, table: fn(&[u32; 256]) -> [u8; 256]) {
    for channel in 0..colored(pixels.channels) {
        let mut histogram = [0_u32; 256];
        let step = pixels.channels;
        for &sample in pixels.data.iter().skip(channel).step_by(step) {
            histogram[usize::from(sample)] += 1;
        }
        let table = table(&histogram);
        for sample in pixels.data.iter_mut().skip(channel).step_by(step) {
            *sample = table[usize::from(*sample)];
        }
    }
}

/// Pillow's `autocontrast`: the darkest sample becomes 0, the brightest 255.
fn stretched(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|sample| sample as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|sample| (sample as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

/// Pillow's `equalize`: all levels become equally frequent.
fn equalized(histogram: &[u32; 256]) -> [u8; 256] {
    let total: u32 = histogram.iter().sum();
    let last = histogram.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
    let step = (total - last) / 255;
    if step == 0 {
        return std::array::from_fn(|sample| sample as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|sample| {
        let level = (sum / step).min(255) as u8;
        sum += histogram[sample];
        level
    })
}

/// Pillow's `Sharpness`: from a smoothed picture towards the picture, beyond it if the factor is above 1. The border
/// stays.
fn sharpen(pixels: &Pixels, factor: f32) -> Pixels {
    let mut sharp = pixels.clone();
    let (width, height, channels) = (pixels.width, pixels.height, pixels.channels);
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            for channel in 0..colored(channels) {
                let at = |x: usize, y: usize| u32::from(pixels.at(x, y)[channel]);
                let around: u32 = (y - 1..=y + 1)
                    .flat_map(|y| (x - 1..=x + 1).map(move |x| (x, y)))
                    .map(|(x, y)| at(x, y))
                    .sum();
                // Weights of 1 around 5, divided by their sum.
                let smooth = ((around + 4 * at(x, y)) as f32 / 13.0).round();
                let value = smooth + factor * (at(x, y) as f32 - smooth);
                sharp.data[(y * width + x) * channels + channel] = value.clamp(0.0, 255.0) as u8;
            }
        }
    }
    sharp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_reaches_both_ends() {
        let mut pixels = Pixels { width: 3, height: 1, channels: 1, data: vec![50, 100, 150] };
        per_channel(&mut pixels, stretched);
        assert_eq!(pixels.data, [0, 127, 255]);
    }

    #[test]
    fn equalizing_spreads_levels_evenly() {
        // 510 pixels of two levels: step (510 − 255) / 255 = 1, so that the second level is 255 above the first.
        let data = [vec![10; 255], vec![11; 255]].concat();
        let mut pixels = Pixels { width: 510, height: 1, channels: 1, data };
        per_channel(&mut pixels, equalized);
        assert_eq!((pixels.data[0], pixels.data[509]), (0, 255));
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        picture: String,
        policies: Vec<[(String, f64, Option<usize>); 2]>,
        operations: Vec<Done>,
    }

    #[derive(serde::Deserialize)]
    struct Done {
        name: String,
        level: usize,
        sign: f64,
        pixels: String,
    }

    fn golden() -> Golden {
        let text = include_str!("../../../../fixtures/images/auto_augment.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_policy_that_was_found_is_torchvisions() {
        let ours = FOUND.map(|pair| pair.map(|(what, often, bin)| (format!("{what:?}"), often, bin)));
        let theirs: Vec<[(String, f64, usize); 2]> = golden()
            .policies
            .into_iter()
            .map(|pair| pair.map(|(what, often, bin)| (what, often, bin.unwrap_or(0))))
            .collect();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn operations_do_what_torchvisions_do() {
        let bytes = |hex: &str| -> Vec<u8> {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(byte).collect()
        };
        let Golden { picture, operations, .. } = golden();
        let picture = Pixels { width: 13, height: 11, channels: 3, data: bytes(&picture) };
        let every = [&OPERATIONS[..], &[Operation::Invert]].concat();
        for Done { name, level, sign, pixels } in operations {
            let operation = *every.iter().find(|operation| format!("{operation:?}") == name).unwrap();
            let most = Strengths::of_search(&picture);
            let ours = apply(operation, picture.clone(), share(level, FOUND_BINS), sign, &most, &[0; 3]);
            let theirs = bytes(&pixels);
            let off = ours.data.iter().zip(&theirs).filter(|(a, b)| a.abs_diff(**b) > 1).count();
            // At the border of what was moved Pillow repeats the last pixel where we go over into the fill.
            let moves = name.starts_with("Shear") || name == "Rotate";
            let allowed = if moves { theirs.len() / 4 } else { 0 };
            assert!(off <= allowed, "{name} {level} {sign}: {off} of {}", theirs.len());
        }
    }

    #[test]
    fn no_strength_leaves_the_picture() {
        let data = (0..8 * 8 * 3).map(|index| (index * 5 % 256) as u8).collect();
        let picture = Pixels { width: 8, height: 8, channels: 3, data };
        let most =
            Strengths { shear: 0.3, translation: [9.0; 2], rotation: 30.0, enhancement: 0.9, bits: 4.0 };
        for operation in OPERATIONS {
            if matches!(operation, Operation::AutoContrast | Operation::Equalize | Operation::Solarize) {
                continue;
            }
            let same = apply(operation, picture.clone(), 0.0, 1.0, &most, &[0; 3]);
            assert_eq!(same, picture, "{operation:?}");
        }
    }
}
