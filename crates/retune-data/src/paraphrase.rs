//! Paraphrases of training texts that another program or a person wrote (back-translation, Sennrich et al. 2016): read from a
//! file, and drawn in place of the text. Never of validation or test texts, and never a text that stands there.

use crate::check::words;
use crate::dataset::{Example, TextDataset};
use crate::error::DataError;
use crate::image::{Draws, ViewKey};
use crate::read::{ReadOptions, read_table};
use crate::table::Value;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Paraphrases of the examples of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Paraphrases {
    /// By the example's index.
    of: Vec<Vec<String>>,
    probability: f64,
}

/// What a file of paraphrases came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ParaphraseReport {
    /// Training texts that have some.
    pub texts: usize,
    /// Paraphrases that are used.
    pub paraphrases: usize,
    /// Those that are no other text than the one they paraphrase.
    pub equal: usize,
    /// Those that stand, but for case, punctuation and spacing, in validation or test data.
    pub held_out: usize,
}

/// What an example is called in a file of paraphrases: the value of its id column, else its line.
pub fn paraphrase_id(dataset: &TextDataset, index: usize) -> String {
    let id = dataset.roles().id.and_then(|column| dataset.source_value(index, column));
    let id = id.and_then(|value| Some(value.as_text()?.trim().to_owned()));
    id.unwrap_or_else(|| {
        dataset.examples.get(index).map_or_else(String::new, |example| example.line().to_string())
    })
}

impl Paraphrases {
    /// Reads a file of any known format with a column `text` or `id`, and a column `paraphrases` (a list) or `paraphrase` (one
    /// a row; a text may have several rows). A text is matched as it is but for white space at its ends, an id by
    /// [`paraphrase_id`].
    ///
    /// # Errors
    /// As [`read_table`]; [`DataError::Setting`] when a column is missing or nothing matches a training text.
    pub fn read(
        path: &Path,
        train: &TextDataset,
        held_out: &[&TextDataset],
        probability: f64,
    ) -> Result<(Self, ParaphraseReport), DataError> {
        let table = read_table(path, &ReadOptions::default())?;
        let column = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| table.columns.iter().position(|column| column == name));
            found.ok_or_else(|| {
                DataError::Setting(format!(
                    "{}: no column `{}` or `{}`; its columns are {}",
                    path.display(),
                    names[0],
                    names[1],
                    table.columns.join(", ")
                ))
            })
        };
        let (key, value) = (column(["text", "id"])?, column(["paraphrases", "paraphrase"])?);
        let by_text = table.columns[key] == "text";
        let mut examples: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, example) in train.examples.iter().enumerate() {
            let name = if by_text { example.text.trim().to_owned() } else { paraphrase_id(train, index) };
            examples.entry(name).or_default().push(index);
        }
        let known: HashSet<String> = held_out
            .iter()
            .flat_map(|dataset| &dataset.examples)
            .map(|example| words(&example.text))
            .filter(|words| !words.is_empty())
            .collect();
        let mut of = vec![Vec::new(); train.len()];
        let mut report = ParaphraseReport::default();
        for row in &table.rows {
            let name = row.values[key].as_text().unwrap_or_default().trim().to_owned();
            let Some(indices) = examples.get(&name) else { continue };
            let one = std::slice::from_ref(&row.values[value]);
            let written = match &row.values[value] {
                Value::List(values) => values.as_slice(),
                _ => one,
            };
            for text in written.iter().filter(|value| !value.is_blank()).filter_map(Value::as_text) {
                let text = text.trim();
                if known.contains(&words(text)) {
                    report.held_out += 1;
                    continue;
                }
                for &index in indices {
                    let own = train.examples[index].text.trim();
                    let texts: &mut Vec<String> = &mut of[index];
                    if text == own || texts.iter().any(|other| other == text) {
                        report.equal += 1;
                    } else {
                        texts.push(text.to_owned());
                    }
                }
            }
        }
        report.texts = of.iter().filter(|texts| !texts.is_empty()).count();
        report.paraphrases = of.iter().map(Vec::len).sum();
        if report.paraphrases == 0 {
            return Err(DataError::Setting(format!(
                "{} has no paraphrase of a text in {}: its `{}` must be that of the training file",
                path.display(),
                train.path().display(),
                table.columns[key]
            )));
        }
        Ok((Self { of, probability }, report))
    }

    /// The paraphrase that stands for an example's text in a step; none where the text itself does.
    pub fn choose(&self, example: usize, key: ViewKey) -> Option<&str> {
        let texts = self.of.get(example).filter(|texts| !texts.is_empty())?;
        let mut draws = Draws::new(key, "text.paraphrase");
        if !draws.chance(self.probability) {
            return None;
        }
        texts.get(draws.below(texts.len())).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DatasetOptions;
    use crate::read::read_bytes;
    use crate::roles::{RoleOverrides, infer_roles};

    fn dataset(text: &str) -> TextDataset {
        let table =
            read_bytes(Path::new("t.csv"), text.as_bytes().to_vec(), &ReadOptions::default()).unwrap();
        let roles = infer_roles(&table, &RoleOverrides::default()).unwrap();
        TextDataset::new(table, roles, &DatasetOptions::default()).unwrap()
    }

    fn read(content: &str, name: &str, probability: f64) -> Result<(Paraphrases, ParaphraseReport), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let train =
            dataset("id,text,label\na,the cat sat,x\nb,a dog ran,y\nc,the cat sat,x\nd,a dog ran off,y\n");
        let test = dataset("text,label\nThe dog was running!,y\nmore,x\nsome,y\n");
        Paraphrases::read(&path, &train, &[&test], probability).map_err(|error| error.to_string())
    }

    #[test]
    fn paraphrases_are_found_by_text_or_id_and_held_out_texts_never_used() {
        let by_text = "{\"text\":\"the cat sat\",\"paraphrases\":[\"a cat was sitting\",\"the cat sat\",\" \"]}\n\
                       {\"text\":\"a dog ran\",\"paraphrases\":[\"the dog was running\"]}\n\
                       {\"text\":\"unknown\",\"paraphrases\":[\"x\"]}\n";
        let (found, report) = read(by_text, "p.jsonl", 1.0).unwrap();
        let expected = ParaphraseReport { texts: 2, paraphrases: 2, equal: 2, held_out: 1 };
        assert_eq!(report, expected);
        assert_eq!(found.of, [vec!["a cat was sitting"], vec![], vec!["a cat was sitting"], vec![]]);
        let by_id = "id,paraphrase\nb,one dog ran\nb,some dog ran\nd,it ran\n";
        let (found, report) = read(by_id, "p.csv", 1.0).unwrap();
        assert_eq!((found.of[1].len(), report.texts, report.paraphrases), (2, 2, 3));
        assert!(
            read("id,paraphrase\nq,nothing\nr,none\n", "p.csv", 1.0)
                .unwrap_err()
                .contains("no paraphrase of a text")
        );
        assert!(
            read("name,paraphrase\nq,nothing\nr,none\n", "p.csv", 1.0)
                .unwrap_err()
                .contains("no column `text` or `id`")
        );
    }

    #[test]
    fn a_draw_depends_on_its_key_alone_and_meets_its_probability() {
        let (found, _) = read("id,paraphrase\nb,one dog ran\nb,some dog ran\n", "p.csv", 0.3).unwrap();
        let key = |step: u64| ViewKey { seed: 7, step, occurrence: 2 };
        let chosen: Vec<Option<&str>> = (0..2000).map(|step| found.choose(1, key(step))).collect();
        let drawn = chosen.iter().flatten().count();
        // 600 expected, with a standard deviation of 20.
        assert!((520..680).contains(&drawn), "{drawn}");
        let first = chosen.iter().flatten().filter(|text| **text == "one dog ran").count();
        assert!((drawn * 2 / 5..drawn * 3 / 5).contains(&first), "{first} of {drawn}");
        assert_eq!(found.choose(1, key(5)), chosen[5]);
        assert_eq!(found.choose(0, key(5)), None);
    }
}
