//! `predictions/<split>.jsonl`, read once from top to bottom: however large the file, only counts, the
//! reliability diagram, the worst rows and a thinned-out scatter are kept.

use std::collections::BinaryHeap;
use std::io::BufRead;

use retune_tasks::metrics::ReliabilityDiagram;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How many of the worst rows are kept.
pub const WORST_ROWS: usize = 24;

/// How many rows with a heat map are kept.
const EXPLAINED_ROWS: usize = 16;

/// How many points of a scatter plot are kept at most.
const SCATTER_POINTS: usize = 1500;

/// One sample with its target and prediction.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PredictionRow {
    /// Identity of the sample.
    pub id: Value,
    /// Its line in the source file.
    pub line: Option<u64>,
    /// The text.
    pub text: Option<String>,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The picture's file.
    pub image: Option<String>,
    /// A small JPEG of the picture, relative to the folder of predictions.
    pub thumbnail: Option<String>,
    /// The same with what the model looked at.
    pub heat_map: Option<String>,
    /// The label that it looked for.
    pub heat_map_of: Option<String>,
    /// A name, names or a number.
    pub target: Value,
    /// Likewise.
    pub prediction: Value,
    /// Probability of the prediction.
    pub score: Option<f64>,
    /// Probability of every label.
    pub scores: Map<String, Value>,
    /// Loss of the sample.
    pub loss: Option<f64>,
}

impl PredictionRow {
    /// Distance between prediction and target where both are numbers.
    pub fn error(&self) -> Option<f64> {
        Some((self.prediction.as_f64()? - self.target.as_f64()?).abs())
    }

    /// Whether prediction and target are the same (for sets of labels, in any order).
    pub fn right(&self) -> bool {
        match (&self.target, &self.prediction) {
            (Value::Array(target), Value::Array(prediction)) => {
                target.len() == prediction.len() && target.iter().all(|label| prediction.contains(label))
            }
            (target, prediction) => target == prediction,
        }
    }

    /// How bad the row is: its loss, else its distance, else the confidence of a wrong answer.
    fn badness(&self) -> f64 {
        if let Some(error) = self.error() {
            return error;
        }
        self.loss.or(self.score).unwrap_or(0.0)
    }
}

/// What is kept of one split.
#[derive(Debug, Clone, Default)]
pub struct SplitPredictions {
    /// Name of the file without its ending.
    pub split: String,
    /// Rows read.
    pub rows: usize,
    /// Rows whose prediction is the target.
    pub right: usize,
    /// Rows with a target at all.
    pub labelled: usize,
    /// The rows that the model got most wrong, worst first.
    pub worst: Vec<PredictionRow>,
    /// Rows with a heat map, in the file's order.
    pub explained: Vec<PredictionRow>,
    /// Stated confidence against share right.
    pub reliability: ReliabilityDiagram,
    /// (target, prediction) of a regression, evenly thinned.
    pub scatter: Vec<(f64, f64)>,
    /// Lines that are no row.
    pub unreadable_lines: usize,
}

/// Rows ordered so that a heap's top is the least bad of those kept.
struct ByBadness(f64, usize, PredictionRow);

impl Ord for ByBadness {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for ByBadness {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByBadness {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByBadness {}

impl SplitPredictions {
    /// Reads the rows of one split. Lines that cannot be read are counted, never fatal.
    ///
    /// # Errors
    /// When the underlying reader fails.
    pub fn read(split: &str, reader: impl BufRead) -> std::io::Result<SplitPredictions> {
        let mut summary = SplitPredictions { split: split.to_owned(), ..SplitPredictions::default() };
        let mut worst = BinaryHeap::new();
        let mut stride = 1;
        for line in reader.split(b'\n') {
            let line = line?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(row) = serde_json::from_slice::<PredictionRow>(&line) else {
                summary.unreadable_lines += 1;
                continue;
            };
            summary.rows += 1;
            if row.target.is_null() {
                continue;
            }
            summary.labelled += 1;
            summary.right += usize::from(row.right());
            summary.add_confidences(&row);
            if let (Some(target), Some(prediction)) = (row.target.as_f64(), row.prediction.as_f64()) {
                if summary.labelled.is_multiple_of(stride) {
                    summary.scatter.push((target, prediction));
                }
                if summary.scatter.len() > SCATTER_POINTS {
                    stride *= 2;
                    let mut index = 0;
                    summary.scatter.retain(|_| {
                        index += 1;
                        index % 2 == 0
                    });
                }
            }
            if row.heat_map.is_some() && summary.explained.len() < EXPLAINED_ROWS {
                summary.explained.push(row.clone());
            }
            if !row.right() {
                worst.push(ByBadness(row.badness(), summary.rows, row));
                if worst.len() > WORST_ROWS {
                    worst.pop();
                }
            }
        }
        summary.worst = worst.into_sorted_vec().into_iter().map(|entry| entry.2).collect();
        Ok(summary)
    }

    fn add_confidences(&mut self, row: &PredictionRow) {
        if let Value::Array(target) = &row.target {
            for (label, score) in &row.scores {
                if let Some(score) = score.as_f64() {
                    self.reliability.add(score, target.iter().any(|name| name.as_str() == Some(label)));
                }
            }
        } else if let (Some(score), Value::String(_)) = (row.score, &row.target) {
            self.reliability.add(score, row.right());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_rows_come_first_and_right_ones_not_at_all() {
        let rows: String = (0..60)
            .map(|id| {
                let prediction = if id % 2 == 0 { "a" } else { "b" };
                format!("{{\"id\":{id},\"target\":\"a\",\"prediction\":\"{prediction}\",\"score\":0.9,\"loss\":{id}.5}}\n")
            })
            .collect();
        let summary = SplitPredictions::read("test", rows.as_bytes()).unwrap();
        assert_eq!((summary.rows, summary.right), (60, 30));
        assert_eq!(summary.worst.len(), WORST_ROWS);
        assert_eq!(summary.worst[0].id, 59);
        assert_eq!(summary.worst[1].id, 57);
    }

    #[test]
    fn rows_with_a_heat_map_are_kept_right_or_wrong() {
        let row =
            |id: usize, more: &str| format!("{{\"id\":{id},\"target\":\"a\",\"prediction\":\"a\"{more}}}\n");
        let rows = row(1, "") + &row(2, ",\"heat_map\":\"h.jpg\",\"heat_map_of\":\"a\"") + &row(3, "");
        let summary = SplitPredictions::read("test", rows.as_bytes()).unwrap();
        assert_eq!(summary.explained.len(), 1);
        assert_eq!(summary.explained[0].id, 2);
    }

    #[test]
    fn a_scatter_of_many_points_is_thinned() {
        let rows: String =
            (0..10_000).map(|id| format!("{{\"target\":{id},\"prediction\":{id}.25}}\n")).collect();
        let summary = SplitPredictions::read("test", rows.as_bytes()).unwrap();
        assert!(summary.scatter.len() > 500 && summary.scatter.len() <= SCATTER_POINTS);
        assert!(summary.scatter.last().unwrap().0 > 9_900.0);
    }

    #[test]
    fn sets_of_labels_are_equal_in_any_order() {
        let row = |target: Value, prediction: Value| PredictionRow {
            target,
            prediction,
            ..PredictionRow::default()
        };
        assert!(row(serde_json::json!(["a", "b"]), serde_json::json!(["b", "a"])).right());
        assert!(!row(serde_json::json!(["a"]), serde_json::json!(["a", "b"])).right());
    }
}
