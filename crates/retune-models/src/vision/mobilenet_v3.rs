//! MobileNetV3 (Howard et al. 2019, <https://arxiv.org/abs/1905.02244>), after torchvision's `mobilenetv3.py`.

use retune_autograd::Var;
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows, Site};
use retune_tensor::Activation;

use super::layers::{ConvNorm, NormConstants, SqueezeExcitation, Trunk, divisible_by_8};
use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "mobilenet_v3",
    paper: "Howard et al. 2019, Searching for MobileNetV3",
    reference: "torchvision.models.mobilenetv3",
    architectures: &[
        Architecture {
            name: "mobilenet_v3_large",
            declare: |d| MobileNetV3::declare(d, LARGE, 1280),
            ..BASE
        },
        Architecture {
            name: "mobilenet_v3_small",
            declare: |d| MobileNetV3::declare(d, SMALL, 1024),
            ..BASE
        },
    ],
    hugging_face: None,
};

/// What both have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bilinear),
    smallest: 1,
    patch: None,
    declare: |d| MobileNetV3::declare(d, SMALL, 1024),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// One line of the paper's tables 1 and 2.
struct Line {
    /// Window of the depthwise convolution.
    kernel: usize,
    /// Channels it sees.
    expanded: usize,
    /// Channels of the result.
    output: usize,
    /// Whether squeeze and excitation stands behind it.
    excites: bool,
    activation: Activation,
    stride: usize,
}

const fn line(
    kernel: usize,
    expanded: usize,
    output: usize,
    excites: bool,
    activation: Activation,
    stride: usize,
) -> Line {
    Line { kernel, expanded, output, excites, activation, stride }
}

use Activation::{Hardswish as HS, Relu as RE};

const LARGE: &[Line] = &[
    line(3, 16, 16, false, RE, 1),
    line(3, 64, 24, false, RE, 2),
    line(3, 72, 24, false, RE, 1),
    line(5, 72, 40, true, RE, 2),
    line(5, 120, 40, true, RE, 1),
    line(5, 120, 40, true, RE, 1),
    line(3, 240, 80, false, HS, 2),
    line(3, 200, 80, false, HS, 1),
    line(3, 184, 80, false, HS, 1),
    line(3, 184, 80, false, HS, 1),
    line(3, 480, 112, true, HS, 1),
    line(3, 672, 112, true, HS, 1),
    line(5, 672, 160, true, HS, 2),
    line(5, 960, 160, true, HS, 1),
    line(5, 960, 160, true, HS, 1),
];

const SMALL: &[Line] = &[
    line(3, 16, 16, true, RE, 2),
    line(3, 72, 24, false, RE, 2),
    line(3, 88, 24, false, RE, 1),
    line(5, 96, 40, true, HS, 2),
    line(5, 240, 40, true, HS, 1),
    line(5, 240, 40, true, HS, 1),
    line(5, 120, 48, true, HS, 1),
    line(5, 144, 48, true, HS, 1),
    line(5, 288, 96, true, HS, 2),
    line(5, 576, 96, true, HS, 1),
    line(5, 576, 96, true, HS, 1),
];

const STEM: usize = 16;

/// Expansion, depthwise convolution, squeeze and excitation, linear projection, with a shortcut where the sizes stay.
struct Block {
    expansion: Option<ConvNorm>,
    depthwise: ConvNorm,
    excitation: Option<SqueezeExcitation>,
    projection: ConvNorm,
    has_shortcut: bool,
}

impl Block {
    fn declare(builder: &mut ParameterBuilder, name: &str, input: usize, line: &Line) -> Self {
        let &Line { kernel, expanded, output, excites, activation, stride } = line;
        let mut part = 0;
        let mut next = || {
            part += 1;
            format!("{name}.{}", part - 1)
        };
        let layer = |builder: &mut ParameterBuilder, name: String, sizes, activation| {
            ConvNorm::declare_pair(builder, &name, sizes, NormConstants::MOBILE, activation)
        };
        let expansion = (expanded != input)
            .then(|| layer(builder, next(), ConvSizes::same(input, expanded, 1), activation));
        let sizes = ConvSizes::same(expanded, expanded, kernel).stride(stride).groups(expanded);
        let depthwise = layer(builder, next(), sizes, activation);
        let excitation = excites.then(|| {
            let squeezed = divisible_by_8((expanded / 4) as f64);
            SqueezeExcitation::declare(builder, &next(), expanded, squeezed, RE, Activation::Hardsigmoid)
        });
        let projection = layer(builder, next(), ConvSizes::same(expanded, output, 1), Activation::Identity);
        let has_shortcut = stride == 1 && input == output;
        Self { expansion, depthwise, excitation, projection, has_shortcut }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let mut y = match &self.expansion {
            Some(expansion) => expansion.forward(forward, x),
            None => x.clone(),
        };
        y = self.depthwise.forward(forward, &y);
        if let Some(excitation) = &self.excitation {
            y = excitation.forward(forward, &y);
        }
        if self.has_shortcut {
            self.projection.forward_residual(forward, &y, x)
        } else {
            self.projection.forward(forward, &y)
        }
    }
}

struct MobileNetV3 {
    trunk: Trunk<Block>,
    hidden: (Linear, Site),
    output: Linear,
    dropout: f32,
    feature_dim: usize,
}

impl MobileNetV3 {
    fn declare(declare: &mut Declare<'_>, lines: &[Line], hidden: usize) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, .. } = declare;
        builder.begin_group("features.0");
        let sizes = ConvSizes::same(*channels, STEM, 3).stride(2);
        let stem = ConvNorm::declare_pair(builder, "features.0", sizes, NormConstants::MOBILE, HS);
        let (mut blocks, mut input) = (Vec::new(), STEM);
        for (index, line) in (1..).zip(lines) {
            let group = format!("features.{index}");
            builder.begin_group(&group);
            blocks.push(Block::declare(builder, &format!("{group}.block"), input, line));
            input = line.output;
        }
        let (name, feature_dim) = (format!("features.{}", lines.len() + 1), 6 * input);
        builder.begin_group(&name);
        let sizes = ConvSizes::same(input, feature_dim, 1);
        let last = ConvNorm::declare_pair(builder, &name, sizes, NormConstants::MOBILE, HS);
        let normal = Initialization::Normal { std: 0.01 };
        builder.begin_group("classifier.0");
        let layer = Linear::declare(builder, "classifier.0", feature_dim, hidden, normal);
        let hidden_layer = (layer, builder.site("classifier.2"));
        builder.begin_group("head");
        let output = Linear::declare(builder, "classifier.3", hidden, *outputs, normal);
        let dropout = dropout.unwrap_or(0.2);
        let trunk = Trunk { stem, blocks, last };
        Box::new(Self { trunk, hidden: hidden_layer, output, dropout, feature_dim })
    }
}

impl ImageNetwork for MobileNetV3 {
    fn trunk_groups(&self) -> usize {
        self.trunk.groups()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        self.trunk.group(forward, group, x, Block::forward)
    }

    fn head_input(&self, forward: &mut Forward<'_>, map: &Var, rows: &Rows) -> Var {
        let pooled = forward.tape().global_avg_pool(map);
        let (layer, site) = &self.hidden;
        let hidden = layer.forward(forward, &pooled, Activation::Identity, rows);
        let hidden = forward.tape().activation(&hidden, HS);
        let spec = forward.dropout_spec(*site, self.dropout, rows);
        forward.tape().dropout(&hidden, spec)
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.output.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.3".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.0.weight"
    }
}
