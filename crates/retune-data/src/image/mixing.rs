//! Training pictures mixed in pairs: MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019), drawn as timm and
//! torchvision do. Two pictures that stand side by side in a step's effective batch (occurrences 2k and 2k + 1) take from
//! each other what they give, so that nothing depends on how the batch was cut, and their targets weigh as before.

use serde::{Deserialize, Serialize};

use super::augment::{Draws, ViewKey};
use super::resize::Region;

/// How training pictures are mixed. The default mixes none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mixing {
    /// MixUp's α: both pictures everywhere, in shares drawn from Beta(α, α). 0 turns it off.
    pub mixup_alpha: f64,
    /// CutMix's α: a rectangle of one picture in the other. 0 turns it off.
    pub cutmix_alpha: f64,
    /// Probability that a pair is mixed at all.
    pub probability: f64,
    /// Probability of CutMix for a pair that is mixed, where both are on.
    pub switch_probability: f64,
}

impl Default for Mixing {
    fn default() -> Self {
        Mixing { mixup_alpha: 0.0, cutmix_alpha: 0.0, probability: 1.0, switch_probability: 0.5 }
    }
}

/// What the two pictures of a pair take from each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairMix {
    /// Each keeps this share of itself everywhere and takes the rest from the other.
    Blend {
        /// From 0 to 1.
        share: f64,
    },
    /// The rectangle of each is the other's.
    Exchange {
        /// In the inputs' pixels; it may be empty.
        region: Region,
        /// The share of the area that lies outside of it.
        share: f64,
    },
}

impl PairMix {
    /// The share of a picture that stays its own, and with it the weight of its own target; the other's has the rest.
    pub fn share(&self) -> f64 {
        match *self {
            Self::Blend { share } | Self::Exchange { share, .. } => share,
        }
    }

    /// Mixes two inputs, [size, size, channels] each.
    ///
    /// # Panics
    /// If they do not have that size.
    pub fn apply(&self, first: &mut [f32], second: &mut [f32], size: usize) {
        assert!(
            first.len() == second.len() && first.len().is_multiple_of(size * size),
            "two inputs of one size"
        );
        match *self {
            Self::Blend { share } => {
                let (share, rest) = (share as f32, (1.0 - share) as f32);
                for (a, b) in first.iter_mut().zip(second) {
                    (*a, *b) = (share * *a + rest * *b, share * *b + rest * *a);
                }
            }
            Self::Exchange { region, .. } => {
                let channels = first.len() / (size * size);
                for y in region.top..region.top + region.height {
                    let start = (y * size + region.left) * channels;
                    let row = start..start + region.width * channels;
                    first[row.clone()].swap_with_slice(&mut second[row]);
                }
            }
        }
    }
}

impl Mixing {
    /// Whether any picture is mixed.
    pub fn is_on(&self) -> bool {
        self.probability > 0.0 && (self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0)
    }

    /// The places of a batch's pairs, if it begins at an occurrence of the step: (2k, 2k + 1). A picture without a partner
    /// in the batch is in none.
    pub fn pairs(first_occurrence: u32, samples: usize) -> impl Iterator<Item = (u32, [usize; 2])> {
        let odd = first_occurrence as usize % 2;
        (odd..samples.saturating_sub(1))
            .step_by(2)
            .map(move |place| (first_occurrence + place as u32, [place, place + 1]))
    }

    /// What the pair whose first picture is the key's occurrence does, for inputs of this height and width; `None` where
    /// it stays as it is.
    pub fn of_pair(&self, key: ViewKey, size: usize) -> Option<PairMix> {
        if !self.is_on() || !Draws::new(key, "mixing").chance(self.probability) {
            return None;
        }
        let cuts = self.cutmix_alpha > 0.0
            && (self.mixup_alpha <= 0.0 || Draws::new(key, "mixing.switch").chance(self.switch_probability));
        if !cuts {
            let share = beta(&mut Draws::new(key, "mixup"), self.mixup_alpha);
            return Some(PairMix::Blend { share });
        }
        let mut draws = Draws::new(key, "cutmix");
        let kept = beta(&mut draws, self.cutmix_alpha);
        // torchvision's box: half its side is rounded down, its middle is anywhere, and what lies outside is cut off.
        let half = ((1.0 - kept).max(0.0).sqrt() * 0.5 * size as f64) as usize;
        let (x, y) = (draws.below(size), draws.below(size));
        let (left, top) = (x.saturating_sub(half), y.saturating_sub(half));
        let (right, bottom) = ((x + half).min(size), (y + half).min(size));
        let region = Region { left, top, width: right - left, height: bottom - top };
        let share = 1.0 - (region.width * region.height) as f64 / (size * size) as f64;
        Some(PairMix::Exchange { region, share })
    }
}

/// A number from Beta(α, α): the share of one of two numbers from Gamma(α).
fn beta(draws: &mut Draws, alpha: f64) -> f64 {
    let (a, b) = (gamma(draws, alpha), gamma(draws, alpha));
    // Both are 0 where α is tiny: then one of the two has everything, each as often.
    if a + b > 0.0 { a / (a + b) } else { f64::from(draws.chance(0.5)) }
}

/// A number from Gamma(α, 1), by the method of Marsaglia and Tsang (2000).
fn gamma(draws: &mut Draws, alpha: f64) -> f64 {
    // Below 1: Gamma(α) = Gamma(α + 1) · U^(1/α).
    let boost = if alpha < 1.0 { positive(draws).powf(1.0 / alpha) } else { 1.0 };
    let d = if alpha < 1.0 { alpha + 1.0 } else { alpha } - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(draws);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && positive(draws).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v * boost;
        }
    }
}

/// A number from the normal distribution, by the method of Box and Muller (1958).
fn normal(draws: &mut Draws) -> f64 {
    let radius = (-2.0 * positive(draws).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.unit()).cos()
}

/// From 0 to 1, without 0.
fn positive(draws: &mut Draws) -> f64 {
    1.0 - draws.unit()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 20;

    fn key(step: u64) -> ViewKey {
        ViewKey { seed: 3, step, occurrence: 4 }
    }

    fn drawn(mixing: Mixing) -> Vec<PairMix> {
        (0..4000).filter_map(|step| mixing.of_pair(key(step), SIZE)).collect()
    }

    #[test]
    fn shares_have_the_mean_and_the_variance_of_their_beta_distribution() {
        for alpha in [0.2, 1.0, 3.0] {
            let shares: Vec<f64> =
                (0..4000).map(|step| beta(&mut Draws::new(key(step), "mixup"), alpha)).collect();
            let count = shares.len() as f64;
            let mean = shares.iter().sum::<f64>() / count;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count;
            // Of Beta(α, α): 1/2 and 1 / (4 · (2α + 1)). Five standard errors of the mean; a tenth of the variance.
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 5.0 * (expected / count).sqrt(), "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: {variance} for {expected}");
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        }
    }

    #[test]
    fn the_smallest_alpha_gives_a_picture_all_or_nothing() {
        let mixing = Mixing { mixup_alpha: 1e-9, ..Mixing::default() };
        let shares: Vec<f64> = drawn(mixing).iter().map(PairMix::share).collect();
        assert!(shares.iter().all(|&share| share.min(1.0 - share) < 1e-6));
        let whole = shares.iter().filter(|&&share| share > 0.5).count();
        // Four standard deviations of 4000 throws of a fair coin are 126.
        assert!((1874..=2126).contains(&whole), "{whole}");
    }

    #[test]
    fn a_rectangle_lies_inside_and_its_area_is_what_the_target_gives_away() {
        let mixing = Mixing { cutmix_alpha: 1.0, ..Mixing::default() };
        for mix in drawn(mixing) {
            let PairMix::Exchange { region, share } = mix else { panic!("{mix:?}") };
            assert!(region.left + region.width <= SIZE && region.top + region.height <= SIZE);
            let (mut first, mut second) = (vec![0.0; SIZE * SIZE * 3], vec![1.0; SIZE * SIZE * 3]);
            mix.apply(&mut first, &mut second, SIZE);
            let taken = first.iter().sum::<f32>() / first.len() as f32;
            let kept = second.iter().sum::<f32>() / second.len() as f32;
            assert!((f64::from(taken) - (1.0 - share)).abs() < 1e-6, "{mix:?}");
            assert!((f64::from(kept) - share).abs() < 1e-6, "{mix:?}");
        }
    }

    #[test]
    fn blended_pictures_add_up_to_what_they_were() {
        let (mut first, mut second) = (vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 4.0, 3.0, 2.0]);
        PairMix::Blend { share: 0.75 }.apply(&mut first, &mut second, 2);
        assert_eq!(first, [2.0, 2.5, 3.0, 3.5]);
        assert_eq!(second, [4.0, 3.5, 3.0, 2.5]);
    }

    #[test]
    fn both_come_as_often_as_the_probabilities_say() {
        let both = Mixing { mixup_alpha: 0.2, cutmix_alpha: 1.0, probability: 0.8, switch_probability: 0.25 };
        let mixes = drawn(both);
        let cut = mixes.iter().filter(|mix| matches!(mix, PairMix::Exchange { .. })).count();
        // 0.8 · 4000 = 3200 (four standard deviations: 101), and 0.25 · 3200 = 800 (98).
        assert!((3099..=3301).contains(&mixes.len()), "{}", mixes.len());
        assert!((700..=900).contains(&cut), "{cut}");
        assert!(drawn(Mixing::default()).is_empty());
    }

    #[test]
    fn pairs_are_the_same_however_the_batch_is_cut() {
        let places = |cuts: &[u32]| -> Vec<u32> {
            cuts.windows(2)
                .flat_map(|cut| Mixing::pairs(cut[0], (cut[1] - cut[0]) as usize).collect::<Vec<_>>())
                .map(|(occurrence, _)| occurrence)
                .collect()
        };
        assert_eq!(places(&[0, 8]), [0, 2, 4, 6]);
        assert_eq!(places(&[0, 4, 8]), places(&[0, 8]));
        // Where a cut goes through a pair, it is left out; so is the last of an odd number.
        assert_eq!(places(&[0, 3, 7]), [0, 4]);
        let inside: Vec<_> = Mixing::pairs(3, 4).collect();
        assert_eq!(inside, [(4, [1, 2])]);
        assert_eq!(Mixing::pairs(0, 1).count() + Mixing::pairs(0, 0).count(), 0);
    }
}
