//! The parameter store, the layers over it, LoRA and the optimizers.
//!
//! Modules hold handles; values live in one [`ParameterStore`], named as the reference implementation names them and
//! sorted into layer groups by depth. A [`Forward`] is one pass: it knows which parameters train, whether dropout is on,
//! and records on its tape. Knows no model family, no file and no data.
#![forbid(unsafe_code)]

mod buffers;
mod forward;
mod images;
mod initialization;
mod layers;
mod low_rank;
mod optimizer;
mod store;

pub use buffers::{BufferUpdates, NormObservation, NormRecalibration};
pub use forward::{Environment, Forward, Randomness, Rows, Site};
pub use images::{BatchNorm2d, Conv2d, ConvSizes, GroupNorm};
pub use initialization::{Initialization, hash_name, random_key};
pub use layers::{Embedding, FeedForward, LayerNorm, Linear, RmsNorm};
pub use low_rank::{AdaptableLayer, AdaptedLayer, LowRank, LowRankPlan};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind, ParameterRates, ParameterState};
pub use store::{Declaration, LayerGroup, ParameterBuilder, ParameterId, ParameterStore, Role, Trainable};
