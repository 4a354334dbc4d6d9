//! What a task asks of a model and how its answers are judged: heads, losses, decoding and metrics.
//! Stands on plain numbers only; it never knows how a model was trained or where a report is written.
#![forbid(unsafe_code)]

mod classification;
pub mod metrics;
mod mixed;

pub use classification::{BatchLoss, ClassificationTask, MULTI_LABEL_THRESHOLD, ProblemType, argmax};
