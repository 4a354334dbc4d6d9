//! Reference operations in f64, reproducible inputs and tolerances for Retune's own tests.
//!
//! Definitions here are naive on purpose: a reader checks them by eye, and fast code is checked against them.
#![forbid(unsafe_code)]

mod compare;
mod random;
pub mod reference;

pub use compare::{assert_close, assert_gradient, widen};
pub use random::{counter_normal_like, counter_uniform};
