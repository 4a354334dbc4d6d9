//! Layers over images [batch, height, width, channels]: convolution, and batch normalization with its buffers.

use retune_autograd::Var;
use retune_tensor::{Activation, BatchNormForm, ChannelStatistics, Conv2dParameters};

use crate::buffers::NormObservation;
use crate::forward::Forward;
use crate::initialization::Initialization;
use crate::low_rank::{AdaptableLayer, LowRank};
use crate::store::{ParameterBuilder, ParameterId};

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSizes {
    /// Channels of the input.
    pub input: usize,
    /// Channels of the output.
    pub output: usize,
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Stride, padding, dilation and groups.
    pub parameters: Conv2dParameters,
}

impl ConvSizes {
    /// A square window of odd size with stride 1, padded so that height and width stay.
    pub fn same(input: usize, output: usize, kernel: usize) -> Self {
        let parameters = Conv2dParameters { padding: [kernel / 2; 2], ..Conv2dParameters::default() };
        Self { input, output, kernel: [kernel; 2], parameters }
    }

    /// The same with another stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.parameters.stride = [stride; 2];
        self
    }

    /// The same with another padding.
    pub fn padding(mut self, padding: [usize; 2]) -> Self {
        self.parameters.padding = padding;
        self
    }

    /// The same in groups of channels; as many groups as channels is a depthwise convolution.
    pub fn groups(mut self, groups: usize) -> Self {
        self.parameters.groups = groups;
        self
    }

    /// The weight's shape: [out, in / groups, kernel height, kernel width].
    fn weight(&self) -> [usize; 4] {
        [self.output, self.input / self.parameters.groups, self.kernel[0], self.kernel[1]]
    }

    /// Normal with the deviation `sqrt(2 / fan_out)` (He et al. 2015), as the reference counts the fan: output channels
    /// times window.
    pub fn kaiming_fan_out(&self) -> Initialization {
        let fan_out = self.output * self.kernel[0] * self.kernel[1];
        Initialization::Normal { std: (2.0 / fan_out as f32).sqrt() }
    }

    /// Uniform within `1 / sqrt(fan_in)`, PyTorch's default for convolutions.
    pub fn uniform_fan_in(&self) -> Initialization {
        let fan_in = self.weight()[1..].iter().product::<usize>();
        Initialization::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
    }
}

/// A convolution, weight [out, in / groups, kernel height, kernel width].
#[derive(Clone, Debug)]
pub struct Conv2d {
    name: String,
    weight: ParameterId,
    bias: Option<ParameterId>,
    sizes: ConvSizes,
    low_rank: Option<LowRank>,
}

impl Conv2d {
    /// Declares `name.weight`.
    pub fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        sizes: ConvSizes,
        initialization: Initialization,
    ) -> Self {
        let weight = builder.parameter(format!("{name}.weight"), &sizes.weight(), initialization);
        let (name, ConvSizes { input, output, kernel, parameters }) = (name.to_owned(), sizes);
        // In groups of channels a branch would cost as much as the layer.
        let low_rank = (parameters.groups == 1).then(|| {
            let group = builder.group();
            let layer = AdaptableLayer { name: name.clone(), group, input, output, kernel: Some(kernel) };
            builder.adapt(layer, weight)
        });
        Self { name, weight, bias: None, sizes, low_rank: low_rank.flatten() }
    }

    /// Declares `name.weight` and `name.bias`, the bias filled with zeros.
    pub fn declare_with_bias(
        builder: &mut ParameterBuilder,
        name: &str,
        sizes: ConvSizes,
        initialization: Initialization,
    ) -> Self {
        let mut layer = Self::declare(builder, name, sizes, initialization);
        layer.bias = Some(builder.parameter(format!("{name}.bias"), &[sizes.output], Initialization::Zeros));
        layer
    }

    /// The module path, such as `layer1.0.conv2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight's handle.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// Its sizes.
    pub fn sizes(&self) -> &ConvSizes {
        &self.sizes
    }

    /// [batch, height, width, in] → [batch, output height, output width, out].
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let weight = forward.parameter(self.weight);
        let bias = self.bias.map(|bias| forward.parameter(bias));
        let parameters = self.sizes.parameters;
        let y = forward.tape().conv2d(x, &weight, bias.as_ref(), parameters);
        let Some(LowRank { a, b, scale, dropout, site }) = &self.low_rank else { return y };
        let (a, b) = (forward.parameter(*a), forward.parameter(*b));
        let dropout = forward.pixel_dropout(*site, *dropout, x);
        let dropped = forward.tape().dropout(x, dropout);
        let low = forward.tape().conv2d(&dropped, &a, None, parameters);
        forward.tape().add_product(y, &low, &b, *scale)
    }
}

/// Group normalization (Wu and He 2018, <https://arxiv.org/abs/1803.08494>) over images: each by itself, in groups of
/// neighbouring channels. It has no buffers and is the same in training and evaluation.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    weight: ParameterId,
    bias: ParameterId,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// Declares `name.weight` (ones) and `name.bias` (zeros), with PyTorch's ε 1e-5.
    ///
    /// # Panics
    /// If `channels` is not a multiple of `groups`.
    pub fn declare(builder: &mut ParameterBuilder, name: &str, groups: usize, channels: usize) -> Self {
        assert!(channels.is_multiple_of(groups), "{name}: {channels} channels in {groups} groups");
        Self {
            weight: builder.parameter(format!("{name}.weight"), &[channels], Initialization::Ones),
            bias: builder.parameter(format!("{name}.bias"), &[channels], Initialization::Zeros),
            groups,
            eps: 1e-5,
        }
    }

    /// Normalizes `x` [batch, height, width, channels].
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let (weight, bias) = (forward.parameter(self.weight), forward.parameter(self.bias));
        forward.tape().group_norm(x, self.groups, &weight, &bias, self.eps)
    }
}

/// Batch normalization (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>) over images.
///
/// While it trains, it normalizes by the statistics of the batch and moves its running statistics towards them. In
/// evaluation, and where its own parameters don't train, it normalizes by the running statistics and leaves them alone.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm2d {
    /// Factor of each channel.
    pub weight: ParameterId,
    /// Added to each channel.
    pub bias: ParameterId,
    /// Buffer: mean of each channel.
    pub running_mean: ParameterId,
    /// Buffer: unbiased variance of each channel.
    pub running_var: ParameterId,
    /// Counter: batches that the running statistics saw.
    pub num_batches_tracked: ParameterId,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of a new batch in the running statistics.
    pub momentum: f32,
}

impl BatchNorm2d {
    /// Declares `name.weight` (ones), `name.bias` (zeros) and the buffers, with PyTorch's ε 1e-5 and momentum 0.1.
    pub fn declare(builder: &mut ParameterBuilder, name: &str, channels: usize) -> Self {
        Self::declare_with(builder, name, channels, 1e-5, 0.1)
    }

    /// As [`BatchNorm2d::declare`], with another ε and momentum.
    pub fn declare_with(
        builder: &mut ParameterBuilder,
        name: &str,
        channels: usize,
        eps: f32,
        momentum: f32,
    ) -> Self {
        let channels = &[channels];
        Self {
            weight: builder.parameter(format!("{name}.weight"), channels, Initialization::Ones),
            bias: builder.parameter(format!("{name}.bias"), channels, Initialization::Zeros),
            running_mean: builder.buffer(format!("{name}.running_mean"), channels, Initialization::Zeros),
            running_var: builder.buffer(format!("{name}.running_var"), channels, Initialization::Ones),
            num_batches_tracked: builder.counter(format!("{name}.num_batches_tracked")),
            eps,
            momentum,
        }
    }

    /// `activation(normalized · weight + bias + residual)` in the shape of `x`.
    pub fn forward(
        &self,
        forward: &mut Forward<'_>,
        x: &Var,
        residual: Option<&Var>,
        activation: Activation,
    ) -> Var {
        let from_batch = forward.is_training() && (forward.trains(self.weight) || forward.trains(self.bias));
        let (weight, bias) = (forward.parameter(self.weight), forward.parameter(self.bias));
        let observed = (from_batch || forward.observes_norms()).then(|| {
            let statistics = forward.channel_statistics(x);
            forward.observe_norm(NormObservation {
                norm: *self,
                statistics: statistics.clone(),
                rows: x.tensor().rows(),
            });
            statistics
        });
        let statistics = match observed.filter(|_| from_batch) {
            Some(statistics) => statistics,
            None => ChannelStatistics {
                mean: forward.buffer(self.running_mean),
                variance: forward.buffer(self.running_var),
            },
        };
        let form = BatchNormForm { statistics, from_batch, eps: self.eps, activation };
        forward.tape().batch_norm(x, residual, form, &weight, &bias)
    }
}
