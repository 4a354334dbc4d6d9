//! Which samples a split shares with those that the model learned from or was chosen by: its result on them measures memory.

use retune_data::Contents;
use serde_json::{Value, json};

use crate::modality::ModalTrainee;
use crate::trainee::{Split, Trainee};

/// For each sample of a split, the sample that it copies: of the training data, or, for test data, of the validation data.
pub(crate) struct Copies {
    found: Vec<Option<Value>>,
}

impl Copies {
    /// Looks for copies, with so many threads.
    pub fn find(trainee: &ModalTrainee, split: Split, threads: usize) -> Self {
        let streamed = trainee.streamed();
        let known: &[Split] = match split {
            Split::Train => &[],
            // Of streamed texts it is known which they share with other splits but for case, punctuation and spacing.
            Split::Validation if streamed.is_some() => &[],
            Split::Test if streamed.is_some() => &[Split::Validation],
            Split::Validation => &[Split::Train],
            Split::Test => &[Split::Train, Split::Validation],
        };
        let places: Vec<(Split, usize)> = known
            .iter()
            .flat_map(|&split| (0..trainee.samples(split)).map(move |sample| (split, sample)))
            .collect();
        let contents = known.iter().map(|&split| trainee.contents(split)).reduce(Contents::joined);
        let own = trainee.contents(split);
        let describe = |first: usize, similarity: f64| {
            let (split, sample) = places[first];
            let mut copied = trainee.source_row(split, sample);
            copied.retain(|name, _| matches!(name.as_str(), "file" | "line" | "image"));
            copied.insert("similarity".to_owned(), json!(similarity));
            Value::Object(copied)
        };
        let pairs = match contents {
            Some(known) => own.similar_to(&known, own.usual_similarity(), threads),
            None => vec![None; trainee.samples(split)],
        };
        let found = pairs.into_iter().map(|pair| pair.map(|pair| describe(pair.first, pair.similarity)));
        let mut found: Vec<Option<Value>> = found.collect();
        let shared = streamed.and_then(|rows| Some((rows.texts.about.path(), rows.copies.get(&split)?)));
        if let (Some((file, lines)), Some(text)) = (shared, trainee.text()) {
            for (sample, found) in found.iter_mut().enumerate() {
                if let Some(line) = lines.get(&text.splits[&split].rows.line(sample)) {
                    *found =
                        Some(json!({ "line": line, "file": file.display().to_string(), "similarity": 1.0 }));
                }
            }
        }
        Self { found }
    }

    /// How many samples are copies.
    pub fn count(&self) -> usize {
        self.found.iter().flatten().count()
    }

    /// The samples that are none.
    pub fn clean(&self) -> Vec<usize> {
        (0..self.found.len()).filter(|&sample| self.found[sample].is_none()).collect()
    }

    /// What a sample is a copy of, as `predictions/` has it.
    pub fn of(&self, sample: usize) -> &Value {
        self.found.get(sample).and_then(Option::as_ref).unwrap_or(&Value::Null)
    }
}
