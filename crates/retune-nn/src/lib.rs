//! The parameter store, the layers over it, LoRA and the optimizers.
//!
//! Modules hold handles; values live in one [`ParameterStore`], named as the reference implementation names them and
//! sorted into layer groups by depth. A [`Forward`] is one pass: it knows which parameters train, whether dropout is on,
//! and records on its tape. Knows no model family, no file and no data.
#![forbid(unsafe_code)]

mod forward;
mod initialization;
mod layers;
mod optimizer;
mod store;

pub use forward::{Environment, Forward, Randomness, Rows, Site};
pub use initialization::{Initialization, hash_name, random_key};
pub use layers::{Embedding, FeedForward, LayerNorm, Linear, LowRank};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind, ParameterRates, ParameterState};
pub use store::{Declaration, LayerGroup, ParameterBuilder, ParameterId, ParameterStore, Trainable};
