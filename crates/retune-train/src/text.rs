//! Text: encoded splits and a text classifier, as the loop sees them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use retune_autograd::{Pooling, Var};
use retune_data::image::ViewKey;
use retune_data::{
    EncodedDataset, Encoding, LengthPolicy, Paraphrases, ReadAhead, Sequence, StreamedTexts, Target,
    TextAugmentation, TextDataset, TextExample, TextTokenizer, TokenSequence,
};
use retune_models::text::{TextClassifier, TokenBatch};
use retune_nn::{Forward, Randomness};
use retune_tensor::Tensor;
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::trainee::{Cut, Fetch, SampleBatch, SampleHash, Split, Trainee, read_ahead};

/// A split's rows with their token ids.
pub struct TextSplit {
    /// The rows.
    pub rows: TextRows,
    /// Their token ids.
    pub encoded: EncodedDataset,
}

/// What is known of a split's rows beside their token ids.
pub enum TextRows {
    /// Everything.
    InMemory(Arc<TextDataset>),
    /// Lines and targets: the texts were streamed.
    Streamed(Box<StreamedRows>),
}

/// Training rows that were streamed.
pub struct StreamedRows {
    /// What is known of each.
    pub texts: StreamedTexts,
    /// The lines of other splits whose texts stand among them too, each with the line there.
    pub copies: BTreeMap<Split, HashMap<u64, u64>>,
}

impl TextRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(dataset) => dataset.len(),
            Self::Streamed(rows) => rows.texts.len(),
        }
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their file.
    pub fn path(&self) -> &Path {
        match self {
            Self::InMemory(dataset) => dataset.path(),
            Self::Streamed(rows) => rows.texts.about.path(),
        }
    }

    /// Rows per class.
    pub fn class_counts(&self) -> Vec<usize> {
        match self {
            Self::InMemory(dataset) => dataset.class_counts(),
            Self::Streamed(rows) => rows.texts.class_counts(),
        }
    }

    /// A row's line in the file.
    pub fn line(&self, row: usize) -> u64 {
        match self {
            Self::InMemory(dataset) => dataset.examples[row].line,
            Self::Streamed(rows) => rows.texts.line(row),
        }
    }

    /// Each row's line in the file.
    pub fn lines(&self) -> Vec<u64> {
        (0..self.len()).map(|row| self.line(row)).collect()
    }

    /// What a row should be answered with.
    pub fn target(&self, row: usize) -> &Target {
        match self {
            Self::InMemory(dataset) => &dataset.examples[row].target,
            Self::Streamed(rows) => rows.texts.target(row),
        }
    }

    /// The rows with their texts, unless these were streamed.
    pub fn dataset(&self) -> Option<&Arc<TextDataset>> {
        match self {
            Self::InMemory(dataset) => Some(dataset),
            Self::Streamed(_) => None,
        }
    }
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
    views: Option<ViewsAhead>,
}

/// Random views that threads make while the model computes.
type ViewsAhead = ReadAhead<View, Option<Encoding>>;

/// One random view of one training text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View {
    sample: u32,
    key: ViewKey,
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
    fn pack<'a, W>(samples: impl IntoIterator<Item = W>, first_occurrence: u32) -> Self
    where
        W: Iterator<Item = Sequence<'a>>,
    {
        let mut keys = Vec::new();
        let mut offsets = vec![0_u32];
        let mut sequences = Vec::new();
        for (occurrence, windows) in (first_occurrence..).zip(samples) {
            for (window, sequence) in (0_u32..).zip(windows) {
                keys.push(occurrence | window << WINDOW_SHIFT);
                sequences.push(sequence);
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
    let windows = Windows::pack(samples.iter().map(|windows| sequences_of(windows)), first_occurrence);
    let logits = model.logits(forward, &windows.batch);
    windows.average(forward, logits)
}

fn sequences_of(windows: &[TokenSequence]) -> impl Iterator<Item = Sequence<'_>> + Clone {
    windows.iter().map(|window| (window.ids.as_slice(), window.type_ids.as_slice()))
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
    /// A model with its data; `workers` threads make random views of training texts, if texts are augmented.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(
        model: TextClassifier,
        splits: BTreeMap<Split, TextSplit>,
        views: Option<TextViews>,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let train = splits.get(&Split::Train).and_then(|train| train.rows.dataset()).map(Arc::clone);
        let ahead = |(views, train): (TextViews, Arc<TextDataset>)| {
            let make = move |view: &View| {
                let sample = view.sample as usize;
                views.encode(sample, &train.examples[sample], view.key)
            };
            read_ahead(workers, "augmented texts", make)
        };
        let views = views.zip(train).map(ahead).transpose()?;
        Ok(Self { model, splits, views })
    }

    fn split(&self, split: Split) -> &TextSplit {
        &self.splits[&split]
    }

    fn windows(&self, split: Split, sample: u32) -> impl Iterator<Item = Sequence<'_>> + Clone {
        self.split(split).encoded.sequences(sample as usize)
    }

    /// The views of a training batch.
    fn views_of(fetch: &Fetch<'_>) -> Vec<View> {
        let Some(Randomness { seed, step }) = fetch.randomness.filter(|_| fetch.split == Split::Train) else {
            return Vec::new();
        };
        let view = |(&sample, occurrence)| View { sample, key: ViewKey { seed, step, occurrence } };
        fetch.samples.iter().zip(fetch.first_occurrence..).map(view).collect()
    }

    /// The windows of samples in a training step: of random views, if texts are augmented.
    fn pack_views(&self, fetch: &Fetch<'_>) -> Windows {
        let views = Self::views_of(fetch);
        let Some(ahead) = self.views.as_ref().filter(|_| !views.is_empty()) else {
            return self.pack(fetch.split, fetch.samples, fetch.first_occurrence);
        };
        let encodings: Vec<Encoding> = (ahead.take(&views).into_iter().zip(fetch.samples))
            .map(|(view, &sample)| {
                view.unwrap_or_else(|| {
                    let range = sample as usize..sample as usize + 1;
                    self.split(fetch.split).encoded.encodings(range).swap_remove(0)
                })
            })
            .collect();
        Windows::pack(encodings.iter().map(|view| sequences_of(&view.windows)), fetch.first_occurrence)
    }

    fn pack(&self, split: Split, samples: &[u32], first_occurrence: u32) -> Windows {
        Windows::pack(samples.iter().map(|&sample| self.windows(split, sample)), first_occurrence)
    }
}

impl Trainee for TextTrainee {
    fn samples(&self, split: Split) -> usize {
        self.splits.get(&split).map_or(0, |split| split.rows.len())
    }

    fn length(&self, split: Split, sample: u32) -> u32 {
        self.split(split).encoded.tokens(sample as usize) as u32
    }

    fn target(&self, split: Split, sample: u32) -> &Target {
        self.split(split).rows.target(sample as usize)
    }

    fn origin(&self, split: Split, sample: u32) -> String {
        let rows = &self.split(split).rows;
        format!("{}:{}", rows.path().display(), rows.line(sample as usize))
    }

    /// Token ids are at hand; only views of texts that are augmented are made ahead.
    fn fetch(&self, batch: &Fetch<'_>, next: Option<&Fetch<'_>>) -> Result<(), TrainError> {
        if let Some(ahead) = &self.views {
            let mut views = Self::views_of(batch);
            views.extend(next.map(Self::views_of).into_iter().flatten());
            ahead.announce(&views);
        }
        Ok(())
    }

    fn logits<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        split: Split,
        samples: &[u32],
        first_occurrence: u32,
    ) -> Var {
        let randomness = forward.randomness();
        let windows = self.pack_views(&Fetch { split, samples, first_occurrence, randomness });
        let logits = self.model.logits(forward, &windows.batch);
        windows.average(forward, logits)
    }

    /// The different token ids of training texts, unless views of them have others.
    fn rows_looked_up(&self) -> Option<usize> {
        let train = self.splits.get(&Split::Train).filter(|_| self.views.is_none())?;
        let samples = 0..train.rows.len() as u32;
        let windows = samples.flat_map(|sample| self.windows(Split::Train, sample));
        let mut is_known = vec![false; self.model.sizes().vocab_size];
        windows.flat_map(|(ids, _)| ids).for_each(|&id| is_known[id as usize] = true);
        Some(is_known.into_iter().filter(|known| *known).count())
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
        let windows = self.windows(split, sample);
        let rows: usize = windows.map(|(ids, _)| self.model.rows_at_cut(cut, ids.len())).sum();
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
        for (ids, type_ids) in self.windows(split, sample) {
            hasher.update((ids.len() as u32).to_le_bytes());
            for (id, type_id) in ids.iter().zip(type_ids) {
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
