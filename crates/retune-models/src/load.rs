//! From a checkpoint's tensors to a model's parameters, with an account of every one of them.

use std::collections::HashSet;

use retune_checkpoint::{LoadReport, Transformed, Weights};
use retune_nn::{Declaration, ParameterBuilder, ParameterStore};
use retune_tensor::Context;

use crate::ModelError;
use crate::text::TextFamily;

/// Tensors that pretraining leaves in a checkpoint and a classifier does not use: other heads, and buffers that are
/// computed.
const EXPECTED_UNUSED: &[&str] = &[
    "cls.",
    "lm_head.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "pooler.",
    "classifier.",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
];

/// How a checkpoint is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Missing backbone parameters are initialized instead of refused.
    pub allow_missing: bool,
    /// Tensors that fit nowhere are listed instead of refused.
    pub allow_unused: bool,
    /// Parameters that are new whatever the checkpoint has: an output layer for other labels.
    pub new_parameters: HashSet<String>,
    /// Seed of newly initialized parameters.
    pub seed: u64,
}

/// The checkpoint's name for a parameter, if it has it: the same name, or without the family's prefix (a checkpoint of
/// the bare backbone), either also in the old spelling of norms (`gamma`, `beta`).
pub fn checkpoint_name(weights: &Weights, family: &TextFamily, name: &str) -> Option<String> {
    let bare = name.strip_prefix(family.prefix).unwrap_or(name);
    let spellings = [name, bare];
    let old = |name: &str| {
        let old = |end, old| name.strip_suffix(end).map(|start| format!("{start}{old}"));
        old("LayerNorm.weight", "LayerNorm.gamma").or_else(|| old("LayerNorm.bias", "LayerNorm.beta"))
    };
    spellings
        .iter()
        .map(|&name| name.to_owned())
        .chain(spellings.iter().filter_map(|name| old(name)))
        .find(|name| weights.info(name).is_some())
}

/// Fills a model's parameters from a checkpoint. The report says what was loaded, left unused, missing or newly
/// initialized.
///
/// # Errors
/// If a backbone parameter is missing, a tensor has another shape, or a tensor fits nowhere, unless allowed.
pub fn load_parameters(
    context: &Context,
    builder: ParameterBuilder,
    family: &TextFamily,
    weights: &Weights,
    how: &LoadOptions,
) -> Result<(ParameterStore, LoadReport), ModelError> {
    let mut report = LoadReport::default();
    let mut used = HashSet::new();
    let store = builder.build(context, how.seed, |declaration: &Declaration| {
        let name = &declaration.name;
        let found = checkpoint_name(weights, family, name);
        if let Some(found) = &found {
            used.insert(found.clone());
        }
        let Some(found) = found.filter(|_| !how.new_parameters.contains(name)) else {
            let list = if is_new_by_design(family, name) {
                &mut report.newly_initialized
            } else {
                &mut report.missing
            };
            list.push(name.clone());
            return Ok(None);
        };
        let shape = weights.info(&found).map(|info| info.shape.clone()).unwrap_or_default();
        if shape != declaration.shape {
            let expected = declaration.shape.clone();
            return Err(ModelError::Shape { name: found, found: shape, expected });
        }
        if found != *name {
            let (from, to) = (vec![found.clone()], vec![name.clone()]);
            report.transformed.push(Transformed { from, to, how: "renamed".to_owned() });
        }
        let values = weights.to_f32(&found)?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite { name: found, value: values[index], index });
        }
        report.loaded.push(name.clone());
        Ok(Some(values))
    })?;
    if let (Some(first), false) = (report.missing.first(), how.allow_missing) {
        return Err(ModelError::Missing { count: report.missing.len(), first: first.clone() });
    }
    report.unused = weights.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect();
    let unexpected: Vec<&String> = report
        .unused
        .iter()
        .filter(|name| {
            let bare = name.strip_prefix(family.prefix).unwrap_or(name);
            !EXPECTED_UNUSED.iter().any(|start| bare.starts_with(start))
        })
        .collect();
    if let (Some(first), false) = (unexpected.first(), how.allow_unused) {
        return Err(ModelError::Unused { count: unexpected.len(), first: (*first).clone() });
    }
    Ok((store, report))
}

/// Whether a parameter belongs to the head or to an adapter, which a pretrained checkpoint need not have.
fn is_new_by_design(family: &TextFamily, name: &str) -> bool {
    name.contains(".lora_")
        || !name.starts_with(family.prefix)
        || name.strip_prefix(family.prefix).is_some_and(|rest| rest.starts_with("pooler."))
}
