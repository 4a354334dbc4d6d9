//! The program as a user runs it, on a tiny BERT and a small ResNet with random weights: run folders, answers, exit codes, kill and resume.
//! Every test works in a temporary folder of its own, offline.

mod artifact;
mod audit;
mod compare;
mod data;
mod equivalence;
#[cfg(unix)]
mod features;
#[cfg(unix)]
mod images;
#[cfg(unix)]
mod input;
mod learning_rate;
#[cfg(unix)]
mod plan;
mod refusals;
mod strategies;
mod tasks;
mod workspace;

#[cfg(unix)]
mod resume;
