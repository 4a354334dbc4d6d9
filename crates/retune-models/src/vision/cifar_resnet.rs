//! The ResNets for CIFAR (He et al. 2015, section 4.2, <https://arxiv.org/abs/1512.03385>), after Yerlan Idelbayev's
//! `pytorch_resnet_cifar10`: three layers of 16, 32 and 64 channels, and shortcuts without parameters (option A).

use retune_autograd::Var;
use retune_nn::{ConvSizes, Forward, Initialization, Linear, ParameterBuilder, Rows};
use retune_tensor::{Activation, PoolWindow};

use super::layers::{ConvNorm, NormConstants};
use super::{Architecture, Declare, ImageFamily, ImageNetwork, Interpolation, Preprocessing, not_there};

pub(super) static FAMILY: ImageFamily = ImageFamily {
    name: "cifar_resnet",
    paper: "He et al. 2015, Deep Residual Learning for Image Recognition",
    reference: "github.com/akamaster/pytorch_resnet_cifar10",
    architectures: &[
        Architecture { name: "cifar_resnet20", declare: |d| CifarResNet::declare(d, 3), ..BASE },
        Architecture { name: "cifar_resnet32", declare: |d| CifarResNet::declare(d, 5), ..BASE },
        Architecture { name: "cifar_resnet44", declare: |d| CifarResNet::declare(d, 7), ..BASE },
        Architecture { name: "cifar_resnet56", declare: |d| CifarResNet::declare(d, 9), ..BASE },
        Architecture { name: "cifar_resnet110", declare: |d| CifarResNet::declare(d, 18), ..BASE },
    ],
    hugging_face: None,
};

/// What all of them have in common.
const BASE: Architecture = Architecture {
    name: "",
    timm: None,
    preprocessing: Preprocessing::imagenet(32, 32, Interpolation::Bilinear),
    smallest: 1,
    patch: None,
    declare: |d| CifarResNet::declare(d, 3),
    from_timm: not_there,
    from_hugging_face: not_there,
};

/// `relu(shortcut(x) + convolutions(x))`.
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    /// Channels that a shortcut over a change of sizes adds on either side.
    padding: Option<usize>,
}

impl Block {
    fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        input: usize,
        output: usize,
        stride: usize,
    ) -> Self {
        let mut layer = |index: usize, sizes: ConvSizes| {
            let names = [format!("{name}.conv{index}"), format!("{name}.bn{index}")];
            let names = [names[0].as_str(), names[1].as_str()];
            ConvNorm::declare(builder, names, sizes, NormConstants::DEFAULT, Activation::Relu)
        };
        Self {
            first: layer(1, ConvSizes::same(input, output, 3).stride(stride)),
            second: layer(2, ConvSizes::same(output, output, 3)),
            padding: (stride != 1 || input != output).then_some(output / 4),
        }
    }

    fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let y = self.first.forward(forward, x);
        let shortcut = match self.padding {
            None => x.clone(),
            Some(channels) => {
                // Every other pixel, between channels of zeros.
                let pixels = forward.tape().avg_pool2d(x, PoolWindow::square(1, 2, 0), false);
                let mut sizes = pixels.tensor().shape().sizes().to_vec();
                if let Some(last) = sizes.last_mut() {
                    *last = channels;
                }
                let zeros = Var::constant(forward.tape().context().zeros(sizes.as_slice()));
                forward.tape().concat_channels(&[&zeros, &pixels, &zeros])
            }
        };
        self.second.forward_residual(forward, &y, &shortcut)
    }
}

struct CifarResNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    linear: Linear,
}

/// Channels of the last layer.
const FEATURES: usize = 64;

impl CifarResNet {
    fn declare(declare: &mut Declare<'_>, depth: usize) -> Box<dyn ImageNetwork> {
        let Declare { builder, outputs, channels, .. } = declare;
        builder.begin_group("stem");
        let sizes = ConvSizes::same(*channels, 16, 3);
        let stem =
            ConvNorm::declare(builder, ["conv1", "bn1"], sizes, NormConstants::DEFAULT, Activation::Relu);
        let (mut blocks, mut input) = (Vec::new(), 16);
        for (layer, output) in [16, 32, FEATURES].into_iter().enumerate() {
            for index in 0..depth {
                let stride = if index == 0 && layer > 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", layer + 1);
                builder.begin_group(&name);
                blocks.push(Block::declare(builder, &name, input, output, stride));
                input = output;
            }
        }
        builder.begin_group("head");
        let normal = Initialization::Normal { std: (2.0 / FEATURES as f32).sqrt() };
        let linear = Linear::declare(builder, "linear", FEATURES, *outputs, normal);
        Box::new(Self { stem, blocks, linear })
    }
}

impl ImageNetwork for CifarResNet {
    fn trunk_groups(&self) -> usize {
        1 + self.blocks.len()
    }

    fn group<'s>(&'s self, forward: &mut Forward<'s>, group: usize, x: &Var, _rows: &Rows) -> Var {
        match group.checked_sub(1).map(|block| &self.blocks[block]) {
            None => self.stem.forward(forward, x),
            Some(block) => forward.block(x, |forward, x| block.forward(forward, x)),
        }
    }

    fn head(&self, forward: &mut Forward<'_>, input: &Var, rows: &Rows) -> Var {
        self.linear.forward(forward, input, Activation::Identity, rows)
    }

    fn feature_dim(&self) -> usize {
        FEATURES
    }

    fn output_layers(&self) -> Vec<String> {
        vec!["linear".to_owned()]
    }

    fn input_weight(&self) -> &'static str {
        "conv1.weight"
    }
}
