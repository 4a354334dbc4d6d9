//! The classification head of the encoders: a dense layer over the first token, then the output layer.

use retune_autograd::Var;
use retune_nn::{Forward, Initialization, Linear, ParameterBuilder, Rows, Site};
use retune_tensor::Activation;

use super::EncoderSizes;

/// What the recipe changes of a head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadOverrides {
    /// Dropout before the output layer, instead of the configuration's.
    pub dropout: Option<f32>,
}

/// A family's form of the head.
pub(super) struct HeadLayers {
    pub dense: &'static str,
    pub activation: Activation,
    pub output: &'static str,
    pub dropout_before_dense: bool,
}

/// `output(dropout(activation(dense(x))))` over the first token of each sequence.
#[derive(Clone, Debug)]
pub struct ClassificationHead {
    dense: Linear,
    activation: Activation,
    output: Linear,
    dropout: f32,
    first_site: Option<Site>,
    second_site: Site,
}

impl ClassificationHead {
    pub(super) fn declare(
        builder: &mut ParameterBuilder,
        sizes: &EncoderSizes,
        layers: &HeadLayers,
        outputs: usize,
        dropout: f32,
    ) -> Self {
        builder.begin_group("head");
        let normal = Initialization::Normal { std: sizes.initializer_range };
        let (dense_name, output_name) = (layers.dense, layers.output);
        Self {
            dense: Linear::declare(builder, dense_name, sizes.hidden_size, sizes.hidden_size, normal),
            activation: layers.activation,
            output: Linear::declare(builder, output_name, sizes.hidden_size, outputs, normal),
            dropout,
            first_site: layers.dropout_before_dense.then(|| builder.site(&format!("{dense_name}.dropout"))),
            second_site: builder.site(&format!("{output_name}.dropout")),
        }
    }

    /// Logits [sequences, outputs] of `features` [sequences, hidden]; `rows` has one row per sequence.
    pub fn forward(&self, forward: &mut Forward<'_>, features: &Var, rows: &Rows) -> Var {
        let spec = self.first_site.and_then(|site| forward.dropout_spec(site, self.dropout, rows));
        let features = forward.tape().dropout(features, spec);
        let dense = self.dense.forward(forward, &features, self.activation, rows);
        let spec = forward.dropout_spec(self.second_site, self.dropout, rows);
        let dropped = forward.tape().dropout(&dense, spec);
        self.output.forward(forward, &dropped, Activation::Identity, rows)
    }

    /// The module path of the output layer, whose size the task chooses (`classifier`).
    pub fn output_name(&self) -> &str {
        self.output.name()
    }

    /// The head's linear layers.
    pub fn linears(&self) -> [&Linear; 2] {
        [&self.dense, &self.output]
    }
}
