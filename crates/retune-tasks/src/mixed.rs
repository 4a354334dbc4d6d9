//! Loss of samples that were mixed, and one answer out of several views of a sample.

use crate::{BatchLoss, ProblemType};

impl BatchLoss {
    /// The loss of mixed samples: each keeps its share of its own loss, and the rest is its loss against its partner's
    /// target, which `partners` has (Zhang et al. 2018). Cross-entropy, label smoothing and binary cross-entropy are linear
    /// in the target, so that this is their value for the mixed target.
    ///
    /// # Panics
    /// If there is not a share for each sample.
    #[must_use]
    pub fn mixed(mut self, partners: &Self, shares: &[f32]) -> Self {
        assert_eq!(shares.len(), self.per_sample.len(), "a share for each sample");
        let width = self.dlogits.width();
        let gradients =
            self.dlogits.make_mut().chunks_mut(width).zip(partners.dlogits.values().chunks(width));
        let losses = self.per_sample.iter_mut().zip(&partners.per_sample);
        for ((gradients, (own, &partner)), &share) in gradients.zip(losses).zip(shares) {
            // What was not mixed keeps its bits.
            if share == 1.0 {
                continue;
            }
            let mix = |own: &mut f32, partner: f32| *own = share * *own + (1.0 - share) * partner;
            mix(own, partner);
            gradients.0.iter_mut().zip(gradients.1).for_each(|(own, &partner)| mix(own, partner));
        }
        self.loss = self.per_sample.iter().map(|&loss| f64::from(loss)).sum();
        self
    }
}

impl ProblemType {
    /// One answer of several views of the same samples, `views` of [samples, outputs] each: logits whose probabilities are
    /// the mean of the views' probabilities; for numbers the mean itself.
    ///
    /// # Panics
    /// If there is no view, or they differ in length.
    pub fn mean_of_views(self, views: &[&[f32]], outputs: usize) -> Vec<f32> {
        let values = views[0].len();
        assert!(views.iter().all(|view| view.len() == values), "views of the same samples");
        if self == Self::Regression {
            let mean = |at| views.iter().map(|view| f64::from(view[at])).sum::<f64>() / views.len() as f64;
            return (0..values).map(|at| mean(at) as f32).collect();
        }
        let mut mean = Vec::with_capacity(values);
        for start in (0..values).step_by(outputs.max(1)) {
            let rows: Vec<&[f32]> = views.iter().map(|view| &view[start..start + outputs]).collect();
            let normalizers: Vec<f64> =
                rows.iter().map(|row| log_sum(row.iter().map(|&logit| f64::from(logit)))).collect();
            for output in 0..outputs {
                let logits = || rows.iter().map(|row| f64::from(row[output]));
                let logit = match self {
                    Self::MultiLabelClassification => {
                        log_sum(logits().map(log_sigmoid))
                            - log_sum(logits().map(|logit| log_sigmoid(-logit)))
                    }
                    _ => {
                        let views = logits().zip(&normalizers).map(|(logit, normalizer)| logit - normalizer);
                        log_sum(views) - (rows.len() as f64).ln()
                    }
                };
                mean.push(logit as f32);
            }
        }
        mean
    }
}

/// The logarithm of the sum of exponentials.
fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    greatest + values.map(|value| (value - greatest).exp()).sum::<f64>().ln()
}

fn log_sigmoid(logit: f64) -> f64 {
    logit.min(0.0) - (-logit.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClassificationTask;
    use retune_data::{LabelSet, Target};
    use retune_kernels::{Cpu, Isa};
    use retune_tensor::Context;

    const LOGITS: [f32; 6] = [0.3, -1.2, 2.0, 1.1, 0.4, -0.7];

    fn task(
        problem_type: ProblemType,
        label_smoothing: f32,
        class_weights: Option<Vec<f32>>,
    ) -> ClassificationTask {
        let labels = LabelSet::of_outputs(["a", "b", "c"].map(str::to_owned)).unwrap();
        let plain = ClassificationTask::new(problem_type, labels);
        ClassificationTask { label_smoothing, class_weights, ..plain }
    }

    /// Two samples of which each keeps 0.7.
    fn mixed(task: &ClassificationTask, [first, second]: [Target; 2]) -> BatchLoss {
        let context = Context::cpu(Cpu::new(1, Isa::Portable).unwrap());
        let logits = context.tensor([2, 3], LOGITS.to_vec());
        let own = task.loss(&context, &logits, &[&first, &second], 2.0);
        let partners = task.loss(&context, &logits, &[&second, &first], 2.0);
        own.mixed(&partners, &[0.7, 0.7])
    }

    /// Gradient by the definition: probability less target, over two samples (and `over` outputs).
    fn check(loss: &BatchLoss, expected: f64, gradient: &[f64]) {
        assert!((loss.loss - expected).abs() < 1e-6, "{} for {expected}", loss.loss);
        for (ours, expected) in loss.dlogits.values().iter().zip(gradient) {
            assert!((f64::from(*ours) - expected).abs() < 1e-6, "{ours} for {expected}");
        }
    }

    #[test]
    fn cross_entropy_of_a_mixed_label_is_that_of_its_smoothed_probabilities() {
        let smoothing = 0.1;
        let task = task(ProblemType::SingleLabelClassification, smoothing as f32, None);
        // Labels 0 and 2 in shares of 0.7 and 0.3, then a tenth of all probability spread evenly.
        let soft = |own: usize, other: usize| -> Vec<f64> {
            (0..3)
                .map(|class| {
                    let hot = 0.7 * f64::from(class == own) + 0.3 * f64::from(class == other);
                    (1.0 - smoothing) * hot + smoothing / 3.0
                })
                .collect()
        };
        let targets = [soft(0, 2), soft(2, 0)];
        let (mut loss, mut gradient) = (0.0, Vec::new());
        for (logits, target) in LOGITS.chunks(3).zip(&targets) {
            let probabilities = task.scores(logits);
            for (probability, target) in probabilities.iter().zip(target) {
                loss -= target * probability.ln() / 2.0;
                gradient.push((probability - target) / 2.0);
            }
        }
        check(&mixed(&task, [Target::Class(0), Target::Class(2)]), loss, &gradient);
    }

    #[test]
    fn binary_cross_entropy_of_mixed_labels_is_that_of_their_shares() {
        let task = task(ProblemType::MultiLabelClassification, 0.0, Some(vec![1.0, 2.0, 1.0]));
        let targets = [[0.7, 1.0, 0.3], [0.3, 1.0, 0.7]];
        let (mut loss, mut gradient) = (0.0, Vec::new());
        for (logits, target) in LOGITS.chunks(3).zip(targets) {
            for ((probability, target), positive) in
                task.scores(logits).iter().zip(target).zip([1.0, 2.0, 1.0])
            {
                loss -=
                    (positive * target * probability.ln() + (1.0 - target) * (1.0 - probability).ln()) / 6.0;
                gradient.push(((1.0 - target) * probability - positive * target * (1.0 - probability)) / 6.0);
            }
        }
        check(&mixed(&task, [Target::Classes(vec![0, 1]), Target::Classes(vec![1, 2])]), loss, &gradient);
    }

    #[test]
    fn a_share_of_one_changes_no_bit() {
        let task = task(ProblemType::SingleLabelClassification, 0.1, None);
        let context = Context::cpu(Cpu::new(1, Isa::Portable).unwrap());
        let logits = context.tensor([2, 3], LOGITS.to_vec());
        let loss = |classes: [u32; 2]| {
            let targets = classes.map(Target::Class);
            task.loss(&context, &logits, &[&targets[0], &targets[1]], 2.0)
        };
        let (own, partners) = (loss([0, 2]), loss([2, 0]));
        let same = own.clone().mixed(&partners, &[1.0, 1.0]);
        assert_eq!(same.dlogits.values(), own.dlogits.values());
        assert_eq!(same.per_sample, own.per_sample);
    }

    #[test]
    fn probabilities_of_the_answer_are_the_mean_of_the_views() {
        let views: [&[f32]; 3] =
            [&LOGITS, &[5.0, 1.0, 0.0, -3.0, 2.0, 2.0], &[90.0, -90.0, 0.0, 0.0, 0.0, 0.0]];
        for problem_type in [ProblemType::SingleLabelClassification, ProblemType::MultiLabelClassification] {
            let task = task(problem_type, 0.0, None);
            let mean = problem_type.mean_of_views(&views, 3);
            for sample in 0..2 {
                let row = sample * 3..sample * 3 + 3;
                let scores = task.scores(&mean[row.clone()]);
                for (output, score) in scores.iter().enumerate() {
                    let expected =
                        views.iter().map(|view| task.scores(&view[row.clone()])[output]).sum::<f64>() / 3.0;
                    assert!((score - expected).abs() < 1e-6, "{problem_type:?}: {score} for {expected}");
                }
            }
            assert!(mean.iter().all(|logit| logit.is_finite()));
        }
        let numbers = ProblemType::Regression.mean_of_views(&[&[1.0, 4.0], &[3.0, 5.0]], 1);
        assert_eq!(numbers, [2.0, 4.5]);
    }
}
