//! Text: encoded splits and a text classifier, as the loop sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use retune_autograd::{Pooling, Var};
use retune_data::image::ViewKey;
use retune_data::{
    EncodedDataset, Encoding, LengthPolicy, Paraphrases, Target, TextAugmentation, TextDataset, TextExample,
    TextTokenizer, TokenSequence,
};
use retune_models::text::{TextClassifier, TokenBatch};
use retune_nn::{Forward, Randomness};
use retune_tensor::Tensor;
use sha2::{Digest, Sha256};

use crate::trainee::{Cut, SampleBatch, SampleHash, Split, Trainee};

/// A split's examples with their token ids.
pub struct TextSplit {
    /// The examples.
    pub dataset: TextDataset,
    /// Their token ids.
    pub encoded: EncodedDataset,
}

/// Random views of training texts.
pub struct TextViews {
    /// What is done to them.
    pub augmentation: TextAugmentation,
    /// Texts that may stand for them.
    pub paraphrases: Option<Paraphrases>,
    /// What makes token ids of them.
    pub tokenizer: TextTokenizer,
    /// How they are cut.
    pub policy: LengthPolicy,
}

/// A text classifier with its data.
pub struct TextTrainee {
    /// The model.
    pub model: TextClassifier,
    /// Its data.
    pub splits: BTreeMap<Split, TextSplit>,
    /// Random views in training, if texts are augmented.
    pub views: Option<TextViews>,
}

/// Windows of one sample draw from different random streams: the window's index sits above the sample's occurrence.
const WINDOW_SHIFT: u32 = 20;

/// The windows of some samples as one packed batch.
struct Windows {
    batch: TokenBatch,
    /// Where each sample's windows start, and the end.
    offsets: Vec<u32>,
}

impl Windows {
    fn pack(samples: &[&[TokenSequence]], first_occurrence: u32) -> Self {
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
        Self { batch: TokenBatch::pack(sequences, &keys), offsets }
    }

    /// Averages the logits of each sample's windows.
    fn average(self, forward: &mut Forward<'_>, logits: Var) -> Var {
        if self.batch.rows.sequences() + 1 == self.offsets.len() {
            return logits;
        }
        forward.tape().pool(&logits, &Arc::new(self.offsets), Pooling::Mean)
    }
}

/// Logits of samples that may each have several windows: those of a sample's windows are averaged.
pub fn window_logits<'s>(
    model: &'s TextClassifier,
    forward: &mut Forward<'s>,
    samples: &[&[TokenSequence]],
    first_occurrence: u32,
) -> Var {
    let windows = Windows::pack(samples, first_occurrence);
    let logits = model.logits(forward, &windows.batch);
    windows.average(forward, logits)
}

impl TextViews {
    /// A view's token ids; none where it cannot be encoded, such as a text that a typing error made too long.
    fn encode(&self, index: usize, example: &TextExample, key: ViewKey) -> Option<Encoding> {
        let paraphrase = self.paraphrases.as_ref().and_then(|known| known.choose(index, key));
        let text = self.augmentation.view(paraphrase.unwrap_or(&example.text), key, "text");
        let pair = example.text_pair.as_ref().map(|pair| self.augmentation.view(pair, key, "text_pair"));
        self.tokenizer.encode(&text, pair.as_deref(), &self.policy).ok()
    }
}

impl TextTrainee {
    fn split(&self, split: Split) -> &TextSplit {
        &self.splits[&split]
    }

    fn windows(&self, split: Split, sample: u32) -> &[TokenSequence] {
        &self.split(split).encoded.encodings[sample as usize].windows
    }

    /// The windows of samples in a training step: of random views, if texts are augmented.
    fn pack_views(
        &self,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
        randomness: Randomness,
    ) -> Windows {
        let Some(views) = self.views.as_ref().filter(|_| split == Split::Train) else {
            return self.pack(split, samples, first_occurrence);
        };
        let Randomness { seed, step } = randomness;
        let view = |(&sample, occurrence): (&u32, u32)| {
            let example = &self.split(split).dataset.examples[sample as usize];
            match views.encode(sample as usize, example, ViewKey { seed, step, occurrence }) {
                Some(view) => view.windows,
                None => self.windows(split, sample).to_vec(),
            }
        };
        let windows: Vec<Vec<TokenSequence>> = samples.iter().zip(first_occurrence..).map(view).collect();
        Windows::pack(&windows.iter().map(Vec::as_slice).collect::<Vec<_>>(), first_occurrence)
    }

    fn pack(&self, split: Split, samples: &[u32], first_occurrence: u32) -> Windows {
        let samples: Vec<&[TokenSequence]> =
            samples.iter().map(|&sample| self.windows(split, sample)).collect();
        Windows::pack(&samples, first_occurrence)
    }
}

impl Trainee for TextTrainee {
    fn samples(&self, split: Split) -> usize {
        self.splits.get(&split).map_or(0, |split| split.dataset.len())
    }

    fn length(&self, split: Split, sample: u32) -> u32 {
        self.windows(split, sample).iter().map(|window| window.ids.len() as u32).sum()
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
        let windows = match forward.randomness() {
            Some(randomness) => self.pack_views(split, samples, first_occurrence, randomness),
            None => self.pack(split, samples, first_occurrence),
        };
        let logits = self.model.logits(forward, &windows.batch);
        windows.average(forward, logits)
    }

    fn cut(&self) -> Option<&dyn Cut> {
        Some(self)
    }
}

impl Cut for TextTrainee {
    /// A text's path is always the same, unless it is augmented; embeddings alone are looked up as fast as features are.
    fn is_worth_keeping(&self, _split: Split, is_training: bool, cut: usize) -> bool {
        let is_fixed = !is_training || self.views.is_none();
        is_fixed && self.model.has_blocks_below(cut)
    }

    fn feature_len(&self, split: Split, sample: u32, cut: usize) -> usize {
        let windows = self.windows(split, sample).iter();
        let rows: usize = windows.map(|window| self.model.rows_at_cut(cut, window.ids.len())).sum();
        rows * self.model.sizes().hidden_size
    }

    fn feature_width(&self, _cut: usize) -> usize {
        self.model.sizes().hidden_size
    }

    fn signature(&self) -> String {
        format!("{} {:?}", self.model.family().model_type, self.model.sizes())
    }

    fn sample_hash(&self, split: Split, sample: u32, _randomness: Option<Randomness>) -> SampleHash {
        let mut hasher = Sha256::new();
        for window in self.windows(split, sample) {
            hasher.update((window.ids.len() as u32).to_le_bytes());
            for (id, type_id) in window.ids.iter().zip(&window.type_ids) {
                hasher.update(id.to_le_bytes());
                hasher.update(type_id.to_le_bytes());
            }
        }
        let mut hash = SampleHash::default();
        hash.copy_from_slice(&hasher.finalize()[..16]);
        hash
    }

    fn features<'s>(&'s self, forward: &mut Forward<'s>, split: Split, samples: &[u32], cut: usize) -> Var {
        self.model.below_cut(forward, &self.pack(split, samples, 0).batch, cut)
    }

    fn logits_from_features<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        features: &Tensor,
        samples: SampleBatch<'_>,
        cut: usize,
    ) -> Var {
        let windows = self.pack(samples.split, samples.samples, samples.first_occurrence);
        let hidden_size = self.model.sizes().hidden_size;
        let hidden = features.reshape([features.elements() / hidden_size, hidden_size]);
        let hidden = Var::constant(hidden);
        let logits = self.model.logits_above_cut(forward, hidden, &windows.batch.rows, cut);
        windows.average(forward, logits)
    }
}
