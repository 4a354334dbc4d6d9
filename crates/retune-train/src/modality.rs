//! The modalities as one: what is the same of a model with its texts and of a model with its pictures.

use retune_autograd::Var;
use retune_data::{Contents, Dataset, Example, Target};
use retune_nn::Forward;
use serde_json::{Map, Value, json};

use crate::TrainError;
use crate::image::ImageTrainee;
use crate::stages::Stage;
use crate::text::{StreamedRows, TextRows, TextSplit, TextTrainee};
use crate::trainee::{Cut, Fetch, Mixed, SampleBatch, Split, Trainee};

/// A model with its data, of one of the modalities.
pub enum ModalTrainee {
    /// Texts.
    Text(Box<TextTrainee>),
    /// Pictures.
    Image(Box<ImageTrainee>),
}

/// A split at a glance.
#[derive(Clone, Debug)]
pub struct SplitSummary {
    /// The split.
    pub split: Split,
    /// Its file or folder.
    pub path: std::path::PathBuf,
    /// Its samples.
    pub samples: usize,
    /// Samples of each class, in the task's order.
    pub class_counts: Vec<usize>,
}

impl ModalTrainee {
    fn trainee(&self) -> &dyn Trainee {
        match self {
            Self::Text(text) => &**text,
            Self::Image(image) => &**image,
        }
    }

    /// The text model with its data, if it is one.
    pub fn text(&self) -> Option<&TextTrainee> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image(_) => None,
        }
    }

    /// The image model with its data, if it is one.
    pub fn image(&self) -> Option<&ImageTrainee> {
        match self {
            Self::Image(image) => Some(image),
            Self::Text(_) => None,
        }
    }

    /// What the model's network is called: a `model_type`, or an architecture's name.
    pub fn model_name(&self) -> &'static str {
        match self {
            Self::Text(text) => text.model.family().model_type,
            Self::Image(image) => image.model.architecture().name,
        }
    }

    /// The task as a recipe names it.
    pub fn task_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text-classification",
            Self::Image(_) => "image-classification",
        }
    }

    /// Every split at a glance.
    pub fn summaries(&self) -> Vec<SplitSummary> {
        fn summary<E: Example>(split: Split, dataset: &Dataset<E>) -> SplitSummary {
            SplitSummary {
                split,
                path: dataset.path().to_owned(),
                samples: dataset.len(),
                class_counts: dataset.class_counts(),
            }
        }
        match self {
            Self::Text(text) => {
                let summary = |(&split, data): (&Split, &TextSplit)| SplitSummary {
                    split,
                    path: data.rows.path().to_owned(),
                    samples: data.rows.len(),
                    class_counts: data.rows.class_counts(),
                };
                text.splits.iter().map(summary).collect()
            }
            Self::Image(image) => image.splits.iter().map(|(&split, data)| summary(split, data)).collect(),
        }
    }

    /// The training rows, if they were streamed: what they say is not known any more.
    pub(crate) fn streamed(&self) -> Option<&StreamedRows> {
        match &self.text()?.splits.get(&Split::Train)?.rows {
            TextRows::Streamed(rows) => Some(rows),
            TextRows::InMemory(_) => None,
        }
    }

    /// What the samples of a split say; nothing if there is no such split, or its texts were streamed.
    pub(crate) fn contents(&self, split: Split) -> Contents {
        match self {
            Self::Text(text) => {
                let dataset = text.splits.get(&split).and_then(|split| split.rows.dataset());
                Example::contents(dataset.map_or(&[], |dataset| &dataset.examples))
            }
            Self::Image(image) => {
                Example::contents(image.splits.get(&split).map_or(&[], |dataset| &dataset.examples))
            }
        }
    }

    /// The lines of a split's samples in their files; none if there is no such split.
    pub(crate) fn lines(&self, split: Split) -> Vec<u64> {
        fn lines<E: Example>(dataset: &Dataset<E>) -> Vec<u64> {
            dataset.examples.iter().map(Example::line).collect()
        }
        match self {
            Self::Text(text) => text.splits.get(&split).map(|split| split.rows.lines()),
            Self::Image(image) => image.splits.get(&split).map(lines),
        }
        .unwrap_or_default()
    }

    /// What a row of predictions says of a sample itself: `id`, `line`, `file`, the text or the picture's file, and the
    /// source's `columns`.
    pub(crate) fn source_row(&self, split: Split, index: usize) -> Map<String, Value> {
        match self {
            Self::Text(text) => {
                let rows = &text.splits[&split].rows;
                let Some(dataset) = rows.dataset() else {
                    let about = [
                        ("line", json!(rows.line(index))),
                        ("file", json!(rows.path().display().to_string())),
                    ];
                    return about.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                };
                let example = &dataset.examples[index];
                let content = [("text", json!(example.text)), ("text_pair", json!(example.text_pair))];
                source_row(dataset, index, content)
            }
            Self::Image(image) => {
                let dataset = &image.splits[&split];
                let picture = dataset.examples[index].picture.path();
                source_row(dataset, index, [("image", json!(picture.map(|path| path.display().to_string())))])
            }
        }
    }
}

fn source_row<E: Example>(
    dataset: &Dataset<E>,
    index: usize,
    content: impl IntoIterator<Item = (&'static str, Value)>,
) -> Map<String, Value> {
    let example = &dataset.examples[index];
    // The value of the id column, else the row's number.
    let id = dataset.roles().id.and_then(|column| dataset.source_value(index, column));
    let id = id.map_or_else(|| json!(example.id()), |value| value.to_json());
    let about =
        [("id", id), ("line", json!(example.line())), ("file", json!(dataset.path().display().to_string()))];
    let columns = [("columns", Value::Object(dataset.source_columns(index)))];
    about.into_iter().chain(content).chain(columns).map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Trainee for ModalTrainee {
    fn samples(&self, split: Split) -> usize {
        self.trainee().samples(split)
    }

    fn length(&self, split: Split, sample: u32) -> u32 {
        self.trainee().length(split, sample)
    }

    fn target(&self, split: Split, sample: u32) -> &Target {
        self.trainee().target(split, sample)
    }

    fn origin(&self, split: Split, sample: u32) -> String {
        self.trainee().origin(split, sample)
    }

    fn enter_stage(&self, stage: &Stage) {
        self.trainee().enter_stage(stage);
    }

    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        self.trainee().fetch(batch, next)
    }

    fn mixed(&self, batch: &Fetch<'_>) -> Option<Vec<Mixed>> {
        self.trainee().mixed(batch)
    }

    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var {
        self.trainee().logits(forward, split, samples, first_occurrence)
    }

    fn trained_logits<'s>(&'s self, forward: &mut Forward<'s>, batch: SampleBatch<'_>) -> Vec<(Var, f32)> {
        self.trainee().trained_logits(forward, batch)
    }

    fn cut(&self) -> Option<&dyn Cut> {
        self.trainee().cut()
    }
}
