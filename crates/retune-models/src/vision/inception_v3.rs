//! Inception-v3 (Szegedy et al. 2015, <https://arxiv.org/abs/1512.00567>), after torchvision's `inception.py`, with its
//! auxiliary head while training.

use retune_autograd::Var;
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows, Site};
use retune_tensor::{Activation, PoolWindow};

use super::layers::{ConvNorm, NormConstants};
use super::{
    Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, Resize, Trunk, not_there,
    same_names,
};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "inception_v3",
    paper: "Szegedy et al. 2015, Rethinking the Inception Architecture for Computer Vision",
    reference: "torchvision.models.inception",
    architectures: &[Architecture {
        name: "inception_v3",
        timm: Some("inception_v3"),
        // torchvision normalizes as for ImageNet and undoes it in the network (`transform_input`).
        preprocessing: Preprocessing {
            resize: Resize::ShorterEdge(342),
            crop: [299; 2],
            interpolation: Interpolation::Bilinear,
            mean: [0.5; 3],
            std: [0.5; 3],
        },
        smallest: 75,
        patch: None,
        declare: InceptionV3::declare,
        from_timm: same_names,
        from_hugging_face: not_there,
    }],
    hugging_face: None,
};

const NORM: NormConstants = NormConstants { eps: 1e-3, momentum: 0.1 };

/// A convolution with norm and ReLU under `name.conv` and `name.bn`.
fn basic(builder: &mut ParameterBuilder, name: &str, sizes: ConvSizes) -> ConvNorm {
    let names = [format!("{name}.conv"), format!("{name}.bn")];
    ConvNorm::declare(builder, [&names[0], &names[1]], sizes, NORM, Activation::Relu)
}

/// A window of `kernel` with nothing around the picture.
fn valid(input: usize, output: usize, kernel: usize) -> ConvSizes {
    ConvSizes::same(input, output, kernel).padding([0, 0])
}

/// A window of one row or one column, padded so that the sizes stay.
fn line(input: usize, output: usize, kernel: [usize; 2]) -> ConvSizes {
    ConvSizes { kernel, ..ConvSizes::same(input, output, 1) }.padding(kernel.map(|size| size / 2))
}

/// What a branch of a module is.
enum Branch {
    /// Convolutions one after the other.
    Chain(Vec<ConvNorm>),
    /// Convolutions one after the other, then others side by side.
    Fork(Vec<ConvNorm>, Vec<ConvNorm>),
    /// The mean of each 3×3 window, then a convolution.
    Average(Box<ConvNorm>),
    /// The maximum of every other 3×3 window.
    Maximum,
}

impl Branch {
    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Vec<Var> {
        let chain = |forward: &mut Forward<'_>, layers: &[ConvNorm]| {
            layers.iter().fold(x.clone(), |y, layer| layer.forward(forward, &y))
        };
        match self {
            Self::Chain(layers) => vec![chain(forward, layers)],
            Self::Fork(layers, ends) => {
                let y = chain(forward, layers);
                ends.iter().map(|end| end.forward(forward, &y)).collect()
            }
            Self::Average(layer) => {
                let y = forward.tape().avg_pool2d(x, PoolWindow::square(3, 1, 1), true);
                vec![layer.forward(forward, &y)]
            }
            Self::Maximum => vec![forward.tape().max_pool2d(x, PoolWindow::square(3, 2, 0))],
        }
    }
}

/// Branches side by side.
struct Module(Vec<Branch>);

impl Module {
    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let parts: Vec<Var> = self.0.iter().flat_map(|branch| branch.forward(forward, x)).collect();
        let parts: Vec<&Var> = parts.iter().collect();
        forward.tape().concat_channels(&parts)
    }
}

/// Declares the parts of one module.
struct Parts<'b> {
    builder: &'b mut ParameterBuilder,
    name: &'static str,
}

impl Parts<'_> {
    fn layer(&mut self, part: &str, sizes: ConvSizes) -> ConvNorm {
        basic(self.builder, &format!("{}.{part}", self.name), sizes)
    }

    /// 1×1, 5×5, two 3×3, and a mean: 35×35 pixels of a picture of 299.
    fn a(mut self, input: usize, pooled: usize) -> Module {
        Module(vec![
            Branch::Chain(vec![self.layer("branch1x1", ConvSizes::same(input, 64, 1))]),
            Branch::Chain(vec![
                self.layer("branch5x5_1", ConvSizes::same(input, 48, 1)),
                self.layer("branch5x5_2", ConvSizes::same(48, 64, 5)),
            ]),
            Branch::Chain(vec![
                self.layer("branch3x3dbl_1", ConvSizes::same(input, 64, 1)),
                self.layer("branch3x3dbl_2", ConvSizes::same(64, 96, 3)),
                self.layer("branch3x3dbl_3", ConvSizes::same(96, 96, 3)),
            ]),
            Branch::Average(Box::new(self.layer("branch_pool", ConvSizes::same(input, pooled, 1)))),
        ])
    }

    /// From 35×35 to 17×17 pixels.
    fn b(mut self, input: usize) -> Module {
        Module(vec![
            Branch::Chain(vec![self.layer("branch3x3", valid(input, 384, 3).stride(2))]),
            Branch::Chain(vec![
                self.layer("branch3x3dbl_1", ConvSizes::same(input, 64, 1)),
                self.layer("branch3x3dbl_2", ConvSizes::same(64, 96, 3)),
                self.layer("branch3x3dbl_3", valid(96, 96, 3).stride(2)),
            ]),
            Branch::Maximum,
        ])
    }

    /// Windows of seven pixels in a line: 17×17 pixels.
    fn c(mut self, input: usize, width: usize) -> Module {
        Module(vec![
            Branch::Chain(vec![self.layer("branch1x1", ConvSizes::same(input, 192, 1))]),
            Branch::Chain(vec![
                self.layer("branch7x7_1", ConvSizes::same(input, width, 1)),
                self.layer("branch7x7_2", line(width, width, [1, 7])),
                self.layer("branch7x7_3", line(width, 192, [7, 1])),
            ]),
            Branch::Chain(vec![
                self.layer("branch7x7dbl_1", ConvSizes::same(input, width, 1)),
                self.layer("branch7x7dbl_2", line(width, width, [7, 1])),
                self.layer("branch7x7dbl_3", line(width, width, [1, 7])),
                self.layer("branch7x7dbl_4", line(width, width, [7, 1])),
                self.layer("branch7x7dbl_5", line(width, 192, [1, 7])),
            ]),
            Branch::Average(Box::new(self.layer("branch_pool", ConvSizes::same(input, 192, 1)))),
        ])
    }

    /// From 17×17 to 8×8 pixels.
    fn d(mut self, input: usize) -> Module {
        Module(vec![
            Branch::Chain(vec![
                self.layer("branch3x3_1", ConvSizes::same(input, 192, 1)),
                self.layer("branch3x3_2", valid(192, 320, 3).stride(2)),
            ]),
            Branch::Chain(vec![
                self.layer("branch7x7x3_1", ConvSizes::same(input, 192, 1)),
                self.layer("branch7x7x3_2", line(192, 192, [1, 7])),
                self.layer("branch7x7x3_3", line(192, 192, [7, 1])),
                self.layer("branch7x7x3_4", valid(192, 192, 3).stride(2)),
            ]),
            Branch::Maximum,
        ])
    }

    /// Branches that fork at their end: 8×8 pixels.
    fn e(mut self, input: usize) -> Module {
        Module(vec![
            Branch::Chain(vec![self.layer("branch1x1", ConvSizes::same(input, 320, 1))]),
            Branch::Fork(
                vec![self.layer("branch3x3_1", ConvSizes::same(input, 384, 1))],
                vec![
                    self.layer("branch3x3_2a", line(384, 384, [1, 3])),
                    self.layer("branch3x3_2b", line(384, 384, [3, 1])),
                ],
            ),
            Branch::Fork(
                vec![
                    self.layer("branch3x3dbl_1", ConvSizes::same(input, 448, 1)),
                    self.layer("branch3x3dbl_2", ConvSizes::same(448, 384, 3)),
                ],
                vec![
                    self.layer("branch3x3dbl_3a", line(384, 384, [1, 3])),
                    self.layer("branch3x3dbl_3b", line(384, 384, [3, 1])),
                ],
            ),
            Branch::Average(Box::new(self.layer("branch_pool", ConvSizes::same(input, 192, 1)))),
        ])
    }
}

/// The head in the middle of the network, whose loss trains what is below it.
struct Auxiliary {
    first: ConvNorm,
    second: ConvNorm,
    output: Linear,
}

impl Auxiliary {
    fn forward(&self, forward: &mut Forward<'_>, x: &Var, rows: &Rows) -> Var {
        let y = forward.tape().avg_pool2d(x, PoolWindow::square(5, 3, 0), true);
        let y = self.first.forward(forward, &y);
        let y = self.second.forward(forward, &y);
        let y = forward.tape().global_avg_pool(&y);
        self.output.forward(forward, &y, Activation::Identity, rows)
    }
}

struct InceptionV3 {
    /// Three convolutions before the first pooling, two before the second.
    stem: [ConvNorm; 5],
    modules: Vec<Module>,
    auxiliary: Auxiliary,
    fc: Linear,
    dropout: (Site, f32),
}

/// Convolutions of the stem that a pooling follows.
const POOLED: [usize; 2] = [2, 4];
/// Modules before the auxiliary head, `Mixed_6e` the last of them.
const BEFORE_AUXILIARY: usize = 8;
/// Rows and columns that the auxiliary head needs, which a picture of 299 has there; smaller ones train without it.
const AUXILIARY_PIXELS: usize = 17;
/// Channels of the last module.
const FEATURES: usize = 2048;
/// Channels of `Mixed_6e`.
const MIDDLE: usize = 768;

impl InceptionV3 {
    fn declare(declare: &mut Declare<'_>) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, dropout, .. } = declare;
        let mut convolution = |name: &str, sizes: ConvSizes| {
            builder.begin_group(name);
            basic(builder, name, sizes)
        };
        let stem = [
            convolution("Conv2d_1a_3x3", valid(*channels, 32, 3).stride(2)),
            convolution("Conv2d_2a_3x3", valid(32, 32, 3)),
            convolution("Conv2d_2b_3x3", ConvSizes::same(32, 64, 3)),
            convolution("Conv2d_3b_1x1", valid(64, 80, 1)),
            convolution("Conv2d_4a_3x3", valid(80, 192, 3)),
        ];
        let mut modules = Vec::new();
        let mut module =
            |builder: &mut ParameterBuilder, name: &'static str, make: &dyn Fn(Parts<'_>) -> Module| {
                builder.begin_group(name);
                modules.push(make(Parts { builder, name }));
            };
        module(builder, "Mixed_5b", &|parts| parts.a(192, 32));
        module(builder, "Mixed_5c", &|parts| parts.a(256, 64));
        module(builder, "Mixed_5d", &|parts| parts.a(288, 64));
        module(builder, "Mixed_6a", &|parts| parts.b(288));
        module(builder, "Mixed_6b", &|parts| parts.c(MIDDLE, 128));
        module(builder, "Mixed_6c", &|parts| parts.c(MIDDLE, 160));
        module(builder, "Mixed_6d", &|parts| parts.c(MIDDLE, 160));
        module(builder, "Mixed_6e", &|parts| parts.c(MIDDLE, 192));
        // The auxiliary head trains where the module that it reads does.
        let bound = 1.0 / (MIDDLE as f32).sqrt();
        let auxiliary = Auxiliary {
            first: basic(builder, "AuxLogits.conv0", ConvSizes::same(MIDDLE, 128, 1)),
            second: basic(builder, "AuxLogits.conv1", valid(128, MIDDLE, 5)),
            output: Linear::declare(
                builder,
                "AuxLogits.fc",
                MIDDLE,
                *outputs,
                Initialization::Uniform { bound },
            ),
        };
        module(builder, "Mixed_7a", &|parts| parts.d(MIDDLE));
        module(builder, "Mixed_7b", &|parts| parts.e(1280));
        module(builder, "Mixed_7c", &|parts| parts.e(FEATURES));
        builder.begin_group("head");
        let bound = 1.0 / (FEATURES as f32).sqrt();
        let fc = Linear::declare(builder, "fc", FEATURES, *outputs, Initialization::Uniform { bound });
        let dropout = (builder.site("dropout"), dropout.unwrap_or(0.5));
        Box::new(Self { stem, modules, auxiliary, fc, dropout })
    }
}

impl ImageNetwork for InceptionV3 {
    fn trunk<'s>(&'s self, forward: &mut Forward<'s>, x: &Var, rows: &Rows) -> Trunk {
        let mut x = x.clone();
        let mut auxiliary = None;
        for group in 0..self.trunk_groups() {
            if group == self.stem.len() + BEFORE_AUXILIARY
                && forward.is_training()
                && forward.trains(self.auxiliary.output.weight())
                && x.tensor().shape().sizes()[1..3].iter().all(|&size| size >= AUXILIARY_PIXELS)
            {
                auxiliary = Some(self.auxiliary.forward(forward, &x, rows));
            }
            x = self.group(forward, group, &x, rows);
        }
        Trunk { map: x, auxiliary }
    }

    fn trunk_groups(&self) -> usize {
        self.stem.len() + self.modules.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        if let Some(module) = group.checked_sub(self.stem.len()).map(|module| &self.modules[module]) {
            return forward.block(x, |forward, x| module.forward(forward, x));
        }
        let y = self.stem[group].forward(forward, x);
        if !POOLED.contains(&group) {
            return y;
        }
        forward.tape().max_pool2d(&y, PoolWindow::square(3, 2, 0))
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        let spec = forward.dropout_spec(self.dropout.0, self.dropout.1, rows);
        let dropped = forward.tape().dropout(input, spec);
        self.fc.forward(forward, &dropped, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        FEATURES
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["AuxLogits.fc".to_owned(), "fc".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "Conv2d_1a_3x3.conv.weight"
    }
}
