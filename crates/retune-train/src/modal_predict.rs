//! A model of any modality, ready to answer a data file or a folder.

use std::path::Path;

use retune_data::image::ImageDataset;
use retune_data::{EncodedDataset, Finding, Target, TextDataset};
use retune_tasks::ClassificationTask;
use retune_tasks::metrics::EvaluationOptions;
use serde_json::{Map, Value};

use crate::TrainError;
use crate::evaluate::Evaluation;
use crate::image_predict::ImagePredictor;
use crate::predict::{PredictOptions, Predictor};
use crate::prepare::reads_pictures;
use crate::recipe::Recipe;

/// A model of one of the modalities.
pub enum ModalPredictor {
    /// For texts.
    Text(Box<Predictor>),
    /// For pictures.
    Image(Box<ImagePredictor>),
}

/// Data that a [`ModalPredictor`] has read.
pub enum ReadData {
    /// Texts with their token ids.
    Text(TextDataset, EncodedDataset),
    /// Pictures.
    Image(ImageDataset),
}

impl ReadData {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(dataset, _) => dataset.len(),
            Self::Image(dataset) => dataset.len(),
        }
    }

    /// True without samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was left out, and other remarks.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Text(dataset, _) => &dataset.findings,
            Self::Image(dataset) => &dataset.findings,
        }
    }

    /// What lost tokens, in words.
    pub fn truncation(&self) -> Option<String> {
        match self {
            Self::Text(_, encoded) if encoded.report.truncated > 0 => Some(encoded.report.to_string()),
            _ => None,
        }
    }

    /// What the samples should be answered with.
    pub fn targets(&self) -> Vec<&Target> {
        match self {
            Self::Text(dataset, _) => dataset.examples.iter().map(|example| &example.target).collect(),
            Self::Image(dataset) => dataset.examples.iter().map(|example| &example.target).collect(),
        }
    }

    /// All columns of a sample's source row, in file order; a picture's file among them.
    pub fn source_columns(&self, index: usize) -> Map<String, Value> {
        match self {
            Self::Text(dataset, _) => dataset.source_columns(index),
            Self::Image(dataset) => dataset.source_columns(index),
        }
    }
}

impl ModalPredictor {
    /// Opens a model folder, or a file of bare image weights whose architecture the recipe names.
    ///
    /// # Errors
    /// If there is no model, or one without a fitted head.
    pub fn open(path: &Path, recipe: &Recipe, options: &PredictOptions) -> Result<Self, TrainError> {
        if reads_pictures(recipe, path)? {
            return Ok(Self::Image(Box::new(ImagePredictor::open(path, recipe, options)?)));
        }
        if options.test_time.is_some() {
            return Err(TrainError::Setting(
                "augmentation.test_time (--tta) averages views of pictures, but the model reads texts"
                    .to_owned(),
            ));
        }
        Ok(Self::Text(Box::new(Predictor::open(path, options)?)))
    }

    /// The labels and what the outputs mean.
    pub fn task(&self) -> &ClassificationTask {
        match self {
            Self::Text(text) => text.task(),
            Self::Image(image) => image.task(),
        }
    }

    /// The temperature that was fitted on validation data, if any.
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Text(text) => text.temperature(),
            Self::Image(image) => image.temperature(),
        }
    }

    /// Reads data as the recipe's `[data]` section says, with targets in the model's labels or without.
    ///
    /// # Errors
    /// If it cannot be read, or has what the model does not know.
    pub fn read(&self, recipe: &Recipe, path: &Path, with_targets: bool) -> Result<ReadData, TrainError> {
        Ok(match self {
            Self::Text(text) => {
                let dataset = text.read(recipe, path, with_targets)?;
                let encoded = text.encode_dataset(&dataset)?;
                ReadData::Text(dataset, encoded)
            }
            Self::Image(image) => ReadData::Image(image.read(recipe, path, with_targets)?),
        })
    }

    /// Logits [samples, outputs] of all samples, `batch_size` at once; `done` hears how many more are answered.
    ///
    /// # Errors
    /// If a picture cannot be opened any more.
    ///
    /// # Panics
    /// If the data was read by a predictor of the other modality.
    pub fn logits(
        &self,
        data: &ReadData,
        batch_size: usize,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<f32>, TrainError> {
        let batch_size = batch_size.max(1);
        let mut logits = Vec::with_capacity(data.len() * self.task().outputs());
        for start in (0..data.len()).step_by(batch_size) {
            let end = (start + batch_size).min(data.len());
            match (self, data) {
                (Self::Text(text), ReadData::Text(_, encoded)) => {
                    let batch = encoded.encodings(start..end);
                    logits.extend(text.logits(&batch.iter().collect::<Vec<_>>()));
                }
                (Self::Image(image), ReadData::Image(dataset)) => {
                    logits.extend(image.logits(dataset, start..end, end..end + batch_size)?);
                }
                _ => panic!("a predictor answers what it has read"),
            }
            done(end - start);
        }
        Ok(logits)
    }

    /// Measures logits [samples, outputs] of data that was read with targets.
    ///
    /// # Errors
    /// If a logit is not finite or there is no sample.
    ///
    /// # Panics
    /// If the data was read by a predictor of the other modality.
    pub fn measure(
        &self,
        data: &ReadData,
        logits: &[f32],
        options: &EvaluationOptions,
    ) -> Result<Evaluation, TrainError> {
        match (self, data) {
            (Self::Text(text), ReadData::Text(dataset, _)) => text.measure(dataset, logits, options),
            (Self::Image(image), ReadData::Image(dataset)) => image.measure(dataset, logits, options),
            _ => panic!("a predictor measures what it has read"),
        }
    }
}
