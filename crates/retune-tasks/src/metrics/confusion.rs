//! The confusion matrix and everything that is a function of it: accuracy, precision, recall, F1, balanced
//! accuracy, Matthews correlation. Averages follow scikit-learn's `precision_recall_fscore_support`.

use serde::{Deserialize, Serialize};

use super::ratio;

/// How per-class scores become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// The plain mean over the classes that occur as target or prediction.
    Macro,
    /// The score of the counts of all classes added up.
    Micro,
    /// The mean weighted by each class's number of targets.
    Weighted,
}

/// Counts of target against prediction, `[classes, classes]`, rows are targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionCounts {
    classes: usize,
    counts: Vec<u64>,
}

/// A confusion matrix as it stands in `metrics.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    /// Names of the classes, in `id2label` order.
    pub labels: Vec<String>,
    /// `matrix[target][prediction]`: numbers of samples.
    pub matrix: Vec<Vec<u64>>,
}

/// Precision, recall and F1 of one class or label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Name of the class.
    pub label: String,
    /// TP / (TP + FP); undefined for a class that was never predicted.
    pub precision: Option<f64>,
    /// TP / (TP + FN); undefined for a class without targets.
    pub recall: Option<f64>,
    /// 2TP / (2TP + FP + FN); undefined for a class that is neither target nor prediction.
    pub f1: Option<f64>,
    /// How many samples have this class as target.
    pub support: u64,
}

/// True positives, false positives and false negatives of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub true_positive: u64,
    pub false_positive: u64,
    pub false_negative: u64,
}

impl Tally {
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positive as f64, (self.true_positive + self.false_positive) as f64)
    }

    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_positive as f64, (self.true_positive + self.false_negative) as f64)
    }

    pub fn f1(&self) -> Option<f64> {
        let doubled = 2 * self.true_positive;
        ratio(doubled as f64, (doubled + self.false_positive + self.false_negative) as f64)
    }

    pub fn support(&self) -> u64 {
        self.true_positive + self.false_negative
    }

    fn occurs(&self) -> bool {
        self.true_positive + self.false_positive + self.false_negative > 0
    }

    pub fn named(&self, label: &str) -> ClassScores {
        ClassScores {
            label: label.to_owned(),
            precision: self.precision(),
            recall: self.recall(),
            f1: self.f1(),
            support: self.support(),
        }
    }
}

/// One number from the tallies of all classes. A class that occurs but whose score is 0/0 (never predicted,
/// or without targets) counts as 0 in a mean, as in scikit-learn: leaving it out would flatter the model.
pub(super) fn average(tallies: &[Tally], average: Average, score: fn(&Tally) -> Option<f64>) -> Option<f64> {
    match average {
        Average::Macro => {
            let occurring = tallies.iter().filter(|tally| tally.occurs());
            let (mut total, mut count) = (0.0, 0.0);
            for tally in occurring {
                total += score(tally).unwrap_or(0.0);
                count += 1.0;
            }
            ratio(total, count)
        }
        Average::Micro => {
            let sum = tallies.iter().fold(Tally::default(), |sum, tally| Tally {
                true_positive: sum.true_positive + tally.true_positive,
                false_positive: sum.false_positive + tally.false_positive,
                false_negative: sum.false_negative + tally.false_negative,
            });
            score(&sum)
        }
        Average::Weighted => {
            let (mut total, mut count) = (0.0, 0.0);
            for tally in tallies {
                let support = tally.support() as f64;
                total += support * score(tally).unwrap_or(0.0);
                count += support;
            }
            ratio(total, count)
        }
    }
}

impl ConfusionCounts {
    /// Counts `predictions[i]` against `targets[i]`, sample `i` counted `weights[i]` times.
    ///
    /// Both must be below `classes`; pairs outside are left out.
    pub(super) fn weighted(classes: usize, targets: &[u32], predictions: &[u32], weights: &[u32]) -> Self {
        let mut counts = vec![0; classes * classes];
        for ((&target, &prediction), &weight) in targets.iter().zip(predictions).zip(weights) {
            let (target, prediction) = (target as usize, prediction as usize);
            if target < classes && prediction < classes {
                counts[target * classes + prediction] += u64::from(weight);
            }
        }
        ConfusionCounts { classes, counts }
    }

    /// Counts `predictions[i]` against `targets[i]`. Pairs with an index not below `classes` are left out.
    pub fn new(classes: usize, targets: &[u32], predictions: &[u32]) -> Self {
        Self::weighted(classes, targets, predictions, &vec![1; targets.len()])
    }

    /// The matrix with names, as `metrics.json` has it. Missing names become the class's number.
    pub fn named(&self, labels: &[String]) -> ConfusionMatrix {
        ConfusionMatrix {
            labels: (0..self.classes)
                .map(|class| labels.get(class).cloned().unwrap_or_else(|| class.to_string()))
                .collect(),
            matrix: self.counts.chunks(self.classes.max(1)).map(<[u64]>::to_vec).collect(),
        }
    }

    /// Precision, recall, F1 and support of each class.
    pub fn per_class(&self, labels: &[String]) -> Vec<ClassScores> {
        self.tallies().iter().zip(labels).map(|(tally, label)| tally.named(label)).collect()
    }

    /// The class with the most targets (the first of several).
    pub fn majority_class(&self) -> Option<u32> {
        let supports: Vec<u64> = self.tallies().iter().map(Tally::support).collect();
        let most = *supports.iter().max().filter(|&&most| most > 0)?;
        supports.iter().position(|&support| support == most).map(|class| class as u32)
    }

    /// Share of samples on the diagonal.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.diagonal() as f64, self.total() as f64)
    }

    /// How many samples are on the diagonal.
    pub fn diagonal(&self) -> u64 {
        (0..self.classes).map(|class| self.counts[class * self.classes + class]).sum()
    }

    /// How many samples were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Mean recall over the classes that have targets.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let recalls: Vec<f64> = self.tallies().iter().filter_map(Tally::recall).collect();
        ratio(recalls.iter().sum(), recalls.len() as f64)
    }

    /// Precision over all classes.
    pub fn precision(&self, kind: Average) -> Option<f64> {
        average(&self.tallies(), kind, Tally::precision)
    }

    /// Recall over all classes.
    pub fn recall(&self, kind: Average) -> Option<f64> {
        average(&self.tallies(), kind, Tally::recall)
    }

    /// F1 over all classes.
    pub fn f1(&self, kind: Average) -> Option<f64> {
        average(&self.tallies(), kind, Tally::f1)
    }

    /// Matthews correlation for any number of classes (Gorodkin 2004, R_K); undefined when all targets or
    /// all predictions are of one class.
    pub fn matthews_correlation(&self) -> Option<f64> {
        let total = self.total() as f64;
        let (mut products, mut targets_squared, mut predictions_squared) = (0.0, 0.0, 0.0);
        for tally in self.tallies() {
            let targets = tally.support() as f64;
            let predictions = (tally.true_positive + tally.false_positive) as f64;
            products += targets * predictions;
            targets_squared += targets * targets;
            predictions_squared += predictions * predictions;
        }
        let spread = (total * total - targets_squared) * (total * total - predictions_squared);
        ratio(self.diagonal() as f64 * total - products, spread.sqrt())
    }

    /// The tally of one class.
    pub(super) fn tally(&self, class: usize) -> Tally {
        self.tallies().get(class).copied().unwrap_or_default()
    }

    fn tallies(&self) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); self.classes];
        for target in 0..self.classes {
            for prediction in 0..self.classes {
                let count = self.counts[target * self.classes + prediction];
                if target == prediction {
                    tallies[target].true_positive += count;
                } else {
                    tallies[target].false_negative += count;
                    tallies[prediction].false_positive += count;
                }
            }
        }
        tallies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Targets 0 0 0 1 1 2, predictions 0 0 1 1 0 2: two of three, one of two, one of one right.
    fn six_samples() -> ConfusionCounts {
        ConfusionCounts::new(3, &[0, 0, 0, 1, 1, 2], &[0, 0, 1, 1, 0, 2])
    }

    #[test]
    fn counts_give_the_scores_a_reader_can_work_out() {
        let counts = six_samples();
        assert_eq!(counts.accuracy(), Some(4.0 / 6.0));
        assert_eq!(counts.balanced_accuracy(), Some((2.0 / 3.0 + 0.5 + 1.0) / 3.0));
        assert_eq!(counts.f1(Average::Micro), Some(8.0 / 12.0));
        let classes = counts.per_class(&["a".into(), "b".into(), "c".into()]);
        assert_eq!(classes[0].precision, Some(2.0 / 3.0));
        assert_eq!(classes[1].f1, Some(0.5));
        assert_eq!(classes[2].support, 1);
    }

    #[test]
    fn a_class_that_never_occurs_is_undefined_and_leaves_the_mean_alone() {
        let with_extra = ConfusionCounts::new(4, &[0, 0, 0, 1, 1, 2], &[0, 0, 1, 1, 0, 2]);
        let scores = with_extra.per_class(&["a", "b", "c", "d"].map(String::from));
        assert_eq!((scores[3].precision, scores[3].recall, scores[3].f1), (None, None, None));
        assert_eq!(with_extra.f1(Average::Macro), six_samples().f1(Average::Macro));
    }

    #[test]
    fn a_class_never_predicted_pulls_macro_precision_down() {
        let counts = ConfusionCounts::new(2, &[0, 1], &[0, 0]);
        assert_eq!(counts.per_class(&["a".into(), "b".into()])[1].precision, None);
        assert_eq!(counts.precision(Average::Macro), Some(0.25));
    }

    #[test]
    fn matthews_correlation_of_a_constant_predictor_is_undefined() {
        assert_eq!(ConfusionCounts::new(2, &[0, 1, 1], &[1, 1, 1]).matthews_correlation(), None);
        assert_eq!(ConfusionCounts::new(2, &[0, 1], &[0, 1]).matthews_correlation(), Some(1.0));
        assert_eq!(ConfusionCounts::new(2, &[0, 1], &[1, 0]).matthews_correlation(), Some(-1.0));
    }

    #[test]
    fn nothing_counted_is_undefined_everywhere() {
        let counts = ConfusionCounts::new(2, &[], &[]);
        assert_eq!(
            (counts.accuracy(), counts.f1(Average::Macro), counts.majority_class()),
            (None, None, None)
        );
    }
}
