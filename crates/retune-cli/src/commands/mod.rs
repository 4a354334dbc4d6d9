//! The commands, one file each.

pub mod bench;
pub mod cache;
pub mod compare_strategies;
pub mod convert;
pub mod data;
pub mod embed;
pub mod eval;
pub mod fit;
pub mod inspect;
mod inspect_subject;
pub mod lr_find;
pub mod plan;
pub mod predict;
pub mod repeat;
pub mod resume;
pub mod verify_resume;
