//! The post-norm Transformer encoder that BERT, RoBERTa and DistilBERT share (Vaswani et al. 2017; Devlin et al. 2018).
//! They differ in names, in the first position and in whether segments are embedded; a family file says how.

use std::ops::Range;
use std::sync::Arc;

use retune_autograd::Var;
use retune_checkpoint::ModelConfig;
use retune_nn::{
    Embedding, FeedForward, Forward, Initialization, LayerNorm, Linear, ParameterBuilder, Rows, Site,
};
use retune_tensor::Activation;
use retune_tensor::ops::AttentionShape;

use super::{TextBackbone, TokenBatch, WantedRows};
use crate::ModelError;

/// Sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSizes {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Width of the feed-forward's hidden layer.
    pub intermediate_size: usize,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the segment table; 0 if segments are not embedded.
    pub type_vocab_size: usize,
    /// The position id of a sequence's first token.
    pub first_position: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Dropout on hidden states.
    pub hidden_dropout: f32,
    /// Dropout on attention probabilities.
    pub attention_dropout: f32,
    /// Added to the variance in layer normalization.
    pub layer_norm_eps: f32,
    /// Standard deviation of newly initialized matrices.
    pub initializer_range: f32,
}

impl EncoderSizes {
    /// The longest sequence in tokens.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings - self.first_position
    }

    /// Refuses what cannot be computed.
    pub(super) fn check(self, heads_key: &'static str) -> Result<Self, ModelError> {
        let refuse = |key, value: usize, problem: &str| {
            Err(ModelError::Config { key, value: value.to_string(), problem: problem.to_owned() })
        };
        if self.heads == 0 || !self.hidden_size.is_multiple_of(self.heads) {
            return refuse(heads_key, self.heads, "the hidden size must be a multiple of it");
        }
        if self.layers > MOST_LAYERS {
            return refuse("num_hidden_layers", self.layers, "no model has so many blocks");
        }
        if self.max_position_embeddings <= self.first_position {
            return refuse(
                "max_position_embeddings",
                self.max_position_embeddings,
                "leaves no position to use",
            );
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            let (key, value) = ("layer_norm_eps", self.layer_norm_eps.to_string());
            return Err(ModelError::Config { key, value, problem: "must be a number above 0".to_owned() });
        }
        Ok(self)
    }
}

/// Blocks that a model may have: far more than any has, far fewer than memory.
const MOST_LAYERS: usize = 10_000;

/// A dropout probability of the configuration, or its default.
pub(super) fn dropout_rate(config: &ModelConfig, key: &'static str, default: f32) -> Result<f32, ModelError> {
    let value = number(config, key, default)?;
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    let problem = "a dropout probability is at least 0 and less than 1".to_owned();
    Err(ModelError::Config { key, value: value.to_string(), problem })
}

/// A number of the configuration, or its default.
pub(super) fn number(config: &ModelConfig, key: &str, default: f32) -> Result<f32, ModelError> {
    Ok(config.optional_number(key)?.map_or(default, |value| value as f32))
}

/// The activation that a configuration names.
pub(super) fn activation(config: &ModelConfig, key: &'static str) -> Result<Activation, ModelError> {
    match config.string(key)? {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(ModelError::Config {
            key,
            value: format!("\"{other}\""),
            problem: "known are gelu, gelu_new, gelu_pytorch_tanh, relu, silu".to_owned(),
        }),
    }
}

/// Refuses position embeddings other than absolute ones, which the encoder would compute wrongly.
pub(super) fn require_absolute_positions(config: &ModelConfig) -> Result<(), ModelError> {
    match config.optional_string("position_embedding_type")? {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(ModelError::Config {
            key: "position_embedding_type",
            value: format!("\"{other}\""),
            problem: "only absolute position embeddings are supported".to_owned(),
        }),
    }
}

/// The reference implementation's names, below the family's prefix.
pub(super) struct EncoderNames {
    /// The family's prefix, with its dot.
    pub prefix: &'static str,
    /// Path of the list of blocks.
    pub blocks: &'static str,
    /// Query, key, value and output projection of a block's attention.
    pub attention: [&'static str; 4],
    /// The norm after the attention.
    pub attention_norm: &'static str,
    /// The two layers of the feed-forward.
    pub feed_forward: [&'static str; 2],
    /// The norm after the feed-forward.
    pub output_norm: &'static str,
}

/// A post-norm encoder.
pub(super) struct Encoder {
    sizes: EncoderSizes,
    embeddings: Embeddings,
    blocks: Vec<Block>,
}

struct Embeddings {
    word: Embedding,
    position: Embedding,
    token_type: Option<Embedding>,
    norm: LayerNorm,
    dropout: Site,
}

struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    feed_forward: FeedForward,
    output_norm: LayerNorm,
    heads: usize,
    hidden_dropout: f32,
    attention_dropout: f32,
    sites: [Site; 3],
}

impl Encoder {
    pub(super) fn declare(builder: &mut ParameterBuilder, sizes: EncoderSizes, names: &EncoderNames) -> Self {
        let prefix = names.prefix;
        builder.begin_group("embeddings");
        let normal = Initialization::Normal { std: sizes.initializer_range };
        let mut table = |name: &str, rows: usize| {
            let name = format!("{prefix}embeddings.{name}");
            Embedding::declare(builder, &name, rows, sizes.hidden_size, normal)
        };
        let word = table("word_embeddings", sizes.vocab_size);
        let position = table("position_embeddings", sizes.max_position_embeddings);
        let token_type =
            (sizes.type_vocab_size > 0).then(|| table("token_type_embeddings", sizes.type_vocab_size));
        let norm_name = format!("{prefix}embeddings.LayerNorm");
        let norm = LayerNorm::declare(builder, &norm_name, sizes.hidden_size, sizes.layer_norm_eps);
        let dropout = builder.site(&format!("{prefix}embeddings.dropout"));
        let embeddings = Embeddings { word, position, token_type, norm, dropout };
        let blocks = (0..sizes.layers)
            .map(|index| {
                builder.begin_group(&format!("{}.{index}", names.blocks));
                Block::declare(builder, &sizes, names, index)
            })
            .collect();
        Self { sizes, embeddings, blocks }
    }

    /// The hidden states [tokens, hidden] that enter the first block.
    fn embed(&self, forward: &mut Forward<'_>, batch: &TokenBatch) -> Var {
        let Embeddings { word, position, token_type, norm, dropout } = &self.embeddings;
        let positions = Arc::new(batch.positions(self.sizes.first_position as u32));
        let (word, position) = (word.table(forward), position.table(forward));
        let token_type = token_type.as_ref().map(|table| table.table(forward));
        let mut tables = vec![(&word, Arc::clone(&batch.token_ids)), (&position, positions)];
        if let Some(token_type) = &token_type {
            tables.push((token_type, Arc::clone(&batch.type_ids)));
        }
        let sum = forward.tape().embedding(&tables);
        let hidden = norm.forward(forward, &sum);
        drop(sum);
        let spec = forward.dropout_spec(*dropout, self.sizes.hidden_dropout, &batch.rows);
        forward.tape().dropout(&hidden, spec)
    }

    /// Runs some of the blocks; only the last of all computes less than every row.
    fn run_blocks<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        mut hidden: Var,
        rows: &Rows,
        blocks: Range<usize>,
        wanted: WantedRows,
    ) -> Var {
        for index in blocks {
            let block = &self.blocks[index];
            let wanted = if index + 1 == self.blocks.len() { wanted } else { WantedRows::All };
            let rows = rows.clone();
            hidden = forward.block(&hidden, move |forward, x| block.forward(forward, x, &rows, wanted));
        }
        if self.blocks.is_empty() && wanted == WantedRows::First {
            let starts = rows.offsets[..rows.sequences()].to_vec();
            hidden = forward.tape().gather_rows(&hidden, Arc::new(starts));
        }
        hidden
    }
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        sizes: &EncoderSizes,
        names: &EncoderNames,
        index: usize,
    ) -> Self {
        let path = format!("{}{}.{index}", names.prefix, names.blocks);
        let (hidden, intermediate) = (sizes.hidden_size, sizes.intermediate_size);
        let normal = Initialization::Normal { std: sizes.initializer_range };
        let linear = |builder: &mut ParameterBuilder, name: &str, input, output| {
            Linear::declare(builder, &format!("{path}.{name}"), input, output, normal)
        };
        let norm = |builder: &mut ParameterBuilder, name: &str| {
            LayerNorm::declare(builder, &format!("{path}.{name}"), hidden, sizes.layer_norm_eps)
        };
        let [query, key, value, output] = names.attention.map(|name| linear(builder, name, hidden, hidden));
        let attention_norm = norm(builder, names.attention_norm);
        let feed_forward = FeedForward {
            first: linear(builder, names.feed_forward[0], hidden, intermediate),
            activation: sizes.activation,
            second: linear(builder, names.feed_forward[1], intermediate, hidden),
        };
        let output_norm = norm(builder, names.output_norm);
        let sites = ["attention.probabilities", "attention.output", "output"]
            .map(|place| builder.site(&format!("{path}.{place}.dropout")));
        Self {
            query,
            key,
            value,
            output,
            attention_norm,
            feed_forward,
            output_norm,
            heads: sizes.heads,
            hidden_dropout: sizes.hidden_dropout,
            attention_dropout: sizes.attention_dropout,
            sites,
        }
    }

    /// The block's output for the rows that `wanted` asks for. Keys and values are needed of every row; all else is
    /// computed for the wanted rows alone.
    fn forward<'s>(&'s self, forward: &mut Forward<'s>, x: &Var, rows: &Rows, wanted: WantedRows) -> Var {
        let (query_rows, residual) = match wanted {
            WantedRows::All => (rows.clone(), x.clone()),
            WantedRows::First => {
                let starts = Arc::new(rows.offsets[..rows.sequences()].to_vec());
                (rows.first_of_each(), forward.tape().gather_rows(x, starts))
            }
        };
        let q = self.query.forward(forward, &residual, Activation::Identity, &query_rows);
        let k = self.key.forward(forward, x, Activation::Identity, rows);
        let v = self.value.forward(forward, x, Activation::Identity, rows);
        let head_dim = q.tensor().width() / self.heads;
        let shape = AttentionShape {
            heads: self.heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
            query_offsets: Arc::clone(&query_rows.offsets),
            key_offsets: Arc::clone(&rows.offsets),
        };
        let [probabilities, attention, output] = self.sites;
        let dropout = forward.dropout_spec(probabilities, self.attention_dropout, &query_rows);
        let context = forward.tape().attention(&shape, &q, &k, &v, dropout);
        drop((q, k, v));
        let attended = self.output.forward(forward, &context, Activation::Identity, &query_rows);
        drop(context);
        let dropout = (attention, self.hidden_dropout);
        let hidden =
            self.attention_norm.forward_residual(forward, &attended, &residual, dropout, &query_rows);
        drop((attended, residual));
        let fed = self.feed_forward.forward(forward, &hidden, &query_rows);
        let dropout = (output, self.hidden_dropout);
        self.output_norm.forward_residual(forward, &fed, &hidden, dropout, &query_rows)
    }

    fn linears(&self) -> [&Linear; 6] {
        let FeedForward { first, second, .. } = &self.feed_forward;
        [&self.query, &self.key, &self.value, &self.output, first, second]
    }

    fn linears_mut(&mut self) -> [&mut Linear; 6] {
        let FeedForward { first, second, .. } = &mut self.feed_forward;
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output, first, second]
    }
}

impl TextBackbone for Encoder {
    fn below<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        batch: &TokenBatch,
        cut: usize,
        wanted: WantedRows,
    ) -> Var {
        let embedded = self.embed(forward, batch);
        self.run_blocks(forward, embedded, &batch.rows, 0..cut.saturating_sub(1), wanted)
    }

    fn above<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        hidden: Var,
        rows: &Rows,
        cut: usize,
        wanted: WantedRows,
    ) -> Var {
        if cut == self.groups() {
            return hidden;
        }
        self.run_blocks(forward, hidden, rows, cut.saturating_sub(1)..self.blocks.len(), wanted)
    }

    fn sizes(&self) -> &EncoderSizes {
        &self.sizes
    }

    fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(Block::linears).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(Block::linears_mut).collect()
    }
}
