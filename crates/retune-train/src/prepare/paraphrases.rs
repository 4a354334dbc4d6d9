//! Paraphrases of the training texts: from a file that the recipe names, or from a command whose answer is kept, so that a
//! run that is repeated or resumed reads what the first one read.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use retune_checkpoint::write_atomic;
use retune_data::{ParaphraseReport, Paraphrases, TextDataset, paraphrase_id};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::event::Event;
use crate::recipe::Recipe;
use crate::trainee::Split;

/// The folder below the cache that keeps commands' answers.
const FOLDER: &str = "paraphrases";

/// The paraphrases that a recipe asks for. A command's answer becomes the recipe's file.
pub(super) fn paraphrases(
    recipe: &mut Recipe,
    cache_dir: &Path,
    datasets: &BTreeMap<Split, TextDataset>,
    tell: &mut dyn FnMut(Event),
) -> Result<Option<Paraphrases>, TrainError> {
    let Some(train) = datasets.get(&Split::Train) else { return Ok(None) };
    let command = &recipe.augmentation.paraphrase_command;
    if recipe.augmentation.paraphrases.is_none() && !command.is_empty() {
        let path = answer_of(command, train, cache_dir, tell)?;
        recipe.augmentation.paraphrases = Some(path.display().to_string());
    }
    let Some(path) = &recipe.augmentation.paraphrases else { return Ok(None) };
    let held_out: Vec<&TextDataset> =
        datasets.iter().filter(|(split, _)| **split != Split::Train).map(|(_, dataset)| dataset).collect();
    let probability = recipe.augmentation.paraphrase_probability;
    let (found, report) = Paraphrases::read(Path::new(path), train, &held_out, probability)?;
    let ParaphraseReport { texts, paraphrases, equal, held_out } = report;
    tell(Event::note(format!(
        "{path}: {paraphrases} paraphrases of {texts} of {} training texts, each drawn with probability {probability}; left \
         out: {equal} that say nothing else, {held_out} that stand in validation or test data",
        train.len()
    )));
    Ok(Some(found))
}

/// The file with a command's answer about these texts, from the cache if it answered before.
fn answer_of(
    command: &[String],
    train: &TextDataset,
    cache_dir: &Path,
    tell: &mut dyn FnMut(Event),
) -> Result<PathBuf, TrainError> {
    let mut seen = HashSet::new();
    let mut request = String::new();
    for (index, example) in train.examples.iter().enumerate() {
        if seen.insert(example.text.trim()) {
            let line = json!({ "id": paraphrase_id(train, index), "text": example.text });
            request.push_str(&line.to_string());
            request.push('\n');
        }
    }
    let mut hasher = Sha256::new();
    for part in command.iter().map(String::as_bytes).chain([request.as_bytes()]) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let key: String = hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = cache_dir.join(FOLDER).join(format!("{key}.jsonl"));
    if path.is_file() {
        return Ok(path);
    }
    let shown = command.join(" ");
    tell(Event::note(format!("{} training texts go to `{shown}` for paraphrases", seen.len())));
    let answer = ask(command, request)?;
    write_atomic(&path, |file| file.write_all(&answer))?;
    Ok(path)
}

/// What a command answers on standard output to a request on standard input.
fn ask(command: &[String], request: String) -> Result<Vec<u8>, TrainError> {
    let shown = command.join(" ");
    let failed = |why: String| {
        TrainError::Setting(format!(
            "augmentation.paraphrase_command `{shown}` {why}; it reads JSON Lines with id and text and answers such with id \
             or text, and paraphrases"
        ))
    };
    let Some((program, arguments)) = command.split_first() else { return Err(failed("is empty".to_owned())) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    // A command may answer before it has read everything: both pipes are served at once.
    let input = child.stdin.take();
    let writer = std::thread::spawn(move || {
        if let Some(mut input) = input {
            // One that stops reading is judged by its exit status.
            let _ = input.write_all(request.as_bytes());
        }
    });
    let output = child.wait_with_output().map_err(|error| failed(format!("failed: {error}")))?;
    let _ = writer.join();
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    Ok(output.stdout)
}
