//! What several image families are made of.

use retune_autograd::Var;
use retune_nn::{BatchNorm2d, Conv2d, ConvSizes, Forward, ParameterBuilder};
use retune_tensor::Activation;

/// Constants of batch normalization.
#[derive(Clone, Copy)]
pub(super) struct NormConstants {
    pub eps: f32,
    pub momentum: f32,
}

impl NormConstants {
    /// PyTorch's.
    pub const DEFAULT: Self = Self { eps: 1e-5, momentum: 0.1 };
    /// Those that TensorFlow's mobile models are trained with.
    pub const MOBILE: Self = Self { eps: 1e-3, momentum: 0.01 };
}

/// A convolution without bias, the norm behind it, and an activation.
pub(super) struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
    activation: Activation,
}

impl ConvNorm {
    /// `names` are the module paths of convolution and norm.
    pub fn declare(
        builder: &mut ParameterBuilder,
        names: [&str; 2],
        sizes: ConvSizes,
        constants: NormConstants,
        activation: Activation,
    ) -> Self {
        let [conv, norm] = names;
        let NormConstants { eps, momentum } = constants;
        Self {
            conv: Conv2d::declare(builder, conv, sizes, sizes.kaiming_fan_out()),
            norm: BatchNorm2d::declare_with(builder, norm, sizes.output, eps, momentum),
            activation,
        }
    }

    /// torchvision's `Conv2dNormActivation`, whose convolution is `name.0` and whose norm is `name.1`.
    pub fn declare_pair(
        builder: &mut ParameterBuilder,
        name: &str,
        sizes: ConvSizes,
        constants: NormConstants,
        activation: Activation,
    ) -> Self {
        let names = [format!("{name}.0"), format!("{name}.1")];
        Self::declare(builder, [&names[0], &names[1]], sizes, constants, activation)
    }

    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let y = self.conv.forward(forward, x);
        self.norm.forward(forward, &y, None, self.activation)
    }

    /// With something added between norm and activation.
    pub fn forward_residual(&self, forward: &mut Forward<'_>, x: &Var, residual: &Var) -> Var {
        let y = self.conv.forward(forward, x);
        self.norm.forward(forward, &y, Some(residual), self.activation)
    }
}

/// What lies between pixels and the last map where both ends are single convolutions: a stem, blocks, a last layer, each a
/// layer group.
pub(super) struct Trunk<B> {
    pub stem: ConvNorm,
    pub blocks: Vec<B>,
    pub last: ConvNorm,
}

impl<B> Trunk<B> {
    pub fn groups(&self) -> usize {
        2 + self.blocks.len()
    }

    /// One group's output; `run` computes a block.
    pub fn group<'s>(
        &'s self,
        forward: &mut Forward<'s>,
        group: usize,
        x: &Var,
        run: impl Fn(&B, &mut Forward<'s>, &Var) -> Var + 's,
    ) -> Var {
        let Some(block) = group.checked_sub(1) else { return self.stem.forward(forward, x) };
        match self.blocks.get(block) {
            Some(block) => forward.block(x, move |forward, x| run(block, forward, x)),
            None => self.last.forward(forward, x),
        }
    }
}

/// Squeeze and excitation (Hu et al. 2017, <https://arxiv.org/abs/1709.01507>): each channel times a factor that two
/// layers compute from the means of all channels.
pub(super) struct SqueezeExcitation {
    first: Conv2d,
    activation: Activation,
    second: Conv2d,
    gate: Activation,
}

impl SqueezeExcitation {
    /// Declares `name.fc1` and `name.fc2`, which the reference writes as 1×1 convolutions.
    pub fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        channels: usize,
        squeezed: usize,
        activation: Activation,
        gate: Activation,
    ) -> Self {
        let mut layer = |name: String, sizes: ConvSizes| {
            Conv2d::declare_with_bias(builder, &name, sizes, sizes.kaiming_fan_out())
        };
        Self {
            first: layer(format!("{name}.fc1"), ConvSizes::same(channels, squeezed, 1)),
            activation,
            second: layer(format!("{name}.fc2"), ConvSizes::same(squeezed, channels, 1)),
            gate,
        }
    }

    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let means = forward.tape().global_avg_pool(x);
        let (batch, channels) = (means.tensor().rows(), means.tensor().width());
        let squeezed = self.first.forward(forward, &means.reshape([batch, 1, 1, channels]));
        let squeezed = forward.tape().activation(&squeezed, self.activation);
        let excited = self.second.forward(forward, &squeezed);
        let scale = forward.tape().activation(&excited, self.gate).reshape([batch, channels]);
        forward.tape().scale_channels(x, &scale)
    }
}

/// The nearest multiple of 8 that is not more than a tenth below, as mobile models round their widths.
pub(super) fn divisible_by_8(width: f64) -> usize {
    let rounded = ((width + 4.0) / 8.0).floor().max(1.0) * 8.0;
    (if rounded < 0.9 * width { rounded + 8.0 } else { rounded }) as usize
}
