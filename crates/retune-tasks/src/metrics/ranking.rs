//! Metrics of a ranking: area under the ROC curve and average precision, with ties counted right.
//! Scores are sorted once; a weighted resample then costs one walk.

use super::ratio;

/// Samples in ascending order of score.
#[derive(Debug, Clone)]
pub(super) struct Ranking {
    /// Sample indices, lowest score first; samples of equal score are neighbours.
    order: Vec<u32>,
    /// `ends[i]` is true where the score after `order[i]` is a different one.
    ends: Vec<bool>,
    positive: Vec<bool>,
}

impl Ranking {
    pub fn new(scores: &[f64], positive: Vec<bool>) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
        let ends = (0..order.len())
            .map(|index| {
                order
                    .get(index + 1)
                    .is_none_or(|&next| scores[order[index] as usize] != scores[next as usize])
            })
            .collect();
        Ranking { order, ends, positive }
    }

    /// Chance that a positive outranks a negative, ties counting half (Mann–Whitney U / (P·N)).
    pub fn auroc(&self, weights: &[u32]) -> Option<f64> {
        let (mut negatives_below, mut positives_seen, mut wins) = (0u64, 0u64, 0.0);
        let (mut tied_positives, mut tied_negatives) = (0u64, 0u64);
        for (&sample, &ends) in self.order.iter().zip(&self.ends) {
            let weight = u64::from(weights[sample as usize]);
            if self.positive[sample as usize] {
                tied_positives += weight;
            } else {
                tied_negatives += weight;
            }
            if ends {
                wins += tied_positives as f64 * (negatives_below as f64 + 0.5 * tied_negatives as f64);
                negatives_below += tied_negatives;
                positives_seen += tied_positives;
                (tied_positives, tied_negatives) = (0, 0);
            }
        }
        ratio(wins, positives_seen as f64 * negatives_below as f64)
    }

    /// Σ (R_k − R_{k−1})·P_k over the distinct thresholds, highest first, without interpolation.
    pub fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut true_positive, mut false_positive, mut area) = (0u64, 0u64, 0.0);
        let (mut tied_positives, mut tied_negatives) = (0u64, 0u64);
        for index in (0..self.order.len()).rev() {
            let sample = self.order[index] as usize;
            if self.positive[sample] {
                tied_positives += u64::from(weights[sample]);
            } else {
                tied_negatives += u64::from(weights[sample]);
            }
            if index == 0 || self.ends[index - 1] {
                true_positive += tied_positives;
                false_positive += tied_negatives;
                if tied_positives > 0 {
                    let precision = true_positive as f64 / (true_positive + false_positive) as f64;
                    area += tied_positives as f64 * precision;
                }
                (tied_positives, tied_negatives) = (0, 0);
            }
        }
        ratio(area, true_positive as f64)
    }
}

/// Area under the ROC curve of `scores` for telling `positive` samples from the others.
///
/// Ties count half. `None` without a positive or without a negative sample. Slices of unequal length are
/// read to the shorter one's end.
pub fn auroc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let length = scores.len().min(positive.len());
    Ranking::new(&scores[..length], positive[..length].to_vec()).auroc(&vec![1; length])
}

/// Average precision of ranking by `scores`, as scikit-learn's `average_precision_score`.
///
/// `None` without a positive sample. Slices of unequal length are read to the shorter one's end.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let length = scores.len().min(positive.len());
    Ranking::new(&scores[..length], positive[..length].to_vec()).average_precision(&vec![1; length])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_scores_are_worth_half() {
        assert_eq!(auroc(&[0.5, 0.5, 0.5], &[true, false, true]), Some(0.5));
        assert_eq!(auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Some(0.75));
        // One tie out of two pairs: (1 + 0.5) / 2.
        assert_eq!(auroc(&[0.2, 0.7, 0.7], &[false, false, true]), Some(0.75));
    }

    #[test]
    fn one_class_alone_is_undefined() {
        assert_eq!(auroc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(auroc(&[], &[]), None);
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
        assert_eq!(average_precision(&[0.1, 0.2], &[true, true]), Some(1.0));
    }

    #[test]
    fn average_precision_of_four_samples_by_hand() {
        // Down the ranking: hit (1/1), miss, hit (2/3): (1 + 2/3) / 2.
        let value = average_precision(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]).unwrap();
        assert!((value - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn auroc_counts_pairs(rows in prop::collection::vec((0i32..6, any::<bool>()), 1..40)) {
            let scores: Vec<f64> = rows.iter().map(|row| f64::from(row.0)).collect();
            let positive: Vec<bool> = rows.iter().map(|row| row.1).collect();
            let (mut wins, mut pairs) = (0f64, 0f64);
            for (a, _) in rows.iter().filter(|row| row.1) {
                for (b, _) in rows.iter().filter(|row| !row.1) {
                    pairs += 1.0;
                    wins += match a.cmp(b) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            let expected = (pairs > 0.0).then(|| wins / pairs);
            let nano = |value: f64| (value * 1e9).round();
            prop_assert_eq!(auroc(&scores, &positive).map(nano), expected.map(nano));
        }

        #[test]
        fn turning_the_scores_round_turns_auroc_round(rows in prop::collection::vec((0i32..9, any::<bool>()), 2..40)) {
            let scores: Vec<f64> = rows.iter().map(|row| f64::from(row.0)).collect();
            let negated: Vec<f64> = scores.iter().map(|score| -score).collect();
            let positive: Vec<bool> = rows.iter().map(|row| row.1).collect();
            if let (Some(forward), Some(backward)) = (auroc(&scores, &positive), auroc(&negated, &positive)) {
                prop_assert!((forward + backward - 1.0).abs() < 1e-12);
            }
        }
    }
}
