//! What became of a checkpoint's tensors when a model was loaded: listed for the user every time.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A tensor whose shape was adapted (another number of labels, another image size).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshaped {
    /// The model's parameter.
    pub name: String,
    /// Shape in the checkpoint.
    pub from: Vec<usize>,
    /// Shape in the model.
    pub to: Vec<usize>,
}

/// Tensors that a transform renamed or changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transformed {
    /// Names before.
    pub from: Vec<String>,
    /// Names after.
    pub to: Vec<String>,
    /// What was done: "renamed", "split", "joined", "transposed", "permuted".
    pub how: String,
}

impl Transformed {
    pub(crate) fn new(from: &[impl AsRef<str>], to: &[impl AsRef<str>], how: &str) -> Self {
        let from = from.iter().map(|name| name.as_ref().to_owned()).collect();
        let to = to.iter().map(|name| name.as_ref().to_owned()).collect();
        Self { from, to, how: how.to_owned() }
    }
}

/// The fate of every tensor of a checkpoint and every parameter of a model. Names are the model's, except
/// `unused`, which are the checkpoint's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Parameters that got their values from the checkpoint.
    pub loaded: Vec<String>,
    /// Tensors of the checkpoint that no parameter took.
    pub unused: Vec<String>,
    /// Parameters that should have been in the checkpoint and were not.
    pub missing: Vec<String>,
    /// Parameters whose tensor had another shape and was adapted.
    pub reshaped: Vec<Reshaped>,
    /// Parameters that start from random values on purpose (a new head).
    pub newly_initialized: Vec<String>,
    /// Tensors renamed or changed in layout on the way.
    pub transformed: Vec<Transformed>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.loaded.len() + self.missing.len() + self.newly_initialized.len();
        write!(f, "loaded {} of {parameters} parameters", self.loaded.len())?;
        let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
        for transformed in &self.transformed {
            *ways.entry(&transformed.how).or_default() += 1;
        }
        let ways: Vec<String> = ways.iter().map(|(how, count)| format!("{count} {how}")).collect();
        if !ways.is_empty() {
            write!(f, " ({})", ways.join(", "))?;
        }
        list(f, "newly initialized", &self.newly_initialized)?;
        list(f, "missing from the checkpoint", &self.missing)?;
        list(f, "unused in the checkpoint", &self.unused)?;
        for Reshaped { name, from, to } in &self.reshaped {
            write!(f, "\n  reshaped: {name} from {from:?} to {to:?}")?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {title} ({}): {}", names.len(), grouped(names).join(", "))
}

/// Names that differ in their first number only become one: `layer.{0..11}.bias`.
fn grouped(names: &[String]) -> Vec<String> {
    let mut groups: Vec<((&str, &str), Vec<u64>, &str)> = Vec::new();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for name in names {
        let Some((before, number, after)) = number_in(name) else {
            groups.push(((name, ""), Vec::new(), name));
            continue;
        };
        let place = *places.entry((before, after)).or_insert_with(|| {
            groups.push(((before, after), Vec::new(), name));
            groups.len() - 1
        });
        groups[place].1.push(number);
    }
    let shown = groups.into_iter().map(|((before, after), numbers, name)| match numbers.as_slice() {
        [] | [_] => name.to_owned(),
        numbers => format!("{before}{{{}}}{after}", ranges(numbers)),
    });
    shown.collect()
}

/// The first dot-separated segment that is a number, with what stands before and after it.
fn number_in(name: &str) -> Option<(&str, u64, &str)> {
    let mut start = 0;
    for segment in name.split('.') {
        if let Ok(number) = segment.parse() {
            return Some((&name[..start], number, &name[start + segment.len()..]));
        }
        start += segment.len() + 1;
    }
    None
}

/// `0..3,5` for 0, 1, 2, 3, 5.
fn ranges(numbers: &[u64]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in sorted {
        match ranges.last_mut() {
            Some((_, end)) if number == *end + 1 => *end = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown: Vec<String> = ranges
        .iter()
        .map(|&(start, end)| if start == end { start.to_string() } else { format!("{start}..{end}") })
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_usual_case_takes_two_lines() {
        let report = LoadReport {
            loaded: names(&["embeddings.weight"; 101]),
            newly_initialized: names(&["classifier.weight", "classifier.bias"]),
            ..LoadReport::default()
        };
        let expected =
            "loaded 101 of 103 parameters\n  newly initialized (2): classifier.weight, classifier.bias";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn numbered_names_are_grouped_into_ranges() {
        let unused: Vec<String> =
            [0, 1, 2, 5].iter().map(|layer| format!("encoder.layer.{layer}.bias")).collect();
        let report = LoadReport {
            unused,
            reshaped: vec![Reshaped { name: "head.weight".into(), from: vec![2, 8], to: vec![3, 8] }],
            transformed: vec![
                Transformed::new(&["a"], &["b"], "renamed"),
                Transformed::new(&["c"], &["d"], "renamed"),
            ],
            ..LoadReport::default()
        };
        let expected = "loaded 0 of 0 parameters (2 renamed)\n  unused in the checkpoint (4): \
                        encoder.layer.{0..2,5}.bias\n  reshaped: head.weight from [2, 8] to [3, 8]";
        assert_eq!(report.to_string(), expected);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<LoadReport>(&json).unwrap(), report);
    }
}
