//! Low-rank adapters of an image network as PEFT writes them, under the names of the ecosystem of its checkpoint.

use std::collections::BTreeSet;

use retune_checkpoint::{Tensor as FileTensor, Tensors, Transform};
use retune_nn::{AdaptedLayer, ParameterId, ParameterStore};

use super::{ImageClassifier, Layout};
use crate::{ModelError, StoredTensors};

/// Whether a parameter belongs to an adapter.
pub(super) fn is_adapter(name: &str) -> bool {
    name.contains(".lora_")
}

/// What PEFT's `adapter_model.safetensors` and `adapter_config.json` say.
pub struct ImageAdapter {
    /// The matrices, under every name that versions of the library give their modules, and the head.
    pub tensors: StoredTensors<'static>,
    /// The modules that have a branch, under those names.
    pub target_modules: Vec<String>,
    /// The head's modules, which are saved whole.
    pub modules_to_save: Vec<String>,
}

impl ImageClassifier {
    /// The adapters and the head for PEFT.
    ///
    /// # Errors
    /// If the architecture is not there in that ecosystem.
    pub fn adapter(&self, store: &ParameterStore, layout: Layout) -> Result<ImageAdapter, ModelError> {
        let transform = self.transform(layout)?;
        let mut tensors = Tensors::new();
        let mut target_modules = Vec::new();
        let family = self.architecture().family().filter(|_| layout == Layout::HuggingFace);
        let newer =
            family.and_then(|family| family.hugging_face.as_ref()).map_or(&[][..], |theirs| theirs.modules);
        for AdaptedLayer { name, weight, low_rank } in self.adapted_layers() {
            let modules = modules(&transform, name, &store.declaration(*weight).name)?;
            let [a, b] = [low_rank.a, low_rank.b].map(|id| file_tensor(store, id));
            // A layer that is several there (query, key and value) gives each the same `a` and its rows of `b`.
            let rows = b.shape[0] / modules.len();
            let parts = b.values.chunks_exact(b.values.len() / modules.len());
            for (module, values) in modules.into_iter().zip(parts) {
                let (mut shape, values) = (b.shape.clone(), values.to_vec());
                shape[0] = rows;
                let b = FileTensor { shape, values };
                for path in newer_path(&module, newer).into_iter().chain([module]) {
                    tensors.insert(format!("{path}.lora_A.weight"), a.clone());
                    tensors.insert(format!("{path}.lora_B.weight"), b.clone());
                    target_modules.push(path);
                }
            }
        }
        let in_head = |id: &ParameterId| {
            let declaration = store.declaration(*id);
            declaration.group == self.head_group() && declaration.is_parameter()
        };
        let head = store
            .ids()
            .filter(in_head)
            .map(|id| (store.declaration(id).name.clone(), file_tensor(store, id)));
        let (head, _) = transform.invert(head.collect())?;
        let modules_to_save: BTreeSet<String> =
            head.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
        tensors.extend(head);
        let prefixed =
            tensors.into_iter().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor)).collect();
        Ok(ImageAdapter {
            tensors: StoredTensors::transformed(prefixed, &Default::default()),
            target_modules,
            modules_to_save: modules_to_save.into_iter().collect(),
        })
    }
}

/// A module's path where parts of it are called otherwise; `None` where none is.
fn newer_path(module: &str, parts: &[(&str, &str)]) -> Option<String> {
    let renamed = parts.iter().fold(module.to_owned(), |path, (older, newer)| path.replace(older, newer));
    (renamed != module).then_some(renamed)
}

fn file_tensor(store: &ParameterStore, id: ParameterId) -> FileTensor {
    FileTensor { shape: store.declaration(id).shape.clone(), values: store.tensor(id).values().to_vec() }
}

/// A layer's modules in an ecosystem: those whose weights the layer's own becomes there.
fn modules(transform: &Transform, layer: &str, weight: &str) -> Result<Vec<String>, ModelError> {
    if transform.rules().is_empty() {
        return Ok(vec![layer.to_owned()]);
    }
    // Three rows can be cut into query, key and value; what is in them does not matter.
    let stand_in = FileTensor { shape: vec![3, 1], values: vec![0.0, 1.0, 2.0] };
    let (theirs, _) = transform.invert([(weight.to_owned(), stand_in)].into())?;
    let mut parts: Vec<(f32, String)> = theirs
        .into_iter()
        .map(|(name, tensor)| {
            let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            (tensor.values.first().copied().unwrap_or_default(), module)
        })
        .collect();
    // In the order of the rows.
    parts.sort_by(|left, right| left.0.total_cmp(&right.0));
    Ok(parts.into_iter().map(|(_, module)| module).collect())
}
