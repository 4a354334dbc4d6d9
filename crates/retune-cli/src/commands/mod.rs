//! The commands, one file each.

pub mod bench;
pub mod eval;
pub mod fit;
pub mod predict;
pub mod resume;
