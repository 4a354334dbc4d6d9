//! Checkpoints on disk: finding them, reading them, mapping their names and layouts, writing them.
//!
//! Reads safetensors and PyTorch's pickled formats (as data: no code in a file ever runs), resolves a model
//! name to a folder through caches, the hub and mirrors, and writes every file atomically.
//! Knows bytes, names, shapes and `f32` slices; it must never know the engine's tensors or any model family.

#![deny(unsafe_code)]

pub mod atomic;
pub mod cache;
pub mod config;
pub mod dtype;
pub mod error;
pub mod hash;
pub mod hub;
mod index;
mod map;
mod pattern;
mod pickle;
pub mod report;
mod safetensors;
pub mod save;
mod save_pytorch;
pub mod side_files;
mod strided;
pub mod transform;
pub mod weights;

pub use atomic::{available_space, ensure_space, write_atomic};
pub use config::ModelConfig;
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use hash::{FileHash, hash_file};
pub use hub::{Mirror, Origin, ResolveOptions, Resolved, Token, resolve};
pub use map::FileBytes;
pub use pickle::WrapperRule;
pub use report::{LoadReport, Reshaped, Transformed};
pub use save::{NamedTensor, Saved, TensorData, save_safetensors, save_sharded};
pub use save_pytorch::save_pytorch_bin;
pub use side_files::{ARTIFACT_FILES, POOLING_FILES, copy_side_files};
pub use transform::{Rule, Sizes, Tensor, Tensors, Transform};
pub use weights::{OpenOptions, TensorInfo, Weights};

/// Result of this crate's operations.
pub type Result<T, E = CheckpointError> = std::result::Result<T, E>;
