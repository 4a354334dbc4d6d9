//! DistilBERT (Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>), after `transformers`' `DistilBertModel`: BERT's
//! encoder without segments.

use retune_checkpoint::ModelConfig;
use retune_nn::ParameterBuilder;

use super::encoder::{Encoder, EncoderNames, EncoderSizes, activation, dropout_rate, number};
use super::head::{ClassificationHead, HeadLayers, HeadOverrides};
use super::{TextBackbone, TextFamily};
use crate::ModelError;

pub(super) static FAMILY: TextFamily = TextFamily {
    model_type: "distilbert",
    paper: "Sanh et al. 2019, DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
    prefix: "distilbert.",
    sequence_classification: "DistilBertForSequenceClassification",
    backbone,
    head,
    lora_targets: &["q_lin", "v_lin"],
};

const NAMES: EncoderNames = EncoderNames {
    prefix: "distilbert.",
    blocks: "transformer.layer",
    attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
    attention_norm: "sa_layer_norm",
    feed_forward: ["ffn.lin1", "ffn.lin2"],
    output_norm: "output_layer_norm",
};

fn sizes(config: &ModelConfig) -> Result<EncoderSizes, ModelError> {
    EncoderSizes {
        hidden_size: config.integer("dim")?,
        layers: config.integer("n_layers")?,
        heads: config.integer("n_heads")?,
        intermediate_size: config.integer("hidden_dim")?,
        vocab_size: config.integer("vocab_size")?,
        max_position_embeddings: config.integer("max_position_embeddings")?,
        type_vocab_size: 0,
        first_position: 0,
        activation: activation(config, "activation")?,
        hidden_dropout: dropout_rate(config, "dropout", 0.1)?,
        attention_dropout: dropout_rate(config, "attention_dropout", 0.1)?,
        layer_norm_eps: 1e-12,
        initializer_range: number(config, "initializer_range", 0.02)?,
    }
    .check("n_heads")
}

fn backbone(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
) -> Result<Box<dyn TextBackbone>, ModelError> {
    Ok(Box::new(Encoder::declare(builder, sizes(config)?, &NAMES)))
}

/// Dense and ReLU over `[CLS]`, dropout, classifier.
fn head(
    config: &ModelConfig,
    builder: &mut ParameterBuilder,
    outputs: usize,
    overrides: &HeadOverrides,
) -> Result<ClassificationHead, ModelError> {
    let dropout = dropout_rate(config, "seq_classif_dropout", 0.2)?;
    let layers = HeadLayers {
        dense: "pre_classifier",
        activation: retune_tensor::Activation::Relu,
        output: "classifier",
        dropout_before_dense: false,
    };
    let sizes = sizes(config)?;
    Ok(ClassificationHead::declare(builder, &sizes, &layers, outputs, overrides.dropout.unwrap_or(dropout)))
}
