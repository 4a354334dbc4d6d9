//! What a run must remember to go on bit for bit: weights, optimizer state, and where it stands.
//!
//! A checkpoint is a folder that appears whole or not at all: it is written under a temporary name, synced and renamed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retune_checkpoint::{NamedTensor, TensorData, Weights, save_safetensors, write_atomic};
use retune_models::StoredTensors;
use retune_nn::{Optimizer, ParameterId, ParameterStore, Trainable};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::dynamics::Dynamics;
use crate::memory::resident_bytes;
use crate::schedule::ReducePlateau;

/// Where a run stands. Batches, dropout masks and learning rates are functions of this and the recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps made.
    pub step: u64,
    /// The current stage.
    pub stage: usize,
    /// Optimizer steps made in the current stage.
    pub stage_step: u64,
    /// The data epoch in which the current stage began.
    pub first_epoch: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// The best metric of the current stage.
    pub stage_best: Option<f64>,
    /// Evaluations of the current stage since its metric improved.
    pub evaluations_without_improvement: u32,
    /// State of a reduce-on-plateau schedule.
    pub plateau: Option<ReducePlateau>,
    /// Sum of the losses since the last log line, and of how many steps.
    pub unlogged: Unlogged,
    /// Sum of the loss over all steps, for the mean training loss.
    pub loss_sum: f64,
    /// Length of `log.jsonl` when the checkpoint was written; what was logged later is cut off on resume.
    pub log_bytes: u64,
    /// Samples learned from, repetitions counted.
    pub samples: u64,
    /// Seconds trained and evaluated, over all sittings.
    pub seconds: f64,
    /// What each stage took so far.
    #[serde(default)]
    pub timings: Vec<StageTiming>,
    /// The most bytes of the process that were in memory after a step or an evaluation, where the system tells.
    #[serde(default)]
    pub peak_resident_bytes: Option<u64>,
    /// What was seen of each training sample, if the recipe asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<Dynamics>,
}

/// What a stage took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTiming {
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of the steps.
    pub seconds: f64,
    /// Evaluations on the way.
    pub evaluations: u64,
    /// Seconds of the evaluations.
    pub evaluation_seconds: f64,
}

impl Progress {
    /// What the current stage took so far, to add to. Looks at the process's memory too.
    pub(crate) fn timing(&mut self) -> &mut StageTiming {
        self.peak_resident_bytes = self.peak_resident_bytes.max(resident_bytes());
        if self.timings.len() <= self.stage {
            self.timings.resize(self.stage + 1, StageTiming::default());
        }
        &mut self.timings[self.stage]
    }
}

/// What accumulates between two log lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unlogged {
    /// Sum of the losses.
    pub loss: f64,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Samples.
    pub samples: u64,
    /// Seconds.
    pub seconds: f64,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps made.
    pub step: u64,
    /// The metric that judges.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Validation loss, which breaks ties.
    pub loss: f64,
}

const MODEL: &str = "model.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const PROGRESS: &str = "progress.json";

/// Everything a checkpoint holds.
pub struct Snapshot<'a> {
    /// The parameters.
    pub store: &'a ParameterStore,
    /// The moving average of the parameters, if the run keeps one.
    pub average: Option<&'a ParameterStore>,
    /// The optimizer's state.
    pub optimizer: &'a Optimizer,
    /// Where the run stands.
    pub progress: &'a Progress,
}

impl Snapshot<'_> {
    /// Bytes it takes on disk, but for a few headers.
    pub fn bytes(&self) -> u64 {
        let values: usize = self
            .store
            .ids()
            .map(|id| {
                let state = self.optimizer.state(id);
                let copies = 1 + usize::from(self.average.is_some());
                copies * self.store.declaration(id).elements()
                    + state.map_or(0, |state| state.slots.iter().map(Vec::len).sum())
            })
            .sum();
        4 * values as u64
    }

    /// Writes it as `checkpoints/step-N`.
    pub fn write(&self, checkpoints: &Path) -> Result<PathBuf, TrainError> {
        let target = checkpoints.join(format!("step-{:08}", self.progress.step));
        if target.join(PROGRESS).is_file() {
            // A step has one state: what is there is what would be written.
            return Ok(target);
        }
        let temporary = checkpoints.join(format!(".step-{:08}.partial", self.progress.step));
        remove_folder(&temporary)?;
        std::fs::create_dir_all(&temporary).map_err(TrainError::io(&temporary))?;
        retune_checkpoint::ensure_space(&temporary, self.bytes())?;
        write_parameters(self.store, &temporary.join(MODEL))?;
        if let Some(average) = self.average {
            write_parameters(average, &temporary.join(AVERAGE))?;
        }
        self.write_optimizer(&temporary.join(OPTIMIZER))?;
        let json = serde_json::to_vec_pretty(self.progress).map_err(std::io::Error::other);
        let json = json.map_err(TrainError::io(temporary.join(PROGRESS)))?;
        write_atomic(&temporary.join(PROGRESS), |file| file.write_all(&json))?;
        remove_folder(&target)?;
        std::fs::rename(&temporary, &target).map_err(TrainError::io(&target))?;
        sync_folder(checkpoints)?;
        Ok(target)
    }

    fn write_optimizer(&self, path: &Path) -> Result<(), TrainError> {
        let mut entries: Vec<(String, &[f32], u64)> = Vec::new();
        for id in self.store.ids() {
            let Some(state) = self.optimizer.state(id) else { continue };
            let declaration = self.store.declaration(id);
            let names = self.optimizer.config().slot_names(&declaration.shape);
            for (name, slot) in names.iter().zip(&state.slots) {
                entries.push((format!("{}.{name}", declaration.name), slot, state.step));
            }
            if names.is_empty() {
                entries.push((format!("{}.step", declaration.name), &[], state.step));
            }
        }
        // Steps per parameter differ when parameters begin to train in different stages.
        let metadata =
            entries.iter().map(|(name, _, step)| (format!("step.{name}"), step.to_string())).collect();
        let shapes: Vec<[usize; 1]> = entries.iter().map(|(_, values, _)| [values.len()]).collect();
        let tensors: Vec<NamedTensor<'_>> = entries
            .iter()
            .zip(&shapes)
            .map(|((name, values, _), shape)| NamedTensor { name, shape, data: TensorData::F32(values) })
            .collect();
        Ok(save_safetensors(path, &tensors, &metadata)?)
    }
}

/// Writes all parameters and buffers of a store under their own names.
pub fn write_parameters(store: &ParameterStore, path: &Path) -> Result<(), TrainError> {
    let stored = StoredTensors::new(store, |name| Some(name.to_owned()));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(save_safetensors(path, &stored.tensors(), &metadata)?)
}

/// Overwrites a store's values with those of a file that [`write_parameters`] made.
pub fn read_parameters(store: &mut ParameterStore, path: &Path) -> Result<(), TrainError> {
    let weights = Weights::open(path)?;
    for id in store.ids() {
        let name = store.declaration(id).name.clone();
        weights.read_f32(&name, store.values_mut(id))?;
    }
    Ok(())
}

/// Overwrites a store's values with a checkpoint's.
pub fn read_checkpoint(checkpoint: &Path, store: &mut ParameterStore) -> Result<(), TrainError> {
    read_parameters(store, &checkpoint.join(MODEL))
}

/// The newest whole checkpoint of a folder.
pub fn newest_checkpoint(checkpoints: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(list_checkpoints(checkpoints)?.pop())
}

/// All whole checkpoints of a folder, oldest first.
pub fn list_checkpoints(checkpoints: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match std::fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io(checkpoints)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io(checkpoints))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads where a checkpoint stands.
pub fn read_progress(checkpoint: &Path) -> Result<Progress, TrainError> {
    let path = checkpoint.join(PROGRESS);
    let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        TrainError::run_folder(
            &path,
            format!("not a checkpoint's progress: {error}; delete this checkpoint folder"),
        )
    })
}

/// Restores weights, their average and the optimizer's state from a checkpoint. The optimizer must already have state
/// for the parameters that train at that point.
pub fn restore(
    checkpoint: &Path,
    store: &mut ParameterStore,
    average: Option<&mut ParameterStore>,
    optimizer: &mut Optimizer,
) -> Result<(), TrainError> {
    read_checkpoint(checkpoint, store)?;
    if let Some(average) = average {
        read_parameters(average, &checkpoint.join(AVERAGE))?;
    }
    let path = checkpoint.join(OPTIMIZER);
    let weights = Weights::open(&path)?;
    for id in store.ids().collect::<Vec<ParameterId>>() {
        let declaration = store.declaration(id);
        let names = optimizer.config().slot_names(&declaration.shape);
        let Some(state) = optimizer.state_mut(id) else { continue };
        let first = format!("{}.{}", declaration.name, names.first().unwrap_or(&"step"));
        let step = weights.metadata().get(&format!("step.{first}")).and_then(|step| step.parse().ok());
        state.step = step.ok_or_else(|| {
            TrainError::run_folder(
                &path,
                format!("has no optimizer state of {first}; delete this checkpoint folder"),
            )
        })?;
        for (name, slot) in names.iter().zip(&mut state.slots) {
            weights.read_f32(&format!("{}.{name}", declaration.name), slot)?;
        }
    }
    Ok(())
}

/// Keeps the newest `limit` checkpoints and deletes the others.
pub fn rotate_checkpoints(checkpoints: &Path, limit: Option<usize>) -> Result<(), TrainError> {
    let Some(limit) = limit else { return Ok(()) };
    let found = list_checkpoints(checkpoints)?;
    for path in &found[..found.len().saturating_sub(limit.max(1))] {
        remove_folder(path)?;
    }
    Ok(())
}

/// A 64-bit hash of each parameter's bits, to notice what moved and what did not.
pub fn fingerprints(store: &ParameterStore) -> Vec<u64> {
    store
        .ids()
        .map(|id| {
            store.tensor(id).values().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, value| {
                (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5)
            })
        })
        .collect()
}

/// Parameters that train and kept every bit, and parameters that are frozen and did not. Buffers of a group that trains
/// may do either.
pub fn unexpected_movement(
    store: &ParameterStore,
    trainable: &Trainable,
    before: &[u64],
) -> (Vec<String>, Vec<String>) {
    let (mut stuck, mut moved) = (Vec::new(), Vec::new());
    for (id, (before, after)) in store.ids().zip(before.iter().zip(fingerprints(store))) {
        let declaration = store.declaration(id);
        let name = || declaration.name.clone();
        if !declaration.is_parameter() && trainable.group_trains(declaration.group) {
            continue;
        }
        match (trainable.slot(id).is_some(), *before == after) {
            (true, true) => stuck.push(name()),
            (false, false) => moved.push(name()),
            _ => {}
        }
    }
    (stuck, moved)
}

fn remove_folder(path: &Path) -> Result<(), TrainError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(path)(error)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), TrainError> {
    // A folder cannot be opened as a file everywhere; where it can, the rename is made durable.
    match std::fs::File::open(path) {
        Ok(folder) => folder.sync_all().map_err(TrainError::io(path)),
        Err(_) => Ok(()),
    }
}
