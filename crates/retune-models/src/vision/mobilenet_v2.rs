//! MobileNetV2 (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>), after torchvision's `mobilenetv2.py`.

use retune_autograd::Var;
use retune_checkpoint::Transform;
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows, Site};
use retune_tensor::Activation;

use super::layers::{ConvNorm, NormConstants, Trunk};
use super::timm::TimmNames;
use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "mobilenet_v2",
    paper: "Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    reference: "torchvision.models.mobilenetv2",
    architectures: &[Architecture {
        name: "mobilenet_v2",
        timm: Some("mobilenetv2_100"),
        preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bilinear),
        smallest: 1,
        patch: None,
        declare: MobileNetV2::declare,
        from_timm: || Some(from_timm()),
        from_hugging_face: not_there,
    }],
    hugging_face: None,
};

/// Expansion, output channels, blocks and stride of each stage (table 2 of the paper).
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

const STEM_CHANNELS: usize = 32;
const LAST_CHANNELS: usize = 1280;

/// Expansion, depthwise convolution and linear projection, with a shortcut where the sizes stay.
struct InvertedResidual {
    layers: Vec<ConvNorm>,
    projection: ConvNorm,
    has_shortcut: bool,
}

impl InvertedResidual {
    fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        [input, output]: [usize; 2],
        expansion: usize,
        stride: usize,
    ) -> Self {
        let hidden = input * expansion;
        let mut layers = Vec::new();
        if expansion != 1 {
            layers.push(relu6(builder, &format!("{name}.0"), ConvSizes::same(input, hidden, 1)));
        }
        let depthwise = ConvSizes::same(hidden, hidden, 3).stride(stride).groups(hidden);
        layers.push(relu6(builder, &format!("{name}.{}", layers.len()), depthwise));
        // Convolution and norm of the projection stand in the block itself.
        let names = [format!("{name}.{}", layers.len()), format!("{name}.{}", layers.len() + 1)];
        let projection = ConvNorm::declare(
            builder,
            [&names[0], &names[1]],
            ConvSizes::same(hidden, output, 1),
            NormConstants::DEFAULT,
            Activation::Identity,
        );
        Self { layers, projection, has_shortcut: stride == 1 && input == output }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let mut y = x.clone();
        for layer in &self.layers {
            y = layer.forward(forward, &y);
        }
        if self.has_shortcut {
            self.projection.forward_residual(forward, &y, x)
        } else {
            self.projection.forward(forward, &y)
        }
    }
}

/// A convolution with norm and ReLU6.
fn relu6(builder: &mut ParameterBuilder, name: &str, sizes: ConvSizes) -> ConvNorm {
    ConvNorm::declare_pair(builder, name, sizes, NormConstants::DEFAULT, Activation::Relu6)
}

struct MobileNetV2 {
    trunk: Trunk<InvertedResidual>,
    classifier: Linear,
    dropout: (Site, f32),
}

impl MobileNetV2 {
    fn declare(declare: &mut Declare<'_>) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, .. } = declare;
        builder.begin_group("features.0");
        let stem = relu6(builder, "features.0", ConvSizes::same(*channels, STEM_CHANNELS, 3).stride(2));
        let (mut blocks, mut input) = (Vec::new(), STEM_CHANNELS);
        for [expansion, output, depth, stride] in STAGES {
            for index in 0..depth {
                let group = format!("features.{}", blocks.len() + 1);
                builder.begin_group(&group);
                let stride = if index == 0 { stride } else { 1 };
                let name = format!("{group}.conv");
                blocks.push(InvertedResidual::declare(builder, &name, [input, output], expansion, stride));
                input = output;
            }
        }
        builder.begin_group("features.18");
        let last = relu6(builder, "features.18", ConvSizes::same(input, LAST_CHANNELS, 1));
        builder.begin_group("head");
        let normal = Initialization::Normal { std: 0.01 };
        let classifier = Linear::declare(builder, "classifier.1", LAST_CHANNELS, *outputs, normal);
        let dropout = (builder.site("classifier.0"), dropout.unwrap_or(0.2));
        Box::new(Self { trunk: Trunk { stem, blocks, last }, classifier, dropout })
    }
}

impl ImageNetwork for MobileNetV2 {
    fn trunk_groups(&self) -> usize {
        self.trunk.groups()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        self.trunk.group(forward, group, x, InvertedResidual::forward)
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let spec = forward.dropout_spec(self.dropout.0, self.dropout.1, rows);
        let dropped = forward.tape().dropout(input, spec);
        self.classifier.forward(forward, &dropped, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        LAST_CHANNELS
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.1".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.0.weight"
    }
}

/// From timm's names, where blocks are counted within their stage and a norm has the name of its convolution's place.
fn from_timm() -> Transform {
    let mut names = TimmNames::default();
    let mut block = 0;
    for (stage, [expansion, _, depth, _]) in STAGES.into_iter().enumerate() {
        for index in 0..depth {
            block += 1;
            let (theirs, ours) = (format!("blocks.{stage}.{index}"), format!("features.{block}.conv"));
            let pairs: &[(&str, &str)] = if expansion == 1 {
                &[("conv_dw", "0.0"), ("bn1", "0.1"), ("conv_pw", "1"), ("bn2", "2")]
            } else {
                &[
                    ("conv_pw", "0.0"),
                    ("bn1", "0.1"),
                    ("conv_dw", "1.0"),
                    ("bn2", "1.1"),
                    ("conv_pwl", "2"),
                    ("bn3", "3"),
                ]
            };
            names.block(&theirs, &ours, pairs);
        }
    }
    names.finish(18)
}
