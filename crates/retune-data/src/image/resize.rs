//! Resizing equal to Pillow's `Image.resize`, which torchvision's antialiased `Resize` calls, to the bit.
//!
//! After Pillow's `Resample.c`: a filter as wide as the pixels it replaces, columns first, then rows, weights in 22-bit
//! fixed point, and 8-bit pixels between the two passes.

use serde::{Deserialize, Serialize};

use super::pixels::Pixels;

/// Bits behind the point of a weight: 8-bit samples times weights, with sign and overshoot, must fit 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// How pixels between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle over two pixels.
    #[default]
    Bilinear,
    /// Keys's cubic with a = −½ over four pixels.
    Bicubic,
    /// A windowed sinc over six pixels.
    Lanczos,
}

impl Interpolation {
    /// Pixels of the source on either side that a filter of its natural width reaches.
    fn support(self) -> f64 {
        match self {
            Interpolation::Nearest => 0.5,
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
            Interpolation::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Interpolation::Nearest => f64::from(x > -0.5 && x <= 0.5),
            Interpolation::Bilinear => (1.0 - distance).max(0.0),
            Interpolation::Bicubic => {
                const A: f64 = -0.5;
                if distance < 1.0 {
                    ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
                } else if distance < 2.0 {
                    (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
                } else {
                    0.0
                }
            }
            Interpolation::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Interpolation::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// The part of a picture that is resized, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Region {
    /// All of a picture.
    pub fn whole(pixels: &Pixels) -> Self {
        Region { left: 0, top: 0, width: pixels.width, height: pixels.height }
    }
}

/// The source pixels of every target pixel along one axis, with their weights.
struct Taps {
    /// First source pixel and number of weights of each target pixel.
    spans: Vec<(usize, usize)>,
    /// `stride` weights for each target pixel.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    fn new(interpolation: Interpolation, source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        let filter_scale = scale.max(1.0);
        let support = interpolation.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(target);
        let mut weights = vec![0_i32; target * stride];
        let mut exact = vec![0.0_f64; stride];
        for index in 0..target {
            let center = (index as f64 + 0.5) * scale;
            // Pillow casts to int, which cuts towards zero.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(source);
            let count = end - first;
            let mut sum = 0.0;
            for (offset, weight) in exact[..count].iter_mut().enumerate() {
                *weight =
                    interpolation.weight(((offset + first) as f64 - center + 0.5) * (1.0 / filter_scale));
                sum += *weight;
            }
            for (weight, fixed) in exact[..count].iter().zip(&mut weights[index * stride..]) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1_u32 << PRECISION_BITS);
                *fixed = (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            spans.push((first, count));
        }
        Taps { spans, weights, stride }
    }

    /// First source pixel and weights of each target pixel.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.spans.iter().zip(weights).map(|(&(first, count), weights)| (first, &weights[..count]))
    }
}

const ROUND: i32 = 1 << (PRECISION_BITS - 1);

fn to_sample(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes a region of a picture to `width` × `height`, as Pillow's `crop` and then `resize` do.
///
/// # Panics
/// If the region is empty or does not lie in the picture, or the size is 0.
pub fn resize(
    pixels: &Pixels,
    region: Region,
    width: usize,
    height: usize,
    interpolation: Interpolation,
) -> Pixels {
    assert!(width > 0 && height > 0 && region.width > 0 && region.height > 0, "no pixels to resize");
    assert!(
        region.left + region.width <= pixels.width && region.top + region.height <= pixels.height,
        "the region lies in the picture"
    );
    if interpolation == Interpolation::Nearest {
        return nearest(pixels, region, width, height);
    }
    let narrowed = if region.width == width {
        pixels.cropped(region.left, region.top, region.width, region.height)
    } else {
        match pixels.channels {
            1 => columns::<1>(pixels, region, width, interpolation),
            4 => columns::<4>(pixels, region, width, interpolation),
            _ => columns::<3>(pixels, region, width, interpolation),
        }
    };
    if region.height == height { narrowed } else { rows(&narrowed, height, interpolation) }
}

/// Pillow's nearest neighbour: the pixel under the centre of the new one.
fn nearest(pixels: &Pixels, region: Region, width: usize, height: usize) -> Pixels {
    let place = |index: usize, target: usize, source: usize| {
        (((index as f64 + 0.5) * source as f64 / target as f64) as usize).min(source - 1)
    };
    let from: Vec<usize> = (0..width).map(|x| region.left + place(x, width, region.width)).collect();
    let mut data = Vec::with_capacity(width * height * pixels.channels);
    for y in 0..height {
        let y = region.top + place(y, height, region.height);
        from.iter().for_each(|&x| data.extend_from_slice(pixels.at(x, y)));
    }
    Pixels { width, height, channels: pixels.channels, data }
}

/// Every row of a region with another number of columns.
fn columns<const CHANNELS: usize>(
    pixels: &Pixels,
    region: Region,
    width: usize,
    interpolation: Interpolation,
) -> Pixels {
    let taps = Taps::new(interpolation, region.width, width);
    let stride = width * CHANNELS;
    let mut data = vec![0; stride * region.height];
    for (row, target) in data.chunks_exact_mut(stride).enumerate() {
        let source = &pixels.row(region.top + row)[region.left * CHANNELS..];
        for ((first, weights), target) in taps.iter().zip(target.chunks_exact_mut(CHANNELS)) {
            let mut sums = [ROUND; CHANNELS];
            let pixels = source[first * CHANNELS..(first + weights.len()) * CHANNELS].chunks_exact(CHANNELS);
            for (pixel, &weight) in pixels.zip(weights) {
                for (sum, &sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(sample) * weight;
                }
            }
            for (target, sum) in target.iter_mut().zip(sums) {
                *target = to_sample(sum);
            }
        }
    }
    Pixels { width, height: region.height, channels: CHANNELS, data }
}

/// Another number of rows: whole rows are added up, weight by weight, which the compiler makes wide.
fn rows(pixels: &Pixels, height: usize, interpolation: Interpolation) -> Pixels {
    let taps = Taps::new(interpolation, pixels.height, height);
    let stride = pixels.width * pixels.channels;
    let mut data = vec![0; stride * height];
    let mut sums = vec![ROUND; stride];
    for ((first, weights), target) in taps.iter().zip(data.chunks_exact_mut(stride)) {
        sums.fill(ROUND);
        for (row, &weight) in (first..).zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(pixels.row(row)) {
                *sum += i32::from(sample) * weight;
            }
        }
        for (target, &sum) in target.iter_mut().zip(&sums) {
            *target = to_sample(sum);
        }
    }
    Pixels { width: pixels.width, height, channels: pixels.channels, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_picture_stays_plain() {
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos] {
            let plain = Pixels::filled(31, 17, &[9, 200, 255]);
            let resized = resize(&plain, Region::whole(&plain), 12, 40, interpolation);
            assert_eq!(resized, Pixels::filled(12, 40, &[9, 200, 255]), "{interpolation:?}");
        }
    }

    #[test]
    fn halving_with_a_triangle_weighs_one_three_three_one() {
        let row = Pixels { width: 8, height: 1, channels: 1, data: vec![0, 8, 16, 24, 32, 40, 48, 56] };
        let halved = resize(&row, Region::whole(&row), 4, 1, Interpolation::Bilinear);
        // Inside: (1·8 + 3·16 + 3·24 + 1·32) / 8 = 20. At the border: (3·0 + 3·8 + 1·16) / 7 = 5.71.
        assert_eq!(halved.data, [6, 20, 36, 50]);
    }

    #[test]
    fn a_region_is_resized_as_if_it_were_cut_out_first() {
        let data = (0..20 * 16 * 3).map(|value| (value * 7 % 251) as u8).collect();
        let picture = Pixels { width: 20, height: 16, channels: 3, data };
        let region = Region { left: 3, top: 2, width: 11, height: 9 };
        let cut = picture.cropped(3, 2, 11, 9);
        for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            assert_eq!(
                resize(&picture, region, 7, 13, interpolation),
                resize(&cut, Region::whole(&cut), 7, 13, interpolation)
            );
        }
    }
}
