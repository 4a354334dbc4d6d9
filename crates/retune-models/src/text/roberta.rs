//! RoBERTa (Liu et al. 2019, <https://arxiv.org/abs/1907.11692>) and XLM-RoBERTa (Conneau et al. 2019,
//! <https://arxiv.org/abs/1911.02116>), after `transformers`' `RobertaModel`: BERT's encoder with positions that start
//! behind the padding id.

use retune_checkpoint::ModelConfig;
use retune_nn::ParameterBuilder;

use super::encoder::{Encoder, EncoderSizes, dropout_rate};
use super::head::{ClassificationHead, HeadLayers, HeadOverrides};
use super::{TextBackbone, TextFamily, bert};
use crate::ModelError;

pub(super) static FAMILY: TextFamily = TextFamily {
    model_type: "roberta",
    paper: "Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach",
    prefix: "roberta.",
    sequence_classification: "RobertaForSequenceClassification",
    backbone,
    head,
    lora_targets: &["query", "value"],
};

/// The same network with a multilingual vocabulary.
pub(super) static XLM_ROBERTA: TextFamily = TextFamily {
    model_type: "xlm-roberta",
    paper: "Conneau et al. 2019, Unsupervised Cross-lingual Representation Learning at Scale",
    sequence_classification: "XLMRobertaForSequenceClassification",
    ..FAMILY
};

fn sizes(config: &ModelConfig) -> Result<EncoderSizes, ModelError> {
    bert::sizes(config, config.optional_integer("pad_token_id")?.unwrap_or(1) + 1)
}

fn backbone(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
) -> Result<Box<dyn TextBackbone>, ModelError> {
    Ok(Box::new(Encoder::declare(builder, sizes(config)?, &bert::names("roberta."))))
}

/// Dropout, dense and tanh over `<s>`, dropout, output projection.
fn head(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
    outputs: usize,
    overrides: &HeadOverrides,
) -> Result<ClassificationHead, ModelError> {
    let sizes = sizes(config)?;
    let dropout = dropout_rate(config, "classifier_dropout", sizes.hidden_dropout)?;
    let layers = HeadLayers {
        dense: "classifier.dense",
        activation: retune_tensor::Activation::Tanh,
        output: "classifier.out_proj",
        dropout_before_dense: true,
    };
    Ok(ClassificationHead::declare(builder, &sizes, &layers, outputs, overrides.dropout.unwrap_or(dropout)))
}
