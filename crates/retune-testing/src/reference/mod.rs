//! Definitions of the operations, in f64 and in the plainest loops.

pub mod activation;
pub mod attention;
pub mod convolution;
pub mod dropout;
pub mod loss;
pub mod matrix;
pub mod normalization;
pub mod optimizer;
