//! From data files to batches: read → check → assign roles → split → encode → batch.
//!
//! Text today; pictures and audio will sit beside it behind the same findings, splits and batch order. Nothing
//! here knows of tensors or models: a batch leaves as plain integers, packed and never padded.
#![forbid(unsafe_code)]

mod csv;
mod dialect;
mod encoding;
mod error;
mod finding;
mod jsonl;
mod parquet;
mod read;
mod scan;
mod table;

pub use error::{DataError, nearest};
pub use finding::{Finding, Severity};
pub use read::{DEFAULT_MAX_FIELD_BYTES, Format, OnBadRow, ReadOptions, read_bytes, read_table};
pub use table::{Row, Table, Value};
