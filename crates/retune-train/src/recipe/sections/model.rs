//! `[model]`: the checkpoint to start from.

use serde::{Deserialize, Serialize};

use super::OneOrMore;

/// `[model]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A folder or a hub id.
    pub name_or_path: String,
    /// Where to look next if the hub does not answer.
    pub mirrors: Vec<String>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Whether the backbone may lack weights in the checkpoint.
    pub allow_missing: bool,
    /// Whether the checkpoint may hold weights that the model has no place for.
    pub allow_unused: bool,
    /// The network of a bare image checkpoint.
    pub architecture: Option<String>,
    /// The labels of a bare image checkpoint's outputs, in order.
    pub labels: Option<Vec<String>>,
    /// Dropout before the classifier; the configuration's if unset.
    pub classifier_dropout: Option<f32>,
    /// The licence that the model card names; none if unset.
    pub license: Option<String>,
    /// The languages that the model card names.
    pub language: Option<OneOrMore>,
}
