//! ConvNeXt (Liu et al. 2022, <https://arxiv.org/abs/2201.03545>), after torchvision's `convnext.py`.

use retune_autograd::Var;
use retune_nn::{
    Conv2d, ConvSizes, FeedForward, Forward, Initialization, LayerNorm, Linear, ParameterBuilder,
    ParameterId, Rows, Site,
};
use retune_tensor::{Activation, Conv2dParameters};

use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "convnext",
    paper: "Liu et al. 2022, A ConvNet for the 2020s",
    reference: "torchvision.models.convnext",
    architectures: &[
        Architecture {
            name: "convnext_tiny",
            preprocessing: Preprocessing::imagenet(236, 224, Interpolation::Bilinear),
            declare: |d| ConvNeXt::declare(d, &TINY),
            ..BASE
        },
        Architecture {
            name: "convnext_small",
            preprocessing: Preprocessing::imagenet(230, 224, Interpolation::Bilinear),
            declare: |d| ConvNeXt::declare(d, &SMALL),
            ..BASE
        },
        Architecture {
            name: "convnext_base",
            preprocessing: Preprocessing::imagenet(232, 224, Interpolation::Bilinear),
            declare: |d| ConvNeXt::declare(d, &LARGER),
            ..BASE
        },
    ],
    hugging_face: None,
};

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(236, 224, Interpolation::Bilinear),
    smallest: 32,
    patch: None,
    declare: |d| ConvNeXt::declare(d, &TINY),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// A member of the family.
struct Sizes {
    /// Blocks of each stage.
    depths: [usize; 4],
    /// Channels of the first stage; each later one has twice as many.
    width: usize,
    /// Stochastic depth of the last block.
    drop_path: f32,
}

const TINY: Sizes = Sizes { depths: [3, 3, 9, 3], width: 96, drop_path: 0.1 };
const SMALL: Sizes = Sizes { depths: [3, 3, 27, 3], width: 96, drop_path: 0.4 };
const LARGER: Sizes = Sizes { depths: [3, 3, 27, 3], width: 128, drop_path: 0.5 };

const EPS: f32 = 1e-6;
/// The reference draws from a normal that is cut off at 2, a hundred deviations away.
const NORMAL: Initialization = Initialization::Normal { std: 0.02 };

/// A convolution of windows that lie side by side.
fn tiles(input: usize, output: usize, size: usize) -> ConvSizes {
    let parameters = Conv2dParameters { stride: [size; 2], ..Conv2dParameters::default() };
    ConvSizes { input, output, kernel: [size; 2], parameters }
}

/// A depthwise convolution and a feed-forward, scaled channel by channel, beside a shortcut.
struct Block {
    depthwise: Conv2d,
    norm: LayerNorm,
    feed_forward: FeedForward,
    layer_scale: ParameterId,
    drop_path: (Site, f32),
}

impl Block {
    fn declare(builder: &mut ParameterBuilder, name: &str, width: usize, drop_path: f32) -> Self {
        let scale = Initialization::Constant { value: 1e-6 };
        let layer_scale = builder.parameter(format!("{name}.layer_scale"), &[width, 1, 1], scale);
        let name = |part: usize| format!("{name}.block.{part}");
        let sizes = ConvSizes::same(width, width, 7).groups(width);
        Self {
            layer_scale,
            depthwise: Conv2d::declare_with_bias(builder, &name(0), sizes, NORMAL),
            norm: LayerNorm::declare(builder, &name(2), width, EPS),
            feed_forward: FeedForward {
                first: Linear::declare(builder, &name(3), width, 4 * width, NORMAL),
                activation: Activation::GeluErf,
                second: Linear::declare(builder, &name(5), 4 * width, width, NORMAL),
            },
            drop_path: (builder.site(&name(6)), drop_path),
        }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var, rows: &Rows) -> Var {
        let shape = x.tensor().shape().clone();
        let y = self.depthwise.forward(forward, x);
        let y = self.norm.forward(forward, &y);
        let y = self.feed_forward.forward(forward, &y, rows).reshape(&shape);
        let scale = forward.parameter(self.layer_scale).row();
        let mut y = forward.tape().scale_channels(&y, &scale);
        let (site, probability) = self.drop_path;
        if let Some(factors) = forward.drop_path(site, probability, rows, x.tensor().width()) {
            y = forward.tape().scale_channels(&y, &factors);
        }
        forward.tape().add(x, &y)
    }
}

/// The change of sizes before a stage: a norm, and a convolution of 2×2 pixels each.
struct Downsample {
    norm: LayerNorm,
    conv: Conv2d,
}

/// What stands in a layer group above the stem.
enum Part {
    Downsample(Downsample),
    Block(Box<Block>),
}

struct ConvNeXt {
    stem: (Conv2d, LayerNorm),
    parts: Vec<Part>,
    norm: LayerNorm,
    output: Linear,
    feature_dim: usize,
}

impl ConvNeXt {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, drop_path, .. } = declare;
        let (mut width, last) = (sizes.width, drop_path.unwrap_or(sizes.drop_path));
        builder.begin_group("features.0");
        let stem = Conv2d::declare_with_bias(builder, "features.0.0", tiles(*channels, width, 4), NORMAL);
        let stem = (stem, LayerNorm::declare(builder, "features.0.1", width, EPS));
        let total: usize = sizes.depths.iter().sum();
        let (mut parts, mut number) = (Vec::new(), 0);
        for (stage, depth) in sizes.depths.into_iter().enumerate() {
            if stage > 0 {
                let name = format!("features.{}", 2 * stage);
                builder.begin_group(&name);
                let norm = LayerNorm::declare(builder, &format!("{name}.0"), width, EPS);
                let sizes = tiles(width, 2 * width, 2);
                let conv = Conv2d::declare_with_bias(builder, &format!("{name}.1"), sizes, NORMAL);
                width *= 2;
                parts.push(Part::Downsample(Downsample { norm, conv }));
            }
            for index in 0..depth {
                let name = format!("features.{}.{index}", 2 * stage + 1);
                builder.begin_group(&name);
                let drop_path = last * number as f32 / (total - 1) as f32;
                parts.push(Part::Block(Box::new(Block::declare(builder, &name, width, drop_path))));
                number += 1;
            }
        }
        builder.begin_group("head");
        let norm = LayerNorm::declare(builder, "classifier.0", width, EPS);
        let output = Linear::declare(builder, "classifier.2", width, *outputs, NORMAL);
        Box::new(Self { stem, parts, norm, output, feature_dim: width })
    }
}

impl ImageNetwork for ConvNeXt {
    fn trunk_groups(&self) -> usize {
        1 + self.parts.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, rows: &Rows) -> Var {
        match group.checked_sub(1).map(|part| &self.parts[part]) {
            None => {
                let x = self.stem.0.forward(forward, x);
                self.stem.1.forward(forward, &x)
            }
            Some(Part::Downsample(Downsample { norm, conv })) => {
                let x = norm.forward(forward, x);
                conv.forward(forward, &x)
            }
            Some(Part::Block(block)) => {
                let rows = rows.clone();
                forward.block(x, move |forward, x| block.forward(forward, x, &rows))
            }
        }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let normed = self.norm.forward(forward, input);
        self.output.forward(forward, &normed, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.2".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.0.weight"
    }
}
