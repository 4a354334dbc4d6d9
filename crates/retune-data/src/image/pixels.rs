//! A decoded picture: 8-bit samples, channels interleaved.

use ::image::ImageEncoder;

use super::resize::{Interpolation, Region, resize};

/// Pixels of 1 (grey), 3 (RGB) or 4 (RGBA) channels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Samples of a pixel.
    pub channels: usize,
    /// [height, width, channels].
    pub data: Vec<u8>,
}

impl Pixels {
    /// Pixels of one colour.
    pub fn filled(width: usize, height: usize, color: &[u8]) -> Self {
        let data = color.iter().copied().cycle().take(width * height * color.len()).collect();
        Self { width, height, channels: color.len(), data }
    }

    /// The samples of a pixel.
    pub fn at(&self, x: usize, y: usize) -> &[u8] {
        let start = (y * self.width + x) * self.channels;
        &self.data[start..start + self.channels]
    }

    /// One row of samples.
    pub fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * self.channels;
        &self.data[y * stride..(y + 1) * stride]
    }

    /// The same picture with another number of channels: grey by ITU-R 601 luma in Pillow's fixed-point form, colour
    /// from grey by repeating it, an alpha channel dropped or added opaque.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        if channels == self.channels {
            return self;
        }
        let pixels = self.data.chunks_exact(self.channels);
        let data = match (self.channels, channels) {
            (1, 3) => pixels.flat_map(|p| [p[0], p[0], p[0]]).collect(),
            (1, 4) => pixels.flat_map(|p| [p[0], p[0], p[0], 255]).collect(),
            (3, 4) => pixels.flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
            (4, 3) => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
            (_, _) => pixels.map(luma).collect(),
        };
        Self { channels, data, ..self }
    }

    /// A part of the picture; it must lie inside.
    #[must_use]
    pub fn cropped(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let mut data = Vec::with_capacity(width * height * self.channels);
        for y in top..top + height {
            data.extend_from_slice(&self.row(y)[left * self.channels..(left + width) * self.channels]);
        }
        Self { width, height, channels: self.channels, data }
    }

    /// The picture with a border of one colour on every side.
    #[must_use]
    pub fn padded(&self, border: usize, color: &[u8]) -> Self {
        let mut padded = Self::filled(self.width + 2 * border, self.height + 2 * border, color);
        let stride = padded.width * self.channels;
        for y in 0..self.height {
            let start = (y + border) * stride + border * self.channels;
            padded.data[start..start + self.width * self.channels].copy_from_slice(self.row(y));
        }
        padded
    }

    /// Left and right swapped.
    pub fn flip_horizontally(&mut self) {
        let (stride, channels) = (self.width * self.channels, self.channels);
        for row in self.data.chunks_exact_mut(stride.max(1)) {
            let (mut left, mut right) = (0, self.width.saturating_sub(1));
            while left < right {
                for channel in 0..channels {
                    row.swap(left * channels + channel, right * channels + channel);
                }
                (left, right) = (left + 1, right - 1);
            }
        }
    }

    /// Top and bottom swapped.
    pub fn flip_vertically(&mut self) {
        let stride = self.width * self.channels;
        let (mut top, mut bottom) = (0, self.height.saturating_sub(1));
        while top < bottom {
            let (above, below) = self.data.split_at_mut(bottom * stride);
            above[top * stride..(top + 1) * stride].swap_with_slice(&mut below[..stride]);
            (top, bottom) = (top + 1, bottom - 1);
        }
    }
}

/// Bytes of a JPEG file with the picture scaled down to at most `longest` pixels a side, or as it is if it is smaller.
pub fn thumbnail(pixels: &Pixels, longest: usize) -> Option<Vec<u8>> {
    let scale = (longest as f64 / pixels.width.max(pixels.height) as f64).min(1.0);
    let side = |length: usize| ((length as f64 * scale).round() as usize).max(1);
    let (width, height) = (side(pixels.width), side(pixels.height));
    let small =
        resize(pixels, Region::whole(pixels), width, height, Interpolation::Bilinear).with_channels(3);
    let mut bytes = Vec::new();
    let encoder = ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85);
    let written =
        encoder.write_image(&small.data, width as u32, height as u32, ::image::ExtendedColorType::Rgb8);
    written.is_ok().then_some(bytes)
}

/// Pillow's conversion to grey: `L = (R·19595 + G·38470 + B·7471 + 2¹⁵) >> 16`.
pub(super) fn luma(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue, ..] => {
            let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000;
            (sum >> 16) as u8
        }
        _ => pixel[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(width: usize, height: usize, channels: usize) -> Pixels {
        let data = (0..width * height * channels).map(|value| value as u8).collect();
        Pixels { width, height, channels, data }
    }

    #[test]
    fn grey_is_pillows() {
        // Pillow: Image.new("RGB", (1, 1), (200, 100, 50)).convert("L") is 124.
        let grey = Pixels::filled(1, 1, &[200, 100, 50]).with_channels(1);
        assert_eq!(grey.data, [124]);
        assert_eq!(grey.with_channels(3).data, [124, 124, 124]);
    }

    #[test]
    fn flipping_twice_gives_the_picture_back() {
        for (width, height, channels) in [(5, 4, 3), (4, 5, 1), (1, 1, 4)] {
            let picture = counting(width, height, channels);
            let mut flipped = picture.clone();
            flipped.flip_horizontally();
            assert_eq!(flipped.at(0, 0), picture.at(width - 1, 0));
            flipped.flip_horizontally();
            flipped.flip_vertically();
            assert_eq!(flipped.at(0, 0), picture.at(0, height - 1));
            flipped.flip_vertically();
            assert_eq!(flipped, picture);
        }
    }

    #[test]
    fn what_is_cropped_from_the_middle_of_a_padded_picture_is_the_picture() {
        let picture = counting(3, 2, 3);
        let padded = picture.padded(2, &[7, 8, 9]);
        assert_eq!((padded.width, padded.height, padded.at(0, 0)), (7, 6, &[7, 8, 9][..]));
        assert_eq!(padded.cropped(2, 2, 3, 2), picture);
    }
}
