//! Swin (Liu et al. 2021, <https://arxiv.org/abs/2103.14030>), after torchvision's `swin_transformer.py`: attention within
//! windows of patches, which every other block shifts, in stages of half the resolution each.

use std::sync::Arc;

use retune_autograd::Var;
use retune_checkpoint::{ModelConfig, Rule, Sizes as PartSizes, Transform};
use retune_nn::{
    Conv2d, ConvSizes, FeedForward, Forward, Initialization, LayerNorm, Linear, ParameterBuilder, Rows, Site,
};
use retune_tensor::{Activation, Conv2dParameters};

use super::window_attention::{AREA, WindowAttention};
use super::{
    Architecture, Declare, HuggingFace, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there,
};
use crate::ModelError;

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "swin",
    paper: "Liu et al. 2021, Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    reference: "torchvision.models.swin_transformer",
    architectures: &[
        Architecture { name: "swin_t", ..BASE },
        // timm shifts before it pads and `transformers` shrinks windows, so that they agree where windows fill the map.
        Architecture {
            name: TINY_224,
            timm: Some(TINY_224),
            preprocessing: Preprocessing::imagenet(248, 224, Interpolation::Bicubic),
            smallest: 224,
            patch: Some(224),
            from_timm: || Some(from_timm()),
            from_hugging_face: || Some(from_hugging_face()),
            ..BASE
        },
    ],
    hugging_face: Some(HuggingFace {
        model_type: "swin",
        prefix: "swin.",
        image_classification: "SwinForImageClassification",
        modules: &[
            (".attention.self.query", ".attention.q_proj"),
            (".attention.self.key", ".attention.k_proj"),
            (".attention.self.value", ".attention.v_proj"),
            (".attention.output.dense", ".attention.o_proj"),
            (".intermediate.dense", ".mlp.fc1"),
            (".output.dense", ".mlp.fc2"),
        ],
        architecture: described,
        layer_norm_eps: None,
    }),
};

const TINY_224: &str = "swin_tiny_patch4_window7_224";

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(232, 224, Interpolation::Bicubic),
    smallest: 32,
    patch: None,
    declare: |d| Swin::declare(d, &TINY),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// A member of the family.
struct Sizes {
    /// Channels of the first stage; each later one has twice as many.
    width: usize,
    /// Blocks of each stage.
    depths: [usize; 4],
    /// Attention heads of the first stage; each later one has twice as many.
    heads: usize,
    /// Stochastic depth of the last block.
    drop_path: f32,
}

const TINY: Sizes = Sizes { width: 96, depths: [2, 2, 6, 2], heads: 3, drop_path: 0.2 };

/// Rows and columns of a patch.
const PATCH: usize = 4;
/// The feed-forward's hidden layer over the width.
const EXPANSION: usize = 4;
const EPS: f32 = 1e-5;
/// The reference draws from a normal that is cut off at 2, a hundred deviations away.
const NORMAL: Initialization = Initialization::Normal { std: 0.02 };

/// Attention and feed-forward, each over normalized places and beside a shortcut.
struct Block {
    attention_norm: LayerNorm,
    attention: WindowAttention,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
    sites: [Site; 2],
    drop_path: f32,
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        path: &str,
        [width, heads]: [usize; 2],
        is_shifted: bool,
        drop_path: f32,
    ) -> Self {
        let name = |part: &str| format!("{path}.{part}");
        let hidden = EXPANSION * width;
        let glorot = Initialization::Uniform { bound: (6.0 / (width + hidden) as f32).sqrt() };
        Self {
            attention_norm: LayerNorm::declare(builder, &name("norm1"), width, EPS),
            attention: WindowAttention::declare(builder, &name("attn"), [width, heads], is_shifted, NORMAL),
            feed_forward_norm: LayerNorm::declare(builder, &name("norm2"), width, EPS),
            feed_forward: FeedForward {
                first: Linear::declare(builder, &name("mlp.0"), width, hidden, glorot),
                activation: Activation::GeluErf,
                second: Linear::declare(builder, &name("mlp.3"), hidden, width, glorot),
            },
            sites: ["stochastic_depth.0", "stochastic_depth.1"].map(|part| builder.site(&name(part))),
            drop_path,
        }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var, pictures: &Rows) -> Var {
        let shape = x.tensor().shape().clone();
        let normed = self.attention_norm.forward(forward, x);
        let attended = self.attention.forward(forward, &normed, pictures).reshape(&shape);
        drop(normed);
        let x = self.add(forward, x, attended, self.sites[0], pictures);
        let normed = self.feed_forward_norm.forward(forward, &x);
        let rows = pictures.spread(x.tensor().rows());
        let fed = self.feed_forward.forward(forward, &normed, &rows).reshape(&shape);
        drop(normed);
        self.add(forward, &x, fed, self.sites[1], pictures)
    }

    /// `x + y`, `y` left out for some of the pictures by stochastic depth.
    fn add(&self, forward: &mut Forward<'_>, x: &Var, mut y: Var, site: Site, pictures: &Rows) -> Var {
        if let Some(factors) = forward.drop_path(site, self.drop_path, pictures, y.tensor().width()) {
            y = forward.tape().scale_channels(&y, &factors);
        }
        forward.tape().add(x, &y)
    }
}

/// Four neighbours become one place with twice the channels.
struct Merging {
    norm: LayerNorm,
    reduction: Linear,
}

impl Merging {
    fn forward(&self, forward: &mut Forward<'_>, x: &Var, pictures: &Rows) -> Var {
        let &[batch, height, width, channels] = x.tensor().shape().sizes() else { return x.clone() };
        let [rows, columns] = [height, width].map(|edge| edge.div_ceil(2));
        let mut neighbours = Vec::with_capacity(batch * rows * columns * 4);
        for picture in 0..batch {
            for place in 0..rows * columns {
                for [down, right] in [[0, 0], [1, 0], [0, 1], [1, 1]] {
                    let (y, x) = (2 * (place / columns) + down, 2 * (place % columns) + right);
                    let inside = y < height && x < width;
                    neighbours.push(inside.then(|| ((picture * height + y) * width + x) as u32));
                }
            }
        }
        let x = gather_or_zero(forward, &x.reshape([batch * height * width, channels]), neighbours);
        let x = forward.tape().view(&x, [batch * rows * columns, 4 * channels]);
        let x = self.norm.forward(forward, &x);
        let x =
            self.reduction.forward(forward, &x, Activation::Identity, &pictures.spread(x.tensor().rows()));
        x.reshape([batch, rows, columns, 2 * channels])
    }
}

/// The named rows of `x`, zeros where none is named: the edge by which a map is padded.
pub(super) fn gather_or_zero(forward: &mut Forward<'_>, x: &Var, rows: Vec<Option<u32>>) -> Var {
    let tape = forward.tape();
    let zero = x.tensor().rows() as u32;
    let mut x = x.clone();
    if rows.contains(&None) {
        let zeros = Var::constant(tape.context().zeros([1, x.tensor().width()]));
        x = tape.concat_rows(&[&x, &zeros], 1);
    }
    let rows = rows.into_iter().map(|row| row.unwrap_or(zero)).collect();
    tape.gather_rows(&x, Arc::new(rows))
}

/// What stands in a layer group above the stem.
enum Part {
    Merging(Merging),
    Block(Box<Block>),
}

struct Swin {
    stem: (Conv2d, LayerNorm),
    parts: Vec<Part>,
    norm: LayerNorm,
    head: Linear,
    feature_dim: usize,
}

impl Swin {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, drop_path, .. } = declare;
        let (mut width, last) = (sizes.width, drop_path.unwrap_or(sizes.drop_path));
        builder.begin_group("features.0");
        let parameters = Conv2dParameters { stride: [PATCH; 2], ..Conv2dParameters::default() };
        let tiles = ConvSizes { input: *channels, output: width, kernel: [PATCH; 2], parameters };
        let stem = Conv2d::declare_with_bias(builder, "features.0.0", tiles, tiles.uniform_fan_in());
        let stem = (stem, LayerNorm::declare(builder, "features.0.2", width, EPS));
        let total: usize = sizes.depths.iter().sum();
        let (mut parts, mut number) = (Vec::new(), 0);
        for (stage, depth) in sizes.depths.into_iter().enumerate() {
            if stage > 0 {
                let path = format!("features.{}", 2 * stage);
                builder.begin_group(&path);
                let (norm, reduction) = (format!("{path}.norm"), format!("{path}.reduction"));
                parts.push(Part::Merging(Merging {
                    norm: LayerNorm::declare(builder, &norm, 4 * width, EPS),
                    reduction: Linear::declare_without_bias(
                        builder,
                        &reduction,
                        4 * width,
                        2 * width,
                        NORMAL,
                    ),
                }));
                width *= 2;
            }
            for index in 0..depth {
                let path = format!("features.{}.{index}", 2 * stage + 1);
                builder.begin_group(&path);
                let drop_path = last * number as f32 / (total - 1) as f32;
                let sizes = [width, sizes.heads << stage];
                let block = Block::declare(builder, &path, sizes, index % 2 == 1, drop_path);
                parts.push(Part::Block(Box::new(block)));
                number += 1;
            }
        }
        // The last block's group has the norm too: alone it would be a group of two vectors.
        let norm = LayerNorm::declare(builder, "norm", width, EPS);
        builder.begin_group("head");
        let head = Linear::declare(builder, "head", width, *outputs, NORMAL);
        Box::new(Self { stem, parts, norm, head, feature_dim: width })
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.parts.iter().filter_map(|part| match part {
            Part::Block(block) => Some(&**block),
            Part::Merging(_) => None,
        })
    }
}

impl ImageNetwork for Swin {
    fn trunk_groups(&self) -> usize {
        1 + self.parts.len()
    }

    /// The last block's group ends in the norm, so that the head reads a mean of what is normalized.
    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, pictures: &Rows) -> Var {
        let y = match group.checked_sub(1).map(|part| &self.parts[part]) {
            None => {
                let x = self.stem.0.forward(forward, x);
                self.stem.1.forward(forward, &x)
            }
            Some(Part::Merging(merging)) => merging.forward(forward, x, pictures),
            Some(Part::Block(block)) => {
                let pictures = pictures.clone();
                forward.block(x, move |forward, x| block.forward(forward, x, &pictures))
            }
        };
        if group == self.parts.len() { self.norm.forward(forward, &y) } else { y }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.head.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["head".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.0.weight"
    }

    fn constants(&self) -> Vec<(String, Vec<u32>)> {
        self.blocks().map(|block| block.attention.stored_index()).collect()
    }
}

/// The member of the family that a `SwinConfig` describes.
fn described(config: &ModelConfig) -> Result<&'static str, ModelError> {
    let refuse = |key: &'static str, problem: &str| {
        let value = config.get(key).map_or_else(|| "(absent)".to_owned(), ToString::to_string);
        Err(ModelError::Config { key, value, problem: problem.to_owned() })
    };
    let list = |key: &str, default: [usize; 4]| {
        config.get(key).is_none_or(|value| *value == serde_json::json!(default))
    };
    let integer = |key: &str, value: usize| {
        Ok::<_, ModelError>(config.optional_integer(key)?.is_none_or(|found| found == value))
    };
    for (key, is_tiny) in [
        ("embed_dim", integer("embed_dim", TINY.width)?),
        ("depths", list("depths", TINY.depths)),
        ("num_heads", list("num_heads", [3, 6, 12, 24])),
        ("window_size", integer("window_size", AREA.isqrt())?),
        ("patch_size", integer("patch_size", PATCH)?),
    ] {
        if !is_tiny {
            return refuse(key, "only that of Swin-T is supported");
        }
    }
    for (key, only) in [
        ("mlp_ratio", EXPANSION as f64),
        ("layer_norm_eps", f64::from(EPS)),
        ("hidden_dropout_prob", 0.0),
        ("attention_probs_dropout_prob", 0.0),
    ] {
        if config.optional_number(key)?.is_some_and(|found| found as f32 != only as f32) {
            return refuse(key, &format!("only {only}, as published models have it, is supported"));
        }
    }
    for (key, only) in [("qkv_bias", true), ("use_absolute_embeddings", false)] {
        if config.optional_boolean(key)?.is_some_and(|found| found != only) {
            return refuse(key, &format!("only {only} is supported"));
        }
    }
    if config.optional_string("hidden_act")?.unwrap_or("gelu") != "gelu" {
        return refuse("hidden_act", "only \"gelu\" is supported");
    }
    Ok(TINY_224)
}

fn module(from: &str, to: &str) -> Rule {
    Rule::rename(&format!("{from}.*"), &format!("{to}.*"))
}

/// From timm's names.
fn from_timm() -> Transform {
    let mut rules = vec![
        module("patch_embed.proj", "features.0.0"),
        module("patch_embed.norm", "features.0.2"),
        module("head.fc", "head"),
    ];
    for stage in 0..TINY.depths.len() {
        let (theirs, ours) = (format!("layers.{stage}.blocks.*"), format!("features.{}.*", 2 * stage + 1));
        for part in ["norm1", "norm2", "attn.qkv", "attn.proj"] {
            rules.push(module(&format!("{theirs}.{part}"), &format!("{ours}.{part}")));
        }
        let table = "attn.relative_position_bias_table";
        rules.push(Rule::rename(&format!("{theirs}.{table}"), &format!("{ours}.{table}")));
        for (from, to) in [("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3")] {
            rules.push(module(&format!("{theirs}.{from}"), &format!("{ours}.{to}")));
        }
        for part in ["norm", "reduction"] {
            let (from, to) =
                (format!("layers.{stage}.downsample.{part}"), format!("features.{}.{part}", 2 * stage));
            rules.push(module(&from, &to));
        }
    }
    Transform::new(rules)
}

/// From the names of `transformers`, which has query, key and value one by one.
fn from_hugging_face() -> Transform {
    let mut rules = vec![
        module("swin.embeddings.patch_embeddings.projection", "features.0.0"),
        module("swin.embeddings.norm", "features.0.2"),
        module("swin.layernorm", "norm"),
        module("classifier", "head"),
    ];
    for stage in 0..TINY.depths.len() {
        let layers = format!("swin.encoder.layers.{stage}");
        let (theirs, ours) = (format!("{layers}.blocks.*"), format!("features.{}.*", 2 * stage + 1));
        for kind in ["weight", "bias"] {
            rules.push(Rule::Join {
                parts: ["query", "key", "value"]
                    .map(|part| format!("{theirs}.attention.self.{part}.{kind}"))
                    .into(),
                sizes: PartSizes::Equal,
                axis: 0,
                whole: format!("{ours}.attn.qkv.{kind}"),
            });
        }
        let table = "relative_position_bias_table";
        rules
            .push(Rule::rename(&format!("{theirs}.attention.self.{table}"), &format!("{ours}.attn.{table}")));
        for (from, to) in [
            ("layernorm_before", "norm1"),
            ("attention.output.dense", "attn.proj"),
            ("layernorm_after", "norm2"),
            ("intermediate.dense", "mlp.0"),
            ("output.dense", "mlp.3"),
        ] {
            rules.push(module(&format!("{theirs}.{from}"), &format!("{ours}.{to}")));
        }
        for part in ["norm", "reduction"] {
            let (from, to) =
                (format!("{layers}.downsample.{part}"), format!("features.{}.{part}", 2 * stage + 2));
            rules.push(module(&from, &to));
        }
    }
    Transform::new(rules)
}
