//! The small files beside the weights that make a folder usable: tokenizer and preprocessor.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::atomic::write_atomic;
use crate::error::CheckpointError;

/// Files copied from a checkpoint into the artifact made from it, when they are there. `config.json`, weights and
/// model cards are not among them: an artifact has its own.
pub const ARTIFACT_FILES: [&str; 17] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    "preprocessor_config.json",
    "processor_config.json",
    "feature_extractor_config.json",
    "generation_config.json",
];

/// What a sentence-embedding checkpoint says of its pooling. It is fetched with the checkpoint; a model that was
/// fine-tuned for another task must not claim it.
pub const POOLING_FILES: [&str; 4] = [
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Copies [`ARTIFACT_FILES`] from one folder into another, each atomically. Returns the names copied.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn copy_side_files(from: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    for name in ARTIFACT_FILES {
        let source = from.join(name);
        if !source.is_file() {
            continue;
        }
        let bytes = std::fs::read(&source).map_err(CheckpointError::io("read", &source))?;
        write_atomic(&to.join(name), |writer| writer.write_all(&bytes))?;
        copied.push(PathBuf::from(name));
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenizer_files_are_copied_and_weights_and_another_tasks_pooling_are_not() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("1_Pooling")).unwrap();
        for name in ["vocab.txt", "model.safetensors", "config.json", "1_Pooling/config.json"] {
            std::fs::write(from.path().join(name), name).unwrap();
        }
        let copied = copy_side_files(from.path(), &to.path().join("run")).unwrap();
        assert_eq!(copied, [PathBuf::from("vocab.txt")]);
        assert_eq!(std::fs::read_to_string(to.path().join("run/vocab.txt")).unwrap(), "vocab.txt");
        assert!(!to.path().join("run/config.json").exists());
        assert!(!to.path().join("run/1_Pooling").exists());
    }
}
