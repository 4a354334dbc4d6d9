//! How much of a task is already in a pretrained model's features, told without training the model: four scores of the
//! features at a cut, from samples and their classes alone. Knows no model and no file.

mod evidence;
mod h_score;

use retune_kernels::Cpu;

use crate::probe::{Probe, Rows};

pub(crate) use evidence::log_evidence;
pub(crate) use h_score::h_score;

/// The linear probe's L2 penalty, in units of one over the samples.
const PENALTY: f64 = 1.0;

/// Features of samples with their classes.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    /// [samples, width], one row per sample.
    pub features: Vec<f32>,
    /// The width of a row.
    pub width: usize,
    /// The class of each sample.
    pub classes: Vec<u32>,
    /// The number of classes.
    pub class_count: usize,
}

impl Labelled {
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    pub fn row(&self, sample: usize) -> &[f32] {
        &self.features[sample * self.width..(sample + 1) * self.width]
    }

    fn rows(&self) -> Rows<'_> {
        Rows { values: &self.features, width: self.width }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Which of `asked` a linear classifier on standardized features that was fitted to `known` classifies rightly: a linear
/// probe (Alain and Bengio 2016, <https://arxiv.org/abs/1610.01644>).
pub(crate) fn linear_probe(cpu: &Cpu, known: &Labelled, asked: &Labelled) -> Vec<bool> {
    let moments = known.rows().moments();
    let (inputs, questions) =
        (known.rows().standardized_by(&moments), asked.rows().standardized_by(&moments));
    let rows = |values| Rows { values, width: known.width };
    let ridge = PENALTY / known.len().max(1) as f64;
    let probe = Probe::fit(cpu, rows(&inputs), &known.classes, known.class_count, ridge);
    let answers = probe.classes(cpu, rows(&questions));
    answers.iter().zip(&asked.classes).map(|(answer, class)| answer == class).collect()
}

/// Which of `asked` the nearest neighbours in `known` classify rightly: the majority of the `k` rows with the greatest
/// cosine, the nearest of equals (Cover and Hart 1967).
pub(crate) fn nearest_neighbours(known: &Labelled, asked: &Labelled, k: usize) -> Vec<bool> {
    let norm = |row: &[f32]| dot(row, row).sqrt().max(f64::MIN_POSITIVE);
    let norms: Vec<f64> = (0..known.len()).map(|sample| norm(known.row(sample))).collect();
    (0..asked.len())
        .map(|sample| {
            let row = asked.row(sample);
            let mut cosines: Vec<(f64, usize)> = norms
                .iter()
                .enumerate()
                .map(|(other, norm)| (dot(row, known.row(other)) / norm, other))
                .collect();
            cosines.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = vec![0_usize; known.class_count];
            cosines.iter().take(k).for_each(|&(_, other)| votes[known.classes[other] as usize] += 1);
            let most = votes.iter().max().copied().unwrap_or(0);
            let winner = cosines
                .iter()
                .map(|&(_, other)| known.classes[other])
                .find(|&class| votes[class as usize] == most);
            winner == Some(asked.classes[sample])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use retune_kernels::Isa;
    use retune_testing::counter_normal_like;
    use serde_json::Value;

    use super::*;

    fn cpu() -> Cpu {
        Cpu::new(1, Isa::Portable).unwrap()
    }

    /// As `fixtures/transferability/make_golden.py` makes them.
    fn features(case: &Value, stream: &str, samples: &str) -> Labelled {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (samples, width, class_count) = (size(samples), size("width"), size("classes"));
        let name = format!("{}.{stream}", case["name"].as_str().unwrap());
        let mut features = counter_normal_like(&name, samples * width, 1.0);
        for sample in 0..samples {
            features[sample * width + sample % class_count] += case["shift"].as_f64().unwrap() as f32;
        }
        let classes = (0..samples).map(|sample| (sample % class_count) as u32).collect();
        Labelled { features, width, classes, class_count }
    }

    #[test]
    fn the_scores_are_those_of_their_definitions() {
        let golden = include_str!("../../../fixtures/transferability/golden.json");
        let golden: Vec<Value> = serde_json::from_str(golden).unwrap();
        for case in golden {
            let (known, asked) = (features(&case, "known", "samples"), features(&case, "asked", "asked"));
            let expected = case["log_evidence"].as_f64().unwrap();
            let evidence = log_evidence(&known);
            assert!((evidence - expected).abs() < 1e-5, "{}: {evidence} {expected}", case["name"]);
            let (expected, score) = (case["h_score"].as_f64().unwrap(), h_score(&known));
            assert!((score - expected).abs() < 1e-5, "{}: {score} {expected}", case["name"]);
            let flags = |key: &str| -> Vec<bool> { serde_json::from_value(case[key].clone()).unwrap() };
            let voted = nearest_neighbours(&known, &asked, 5);
            for ((is_right, expected), no_tie) in
                voted.into_iter().zip(flags("neighbours")).zip(flags("no_tie"))
            {
                assert!(is_right == expected || !no_tie, "{}", case["name"]);
            }
            let probed = linear_probe(&cpu(), &known, &asked);
            for ((is_right, expected), sure) in probed.into_iter().zip(flags("probe")).zip(flags("sure")) {
                assert!(is_right == expected || !sure, "{}", case["name"]);
            }
        }
    }

    #[test]
    fn classes_that_a_line_separates_are_told_apart_whatever_the_scale() {
        // Class 1 lies where 1000·x − y is positive.
        let points = [
            (0.001, 4.0, 0),
            (0.004, 1.0, 1),
            (0.002, 6.0, 0),
            (0.006, 3.0, 1),
            (0.0, 0.5, 0),
            (0.005, 0.0, 1),
        ];
        let data = |points: &[(f32, f32, u32)]| Labelled {
            features: points.iter().flat_map(|&(x, y, _)| [x, y, 7.0]).collect(),
            width: 3,
            classes: points.iter().map(|point| point.2).collect(),
            class_count: 2,
        };
        let asked = [(0.0055, 2.0, 1), (0.0005, 3.0, 0), (0.0005, 3.0, 1)];
        assert_eq!(linear_probe(&cpu(), &data(&points), &data(&asked)), [true, true, false]);
    }

    #[test]
    fn neighbours_vote_by_angle_and_the_nearest_breaks_a_tie() {
        let known = Labelled {
            features: vec![9.0, 0.0, 5.0, 1.0, 0.0, 1.0, 0.1, 2.0],
            width: 2,
            classes: vec![0, 0, 1, 1],
            class_count: 2,
        };
        let asked = Labelled { features: vec![1.0, 0.1, 0.1, 0.9], classes: vec![0, 0], ..known.clone() };
        assert_eq!(nearest_neighbours(&known, &asked, 3), [true, false]);
        assert_eq!(nearest_neighbours(&known, &asked, 4), [true, false]);
    }
}
