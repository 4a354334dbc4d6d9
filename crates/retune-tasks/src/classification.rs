//! Classification and regression of any sample: one label, any number of labels, or numbers; loss, scores, predictions.

use retune_data::{LabelSet, Target, TargetKind};
use retune_kernels as kernels;
use retune_tensor::{Context, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::metrics::{
    Classification, EvaluationOptions, EvaluationReport, MetricsError, MultiLabel, Regression,
    evaluate_classification, evaluate_multi_label, evaluate_regression,
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

/// The probability above which a label of a multi-label task is predicted.
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
        let mut dlogits = vec![0.0; rows * width];
        let mut per_sample = vec![0.0; rows];
        if let Some(cpu) = context.kernels() {
            let weights: Vec<f32> =
                targets.iter().map(|target| self.sample_weight(target) / total_weight).collect();
            let (values, losses, dlogits) = (logits.values(), &mut per_sample, Some(dlogits.as_mut_slice()));
            match self.problem_type {
                ProblemType::SingleLabelClassification => {
                    let classes: Vec<u32> = targets.iter().map(|target| class_of(target)).collect();
                    let smoothing = self.label_smoothing;
                    kernels::cross_entropy(
                        cpu, width, values, &classes, &weights, smoothing, losses, dlogits,
                    );
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
        BatchLoss { loss, per_sample, dlogits: context.tensor([rows, width], dlogits) }
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

    /// The prediction of one row of logits as JSON: `label` and `score` (single label), `labels` (multi-label) or
    /// `value`/`values` (regression), and all `scores` by name.
    pub fn prediction(&self, logits: &[f32]) -> Map<String, Value> {
        let scores = self.scores(logits);
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
                let best = argmax(logits);
                row.insert("label".into(), json!(self.labels.names()[best]));
                row.insert("score".into(), json!(scores[best]));
            }
            ProblemType::MultiLabelClassification => {
                let chosen: Vec<&String> = self
                    .labels
                    .names()
                    .iter()
                    .zip(&scores)
                    .filter(|(_, score)| **score > MULTI_LABEL_THRESHOLD)
                    .map(|(name, _)| name)
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
            threshold: MULTI_LABEL_THRESHOLD,
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
