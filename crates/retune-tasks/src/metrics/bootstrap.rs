//! How far a number measured on a few hundred samples can be trusted: percentile bootstrap intervals.
//! Which samples a resample draws is a pure function of (seed, resample, draw): the same data gives the same
//! interval on any machine, and two runs resampled alike can be paired.

use serde::{Deserialize, Serialize};

use super::{Metric, Table};

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How many resamples; 0 computes no intervals, which is right for evaluations during training.
    pub resamples: u32,
    /// Key of the draws.
    pub seed: u64,
    /// Probability that the interval should hold the true value.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { resamples: 1000, seed: 0, level: 0.95 }
    }
}

/// Rankings over many classes and samples would take minutes to resample; above this many steps they get no
/// interval.
const RANKING_BUDGET: u64 = 2_000_000_000;

impl Bootstrap {
    /// How often resample number `resample` draws each of `samples` samples.
    fn weights(&self, resample: u32, samples: usize, weights: &mut Vec<u32>) {
        weights.clear();
        weights.resize(samples, 0);
        let key = mix(self.seed ^ mix(u64::from(resample).wrapping_add(1)));
        for draw in 0..samples as u64 {
            // The high half of a 64 × 64 bit product maps a uniform word onto 0..samples.
            let word = mix(key ^ mix(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let sample = (u128::from(word) * samples as u128) >> 64;
            weights[sample as usize] += 1;
        }
    }

    /// The middle `level` of `values`; `None` where fewer than nine in ten resamples gave a value, or where
    /// all gave the same (then resampling says nothing about the uncertainty).
    fn interval(&self, values: &mut [f64]) -> Option<Interval> {
        if values.is_empty() || (values.len() as f64) < 0.9 * f64::from(self.resamples) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = 0.5 * (1.0 - self.level);
        let (low, high) = (quantile(values, tail), quantile(values, 1.0 - tail));
        (values[0] < values[values.len() - 1]).then_some(Interval { low, high })
    }

    /// One interval per wanted metric.
    pub(super) fn intervals(
        &self,
        table: &dyn Table,
        wanted: &[&'static Metric],
        classes: usize,
    ) -> Vec<Option<Interval>> {
        let ranking_steps = u64::from(self.resamples) * table.samples() as u64 * classes as u64;
        let affordable = |metric: &&&'static Metric| {
            ranking_steps <= RANKING_BUDGET || !matches!(metric.name, "auroc" | "average_precision")
        };
        let resampled: Vec<&'static Metric> = wanted.iter().filter(affordable).copied().collect();
        let mut values = vec![Vec::with_capacity(self.resamples as usize); resampled.len()];
        let mut weights = Vec::new();
        for resample in 0..self.resamples {
            self.weights(resample, table.samples(), &mut weights);
            for (values, value) in values.iter_mut().zip(table.measure(&weights, &resampled)) {
                values.extend(value.filter(|value| value.is_finite()));
            }
        }
        wanted
            .iter()
            .map(|metric| {
                let position = resampled.iter().position(|other| other.name == metric.name)?;
                self.interval(&mut values[position])
            })
            .collect()
    }

    /// The interval of `metric(a) − metric(b)` when both are resampled alike, and the two-sided bootstrap
    /// p-value of no difference.
    pub(super) fn paired(
        &self,
        a: &dyn Table,
        b: &dyn Table,
        metric: &'static Metric,
    ) -> (Option<Interval>, Option<f64>) {
        let mut differences = Vec::with_capacity(self.resamples as usize);
        let mut weights = Vec::new();
        for resample in 0..self.resamples {
            self.weights(resample, a.samples(), &mut weights);
            let (a, b) = (a.measure(&weights, &[metric])[0], b.measure(&weights, &[metric])[0]);
            if let (Some(a), Some(b)) = (a, b) {
                differences.push(a - b);
            }
        }
        if differences.is_empty() || (differences.len() as f64) < 0.9 * f64::from(self.resamples) {
            return (None, None);
        }
        let at_most = differences.iter().filter(|&&difference| difference <= 0.0).count();
        let at_least = differences.iter().filter(|&&difference| difference >= 0.0).count();
        // One more in both, so that a p-value is never claimed to be below what the resamples can show.
        let p_value = 2.0 * (at_most.min(at_least) + 1) as f64 / (differences.len() + 1) as f64;
        (self.interval(&mut differences), Some(p_value.min(1.0)))
    }
}

/// Linear interpolation between order statistics, as NumPy's default.
fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let position = probability.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014): a bijection of 64-bit words that looks random.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Wilson's score interval (1927) of a proportion at 95%: `hits` of `total`.
///
/// Used for shares of samples because, unlike the bootstrap, it stays honest at 0% and 100%.
/// `None` when `total` is 0.
pub fn wilson_interval(hits: u64, total: u64) -> Option<Interval> {
    if total == 0 {
        return None;
    }
    /// 97.5% point of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    let count = total as f64;
    let share = hits as f64 / count;
    let denominator = 1.0 + Z * Z / count;
    let centre = (share + 0.5 * Z * Z / count) / denominator;
    let half_width =
        Z * (share * (1.0 - share) / count + 0.25 * Z * Z / (count * count)).sqrt() / denominator;
    let low = if hits == 0 { 0.0 } else { (centre - half_width).max(0.0) };
    let high = if hits >= total { 1.0 } else { (centre + half_width).min(1.0) };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_resample_draws_as_many_as_there_are_and_the_same_ones_again() {
        let bootstrap = Bootstrap::default();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        bootstrap.weights(3, 100, &mut first);
        bootstrap.weights(3, 100, &mut second);
        assert_eq!(first, second);
        assert_eq!(first.iter().sum::<u32>(), 100);
        bootstrap.weights(4, 100, &mut second);
        assert_ne!(first, second);
    }

    #[test]
    fn every_sample_is_drawn_about_equally_often() {
        let bootstrap = Bootstrap::default();
        let mut totals = [0u32; 10];
        let mut weights = Vec::new();
        for resample in 0..1000 {
            bootstrap.weights(resample, 10, &mut weights);
            for (total, weight) in totals.iter_mut().zip(&weights) {
                *total += weight;
            }
        }
        // 1000 expected, standard deviation 30.
        assert!(totals.iter().all(|total| total.abs_diff(1000) < 150), "{totals:?}");
    }

    #[test]
    fn wilson_is_not_certain_of_a_perfect_score() {
        let interval = wilson_interval(20, 20).unwrap();
        assert!((interval.low - 0.838_875).abs() < 1e-5, "{interval:?}");
        assert_eq!(interval.high, 1.0);
        assert_eq!(wilson_interval(0, 0), None);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.25), 1.5);
        assert_eq!(quantile(&[7.0], 0.975), 7.0);
    }

    proptest! {
        #[test]
        fn wilson_holds_the_share(total in 1u64..5000, part in 0f64..=1.0) {
            let hits = (total as f64 * part) as u64;
            let interval = wilson_interval(hits, total).unwrap();
            let share = hits as f64 / total as f64;
            prop_assert!(interval.low <= share + 1e-12 && share <= interval.high + 1e-12);
            prop_assert!(0.0 <= interval.low && interval.high <= 1.0);
        }
    }
}
