//! Tensors, devices and the memory pool.
//!
//! A [`Tensor`] is a contiguous `f32` array on a [`Context`]'s device; what products read may be kept in bf16, as the
//! context's [`Precision`] says. Every operation has one entry point in [`ops`],
//! which allocates its result from the context's pool, counts its arithmetic and, on a device that holds numbers, calls
//! the kernel. On [`Device::Meta`] the same calls give shapes, bytes and operation counts and compute nothing.
//! Knows nothing of gradients or parameters.
#![forbid(unsafe_code)]

mod context;
pub mod ops;
mod pool;
mod tensor;
mod work;

pub use context::{Context, Device};
pub use ops::{BatchNormForm, ChannelStatistics, Conv2dParameters, DropoutSpec, PoolWindow};
pub use pool::{MemoryUse, Pool, release_memory, set_memory_release};
pub use retune_kernels::{Activation, Precision, RowKey};
pub use tensor::{Bf16Tensor, Factor, Operand, Shape, Tensor};
pub use work::{Work, WorkCounts};
