//! Layers: handles to parameters, and the operation they take part in.

use retune_autograd::Var;
use retune_tensor::Activation;

use crate::forward::{Forward, Rows, Site};
use crate::initialization::Initialization;
use crate::low_rank::{AdaptableLayer, LowRank};
use crate::store::{ParameterBuilder, ParameterId};

/// A fully connected layer, weight [out, in].
#[derive(Clone, Debug)]
pub struct Linear {
    name: String,
    weight: ParameterId,
    bias: Option<ParameterId>,
    input_size: usize,
    output_size: usize,
    group: usize,
    low_rank: Option<LowRank>,
}

impl Linear {
    /// Declares `name.weight` and `name.bias`; the weight is filled by `initialization`, the bias with zeros.
    pub fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        input_size: usize,
        output_size: usize,
        initialization: Initialization,
    ) -> Self {
        let parameters = [format!("{name}.weight"), format!("{name}.bias")];
        Self::declare_as(builder, name, parameters, [input_size, output_size], initialization)
    }

    /// As [`Linear::declare`], with other names for weight and bias (`in_proj_weight`) and `sizes` input and output.
    pub fn declare_as(
        builder: &mut ParameterBuilder,
        name: &str,
        parameters: [String; 2],
        sizes: [usize; 2],
        initialization: Initialization,
    ) -> Self {
        let ([weight, bias], [input_size, output_size]) = (parameters, sizes);
        let weight = builder.parameter(weight, &[output_size, input_size], initialization);
        let bias = builder.parameter(bias, &[output_size], Initialization::Zeros);
        Self::declared(builder, name, weight, Some(bias), sizes)
    }

    /// Declares `name.weight` alone.
    pub fn declare_without_bias(
        builder: &mut ParameterBuilder,
        name: &str,
        input_size: usize,
        output_size: usize,
        initialization: Initialization,
    ) -> Self {
        let weight = builder.parameter(format!("{name}.weight"), &[output_size, input_size], initialization);
        Self::declared(builder, name, weight, None, [input_size, output_size])
    }

    fn declared(
        builder: &mut ParameterBuilder,
        name: &str,
        weight: ParameterId,
        bias: Option<ParameterId>,
        [input_size, output_size]: [usize; 2],
    ) -> Self {
        let (name, group) = (name.to_owned(), builder.group());
        let mut layer = Self { name, weight, bias, input_size, output_size, group, low_rank: None };
        layer.low_rank = builder.adapt(layer.adaptable(), weight);
        layer
    }

    /// The module path, such as `encoder.layer.3.attention.self.query`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight's handle.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// The greatest rank that its weight can have: the smaller of its sizes.
    pub fn largest_rank(&self) -> usize {
        self.input_size.min(self.output_size)
    }

    /// The low-rank branch, if one was attached.
    pub fn low_rank(&self) -> Option<&LowRank> {
        self.low_rank.as_ref()
    }

    /// Attaches a low-rank branch with parameters `name.lora_A.weight` and `name.lora_B.weight`.
    pub fn attach_low_rank(&mut self, builder: &mut ParameterBuilder, rank: usize, scale: f32, dropout: f32) {
        self.low_rank = Some(LowRank::declare(builder, &self.adaptable(), rank, scale, dropout));
    }

    fn adaptable(&self) -> AdaptableLayer {
        let &Self { group, input_size: input, output_size: output, .. } = self;
        AdaptableLayer { name: self.name.clone(), group, input, output, kernel: None }
    }

    /// `activation(x·weightᵀ + bias)`, [rows, in] → [rows, out]. `rows` are those of `x`.
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var, activation: Activation, rows: &Rows) -> Var {
        let weight = forward.parameter(self.weight);
        let bias = self.bias.map(|bias| forward.parameter(bias));
        let Some(low_rank) = &self.low_rank else {
            return forward.tape().linear(x, &weight, bias.as_ref(), activation);
        };
        let (a, b) = (forward.parameter(low_rank.a), forward.parameter(low_rank.b));
        let dropout = forward.dropout_spec(low_rank.site, low_rank.dropout, rows);
        let tape = forward.tape();
        let base = tape.linear(x, &weight, bias.as_ref(), Activation::Identity);
        let sum = tape.low_rank_add(base, x, &a, &b, low_rank.scale, dropout);
        tape.activation(&sum, activation)
    }
}

/// The feed-forward part of a Transformer block.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// [intermediate, hidden].
    pub first: Linear,
    /// Between the two.
    pub activation: Activation,
    /// [hidden, intermediate].
    pub second: Linear,
}

impl FeedForward {
    /// `second(activation(first(x)))`, [rows, hidden] → [rows, hidden].
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var, rows: &Rows) -> Var {
        let (Some(first_bias), Some(second_bias), None, None) =
            (self.first.bias, self.second.bias, &self.first.low_rank, &self.second.low_rank)
        else {
            let hidden = self.first.forward(forward, x, self.activation, rows);
            return self.second.forward(forward, &hidden, Activation::Identity, rows);
        };
        let [w1, b1, w2, b2] =
            [self.first.weight, first_bias, self.second.weight, second_bias].map(|id| forward.parameter(id));
        forward.tape().feed_forward(x, (&w1, &b1), self.activation, (&w2, &b2))
    }
}

/// Layer normalization (Ba et al. 2016) over rows of a fixed width.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: ParameterId,
    bias: ParameterId,
    eps: f32,
}

impl LayerNorm {
    /// Declares `name.weight` (ones) and `name.bias` (zeros).
    pub fn declare(builder: &mut ParameterBuilder, name: &str, width: usize, eps: f32) -> Self {
        let weight = builder.parameter(format!("{name}.weight"), &[width], Initialization::Ones);
        let bias = builder.parameter(format!("{name}.bias"), &[width], Initialization::Zeros);
        Self { weight, bias, eps }
    }

    /// Normalizes each row of `x`.
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let (weight, bias) = (forward.parameter(self.weight), forward.parameter(self.bias));
        forward.tape().layer_norm(x, None, None, &weight, &bias, self.eps)
    }

    /// Normalizes each row of `dropout(x) + residual`, the end of a post-norm Transformer's sub-layer.
    pub fn forward_residual(
        &self,
        forward: &mut Forward<'_>,
        x: &Var,
        residual: &Var,
        dropout: (Site, f32),
        rows: &Rows,
    ) -> Var {
        let (weight, bias) = (forward.parameter(self.weight), forward.parameter(self.bias));
        let spec = forward.dropout_spec(dropout.0, dropout.1, rows);
        forward.tape().layer_norm(x, Some(residual), spec, &weight, &bias, self.eps)
    }
}

/// Root-mean-square normalization (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>) over rows of a fixed
/// width: as PyTorch's `RMSNorm`, without a mean and without a bias.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: ParameterId,
    eps: f32,
}

impl RmsNorm {
    /// Declares `name.weight` (ones).
    pub fn declare(builder: &mut ParameterBuilder, name: &str, width: usize, eps: f32) -> Self {
        Self { weight: builder.parameter(format!("{name}.weight"), &[width], Initialization::Ones), eps }
    }

    /// Normalizes each row of `x`.
    pub fn forward(&self, forward: &mut Forward<'_>, x: &Var) -> Var {
        let weight = forward.parameter(self.weight);
        forward.tape().rms_norm(x, None, None, &weight, self.eps)
    }

    /// Normalizes each row of `dropout(x) + residual`.
    pub fn forward_residual(
        &self,
        forward: &mut Forward<'_>,
        x: &Var,
        residual: &Var,
        dropout: (Site, f32),
        rows: &Rows,
    ) -> Var {
        let weight = forward.parameter(self.weight);
        let spec = forward.dropout_spec(dropout.0, dropout.1, rows);
        forward.tape().rms_norm(x, Some(residual), spec, &weight, self.eps)
    }
}

/// A table of vectors.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: ParameterId,
}

impl Embedding {
    /// Declares `name.weight` [vocabulary, width].
    pub fn declare(
        builder: &mut ParameterBuilder,
        name: &str,
        vocabulary: usize,
        width: usize,
        initialization: Initialization,
    ) -> Self {
        Self { weight: builder.parameter(format!("{name}.weight"), &[vocabulary, width], initialization) }
    }

    /// The table as a variable, for [`Tape::embedding`](retune_autograd::Tape::embedding).
    pub fn table(&self, forward: &Forward<'_>) -> Var {
        forward.parameter(self.weight)
    }
}
