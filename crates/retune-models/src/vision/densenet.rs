//! DenseNet (Huang et al. 2016, <https://arxiv.org/abs/1608.06993>), after torchvision's `densenet.py`.

use retune_autograd::Var;
use retune_nn::{BatchNorm2d, Conv2d, ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows};
use retune_tensor::{Activation, PoolWindow};

use super::layers::{ConvNorm, NormConstants};
use super::{
    Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there, same_names,
};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "densenet",
    paper: "Huang et al. 2016, Densely Connected Convolutional Networks",
    reference: "torchvision.models.densenet",
    architectures: &[
        Architecture {
            name: "densenet121",
            timm: Some("densenet121"),
            declare: |d| DenseNet::declare(d, [6, 12, 24, 16]),
            ..BASE
        },
        Architecture {
            name: "densenet169",
            timm: Some("densenet169"),
            declare: |d| DenseNet::declare(d, [6, 12, 32, 32]),
            ..BASE
        },
        Architecture {
            name: "densenet201",
            timm: Some("densenet201"),
            declare: |d| DenseNet::declare(d, [6, 12, 48, 32]),
            ..BASE
        },
    ],
    hugging_face: None,
};

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(256, 224, Interpolation::Bilinear),
    smallest: 29,
    patch: None,
    declare: |d| DenseNet::declare(d, [6, 12, 24, 16]),
    from_timm: same_names,
    from_hugging_face: not_there,
};

/// Channels of the stem.
const STEM: usize = 64;
/// Channels that a layer adds.
const GROWTH: usize = 32;
/// Channels of the bottleneck in a layer.
const BOTTLENECK: usize = 4 * GROWTH;

/// Norm, ReLU and convolution, twice; its result is put beside its input.
struct DenseLayer {
    norm: BatchNorm2d,
    bottleneck: ConvNorm,
    conv: Conv2d,
}

impl DenseLayer {
    fn declare(builder: &mut ParameterBuilder, name: &str, input: usize) -> Self {
        let norm = BatchNorm2d::declare(builder, &format!("{name}.norm1"), input);
        let names = [format!("{name}.conv1"), format!("{name}.norm2")];
        let sizes = ConvSizes::same(input, BOTTLENECK, 1);
        let names = [names[0].as_str(), names[1].as_str()];
        let bottleneck = ConvNorm::declare(builder, names, sizes, NormConstants::DEFAULT, Activation::Relu);
        let sizes = ConvSizes::same(BOTTLENECK, GROWTH, 3);
        let conv = Conv2d::declare(builder, &format!("{name}.conv2"), sizes, sizes.kaiming_fan_out());
        Self { norm, bottleneck, conv }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let y = self.norm.forward(forward, x, None, Activation::Relu);
        let y = self.bottleneck.forward(forward, &y);
        let y = self.conv.forward(forward, &y);
        forward.tape().concat_channels(&[x, &y])
    }
}

/// Half the channels, and half the rows and columns.
struct Transition {
    norm: BatchNorm2d,
    conv: Conv2d,
}

impl Transition {
    fn declare(builder: &mut ParameterBuilder, name: &str, input: usize) -> Self {
        let norm = BatchNorm2d::declare(builder, &format!("{name}.norm"), input);
        let sizes = ConvSizes::same(input, input / 2, 1);
        let conv = Conv2d::declare(builder, &format!("{name}.conv"), sizes, sizes.kaiming_fan_out());
        Self { norm, conv }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let y = self.norm.forward(forward, x, None, Activation::Relu);
        let y = self.conv.forward(forward, &y);
        forward.tape().avg_pool2d(&y, PoolWindow::tiles(2), true)
    }
}

struct DenseNet {
    stem: ConvNorm,
    blocks: Vec<(Vec<DenseLayer>, Option<Transition>)>,
    norm: BatchNorm2d,
    classifier: Linear,
    feature_dim: usize,
}

impl DenseNet {
    fn declare(declare: &mut Declare<'_>, depths: [usize; 4]) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, .. } = declare;
        builder.begin_group("stem");
        let sizes = ConvSizes::same(*channels, STEM, 7).stride(2);
        let names = ["features.conv0", "features.norm0"];
        let stem = ConvNorm::declare(builder, names, sizes, NormConstants::DEFAULT, Activation::Relu);
        let (mut blocks, mut width) = (Vec::new(), STEM);
        for (index, depth) in (1..).zip(depths) {
            let name = format!("denseblock{index}");
            builder.begin_group(&name);
            let mut layers = Vec::new();
            for layer in 1..=depth {
                layers.push(DenseLayer::declare(
                    builder,
                    &format!("features.{name}.denselayer{layer}"),
                    width,
                ));
                width += GROWTH;
            }
            let transition = (index < depths.len()).then(|| {
                let name = format!("transition{index}");
                builder.begin_group(&name);
                Transition::declare(builder, &format!("features.{name}"), width)
            });
            if transition.is_some() {
                width /= 2;
            }
            blocks.push((layers, transition));
        }
        let norm = BatchNorm2d::declare(builder, "features.norm5", width);
        builder.begin_group("head");
        let bound = 1.0 / (width as f32).sqrt();
        let uniform = Initialization::Uniform { bound };
        let classifier = Linear::declare(builder, "classifier", width, *outputs, uniform);
        Box::new(Self { stem, blocks, norm, classifier, feature_dim: width })
    }
}

impl ImageNetwork for DenseNet {
    /// The stem, each block, and each transition but that of the last block, which has none.
    fn trunk_groups(&self) -> usize {
        2 * self.blocks.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        let Some(place) = group.checked_sub(1) else {
            let x = self.stem.forward(forward, x);
            return forward.tape().max_pool2d(&x, PoolWindow::square(3, 2, 1));
        };
        let (layers, transition) = &self.blocks[place / 2];
        if place % 2 == 1 {
            return transition.as_ref().map_or_else(|| x.clone(), |between| between.forward(forward, x));
        }
        let mut x = x.clone();
        for layer in layers {
            x = forward.block(&x, |forward, x| layer.forward(forward, x));
        }
        if transition.is_some() { x } else { self.norm.forward(forward, &x, None, Activation::Relu) }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.classifier.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.conv0.weight"
    }
}
