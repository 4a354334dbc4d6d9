//! Classification and regression of any sample: one label, any number of labels, or numbers; loss, scores, predictions.

use retune_data::{LabelSet, Target, TargetKind};
use retune_kernels as kernels;
use retune_tensor::{Context, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::metrics::{
    Classification, EvaluationOptions, EvaluationReport, MetricsError, MultiLabel, Regression, ThresholdGoal,
    best_threshold, evaluate_classification, evaluate_multi_label, evaluate_regression,
};

/// What the outputs mean, under Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One class per sample: softmax and cross-entropy.
    SingleLabelClassification,
    /// Any number of classes per sample: a sigmoid and binary cross-entropy per class.
    MultiLabelClassification,
    /// One or several numbers per sample: mean squared error.
    Regression,
}

impl ProblemType {
    /// What its label column holds.
    pub fn target_kind(self) -> TargetKind {
        match self {
            Self::SingleLabelClassification => TargetKind::SingleLabel,
            Self::MultiLabelClassification => TargetKind::MultiLabel,
            Self::Regression => TargetKind::Regression,
        }
    }
}

/// The probability from which on a label of a multi-label task is predicted, unless a threshold was tuned.
pub const MULTI_LABEL_THRESHOLD: f64 = 0.5;

/// The task: which labels, which loss.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassificationTask {
    /// What the outputs mean.
    pub problem_type: ProblemType,
    /// The name of each output: classes, or a regression's columns.
    pub labels: LabelSet,
    /// Share of the target's probability spread over all classes (Szegedy et al. 2016).
    pub label_smoothing: f32,
    /// A weight per class in the loss.
    pub class_weights: Option<Vec<f32>>,
    /// The focal loss's exponent (Lin et al. 2017, <https://arxiv.org/abs/1708.02002>); 0 is plain cross-entropy.
    pub focal_gamma: f32,
    /// From which probability on each label of a multi-label task, or the second of two classes (then it is one number), is
    /// predicted; `None` for 0.5.
    pub thresholds: Option<Vec<f64>>,
}

/// Turns weighted cross-entropies and their gradients into those of the focal loss: a sample that is answered with
/// probability `p` counts `(1 - p)^gamma`.
fn focus(gamma: f32, weights: &[f32], losses: &mut [f32], gradients: &mut [f32]) {
    if gamma == 0.0 || losses.is_empty() {
        return;
    }
    let (gamma, width) = (f64::from(gamma), gradients.len() / losses.len());
    for ((loss, &weight), row) in losses.iter_mut().zip(weights).zip(gradients.chunks_exact_mut(width.max(1)))
    {
        let entropy = if weight > 0.0 { f64::from(*loss) / f64::from(weight) } else { 0.0 };
        // 1 - p, without the loss of digits where p is near 1.
        let missing = -(-entropy).exp_m1();
        let (focus, slope) = if missing > 0.0 {
            let focus = missing.powf(gamma);
            (focus, focus + gamma * (1.0 - missing) * missing.powf(gamma - 1.0) * entropy)
        } else {
            (0.0, 0.0)
        };
        *loss = (f64::from(*loss) * focus) as f32;
        row.iter_mut().for_each(|gradient| *gradient = (f64::from(*gradient) * slope) as f32);
    }
}

/// Loss of a batch, and the gradient of its logits.
#[derive(Clone, Debug)]
pub struct BatchLoss {
    /// Sum of the weighted losses.
    pub loss: f64,
    /// Weighted loss of each sample.
    pub per_sample: Vec<f32>,
    /// Gradient of `loss`, [samples, outputs].
    pub dlogits: Tensor,
}

impl ClassificationTask {
    /// A task with the plain loss: labels are not smoothed, all classes weigh alike, and thresholds are where they are by
    /// default.
    pub fn new(problem_type: ProblemType, labels: LabelSet) -> Self {
        Self {
            problem_type,
            labels,
            label_smoothing: 0.0,
            class_weights: None,
            focal_gamma: 0.0,
            thresholds: None,
        }
    }

    /// The number of outputs.
    pub fn outputs(&self) -> usize {
        self.labels.len()
    }

    /// The weight of a sample in the loss before it is divided by the sum over the effective batch.
    pub fn sample_weight(&self, target: &Target) -> f32 {
        match (target, &self.class_weights, self.problem_type) {
            (Target::Class(class), Some(weights), ProblemType::SingleLabelClassification) => {
                weights.get(*class as usize).copied().unwrap_or(1.0)
            }
            _ => 1.0,
        }
    }

    /// The loss of `logits` [samples, outputs]; each sample's weight is divided by `total_weight`, the sum over the
    /// effective batch, so that accumulated micro-batches add up to the mean.
    ///
    /// # Panics
    /// If a target is not of this task's kind; the dataset was checked against the task.
    pub fn loss(
        &self,
        context: &Context,
        logits: &Tensor,
        targets: &[&Target],
        total_weight: f32,
    ) -> BatchLoss {
        let (rows, width) = (logits.rows(), logits.width());
        let mut row_gradients = vec![0.0; rows * width];
        let mut per_sample = vec![0.0; rows];
        if let Some(cpu) = context.kernels() {
            let weights: Vec<f32> =
                targets.iter().map(|target| self.sample_weight(target) / total_weight).collect();
            let values = logits.values();
            let (losses, dlogits) = (&mut per_sample, Some(row_gradients.as_mut_slice()));
            match self.problem_type {
                ProblemType::SingleLabelClassification => {
                    let classes: Vec<u32> = targets.iter().map(|target| class_of(target)).collect();
                    let smoothing = self.label_smoothing;
                    kernels::cross_entropy(
                        cpu, width, values, &classes, &weights, smoothing, losses, dlogits,
                    );
                    focus(self.focal_gamma, &weights, &mut per_sample, &mut row_gradients);
                }
                ProblemType::MultiLabelClassification => {
                    let hot: Vec<f32> = targets.iter().flat_map(|target| multi_hot(target, width)).collect();
                    let positive = self.class_weights.as_deref();
                    kernels::bce_with_logits(cpu, width, values, &hot, &weights, positive, losses, dlogits);
                }
                ProblemType::Regression => {
                    let numbers: Vec<f32> = targets.iter().flat_map(|target| values_of(target)).collect();
                    kernels::mse(cpu, width, values, &numbers, &weights, losses, dlogits);
                }
            }
        }
        let loss = per_sample.iter().map(|&loss| f64::from(loss)).sum();
        BatchLoss { loss, per_sample, dlogits: context.tensor([rows, width], row_gradients) }
    }

    /// Scores of one row of logits: probabilities, or a regression's numbers.
    pub fn scores(&self, logits: &[f32]) -> Vec<f64> {
        let logits = logits.iter().map(|&logit| f64::from(logit));
        match self.problem_type {
            ProblemType::SingleLabelClassification => {
                let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                let exponentials: Vec<f64> = logits.map(|logit| (logit - largest).exp()).collect();
                let sum: f64 = exponentials.iter().sum();
                exponentials.iter().map(|value| value / sum).collect()
            }
            ProblemType::MultiLabelClassification => {
                logits.map(|logit| 1.0 / (1.0 + (-logit).exp())).collect()
            }
            ProblemType::Regression => logits.collect(),
        }
    }

    /// The names of the labels that thresholds decide on, in their order: all of a multi-label task, the second of two
    /// classes, else none.
    pub fn decided_labels(&self) -> &[String] {
        let names = self.labels.names();
        match self.problem_type {
            ProblemType::MultiLabelClassification => names,
            ProblemType::SingleLabelClassification if names.len() == 2 => &names[1..],
            _ => &[],
        }
    }

    /// The thresholds that serve a goal best on these samples, one for each of [`decided_labels`](Self::decided_labels);
    /// 0.5 for a label that all samples have, or none.
    pub fn tune_thresholds(&self, targets: &[&Target], logits: &[f32], goal: ThresholdGoal) -> Vec<f64> {
        let width = self.outputs();
        let first = width - self.decided_labels().len();
        let scores: Vec<f64> = logits.chunks(width).flat_map(|row| self.scores(row)).collect();
        let tune = |label: usize| {
            let probabilities: Vec<f64> = scores.chunks(width).map(|row| row[label]).collect();
            let holds = |target: &&Target| match target {
                Target::Class(class) => *class as usize == label,
                Target::Classes(classes) => classes.contains(&(label as u32)),
                _ => false,
            };
            let holds: Vec<bool> = targets.iter().map(holds).collect();
            best_threshold(&probabilities, &holds, goal).unwrap_or(MULTI_LABEL_THRESHOLD)
        };
        (first..width).map(tune).collect()
    }

    fn threshold(&self, index: usize) -> f64 {
        let tuned = self.thresholds.as_ref().and_then(|thresholds| thresholds.get(index));
        tuned.copied().unwrap_or(MULTI_LABEL_THRESHOLD)
    }

    /// The class of one row of logits: the most probable, unless a threshold decides between two.
    pub fn class(&self, logits: &[f32]) -> usize {
        match &self.thresholds {
            Some(_) if logits.len() == 2 => usize::from(self.scores(logits)[1] >= self.threshold(0)),
            _ => argmax(logits),
        }
    }

    /// The prediction of one row of logits as JSON: `label` and `score` (single label), `labels` (multi-label) or
    /// `value`/`values` (regression), and all `scores` by name.
    pub fn prediction(&self, logits: &[f32]) -> Map<String, Value> {
        self.prediction_at(logits, 1.0)
    }

    /// As [`prediction`](Self::prediction), with the scores of logits that are divided by a temperature. It changes no
    /// decision.
    pub fn prediction_at(&self, logits: &[f32], temperature: f64) -> Map<String, Value> {
        let decisive = self.scores(logits);
        let scaled: Vec<f32> = logits.iter().map(|&logit| (f64::from(logit) / temperature) as f32).collect();
        let scores = self.scores(&scaled);
        let by_name: Map<String, Value> = self
            .labels
            .names()
            .iter()
            .zip(&scores)
            .map(|(name, &score)| (name.clone(), json!(score)))
            .collect();
        let mut row = Map::new();
        match self.problem_type {
            ProblemType::SingleLabelClassification => {
                let best = self.class(logits);
                row.insert("label".into(), json!(self.labels.names()[best]));
                row.insert("score".into(), json!(scores[best]));
            }
            ProblemType::MultiLabelClassification => {
                let chosen: Vec<&String> = self
                    .labels
                    .names()
                    .iter()
                    .zip(&decisive)
                    .enumerate()
                    .filter(|&(label, (_, &score))| score >= self.threshold(label))
                    .map(|(_, (name, _))| name)
                    .collect();
                let surest = scores.iter().map(|score| score.max(1.0 - score)).fold(f64::INFINITY, f64::min);
                row.insert("label".into(), json!(chosen));
                row.insert("score".into(), json!(surest));
            }
            ProblemType::Regression => {
                row.insert("label".into(), if scores.len() == 1 { json!(scores[0]) } else { json!(scores) });
            }
        }
        row.insert("scores".into(), Value::Object(by_name));
        row
    }

    /// A target as JSON: a label, a list of labels, a number or a list of numbers.
    pub fn target_json(&self, target: &Target) -> Value {
        match target {
            Target::Class(class) => json!(self.labels.name(*class)),
            Target::Classes(classes) => {
                json!(classes.iter().filter_map(|&class| self.labels.name(class)).collect::<Vec<_>>())
            }
            Target::Value(value) => json!(value),
            Target::Values(values) => json!(values),
            Target::None => Value::Null,
        }
    }

    /// Measures `logits` [samples, outputs] against the targets.
    ///
    /// # Errors
    /// If a logit is not finite.
    pub fn evaluate(
        &self,
        targets: &[&Target],
        logits: &[f32],
        options: &EvaluationOptions,
    ) -> Result<EvaluationReport, MetricsError> {
        match self.problem_type {
            ProblemType::SingleLabelClassification => {
                evaluate_classification(&self.classification(targets, logits), options)
            }
            ProblemType::MultiLabelClassification => {
                evaluate_multi_label(&self.multi_label(targets, logits), options)
            }
            ProblemType::Regression => evaluate_regression(&self.regression(targets, logits), options),
        }
    }

    /// Targets and logits of a multi-label task as the metrics take them.
    pub fn multi_label(&self, targets: &[&Target], logits: &[f32]) -> MultiLabel {
        let width = self.outputs();
        let targets = targets.iter().flat_map(|target| multi_hot(target, width)).map(|hot| hot > 0.5);
        MultiLabel {
            labels: self.labels.names().to_vec(),
            targets: targets.collect(),
            logits: logits.to_vec(),
            thresholds: (0..width).map(|label| self.threshold(label)).collect(),
        }
    }

    /// Targets and predictions of a regression as the metrics take them.
    pub fn regression(&self, targets: &[&Target], logits: &[f32]) -> Regression {
        Regression {
            targets: targets.iter().flat_map(|target| values_of(target)).map(f64::from).collect(),
            predictions: logits.iter().map(|&value| f64::from(value)).collect(),
        }
    }

    /// Targets and logits of a single-label task as the metrics take them.
    pub fn classification(&self, targets: &[&Target], logits: &[f32]) -> Classification {
        Classification {
            labels: self.labels.names().to_vec(),
            targets: targets.iter().map(|target| class_of(target)).collect(),
            logits: logits.to_vec(),
            threshold: self.thresholds.as_ref().and_then(|thresholds| thresholds.first().copied()),
        }
    }

    /// The metric that picks the best model when the recipe names none.
    pub fn default_metric(&self) -> &'static str {
        match self.problem_type {
            ProblemType::SingleLabelClassification => "accuracy",
            ProblemType::MultiLabelClassification => "f1_micro",
            ProblemType::Regression => "mse",
        }
    }
}

/// The index of the greatest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

fn class_of(target: &Target) -> u32 {
    match target {
        Target::Class(class) => *class,
        other => unreachable!("a single-label task was given {other:?}"),
    }
}

fn multi_hot(target: &Target, width: usize) -> Vec<f32> {
    let mut hot = vec![0.0; width];
    match target {
        Target::Classes(classes) => classes.iter().for_each(|&class| hot[class as usize] = 1.0),
        other => unreachable!("a multi-label task was given {other:?}"),
    }
    hot
}

fn values_of(target: &Target) -> Vec<f32> {
    match target {
        Target::Value(value) => vec![*value],
        Target::Values(values) => values.clone(),
        other => unreachable!("a regression was given {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use retune_kernels::{Cpu, Isa};

    use super::*;

    fn task(focal_gamma: f32) -> ClassificationTask {
        let names = ["a", "b", "c"].iter().enumerate().map(|(n, name)| (n.to_string(), (*name).into()));
        let labels = LabelSet::from_id2label(&names.collect()).unwrap();
        ClassificationTask {
            class_weights: Some(vec![1.0, 2.0, 0.5]),
            focal_gamma,
            ..ClassificationTask::new(ProblemType::SingleLabelClassification, labels)
        }
    }

    fn loss(gamma: f32, logits: &[f32]) -> BatchLoss {
        let context = Context::cpu(Cpu::new(1, Isa::Portable).unwrap());
        let logits = context.tensor([2, 3], logits.to_vec());
        task(gamma).loss(&context, &logits, &[&Target::Class(1), &Target::Class(2)], 2.5)
    }

    const LOGITS: [f32; 6] = [0.3, 1.1, -0.4, 2.0, -1.0, 0.5];

    #[test]
    fn a_focal_loss_of_gamma_0_is_the_cross_entropy() {
        let (plain, focal) = (loss(0.0, &LOGITS), loss(1e-7, &LOGITS));
        assert!((plain.loss - focal.loss).abs() < 1e-5);
    }

    #[test]
    fn the_focal_loss_weighs_a_sample_by_what_is_missing_to_certainty() {
        let (plain, focal) = (loss(0.0, &LOGITS), loss(2.0, &LOGITS));
        for ((plain, focal), weight) in plain.per_sample.iter().zip(&focal.per_sample).zip([2.0, 0.5]) {
            let probability = (-f64::from(*plain) / (weight / 2.5)).exp();
            let expected = f64::from(*plain) * (1.0 - probability).powi(2);
            assert!((f64::from(*focal) - expected).abs() < 1e-6, "{focal} {expected}");
        }
    }

    #[test]
    fn the_focal_gradient_is_that_of_the_focal_loss() {
        for gamma in [0.5, 2.0] {
            let gradient = loss(gamma, &LOGITS).dlogits;
            for place in 0..LOGITS.len() {
                let moved = |by: f32| {
                    let mut logits = LOGITS;
                    logits[place] += by;
                    loss(gamma, &logits).loss
                };
                let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let exact = f64::from(gradient.values()[place]);
                assert!((difference - exact).abs() < 1e-3, "{gamma} {place}: {difference} {exact}");
            }
        }
    }

    #[test]
    fn a_sample_that_is_certain_has_no_focal_loss_and_no_gradient() {
        let certain = loss(0.5, &[0.0, 200.0, 0.0, 0.0, 0.0, 200.0]);
        assert_eq!(certain.loss, 0.0);
        assert!(certain.dlogits.values().iter().all(|&value| value == 0.0));
    }

    #[test]
    fn a_tuned_threshold_decides_between_two_classes_whatever_the_temperature() {
        let names = [("0".to_owned(), "ham".into()), ("1".to_owned(), "spam".into())];
        let labels = LabelSet::from_id2label(&names.into_iter().collect()).unwrap();
        let mut task = ClassificationTask { labels, ..task(0.0) };
        assert_eq!(task.decided_labels(), ["spam"]);
        // Probabilities of spam: 0.12, 0.27, 0.12, 0.02. Both spams are found, one ham among them, below 0.2.
        let logits = [2.0, 0.0, 1.0, 0.0, 2.0, 0.0, 4.0, 0.0];
        let targets = [Target::Class(1), Target::Class(1), Target::Class(0), Target::Class(0)];
        let targets: Vec<&Target> = targets.iter().collect();
        let thresholds = task.tune_thresholds(&targets, &logits, ThresholdGoal::F1);
        assert!((thresholds[0] - 0.5 * (0.119_203 + 0.017_986)).abs() < 1e-5, "{thresholds:?}");
        assert_eq!(task.prediction(&logits[..2])["label"], "ham");
        task.thresholds = Some(thresholds);
        let answer = task.prediction_at(&logits[..2], 0.5);
        assert_eq!(answer["label"], "spam");
        assert!((answer["score"].as_f64().unwrap() - 0.017_986).abs() < 1e-5);
        assert_eq!(task.classification(&targets, &logits).predictions(), [1, 1, 1, 0]);
    }
}
