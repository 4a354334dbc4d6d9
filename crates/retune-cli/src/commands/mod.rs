//! The commands, one file each.

pub mod bench;
pub mod fit;
pub mod resume;
