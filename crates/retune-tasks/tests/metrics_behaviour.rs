//! What a reader of `metrics.json` may rely on, whatever the predictions.

use proptest::prelude::*;
use retune_tasks::metrics::{
    Classification, EvaluationOptions, MultiLabel, Regression, evaluate_classification, evaluate_multi_label,
    evaluate_regression,
};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("class {index}")).collect()
}

fn three_classes() -> Classification {
    Classification {
        labels: names(3),
        targets: vec![0, 0, 1, 1, 2, 2, 0, 1],
        logits: [
            [2.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 3.0, 0.0],
            [0.0, 1.0, 0.5],
            [0.0, 0.0, 2.0],
            [1.0, 0.0, 0.5],
            [1.0, 0.0, 0.0],
            [0.0, 2.0, 1.0],
        ]
        .concat(),
        threshold: None,
    }
}

#[test]
fn keys_are_those_of_the_run_folder_contract() {
    let mut report = evaluate_classification(
        &three_classes(),
        &EvaluationOptions { temperature: Some(1.5), ..EvaluationOptions::default() },
    )
    .unwrap();
    let untrained = evaluate_classification(
        &Classification { logits: [0.0, 1.0, 0.0].repeat(8), ..three_classes() },
        &EvaluationOptions::default(),
    )
    .unwrap();
    report.add_baseline("untrained_head", &untrained);
    let json = report.to_json("test_");
    assert_eq!(json["test_samples"], 8);
    assert_eq!(json["test_accuracy"], 0.75);
    assert_eq!(json["test_accuracy_majority_baseline"], 0.375);
    assert_eq!(json["test_accuracy_untrained_head_baseline"], 0.375);
    assert_eq!(json["test_confusion_matrix"]["matrix"][0], serde_json::json!([2, 1, 0]));
    assert_eq!(json["test_per_class"][2]["support"], 2);
    let interval = json["test_accuracy_ci95"].as_array().unwrap();
    assert!(interval[0].as_f64().unwrap() < 0.75 && interval[1].as_f64().unwrap() > 0.75);
    for key in [
        "test_f1_macro",
        "test_f1_macro_ci95",
        "test_mcc",
        "test_auroc",
        "test_ece",
        "test_ece_temperature_scaled",
    ] {
        assert!(json.contains_key(key), "{key} is missing");
    }
}

#[test]
fn a_split_with_one_class_has_no_auroc_rather_than_a_poor_one() {
    let table = Classification {
        labels: names(2),
        targets: vec![1, 1],
        logits: vec![0.0, 1.0, 1.0, 0.0],
        threshold: None,
    };
    let json = evaluate_classification(&table, &EvaluationOptions::default()).unwrap().to_json("eval_");
    assert!(json["eval_auroc"].is_null());
    assert!(json["eval_mcc"].is_null());
    assert_eq!(json["eval_accuracy"], 0.5);
}

#[test]
fn the_same_predictions_give_the_same_intervals_and_another_seed_gives_others() {
    let intervals = |seed| {
        let mut options = EvaluationOptions::default();
        options.bootstrap.seed = seed;
        evaluate_classification(&three_classes(), &options).unwrap().to_json("")["log_loss_ci95"].clone()
    };
    assert_eq!(intervals(1), intervals(1));
    assert_ne!(intervals(1), intervals(2));
}

#[test]
fn a_majority_predictor_chosen_on_training_data_is_measured_on_this_data() {
    let options = EvaluationOptions { majority_class: Some(2), ..EvaluationOptions::default() };
    let json = evaluate_classification(&three_classes(), &options).unwrap().to_json("test_");
    assert_eq!(json["test_accuracy_majority_baseline"], 0.25);
}

#[test]
fn the_mean_explains_none_of_the_variance() {
    let table = Regression { targets: vec![1.0, 2.0, 3.0], predictions: vec![1.1, 2.2, 2.7] };
    let json = evaluate_regression(&table, &EvaluationOptions::default()).unwrap().to_json("test_");
    assert_eq!(json["test_r2_mean_baseline"], 0.0);
    assert!(json["test_rmse"].as_f64() < json["test_rmse_mean_baseline"].as_f64());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn values_lie_in_their_range_and_micro_f1_is_accuracy(
        rows in prop::collection::vec((0u32..4, prop::array::uniform4(-6f32..6.0)), 1..50),
    ) {
        let table = Classification {
            labels: names(4),
            targets: rows.iter().map(|row| row.0).collect(),
            logits: rows.iter().flat_map(|row| row.1).collect(), threshold: None };
        let mut options = EvaluationOptions::default();
        options.bootstrap.resamples = 50;
        let report = evaluate_classification(&table, &options).unwrap();
        for score in &report.scores {
            let (low, high) = score.metric.range;
            for value in score.value.into_iter().chain(score.interval.iter().flat_map(|i| [i.low, i.high])) {
                prop_assert!(low - 1e-12 <= value && value <= high + 1e-12, "{} = {value}", score.metric.name);
            }
            if let Some(interval) = score.interval {
                prop_assert!(interval.low <= interval.high);
            }
        }
        prop_assert_eq!(report.value("f1_micro"), report.value("accuracy"));
    }

    #[test]
    fn the_order_of_samples_does_not_matter(
        rows in prop::collection::vec((0u32..3, prop::array::uniform3(-4i8..4)), 1..40),
        turn in 0usize..40,
    ) {
        let table = |rows: &[(u32, [i8; 3])]| Classification {
            labels: names(3),
            targets: rows.iter().map(|row| row.0).collect(),
            logits: rows.iter().flat_map(|row| row.1.map(f32::from)).collect(), threshold: None };
        let mut options = EvaluationOptions::default();
        options.bootstrap.resamples = 0;
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        let first = evaluate_classification(&table(&rows), &options).unwrap();
        let second = evaluate_classification(&table(&turned), &options).unwrap();
        for (a, b) in first.scores.iter().zip(&second.scores) {
            match (a.value, b.value) {
                (Some(x), Some(y)) => prop_assert!((x - y).abs() < 1e-9, "{}: {x} and {y}", a.metric.name),
                (x, y) => prop_assert_eq!(x, y),
            }
        }
    }

    #[test]
    fn renaming_the_classes_round_does_not_change_the_score(
        rows in prop::collection::vec((0u32..3, prop::array::uniform3(-40i8..40)), 1..40),
    ) {
        let plain = Classification {
            labels: names(3),
            targets: rows.iter().map(|row| row.0).collect(),
            logits: rows.iter().flat_map(|row| row.1.map(f32::from)).collect(), threshold: None };
        let turned = Classification {
            labels: names(3),
            targets: rows.iter().map(|row| (row.0 + 1) % 3).collect(),
            logits: rows.iter().flat_map(|row| [row.1[2], row.1[0], row.1[1]].map(f32::from)).collect(), threshold: None };
        let mut options = EvaluationOptions::default();
        options.bootstrap.resamples = 0;
        let ties = plain.rows().any(|row| row[0] == row[1] || row[1] == row[2] || row[0] == row[2]);
        prop_assume!(!ties);
        let (a, b) = (evaluate_classification(&plain, &options).unwrap(), evaluate_classification(&turned, &options).unwrap());
        for name in ["accuracy", "f1_macro", "mcc", "auroc", "log_loss"] {
            match (a.value(name), b.value(name)) {
                (Some(x), Some(y)) => prop_assert!((x - y).abs() < 1e-9, "{name}: {x} and {y}"),
                (x, y) => prop_assert_eq!(x, y),
            }
        }
    }

    #[test]
    fn exact_match_is_never_above_the_share_of_right_decisions(
        rows in prop::collection::vec((prop::array::uniform3(any::<bool>()), prop::array::uniform3(-3f32..3.0)), 1..40),
    ) {
        let table = MultiLabel {
            labels: names(3),
            targets: rows.iter().flat_map(|row| row.0).collect(),
            logits: rows.iter().flat_map(|row| row.1).collect(),
            thresholds: vec![0.5; 3],
        };
        let mut options = EvaluationOptions::default();
        options.bootstrap.resamples = 0;
        let report = evaluate_multi_label(&table, &options).unwrap();
        prop_assert!(report.value("subset_accuracy").unwrap() <= 1.0 - report.value("hamming_loss").unwrap() + 1e-12);
    }
}
