//! SqueezeNet (Iandola et al. 2016, <https://arxiv.org/abs/1602.07360>), after torchvision's `squeezenet.py`.

use retune_autograd::Var;
use retune_nn::{Conv2d, ConvSizes, Forward, Initialization, ParameterBuilder, Rows, Site};
use retune_tensor::{Activation, PoolWindow};

use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "squeezenet",
    paper: "Iandola et al. 2016, SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    reference: "torchvision.models.squeezenet",
    architectures: &[
        Architecture {
            name: "squeezenet1_0",
            smallest: 29,
            patch: None,
            declare: |d| SqueezeNet::declare(d, &Sizes { stem: 96, kernel: 7, pools: [2, 6, 11] }),
            ..BASE
        },
        Architecture {
            name: "squeezenet1_1",
            smallest: 25,
            patch: None,
            declare: |d| SqueezeNet::declare(d, &Sizes { stem: 64, kernel: 3, pools: [2, 5, 8] }),
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
    smallest: 25,
    patch: None,
    declare: |d| SqueezeNet::declare(d, &Sizes { stem: 64, kernel: 3, pools: [2, 5, 8] }),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// What tells the two versions apart.
struct Sizes {
    /// Channels of the first convolution.
    stem: usize,
    /// Its window.
    kernel: usize,
    /// Places of the poolings in `features`.
    pools: [usize; 3],
}

/// Squeezed and expanded channels of the eight fire modules, the latter for each of the two windows.
const FIRES: [[usize; 2]; 8] =
    [[16, 64], [16, 64], [32, 128], [32, 128], [48, 192], [48, 192], [64, 256], [64, 256]];

/// A 1×1 convolution that squeezes, and two side by side that expand.
struct Fire {
    squeeze: Conv2d,
    expand1x1: Conv2d,
    expand3x3: Conv2d,
}

impl Fire {
    fn declare(builder: &mut ParameterBuilder, name: &str, input: usize, sizes: [usize; 2]) -> Self {
        let [squeezed, expanded] = sizes;
        let mut layer = |part: &str, sizes: ConvSizes| convolution(builder, &format!("{name}.{part}"), sizes);
        Self {
            squeeze: layer("squeeze", ConvSizes::same(input, squeezed, 1)),
            expand1x1: layer("expand1x1", ConvSizes::same(squeezed, expanded, 1)),
            expand3x3: layer("expand3x3", ConvSizes::same(squeezed, expanded, 3)),
        }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let squeezed = relu(forward, &self.squeeze, x);
        let parts = [&self.expand1x1, &self.expand3x3].map(|layer| layer.forward(forward, &squeezed));
        let expanded = forward.tape().concat_channels(&[&parts[0], &parts[1]]);
        forward.tape().activation(&expanded, Activation::Relu)
    }
}

/// A convolution with bias, filled as the reference does (He et al. 2015, uniform).
fn convolution(builder: &mut ParameterBuilder, name: &str, sizes: ConvSizes) -> Conv2d {
    let fan_in = sizes.input * sizes.kernel[0] * sizes.kernel[1];
    let bound = (6.0 / fan_in as f32).sqrt();
    Conv2d::declare_with_bias(builder, name, sizes, Initialization::Uniform { bound })
}

fn relu(forward: &mut Forward<'_>, layer: &Conv2d, x: &Var) -> Var {
    let y = layer.forward(forward, x);
    forward.tape().activation(&y, Activation::Relu)
}

struct SqueezeNet {
    stem: Conv2d,
    fires: Vec<Fire>,
    /// Whether a pooling follows the stem, and each fire module.
    pooled: Vec<bool>,
    classifier: Conv2d,
    dropout: (Site, f32),
}

/// Channels of the last fire module.
const FEATURES: usize = 512;

impl SqueezeNet {
    fn declare(declare: &mut Declare<'_>, sizes: &Sizes) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, .. } = declare;
        builder.begin_group("features.0");
        let stem = ConvSizes::same(*channels, sizes.stem, sizes.kernel).stride(2).padding([0, 0]);
        let stem = convolution(builder, "features.0", stem);
        let (mut fires, mut pooled, mut input) = (Vec::new(), vec![false], sizes.stem);
        let mut sizes_of_fires = FIRES.into_iter();
        // The first convolution and its activation have the numbers 0 and 1.
        for number in 2.. {
            if sizes.pools.contains(&number) {
                pooled[fires.len()] = true;
                continue;
            }
            let Some(fire) = sizes_of_fires.next() else { break };
            let name = format!("features.{number}");
            builder.begin_group(&name);
            fires.push(Fire::declare(builder, &name, input, fire));
            pooled.push(false);
            input = 2 * fire[1];
        }
        builder.begin_group("head");
        let normal = Initialization::Normal { std: 0.01 };
        let last = ConvSizes::same(FEATURES, *outputs, 1);
        let classifier = Conv2d::declare_with_bias(builder, "classifier.1", last, normal);
        let dropout = (builder.site("classifier.0"), dropout.unwrap_or(0.5));
        Box::new(Self { stem, fires, pooled, classifier, dropout })
    }
}

impl ImageNetwork for SqueezeNet {
    fn trunk_groups(&self) -> usize {
        1 + self.fires.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        let y = match group.checked_sub(1).map(|fire| &self.fires[fire]) {
            None => relu(forward, &self.stem, x),
            Some(fire) => forward.block(x, |forward, x| fire.forward(forward, x)),
        };
        if !self.pooled[group] {
            return y;
        }
        let window = PoolWindow { ceil_mode: true, ..PoolWindow::square(3, 2, 0) };
        forward.tape().max_pool2d(&y, window)
    }

    /// The map itself: classes are told apart pixel by pixel, and then averaged.
    fn head_input(&self, _forward: &mut Forward<'_>, map: &Var, _rows: &Rows) -> Var {
        map.clone()
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let spec = forward.dropout_spec(self.dropout.0, self.dropout.1, &rows.spread(input.tensor().rows()));
        let dropped = forward.tape().dropout(input, spec);
        let scores = relu(forward, &self.classifier, &dropped);
        forward.tape().global_avg_pool(&scores)
    }

    fn feature_dim(&self) -> usize {
        FEATURES
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.1".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.weight"
    }
}
