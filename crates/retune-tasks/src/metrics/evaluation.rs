//! Everything measured on one split, ready for `metrics.json`: values, intervals, baselines, confusion
//! matrix, per-class table and reliability bins.

use serde_json::{Map, Value, json};

use super::bootstrap::{Bootstrap, Interval, wilson_interval};
use super::calibration::{ReliabilityBin, ReliabilityDiagram, mean_log_loss};
use super::classification::{ClassificationTable, from_counts};
use super::confusion::{ClassScores, ConfusionCounts, ConfusionMatrix};
use super::multi_label::MultiLabelTable;
use super::regression::RegressionTable;
use super::{Classification, Metric, MetricsError, MultiLabel, Regression, Table};

/// What an evaluation computes beside the values themselves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationOptions {
    /// How confidence intervals are drawn; set `resamples` to 0 for none.
    pub bootstrap: Bootstrap,
    /// The most frequent class of the *training* data, for the majority baseline; the most frequent target
    /// of the evaluated data when absent.
    pub majority_class: Option<u32>,
    /// The mean target of the *training* data, for the baseline of a regression; the evaluated data's own
    /// mean when absent.
    pub mean_target: Option<f64>,
    /// A temperature fitted on validation data; adds the log loss and calibration error it leads to.
    pub temperature: Option<f64>,
}

/// One metric's value with what a reader needs to judge it.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Which metric.
    pub metric: &'static Metric,
    /// Its value; `None` where it is undefined for this data.
    pub value: Option<f64>,
    /// 95% confidence interval, where one was asked for and exists.
    pub interval: Option<Interval>,
    /// The same metric of simpler predictors, by name (`majority`, `mean`, `untrained_head`).
    pub baselines: Vec<(String, f64)>,
}

/// Everything measured on one split.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationReport {
    /// Number of samples.
    pub samples: usize,
    /// Every metric of the task, in report order.
    pub scores: Vec<Score>,
    /// Target against prediction, for single-label classification.
    pub confusion_matrix: Option<ConfusionMatrix>,
    /// Per class or label; empty for regression.
    pub per_class: Vec<ClassScores>,
    /// Reliability diagram; empty for regression.
    pub reliability: Vec<ReliabilityBin>,
    /// Log loss and expected calibration error after temperature scaling.
    pub temperature_scaled: Option<(f64, f64)>,
}

impl EvaluationReport {
    /// The value of the metric of this name, where it is measured and defined.
    pub fn value(&self, name: &str) -> Option<f64> {
        let metric = Metric::find(name)?;
        self.scores.iter().find(|score| score.metric.name == metric.name)?.value
    }

    /// Sets the values of `other`, measured on the same samples, beside this report's as the baseline `name`.
    pub fn add_baseline(&mut self, name: &str, other: &EvaluationReport) {
        for score in &mut self.scores {
            if let Some(value) = other.value(score.metric.name) {
                score.baselines.push((name.to_owned(), value));
            }
        }
    }

    /// The flat keys of `metrics.json`, each after `prefix` (`eval_` or `test_`). An undefined value is null.
    pub fn to_json(&self, prefix: &str) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert(format!("{prefix}samples"), json!(self.samples));
        for score in &self.scores {
            let name = score.metric.name;
            map.insert(format!("{prefix}{name}"), json!(score.value));
            if let Some(interval) = score.interval {
                map.insert(format!("{prefix}{name}_ci95"), json!([interval.low, interval.high]));
            }
            for (baseline, value) in &score.baselines {
                map.insert(format!("{prefix}{name}_{baseline}_baseline"), json!(value));
            }
        }
        if let Some((log_loss, calibration_error)) = self.temperature_scaled {
            map.insert(format!("{prefix}log_loss_temperature_scaled"), json!(log_loss));
            map.insert(format!("{prefix}ece_temperature_scaled"), json!(calibration_error));
        }
        if let Some(matrix) = &self.confusion_matrix {
            map.insert(format!("{prefix}confusion_matrix"), json!(matrix));
        }
        if !self.per_class.is_empty() {
            map.insert(format!("{prefix}per_class"), json!(self.per_class));
        }
        if !self.reliability.is_empty() {
            map.insert(format!("{prefix}reliability"), json!(self.reliability));
        }
        map
    }
}

fn measured(table: &dyn Table, bootstrap: &Bootstrap, classes: usize) -> Vec<Score> {
    let ones = vec![1; table.samples()];
    let values = table.measure(&ones, table.metrics());
    let intervals = if bootstrap.resamples == 0 {
        vec![None; values.len()]
    } else {
        bootstrap.intervals(table, table.metrics(), classes)
    };
    let rows = table.metrics().iter().zip(values).zip(intervals);
    rows.map(|((&metric, value), interval)| Score { metric, value, interval, baselines: Vec::new() })
        .collect()
}

/// Gives a share of right samples Wilson's interval in place of the bootstrap's, which is empty at 100%.
fn set_wilson_interval(scores: &mut [Score], name: &str, hits: u64, total: u64, bootstrap: &Bootstrap) {
    if bootstrap.resamples == 0 {
        return;
    }
    for score in scores.iter_mut().filter(|score| score.metric.name == name) {
        score.interval = wilson_interval(hits, total);
    }
}

/// Measures a single-label classifier.
///
/// # Errors
/// When the table is empty, misshapen or holds a number that is not finite.
pub fn evaluate_classification(
    table: &Classification,
    options: &EvaluationOptions,
) -> Result<EvaluationReport, MetricsError> {
    table.check()?;
    let classes = table.labels.len();
    let prepared = ClassificationTable::new(table);
    let counts = prepared.counts();
    let mut scores = measured(&prepared, &options.bootstrap, classes);
    set_wilson_interval(&mut scores, "accuracy", counts.diagonal(), counts.total(), &options.bootstrap);
    if let Some(majority) = options.majority_class.or_else(|| counts.majority_class()) {
        let constant = ConfusionCounts::new(classes, &table.targets, &vec![majority; table.targets.len()]);
        for score in &mut scores {
            let baseline = from_counts(score.metric.name, &constant);
            score.baselines.extend(baseline.map(|value| ("majority".to_owned(), value)));
        }
    }
    let temperature_scaled = options.temperature.and_then(|temperature| {
        let error = table.reliability(temperature).expected_calibration_error()?;
        Some((mean_log_loss(table, temperature), error))
    });
    Ok(EvaluationReport {
        samples: table.targets.len(),
        scores,
        confusion_matrix: Some(counts.named(&table.labels)),
        per_class: counts.per_class(&table.labels),
        reliability: table.reliability(1.0).bins(),
        temperature_scaled,
    })
}

/// Measures a multi-label classifier. The majority baseline gives every sample the labels that at least
/// half of the evaluated samples have.
///
/// # Errors
/// When the table is empty, misshapen or holds a number that is not finite.
pub fn evaluate_multi_label(
    table: &MultiLabel,
    options: &EvaluationOptions,
) -> Result<EvaluationReport, MetricsError> {
    table.check()?;
    let labels = table.labels.len();
    let prepared = MultiLabelTable::new(table);
    let mut scores = measured(&prepared, &options.bootstrap, labels);
    let hits = prepared.hits().iter().filter(|&&hit| hit).count() as u64;
    set_wilson_interval(&mut scores, "subset_accuracy", hits, prepared.samples() as u64, &options.bootstrap);
    let majority: Vec<bool> = (0..labels)
        .map(|label| {
            let holding = table.targets.iter().skip(label).step_by(labels).filter(|&&holds| holds).count();
            2 * holding >= prepared.samples()
        })
        .collect();
    let constant = MultiLabelTable::constant(table, &majority);
    for baseline in measured(&constant, &Bootstrap { resamples: 0, ..options.bootstrap }, labels) {
        for score in scores.iter_mut().filter(|score| score.metric.name == baseline.metric.name) {
            score.baselines.extend(baseline.value.map(|value| ("majority".to_owned(), value)));
        }
    }
    let reliability: ReliabilityDiagram = table.reliability();
    Ok(EvaluationReport {
        samples: prepared.samples(),
        scores,
        confusion_matrix: None,
        per_class: prepared.per_class(&table.labels),
        reliability: reliability.bins(),
        temperature_scaled: None,
    })
}

/// Measures a regression. The baseline `mean` answers every sample with one number, the mean target.
///
/// # Errors
/// When the table is empty, misshapen or holds a number that is not finite.
pub fn evaluate_regression(
    table: &Regression,
    options: &EvaluationOptions,
) -> Result<EvaluationReport, MetricsError> {
    table.check()?;
    let prepared = RegressionTable::new(table);
    let mut scores = measured(&prepared, &options.bootstrap, 1);
    let own_mean = || table.targets.iter().sum::<f64>() / table.targets.len() as f64;
    let mean = options.mean_target.unwrap_or_else(own_mean);
    let constant =
        Regression { targets: table.targets.clone(), predictions: vec![mean; table.targets.len()] };
    let constant = RegressionTable::new(&constant);
    for baseline in measured(&constant, &Bootstrap { resamples: 0, ..options.bootstrap }, 1) {
        for score in scores.iter_mut().filter(|score| score.metric.name == baseline.metric.name) {
            score.baselines.extend(baseline.value.map(|value| ("mean".to_owned(), value)));
        }
    }
    Ok(EvaluationReport {
        samples: table.targets.len(),
        scores,
        confusion_matrix: None,
        per_class: Vec::new(),
        reliability: Vec::new(),
        temperature_scaled: None,
    })
}
