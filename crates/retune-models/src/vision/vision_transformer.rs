//! The vision transformer: ViT (Dosovitskiy et al. 2020, <https://arxiv.org/abs/2010.11929>), after torchvision's and
//! timm's `vision_transformer.py`, and DeiT (Touvron et al. 2020, <https://arxiv.org/abs/2012.12877>), after timm's
//! `deit.py`. A model has torchvision's names where torchvision has it, else timm's.

mod ecosystems;

use std::sync::Arc;

use retune_autograd::{Pooling, Var};
use retune_nn::{
    Conv2d, ConvSizes, FeedForward, Forward, Initialization, LayerNorm, Linear, ParameterBuilder,
    ParameterId, Rows, Site,
};
use retune_tensor::ops::AttentionShape;
use retune_tensor::{Activation, Conv2dParameters};

use super::{
    Architecture, Declare, Explained, HuggingFace, ImageFamily, ImageNetwork, Interpolation, Layout,
    PositionTable, Preprocessing, Resize, not_there, same_names,
};
use ecosystems::{
    DISTILLATION_HEAD, DISTILLATION_TOKEN, KNOWN_DEIT, KNOWN_VIT, MODULES, Names, TIMM, TORCHVISION,
    described, from_hugging_face, from_timm,
};

pub(super) static VIT: ImageFamily = ImageFamily {
    name: "vit",
    paper: "Dosovitskiy et al. 2020, An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    reference: "torchvision.models.vision_transformer",
    architectures: &[
        Architecture {
            name: "vit_b_16",
            timm: Some("vit_base_patch16_224"),
            declare: |d| VisionTransformer::declare(d, &BASE_16, &TORCHVISION),
            ..LIKE_TORCHVISION
        },
        Architecture {
            name: "vit_b_32",
            timm: Some("vit_base_patch32_224"),
            smallest: 32,
            patch: Some(32),
            declare: |d| VisionTransformer::declare(d, &Sizes { patch: 32, ..BASE_16 }, &TORCHVISION),
            ..LIKE_TORCHVISION
        },
        Architecture {
            name: "vit_l_16",
            timm: Some("vit_large_patch16_224"),
            preprocessing: Preprocessing::imagenet(242, 224, Interpolation::Bilinear),
            declare: |d| VisionTransformer::declare(d, &LARGE_16, &TORCHVISION),
            ..LIKE_TORCHVISION
        },
        Architecture {
            name: "vit_l_32",
            timm: Some("vit_large_patch32_224"),
            smallest: 32,
            patch: Some(32),
            declare: |d| VisionTransformer::declare(d, &Sizes { patch: 32, ..LARGE_16 }, &TORCHVISION),
            ..LIKE_TORCHVISION
        },
        Architecture {
            name: "vit_h_14",
            timm: Some("vit_huge_patch14_224"),
            smallest: 14,
            patch: Some(14),
            declare: |d| VisionTransformer::declare(d, &HUGE_14, &TORCHVISION),
            ..LIKE_TORCHVISION
        },
        Architecture {
            name: "vit_tiny_patch16_224",
            declare: |d| VisionTransformer::declare(d, &TINY_16, &TIMM),
            ..LIKE_TIMM
        },
        Architecture {
            name: "vit_small_patch16_224",
            declare: |d| VisionTransformer::declare(d, &SMALL_16, &TIMM),
            ..LIKE_TIMM
        },
        Architecture {
            name: "vit_small_patch32_224",
            smallest: 32,
            patch: Some(32),
            declare: |d| VisionTransformer::declare(d, &Sizes { patch: 32, ..SMALL_16 }, &TIMM),
            ..LIKE_TIMM
        },
        Architecture {
            name: "vit_base_patch16_384",
            preprocessing: HALVES_384,
            declare: |d| VisionTransformer::declare(d, &BASE_16, &TIMM),
            ..LIKE_TIMM
        },
        Architecture {
            name: "vit_large_patch16_384",
            preprocessing: HALVES_384,
            declare: |d| VisionTransformer::declare(d, &LARGE_16, &TIMM),
            ..LIKE_TIMM
        },
    ],
    hugging_face: Some(HuggingFace {
        model_type: "vit",
        prefix: "vit.",
        image_classification: "ViTForImageClassification",
        modules: &MODULES,
        architecture: |config| described(config, &KNOWN_VIT),
        layer_norm_eps: Some(1e-12),
    }),
};

pub(super) static DEIT: ImageFamily = ImageFamily {
    name: "deit",
    paper: "Touvron et al. 2020, Training data-efficient image transformers & distillation through attention",
    reference: "timm.models.deit",
    architectures: &[
        Architecture {
            name: "deit_tiny_patch16_224",
            declare: |d| VisionTransformer::declare(d, &TINY_16, &TIMM),
            ..LIKE_DEIT
        },
        Architecture {
            name: "deit_small_patch16_224",
            declare: |d| VisionTransformer::declare(d, &SMALL_16, &TIMM),
            ..LIKE_DEIT
        },
        Architecture { name: "deit_base_patch16_224", ..LIKE_DEIT },
        Architecture {
            name: "deit_base_patch16_384",
            preprocessing: Preprocessing::imagenet(384, 384, Interpolation::Bicubic),
            ..LIKE_DEIT
        },
        Architecture {
            name: "deit_tiny_distilled_patch16_224",
            declare: |d| VisionTransformer::declare(d, &distilled(TINY_16, true), &TIMM),
            ..LIKE_DEIT
        },
        Architecture {
            name: "deit_small_distilled_patch16_224",
            declare: |d| VisionTransformer::declare(d, &distilled(SMALL_16, true), &TIMM),
            ..LIKE_DEIT
        },
        Architecture {
            name: "deit_base_distilled_patch16_224",
            declare: |d| VisionTransformer::declare(d, &distilled(BASE_16, true), &TIMM),
            ..LIKE_DEIT
        },
        Architecture {
            name: "deit_base_distilled_patch16_384",
            preprocessing: Preprocessing::imagenet(384, 384, Interpolation::Bicubic),
            declare: |d| VisionTransformer::declare(d, &distilled(BASE_16, true), &TIMM),
            ..LIKE_DEIT
        },
        // `DeiTForImageClassification` of `transformers` has the distillation token, but one head.
        Architecture {
            name: "deit_tiny_distilled_patch16_224_one_head",
            declare: |d| VisionTransformer::declare(d, &distilled(TINY_16, false), &TIMM),
            ..ONE_HEAD
        },
        Architecture {
            name: "deit_small_distilled_patch16_224_one_head",
            declare: |d| VisionTransformer::declare(d, &distilled(SMALL_16, false), &TIMM),
            ..ONE_HEAD
        },
        Architecture { name: "deit_base_distilled_patch16_224_one_head", ..ONE_HEAD },
    ],
    hugging_face: Some(HuggingFace {
        model_type: "deit",
        prefix: "deit.",
        image_classification: "DeiTForImageClassification",
        modules: &MODULES,
        architecture: |config| described(config, &KNOWN_DEIT),
        layer_norm_eps: Some(1e-12),
    }),
};

/// What the models that torchvision has have in common.
const LIKE_TORCHVISION: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bilinear),
    smallest: 16,
    patch: Some(16),
    declare: |d| VisionTransformer::declare(d, &BASE_16, &TORCHVISION),
    from_timm: || Some(from_timm()),
    from_hugging_face: || Some(from_hugging_face("vit.", &TORCHVISION)),
};

/// timm's mean and deviation of ViT's channels.
const HALVES: Preprocessing = Preprocessing {
    mean: [0.5; 3],
    std: [0.5; 3],
    ..Preprocessing::imagenet(248, 224, Interpolation::Bicubic)
};

const HALVES_384: Preprocessing =
    Preprocessing { resize: Resize::ShorterEdge(384), crop: [384; 2], ..HALVES };

/// What those that only timm has have in common.
const LIKE_TIMM: Architecture = Architecture {
    preprocessing: HALVES,
    declare: |d| VisionTransformer::declare(d, &BASE_16, &TIMM),
    from_timm: same_names,
    from_hugging_face: || Some(from_hugging_face("vit.", &TIMM)),
    ..LIKE_TORCHVISION
};

const LIKE_DEIT: Architecture = Architecture {
    preprocessing: Preprocessing::imagenet(248, 224, Interpolation::Bicubic),
    from_hugging_face: not_there,
    ..LIKE_TIMM
};

const ONE_HEAD: Architecture = Architecture {
    preprocessing: Preprocessing {
        resize: Resize::Exact([256; 2]),
        ..Preprocessing::imagenet(256, 224, Interpolation::Bicubic)
    },
    declare: |d| VisionTransformer::declare(d, &distilled(BASE_16, false), &TIMM),
    from_timm: not_there,
    from_hugging_face: || Some(from_hugging_face("deit.", &TIMM)),
    ..LIKE_DEIT
};

/// What tells the members of the families apart.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows and columns of a patch.
    patch: usize,
    width: usize,
    depth: usize,
    heads: usize,
    /// A second token, which learns from a teacher, and whether it has a head of its own.
    distillation: Option<bool>,
}

const TINY_16: Sizes = Sizes { patch: 16, width: 192, depth: 12, heads: 3, distillation: None };
const SMALL_16: Sizes = Sizes { width: 384, heads: 6, ..TINY_16 };
const BASE_16: Sizes = Sizes { width: 768, heads: 12, ..TINY_16 };
const LARGE_16: Sizes = Sizes { width: 1024, depth: 24, heads: 16, ..TINY_16 };
const HUGE_14: Sizes = Sizes { patch: 14, width: 1280, depth: 32, heads: 16, distillation: None };

const fn distilled(sizes: Sizes, own_head: bool) -> Sizes {
    Sizes { distillation: Some(own_head), ..sizes }
}

/// torchvision's and timm's ε; Hugging Face's configurations have their own.
const EPS: f32 = 1e-6;
/// The references draw from a normal that is cut off at 2, a hundred deviations away.
const NORMAL: Initialization = Initialization::Normal { std: 0.02 };
/// The feed-forward's hidden layer over the width.
const EXPANSION: usize = 4;

/// The rows of the last block that the head reads: the tokens before the patches.
#[derive(Clone)]
struct Wanted {
    indices: Arc<Vec<u32>>,
    rows: Rows,
}

/// Attention and feed-forward, each over normalized rows and beside a shortcut.
struct Block {
    attention_norm: LayerNorm,
    attention: Linear,
    projection: Linear,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
    heads: usize,
    sites: [Site; 2],
    drop_path: f32,
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        path: &str,
        names: &Names,
        sizes: &Sizes,
        eps: f32,
        drop_path: f32,
    ) -> Self {
        let width = sizes.width;
        let name = |part: &str| format!("{path}.{part}");
        let [attention, weight, bias] = names.attention.map(name);
        let [first, second] = names.feed_forward.map(name);
        Self {
            attention_norm: LayerNorm::declare(builder, &name(names.attention_norm), width, eps),
            attention: Linear::declare_as(builder, &attention, [weight, bias], [width, 3 * width], NORMAL),
            projection: Linear::declare(builder, &name(names.projection), width, width, NORMAL),
            feed_forward_norm: LayerNorm::declare(builder, &name(names.feed_forward_norm), width, eps),
            feed_forward: FeedForward {
                first: Linear::declare(builder, &first, width, EXPANSION * width, NORMAL),
                activation: Activation::GeluErf,
                second: Linear::declare(builder, &second, EXPANSION * width, width, NORMAL),
            },
            heads: sizes.heads,
            sites: ["drop_path1", "drop_path2"].map(|part| builder.site(&name(part))),
            drop_path,
        }
    }

    /// The block's output for all `rows`, or for the `wanted` ones alone: keys and values are needed of every row.
    fn forward(
        &self,
        forward: &mut Forward<'_>,
        x: &Var,
        [rows, pictures]: [&Rows; 2],
        wanted: Option<&Wanted>,
    ) -> Var {
        let normed = self.attention_norm.forward(forward, x);
        self.forward_normed(forward, x, normed, [rows, pictures], wanted)
    }

    /// As [`Block::forward`], with `x` already normalized for the attention.
    fn forward_normed(
        &self,
        forward: &mut Forward<'_>,
        x: &Var,
        normed: Var,
        [rows, pictures]: [&Rows; 2],
        wanted: Option<&Wanted>,
    ) -> Var {
        let qkv = self.attention.forward(forward, &normed, Activation::Identity, rows);
        drop(normed);
        let (queries, asking, shortcut) = match wanted {
            None => (None, rows, x.clone()),
            Some(Wanted { indices, rows }) => {
                let shortcut = forward.tape().gather_rows(x, Arc::clone(indices));
                (Some(Arc::clone(indices)), rows, shortcut)
            }
        };
        let shape = AttentionShape {
            heads: self.heads,
            scale: 1.0 / ((x.tensor().width() / self.heads) as f32).sqrt(),
            causal: false,
            query_offsets: Arc::clone(&asking.offsets),
            key_offsets: Arc::clone(&rows.offsets),
        };
        let attended = forward.tape().self_attention(&shape, &qkv, queries, None);
        drop(qkv);
        let projected = self.projection.forward(forward, &attended, Activation::Identity, asking);
        drop(attended);
        let x = self.add(forward, &shortcut, projected, self.sites[0], pictures);
        drop(shortcut);
        let normed = self.feed_forward_norm.forward(forward, &x);
        let fed = self.feed_forward.forward(forward, &normed, asking);
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

struct VisionTransformer {
    names: &'static Names,
    class_token: ParameterId,
    distillation_token: Option<ParameterId>,
    positions: ParameterId,
    patches: Conv2d,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    distillation_head: Option<Linear>,
    dropout: (Site, f32),
    width: usize,
}

impl VisionTransformer {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes, names: &'static Names) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, size, dropout, drop_path, layer_norm_eps } = declare;
        let &Sizes { patch, width, depth, distillation, .. } = sizes;
        let eps = layer_norm_eps.unwrap_or(EPS);
        let drop_path = drop_path.unwrap_or(0.0);
        builder.begin_group("embeddings");
        let class_token = builder.parameter(names.class_token, &[1, 1, width], NORMAL);
        let distillation_token =
            distillation.map(|_| builder.parameter(DISTILLATION_TOKEN, &[1, 1, width], NORMAL));
        let tokens = 1 + usize::from(distillation.is_some()) + (*size / patch).pow(2);
        let positions = builder.parameter(names.positions, &[1, tokens, width], NORMAL);
        let parameters = Conv2dParameters { stride: [patch; 2], ..Conv2dParameters::default() };
        let tiles = ConvSizes { input: *channels, output: width, kernel: [patch; 2], parameters };
        let patches = Conv2d::declare_with_bias(builder, names.patches, tiles, NORMAL);
        let blocks = (0..depth)
            .map(|index| {
                let path = format!("{}{index}", names.blocks);
                builder.begin_group(&path);
                let drop_path = drop_path * index as f32 / (depth - 1).max(1) as f32;
                Block::declare(builder, &path, names, sizes, eps, drop_path)
            })
            .collect();
        // The last block's group has the norm too: alone it would be a group of two vectors.
        let norm = LayerNorm::declare(builder, names.norm, width, eps);
        builder.begin_group("head");
        let head = Linear::declare(builder, names.head, width, *outputs, NORMAL);
        let distillation_head = (distillation == Some(true))
            .then(|| Linear::declare(builder, DISTILLATION_HEAD, width, *outputs, NORMAL));
        let dropout = (builder.site("head_drop"), dropout.unwrap_or(0.0));
        Box::new(Self {
            names,
            class_token,
            distillation_token,
            positions,
            patches,
            blocks,
            norm,
            head,
            distillation_head,
            dropout,
            width,
        })
    }

    /// The rows that enter the first block, picture by picture: class token, distillation token, patches, each with the
    /// embedding of its position.
    fn embed(&self, forward: &mut Forward<'_>, x: &Var, pictures: &Rows) -> Var {
        let batch = pictures.sequences();
        let patches = self.patches.forward(forward, x);
        let first = Arc::new(vec![0; batch]);
        let mut parts = Vec::new();
        for token in [Some(self.class_token), self.distillation_token].into_iter().flatten() {
            let table = forward.parameter(token);
            parts.push(forward.tape().embedding(&[(&table, Arc::clone(&first))]));
        }
        parts.push(patches);
        let x = forward.tape().concat_rows(&parts.iter().collect::<Vec<_>>(), batch);
        drop(parts);
        let table = forward.parameter(self.positions);
        let tokens = table.tensor().rows();
        assert_eq!(x.tensor().rows(), batch * tokens, "declared for pictures of another size");
        let positions = (0..batch).flat_map(|_| 0..tokens as u32).collect();
        let positions = forward.tape().embedding(&[(&table, Arc::new(positions))]);
        forward.tape().add(&x, &positions)
    }

    /// Tokens of a picture that the head reads.
    fn tokens_read(&self) -> usize {
        1 + usize::from(self.distillation_head.is_some())
    }

    fn wanted(&self, rows: &Rows) -> Wanted {
        let read = self.tokens_read() as u32;
        let starts = &rows.offsets[..rows.sequences()];
        let indices: Vec<u32> = starts.iter().flat_map(|&start| start..start + read).collect();
        let keys = indices.iter().map(|&row| rows.keys[row as usize]).collect();
        let offsets = (0..=starts.len() as u32).map(|picture| picture * read).collect();
        let rows = Rows { offsets: Arc::new(offsets), keys: Arc::new(keys) };
        Wanted { indices: Arc::new(indices), rows }
    }
}

impl ImageNetwork for VisionTransformer {
    fn trunk_groups(&self) -> usize {
        1 + self.blocks.len()
    }

    /// The tokens of each picture as one row of pixels, [batch, 1, tokens, width]; the last block gives those that the head
    /// reads.
    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, pictures: &Rows) -> Var {
        let shape = |x: &Var| [pictures.sequences(), 1, x.tensor().rows() / pictures.sequences(), self.width];
        let Some(index) = group.checked_sub(1) else {
            let x = self.embed(forward, x, pictures);
            return x.reshape(shape(&x));
        };
        let block = &self.blocks[index];
        let x = x.reshape([x.tensor().rows(), self.width]);
        let rows = pictures.spread(x.tensor().rows());
        let wanted = (index + 1 == self.blocks.len()).then(|| self.wanted(&rows));
        let pictures = pictures.clone();
        let y = forward
            .block(&x, move |forward, x| block.forward(forward, x, [&rows, &pictures], wanted.as_ref()));
        y.reshape(shape(&y))
    }

    /// The normalized tokens, [batch, width], or [batch, tokens, width] if there are two.
    fn head_input(&self, forward: &mut Forward<'_>, map: &Var, rows: &Rows) -> Var {
        let normed = self.norm.forward(forward, map);
        match self.tokens_read() {
            1 => normed.reshape([rows.sequences(), self.width]),
            tokens => normed.reshape([rows.sequences(), tokens, self.width]),
        }
    }

    /// The patches as the last attention reads them: what the head reads is a function of them, and of patches behind it
    /// no longer.
    fn explained<'s>(&'s self, forward: &mut Forward<'s>, x: &Var, pictures: &Rows) -> Explained {
        let last = self.blocks.len();
        let x = (0..last).fold(x.clone(), |x, group| self.group(forward, group, &x, pictures));
        let x = x.reshape([x.tensor().rows(), self.width]);
        let rows = pictures.spread(x.tensor().rows());
        let block = &self.blocks[last - 1];
        let normed = block.attention_norm.forward(forward, &x);
        let map = forward.tape().leaf(normed.tensor().clone());
        let wanted = self.wanted(&rows);
        let y = block.forward_normed(forward, &x, map.clone(), [&rows, pictures], Some(&wanted));
        let input = self.head_input(forward, &y, pictures);
        let logits = self.head(forward, &input, pictures);
        let tokens = 1 + usize::from(self.distillation_token.is_some());
        let side = (x.tensor().rows() / pictures.sequences() - tokens).isqrt();
        Explained { map, tokens, grid: [side; 2], logits }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let batch = rows.sequences();
        let heads = [Some(&self.head), self.distillation_head.as_ref()];
        let read = self.tokens_read() as u32;
        let mut logits = Vec::new();
        for (token, head) in (0..).zip(heads.into_iter().flatten()) {
            let indices = (0..batch as u32).map(|picture| picture * read + token).collect();
            let features = match read {
                1 => input.clone(),
                _ => forward.tape().gather_rows(input, Arc::new(indices)),
            };
            let spec = forward.dropout_spec(self.dropout.0, self.dropout.1, rows);
            let dropped = forward.tape().dropout(&features, spec);
            logits.push(head.forward(forward, &dropped, Activation::Identity, rows));
        }
        if let [logits] = logits.as_slice() {
            return logits.clone();
        }
        let both = forward.tape().concat_rows(&logits.iter().collect::<Vec<_>>(), batch);
        let offsets = (0..=batch as u32).map(|picture| picture * read).collect();
        forward.tape().pool(&both, &Arc::new(offsets), Pooling::Mean)
    }

    fn feature_dim(&self) -> usize {
        self.width
    }

    fn output_layers(&self) -> Vec<String> {
        let heads = [Some(&self.head), self.distillation_head.as_ref()];
        heads.into_iter().flatten().map(|head| head.name().to_owned()).collect()
    }

    fn input_weight(&self) -> &'static str {
        self.names.input_weight
    }

    fn own_layout(&self) -> Layout {
        self.names.layout
    }

    fn position_table(&self) -> Option<PositionTable> {
        let tokens = 1 + usize::from(self.distillation_token.is_some());
        Some(PositionTable { name: self.names.positions, tokens })
    }

    /// torchvision's published weights are from before it renamed the layers of the feed-forward.
    fn older_name(&self, name: &str) -> Option<String> {
        let older = |now: &str, then: &str| name.contains(now).then(|| name.replace(now, then));
        older(".mlp.0.", ".mlp.linear_1.").or_else(|| older(".mlp.3.", ".mlp.linear_2."))
    }
}
