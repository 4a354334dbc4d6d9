//! What torchvision, timm and `transformers` call the parts of a vision transformer, the way from one's names to
//! another's, and which member of a family a configuration describes.

use retune_checkpoint::{ModelConfig, Rule, Sizes, Transform};

use super::EXPANSION;
use crate::ModelError;
use crate::vision::Layout;

/// An ecosystem's names.
pub(super) struct Names {
    pub(super) layout: Layout,
    pub(super) class_token: &'static str,
    pub(super) positions: &'static str,
    pub(super) patches: &'static str,
    pub(super) input_weight: &'static str,
    /// What stands before a block's number.
    pub(super) blocks: &'static str,
    pub(super) attention_norm: &'static str,
    /// The module of query, key and value together, its weight and its bias.
    pub(super) attention: [&'static str; 3],
    pub(super) projection: &'static str,
    pub(super) feed_forward_norm: &'static str,
    pub(super) feed_forward: [&'static str; 2],
    pub(super) norm: &'static str,
    pub(super) head: &'static str,
}

pub(super) const TORCHVISION: Names = Names {
    layout: Layout::Torchvision,
    class_token: "class_token",
    positions: "encoder.pos_embedding",
    patches: "conv_proj",
    input_weight: "conv_proj.weight",
    blocks: "encoder.layers.encoder_layer_",
    attention_norm: "ln_1",
    attention: ["self_attention", "self_attention.in_proj_weight", "self_attention.in_proj_bias"],
    projection: "self_attention.out_proj",
    feed_forward_norm: "ln_2",
    feed_forward: ["mlp.0", "mlp.3"],
    norm: "encoder.ln",
    head: "heads.head",
};

pub(super) const TIMM: Names = Names {
    layout: Layout::Timm,
    class_token: "cls_token",
    positions: "pos_embed",
    patches: "patch_embed.proj",
    input_weight: "patch_embed.proj.weight",
    blocks: "blocks.",
    attention_norm: "norm1",
    attention: ["attn.qkv", "attn.qkv.weight", "attn.qkv.bias"],
    projection: "attn.proj",
    feed_forward_norm: "norm2",
    feed_forward: ["mlp.fc1", "mlp.fc2"],
    norm: "norm",
    head: "head",
};

/// timm's names of what torchvision doesn't have.
pub(super) const DISTILLATION_TOKEN: &str = "dist_token";
pub(super) const DISTILLATION_HEAD: &str = "head_dist";

/// Hidden size, blocks, heads and patch of a `ViTConfig`, and the name of what has them.
type Known = [([usize; 4], &'static str)];

/// Parts of module paths, older and newer.
pub(super) const MODULES: [(&str, &str); 7] = [
    (".encoder.layer.", ".layers."),
    (".attention.attention.query", ".attention.q_proj"),
    (".attention.attention.key", ".attention.k_proj"),
    (".attention.attention.value", ".attention.v_proj"),
    (".attention.output.dense", ".attention.o_proj"),
    (".intermediate.dense", ".mlp.fc1"),
    (".output.dense", ".mlp.fc2"),
];

pub(super) const KNOWN_VIT: [([usize; 4], &str); 8] = [
    ([768, 12, 12, 16], "vit_b_16"),
    ([768, 12, 12, 32], "vit_b_32"),
    ([1024, 24, 16, 16], "vit_l_16"),
    ([1024, 24, 16, 32], "vit_l_32"),
    ([1280, 32, 16, 14], "vit_h_14"),
    ([192, 12, 3, 16], "vit_tiny_patch16_224"),
    ([384, 12, 6, 16], "vit_small_patch16_224"),
    ([384, 12, 6, 32], "vit_small_patch32_224"),
];

pub(super) const KNOWN_DEIT: [([usize; 4], &str); 3] = [
    ([768, 12, 12, 16], "deit_base_distilled_patch16_224_one_head"),
    ([384, 12, 6, 16], "deit_small_distilled_patch16_224_one_head"),
    ([192, 12, 3, 16], "deit_tiny_distilled_patch16_224_one_head"),
];

/// The member of a family that a `ViTConfig` or `DeiTConfig` describes.
pub(super) fn described(config: &ModelConfig, known: &Known) -> Result<&'static str, ModelError> {
    let refuse = |key: &'static str, problem: &str| {
        let value = config.get(key).map_or_else(|| "(absent)".to_owned(), ToString::to_string);
        Err(ModelError::Config { key, value, problem: problem.to_owned() })
    };
    let size =
        |key: &str, default: usize| Ok::<_, ModelError>(config.optional_integer(key)?.unwrap_or(default));
    let width = size("hidden_size", 768)?;
    let sizes =
        [width, size("num_hidden_layers", 12)?, size("num_attention_heads", 12)?, size("patch_size", 16)?];
    let Some((_, name)) = known.iter().find(|(theirs, _)| *theirs == sizes) else {
        return refuse("hidden_size", "no registered model has this width, depth, heads and patches");
    };
    if size("intermediate_size", 3072)? != EXPANSION * width {
        return refuse("intermediate_size", "only four times the hidden size is supported");
    }
    if config.optional_string("hidden_act")?.unwrap_or("gelu") != "gelu" {
        return refuse("hidden_act", "only \"gelu\" is supported");
    }
    if !config.optional_boolean("qkv_bias")?.unwrap_or(true) {
        return refuse("qkv_bias", "only true is supported");
    }
    for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
        if config.optional_number(key)?.unwrap_or(0.0) != 0.0 {
            return refuse(key, "only 0, as published models have it, is supported; set it to 0");
        }
    }
    Ok(name)
}

/// From timm's names to torchvision's.
pub(super) fn from_timm() -> Transform {
    let (theirs, ours) = (&TIMM, &TORCHVISION);
    let block = |names: &Names, part: &str| format!("{}*.{part}", names.blocks);
    let mut rules = vec![
        Rule::rename(theirs.class_token, ours.class_token),
        Rule::rename(theirs.positions, ours.positions),
    ];
    for part in [1, 2] {
        let name = |names: &Names| block(names, names.attention[part]);
        rules.push(Rule::rename(&name(theirs), &name(ours)));
    }
    let mut module = |name: &dyn Fn(&Names) -> String| {
        rules.push(Rule::rename(&format!("{}.*", name(theirs)), &format!("{}.*", name(ours))));
    };
    module(&|names| names.patches.to_owned());
    module(&|names| block(names, names.attention_norm));
    module(&|names| block(names, names.projection));
    module(&|names| block(names, names.feed_forward_norm));
    module(&|names| block(names, names.feed_forward[0]));
    module(&|names| block(names, names.feed_forward[1]));
    module(&|names| names.norm.to_owned());
    module(&|names| names.head.to_owned());
    Transform::new(rules)
}

/// From the names of `transformers`, which has query, key and value one by one, below `prefix`.
pub(super) fn from_hugging_face(prefix: &str, ours: &Names) -> Transform {
    let below = |name: &str| format!("{prefix}{name}");
    let block = |part: &str| below(&format!("encoder.layer.*.{part}"));
    let mut rules = Vec::new();
    for (index, kind) in ["weight", "bias"].into_iter().enumerate() {
        let part = |part: &str| block(&format!("attention.attention.{part}.{kind}"));
        rules.push(Rule::Join {
            parts: ["query", "key", "value"].map(part).into(),
            sizes: Sizes::Equal,
            axis: 0,
            whole: format!("{}*.{}", ours.blocks, ours.attention[index + 1]),
        });
    }
    rules.push(Rule::rename(&below("embeddings.cls_token"), ours.class_token));
    rules.push(Rule::rename(&below("embeddings.distillation_token"), DISTILLATION_TOKEN));
    rules.push(Rule::rename(&below("embeddings.position_embeddings"), ours.positions));
    let mut module = |from: String, to: String| {
        rules.push(Rule::rename(&format!("{from}.*"), &format!("{to}.*")));
    };
    module(below("embeddings.patch_embeddings.projection"), ours.patches.to_owned());
    for (from, to) in [
        ("layernorm_before", ours.attention_norm),
        ("attention.output.dense", ours.projection),
        ("layernorm_after", ours.feed_forward_norm),
        ("intermediate.dense", ours.feed_forward[0]),
        ("output.dense", ours.feed_forward[1]),
    ] {
        module(block(from), format!("{}*.{to}", ours.blocks));
    }
    module(below("layernorm"), ours.norm.to_owned());
    module("classifier".to_owned(), ours.head.to_owned());
    Transform::new(rules)
}
