//! Text families: what a text backbone and its head answer, and the registry.

mod bert;
mod distilbert;
mod encoder;
mod head;
mod load;
mod model;
mod roberta;

use std::sync::Arc;

use retune_autograd::Var;
use retune_checkpoint::ModelConfig;
use retune_nn::{Forward, Linear, ParameterBuilder, Rows};

pub use encoder::EncoderSizes;
pub use head::{ClassificationHead, HeadOverrides};
pub use model::{Features, TextClassifier, TextClassifierParts};

use crate::ModelError;

/// A packed batch of token sequences: no padding, one row per token.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Token ids of all sequences, one after the other.
    pub token_ids: Arc<Vec<u32>>,
    /// Segment ids, one per token.
    pub type_ids: Arc<Vec<u32>>,
    /// Where sequences start, and the random key of each row.
    pub rows: Rows,
}

impl TokenBatch {
    /// Packs sequences of (token ids, segment ids); `samples` is the occurrence of each in the step.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [u32])>, samples: &[u32]) -> Self {
        let (mut token_ids, mut type_ids, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for (tokens, types) in sequences {
            token_ids.extend_from_slice(tokens);
            type_ids.extend_from_slice(types);
            offsets.push(token_ids.len() as u32);
        }
        let rows = Rows::packed(offsets, samples);
        Self { token_ids: Arc::new(token_ids), type_ids: Arc::new(type_ids), rows }
    }

    /// The position of each row in its sequence plus `first`.
    pub fn positions(&self, first: u32) -> Vec<u32> {
        self.rows.keys.iter().map(|key| key.position + first).collect()
    }
}

/// Which rows of the last hidden state the caller reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedRows {
    /// Every token's.
    All,
    /// The first of each sequence: the other rows of the last block are never computed.
    First,
}

/// A pretrained text network without its task head. Its layer groups, from 0, are the embeddings and the blocks; a cut
/// below group `g` lies between the groups `0..g` and all above them.
pub trait TextBackbone: Send + Sync {
    /// What the layer groups below a cut make of a batch: the hidden states [tokens, hidden] that enter group `cut`, or,
    /// below all groups (`cut` is their number), the last hidden state's rows that `wanted` asks for.
    fn below<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        batch: &TokenBatch,
        cut: usize,
        wanted: WantedRows,
    ) -> Var;

    /// What the layer groups above a cut make of the hidden states that enter them. `rows` are the batch's.
    fn above<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        hidden: Var,
        rows: &Rows,
        cut: usize,
        wanted: WantedRows,
    ) -> Var;

    /// The last hidden state, [tokens, hidden] or [sequences, hidden].
    fn forward<'s>(&'s self, forward: &mut Forward<'s>, batch: &TokenBatch, wanted: WantedRows) -> Var {
        self.below(forward, batch, self.groups(), wanted)
    }

    /// The number of layer groups.
    fn groups(&self) -> usize {
        1 + self.sizes().layers
    }

    /// The sizes that a caller needs: hidden size, vocabulary, longest sequence.
    fn sizes(&self) -> &EncoderSizes;

    /// Every linear layer, in depth order.
    fn linears(&self) -> Vec<&Linear>;

    /// Every linear layer, in depth order, to attach adapters.
    fn linears_mut(&mut self) -> Vec<&mut Linear>;
}

/// Declares a family's backbone from its configuration.
pub type DeclareBackbone =
    fn(&ModelConfig, &mut ParameterBuilder) -> Result<Box<dyn TextBackbone>, ModelError>;

/// A text family: how its network is built from `config.json`.
pub struct TextFamily {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// The prefix that a model with a head puts before the backbone's names (`bert.`).
    pub prefix: &'static str,
    /// The reference implementation's class for sequence classification, written to `architectures`.
    pub sequence_classification: &'static str,
    /// Declares the backbone, group by group in depth order.
    pub backbone: DeclareBackbone,
    /// Declares the classification head for this many outputs.
    pub head: fn(
        &ModelConfig,
        &mut ParameterBuilder,
        usize,
        &HeadOverrides,
    ) -> Result<ClassificationHead, ModelError>,
    /// The linear layers that LoRA adapts when the recipe names none.
    pub lora_targets: &'static [&'static str],
}

/// All text families. A new one is one file and one line here.
pub static FAMILIES: &[&TextFamily] =
    &[&bert::FAMILY, &distilbert::FAMILY, &roberta::FAMILY, &roberta::XLM_ROBERTA];

/// The family of a configuration.
///
/// # Errors
/// If `model_type` is missing or names no family.
pub fn family(config: &ModelConfig) -> Result<&'static TextFamily, ModelError> {
    let model_type = config.string("model_type")?;
    FAMILIES.iter().copied().find(|family| family.model_type == model_type).ok_or_else(|| {
        let known = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        ModelError::UnknownFamily { model_type: model_type.to_owned(), known }
    })
}
