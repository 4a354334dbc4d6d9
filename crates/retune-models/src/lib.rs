//! Model families, one file each: architecture, configuration, the reference's weight names, layer groups.
//!
//! A family declares its parameters under the names of its reference implementation, group by group in depth order, and
//! computes its outputs through `retune-nn`. [`text::FAMILIES`] and [`vision::FAMILIES`] are the registries that the tests
//! walk.
//! Knows no dataset, no loss and no training loop.
#![forbid(unsafe_code)]

mod error;
mod load;
mod lora;
mod stored;
pub mod text;
pub mod vision;

pub use error::ModelError;
pub use load::{LoadOptions, LoadRules, Source, checkpoint_name, load_parameters};
pub use lora::{AllLinear, LoraConfig, LoraTarget};
pub use stored::StoredTensors;
