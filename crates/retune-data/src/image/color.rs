//! Brightness, contrast, saturation and hue, as Pillow's `ImageEnhance` and torchvision define them.

use super::pixels::{Pixels, luma};

/// Pillow's `blend`: from another value towards the sample, beyond it if the factor is above 1.
fn blend(other: f32, sample: u8, factor: f32) -> u8 {
    (other + factor * (f32::from(sample) - other)).clamp(0.0, 255.0) as u8
}

/// Channels that hold colour or grey: all but alpha.
pub(super) fn colored(channels: usize) -> usize {
    channels.min(3)
}

/// Changes every sample but alpha by a table.
pub(super) fn map_samples(pixels: &mut Pixels, table: &[u8; 256]) {
    let (channels, colored) = (pixels.channels, colored(pixels.channels));
    for pixel in pixels.data.chunks_exact_mut(channels) {
        pixel[..colored].iter_mut().for_each(|sample| *sample = table[usize::from(*sample)]);
    }
}

/// Towards black, or away from it.
pub(super) fn adjust_brightness(pixels: &mut Pixels, factor: f32) {
    map_samples(pixels, &std::array::from_fn(|sample| blend(0.0, sample as u8, factor)));
}

/// Towards the mean of the luma, or away from it.
pub(super) fn adjust_contrast(pixels: &mut Pixels, factor: f32) {
    let count = (pixels.width * pixels.height).max(1) as f64;
    let sum: u64 = pixels.data.chunks_exact(pixels.channels).map(|pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / count + 0.5).floor() as f32;
    map_samples(pixels, &std::array::from_fn(|sample| blend(mean, sample as u8, factor)));
}

/// Towards grey, or away from it; a grey picture stays.
pub(super) fn adjust_saturation(pixels: &mut Pixels, factor: f32) {
    if pixels.channels < 3 {
        return;
    }
    for pixel in pixels.data.chunks_exact_mut(pixels.channels) {
        let grey = f32::from(luma(pixel));
        pixel[..3].iter_mut().for_each(|sample| *sample = blend(grey, *sample, factor));
    }
}

/// Turns the hue by a share of the colour circle; a grey picture stays.
pub(super) fn shift_hue(pixels: &mut Pixels, by: f64) {
    if pixels.channels < 3 {
        return;
    }
    let by = by as f32;
    for pixel in pixels.data.chunks_exact_mut(pixels.channels) {
        let [red, green, blue] = [0, 1, 2].map(|channel| f32::from(pixel[channel]));
        let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
        let range = most - least;
        if range == 0.0 {
            continue;
        }
        let sixth = if most == red {
            (green - blue) / range
        } else if most == green {
            2.0 + (blue - red) / range
        } else {
            4.0 + (red - green) / range
        };
        let hue = (sixth / 6.0 + by).rem_euclid(1.0) * 6.0;
        // The samples of a hue: each channel is a trapezoid over the circle.
        let channel = |shift: f32| {
            let place = (shift + hue) % 6.0;
            most - range * place.min(4.0 - place).clamp(0.0, 1.0)
        };
        for (sample, value) in pixel.iter_mut().zip([channel(5.0), channel(3.0), channel(1.0)]) {
            *sample = value.round().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_of_one_changes_nothing_and_of_zero_takes_all() {
        let picture = Pixels { width: 2, height: 1, channels: 3, data: vec![200, 100, 50, 10, 20, 30] };
        for adjust in [adjust_brightness, adjust_contrast, adjust_saturation] {
            let mut same = picture.clone();
            adjust(&mut same, 1.0);
            assert_eq!(same, picture);
        }
        let mut black = picture.clone();
        adjust_brightness(&mut black, 0.0);
        assert_eq!(black.data, [0; 6]);
        // The luma of the two pixels is 124 and 18, their mean 71.
        let mut plain = picture.clone();
        adjust_contrast(&mut plain, 0.0);
        assert_eq!(plain.data, [71; 6]);
        let mut grey = picture;
        adjust_saturation(&mut grey, 0.0);
        assert_eq!(grey.data, [124, 124, 124, 18, 18, 18]);
    }

    #[test]
    fn a_third_of_the_circle_turns_red_to_green() {
        let mut picture = Pixels { width: 2, height: 1, channels: 3, data: vec![255, 0, 0, 9, 9, 9] };
        shift_hue(&mut picture, 1.0 / 3.0);
        assert_eq!(picture.data, [0, 255, 0, 9, 9, 9]);
        let mut whole = Pixels { width: 1, height: 1, channels: 3, data: vec![200, 120, 40] };
        shift_hue(&mut whole, 1.0);
        assert_eq!(whole.data, [200, 120, 40]);
    }
}
