//! Text: encoded splits and a text classifier, as the loop sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use retune_autograd::{Pooling, Var};
use retune_data::{EncodedDataset, Target, TextDataset, TokenSequence};
use retune_models::text::{TextClassifier, TokenBatch};
use retune_nn::Forward;

use crate::trainee::{Split, Trainee};

/// A split's examples with their token ids.
pub struct TextSplit {
    /// The examples.
    pub dataset: TextDataset,
    /// Their token ids.
    pub encoded: EncodedDataset,
}

/// A text classifier with its data.
pub struct TextTrainee {
    /// The model.
    pub model: TextClassifier,
    /// Its data.
    pub splits: BTreeMap<Split, TextSplit>,
}

/// Windows of one sample draw from different random streams: the window's index sits above the sample's occurrence.
const WINDOW_SHIFT: u32 = 20;

/// Logits of samples that may each have several windows: those of a sample's windows are averaged.
pub fn window_logits<'s>(
    model: &'s TextClassifier,
    forward: &mut Forward<'s>,
    samples: &[&[TokenSequence]],
    first_occurrence: u32,
) -> Var {
    let mut keys = Vec::new();
    let mut offsets = vec![0_u32];
    let mut sequences = Vec::new();
    for (occurrence, windows) in (first_occurrence..).zip(samples) {
        for (window, sequence) in (0_u32..).zip(windows.iter()) {
            keys.push(occurrence | window << WINDOW_SHIFT);
            sequences.push((sequence.ids.as_slice(), sequence.type_ids.as_slice()));
        }
        offsets.push(sequences.len() as u32);
    }
    let logits = model.logits(forward, &TokenBatch::pack(sequences, &keys));
    if keys.len() == samples.len() {
        return logits;
    }
    forward.tape().pool(&logits, &Arc::new(offsets), Pooling::Mean)
}

impl TextTrainee {
    fn split(&self, split: Split) -> &TextSplit {
        &self.splits[&split]
    }
}

impl Trainee for TextTrainee {
    fn samples(&self, split: Split) -> usize {
        self.splits.get(&split).map_or(0, |split| split.dataset.len())
    }

    fn length(&self, split: Split, sample: u32) -> u32 {
        let windows = &self.split(split).encoded.encodings[sample as usize].windows;
        windows.iter().map(|window| window.ids.len() as u32).sum()
    }

    fn target(&self, split: Split, sample: u32) -> &Target {
        &self.split(split).dataset.examples[sample as usize].target
    }

    fn origin(&self, split: Split, sample: u32) -> String {
        let dataset = &self.split(split).dataset;
        format!("{}:{}", dataset.path().display(), dataset.examples[sample as usize].line)
    }

    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var {
        let encodings = &self.split(split).encoded.encodings;
        let windows: Vec<&[TokenSequence]> =
            samples.iter().map(|&sample| encodings[sample as usize].windows.as_slice()).collect();
        window_logits(&self.model, forward, &windows, first_occurrence)
    }
}
