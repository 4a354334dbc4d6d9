//! CPU kernels of Retune: slices in, slices out, row-major, f32 but for the operands of products, which may be bf16.
//!
//! Every kernel takes a [`Cpu`] and checks the lengths of its slices; a wrong length is a programmer error and
//! panics. Reductions are added in an order fixed by shape alone, so results have the same bits on any number of
//! threads, and a row of a forward kernel does not depend on which other rows are computed with it.
//! This crate knows no tensors, no tape and no models. It is the only crate with `unsafe` code.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod cpu;
mod dropout;
mod elementwise;
mod embedding;
mod error;
mod gemm;
mod group_norm;
mod isa;
mod layer_norm;
mod layout;
mod loss;
mod math;
mod optimizer;
mod philox;
mod pool2d;
mod pooling;
mod precision;
mod reduce;
mod scale_channels;
mod scratch;
mod simd;
mod softmax;

pub use activation::{Activation, activation_backward, activation_backward_bias, activation_forward};
pub use attention::{Attention, attention_backward, attention_forward};
pub use batch_norm::{BatchNorm, batch_norm_backward, batch_norm_forward, batch_norm_statistics};
pub use conv::{Conv2d, conv2d_forward, conv2d_input_gradient, conv2d_weight_gradient};
pub use cpu::Cpu;
pub use dropout::{Dropout, RowKey, dropout};
pub use elementwise::{add, add_assign, scale_assign};
pub use embedding::{embedding_backward, embedding_forward, gather_rows, scatter_add_rows};
pub use error::KernelError;
pub use gemm::{Gemm, Layout, gemm};
pub use group_norm::{GroupNorm, GroupNormGrad, group_norm_backward, group_norm_forward};
pub use half::bf16;
pub use isa::Isa;
pub use layer_norm::{
    LayerNormGrad, LayerNormInput, RmsNormGrad, RmsNormInput, layer_norm_backward, layer_norm_forward,
    rms_norm_backward, rms_norm_forward,
};
pub use layout::{
    Columns, adaptive_avg_pool2d_backward, adaptive_avg_pool2d_forward, copy_columns, transpose_each,
};
pub use loss::{bce_with_logits, cross_entropy, mse};
pub use optimizer::{
    AdamW, Lion, LiveRows, RmsProp, Sgd, adamw_step, ema_update, lion_step, rmsprop_step, sgd_step,
};
pub use philox::philox4x32;
pub use pool2d::{Pool2d, avg_pool2d_backward, avg_pool2d_forward, max_pool2d_backward, max_pool2d_forward};
pub use pooling::{max_pool_backward, max_pool_forward, mean_pool_backward, mean_pool_forward};
pub use precision::{Matrix, Precision, from_bf16, to_bf16};
pub use reduce::{all_finite, sum_of_squares};
pub use scale_channels::{scale_channels_backward, scale_channels_forward};
pub use softmax::softmax;
