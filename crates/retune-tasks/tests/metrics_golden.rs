//! Metrics against scikit-learn and SciPy (`fixtures/metrics/make_metrics_golden.py`).

use retune_tasks::metrics::{
    Bootstrap, Classification, EvaluationOptions, EvaluationReport, MultiLabel, Regression,
    evaluate_classification, evaluate_multi_label, evaluate_regression, fit_temperature, mcnemar_exact,
    wilson_interval,
};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    classification: Vec<ClassificationCase>,
    multi_label: Vec<MultiLabelCase>,
    regression: Vec<RegressionCase>,
    mcnemar: Vec<McNemarCase>,
    wilson: Vec<WilsonCase>,
}

#[derive(Deserialize)]
struct ClassificationCase {
    classes: usize,
    targets: Vec<u32>,
    logits: Vec<f32>,
    confusion_matrix: Vec<Vec<u64>>,
    temperature: f64,
    temperature_log_loss: f64,
    expected: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct MultiLabelCase {
    labels: usize,
    targets: Vec<bool>,
    logits: Vec<f32>,
    expected: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct RegressionCase {
    targets: Vec<f64>,
    predictions: Vec<f64>,
    expected: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct McNemarCase {
    only_first: usize,
    only_second: usize,
    p_value: f64,
}

#[derive(Deserialize)]
struct WilsonCase {
    hits: u64,
    total: u64,
    interval: [f64; 2],
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../fixtures/metrics/metrics_golden.json")).unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("class {index}")).collect()
}

fn without_intervals() -> EvaluationOptions {
    EvaluationOptions {
        bootstrap: Bootstrap { resamples: 0, ..Bootstrap::default() },
        ..EvaluationOptions::default()
    }
}

/// Every measured metric has a golden value and every golden value is measured, to 1e-9.
fn assert_same(report: &EvaluationReport, expected: &BTreeMap<String, f64>) {
    assert_eq!(report.scores.len(), expected.len());
    for (name, &expected) in expected {
        let value = report.value(name).unwrap_or_else(|| panic!("{name} is not measured"));
        assert!((value - expected).abs() < 1e-9, "{name}: {value} instead of {expected}");
    }
}

#[test]
fn classification_metrics_equal_scikit_learn() {
    for case in golden().classification {
        let table = Classification {
            labels: names(case.classes),
            targets: case.targets,
            logits: case.logits,
            threshold: None,
        };
        let report = evaluate_classification(&table, &without_intervals()).unwrap();
        assert_same(&report, &case.expected);
        assert_eq!(report.confusion_matrix.unwrap().matrix, case.confusion_matrix);
    }
}

#[test]
fn temperature_equals_scipys_minimum() {
    for case in golden().classification {
        let table = Classification {
            labels: names(case.classes),
            targets: case.targets,
            logits: case.logits,
            threshold: None,
        };
        let fit = fit_temperature(&table).unwrap().unwrap();
        assert!((fit.temperature / case.temperature - 1.0).abs() < 1e-4, "{fit:?}");
        assert!((fit.log_loss_after - case.temperature_log_loss).abs() < 1e-9, "{fit:?}");
    }
}

#[test]
fn multi_label_metrics_equal_scikit_learn() {
    for case in golden().multi_label {
        let table = MultiLabel {
            labels: names(case.labels),
            targets: case.targets,
            logits: case.logits,
            thresholds: vec![0.5; case.labels],
        };
        assert_same(&evaluate_multi_label(&table, &without_intervals()).unwrap(), &case.expected);
    }
}

#[test]
fn regression_metrics_equal_scikit_learn_and_scipy() {
    for case in golden().regression {
        let table = Regression { targets: case.targets, predictions: case.predictions };
        assert_same(&evaluate_regression(&table, &without_intervals()).unwrap(), &case.expected);
    }
}

#[test]
fn mcnemars_test_equals_scipys_binomial_test() {
    for case in golden().mcnemar {
        let first = [vec![true; case.only_first], vec![false; case.only_second], vec![true; 4]].concat();
        let second = [vec![false; case.only_first], vec![true; case.only_second], vec![true; 4]].concat();
        let test = mcnemar_exact(&first, &second);
        assert!((test.p_value - case.p_value).abs() < 1e-10, "{test:?} instead of {}", case.p_value);
    }
}

#[test]
fn wilsons_interval_equals_scipys() {
    for case in golden().wilson {
        let interval = wilson_interval(case.hits, case.total).unwrap();
        assert!((interval.low - case.interval[0]).abs() < 1e-9, "{interval:?}");
        assert!((interval.high - case.interval[1]).abs() < 1e-9, "{interval:?}");
    }
}
