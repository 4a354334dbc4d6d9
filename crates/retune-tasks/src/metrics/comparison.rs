//! Is one run better than another on the same samples, or is the difference noise?
//! Both are resampled alike (paired bootstrap); shares of right samples also get McNemar's exact test.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, Interval};
use super::classification::ClassificationTable;
use super::multi_label::MultiLabelTable;
use super::regression::RegressionTable;
use super::{Classification, Direction, Metric, MetricsError, MultiLabel, Regression, Table};

/// What a comparison comes to at the 5% level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first run is better, in the metric's own direction.
    Better,
    /// The first run is worse.
    Worse,
    /// The data cannot tell them apart.
    WithinNoise,
}

/// McNemar's exact test on samples that exactly one of two runs got right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Samples that only the first run got right.
    pub only_first: u64,
    /// Samples that only the second run got right.
    pub only_second: u64,
    /// Two-sided probability of so uneven a split if both were equally good.
    pub p_value: f64,
}

/// One metric of two runs on the same samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Key of the metric.
    pub metric: &'static str,
    /// The first run's value.
    pub value: Option<f64>,
    /// The second run's value.
    pub against: Option<f64>,
    /// First minus second.
    pub difference: Option<f64>,
    /// 95% interval of the difference from the paired bootstrap.
    pub interval: Option<Interval>,
    /// Two-sided p-value of no difference from the paired bootstrap.
    pub p_value: Option<f64>,
    /// For accuracy and exact match.
    pub mcnemar: Option<McNemar>,
    /// Decided by McNemar's test where there is one, else by whether the interval leaves zero out.
    pub verdict: Verdict,
}

const SIGNIFICANCE: f64 = 0.05;

/// Compares two classifiers on the same samples, by the metric of this name.
///
/// # Errors
/// When a table is malformed, the targets or labels differ, or the metric is not one of this task.
pub fn compare_classification(
    first: &Classification,
    second: &Classification,
    metric: &str,
    bootstrap: &Bootstrap,
) -> Result<Comparison, MetricsError> {
    first.check()?;
    second.check()?;
    paired("labels", first.labels == second.labels)?;
    paired("targets", first.targets == second.targets)?;
    let (first, second) = (ClassificationTable::new(first), ClassificationTable::new(second));
    let mcnemar = mcnemar_exact(&first.hits(), &second.hits());
    compare(&first, &second, metric, Some(mcnemar), bootstrap)
}

/// Compares two multi-label classifiers on the same samples, by the metric of this name.
///
/// # Errors
/// When a table is malformed, the targets or labels differ, or the metric is not one of this task.
pub fn compare_multi_label(
    first: &MultiLabel,
    second: &MultiLabel,
    metric: &str,
    bootstrap: &Bootstrap,
) -> Result<Comparison, MetricsError> {
    first.check()?;
    second.check()?;
    paired("labels", first.labels == second.labels)?;
    paired("targets", first.targets == second.targets)?;
    let (first, second) = (MultiLabelTable::new(first), MultiLabelTable::new(second));
    let mcnemar = mcnemar_exact(&first.hits(), &second.hits());
    compare(&first, &second, metric, Some(mcnemar), bootstrap)
}

/// Compares two regressions on the same samples, by the metric of this name.
///
/// # Errors
/// When a table is malformed, the targets differ, or the metric is not one of this task.
pub fn compare_regression(
    first: &Regression,
    second: &Regression,
    metric: &str,
    bootstrap: &Bootstrap,
) -> Result<Comparison, MetricsError> {
    first.check()?;
    second.check()?;
    paired("targets", first.targets == second.targets)?;
    compare(&RegressionTable::new(first), &RegressionTable::new(second), metric, None, bootstrap)
}

fn paired(what: &str, equal: bool) -> Result<(), MetricsError> {
    if equal {
        return Ok(());
    }
    Err(MetricsError::NotPaired { reason: format!("their {what} differ; evaluate both on the same file") })
}

fn compare(
    first: &dyn Table,
    second: &dyn Table,
    name: &str,
    mcnemar: Option<McNemar>,
    bootstrap: &Bootstrap,
) -> Result<Comparison, MetricsError> {
    let metric = Metric::find(name)
        .filter(|metric| first.metrics().iter().any(|known| known.name == metric.name))
        .ok_or_else(|| MetricsError::UnknownMetric {
            name: name.to_owned(),
            known: first.metrics().iter().map(|metric| metric.name).collect::<Vec<_>>().join(", "),
        })?;
    let ones = vec![1; first.samples()];
    let value = first.measure(&ones, &[metric])[0];
    let against = second.measure(&ones, &[metric])[0];
    let difference = value.zip(against).map(|(value, against)| value - against);
    let (interval, p_value) = bootstrap.paired(first, second, metric);
    let mcnemar = mcnemar.filter(|_| matches!(metric.name, "accuracy" | "subset_accuracy"));
    let differs = match (&mcnemar, interval) {
        (Some(test), _) => test.p_value < SIGNIFICANCE,
        (None, Some(interval)) => interval.low > 0.0 || interval.high < 0.0,
        (None, None) => false,
    };
    let verdict = match (difference, metric.direction) {
        (Some(difference), _) if !differs || difference == 0.0 => Verdict::WithinNoise,
        (Some(difference), Direction::HigherIsBetter) if difference > 0.0 => Verdict::Better,
        (Some(difference), Direction::LowerIsBetter) if difference < 0.0 => Verdict::Better,
        (Some(_), _) => Verdict::Worse,
        (None, _) => Verdict::WithinNoise,
    };
    Ok(Comparison { metric: metric.name, value, against, difference, interval, p_value, mcnemar, verdict })
}

/// McNemar's exact two-sided test on whether each sample was right in the first and in the second run.
///
/// Of the samples on which the runs disagree, either is as likely to have been right if they are equally
/// good: a binomial test with one half. Slices of unequal length are read to the shorter one's end.
pub fn mcnemar_exact(first: &[bool], second: &[bool]) -> McNemar {
    let count = |wanted: (bool, bool)| {
        first.iter().zip(second).filter(|&(&first, &second)| (first, second) == wanted).count() as u64
    };
    let (only_first, only_second) = (count((true, false)), count((false, true)));
    McNemar { only_first, only_second, p_value: two_sided_half_binomial(only_first, only_second) }
}

/// 2 · P(X ≤ min(a, b)) for X binomial with a + b trials and one half, at most 1.
fn two_sided_half_binomial(a: u64, b: u64) -> f64 {
    let (trials, fewer) = (a + b, a.min(b));
    // Terms C(n, k) / 2^n in logarithms, relative to the largest one (the last), so that none underflows alone.
    let mut logarithms = Vec::with_capacity(fewer as usize + 1);
    let mut logarithm = -(trials as f64) * std::f64::consts::LN_2;
    logarithms.push(logarithm);
    for k in 1..=fewer {
        logarithm += ((trials - k + 1) as f64 / k as f64).ln();
        logarithms.push(logarithm);
    }
    let total: f64 = logarithms.iter().map(|term| (term - logarithm).exp()).sum();
    (2.0 * (logarithm.exp() * total)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_to_nothing_is_a_coin_landing_alike_six_times() {
        assert!((two_sided_half_binomial(6, 0) - 2.0 / 64.0).abs() < 1e-15);
        assert!((two_sided_half_binomial(1, 5) - 2.0 * 7.0 / 64.0).abs() < 1e-14);
        assert_eq!(two_sided_half_binomial(0, 0), 1.0);
        assert_eq!(two_sided_half_binomial(4, 4), 1.0);
    }

    #[test]
    fn thousands_of_disagreements_do_not_underflow_to_nonsense() {
        let p = two_sided_half_binomial(5000, 5200);
        assert!(p > 0.04 && p < 0.06, "{p}");
    }

    fn classifier(right: &[bool]) -> Classification {
        Classification {
            labels: vec!["a".into(), "b".into()],
            targets: vec![0; right.len()],
            logits: right.iter().flat_map(|&right| if right { [1.0, 0.0] } else { [0.0, 1.0] }).collect(),
            threshold: None,
        }
    }

    #[test]
    fn a_clear_gain_is_better_and_a_run_against_itself_is_noise() {
        let good = classifier(&[true; 40]);
        let poor = classifier(&[[true; 20], [false; 20]].concat());
        let bootstrap = Bootstrap::default();
        let verdict = |a, b, metric| compare_classification(a, b, metric, &bootstrap).unwrap().verdict;
        assert_eq!(verdict(&good, &poor, "accuracy"), Verdict::Better);
        assert_eq!(verdict(&poor, &good, "accuracy"), Verdict::Worse);
        assert_eq!(verdict(&good, &good, "accuracy"), Verdict::WithinNoise);
        assert_eq!(verdict(&good, &poor, "log_loss"), Verdict::Better);
    }

    #[test]
    fn one_sample_of_forty_is_noise() {
        let mut right = [true; 40];
        right[7] = false;
        let comparison = compare_classification(
            &classifier(&[true; 40]),
            &classifier(&right),
            "accuracy",
            &Bootstrap::default(),
        )
        .unwrap();
        assert_eq!(comparison.verdict, Verdict::WithinNoise);
        assert_eq!(comparison.mcnemar.unwrap().only_first, 1);
    }

    #[test]
    fn runs_on_different_targets_are_refused() {
        let first = classifier(&[true, false]);
        let second = Classification { targets: vec![1, 0], ..first.clone() };
        let error = compare_classification(&first, &second, "accuracy", &Bootstrap::default()).unwrap_err();
        assert!(error.to_string().contains("targets differ"), "{error}");
        let error = compare_classification(&first, &first, "rmse", &Bootstrap::default()).unwrap_err();
        assert!(error.to_string().contains("accuracy, balanced_accuracy"), "{error}");
    }
}
