//! BERT (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>), after `transformers`' `BertModel`.

use retune_checkpoint::ModelConfig;
use retune_nn::ParameterBuilder;

use super::encoder::{
    Encoder, EncoderNames, EncoderSizes, activation, dropout_rate, number, require_absolute_positions,
};
use super::head::{ClassificationHead, HeadLayers, HeadOverrides};
use super::{TextBackbone, TextFamily};
use crate::ModelError;

pub(super) static FAMILY: TextFamily = TextFamily {
    model_type: "bert",
    paper: "Devlin et al. 2018, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    prefix: "bert.",
    sequence_classification: "BertForSequenceClassification",
    backbone,
    head,
    lora_targets: &["query", "value"],
};

/// Names that BERT and RoBERTa share.
pub(super) const fn names(prefix: &'static str) -> EncoderNames {
    EncoderNames {
        prefix,
        blocks: "encoder.layer",
        attention: [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ],
        attention_norm: "attention.output.LayerNorm",
        feed_forward: ["intermediate.dense", "output.dense"],
        output_norm: "output.LayerNorm",
    }
}

/// Sizes under the keys that BERT and RoBERTa share, with the reference's defaults.
pub(super) fn sizes(config: &ModelConfig, first_position: usize) -> Result<EncoderSizes, ModelError> {
    require_absolute_positions(config)?;
    EncoderSizes {
        hidden_size: config.integer("hidden_size")?,
        layers: config.integer("num_hidden_layers")?,
        heads: config.integer("num_attention_heads")?,
        intermediate_size: config.integer("intermediate_size")?,
        vocab_size: config.integer("vocab_size")?,
        max_position_embeddings: config.integer("max_position_embeddings")?,
        type_vocab_size: config.optional_integer("type_vocab_size")?.unwrap_or(2),
        first_position,
        activation: activation(config, "hidden_act")?,
        hidden_dropout: dropout_rate(config, "hidden_dropout_prob", 0.1)?,
        attention_dropout: dropout_rate(config, "attention_probs_dropout_prob", 0.1)?,
        layer_norm_eps: number(config, "layer_norm_eps", 1e-12)?,
        initializer_range: number(config, "initializer_range", 0.02)?,
    }
    .check("num_attention_heads")
}

fn backbone(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
) -> Result<Box<dyn TextBackbone>, ModelError> {
    Ok(Box::new(Encoder::declare(builder, sizes(config, 0)?, &names("bert."))))
}

/// Pooler (dense and tanh over `[CLS]`), dropout, classifier.
fn head(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
    outputs: usize,
    overrides: &HeadOverrides,
) -> Result<ClassificationHead, ModelError> {
    let sizes = sizes(config, 0)?;
    let dropout = dropout_rate(config, "classifier_dropout", sizes.hidden_dropout)?;
    let layers = HeadLayers {
        dense: "bert.pooler.dense",
        activation: retune_tensor::Activation::Tanh,
        output: "classifier",
        dropout_before_dense: false,
    };
    Ok(ClassificationHead::declare(builder, &sizes, &layers, outputs, overrides.dropout.unwrap_or(dropout)))
}
