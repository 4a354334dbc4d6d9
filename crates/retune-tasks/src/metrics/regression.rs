//! Regression: errors, explained variance and correlations between predicted and true numbers.

use super::registry::metrics_named;
use super::{Metric, MetricsError, Table, ratio, weighted_mean};

/// Predictions of one number per sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Regression {
    /// The right value of each sample, `[samples]`, in the target's own unit.
    pub targets: Vec<f64>,
    /// What the model said, `[samples]`.
    pub predictions: Vec<f64>,
}

impl Regression {
    /// Checks lengths and finiteness.
    ///
    /// # Errors
    /// When there are no samples, the lengths differ or a number is not finite.
    pub fn check(&self) -> Result<(), MetricsError> {
        if self.targets.is_empty() {
            return Err(MetricsError::Empty);
        }
        if self.predictions.len() != self.targets.len() {
            return Err(MetricsError::Shape {
                what: "predictions",
                expected: self.targets.len(),
                found: self.predictions.len(),
            });
        }
        for (what, values) in [("target", &self.targets), ("prediction", &self.predictions)] {
            if let Some(sample) = values.iter().position(|value| !value.is_finite()) {
                return Err(MetricsError::NotFinite { sample, what });
            }
        }
        Ok(())
    }
}

/// A regression prepared for measuring.
pub(super) struct RegressionTable {
    targets: Vec<f64>,
    predictions: Vec<f64>,
    target_order: Vec<u32>,
    prediction_order: Vec<u32>,
    metrics: Vec<&'static Metric>,
}

impl RegressionTable {
    /// Prepares a checked table.
    pub fn new(table: &Regression) -> Self {
        RegressionTable {
            target_order: ascending(&table.targets),
            prediction_order: ascending(&table.predictions),
            targets: table.targets.clone(),
            predictions: table.predictions.clone(),
            metrics: metrics_named(&["rmse", "mse", "mae", "r2", "pearson", "spearman"]),
        }
    }

    fn mean_squared_error(&self, weights: &[u32]) -> Option<f64> {
        weighted_mean(weights, |index| (self.predictions[index] - self.targets[index]).powi(2))
    }

    fn r_squared(&self, weights: &[u32]) -> Option<f64> {
        if constant(weights, &self.targets) {
            return None;
        }
        let mean = weighted_mean(weights, |index| self.targets[index])?;
        let variance = weighted_mean(weights, |index| (self.targets[index] - mean).powi(2))?;
        ratio(self.mean_squared_error(weights)?, variance).map(|unexplained| 1.0 - unexplained)
    }
}

impl Table for RegressionTable {
    fn samples(&self) -> usize {
        self.targets.len()
    }

    fn metrics(&self) -> &[&'static Metric] {
        &self.metrics
    }

    fn measure(&self, weights: &[u32], wanted: &[&'static Metric]) -> Vec<Option<f64>> {
        let measure = |metric: &&'static Metric| match metric.name {
            "mse" => self.mean_squared_error(weights),
            "rmse" => self.mean_squared_error(weights).map(f64::sqrt),
            "mae" => weighted_mean(weights, |index| (self.predictions[index] - self.targets[index]).abs()),
            "r2" => self.r_squared(weights),
            "pearson" => correlation(weights, &self.targets, &self.predictions),
            "spearman" => correlation(
                weights,
                &ranks(&self.targets, &self.target_order, weights),
                &ranks(&self.predictions, &self.prediction_order, weights),
            ),
            _ => None,
        };
        wanted.iter().map(measure).collect()
    }
}

fn ascending(values: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
    order
}

/// The rank of each value among the weighted samples, ties sharing their mean rank.
fn ranks(values: &[f64], order: &[u32], weights: &[u32]) -> Vec<f64> {
    let mut ranks = vec![0.0; values.len()];
    let (mut start, mut below) = (0, 0.0);
    while start < order.len() {
        let value = values[order[start] as usize];
        let tied = order[start..].iter().take_while(|&&sample| values[sample as usize] == value).count();
        let group = &order[start..start + tied];
        let weight: f64 = group.iter().map(|&sample| f64::from(weights[sample as usize])).sum();
        for &sample in group {
            ranks[sample as usize] = below + 0.5 * (weight + 1.0);
        }
        below += weight;
        start += tied;
    }
    ranks
}

/// Whether all samples that count have the same value.
fn constant(weights: &[u32], values: &[f64]) -> bool {
    let mut counted = values.iter().zip(weights).filter(|(_, weight)| **weight > 0).map(|(value, _)| value);
    let first = counted.next();
    counted.all(|value| Some(value) == first)
}

/// Weighted linear correlation; undefined when either side is constant.
fn correlation(weights: &[u32], a: &[f64], b: &[f64]) -> Option<f64> {
    // Rounding in the mean gives a constant a tiny variance; asking the values themselves does not.
    if constant(weights, a) || constant(weights, b) {
        return None;
    }
    let mean_a = weighted_mean(weights, |index| a[index])?;
    let mean_b = weighted_mean(weights, |index| b[index])?;
    let variance_a = weighted_mean(weights, |index| (a[index] - mean_a).powi(2))?;
    let variance_b = weighted_mean(weights, |index| (b[index] - mean_b).powi(2))?;
    let covariance = weighted_mean(weights, |index| (a[index] - mean_a) * (b[index] - mean_b))?;
    ratio(covariance, (variance_a * variance_b).sqrt()).map(|value| value.clamp(-1.0, 1.0))
}

/// Mean of (prediction − target)²; `None` without samples.
pub fn mean_squared_error(targets: &[f64], predictions: &[f64]) -> Option<f64> {
    measure_one(targets, predictions, "mse")
}

/// Mean of |prediction − target|; `None` without samples.
pub fn mean_absolute_error(targets: &[f64], predictions: &[f64]) -> Option<f64> {
    measure_one(targets, predictions, "mae")
}

/// Coefficient of determination; `None` when the targets are all equal.
pub fn r_squared(targets: &[f64], predictions: &[f64]) -> Option<f64> {
    measure_one(targets, predictions, "r2")
}

/// Linear correlation; `None` when either side is constant.
pub fn pearson_correlation(targets: &[f64], predictions: &[f64]) -> Option<f64> {
    measure_one(targets, predictions, "pearson")
}

/// Rank correlation, ties averaged; `None` when either side is constant.
pub fn spearman_correlation(targets: &[f64], predictions: &[f64]) -> Option<f64> {
    measure_one(targets, predictions, "spearman")
}

fn measure_one(targets: &[f64], predictions: &[f64], name: &str) -> Option<f64> {
    let length = targets.len().min(predictions.len());
    let table =
        Regression { targets: targets[..length].to_vec(), predictions: predictions[..length].to_vec() };
    let metric = Metric::find(name)?;
    RegressionTable::new(&table).measure(&vec![1; length], &[metric])[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_numbers_by_hand() {
        let (targets, predictions) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]);
        assert_eq!(mean_squared_error(&targets, &predictions), Some(0.5));
        assert_eq!(mean_absolute_error(&targets, &predictions), Some(0.5));
        // 1 − 2/5 of the variance; ranks differ by one twice: 1 − 6·2/(4·15).
        assert!((r_squared(&targets, &predictions).unwrap() - 0.6).abs() < 1e-15);
        assert!((spearman_correlation(&targets, &predictions).unwrap() - 0.8).abs() < 1e-12);
    }

    #[test]
    fn a_constant_has_no_correlation_and_explains_nothing() {
        assert_eq!(pearson_correlation(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(pearson_correlation(&[1.0, 2.0, 5.0], &[0.1, 0.1, 0.1]), None);
        assert_eq!(r_squared(&[2.0, 2.0], &[1.0, 3.0]), None);
        assert_eq!(mean_squared_error(&[], &[]), None);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        let values = [5.0, 1.0, 5.0, 9.0];
        assert_eq!(ranks(&values, &ascending(&values), &[1; 4]), vec![2.5, 1.0, 2.5, 4.0]);
    }
}
