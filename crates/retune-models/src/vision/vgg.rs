//! VGG (Simonyan and Zisserman 2014, <https://arxiv.org/abs/1409.1556>), with and without batch normalization, after
//! torchvision's `vgg.py`.

use retune_autograd::Var;
use retune_nn::{
    BatchNorm2d, Conv2d, ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows, Site,
};
use retune_tensor::{Activation, PoolWindow};

use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "vgg",
    paper: "Simonyan and Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image Recognition",
    reference: "torchvision.models.vgg",
    architectures: &[
        Architecture { name: "vgg11", timm: Some("vgg11"), declare: |d| Vgg::declare(d, A, false), ..BASE },
        Architecture {
            name: "vgg11_bn",
            timm: Some("vgg11_bn"),
            declare: |d| Vgg::declare(d, A, true),
            ..BASE
        },
        Architecture { name: "vgg13", timm: Some("vgg13"), declare: |d| Vgg::declare(d, B, false), ..BASE },
        Architecture {
            name: "vgg13_bn",
            timm: Some("vgg13_bn"),
            declare: |d| Vgg::declare(d, B, true),
            ..BASE
        },
        Architecture { name: "vgg16", timm: Some("vgg16"), declare: |d| Vgg::declare(d, D, false), ..BASE },
        Architecture {
            name: "vgg16_bn",
            timm: Some("vgg16_bn"),
            declare: |d| Vgg::declare(d, D, true),
            ..BASE
        },
        Architecture { name: "vgg19", timm: Some("vgg19"), declare: |d| Vgg::declare(d, E, false), ..BASE },
        Architecture {
            name: "vgg19_bn",
            timm: Some("vgg19_bn"),
            declare: |d| Vgg::declare(d, E, true),
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
    smallest: 32,
    patch: None,
    declare: |d| Vgg::declare(d, A, false),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// Convolutions of each of the five stages (table 1 of the paper, configurations A, B, D and E).
type Depths = [usize; 5];
const A: Depths = [1, 1, 2, 2, 2];
const B: Depths = [2, 2, 2, 2, 2];
const D: Depths = [2, 2, 3, 3, 3];
const E: Depths = [2, 2, 4, 4, 4];

/// Channels of each stage.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];
/// Rows and columns that the classifier reads, whatever the picture's size.
const GRID: usize = 7;
/// Width of the hidden layers of the classifier.
const HIDDEN: usize = 4096;

/// A convolution with ReLU, a norm between the two or not.
struct Layer {
    conv: Conv2d,
    norm: Option<BatchNorm2d>,
}

impl Layer {
    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let y = self.conv.forward(forward, x);
        match &self.norm {
            Some(norm) => norm.forward(forward, &y, None, Activation::Relu),
            None => forward.tape().activation(&y, Activation::Relu),
        }
    }
}

struct Vgg {
    /// Each layer, and whether a pooling follows it.
    layers: Vec<(Layer, bool)>,
    hidden: [(Linear, Site); 2],
    output: Linear,
    dropout: f32,
}

impl Vgg {
    fn declare(declare: &mut Declare<'_>, depths: Depths, normalized: bool) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, .. } = declare;
        let (mut number, mut input) = (0, *channels);
        let mut layers = Vec::new();
        for (depth, width) in depths.into_iter().zip(WIDTHS) {
            for index in 1..=depth {
                let name = format!("features.{number}");
                builder.begin_group(&name);
                let sizes = ConvSizes::same(input, width, 3);
                let conv = Conv2d::declare_with_bias(builder, &name, sizes, sizes.kaiming_fan_out());
                let norm = normalized
                    .then(|| BatchNorm2d::declare(builder, &format!("features.{}", number + 1), width));
                layers.push((Layer { conv, norm }, index == depth));
                // Convolution, norm and activation are counted.
                number += if normalized { 3 } else { 2 };
                input = width;
            }
            number += 1;
        }
        let normal = Initialization::Normal { std: 0.01 };
        let hidden = |builder: &mut ParameterBuilder, name: &str, dropout: &str, input: usize| {
            builder.begin_group(name);
            (Linear::declare(builder, name, input, HIDDEN, normal), builder.site(dropout))
        };
        let first = hidden(builder, "classifier.0", "classifier.2", input * GRID * GRID);
        let second = hidden(builder, "classifier.3", "classifier.5", HIDDEN);
        builder.begin_group("head");
        let output = Linear::declare(builder, "classifier.6", HIDDEN, *outputs, normal);
        let dropout = dropout.unwrap_or(0.5);
        Box::new(Self { layers, hidden: [first, second], output, dropout })
    }
}

impl ImageNetwork for Vgg {
    fn trunk_groups(&self) -> usize {
        self.layers.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        let (layer, pools) = &self.layers[group];
        let y = forward.block(x, |forward, x| layer.forward(forward, x));
        if *pools { forward.tape().max_pool2d(&y, PoolWindow::tiles(2)) } else { y }
    }

    fn head_input(&self, forward: &mut Forward<'_>, map: &Var, rows: &Rows) -> Var {
        let grid = forward.tape().adaptive_avg_pool2d(map, [GRID, GRID]);
        let mut x = forward.tape().flatten_images(&grid);
        for (layer, site) in &self.hidden {
            x = layer.forward(forward, &x, Activation::Relu, rows);
            let spec = forward.dropout_spec(*site, self.dropout, rows);
            x = forward.tape().dropout(&x, spec);
        }
        x
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.output.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        WIDTHS[4]
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["classifier.6".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "features.0.weight"
    }
}
