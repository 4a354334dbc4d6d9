//! From which score on a yes-or-no question is answered with yes: chosen on validation data.
//!
//! Lipton, Elkan and Naryanaswamy 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure": the best threshold
//! for F1 is half of the best F1, so that 0.5 is too high wherever the question is hard or the answer rare.

use super::confusion::Tally;

/// What a threshold makes as great as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdGoal {
    /// F1 of yes.
    F1,
    /// The mean of the recalls of yes and of no (Youden's J, but for a constant).
    BalancedAccuracy,
}

impl ThresholdGoal {
    fn value(self, tally: &Tally, negatives: u64) -> f64 {
        let share = |part: u64, whole: u64| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
        match self {
            Self::F1 => tally.f1().unwrap_or(0.0),
            Self::BalancedAccuracy => {
                let positives = tally.true_positive + tally.false_negative;
                let recall_of_no = 1.0 - share(tally.false_positive, negatives);
                0.5 * (share(tally.true_positive, positives) + recall_of_no)
            }
        }
    }
}

/// The threshold in the middle between two neighbouring probabilities at which the goal is met best; of equally good ones
/// the nearest to 0.5. `None` unless both answers occur.
pub fn best_threshold(probabilities: &[f64], holds: &[bool], goal: ThresholdGoal) -> Option<f64> {
    let positives = holds.iter().filter(|&&holds| holds).count() as u64;
    let negatives = holds.len() as u64 - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..probabilities.len().min(holds.len())).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let mut tally = Tally { false_negative: positives, ..Tally::default() };
    let mut best: Option<(f64, f64)> = None;
    for (place, &index) in order.iter().enumerate() {
        if holds[index] {
            tally.true_positive += 1;
            tally.false_negative -= 1;
        } else {
            tally.false_positive += 1;
        }
        let here = probabilities[index];
        let next = order.get(place + 1).map_or(0.0, |&next| probabilities[next]);
        // Equal probabilities get one answer.
        if next == here {
            continue;
        }
        let (value, threshold) = (goal.value(&tally, negatives), 0.5 * (here + next));
        let is_better = best.is_none_or(|(known, at)| {
            value > known || value == known && (threshold - 0.5).abs() < (at - 0.5).abs()
        });
        if is_better {
            best = Some((value, threshold));
        }
    }
    best.map(|(_, threshold)| threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_threshold_for_f1_of_a_rare_answer_lies_below_a_half() {
        // With 0.2 in: 2 right, 1 wrong, none missed, F1 = 4/5. With 0.45 alone: 1 right, 1 missed, F1 = 2/3.
        let probabilities = [0.45, 0.1, 0.3, 0.2, 0.05];
        let holds = [true, false, false, true, false];
        let threshold = best_threshold(&probabilities, &holds, ThresholdGoal::F1).unwrap();
        assert!((threshold - 0.15).abs() < 1e-12, "{threshold}");
    }

    #[test]
    fn balanced_accuracy_weighs_both_answers_alike() {
        // At 0.25: recall of yes 1, of no 2/3, mean 5/6; at 0.4: 1/2 and 1, mean 3/4; at 0.35: 1/2 and 2/3.
        let probabilities = [0.45, 0.1, 0.35, 0.3, 0.2];
        let holds = [true, false, false, true, false];
        let threshold = best_threshold(&probabilities, &holds, ThresholdGoal::BalancedAccuracy).unwrap();
        assert!((threshold - 0.25).abs() < 1e-12, "{threshold}");
    }

    #[test]
    fn equal_probabilities_are_never_cut_apart_and_one_answer_alone_gives_no_threshold() {
        let threshold = best_threshold(&[0.7, 0.7, 0.2], &[true, false, false], ThresholdGoal::F1);
        assert!((threshold.unwrap() - 0.45).abs() < 1e-12, "{threshold:?}");
        assert_eq!(best_threshold(&[0.7, 0.2], &[true, true], ThresholdGoal::F1), None);
    }
}
