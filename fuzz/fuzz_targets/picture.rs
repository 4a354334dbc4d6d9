//! `cargo +nightly fuzz run picture fuzz/corpus/picture`
//! Any bytes as a picture file, then scaled, augmented and normalized: a picture that has the pixels it says, or a problem.

#![no_main]

use libfuzzer_sys::fuzz_target;
use retune_data::image::{Augmentation, Crop, Fit, ImagePreprocessor, Policy, ViewKey, decode, thumbnail};

const MAX_PIXELS: u64 = 1 << 14;
const POLICIES: [Policy; 4] = [Policy::None, Policy::TrivialAugment, Policy::RandAugment, Policy::AutoAugment];
const CROPS: [Crop; 3] = [Crop::RandomResized, Crop::RandomPad, Crop::Center];

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let Ok(pixels) = decode(bytes, MAX_PIXELS) else { return };
    assert!(pixels.width > 0 && pixels.height > 0 && pixels.width * pixels.height <= MAX_PIXELS as usize);
    assert_eq!(pixels.data.len(), pixels.width * pixels.height * pixels.channels);
    assert!(thumbnail(&pixels, 32).is_some());
    let channels = [1, 3, 4][usize::from(first) % 3];
    let preprocessor = ImagePreprocessor {
        size: 16,
        fit: if first & 0x80 == 0 { Fit::ShorterEdge(20) } else { Fit::Exact(16) },
        mean: vec![0.5; channels],
        std: vec![0.2; channels],
        ..ImagePreprocessor::default()
    };
    let pixels = pixels.with_channels(channels);
    let augmentation = Augmentation {
        crop: CROPS[usize::from(first / 3) % CROPS.len()],
        policy: POLICIES[usize::from(first / 9) % POLICIES.len()],
        rotation: 20.0,
        hue: 0.2,
        random_erasing: 0.5,
        ..Augmentation::default()
    };
    let key = ViewKey { seed: u64::from(first), step: bytes.len() as u64, occurrence: 1 };
    let mut input = vec![f32::NAN; preprocessor.elements()];
    for view in [preprocessor.fitted(&pixels), augmentation.view(&pixels, &preprocessor, key)] {
        preprocessor.normalize(&view, &mut input);
        assert!(input.iter().all(|value| value.is_finite()));
    }
});
