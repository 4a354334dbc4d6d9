//! Does a stated confidence of 80% mean right in 80% of cases? Reliability diagrams, the expected
//! calibration error, and temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks").

use serde::{Deserialize, Serialize};

use super::classification::{Classification, log_sum_exp};
use super::{MetricsError, ratio};

/// Number of equal-width confidence bins, as in Guo et al.
pub const CALIBRATION_BINS: usize = 15;

/// One bar of a reliability diagram: confidences in `(lower, upper]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower edge, not in the bin (except 0).
    pub lower: f64,
    /// Upper edge, in the bin.
    pub upper: f64,
    /// How many predictions fell in.
    pub count: u64,
    /// Their mean confidence; undefined for an empty bin.
    pub confidence: Option<f64>,
    /// The share of them that was right; undefined for an empty bin.
    pub accuracy: Option<f64>,
}

/// Confidence against share right, gathered one prediction at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct ReliabilityDiagram {
    counts: [u64; CALIBRATION_BINS],
    hits: [u64; CALIBRATION_BINS],
    confidences: [f64; CALIBRATION_BINS],
}

impl Default for ReliabilityDiagram {
    fn default() -> Self {
        ReliabilityDiagram {
            counts: [0; CALIBRATION_BINS],
            hits: [0; CALIBRATION_BINS],
            confidences: [0.0; CALIBRATION_BINS],
        }
    }
}

impl ReliabilityDiagram {
    /// Adds a prediction made with `confidence` (0 to 1). A confidence that is not a number is left out.
    pub fn add(&mut self, confidence: f64, hit: bool) {
        self.add_weighted(confidence, hit, 1);
    }

    pub(super) fn add_weighted(&mut self, confidence: f64, hit: bool, weight: u32) {
        if confidence.is_nan() {
            return;
        }
        let bin = ((confidence * CALIBRATION_BINS as f64).ceil() as usize).clamp(1, CALIBRATION_BINS) - 1;
        self.counts[bin] += u64::from(weight);
        self.hits[bin] += if hit { u64::from(weight) } else { 0 };
        self.confidences[bin] += f64::from(weight) * confidence;
    }

    /// The bars, lowest confidence first, empty ones included.
    pub fn bins(&self) -> Vec<ReliabilityBin> {
        (0..CALIBRATION_BINS)
            .map(|bin| ReliabilityBin {
                lower: bin as f64 / CALIBRATION_BINS as f64,
                upper: (bin + 1) as f64 / CALIBRATION_BINS as f64,
                count: self.counts[bin],
                confidence: ratio(self.confidences[bin], self.counts[bin] as f64),
                accuracy: ratio(self.hits[bin] as f64, self.counts[bin] as f64),
            })
            .collect()
    }

    /// Σ share of predictions in the bin · |share right − mean confidence|; undefined without predictions.
    pub fn expected_calibration_error(&self) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        let gaps = (0..CALIBRATION_BINS).map(|bin| (self.hits[bin] as f64 - self.confidences[bin]).abs());
        ratio(gaps.sum(), total as f64)
    }
}

/// The outcome of fitting one temperature on validation data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TemperatureScaling {
    /// What logits are divided by before the softmax; above 1 the model was overconfident.
    pub temperature: f64,
    /// Mean negative log likelihood of the fitting data before.
    pub log_loss_before: f64,
    /// And after.
    pub log_loss_after: f64,
    /// Expected calibration error of the fitting data before.
    pub ece_before: f64,
    /// And after.
    pub ece_after: f64,
}

/// Temperatures outside of this are not calibration but a sign that the data cannot tell.
const TEMPERATURE_BOUNDS: (f64, f64) = (0.05, 20.0);

/// Fits the temperature that makes validation logits most likely.
///
/// The negative log likelihood is convex in 1/T, so that halving an interval on the sign of its slope cannot
/// miss the minimum. `None` when there is no minimum between 0.05 and 20: with every sample right the best
/// temperature is 0, with a model worse than chance it is infinite, and neither should be used.
///
/// # Errors
/// When the table is empty, misshapen or holds a number that is not finite.
pub fn fit_temperature(validation: &Classification) -> Result<Option<TemperatureScaling>, MetricsError> {
    validation.check()?;
    let slope = |inverse: f64| -> f64 {
        let rows = validation.rows().zip(&validation.targets);
        rows.map(|(row, &target)| expected_logit(row, inverse) - f64::from(row[target as usize])).sum()
    };
    let (mut low, mut high) = (TEMPERATURE_BOUNDS.1.recip().ln(), TEMPERATURE_BOUNDS.0.recip().ln());
    if slope(low.exp()) >= 0.0 || slope(high.exp()) <= 0.0 {
        return Ok(None);
    }
    for _ in 0..48 {
        let middle = 0.5 * (low + high);
        if slope(middle.exp()) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let temperature = (-0.5 * (low + high)).exp();
    let (Some(ece_before), Some(ece_after)) = (
        validation.reliability(1.0).expected_calibration_error(),
        validation.reliability(temperature).expected_calibration_error(),
    ) else {
        return Err(MetricsError::Empty);
    };
    Ok(Some(TemperatureScaling {
        temperature,
        log_loss_before: mean_log_loss(validation, 1.0),
        log_loss_after: mean_log_loss(validation, temperature),
        ece_before,
        ece_after,
    }))
}

/// Mean negative log likelihood with logits divided by `temperature`.
pub(super) fn mean_log_loss(table: &Classification, temperature: f64) -> f64 {
    let rows = table.rows().zip(&table.targets);
    let losses = rows.map(|(row, &target)| {
        log_sum_exp(row, temperature.recip()) - f64::from(row[target as usize]) / temperature
    });
    losses.sum::<f64>() / table.targets.len() as f64
}

/// The mean of a row's logits under softmax(inverse · logits).
fn expected_logit(row: &[f32], inverse: f64) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut weighted) = (0.0, 0.0);
    for &logit in row {
        let weight = (inverse * (f64::from(logit) - f64::from(largest))).exp();
        total += weight;
        weighted += weight * f64::from(logit);
    }
    weighted / total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() {
        let mut diagram = ReliabilityDiagram::default();
        for hit in [true, true, true, false] {
            diagram.add(0.75, hit);
        }
        assert_eq!(diagram.expected_calibration_error(), Some(0.0));
        assert_eq!(ReliabilityDiagram::default().expected_calibration_error(), None);
    }

    #[test]
    fn two_bins_by_hand() {
        let mut diagram = ReliabilityDiagram::default();
        diagram.add(0.9, true);
        diagram.add(0.9, false);
        diagram.add(0.6, true);
        // |1 − 1.8| / 3 + |1 − 0.6| / 3
        assert!((diagram.expected_calibration_error().unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(diagram.bins().iter().map(|bin| bin.count).sum::<u64>(), 3);
    }

    #[test]
    fn edges_belong_to_the_bin_below() {
        let mut diagram = ReliabilityDiagram::default();
        diagram.add(0.0, true);
        diagram.add(1.0, true);
        let bins = diagram.bins();
        assert_eq!((bins[0].count, bins[CALIBRATION_BINS - 1].count), (1, 1));
    }

    #[test]
    fn three_right_of_four_at_logit_four_wants_a_confidence_of_three_quarters() {
        let table = Classification {
            labels: vec!["no".into(), "yes".into()],
            targets: vec![1, 1, 1, 0],
            logits: [[0.0, 4.0]; 4].concat(),
            threshold: None,
        };
        let fit = fit_temperature(&table).unwrap().unwrap();
        // sigmoid(4 / T) = 3/4  ⇒  T = 4 / ln 3
        assert!((fit.temperature - 4.0 / 3f64.ln()).abs() < 1e-9, "{fit:?}");
        assert!(fit.log_loss_after < fit.log_loss_before && fit.ece_after < 1e-9);
    }

    #[test]
    fn no_temperature_is_fitted_where_there_is_no_minimum() {
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let all_right = Classification {
            labels: labels.clone(),
            targets: vec![0, 1],
            logits: vec![1.0, 0.0, 0.0, 1.0],
            threshold: None,
        };
        assert_eq!(fit_temperature(&all_right).unwrap(), None);
        let all_wrong =
            Classification { labels, targets: vec![1, 0], logits: vec![1.0, 0.0, 0.0, 1.0], threshold: None };
        assert_eq!(fit_temperature(&all_wrong).unwrap(), None);
    }

    proptest! {
        #[test]
        fn a_fitted_temperature_never_makes_the_fitting_data_less_likely(
            rows in prop::collection::vec((0u32..3, -8f32..8.0, -8f32..8.0, -8f32..8.0), 1..60),
        ) {
            let table = Classification {
                labels: vec!["a".into(), "b".into(), "c".into()],
                targets: rows.iter().map(|row| row.0).collect(),
                logits: rows.iter().flat_map(|row| [row.1, row.2, row.3]).collect(), threshold: None };
            if let Some(fit) = fit_temperature(&table).unwrap() {
                prop_assert!(fit.log_loss_after <= fit.log_loss_before + 1e-9);
                prop_assert!(fit.temperature > 0.0);
            }
        }

        #[test]
        fn calibration_error_lies_between_zero_and_one(rows in prop::collection::vec((0f64..=1.0, any::<bool>()), 1..80)) {
            let mut diagram = ReliabilityDiagram::default();
            for (confidence, hit) in rows {
                diagram.add(confidence, hit);
            }
            let error = diagram.expected_calibration_error().unwrap();
            prop_assert!((0.0..=1.0).contains(&error));
        }
    }
}
