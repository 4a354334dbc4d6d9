//! `retune plan`: what a recipe would do, and what it would cost, without training.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use retune::checkpoint::available_space;
use retune::data::Severity;
use retune::data::image::PictureFacts;
use retune::tensor::Precision;
use retune::train::{
    Confirmation, Forecast, ImageTrainee, MachineRates, Prepared, RunPlan, Split, SplitSummary, StagePlan,
    TextTrainee, available_bytes, confirm_plan, input_seconds, plan_run, prepare,
};
use serde_json::{Map, Value, json};

use super::fit::prepare_options;
use crate::console::{Failure, print_line, tell};
use crate::format::{self, Align, Table, bytes, count, counted, duration, operations};
use crate::recipe_source::RecipeSource;

/// At most this many classes are listed.
const SHOWN_CLASSES: usize = 40;

/// At most this many layer groups are listed with what they keep.
const SHOWN_GROUPS: usize = 4;

/// `retune plan`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune plan recipe.toml
  retune plan recipe.toml strategy.method=gradual per_device_train_batch_size=32
  retune plan recipe.toml --confirm
  retune plan --model path/to/model --train reviews.csv
  retune plan recipe.toml --json")]
pub struct Plan {
    /// The recipe.
    #[command(flatten)]
    pub source: RecipeSource,
    /// Run the largest batch twice, forward, backward and through the optimizer, and show what it took beside what was
    /// predicted.
    #[arg(long)]
    pub confirm: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &Plan) -> Result<ExitCode, Failure> {
    let (recipe, _) = arguments.source.read(&[])?;
    let prepared = prepare(&recipe, &prepare_options()?, &mut tell)?;
    let sheet = Sheet::new(&prepared)?;
    let (mut json, text) = (sheet.to_json()?, sheet.to_text());
    let Sheet { plan, rates, .. } = sheet;
    if !arguments.json {
        print_line(text);
    }
    if let Some(rates) = rates.filter(|_| arguments.confirm) {
        let confirmation = confirm_plan(prepared, &plan, &rates)?;
        if !arguments.json {
            print_line(confirmation_text(&confirmation));
        }
        json["confirmation"] = serde_json::to_value(&confirmation).map_err(Failure::other)?;
    }
    if arguments.json {
        print_line(json);
    }
    Ok(ExitCode::SUCCESS)
}

/// Predicted beside measured.
fn confirmation_text(confirmation: &Confirmation) -> String {
    let Confirmation { stage, samples, tokens, .. } = confirmation;
    let mut table = Table::new([
        ("confirmed", Align::Left),
        ("predicted", Align::Right),
        ("measured", Align::Right),
        ("off by", Align::Right),
    ]);
    let off = |predicted: f64, measured: f64| format!("{:+.0}%", 100.0 * (predicted / measured - 1.0));
    let (predicted, measured) = (confirmation.predicted_seconds, confirmation.seconds);
    table.row([
        "time of a step".to_owned(),
        format!("{predicted:.3} s"),
        format!("{measured:.3} s"),
        off(predicted, measured),
    ]);
    if let (Some(predicted), Some(measured)) =
        (confirmation.predicted_resident_bytes, confirmation.resident_bytes)
    {
        let difference = off(predicted as f64, measured as f64);
        table.row(["resident memory".to_owned(), bytes(predicted), bytes(measured), difference]);
    }
    let size = format!("{}, {}", counted(*samples, "sample"), counted(*tokens as usize, "token"));
    format!("\n{table}\nthe largest batch that can be met ({size}), stage {stage}")
}

/// How pictures become inputs, and how many there are.
fn pictures(trainee: &ImageTrainee) -> String {
    let mut table = Table::new([
        ("split", Align::Left),
        ("pictures", Align::Right),
        ("smallest", Align::Right),
        ("largest", Align::Right),
        ("data", Align::Left),
    ]);
    for (split, dataset) in &trainee.splits {
        let sizes = || dataset.examples.iter().filter_map(|example| example.picture.facts);
        let shown = |facts: Option<PictureFacts>| {
            facts.map_or_else(String::new, |facts| format!("{} × {}", facts.width, facts.height))
        };
        table.row([
            split.name().to_owned(),
            count(dataset.len()),
            shown(sizes().min_by_key(|facts| facts.width * facts.height)),
            shown(sizes().max_by_key(|facts| facts.width * facts.height)),
            dataset.path().display().to_string(),
        ]);
    }
    let preprocessor = &trainee.views.preprocessor;
    let channels = match preprocessor.channels() {
        1 => "grey",
        3 => "RGB",
        _ => "RGBA",
    };
    format!("{table}\ninputs of {0} × {0} pixels, {channels}", preprocessor.size)
}

/// Everything that is shown.
struct Sheet<'a> {
    prepared: &'a Prepared,
    plan: RunPlan,
    /// How fast this machine is, measured now.
    rates: Option<MachineRates>,
    forecast: Option<Forecast>,
    free_disk_bytes: Option<u64>,
}

impl<'a> Sheet<'a> {
    fn new(prepared: &'a Prepared) -> Result<Self, Failure> {
        let plan = plan_run(prepared);
        let input = input_seconds(&prepared.trainee, Split::Train)?;
        let rates =
            prepared.context.kernels().map(|cpu| MachineRates::measure(cpu, prepared.context.precision()));
        let forecast = rates.map(|rates| Forecast::new(prepared, &plan, &rates, input));
        let free_disk_bytes = available_space(Path::new(&prepared.recipe.train.output_dir)).ok();
        Ok(Self { prepared, plan, rates, forecast, free_disk_bytes })
    }

    fn to_text(&self) -> String {
        let mut parts = vec![self.model_text(), self.data_text()];
        parts.extend(self.classes_table().map(|table| table.to_string()));
        parts.push(self.stages_text());
        parts.extend(self.features_text());
        parts.push(self.memory_text());
        parts.push(self.cost_text());
        parts.push(self.findings_text());
        parts.join("\n\n")
    }

    fn model_text(&self) -> String {
        let Prepared { recipe, model_directory, store, trainee, load_report, context, .. } = self.prepared;
        let isa = context.kernels().map_or_else(String::new, |cpu| cpu.isa().to_string());
        let threads = context.kernels().map_or(1, |cpu| cpu.threads());
        let products = match context.precision() {
            Precision::Bf16 => ", products in bf16",
            Precision::F32 => "",
        };
        format::fields(&[
            ("model", recipe.model.name_or_path.clone()),
            ("folder", model_directory.display().to_string()),
            ("family", trainee.model_name().to_owned()),
            (
                "parameters",
                format!("{} in {}", count(store.elements()), counted(store.groups().len(), "layer group")),
            ),
            ("weights", load_report.to_string()),
            ("machine", format!("{}, {isa} kernels{products}", counted(threads, "thread"))),
            ("output", recipe.train.output_dir.clone()),
        ])
    }

    fn data_text(&self) -> String {
        let mut text = match (self.prepared.trainee.text(), self.prepared.trainee.image()) {
            (Some(trainee), _) => self.texts(trainee),
            (None, Some(trainee)) => pictures(trainee),
            (None, None) => String::new(),
        };
        for reason in &self.prepared.reasons {
            text.push_str("\n  ");
            text.push_str(reason);
        }
        text
    }

    fn texts(&self, trainee: &TextTrainee) -> String {
        let mut table = Table::new([
            ("split", Align::Left),
            ("rows", Align::Right),
            ("tokens", Align::Right),
            ("median", Align::Right),
            ("95%", Align::Right),
            ("longest", Align::Right),
            ("cut", Align::Right),
            ("file", Align::Left),
        ]);
        for (split, text_split) in &trainee.splits {
            let report = &text_split.encoded.report;
            table.row([
                split.name().to_owned(),
                count(text_split.rows.len()),
                count(report.tokens),
                count(report.percentiles.p50),
                count(report.percentiles.p95),
                count(report.longest),
                count(report.truncated),
                text_split.rows.path().display().to_string(),
            ]);
        }
        let data = &self.prepared.recipe.data;
        let policy = serde_json::to_value(data.over_length).ok();
        let policy = policy.as_ref().and_then(Value::as_str).unwrap_or_default();
        format!(
            "{table}\nlengths in tokens; longer than max_length = {}: over_length = \"{policy}\"",
            count(data.max_length.unwrap_or(0)),
        )
    }

    /// Rows of each class in each split.
    fn classes_table(&self) -> Option<Table> {
        let summaries = self.prepared.trainee.summaries();
        let counts: Vec<(Split, Vec<usize>)> =
            summaries.into_iter().map(|summary| (summary.split, summary.class_counts)).collect();
        if counts.iter().all(|(_, counts)| counts.is_empty()) {
            return None;
        }
        let header = counts.iter().map(|(split, _)| (split.name(), Align::Right));
        let mut table = Table::new(std::iter::once(("label", Align::Left)).chain(header));
        let labels = self.prepared.task.labels.names();
        for (class, label) in labels.iter().enumerate().take(SHOWN_CLASSES) {
            let rows = counts.iter().map(|(_, counts)| count(counts.get(class).copied().unwrap_or(0)));
            table.row(std::iter::once(label.clone()).chain(rows));
        }
        if labels.len() > SHOWN_CLASSES {
            table.row([format!("and {} more", count(labels.len() - SHOWN_CLASSES))]);
        }
        Some(table)
    }

    fn stages_text(&self) -> String {
        let Prepared { recipe, stages, store, .. } = self.prepared;
        let names: Vec<String> = store.groups().into_iter().map(|group| group.name).collect();
        let mut table = Table::new([
            ("stage", Align::Left),
            ("epochs", Align::Right),
            ("steps", Align::Right),
            ("trains", Align::Left),
            ("parameters", Align::Right),
            ("learning rates", Align::Left),
        ]);
        for (stage, planned) in stages.iter().zip(&self.plan.stages) {
            let epochs = planned.steps as f64 / self.plan.steps_per_epoch as f64;
            table.row([
                planned.name.clone(),
                format!("{epochs:.1}"),
                count(planned.steps as usize),
                format::layer_groups(&names, &stage.trainable_groups, stage.adapters_only),
                count(planned.trainable_parameters),
                format::learning_rates(planned.learning_rates.values().copied()),
            ]);
        }
        let train = &recipe.train;
        let unit = if self.prepared.trainee.text().is_some() { "tokens" } else { "pictures" };
        format!(
            "strategy {}\n{table}\n{} per epoch, {} in all; {} a batch, {} a step, {} {unit} an epoch",
            recipe.strategy.method.name(),
            counted(self.plan.steps_per_epoch as usize, "step"),
            count(self.plan.total_steps as usize),
            counted(train.per_device_train_batch_size, "sample"),
            counted(train.per_device_train_batch_size * train.gradient_accumulation_steps, "sample"),
            count(self.plan.tokens_per_epoch as usize),
        ) + &self.padding_text()
    }

    /// What packing saves.
    fn padding_text(&self) -> String {
        let avoided = self.plan.padding_avoided;
        if avoided < 0.005 {
            return String::new();
        }
        format!("; batches are packed: padded they would be {} padding", format::percent(avoided))
    }

    /// What is kept of frozen layer groups, where anything is.
    fn features_text(&self) -> Option<String> {
        let mut table = Table::new([
            ("feature cache", Align::Left),
            ("computed once below", Align::Left),
            ("size", Align::Right),
            ("kept", Align::Right),
            ("arithmetic of a later epoch", Align::Right),
        ]);
        let mut any = false;
        for stage in &self.plan.stages {
            let Some(features) = &stage.features else { continue };
            any = true;
            let later = features.epoch_operations as f64 / stage.cost.epoch_operations.max(1) as f64;
            table.row([
                stage.name.clone(),
                features.below.clone(),
                bytes(features.bytes),
                format::percent(features.kept_share),
                if features.training_passes.is_some() {
                    format!("{} of the first", format::percent(later))
                } else {
                    "training in full: views are new each time".to_owned()
                },
            ]);
        }
        any.then(|| table.to_string())
    }

    fn memory_text(&self) -> String {
        let mut table = Table::new([
            ("memory", Align::Left),
            ("weights", Align::Right),
            ("gradients", Align::Right),
            ("optimizer state", Align::Right),
            ("activations", Align::Right),
            ("sum", Align::Right),
        ]);
        for StagePlan { name, cost, .. } in &self.plan.stages {
            let parts =
                [cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_bytes, cost.peak_activation_bytes];
            let cells = parts.into_iter().chain([cost.bytes()]).map(bytes);
            table.row(std::iter::once(name.clone()).chain(cells));
        }
        let largest = self.plan.stages.iter().map(|stage| &stage.cost).max_by_key(|cost| cost.tokens);
        let batch = largest.map_or_else(String::new, |cost| {
            let tokens = match self.prepared.trainee.text() {
                Some(_) => format!(", {}", counted(cost.tokens as usize, "token")),
                None => String::new(),
            };
            format!(
                "\nactivations at their peak, in the longest batch that can be met: {}{tokens}",
                counted(cost.samples, "sample"),
            )
        });
        let resident = self.forecast.as_ref().and_then(|forecast| forecast.resident_bytes);
        let resident = resident.map_or_else(String::new, |resident| {
            let free =
                available_bytes().map_or_else(String::new, |free| format!(", {} free now", bytes(free)));
            format!("\nthe whole process will hold about {}{free}", bytes(resident))
        });
        format!("{table}{batch}{resident}{}", self.activations_text())
    }

    /// The layer groups that keep most for the backward pass, of the stage that needs most.
    fn activations_text(&self) -> String {
        let largest = self.plan.stages.iter().max_by_key(|stage| stage.cost.peak_activation_bytes);
        let mut groups = largest.map_or_else(Vec::new, |stage| stage.activations.clone());
        groups.retain(|group| group.bytes > 0);
        groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
        if groups.is_empty() {
            return String::new();
        }
        let kept: u64 = groups.iter().map(|group| group.bytes).sum();
        let shown: Vec<String> = groups
            .iter()
            .take(SHOWN_GROUPS)
            .map(|group| format!("{} {}", group.group, bytes(group.bytes)))
            .collect();
        let more = if groups.len() > SHOWN_GROUPS { ", …" } else { "" };
        format!("\nkept for the backward pass: {} ({}{more})", bytes(kept), shown.join(", "))
    }

    fn cost_text(&self) -> String {
        let free = self.free_disk_bytes.map_or_else(String::new, |free| format!(", {} free", bytes(free)));
        let time = match (&self.forecast, &self.rates) {
            (Some(forecast), Some(rates)) => format!(
                "about {}, {:.3} s a step (an estimate, at speeds measured now: matrix products {}/s)",
                duration(forecast.seconds),
                forecast.step_seconds(),
                operations(rates.product)
            ),
            _ => "not known: this context does not compute".to_owned(),
        };
        format::fields(&[
            (
                "arithmetic",
                format!(
                    "{} training, {} evaluation",
                    operations(self.plan.training_operations),
                    operations(self.plan.evaluation_operations)
                ),
            ),
            ("time", time),
            ("disk", format!("up to {}{free}", bytes(self.plan.disk_bytes))),
        ])
    }

    fn findings_text(&self) -> String {
        let findings = &self.prepared.findings;
        if findings.is_empty() {
            return "the data checks found nothing".to_owned();
        }
        let mut lines: Vec<String> = [Severity::Error, Severity::Warning, Severity::Info]
            .into_iter()
            .flat_map(|severity| findings.iter().filter(move |finding| finding.severity == severity))
            .map(ToString::to_string)
            .collect();
        lines.insert(0, format!("the data checks found {}", counted(findings.len(), "thing")));
        lines.join("\n")
    }

    fn to_json(&self) -> Result<Value, Failure> {
        let Prepared {
            recipe, model_directory, store, trainee, task, load_report, findings, reasons, ..
        } = self.prepared;
        let mut data = Map::new();
        for SplitSummary { split, path, samples, class_counts } in trainee.summaries() {
            let labels = task.labels.names().iter().cloned();
            let classes: Map<String, Value> = labels.zip(class_counts.into_iter().map(Value::from)).collect();
            let mut summary =
                json!({ "file": path.display().to_string(), "rows": samples, "classes": classes });
            if let Some(text) = trainee.text() {
                let report = &text.splits[&split].encoded.report;
                summary["lengths"] = serde_json::to_value(report).map_err(Failure::other)?;
            }
            data.insert(split.name().to_owned(), summary);
        }
        let in_json = |result: serde_json::Result<Value>| result.map_err(Failure::other);
        Ok(json!({
            "model": {
                "name_or_path": recipe.model.name_or_path,
                "directory": model_directory.display().to_string(),
                "model_type": trainee.model_name(),
                "parameters": store.elements(),
                "load_report": in_json(serde_json::to_value(load_report))?,
            },
            "data": data,
            "reasons": reasons,
            "method": recipe.strategy.method.name(),
            "plan": in_json(serde_json::to_value(&self.plan))?,
            "free_disk_bytes": self.free_disk_bytes,
            "machine_rates": in_json(serde_json::to_value(self.rates))?,
            "forecast": in_json(serde_json::to_value(&self.forecast))?,
            "findings": in_json(serde_json::to_value(findings))?,
        }))
    }
}
