//! The operations, one entry point each. An operation takes tensors of any leading shape as `[rows, width]`, allocates
//! its result and, where the device holds numbers, calls the kernel.
//!
//! Shapes are a matter between this project's own modules, so a wrong one is a panic with both shapes in the message.

mod attention;
mod batch_norm;
mod convolution;
mod elementwise;
mod linear;
mod norm;
mod operand;
mod pool2d;
mod rows;

use std::sync::Arc;

use retune_kernels::{Dropout, RowKey};

pub use attention::{
    AttentionShape, attention, attention_backward, fused_attention, fused_attention_backward,
};
pub use batch_norm::{
    BatchNormForm, BatchNormGradients, ChannelStatistics, batch_norm, batch_norm_backward, channel_statistics,
};
pub use convolution::{Conv2dParameters, conv2d, conv2d_input_gradient, conv2d_weight_gradient};
pub use elementwise::{
    activation, activation_backward, activation_backward_bias, add, add_assign, add_into, dropout,
    scale_assign,
};
pub use linear::{add_matmul, linear, linear_input_gradient, linear_weight_gradient};
pub use norm::{
    GroupNormKept, LayerNormGradients, LayerNormKept, RmsNormKept, group_norm, group_norm_backward,
    layer_norm, layer_norm_backward, rms_norm, rms_norm_backward,
};
pub use operand::{operand, widened};
pub use pool2d::{
    Argmax, PoolWindow, adaptive_avg_pool2d, adaptive_avg_pool2d_backward, avg_pool2d, avg_pool2d_backward,
    concat_channels, flatten_images, flatten_images_backward, max_pool2d, max_pool2d_backward,
    scale_channels, scale_channels_backward, slice_channels,
};
pub use rows::{
    embedding, embedding_backward, gather_rows, gather_rows_backward, max_pool, mean_pool, mean_pool_backward,
};

/// Dropout whose mask is a pure function of a key and of each row's place in its sample.
#[derive(Clone, Debug)]
pub struct DropoutSpec {
    /// The probability that a value is dropped, in [0, 1).
    pub probability: f32,
    /// The key of this use: seed, step and module path, mixed.
    pub key: [u32; 2],
    /// One key per row of the tensor it applies to.
    pub rows: Arc<Vec<RowKey>>,
}

impl DropoutSpec {
    fn kernel(&self) -> Dropout<'_> {
        Dropout { probability: self.probability, key: self.key, rows: &self.rows }
    }
}
