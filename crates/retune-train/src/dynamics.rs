//! Training dynamics: what each training sample's logits did over the epochs of a run, which tells labels that may be wrong.
//!
//! The area under the margin (Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking") is
//! the mean, over all times that a sample was learned from, of its label's logit less the greatest other. A forgetting event
//! (Toneva et al. 2019, "An Empirical Study of Example Forgetting") is a right answer followed by a wrong one.

use std::collections::HashMap;
use std::path::Path;

use retune_data::{ReadOptions, Row, Table, Target, Value, read_table, write_table};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::run_folder::RunFolder;

/// Margins are summed in millionths, so that a checkpoint holds the sum exactly.
const UNITS: f64 = 1e6;
const COLUMNS: [&str; 6] = ["line", "label", "area_under_margin", "forgetting_events", "learned", "passes"];

/// What was seen of every training sample so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dynamics {
    /// How often each sample was learned from.
    passes: Vec<u32>,
    /// The sum of its margins, in millionths.
    margins: Vec<i64>,
    /// Its forgetting events.
    forgotten: Vec<u32>,
    /// Whether it was answered rightly the last time.
    right: Vec<bool>,
    /// Whether it was ever answered rightly.
    learned: Vec<bool>,
}

/// A sample's margin in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    sample: u32,
    margin: i64,
}

impl Observed {
    /// From logits [outputs]; none without a single class.
    pub(crate) fn of(sample: u32, logits: &[f32], target: &Target) -> Option<Self> {
        let Target::Class(class) = *target else { return None };
        let class = class as usize;
        let others = logits.iter().enumerate().filter(|(other, _)| *other != class);
        let best = others.map(|(_, logit)| *logit).max_by(f32::total_cmp)?;
        let margin = f64::from(*logits.get(class)?) - f64::from(best);
        Some(Self { sample, margin: (margin * UNITS).round() as i64 })
    }
}

impl Dynamics {
    /// Of so many samples that were not seen yet.
    pub fn new(samples: usize) -> Self {
        Self {
            passes: vec![0; samples],
            margins: vec![0; samples],
            forgotten: vec![0; samples],
            right: vec![false; samples],
            learned: vec![false; samples],
        }
    }

    pub(crate) fn observe(&mut self, observed: &[Observed]) {
        for Observed { sample, margin } in observed {
            let sample = *sample as usize;
            if sample >= self.passes.len() {
                continue;
            }
            let right = *margin > 0;
            self.passes[sample] += 1;
            self.margins[sample] = self.margins[sample].saturating_add(*margin);
            self.forgotten[sample] += u32::from(self.right[sample] && !right);
            self.right[sample] = right;
            self.learned[sample] |= right;
        }
    }

    /// What was seen of a sample; none if it was never learned from.
    pub fn of(&self, sample: usize) -> Option<SampleDynamics> {
        let passes = *self.passes.get(sample).filter(|passes| **passes > 0)?;
        Some(SampleDynamics {
            area_under_margin: self.margins[sample] as f64 / UNITS / f64::from(passes),
            forgetting_events: self.forgotten[sample],
            learned: self.learned[sample],
            passes,
        })
    }

    /// Writes `training_dynamics.csv` into a run folder: a row for each sample, by line and label.
    pub(crate) fn write(
        &self,
        folder: &RunFolder,
        samples: impl Iterator<Item = (u64, String)>,
    ) -> Result<(), TrainError> {
        let row = |(sample, (line, label)): (usize, (u64, String))| {
            let seen = self.of(sample)?;
            let area = (seen.area_under_margin * 1e4).round() / 1e4;
            Some(vec![
                Value::Integer(line as i64),
                Value::Text(label),
                Value::Number(area),
                Value::Integer(seen.forgetting_events.into()),
                Value::Bool(seen.learned),
                Value::Integer(seen.passes.into()),
            ])
        };
        let path = folder.path(RunFolder::DYNAMICS);
        let values = samples.enumerate().filter_map(row);
        let rows = (2..).zip(values).map(|(line, values)| Row { line, values }).collect();
        let columns = COLUMNS.map(str::to_owned).to_vec();
        Ok(write_table(&Table { path: path.clone(), columns, rows, findings: Vec::new() }, &path)?)
    }
}

/// What a run saw of one training sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SampleDynamics {
    /// The mean margin of its label over the other classes, in logits.
    pub area_under_margin: f64,
    /// How often a right answer was followed by a wrong one.
    pub forgetting_events: u32,
    /// Whether it was ever answered rightly.
    pub learned: bool,
    /// How often it was learned from.
    pub passes: u32,
}

/// Reads what a run wrote, by line and label.
pub(crate) fn read_dynamics(folder: &Path) -> Result<HashMap<(u64, String), SampleDynamics>, TrainError> {
    let path = RunFolder::open(folder).path(RunFolder::DYNAMICS);
    if !path.is_file() {
        let problem = format!(
            "has no {}; train with train.record_dynamics = true on a task with one label for each row",
            RunFolder::DYNAMICS
        );
        return Err(TrainError::run_folder(folder, problem));
    }
    let table = read_table(&path, &ReadOptions { has_header: Some(true), ..ReadOptions::default() })?;
    let columns = COLUMNS.map(|name| table.column_index(name));
    let [line, label, area, forgotten, learned, passes] = columns;
    let (line, label, area) = (line?, label?, area?);
    let (forgotten, learned, passes) = (forgotten?, learned?, passes?);
    let mut found = HashMap::with_capacity(table.rows.len());
    for row in &table.rows {
        let number = |column: usize| {
            row.values[column].as_number().ok_or_else(|| {
                let problem = format!("line {}: `{}` is no number", row.line, table.columns[column]);
                TrainError::run_folder(&path, problem)
            })
        };
        let seen = SampleDynamics {
            area_under_margin: number(area)?,
            forgetting_events: number(forgotten)? as u32,
            learned: row.values[learned].as_text().is_some_and(|text| text == "true"),
            passes: number(passes)? as u32,
        };
        let name = row.values[label].as_text().unwrap_or_default().into_owned();
        found.insert((number(line)? as u64, name), seen);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_averaged_and_forgetting_is_counted() {
        let mut dynamics = Dynamics::new(2);
        let logits = [[2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [1.0, 0.25, 0.5], [0.5, 0.0, 2.0]];
        for step in &logits {
            dynamics.observe(&[Observed::of(1, step, &Target::Class(0)).unwrap()]);
        }
        // 1.5 − 1 + 0.5 − 1.5 over four; right, wrong, right, wrong.
        let seen = dynamics.of(1).unwrap();
        assert_eq!(
            (seen.area_under_margin, seen.forgetting_events, seen.learned, seen.passes),
            (-0.125, 2, true, 4)
        );
        assert_eq!(dynamics.of(0), None);
        assert_eq!(Observed::of(0, &[1.0, 2.0], &Target::Value(1.0)), None);
        let again: Dynamics = serde_json::from_str(&serde_json::to_string(&dynamics).unwrap()).unwrap();
        assert_eq!(again, dynamics);
    }
}
