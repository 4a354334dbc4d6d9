//! Multi-label classification: every label is a yes-or-no question of its own.

use super::calibration::ReliabilityDiagram;
use super::confusion::{Average, ClassScores, Tally, average};
use super::ranking::Ranking;
use super::registry::metrics_named;
use super::{Metric, MetricsError, Table, ratio, weighted_mean};

/// Predictions of a multi-label classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiLabel {
    /// Names of the labels, in `id2label` order.
    pub labels: Vec<String>,
    /// Whether each label holds, row-major `[samples, labels]`.
    pub targets: Vec<bool>,
    /// Row-major `[samples, labels]`.
    pub logits: Vec<f32>,
    /// For each label, from which sigmoid on it is predicted; 0.5 unless chosen otherwise.
    pub thresholds: Vec<f64>,
}

impl MultiLabel {
    /// Checks shapes and finiteness.
    ///
    /// # Errors
    /// When the table is empty or misshapen, or a logit is not finite.
    pub fn check(&self) -> Result<(), MetricsError> {
        let labels = self.labels.len();
        if self.targets.is_empty() || labels == 0 {
            return Err(MetricsError::Empty);
        }
        let expected = self.targets.len().div_ceil(labels) * labels;
        if self.targets.len() != expected {
            return Err(MetricsError::Shape { what: "targets", expected, found: self.targets.len() });
        }
        if self.logits.len() != expected {
            return Err(MetricsError::Shape { what: "logits", expected, found: self.logits.len() });
        }
        if self.thresholds.len() != labels {
            let found = self.thresholds.len();
            return Err(MetricsError::Shape { what: "thresholds", expected: labels, found });
        }
        if let Some(index) = self.logits.iter().position(|logit| !logit.is_finite()) {
            return Err(MetricsError::NotFinite { sample: index / labels, what: "logit" });
        }
        Ok(())
    }

    /// Whether each label is predicted, `[samples, labels]`.
    pub fn predictions(&self) -> Vec<bool> {
        self.logits
            .iter()
            .zip(self.thresholds.iter().cycle())
            .map(|(&logit, &threshold)| sigmoid(logit) >= threshold)
            .collect()
    }

    /// The stated probability of each label against its holding, over all samples and labels.
    pub fn reliability(&self) -> ReliabilityDiagram {
        let mut diagram = ReliabilityDiagram::default();
        for (&logit, &holds) in self.logits.iter().zip(&self.targets) {
            diagram.add(sigmoid(logit), holds);
        }
        diagram
    }
}

pub(super) fn sigmoid(logit: f32) -> f64 {
    (1.0 + (-f64::from(logit)).exp()).recip()
}

/// −ln of the probability given to what is true: ln(1 + e^x) − x·target, without overflow.
fn binary_log_loss(logit: f32, target: bool) -> f64 {
    let logit = f64::from(logit);
    let signed = if target { -logit } else { logit };
    signed.max(0.0) + (-signed.abs()).exp().ln_1p()
}

/// A multi-label table prepared for measuring.
pub(super) struct MultiLabelTable {
    labels: usize,
    targets: Vec<bool>,
    predictions: Vec<bool>,
    probabilities: Vec<f64>,
    log_losses: Vec<f64>,
    rankings: Vec<Ranking>,
    metrics: Vec<&'static Metric>,
}

impl MultiLabelTable {
    /// Prepares a checked table.
    pub fn new(table: &MultiLabel) -> Self {
        let labels = table.labels.len();
        let rankings = (0..labels)
            .map(|label| {
                let column = |index: usize| index * labels + label;
                let samples = table.targets.len() / labels;
                let scores: Vec<f64> =
                    (0..samples).map(|index| f64::from(table.logits[column(index)])).collect();
                Ranking::new(&scores, (0..samples).map(|index| table.targets[column(index)]).collect())
            })
            .collect();
        MultiLabelTable {
            labels,
            targets: table.targets.clone(),
            predictions: table.predictions(),
            probabilities: table.logits.iter().map(|&logit| sigmoid(logit)).collect(),
            log_losses: table
                .logits
                .iter()
                .zip(&table.targets)
                .map(|(&logit, &target)| binary_log_loss(logit, target))
                .collect(),
            rankings,
            metrics: metrics_named(&[
                "f1_micro",
                "f1_macro",
                "f1_weighted",
                "precision_micro",
                "precision_macro",
                "recall_micro",
                "recall_macro",
                "subset_accuracy",
                "hamming_loss",
                "auroc",
                "average_precision",
                "log_loss",
                "ece",
            ]),
        }
    }

    /// The same table with every sample given the same set of labels (no ranking metrics).
    pub fn constant(table: &MultiLabel, prediction: &[bool]) -> Self {
        let full = MultiLabelTable::new(table);
        let samples = full.targets.len() / full.labels;
        MultiLabelTable {
            predictions: prediction.repeat(samples),
            metrics: metrics_named(&[
                "f1_micro",
                "f1_macro",
                "f1_weighted",
                "subset_accuracy",
                "hamming_loss",
            ]),
            ..full
        }
    }

    /// Precision, recall and F1 of each label.
    pub fn per_class(&self, labels: &[String]) -> Vec<ClassScores> {
        let ones = vec![1; self.samples()];
        self.tallies(&ones).iter().zip(labels).map(|(tally, label)| tally.named(label)).collect()
    }

    /// Whether each sample's whole set of labels is right.
    pub fn hits(&self) -> Vec<bool> {
        (0..self.samples()).map(|sample| self.exact(sample)).collect()
    }

    fn span(&self, sample: usize) -> std::ops::Range<usize> {
        sample * self.labels..(sample + 1) * self.labels
    }

    fn exact(&self, sample: usize) -> bool {
        self.targets[self.span(sample)] == self.predictions[self.span(sample)]
    }

    fn tallies(&self, weights: &[u32]) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); self.labels];
        for (sample, &weight) in weights.iter().enumerate() {
            let span = self.span(sample);
            let pairs = self.targets[span.clone()].iter().zip(&self.predictions[span]);
            for (tally, pair) in tallies.iter_mut().zip(pairs) {
                match pair {
                    (true, true) => tally.true_positive += u64::from(weight),
                    (false, true) => tally.false_positive += u64::from(weight),
                    (true, false) => tally.false_negative += u64::from(weight),
                    (false, false) => {}
                }
            }
        }
        tallies
    }

    /// Mean over a sample's labels of a value per label decision.
    fn mean_decision(&self, weights: &[u32], value: impl Fn(usize) -> f64) -> Option<f64> {
        weighted_mean(weights, |sample| self.span(sample).map(&value).sum::<f64>() / self.labels as f64)
    }

    fn mean_over_rankings(&self, metric: impl Fn(&Ranking) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.rankings.iter().filter_map(metric).collect();
        ratio(values.iter().sum(), values.len() as f64)
    }
}

impl Table for MultiLabelTable {
    fn samples(&self) -> usize {
        self.targets.len() / self.labels
    }

    fn metrics(&self) -> &[&'static Metric] {
        &self.metrics
    }

    fn measure(&self, weights: &[u32], wanted: &[&'static Metric]) -> Vec<Option<f64>> {
        let tallies = self.tallies(weights);
        let measure = |metric: &&'static Metric| match metric.name {
            "f1_micro" => average(&tallies, Average::Micro, Tally::f1),
            "f1_macro" => average(&tallies, Average::Macro, Tally::f1),
            "f1_weighted" => average(&tallies, Average::Weighted, Tally::f1),
            "precision_micro" => average(&tallies, Average::Micro, Tally::precision),
            "precision_macro" => average(&tallies, Average::Macro, Tally::precision),
            "recall_micro" => average(&tallies, Average::Micro, Tally::recall),
            "recall_macro" => average(&tallies, Average::Macro, Tally::recall),
            "subset_accuracy" => weighted_mean(weights, |sample| f64::from(u8::from(self.exact(sample)))),
            "hamming_loss" => self.mean_decision(weights, |index| {
                f64::from(u8::from(self.targets[index] != self.predictions[index]))
            }),
            "auroc" => self.mean_over_rankings(|ranking| ranking.auroc(weights)),
            "average_precision" => self.mean_over_rankings(|ranking| ranking.average_precision(weights)),
            "log_loss" => self.mean_decision(weights, |index| self.log_losses[index]),
            "ece" => {
                let mut diagram = ReliabilityDiagram::default();
                for (sample, &weight) in weights.iter().enumerate() {
                    for index in self.span(sample) {
                        diagram.add_weighted(self.probabilities[index], self.targets[index], weight);
                    }
                }
                diagram.expected_calibration_error()
            }
            _ => None,
        };
        wanted.iter().map(measure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two samples, three labels; the first is right throughout, the second misses its only label.
    fn two_samples() -> MultiLabel {
        MultiLabel {
            labels: ["a", "b", "c"].map(String::from).to_vec(),
            targets: vec![true, false, true, false, true, false],
            logits: vec![3.0, -3.0, 2.0, -1.0, -2.0, -3.0],
            thresholds: vec![0.5; 3],
        }
    }

    #[test]
    fn two_samples_by_hand() {
        let table = MultiLabelTable::new(&two_samples());
        let values = table
            .measure(&[1, 1], &metrics_named(&["subset_accuracy", "hamming_loss", "f1_micro", "f1_macro"]));
        // 2 hits, 1 miss: 4 / 5; labels a and c perfect, b at 0.
        assert_eq!(values, vec![Some(0.5), Some(1.0 / 6.0), Some(0.8), Some(2.0 / 3.0)]);
    }

    #[test]
    fn a_label_nobody_has_and_nobody_predicts_is_left_out_of_the_mean() {
        let mut table = two_samples();
        table.targets[4] = false;
        let measured = MultiLabelTable::new(&table).measure(&[1, 1], &metrics_named(&["f1_macro"]));
        assert_eq!(measured, vec![Some(1.0)]);
    }

    #[test]
    fn log_loss_of_a_large_logit_is_the_logit() {
        assert!((binary_log_loss(800.0, false) - 800.0).abs() < 1e-9);
        assert_eq!(binary_log_loss(800.0, true), 0.0);
        assert!((binary_log_loss(0.0, true) - 2f64.ln()).abs() < 1e-15);
    }
}
