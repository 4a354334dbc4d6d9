//! Metrics over predictions that are already in memory: pure functions in f64, no files, no model.
//!
//! [`METRICS`] is the one list of what can be measured; [`evaluate_classification`] and its siblings measure
//! everything that fits a task, with intervals and baselines; [`compare_classification`] and its siblings say
//! whether one run beats another. A value that is not defined for the data (an AUROC with one class) is `None`.

mod bootstrap;
mod calibration;
mod classification;
mod comparison;
mod confusion;
mod evaluation;
mod multi_label;
mod ranking;
mod registry;
mod regression;
mod threshold;

pub use bootstrap::{Bootstrap, Interval, wilson_interval};
pub use calibration::{
    CALIBRATION_BINS, ReliabilityBin, ReliabilityDiagram, TemperatureScaling, fit_temperature,
};
pub use classification::Classification;
pub use comparison::{
    Comparison, McNemar, Verdict, compare_classification, compare_multi_label, compare_regression,
    mcnemar_exact,
};
pub use confusion::{Average, ClassScores, ConfusionCounts, ConfusionMatrix};
pub use evaluation::{
    EvaluationOptions, EvaluationReport, Score, evaluate_classification, evaluate_multi_label,
    evaluate_regression,
};
pub use multi_label::MultiLabel;
pub use ranking::{auroc, average_precision};
pub use registry::{Direction, METRICS, Metric};
pub use regression::{
    Regression, mean_absolute_error, mean_squared_error, pearson_correlation, r_squared, spearman_correlation,
};
pub use threshold::{ThresholdGoal, best_threshold};

/// Why a table of predictions cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricsError {
    /// There is not one sample.
    #[error("there are no samples to evaluate; check that the split is not empty")]
    Empty,
    /// The number of values does not fit the number of samples and classes.
    #[error("{what} holds {found} values where {expected} were expected")]
    Shape {
        /// Which table.
        what: &'static str,
        /// How many values the samples and labels call for.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A target names a class that the model does not have.
    #[error("sample {sample} has target {target}, but there are only {classes} classes")]
    TargetOutOfRange {
        /// Row of the table, from 0.
        sample: usize,
        /// The target found.
        target: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// A logit, a prediction or a target is NaN or infinite.
    #[error(
        "sample {sample} has a {what} that is not a finite number; the model has diverged or the data is damaged"
    )]
    NotFinite {
        /// Row of the table, from 0.
        sample: usize,
        /// Which value.
        what: &'static str,
    },
    /// Two runs cannot be paired sample by sample.
    #[error("the two runs cannot be compared sample by sample: {reason}")]
    NotPaired {
        /// What differs.
        reason: String,
    },
    /// The metric is unknown or does not belong to this kind of task.
    #[error("metric {name:?} is not measured for this task; it has {known}")]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names that exist, joined by commas.
        known: String,
    },
}

/// A table of predictions from which metrics can be computed, whole or resampled.
///
/// `weights[i]` says how often sample `i` counts: all ones for the table itself, counts of draws for a
/// bootstrap resample. Presorted scores make a resample cost a walk over the samples, not a sort.
trait Table {
    /// How many samples the table holds.
    fn samples(&self) -> usize;
    /// The metrics that this kind of table has, in the order of a report.
    fn metrics(&self) -> &[&'static Metric];
    /// The value of each wanted metric on the weighted samples; `None` where it is undefined.
    fn measure(&self, weights: &[u32], wanted: &[&'static Metric]) -> Vec<Option<f64>>;
}

/// The sum of `value` over weighted samples divided by the weights' sum; `None` without weight.
fn weighted_mean(weights: &[u32], value: impl Fn(usize) -> f64) -> Option<f64> {
    let mut total = 0.0;
    let mut count = 0u64;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0 {
            total += f64::from(weight) * value(index);
            count += u64::from(weight);
        }
    }
    (count > 0).then(|| total / count as f64)
}

/// `numerator / denominator`, undefined where the denominator is zero.
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator != 0.0).then(|| numerator / denominator)
}
