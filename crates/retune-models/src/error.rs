//! What can be wrong with a model's description or its weights.

use retune_checkpoint::CheckpointError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// `model_type` names no family.
    #[error("config.json says model_type \"{model_type}\", which Retune does not know; it knows {known}")]
    UnknownFamily {
        /// What the configuration says.
        model_type: String,
        /// The registered names.
        known: String,
    },
    /// A name that belongs to no image network.
    #[error("\"{architecture}\" is no image architecture that Retune knows; it knows {known}")]
    UnknownArchitecture {
        /// The name asked for.
        architecture: String,
        /// The registered names.
        known: String,
    },
    /// Weights without a description of the network they are for.
    #[error(
        "{path} has no config.json that says which network its weights are for; set model.architecture to one of {known}"
    )]
    NoArchitecture {
        /// The file or folder.
        path: String,
        /// The registered names.
        known: String,
    },
    /// The architecture is not in the ecosystem whose layout is asked for.
    #[error("{architecture} has no {layout} layout; it is there under other names or not at all")]
    NoLayout {
        /// The architecture.
        architecture: &'static str,
        /// The ecosystem.
        layout: &'static str,
    },
    /// Pictures of a size that a network cannot be computed on.
    #[error("pictures of {size} pixels: {architecture} takes {takes}; set data.image_size")]
    ImageSize {
        /// The architecture.
        architecture: &'static str,
        /// Height and width asked for.
        size: usize,
        /// What it takes.
        takes: String,
    },
    /// A configuration value cannot be used.
    #[error("config.json: {key} = {value}: {problem}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A tensor of the checkpoint has another shape than the configuration asks for.
    #[error("tensor {name}: the checkpoint has shape {found:?}, the model asks for {expected:?}")]
    Shape {
        /// The parameter.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A weight is NaN or infinite, from which nothing can be learned.
    #[error(
        "tensor {name}: value {index} is {value}; the checkpoint is damaged or its training had diverged"
    )]
    NotFinite {
        /// The parameter.
        name: String,
        /// The first such value.
        value: f32,
        /// Its place in the tensor.
        index: usize,
    },
    /// The checkpoint lacks parameters of the backbone.
    #[error(
        "{count} parameters of the backbone are missing from the checkpoint, the first is {first}; if this checkpoint \
         is incomplete on purpose, set model.allow_missing = true and they are initialized anew"
    )]
    Missing {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The checkpoint has tensors that this model does not.
    #[error(
        "{count} tensors of the checkpoint fit nowhere in this model, the first is {first}; if they are not needed, set \
         model.allow_unused = true"
    )]
    Unused {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// No layer has a name that LoRA was asked to adapt.
    #[error(
        "target_modules names \"{target}\", but no layer of this model that can be adapted ends in that; it has {known}"
    )]
    LoraTarget {
        /// The name asked for.
        target: String,
        /// The last parts of the layers' names.
        known: String,
    },
    /// A LoRA rank beyond the layer's sizes, which is no low rank and may not fit in memory.
    #[error("strategy.r = {rank} is more than the {largest} that {layer} has; take 4 to 64")]
    LoraRank {
        /// The rank asked for.
        rank: usize,
        /// The smaller of the layer's sizes.
        largest: usize,
        /// The layer.
        layer: String,
    },
    /// Reading the checkpoint failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
