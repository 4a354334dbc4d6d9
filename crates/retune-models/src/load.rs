//! From a checkpoint's tensors to a model's parameters and buffers, with an account of every one of them.

use std::collections::HashSet;

use retune_checkpoint::{LoadReport, Reshaped, Tensors, Transform, Transformed, Weights};
use retune_nn::{Declaration, ParameterBuilder, ParameterStore, Role};
use retune_tensor::Context;

use crate::ModelError;

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

/// What a model knows about checkpoints of itself.
pub trait LoadRules {
    /// The names under which a checkpoint may have a parameter, the likeliest first.
    fn checkpoint_names(&self, name: &str) -> Vec<String>;

    /// Whether a parameter belongs to the head or to an adapter, which a pretrained checkpoint need not have.
    fn is_new_by_design(&self, declaration: &Declaration) -> bool;

    /// Whether a tensor that fits nowhere is known to be left over from pretraining.
    fn is_expected_unused(&self, name: &str) -> bool;

    /// The values of a parameter from a tensor of another shape, where there is a way.
    fn adapt(&self, declaration: &Declaration, shape: &[usize], values: &[f32]) -> Option<Vec<f32>> {
        let _ = (declaration, shape, values);
        None
    }
}

/// Where the values come from.
pub enum Source<'a> {
    /// A checkpoint that has the model's own names.
    Weights(&'a Weights),
    /// A checkpoint of another ecosystem, its tensors renamed and changed in layout.
    Transformed {
        /// The tensors under the model's names.
        tensors: Tensors,
        /// What was done to them.
        done: Vec<Transformed>,
    },
}

impl<'a> From<&'a Weights> for Source<'a> {
    fn from(weights: &'a Weights) -> Self {
        Self::Weights(weights)
    }
}

impl<'a> Source<'a> {
    /// A checkpoint seen through the transform of its ecosystem.
    ///
    /// # Errors
    /// If a tensor cannot be read, or a rule of the transform does not fit the checkpoint.
    pub fn transformed(weights: &'a Weights, transform: &Transform) -> Result<Self, ModelError> {
        if transform.rules().is_empty() {
            return Ok(Self::Weights(weights));
        }
        let (tensors, done) = transform.apply(weights.to_tensors()?)?;
        Ok(Self::Transformed { tensors, done })
    }

    /// The names of all tensors.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Weights(weights) => Box::new(weights.names()),
            Self::Transformed { tensors, .. } => Box::new(tensors.keys().map(String::as_str)),
        }
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Weights(weights) => weights.info(name).map(|info| info.shape.as_slice()),
            Self::Transformed { tensors, .. } => tensors.get(name).map(|tensor| tensor.shape.as_slice()),
        }
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Weights(weights) => Ok(weights.to_f32(name)?),
            Self::Transformed { tensors, .. } => {
                Ok(tensors.get(name).map(|tensor| tensor.values.clone()).unwrap_or_default())
            }
        }
    }
}

/// The checkpoint's name for a parameter, if it has it.
pub fn checkpoint_name(source: &Source<'_>, rules: &dyn LoadRules, name: &str) -> Option<String> {
    rules.checkpoint_names(name).into_iter().find(|name| source.shape(name).is_some())
}

/// Fills a model's parameters and buffers from a checkpoint. The report says what was loaded, left unused, missing or
/// newly initialized.
///
/// # Errors
/// If a backbone parameter is missing, a tensor has another shape, or a tensor fits nowhere, unless allowed.
pub fn load_parameters<'a>(
    context: &Context,
    builder: ParameterBuilder,
    rules: &dyn LoadRules,
    source: impl Into<Source<'a>>,
    how: &LoadOptions,
) -> Result<(ParameterStore, LoadReport), ModelError> {
    let source = source.into();
    let mut report = LoadReport::default();
    if let Source::Transformed { done, .. } = &source {
        report.transformed.clone_from(done);
    }
    let mut used = HashSet::new();
    let store = builder.build(context, how.seed, |declaration: &Declaration| {
        let name = &declaration.name;
        let found = checkpoint_name(&source, rules, name);
        if let Some(found) = &found {
            used.insert(found.clone());
        }
        let Some(found) = found.filter(|_| !how.new_parameters.contains(name)) else {
            // Checkpoints from before PyTorch 0.4.1 count no batches.
            let is_new = declaration.role == Role::Counter || rules.is_new_by_design(declaration);
            let list = if is_new { &mut report.newly_initialized } else { &mut report.missing };
            list.push(name.clone());
            return Ok::<_, ModelError>(None);
        };
        let shape = source.shape(&found).unwrap_or_default();
        let mut values = source.values(&found)?;
        // A counter is a scalar; some programs write it as a list of one.
        let is_scalar = declaration.role == Role::Counter && values.len() == 1;
        if shape != declaration.shape && !is_scalar {
            let (from, to) = (shape.to_vec(), declaration.shape.clone());
            values = rules.adapt(declaration, shape, &values).ok_or_else(|| ModelError::Shape {
                name: found.clone(),
                found: from.clone(),
                expected: to.clone(),
            })?;
            report.reshaped.push(Reshaped { name: name.clone(), from, to });
        }
        if found != *name {
            let (from, to) = (vec![found.clone()], vec![name.clone()]);
            report.transformed.push(Transformed { from, to, how: "renamed".to_owned() });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite { name: found, value: values[index], index });
        }
        report.loaded.push(name.clone());
        Ok(Some(values))
    })?;
    if let (Some(first), false) = (report.missing.first(), how.allow_missing) {
        return Err(ModelError::Missing { count: report.missing.len(), first: first.clone() });
    }
    report.unused = source.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect();
    let unexpected: Vec<&String> =
        report.unused.iter().filter(|name| !rules.is_expected_unused(name)).collect();
    if let (Some(first), false) = (unexpected.first(), how.allow_unused) {
        return Err(ModelError::Unused { count: unexpected.len(), first: (*first).clone() });
    }
    Ok((store, report))
}
