//! From the held-out losses of bursts to a range of learning rates and one value. Knows no model.

/// The bursts of one learning rate.
#[derive(Clone, Debug)]
pub(super) struct Bursts {
    /// The base learning rate.
    pub learning_rate: f64,
    /// For each data order the loss of each held-out sample, or `None` where the burst diverged.
    pub losses: Vec<Option<Vec<f32>>>,
}

impl Bursts {
    /// Whether a loss or a gradient stopped being finite in any of them.
    pub fn diverged(&self) -> bool {
        self.losses.iter().any(Option::is_none)
    }

    /// The mean loss of each data order.
    pub fn means(&self) -> Vec<Option<f64>> {
        self.losses.iter().map(|losses| losses.as_deref().map(mean)).collect()
    }

    /// The mean loss over all data orders; `None` if one diverged.
    pub fn mean(&self) -> Option<f64> {
        let means: Option<Vec<f64>> = self.means().into_iter().collect();
        means.map(|means| means.iter().sum::<f64>() / means.len().max(1) as f64)
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64
}

/// How much greater one rate's losses are than another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    pub mean: f64,
    pub standard_error: f64,
}

impl Difference {
    /// Of two rates' bursts, paired by data order and by sample, over the orders that both have seen. `None` if one
    /// diverged.
    ///
    /// Its squared standard error is the sum of two: of the mean over samples, which says how far other held-out data
    /// would agree, and of the mean over data orders, which says how far other batches would.
    pub fn between(base: &Bursts, other: &Bursts) -> Option<Self> {
        if base.diverged() || other.diverged() {
            return None;
        }
        let mut by_order = Vec::new();
        let mut by_sample: Vec<f64> = Vec::new();
        for (base, other) in base.losses.iter().zip(&other.losses) {
            let (base, other) = (base.as_deref()?, other.as_deref()?);
            let differences: Vec<f64> =
                base.iter().zip(other).map(|(&base, &other)| f64::from(other) - f64::from(base)).collect();
            by_order.push(differences.iter().sum::<f64>() / differences.len().max(1) as f64);
            by_sample.resize(differences.len(), 0.0);
            by_sample.iter_mut().zip(&differences).for_each(|(sum, difference)| *sum += difference);
        }
        let orders = by_order.len().max(1) as f64;
        by_sample.iter_mut().for_each(|sum| *sum /= orders);
        let squared = squared_error(&by_sample) + squared_error(&by_order);
        let mean = by_order.iter().sum::<f64>() / orders;
        Some(Self { mean, standard_error: squared.sqrt() })
    }

    /// Whether it is at most one standard error: the rule by which Breiman et al. (1984, section 3.4.3) call two models
    /// equally good.
    pub fn is_within_noise(self) -> bool {
        self.mean <= self.standard_error
    }
}

/// The squared standard error of a mean; 0 for a single value.
fn squared_error(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0) / count
}

/// The rate with the lowest held-out loss of those that have seen the most data orders, by its place.
pub(super) fn best(bursts: &[Bursts]) -> Option<usize> {
    let orders = bursts.iter().filter(|one| !one.diverged()).map(|one| one.losses.len()).max()?;
    let candidates = bursts.iter().enumerate().filter(|(_, one)| one.losses.len() == orders);
    let means = candidates.filter_map(|(place, one)| Some((place, one.mean()?)));
    means.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}

/// The first and the last of the neighbouring rates around the best that `holds` accepts.
pub(super) fn around(
    bursts: &[Bursts],
    best: usize,
    holds: impl Fn(&Bursts, Difference) -> bool,
) -> (usize, usize) {
    let accepted = |place: &usize| {
        let other = &bursts[*place];
        Difference::between(&bursts[best], other).is_some_and(|difference| holds(other, difference))
    };
    let first = (0..best).rev().take_while(accepted).last().unwrap_or(best);
    let last = (best + 1..bursts.len()).take_while(accepted).last().unwrap_or(best);
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bursts(learning_rate: f64, losses: &[&[f32]]) -> Bursts {
        Bursts { learning_rate, losses: losses.iter().map(|losses| Some(losses.to_vec())).collect() }
    }

    #[test]
    fn differences_are_paired_by_sample_and_by_order() {
        let base = bursts(1.0, &[&[1.0, 5.0], &[2.0, 6.0]]);
        let other = bursts(2.0, &[&[1.5, 6.5], &[3.0, 7.0]]);
        let difference = Difference::between(&base, &other).unwrap();
        // By order 1 and 1; by sample (0.5 + 1) / 2 = 0.75 and (1.5 + 1) / 2 = 1.25, whose squared standard error is
        // (0.25² + 0.25²) / 1 / 2.
        assert_eq!(difference.mean, 1.0);
        assert!((difference.standard_error - 0.0625_f64.sqrt()).abs() < 1e-12);
        assert!(!difference.is_within_noise());
    }

    #[test]
    fn orders_that_only_one_has_seen_do_not_count() {
        let base = bursts(1.0, &[&[1.0, 1.0], &[9.0, 9.0]]);
        let other = bursts(2.0, &[&[2.0, 2.0]]);
        assert_eq!(Difference::between(&base, &other).unwrap().mean, 1.0);
    }

    #[test]
    fn a_rate_that_diverged_is_neither_best_nor_within_noise() {
        let mut diverged = bursts(3.0, &[&[0.1, 0.1]]);
        diverged.losses.push(None);
        let all = [bursts(1.0, &[&[2.0, 2.0]]), bursts(2.0, &[&[1.0, 1.0]]), diverged];
        assert_eq!(best(&all), Some(1));
        assert_eq!(around(&all, 1, |_, _| true), (0, 1));
        assert_eq!(best(&all[2..]), None);
    }

    #[test]
    fn the_range_ends_where_a_rate_is_worse_than_noise() {
        // Differences to the best: 0.5 for every sample, which is no noise at all; and ±1 about 0.1, which is.
        let all = [
            bursts(1.0, &[&[1.5, 1.5, 1.5, 1.5]]),
            bursts(2.0, &[&[1.0, 1.0, 1.0, 1.0]]),
            bursts(3.0, &[&[2.1, 0.1, 2.1, 0.1]]),
        ];
        assert_eq!(around(&all, best(&all).unwrap(), |_, difference| difference.is_within_noise()), (1, 2));
    }
}
