//! What text families know about checkpoints of themselves.

use retune_nn::Declaration;

use super::TextFamily;
use crate::LoadRules;

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

impl LoadRules for TextFamily {
    /// The same name, or without the family's prefix (a checkpoint of the bare backbone), either also in the old spelling
    /// of norms (`gamma`, `beta`).
    fn checkpoint_names(&self, name: &str) -> Vec<String> {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        let spellings = [name, bare];
        let old = |name: &&str| {
            let old = |end, old| name.strip_suffix(end).map(|start| format!("{start}{old}"));
            old("LayerNorm.weight", "LayerNorm.gamma").or_else(|| old("LayerNorm.bias", "LayerNorm.beta"))
        };
        let present = spellings.iter().map(|&name| name.to_owned());
        present.chain(spellings.iter().filter_map(old)).collect()
    }

    fn is_new_by_design(&self, declaration: &Declaration) -> bool {
        let name = &declaration.name;
        name.contains(".lora_")
            || !name.starts_with(self.prefix)
            || name.strip_prefix(self.prefix).is_some_and(|rest| rest.starts_with("pooler."))
    }

    fn is_expected_unused(&self, name: &str) -> bool {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        EXPECTED_UNUSED.iter().any(|start| bare.starts_with(start))
    }
}
