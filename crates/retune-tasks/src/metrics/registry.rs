//! The list of metrics: name, what it means, which way is better. Everything that prints, plots or stops
//! early on a metric asks this list, so that a direction is written down once.

use serde::Serialize;

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better, as for accuracy.
    HigherIsBetter,
    /// Less is better, as for a loss.
    LowerIsBetter,
}

/// One way of measuring predictions.
#[derive(Debug, PartialEq, Serialize)]
pub struct Metric {
    /// The key in `metrics.json` after its `eval_` or `test_` prefix.
    pub name: &'static str,
    /// What a person reads in a table.
    pub display_name: &'static str,
    /// One line that says exactly what is computed.
    pub definition: &'static str,
    /// Which way it improves.
    pub direction: Direction,
    /// Smallest and largest possible value (infinite where there is no bound).
    pub range: (f64, f64),
}

impl Metric {
    /// The metric of this name, with or without an `eval_`, `test_` or `train_` prefix; the names that
    /// Hugging Face's `evaluate` uses for the same thing are understood too.
    pub fn find(name: &str) -> Option<&'static Metric> {
        let bare =
            ["eval_", "test_", "train_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let canonical = match bare {
            "matthews_correlation" => "mcc",
            "roc_auc" => "auroc",
            "pearsonr" => "pearson",
            "spearmanr" => "spearman",
            "macro_f1" => "f1_macro",
            "micro_f1" => "f1_micro",
            "weighted_f1" => "f1_weighted",
            other => other,
        };
        METRICS.iter().find(|metric| metric.name == canonical)
    }

    /// Whether `a` is strictly better than `b`. Any number is better than NaN; NaN is never better.
    pub fn better(&self, a: f64, b: f64) -> bool {
        if a.is_nan() || b.is_nan() {
            return !a.is_nan() && b.is_nan();
        }
        match self.direction {
            Direction::HigherIsBetter => a > b,
            Direction::LowerIsBetter => a < b,
        }
    }
}

const fn higher(
    name: &'static str,
    display_name: &'static str,
    range: (f64, f64),
    definition: &'static str,
) -> Metric {
    Metric { name, display_name, definition, direction: Direction::HigherIsBetter, range }
}

const fn lower(
    name: &'static str,
    display_name: &'static str,
    range: (f64, f64),
    definition: &'static str,
) -> Metric {
    Metric { name, display_name, definition, direction: Direction::LowerIsBetter, range }
}

const SHARE: (f64, f64) = (0.0, 1.0);
const CORRELATION: (f64, f64) = (-1.0, 1.0);
const NON_NEGATIVE: (f64, f64) = (0.0, f64::INFINITY);

/// Every metric, in the order of a report.
pub static METRICS: &[Metric] = &[
    lower(
        "loss",
        "Loss",
        (f64::NEG_INFINITY, f64::INFINITY),
        "Mean of the training objective over the samples.",
    ),
    higher("accuracy", "Accuracy", SHARE, "Share of samples whose highest-scoring class is the target."),
    higher(
        "balanced_accuracy",
        "Balanced accuracy",
        SHARE,
        "Mean recall over the classes that occur among the targets.",
    ),
    higher("f1", "F1", SHARE, "Harmonic mean of precision and recall of the second of two classes."),
    higher(
        "precision",
        "Precision",
        SHARE,
        "Share of predictions of the second of two classes that are right.",
    ),
    higher("recall", "Recall", SHARE, "Share of samples of the second of two classes that are found."),
    higher(
        "f1_macro",
        "F1, macro",
        SHARE,
        "Mean over the classes that occur (as target or prediction) of F1 = 2TP / (2TP + FP + FN).",
    ),
    higher("f1_micro", "F1, micro", SHARE, "2TP / (2TP + FP + FN) with the counts of all classes added up."),
    higher(
        "f1_weighted",
        "F1, weighted",
        SHARE,
        "Mean F1 over classes, each weighted by its number of targets.",
    ),
    higher(
        "precision_macro",
        "Precision, macro",
        SHARE,
        "Mean over the classes that occur of TP / (TP + FP); a class never predicted counts as 0.",
    ),
    higher(
        "precision_micro",
        "Precision, micro",
        SHARE,
        "TP / (TP + FP) with the counts of all classes added up.",
    ),
    higher(
        "precision_weighted",
        "Precision, weighted",
        SHARE,
        "Mean precision over classes, each weighted by its number of targets.",
    ),
    higher(
        "recall_macro",
        "Recall, macro",
        SHARE,
        "Mean over the classes that occur of TP / (TP + FN); a class without targets counts as 0.",
    ),
    higher("recall_micro", "Recall, micro", SHARE, "TP / (TP + FN) with the counts of all classes added up."),
    higher(
        "recall_weighted",
        "Recall, weighted",
        SHARE,
        "Mean recall over classes, each weighted by its number of targets.",
    ),
    higher(
        "mcc",
        "Matthews correlation",
        CORRELATION,
        "Correlation between target and predicted class (Gorodkin 2004 for more than two classes).",
    ),
    higher(
        "auroc",
        "AUROC",
        SHARE,
        "Chance that a positive sample scores above a negative one, ties counting half; over more than two \
         classes the mean of each class against the rest.",
    ),
    higher(
        "average_precision",
        "Average precision",
        SHARE,
        "Sum of precision times gained recall down the ranking; over several classes their mean.",
    ),
    higher("subset_accuracy", "Exact match", SHARE, "Share of samples whose whole set of labels is right."),
    lower("hamming_loss", "Hamming loss", SHARE, "Share of single label decisions that are wrong."),
    lower(
        "log_loss",
        "Log loss",
        NON_NEGATIVE,
        "Mean negative natural logarithm of the target's probability.",
    ),
    lower(
        "ece",
        "Calibration error",
        SHARE,
        "Expected calibration error: mean gap between confidence and share right, over 15 equal-width bins.",
    ),
    lower("mse", "Mean squared error", NON_NEGATIVE, "Mean of (prediction − target)²."),
    lower(
        "rmse",
        "Root mean squared error",
        NON_NEGATIVE,
        "Square root of the mean of (prediction − target)².",
    ),
    lower("mae", "Mean absolute error", NON_NEGATIVE, "Mean of |prediction − target|."),
    higher(
        "r2",
        "R²",
        (f64::NEG_INFINITY, 1.0),
        "Share of the targets' variance explained: 1 − Σ(prediction − target)² / Σ(target − mean)².",
    ),
    higher("pearson", "Pearson correlation", CORRELATION, "Linear correlation of prediction and target."),
    higher(
        "spearman",
        "Spearman correlation",
        CORRELATION,
        "Linear correlation of their ranks, ties averaged.",
    ),
];

/// The metrics of these names, in this order. Names that the registry lacks are a mistake in this crate,
/// caught by the test below rather than in a user's run.
pub(super) fn metrics_named(names: &[&str]) -> Vec<&'static Metric> {
    names.iter().filter_map(|name| Metric::find(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_ranges_are_ordered() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert!(metric.range.0 < metric.range.1, "{}", metric.name);
            assert!(metric.definition.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn a_prefix_or_a_hugging_face_name_finds_the_metric() {
        assert_eq!(Metric::find("eval_accuracy").unwrap().name, "accuracy");
        assert_eq!(Metric::find("matthews_correlation").unwrap().name, "mcc");
        assert_eq!(Metric::find("test_roc_auc").unwrap().name, "auroc");
        assert!(Metric::find("acuracy").is_none());
    }

    #[test]
    fn better_follows_the_direction_and_never_prefers_nan() {
        let accuracy = Metric::find("accuracy").unwrap();
        let loss = Metric::find("loss").unwrap();
        assert!(accuracy.better(0.9, 0.8) && !accuracy.better(0.8, 0.8));
        assert!(loss.better(0.1, 0.2) && !loss.better(0.2, 0.1));
        assert!(
            !loss.better(f64::NAN, 3.0) && loss.better(3.0, f64::NAN) && !loss.better(f64::NAN, f64::NAN)
        );
    }
}
