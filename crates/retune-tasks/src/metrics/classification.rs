//! Single-label classification: a table of logits and everything measured on it.

use super::calibration::ReliabilityDiagram;
use super::confusion::{Average, ConfusionCounts};
use super::multi_label::sigmoid;
use super::ranking::Ranking;
use super::registry::metrics_named;
use super::{Metric, MetricsError, Table, ratio, weighted_mean};

/// Predictions of a single-label classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// Names of the classes, in `id2label` order.
    pub labels: Vec<String>,
    /// The right class of each sample, `[samples]`.
    pub targets: Vec<u32>,
    /// Row-major `[samples, classes]`.
    pub logits: Vec<f32>,
    /// With two classes, the probability of the second from which on it is predicted; 0.5 unless chosen otherwise.
    pub threshold: Option<f64>,
}

impl Classification {
    /// Checks shapes, targets and finiteness.
    ///
    /// # Errors
    /// When the table is empty or misshapen, a target is no class, or a logit is not finite.
    pub fn check(&self) -> Result<(), MetricsError> {
        let classes = self.labels.len();
        if self.targets.is_empty() || classes == 0 {
            return Err(MetricsError::Empty);
        }
        let expected = self.targets.len() * classes;
        if self.logits.len() != expected {
            return Err(MetricsError::Shape { what: "logits", expected, found: self.logits.len() });
        }
        if let Some(sample) = self.targets.iter().position(|&target| target as usize >= classes) {
            return Err(MetricsError::TargetOutOfRange { sample, target: self.targets[sample], classes });
        }
        if let Some(index) = self.logits.iter().position(|logit| !logit.is_finite()) {
            return Err(MetricsError::NotFinite { sample: index / classes, what: "logit" });
        }
        Ok(())
    }

    /// The logits of each sample, `[classes]` at a time.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.labels.len().max(1))
    }

    /// The predicted class of each sample: the highest-scoring, the first of equal ones, unless a threshold decides.
    pub fn predictions(&self) -> Vec<u32> {
        match self.threshold {
            Some(threshold) if self.labels.len() == 2 => {
                self.rows().map(|row| u32::from(sigmoid(row[1] - row[0]) >= threshold)).collect()
            }
            _ => self.rows().map(argmax).collect(),
        }
    }

    /// Confidence in the most probable class against being right, with logits divided by `temperature`.
    pub fn reliability(&self, temperature: f64) -> ReliabilityDiagram {
        let mut diagram = ReliabilityDiagram::default();
        for (row, &target) in self.rows().zip(&self.targets) {
            let prediction = argmax(row);
            diagram.add(confidence(row, temperature), prediction == target);
        }
        diagram
    }
}

/// The index of the largest value, the first of equal ones.
pub(super) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = index;
        }
    }
    best as u32
}

/// ln Σ exp(scale · logit), computed from the largest logit down.
pub(super) fn log_sum_exp(row: &[f32], scale: f64) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = row.iter().map(|&logit| (scale * (f64::from(logit) - largest)).exp()).sum();
    scale * largest + total.ln()
}

/// The largest softmax probability of a row.
fn confidence(row: &[f32], temperature: f64) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    (largest / temperature - log_sum_exp(row, temperature.recip())).exp()
}

/// ln p/(1 − p) of each class's softmax probability p, into `odds` (`[classes]`).
///
/// Ranks samples exactly as p does, without the ties that p has once it rounds to 1.
fn log_odds(row: &[f32], odds: &mut [f64]) {
    let best = argmax(row) as usize;
    let largest = f64::from(row[best]);
    // Without the largest term, whose exponential is exactly 1.
    let others: f64 = (0..row.len())
        .filter(|&class| class != best)
        .map(|class| (f64::from(row[class]) - largest).exp())
        .sum();
    for (class, odds) in odds.iter_mut().enumerate() {
        let logit = f64::from(row[class]) - largest;
        *odds = if class == best { -others.ln() } else { logit - (1.0 + others - logit.exp()).ln() };
    }
}

/// A classification prepared for measuring: sorted and exponentiated once, weighted many times.
pub(super) struct ClassificationTable {
    classes: usize,
    targets: Vec<u32>,
    predictions: Vec<u32>,
    /// Whether the most probable class, of which the confidences are, is right.
    is_probable: Vec<bool>,
    confidences: Vec<f64>,
    log_losses: Vec<f64>,
    /// One per class, or one alone (the second class) with two classes; empty where not prepared.
    rankings: Vec<Ranking>,
    metrics: Vec<&'static Metric>,
}

impl ClassificationTable {
    /// Prepares a checked table.
    pub fn new(table: &Classification) -> Self {
        let classes = table.labels.len();
        let samples = table.targets.len();
        let mut columns = vec![Vec::with_capacity(samples); classes];
        let mut odds = vec![0.0; classes];
        for row in table.rows() {
            log_odds(row, &mut odds);
            for (column, &value) in columns.iter_mut().zip(&odds) {
                column.push(value);
            }
        }
        let ranked_classes = if classes == 2 { 1..2 } else { 0..classes };
        let rankings = ranked_classes
            .map(|class| {
                let positive = table.targets.iter().map(|&target| target as usize == class).collect();
                Ranking::new(&columns[class], positive)
            })
            .collect();
        let mut names = vec!["accuracy", "balanced_accuracy"];
        if classes == 2 {
            names.extend(["f1", "precision", "recall"]);
        }
        names.extend(["f1_macro", "f1_micro", "f1_weighted"]);
        names.extend(["precision_macro", "precision_micro", "precision_weighted"]);
        names.extend(["recall_macro", "recall_micro", "recall_weighted"]);
        names.extend(["mcc", "auroc", "average_precision", "log_loss", "ece"]);
        ClassificationTable {
            classes,
            targets: table.targets.clone(),
            predictions: table.predictions(),
            is_probable: table
                .rows()
                .zip(&table.targets)
                .map(|(row, &target)| argmax(row) == target)
                .collect(),
            confidences: table.rows().map(|row| confidence(row, 1.0)).collect(),
            log_losses: table
                .rows()
                .zip(&table.targets)
                .map(|(row, &target)| log_sum_exp(row, 1.0) - f64::from(row[target as usize]))
                .collect(),
            rankings,
            metrics: metrics_named(&names),
        }
    }

    /// Target against prediction, unweighted.
    pub fn counts(&self) -> ConfusionCounts {
        ConfusionCounts::new(self.classes, &self.targets, &self.predictions)
    }

    /// Whether each prediction is right.
    pub fn hits(&self) -> Vec<bool> {
        self.targets.iter().zip(&self.predictions).map(|(target, prediction)| target == prediction).collect()
    }

    /// Mean over the classes of a metric of their rankings, classes where it is undefined left out.
    fn mean_over_rankings(&self, metric: impl Fn(&Ranking) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.rankings.iter().filter_map(metric).collect();
        ratio(values.iter().sum(), values.len() as f64)
    }
}

/// The metrics that are functions of the confusion matrix.
pub(super) fn from_counts(name: &str, counts: &ConfusionCounts) -> Option<f64> {
    match name {
        "accuracy" => counts.accuracy(),
        "balanced_accuracy" => counts.balanced_accuracy(),
        "f1" => counts.tally(1).f1(),
        "precision" => counts.tally(1).precision(),
        "recall" => counts.tally(1).recall(),
        "f1_macro" => counts.f1(Average::Macro),
        "f1_micro" => counts.f1(Average::Micro),
        "f1_weighted" => counts.f1(Average::Weighted),
        "precision_macro" => counts.precision(Average::Macro),
        "precision_micro" => counts.precision(Average::Micro),
        "precision_weighted" => counts.precision(Average::Weighted),
        "recall_macro" => counts.recall(Average::Macro),
        "recall_micro" => counts.recall(Average::Micro),
        "recall_weighted" => counts.recall(Average::Weighted),
        "mcc" => counts.matthews_correlation(),
        _ => None,
    }
}

impl Table for ClassificationTable {
    fn samples(&self) -> usize {
        self.targets.len()
    }

    fn metrics(&self) -> &[&'static Metric] {
        &self.metrics
    }

    fn measure(&self, weights: &[u32], wanted: &[&'static Metric]) -> Vec<Option<f64>> {
        let counts = ConfusionCounts::weighted(self.classes, &self.targets, &self.predictions, weights);
        let measure = |metric: &&'static Metric| match metric.name {
            "auroc" => self.mean_over_rankings(|ranking| ranking.auroc(weights)),
            "average_precision" => self.mean_over_rankings(|ranking| ranking.average_precision(weights)),
            "log_loss" => weighted_mean(weights, |index| self.log_losses[index]),
            "ece" => {
                let mut diagram = ReliabilityDiagram::default();
                for (index, &weight) in weights.iter().enumerate() {
                    diagram.add_weighted(self.confidences[index], self.is_probable[index], weight);
                }
                diagram.expected_calibration_error()
            }
            name => from_counts(name, &counts),
        };
        wanted.iter().map(measure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_odds_rank_where_probabilities_have_become_one() {
        let mut near = [0.0; 3];
        let mut far = [0.0; 3];
        log_odds(&[100.0, 0.0, 0.0], &mut near);
        log_odds(&[200.0, 0.0, 0.0], &mut far);
        assert!(far[0] > near[0]);
        // p = (e, 1, 1) / (e + 2): ln e/2, ln 1/(e + 1)
        let mut odds = [0.0; 3];
        log_odds(&[1.0, 0.0, 0.0], &mut odds);
        assert!((odds[0] - (1.0 - 2f64.ln())).abs() < 1e-12);
        assert!((odds[1] + (1f64.exp() + 1.0).ln()).abs() < 1e-12);
    }

    #[test]
    fn equal_logits_predict_the_first_class() {
        assert_eq!(argmax(&[0.5, 0.5]), 0);
    }

    #[test]
    fn a_bad_table_is_refused_with_its_row() {
        let good = Classification {
            labels: vec!["a".into(), "b".into()],
            targets: vec![0, 1],
            logits: vec![0.0, 1.0, 2.0, 3.0],
            threshold: None,
        };
        assert_eq!(good.check(), Ok(()));
        let nan = Classification { logits: vec![0.0, 1.0, 2.0, f32::NAN], ..good.clone() };
        assert_eq!(nan.check(), Err(MetricsError::NotFinite { sample: 1, what: "logit" }));
        let stray = Classification { targets: vec![0, 2], ..good.clone() };
        assert_eq!(stray.check(), Err(MetricsError::TargetOutOfRange { sample: 1, target: 2, classes: 2 }));
        let short = Classification { logits: vec![0.0], ..good.clone() };
        assert!(matches!(short.check(), Err(MetricsError::Shape { expected: 4, found: 1, .. })));
        assert_eq!(
            Classification { targets: vec![], logits: vec![], ..good }.check(),
            Err(MetricsError::Empty)
        );
    }
}
