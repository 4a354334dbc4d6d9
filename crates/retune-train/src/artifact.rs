//! The artifact: a model that its ecosystem opens, with the proof that it still answers as the trained one.

use std::path::{Path, PathBuf};

use retune_checkpoint::{ModelConfig, save_safetensors};
use retune_data::LabelSet;
use retune_kernels::Cpu;
use retune_models::text::TextClassifier;
use retune_models::{LoraConfig, StoredTensors};
use retune_nn::{LowRank, ParameterId, ParameterStore};
use retune_tasks::{ClassificationTask, ProblemType};
use retune_tensor::Precision;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::recipe::Recipe;
use crate::{RunFolder, TrainError};

/// Recorded proof that a transformed model still answers as before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    /// What was done to the model.
    pub transformation: String,
    /// Samples that both models answered.
    pub samples: usize,
    /// Greatest difference between two logits.
    pub max_logit_difference: f64,
    /// Whether every predicted class is the same.
    pub same_predictions: bool,
}

impl Certificate {
    /// Compares logits [samples, outputs] before and after.
    pub fn compare(transformation: &str, outputs: usize, before: &[f32], after: &[f32]) -> Self {
        let difference = |(before, after): (&f32, &f32)| f64::from((before - after).abs());
        let classes = |logits: &[f32]| logits.chunks(outputs).map(retune_tasks::argmax).collect::<Vec<_>>();
        Self {
            transformation: transformation.to_owned(),
            samples: before.len() / outputs.max(1),
            max_logit_difference: before.iter().zip(after).map(difference).fold(0.0, f64::max),
            same_predictions: classes(before) == classes(after),
        }
    }
}

/// What `config.json` says beside the backbone's own keys.
pub(crate) struct ArtifactConfig<'a> {
    pub base: &'a ModelConfig,
    pub model: &'a TextClassifier,
    pub task: &'a ClassificationTask,
    pub recipe: &'a Recipe,
    pub temperature: Option<f64>,
}

impl ArtifactConfig<'_> {
    fn to_config(&self) -> ModelConfig {
        let mut config = self.base.clone();
        let labels = &self.task.labels;
        config.set("architectures", json!([self.model.family().sequence_classification]));
        config.set("id2label", Value::Object(labels.to_id2label()));
        config.set("label2id", Value::Object(labels.to_label2id()));
        config.set("problem_type", json!(self.task.problem_type));
        for (key, value) in [("torch_dtype", json!("float32")), ("dtype", json!("float32"))] {
            if self.base.get(key).is_some() {
                config.set(key, value);
            }
        }
        if let Some(dropout) = self.recipe.model.classifier_dropout {
            config.set("classifier_dropout", json!(dropout));
        }
        let mut retune = Map::new();
        retune.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        retune.insert("max_length".into(), json!(self.recipe.data.max_length));
        retune.insert("over_length".into(), json!(self.recipe.data.over_length));
        if let Some(stride) = self.recipe.data.stride {
            retune.insert("stride".into(), json!(stride));
        }
        if self.recipe.train.precision.of_products() == Precision::Bf16 {
            retune.insert("precision".into(), json!("bf16"));
        }
        if let Some(temperature) = self.temperature {
            retune.insert("temperature".into(), json!(temperature));
        }
        retune.extend(thresholds_json(self.task).map(|value| ("thresholds".to_owned(), value)));
        config.set("retune", Value::Object(retune));
        config
    }

    /// Writes configuration, weights and tokenizer files into the run folder's root.
    pub(crate) fn write(
        &self,
        folder: &RunFolder,
        store: &ParameterStore,
        model_directory: &Path,
    ) -> Result<(), TrainError> {
        self.to_config().save(&folder.path("config.json"))?;
        write_weights(store, &folder.path("model.safetensors"))?;
        retune_checkpoint::copy_side_files(model_directory, folder.root())?;
        Ok(())
    }
}

/// Writes the parameters but for adapters.
fn write_weights(store: &ParameterStore, path: &Path) -> Result<(), TrainError> {
    write_named(store, path, |name| (!name.contains(".lora_")).then(|| name.to_owned()))
}

/// Writes the parameters that `rename` gives a name.
fn write_named(
    store: &ParameterStore,
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<(), TrainError> {
    let stored = StoredTensors::new(store, rename);
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(save_safetensors(path, &stored.tensors(), &metadata)?)
}

/// The store with every low-rank branch added into the weight beside it and then set to zero.
pub(crate) fn merge_adapters<'a>(
    cpu: &Cpu,
    adapted: impl IntoIterator<Item = (ParameterId, &'a LowRank)>,
    store: &ParameterStore,
) -> ParameterStore {
    let mut merged = store.clone();
    for (weight, low_rank) in adapted {
        low_rank.merge(cpu, &mut merged, weight);
    }
    merged
}

/// Writes `adapter/` in PEFT's layout: the low-rank matrices, and the head under `modules_to_save`.
pub(crate) fn write_adapter(
    folder: &RunFolder,
    store: &ParameterStore,
    model: &TextClassifier,
    lora: &LoraConfig,
    base_model: &str,
) -> Result<(), TrainError> {
    let adapter = adapter_folder(folder)?;
    let head = store.groups().len() - 1;
    let in_head = |name: &str| store.find(name).is_some_and(|id| store.declaration(id).group == head);
    write_named(store, &adapter.join("adapter_model.safetensors"), |name| {
        (name.contains(".lora_") || in_head(name)).then(|| format!("base_model.model.{name}"))
    })?;
    // PEFT finds a module to save by the end of its path.
    let mut modules_to_save: Vec<&str> = model
        .head()
        .linears()
        .iter()
        .map(|linear| {
            let path = linear.name().strip_prefix(model.family().prefix).unwrap_or(linear.name());
            path.split('.').next().unwrap_or(path)
        })
        .collect();
    modules_to_save.dedup();
    let config = peft_config(lora, base_model, Some("SEQ_CLS"), model.lora_targets(), &modules_to_save);
    folder.write_json("adapter/adapter_config.json", &config)
}

pub(crate) fn adapter_folder(folder: &RunFolder) -> Result<PathBuf, TrainError> {
    let adapter = folder.path("adapter");
    std::fs::create_dir_all(&adapter).map_err(TrainError::io(&adapter))?;
    Ok(adapter)
}

/// PEFT's `adapter_config.json`.
pub(crate) fn peft_config<S: Serialize>(
    lora: &LoraConfig,
    base_model: &str,
    task_type: Option<&str>,
    target_modules: &[String],
    modules_to_save: &[S],
) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": target_modules,
        "modules_to_save": modules_to_save,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
    })
}

/// The tuned thresholds by label, as the section `retune` of `config.json` has them.
pub(crate) fn thresholds_json(task: &ClassificationTask) -> Option<Value> {
    let names = task.decided_labels().iter().cloned();
    let by_label = names.zip(task.thresholds.as_ref()?).map(|(name, threshold)| (name, json!(threshold)));
    Some(Value::Object(by_label.collect()))
}

/// The task of a model that answers: what its configuration says of the kind of target and of tuned thresholds.
pub(crate) fn configured_task(
    config: Option<&ModelConfig>,
    default: ProblemType,
    labels: LabelSet,
) -> ClassificationTask {
    let mut task = ClassificationTask::new(config.and_then(problem_type).unwrap_or(default), labels);
    task.thresholds = config.and_then(|config| thresholds(config, &task));
    task
}

/// The tuned thresholds that a configuration has for a task, if it has them for all of its labels.
fn thresholds(config: &ModelConfig, task: &ClassificationTask) -> Option<Vec<f64>> {
    let by_label = config.get("retune")?.get("thresholds")?;
    let names = task.decided_labels();
    let thresholds: Option<Vec<f64>> = names.iter().map(|name| by_label.get(name)?.as_f64()).collect();
    thresholds.filter(|thresholds| !thresholds.is_empty())
}

/// The `problem_type` of a configuration, if it says one.
fn problem_type(config: &ModelConfig) -> Option<ProblemType> {
    serde_json::from_value(config.get("problem_type")?.clone()).ok()
}
