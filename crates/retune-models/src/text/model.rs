//! A text backbone with its head.

use retune_autograd::{Pooling, Var};
use retune_checkpoint::ModelConfig;
use retune_nn::{Forward, ParameterBuilder, Rows};

use super::{
    ClassificationHead, EncoderSizes, HeadOverrides, TextBackbone, TextFamily, TokenBatch, WantedRows, family,
};
use crate::{LoraConfig, ModelError};

/// What a text classifier is made of.
#[derive(Clone, Debug)]
pub struct TextClassifierParts<'a> {
    /// `config.json` of the checkpoint.
    pub config: &'a ModelConfig,
    /// Size of the output layer.
    pub outputs: usize,
    /// Changes to the head.
    pub head: HeadOverrides,
    /// Low-rank adapters, if the strategy is LoRA.
    pub lora: Option<LoraConfig>,
}

/// A text backbone with a classification head. Its parameters' values live in a store that is made from the
/// [`ParameterBuilder`] it was declared with.
pub struct TextClassifier {
    family: &'static TextFamily,
    backbone: Box<dyn TextBackbone>,
    head: ClassificationHead,
    lora_targets: Vec<String>,
}

/// Pooled features of each sequence of a batch, [sequences, hidden].
pub type Features = Var;

impl TextClassifier {
    /// Declares the model's parameters.
    ///
    /// # Errors
    /// If the configuration names no known family, lacks a value or has one that cannot be computed.
    pub fn declare(
        parts: &TextClassifierParts<'_>,
        builder: &mut ParameterBuilder,
    ) -> Result<Self, ModelError> {
        let family = family(parts.config)?;
        let mut backbone = (family.backbone)(parts.config, builder)?;
        let head = (family.head)(parts.config, builder, parts.outputs, &parts.head)?;
        let lora_targets = match &parts.lora {
            Some(lora) => lora.attach(builder, backbone.linears_mut(), family.lora_targets)?,
            None => Vec::new(),
        };
        Ok(Self { family, backbone, head, lora_targets })
    }

    /// The model's family.
    pub fn family(&self) -> &'static TextFamily {
        self.family
    }

    /// Sizes of the backbone.
    pub fn sizes(&self) -> &EncoderSizes {
        self.backbone.sizes()
    }

    /// The head.
    pub fn head(&self) -> &ClassificationHead {
        &self.head
    }

    /// The names of the layers that carry low-rank adapters, as PEFT's `target_modules` has them.
    pub fn lora_targets(&self) -> &[String] {
        &self.lora_targets
    }

    /// Every linear layer of the backbone, in depth order.
    pub fn linears(&self) -> Vec<&retune_nn::Linear> {
        self.backbone.linears()
    }

    /// Logits, [sequences, outputs].
    pub fn logits<'s>(&'s self, forward: &mut Forward<'s>, batch: &TokenBatch) -> Var {
        let features = self.backbone.forward(forward, batch, WantedRows::First);
        let rows: Rows = batch.rows.first_of_each();
        self.head.forward(forward, &features, &rows)
    }

    /// Whether there is a block below a cut: below the first one there are only embeddings, which are looked up.
    pub fn has_blocks_below(&self, cut: usize) -> bool {
        (2..=self.backbone.groups()).contains(&cut)
    }

    /// The rows that a sequence of so many tokens has at a cut: below the head only the first one is ever read.
    pub fn rows_at_cut(&self, cut: usize, tokens: usize) -> usize {
        if cut == self.backbone.groups() { tokens.min(1) } else { tokens }
    }

    /// What the layer groups below a cut make of a batch: the rows of each sequence one after the other, each
    /// [`rows_at_cut`](Self::rows_at_cut) of width hidden.
    pub fn below_cut<'s>(&'s self, forward: &mut Forward<'s>, batch: &TokenBatch, cut: usize) -> Var {
        self.backbone.below(forward, batch, cut, WantedRows::First)
    }

    /// Logits [sequences, outputs] from what [`below_cut`](Self::below_cut) gave. `rows` are the batch's.
    pub fn logits_above_cut<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        hidden: Var,
        rows: &Rows,
        cut: usize,
    ) -> Var {
        let features = self.backbone.above(forward, hidden, rows, cut, WantedRows::First);
        self.head.forward(forward, &features, &rows.first_of_each())
    }

    /// The last hidden state pooled over each sequence.
    pub fn features<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        batch: &TokenBatch,
        pooling: Pooling,
    ) -> Features {
        if pooling == Pooling::First {
            return self.backbone.forward(forward, batch, WantedRows::First);
        }
        let hidden = self.backbone.forward(forward, batch, WantedRows::All);
        forward.tape().pool(&hidden, &batch.rows.offsets, pooling)
    }
}
