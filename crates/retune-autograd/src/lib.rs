//! The tape: what a step computed, so that its gradients can be computed.
//!
//! A [`Tape`] is explicit and owned by one step. Its operations are coarse, each with a hand-written backward that keeps
//! only what it needs and computes only the gradients that are wanted: an operation none of whose inputs needs a
//! gradient is not recorded at all. Parameter gradients land in [`Gradients`], which the caller owns.
//! Knows nothing of modules, names or optimizers.
#![forbid(unsafe_code)]

mod gradients;
mod image;
mod ops;
mod tape;

pub use gradients::{Gradients, Reach};
pub use ops::Pooling;
pub use tape::{Backward, LeafGradients, Tape, Var};
