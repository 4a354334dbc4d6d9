//! ResNet (He et al. 2015, <https://arxiv.org/abs/1512.03385>), ResNeXt (Xie et al. 2016,
//! <https://arxiv.org/abs/1611.05431>) and Wide ResNet (Zagoruyko and Komodakis 2016,
//! <https://arxiv.org/abs/1605.07146>), after torchvision's `resnet.py`: the stride of a bottleneck is in its 3×3
//! convolution.

use retune_autograd::Var;
use retune_checkpoint::{ModelConfig, Rule, Transform};
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows};
use retune_tensor::{Activation, PoolWindow};

use super::layers::{ConvNorm, NormConstants};
use super::{
    Architecture, Declare, HuggingFace, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there,
    same_names,
};
use crate::ModelError;

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "resnet",
    paper: "He et al. 2015, Deep Residual Learning for Image Recognition",
    reference: "torchvision.models.resnet",
    architectures: &[
        Architecture {
            name: "resnet18",
            timm: Some("resnet18"),
            declare: |d| ResNet::declare(d, &Sizes::basic([2, 2, 2, 2])),
            from_hugging_face: || Some(from_hugging_face(&Sizes::basic([2, 2, 2, 2]))),
            ..BASE
        },
        Architecture {
            name: "resnet34",
            timm: Some("resnet34"),
            declare: |d| ResNet::declare(d, &Sizes::basic([3, 4, 6, 3])),
            from_hugging_face: || Some(from_hugging_face(&Sizes::basic([3, 4, 6, 3]))),
            ..BASE
        },
        Architecture {
            name: "resnet50",
            timm: Some("resnet50"),
            declare: |d| ResNet::declare(d, &Sizes::bottleneck([3, 4, 6, 3])),
            from_hugging_face: || Some(from_hugging_face(&Sizes::bottleneck([3, 4, 6, 3]))),
            ..BASE
        },
        Architecture {
            name: "resnet101",
            timm: Some("resnet101"),
            declare: |d| ResNet::declare(d, &Sizes::bottleneck([3, 4, 23, 3])),
            from_hugging_face: || Some(from_hugging_face(&Sizes::bottleneck([3, 4, 23, 3]))),
            ..BASE
        },
        Architecture {
            name: "resnet152",
            timm: Some("resnet152"),
            declare: |d| ResNet::declare(d, &Sizes::bottleneck([3, 8, 36, 3])),
            from_hugging_face: || Some(from_hugging_face(&Sizes::bottleneck([3, 8, 36, 3]))),
            ..BASE
        },
        Architecture {
            name: "resnext50_32x4d",
            timm: Some("resnext50_32x4d"),
            declare: |d| {
                ResNet::declare(d, &Sizes { groups: 32, width: 4, ..Sizes::bottleneck([3, 4, 6, 3]) })
            },
            ..BASE
        },
        Architecture {
            name: "resnext101_32x8d",
            timm: Some("resnext101_32x8d"),
            declare: |d| {
                ResNet::declare(d, &Sizes { groups: 32, width: 8, ..Sizes::bottleneck([3, 4, 23, 3]) })
            },
            ..BASE
        },
        Architecture {
            name: "wide_resnet50_2",
            timm: Some("wide_resnet50_2"),
            declare: |d| ResNet::declare(d, &Sizes { width: 128, ..Sizes::bottleneck([3, 4, 6, 3]) }),
            ..BASE
        },
        Architecture {
            name: "wide_resnet101_2",
            timm: Some("wide_resnet101_2"),
            declare: |d| ResNet::declare(d, &Sizes { width: 128, ..Sizes::bottleneck([3, 4, 23, 3]) }),
            ..BASE
        },
    ],
    hugging_face: Some(HuggingFace {
        model_type: "resnet",
        prefix: "resnet.",
        image_classification: "ResNetForImageClassification",
        modules: &[],
        architecture: described,
        layer_norm_eps: None,
    }),
};

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bilinear),
    smallest: 1,
    patch: None,
    declare: |d| ResNet::declare(d, &Sizes::basic([2, 2, 2, 2])),
    from_timm: same_names,
    from_hugging_face: not_there,
};

/// What tells the members of the family apart.
struct Sizes {
    /// Three convolutions to a block, 1×1, 3×3, 1×1, instead of two of 3×3.
    bottleneck: bool,
    /// Blocks of each of the four layers.
    depths: [usize; 4],
    /// Groups of the 3×3 convolution of a bottleneck.
    groups: usize,
    /// Channels of a group in the first layer.
    width: usize,
}

impl Sizes {
    const fn basic(depths: [usize; 4]) -> Self {
        Self { bottleneck: false, depths, groups: 1, width: 64 }
    }

    const fn bottleneck(depths: [usize; 4]) -> Self {
        Self { bottleneck: true, depths, groups: 1, width: 64 }
    }

    /// Output channels of a block over its nominal ones.
    const fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

/// A residual block: `relu(x + convolutions(x))`, `x` projected where the sizes change.
struct Block {
    convolutions: Vec<ConvNorm>,
    last: ConvNorm,
    downsample: Option<ConvNorm>,
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        sizes: &Sizes,
        input: usize,
        channels: usize,
        stride: usize,
    ) -> Self {
        let output = channels * sizes.expansion();
        let width = channels * sizes.width / 64 * sizes.groups;
        let mut index = 0;
        let mut layer = |sizes: ConvSizes| {
            index += 1;
            let names = [format!("{name}.conv{index}"), format!("{name}.bn{index}")];
            let names = [names[0].as_str(), names[1].as_str()];
            ConvNorm::declare(builder, names, sizes, NormConstants::DEFAULT, Activation::Relu)
        };
        let convolutions = if sizes.bottleneck {
            let middle = ConvSizes::same(width, width, 3).stride(stride).groups(sizes.groups);
            vec![layer(ConvSizes::same(input, width, 1)), layer(middle)]
        } else {
            vec![layer(ConvSizes::same(input, output, 3).stride(stride))]
        };
        let last = layer(if sizes.bottleneck {
            ConvSizes::same(width, output, 1)
        } else {
            ConvSizes::same(output, output, 3)
        });
        let downsample = (stride != 1 || input != output).then(|| {
            let (name, layer) =
                (format!("{name}.downsample"), ConvSizes::same(input, output, 1).stride(stride));
            let (constants, activation) = (NormConstants::DEFAULT, Activation::Identity);
            ConvNorm::declare_pair(builder, &name, layer, constants, activation)
        });
        Self { convolutions, last, downsample }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let identity = match &self.downsample {
            Some(downsample) => downsample.forward(forward, x),
            None => x.clone(),
        };
        let mut y = x.clone();
        for convolution in &self.convolutions {
            y = convolution.forward(forward, &y);
        }
        self.last.forward_residual(forward, &y, &identity)
    }
}

struct ResNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    fc: Linear,
    feature_dim: usize,
}

impl ResNet {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, .. } = declare;
        builder.begin_group("stem");
        let stem = ConvSizes::same(*channels, 64, 7).stride(2);
        let stem =
            ConvNorm::declare(builder, ["conv1", "bn1"], stem, NormConstants::DEFAULT, Activation::Relu);
        let (mut blocks, mut input) = (Vec::new(), 64);
        for (layer, depth) in sizes.depths.into_iter().enumerate() {
            let width = 64 << layer;
            for index in 0..depth {
                let stride = if index == 0 && layer > 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", layer + 1);
                builder.begin_group(&name);
                blocks.push(Block::declare(builder, &name, sizes, input, width, stride));
                input = width * sizes.expansion();
            }
        }
        builder.begin_group("head");
        let bound = 1.0 / (input as f32).sqrt();
        let fc = Linear::declare(builder, "fc", input, *outputs, Initialization::Uniform { bound });
        Box::new(Self { stem, blocks, fc, feature_dim: input })
    }
}

impl ImageNetwork for ResNet {
    fn trunk_groups(&self) -> usize {
        1 + self.blocks.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        match group.checked_sub(1).map(|block| &self.blocks[block]) {
            None => {
                let x = self.stem.forward(forward, x);
                forward.tape().max_pool2d(&x, PoolWindow::square(3, 2, 1))
            }
            Some(block) => forward.block(x, |forward, x| block.forward(forward, x)),
        }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.fc.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["fc".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "conv1.weight"
    }
}

/// The member of the family that a `ResNetConfig` describes.
fn described(config: &ModelConfig) -> Result<&'static str, ModelError> {
    let refuse = |key: &'static str, problem: &str| {
        let value = config.get(key).map_or_else(|| "(absent)".to_owned(), ToString::to_string);
        Err(ModelError::Config { key, value, problem: problem.to_owned() })
    };
    let sizes = |key: &str, default: [u64; 4]| match config.get(key) {
        Some(value) => *value == serde_json::json!(default),
        None => true,
    };
    let bottleneck = config.optional_string("layer_type")?.unwrap_or("bottleneck") == "bottleneck";
    let last = if bottleneck { 2048 } else { 512 };
    if !sizes("hidden_sizes", [last / 8, last / 4, last / 2, last]) {
        return refuse("hidden_sizes", "only the reference's widths are supported");
    }
    if config.optional_integer("embedding_size")?.unwrap_or(64) != 64 {
        return refuse("embedding_size", "only 64 is supported");
    }
    for key in ["downsample_in_first_stage", "downsample_in_bottleneck"] {
        if config.optional_boolean(key)?.unwrap_or(false) {
            return refuse(key, "only false is supported");
        }
    }
    if config.optional_string("hidden_act")?.unwrap_or("relu") != "relu" {
        return refuse("hidden_act", "only \"relu\" is supported");
    }
    let known = [
        (false, [2, 2, 2, 2], "resnet18"),
        (true, [3, 4, 6, 3], "resnet50"),
        (false, [3, 4, 6, 3], "resnet34"),
        (true, [3, 4, 23, 3], "resnet101"),
        (true, [3, 8, 36, 3], "resnet152"),
    ];
    let depths = config.get("depths").map_or_else(|| serde_json::json!([3, 4, 6, 3]), Clone::clone);
    match known.iter().find(|(kind, sizes, _)| *kind == bottleneck && depths == serde_json::json!(sizes)) {
        Some((_, _, name)) => Ok(name),
        None => refuse("depths", "no ResNet of 18, 34, 50, 101 or 152 layers has these"),
    }
}

/// From the names of `transformers`' `ResNetForImageClassification`.
fn from_hugging_face(sizes: &Sizes) -> Transform {
    let mut rules = vec![
        Rule::rename("resnet.embedder.embedder.convolution.*", "conv1.*"),
        Rule::rename("resnet.embedder.embedder.normalization.*", "bn1.*"),
    ];
    let convolutions = if sizes.bottleneck { 3 } else { 2 };
    for stage in 0..sizes.depths.len() {
        let (theirs, ours) =
            (format!("resnet.encoder.stages.{stage}.layers.*"), format!("layer{}.*", stage + 1));
        let mut pair = |from: &str, to: &str| {
            rules.push(Rule::rename(&format!("{theirs}.{from}.*"), &format!("{ours}.{to}.*")));
        };
        for index in 0..convolutions {
            pair(&format!("layer.{index}.convolution"), &format!("conv{}", index + 1));
            pair(&format!("layer.{index}.normalization"), &format!("bn{}", index + 1));
        }
        pair("shortcut.convolution", "downsample.0");
        pair("shortcut.normalization", "downsample.1");
    }
    rules.push(Rule::rename("classifier.1.*", "fc.*"));
    Transform::new(rules)
}
