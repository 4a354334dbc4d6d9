//! EfficientNet (Tan and Le 2019, <https://arxiv.org/abs/1905.11946>) and EfficientNetV2 (Tan and Le 2021,
//! <https://arxiv.org/abs/2104.00298>), after torchvision's `efficientnet.py`.

use retune_autograd::Var;
use retune_checkpoint::Transform;
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows, Site};
use retune_tensor::Activation;

use super::layers::{ConvNorm, NormConstants, SqueezeExcitation, Trunk, divisible_by_8};
use super::timm::TimmNames;
use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "efficientnet",
    paper: "Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    reference: "torchvision.models.efficientnet",
    architectures: &[
        Architecture {
            name: "efficientnet_b0",
            timm: Some("efficientnet_b0"),
            from_timm: || Some(from_timm(1.0)),
            preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.0, 1.0, 0.2, NormConstants::DEFAULT)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b1",
            timm: Some("efficientnet_b1"),
            from_timm: || Some(from_timm(1.1)),
            preprocessing: Preprocessing::imagenet(256, 240, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.0, 1.1, 0.2, NormConstants::DEFAULT)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b2",
            timm: Some("efficientnet_b2"),
            from_timm: || Some(from_timm(1.2)),
            preprocessing: Preprocessing::imagenet(288, 288, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.1, 1.2, 0.3, NormConstants::DEFAULT)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b3",
            timm: Some("efficientnet_b3"),
            from_timm: || Some(from_timm(1.4)),
            preprocessing: Preprocessing::imagenet(320, 300, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.2, 1.4, 0.3, NormConstants::DEFAULT)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b4",
            timm: Some("efficientnet_b4"),
            from_timm: || Some(from_timm(1.8)),
            preprocessing: Preprocessing::imagenet(384, 380, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.4, 1.8, 0.4, NormConstants::DEFAULT)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b5",
            preprocessing: Preprocessing::imagenet(456, 456, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.6, 2.2, 0.4, NormConstants::MOBILE)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b6",
            preprocessing: Preprocessing::imagenet(528, 528, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(1.8, 2.6, 0.5, NormConstants::MOBILE)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_b7",
            preprocessing: Preprocessing::imagenet(600, 600, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &scaled(2.0, 3.1, 0.5, NormConstants::MOBILE)),
            ..BASE
        },
        Architecture {
            name: "efficientnet_v2_s",
            preprocessing: Preprocessing::imagenet(384, 384, Interpolation::Bilinear),
            declare: |d| EfficientNet::declare(d, &v2_s(NormConstants { eps: 1e-3, momentum: 0.1 })),
            ..BASE
        },
        // timm's has another ε.
        Architecture {
            name: "efficientnetv2_s",
            timm: Some("efficientnetv2_s"),
            preprocessing: Preprocessing::imagenet(288, 288, Interpolation::Bicubic),
            declare: |d| EfficientNet::declare(d, &v2_s(NormConstants::DEFAULT)),
            from_timm: || Some(v2_from_timm()),
            ..BASE
        },
    ],
    hugging_face: None,
};

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bicubic),
    smallest: 1,
    patch: None,
    declare: |d| EfficientNet::declare(d, &scaled(1.0, 1.0, 0.2, NormConstants::DEFAULT)),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// A stage of blocks.
struct Stage {
    /// One convolution in place of expansion and depthwise convolution, without squeeze and excitation.
    fused: bool,
    expansion: usize,
    kernel: usize,
    stride: usize,
    output: usize,
    depth: usize,
}

/// Expansion, window, stride, output channels and depth of B0's stages (table 1 of the paper).
const STAGES: [[usize; 5]; 7] = [
    [1, 3, 1, 16, 1],
    [6, 3, 2, 24, 2],
    [6, 5, 2, 40, 2],
    [6, 3, 2, 80, 3],
    [6, 5, 1, 112, 3],
    [6, 5, 2, 192, 4],
    [6, 3, 1, 320, 1],
];

/// Whether fused, and the same, of V2-S' stages (table 4 of its paper).
const V2_S: [(bool, [usize; 5]); 6] = [
    (true, [1, 3, 1, 24, 2]),
    (true, [4, 3, 2, 48, 4]),
    (true, [4, 3, 2, 64, 4]),
    (false, [4, 3, 2, 128, 6]),
    (false, [6, 3, 1, 160, 9]),
    (false, [6, 3, 2, 256, 15]),
];

/// Stochastic depth of the last block; the others have shares of it.
const DROP_PATH: f32 = 0.2;

/// A member of the family.
struct Sizes {
    stem: usize,
    stages: Vec<Stage>,
    /// Channels of the last feature map.
    last: usize,
    constants: NormConstants,
    dropout: f32,
}

/// B0 with `width` times the channels and `depth` times the blocks.
fn scaled(width: f64, depth: f64, dropout: f32, constants: NormConstants) -> Sizes {
    let channels = |channels: usize| divisible_by_8(channels as f64 * width);
    let stage = |[expansion, kernel, stride, output, blocks]: [usize; 5]| Stage {
        fused: false,
        expansion,
        kernel,
        stride,
        output: channels(output),
        depth: deeper(blocks, depth),
    };
    let stages = STAGES.map(stage);
    let last = 4 * stages[STAGES.len() - 1].output;
    Sizes { stem: channels(32), stages: stages.into(), last, constants, dropout }
}

fn v2_s(constants: NormConstants) -> Sizes {
    let stage = |(fused, [expansion, kernel, stride, output, depth]): (bool, [usize; 5])| Stage {
        fused,
        expansion,
        kernel,
        stride,
        output,
        depth,
    };
    Sizes { stem: 24, stages: V2_S.map(stage).into(), last: 1280, constants, dropout: 0.2 }
}

/// Blocks of a stage of `blocks` blocks in a network `depth` times as deep.
fn deeper(blocks: usize, depth: f64) -> usize {
    (blocks as f64 * depth).ceil() as usize
}

/// Expansion, depthwise convolution, squeeze and excitation, linear projection, with a shortcut where the sizes stay. In a
/// fused block the first convolution is the expansion too, and all there is where nothing is expanded.
struct Block {
    layers: Vec<ConvNorm>,
    excitation: Option<SqueezeExcitation>,
    projection: Option<ConvNorm>,
    /// Where the sizes stay: how often the block is left out.
    shortcut: Option<(Site, f32)>,
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        [input, stride]: [usize; 2],
        stage: &Stage,
        constants: NormConstants,
        drop_path: f32,
    ) -> Self {
        let &Stage { fused, expansion, kernel, output, .. } = stage;
        let expanded = divisible_by_8((input * expansion) as f64);
        let mut part = 0;
        let mut next = || {
            part += 1;
            format!("{name}.block.{}", part - 1)
        };
        let layer = |builder: &mut ParameterBuilder, name: String, sizes, activation| {
            ConvNorm::declare_pair(builder, &name, sizes, constants, activation)
        };
        let (silu, sigmoid) = (Activation::Silu, Activation::Sigmoid);
        let mut layers = Vec::new();
        if !fused && expanded != input {
            layers.push(layer(builder, next(), ConvSizes::same(input, expanded, 1), silu));
        }
        let sizes = if fused {
            ConvSizes::same(input, expanded, kernel)
        } else {
            ConvSizes::same(expanded, expanded, kernel).groups(expanded)
        };
        layers.push(layer(builder, next(), sizes.stride(stride), silu));
        let squeezed = (input / 4).max(1);
        let excitation =
            (!fused).then(|| SqueezeExcitation::declare(builder, &next(), expanded, squeezed, silu, sigmoid));
        let projection = (!fused || expanded != input)
            .then(|| layer(builder, next(), ConvSizes::same(expanded, output, 1), Activation::Identity));
        let shortcut = (stride == 1 && input == output)
            .then(|| (builder.site(&format!("{name}.stochastic_depth")), drop_path));
        Self { layers, excitation, projection, shortcut }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var, rows: &Rows) -> Var {
        let mut y = self.layers.iter().fold(x.clone(), |y, layer| layer.forward(forward, &y));
        if let Some(excitation) = &self.excitation {
            y = excitation.forward(forward, &y);
        }
        let Some((site, probability)) = self.shortcut else {
            return self.projection.iter().fold(y, |y, projection| projection.forward(forward, &y));
        };
        let factors = forward.drop_path(site, probability, rows, x.tensor().width());
        match (&self.projection, &factors) {
            (Some(projection), None) => return projection.forward_residual(forward, &y, x),
            (Some(projection), Some(_)) => y = projection.forward(forward, &y),
            (None, _) => {}
        }
        if let Some(factors) = factors {
            y = forward.tape().scale_channels(&y, &factors);
        }
        forward.tape().add(&y, x)
    }
}

struct EfficientNet {
    trunk: Trunk<Block>,
    classifier: Linear,
    dropout: (Site, f32),
    feature_dim: usize,
}

impl EfficientNet {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, drop_path, .. } = declare;
        let last_drop_path = drop_path.unwrap_or(DROP_PATH);
        let Sizes { stem, stages, constants, .. } = sizes;
        builder.begin_group("features.0");
        let layer = ConvSizes::same(*channels, *stem, 3).stride(2);
        let silu = Activation::Silu;
        let mut input = *stem;
        let stem = ConvNorm::declare_pair(builder, "features.0", layer, *constants, silu);
        let total: usize = stages.iter().map(|stage| stage.depth).sum();
        let mut blocks = Vec::new();
        for (number, stage) in (1..).zip(stages) {
            for index in 0..stage.depth {
                let name = format!("features.{number}.{index}");
                builder.begin_group(&name);
                let stride = if index == 0 { stage.stride } else { 1 };
                let drop_path = last_drop_path * blocks.len() as f32 / total as f32;
                blocks.push(Block::declare(builder, &name, [input, stride], stage, *constants, drop_path));
                input = stage.output;
            }
        }
        let feature_dim = sizes.last;
        let name = format!("features.{}", stages.len() + 1);
        builder.begin_group(&name);
        let layer = ConvSizes::same(input, feature_dim, 1);
        let last = ConvNorm::declare_pair(builder, &name, layer, *constants, silu);
        builder.begin_group("head");
        let bound = 1.0 / (*outputs as f32).sqrt();
        let uniform = Initialization::Uniform { bound };
        let classifier = Linear::declare(builder, "classifier.1", feature_dim, *outputs, uniform);
        let dropout = (builder.site("classifier.0"), dropout.unwrap_or(sizes.dropout));
        Box::new(Self { trunk: Trunk { stem, blocks, last }, classifier, dropout, feature_dim })
    }
}

impl ImageNetwork for EfficientNet {
    fn trunk_groups(&self) -> usize {
        self.trunk.groups()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, rows: &Rows) -> Var {
        let rows = rows.clone();
        self.trunk.group(forward, group, x, move |block, forward, x| block.forward(forward, x, &rows))
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let spec = forward.dropout_spec(self.dropout.0, self.dropout.1, rows);
        let dropped = forward.tape().dropout(input, spec);
        self.classifier.forward(forward, &dropped, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.1".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.0.weight"
    }
}

/// From timm's names, where a norm has the name of its convolution's place. Larger networks than B4 have another ε there.
fn from_timm(depth: f64) -> Transform {
    timm_names(STAGES.map(|[expansion, _, _, _, blocks]| (false, expansion, deeper(blocks, depth))))
}

fn v2_from_timm() -> Transform {
    timm_names(V2_S.map(|(fused, [expansion, _, _, _, blocks])| (fused, expansion, blocks)))
}

/// From timm's names, by what tells the stages apart: fused, expansion, and depth.
fn timm_names<const N: usize>(stages: [(bool, usize, usize); N]) -> Transform {
    let mut names = TimmNames::default();
    for (stage, (fused, expansion, blocks)) in stages.into_iter().enumerate() {
        let pairs: &[(&str, &str)] = match (fused, expansion) {
            (false, 1) => &[
                ("conv_dw", "0.0"),
                ("bn1", "0.1"),
                ("se.conv_reduce", "1.fc1"),
                ("se.conv_expand", "1.fc2"),
                ("conv_pw", "2.0"),
                ("bn2", "2.1"),
            ],
            (false, _) => &[
                ("conv_pw", "0.0"),
                ("bn1", "0.1"),
                ("conv_dw", "1.0"),
                ("bn2", "1.1"),
                ("se.conv_reduce", "2.fc1"),
                ("se.conv_expand", "2.fc2"),
                ("conv_pwl", "3.0"),
                ("bn3", "3.1"),
            ],
            (true, 1) => &[("conv", "0.0"), ("bn1", "0.1")],
            (true, _) => &[("conv_exp", "0.0"), ("bn1", "0.1"), ("conv_pwl", "1.0"), ("bn2", "1.1")],
        };
        for index in 0..blocks {
            let (theirs, ours) =
                (format!("blocks.{stage}.{index}"), format!("features.{}.{index}.block", stage + 1));
            names.block(&theirs, &ours, pairs);
        }
    }
    names.finish(N + 1)
}
