//! The model card: `README.md` with Hugging Face front matter (their "Model Cards" specification), results
//! with intervals, the recipe, and what is not known.

use std::fmt::Write;
use std::path::Path;

use retune_tasks::metrics::{METRICS, Metric};
use serde_json::Value;

use crate::format::{count, duration, number, parameters, percent};
use crate::run::{Kind, Run, Split};
use crate::verdict::{BASELINES, Verdict, is_main};
use crate::{ReportError, run};

/// Writes `README.md`, the model card, into a run folder.
///
/// Languages and the licence are taken from `model.language` and `model.license` of `recipe.lock.toml` and left out
/// where nothing is known: a licence is never guessed.
///
/// # Errors
/// When the folder does not exist, a file in it cannot be read, or the card cannot be written.
pub fn write_model_card(run_folder: &Path) -> Result<(), ReportError> {
    let run = Run::read(run_folder)?;
    let card = render(&run);
    retune_checkpoint::write_atomic(&run_folder.join("README.md"), |file| file.write_all(card.as_bytes()))?;
    Ok(())
}

/// Metrics that the hub's `evaluate` library knows, by our name.
const HUB_METRICS: [(&str, &str); 9] = [
    ("accuracy", "accuracy"),
    ("f1_macro", "f1"),
    ("f1_micro", "f1"),
    ("mcc", "matthews_correlation"),
    ("auroc", "roc_auc"),
    ("mse", "mse"),
    ("mae", "mae"),
    ("pearson", "pearsonr"),
    ("spearman", "spearmanr"),
];

fn render(run: &Run) -> String {
    let mut card = String::from("---\n");
    front_matter(&mut card, run);
    card.push_str("---\n\n");
    let name = run.name();
    line(&mut card, format_args!("# {}\n", markdown(&name)));
    let verdict = Verdict::of(run);
    line(&mut card, format_args!("{}", markdown(&verdict.sentence)));
    if !verdict.conclusion.is_empty() {
        line(&mut card, format_args!("{}", markdown(&verdict.conclusion)));
    }
    card.push('\n');
    model(&mut card, run);
    results(&mut card, run);
    training(&mut card, run);
    line(&mut card, format_args!("## How to use\n\n```python\n{}\n```\n", snippet(run)));
    line(&mut card, format_args!("Or `retune predict --model . --data new.csv`.\n"));
    limits(&mut card, run);
    card
}

fn line(card: &mut String, arguments: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = card.write_fmt(arguments);
    card.push('\n');
}

/// A YAML double-quoted scalar; JSON's escapes are among YAML's.
fn yaml(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Text that Markdown takes as text, on one line.
fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' => escaped.extend(['\\', character]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Text as Markdown code; what could end the code or look like markup is left out.
fn code(text: &str) -> String {
    let kept = text.chars().filter(|character| !character.is_control() && !"`<>".contains(*character));
    format!("`{}`", kept.collect::<String>())
}

/// A hub id (`owner/name` or `name`), not a path on somebody's disk.
fn hub_id(name: &str) -> Option<&str> {
    let parts = name.split('/').count();
    let plain = name.chars().all(|character| character.is_ascii_alphanumeric() || "-_./".contains(character));
    let path = name.starts_with(['.', '/', '~']) || name.ends_with('/') || Path::new(name).exists();
    (plain && parts <= 2 && !path && !name.is_empty()).then_some(name)
}

fn texts(value: Option<&toml::Value>) -> Vec<String> {
    match value {
        Some(toml::Value::String(text)) => vec![text.clone()],
        Some(toml::Value::Array(items)) => {
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

fn front_matter(card: &mut String, run: &Run) {
    let languages = texts(run.recipe_value("model.language"));
    if !languages.is_empty() {
        list(card, "language", &languages);
    }
    if let Some(license) = run.recipe_str("model.license") {
        line(card, format_args!("license: {}", yaml(license)));
    }
    let task = if run.is_image() { "image-classification" } else { "text-classification" };
    match image_library(run) {
        None => line(card, format_args!("library_name: transformers")),
        Some(Library::Timm) => line(card, format_args!("library_name: timm")),
        // The hub knows no library by torchvision's name.
        Some(Library::Torchvision) => {}
    }
    line(card, format_args!("pipeline_tag: {task}"));
    if let Some(base) = run.base_model().and_then(hub_id) {
        line(card, format_args!("base_model: {}", yaml(base)));
    }
    let mut tags = vec![task.to_owned(), "retune".to_owned()];
    tags.extend(match run.kind() {
        Kind::Classification => None,
        Kind::MultiLabel => Some("multi-label-classification".to_owned()),
        Kind::Regression => Some("regression".to_owned()),
    });
    list(card, "tags", &tags);
    let Some(split) = run.result_split() else { return };
    let measured: Vec<(&Metric, &str, f64)> = HUB_METRICS
        .iter()
        .filter_map(|&(name, hub)| {
            Some((Metric::find(name)?, hub, run.number(&format!("{}{name}", split.prefix()))?))
        })
        .collect();
    if measured.is_empty() {
        return;
    }
    let mut names: Vec<String> = Vec::new();
    for (_, hub, _) in &measured {
        if !names.iter().any(|name| name == hub) {
            names.push((*hub).to_owned());
        }
    }
    list(card, "metrics", &names);
    line(card, format_args!("model-index:\n- name: {}", yaml(&run.name())));
    line(
        card,
        format_args!(
            "  results:\n  - task:\n      type: {task}\n      name: {}",
            if run.is_image() { "Image Classification" } else { "Text Classification" }
        ),
    );
    let dataset = data_file(run, split).unwrap_or_else(|| "custom".into());
    line(
        card,
        format_args!(
            "    dataset:\n      name: {}\n      type: \"custom\"\n      split: {}",
            yaml(&dataset),
            split.title()
        ),
    );
    line(card, format_args!("    metrics:"));
    for (metric, hub, value) in measured {
        line(
            card,
            format_args!(
                "    - type: {hub}\n      name: {}\n      value: {}",
                yaml(metric.display_name),
                rounded(value)
            ),
        );
    }
}

/// Four decimals, enough for what a few hundred samples can show.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn list(card: &mut String, key: &str, items: &[String]) {
    line(card, format_args!("{key}:"));
    for item in items {
        line(card, format_args!("- {}", yaml(item)));
    }
}

/// Name of the file that a split came from, without its folder.
fn data_file(run: &Run, split: Split) -> Option<String> {
    let key = match split {
        Split::Test => "data.test",
        Split::Validation => "data.validation",
    };
    let name = texts(run.recipe_value(key))
        .into_iter()
        .next()
        .or_else(|| run.recipe_str(&format!("{key}.path")).map(str::to_owned))?;
    Some(Path::new(&name).file_name()?.to_string_lossy().into_owned())
}

fn labels(run: &Run) -> Vec<String> {
    let labels = run.config.as_ref().and_then(|config| config.get("id2label")).and_then(Value::as_object);
    let mut labels: Vec<(u64, String)> = labels
        .into_iter()
        .flatten()
        .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned())))
        .collect();
    labels.sort();
    labels.into_iter().map(|(_, name)| name).collect()
}

fn model(card: &mut String, run: &Run) {
    let base = run.base_model().map(|name| match hub_id(name) {
        Some(id) if id.contains('/') => format!("[{0}](https://huggingface.co/{0})", id),
        _ => code(name),
    });
    let sample = if run.is_image() { "picture" } else { "text" };
    let what = match run.kind() {
        Kind::Classification => format!("puts a {sample} into one of the classes below"),
        Kind::MultiLabel => format!("says for each of the labels below whether it fits a {sample}"),
        Kind::Regression => format!("predicts a number from a {sample}"),
    };
    line(card, format_args!("## Intended use\n"));
    match base {
        Some(base) => line(card, format_args!("This model {what}. It is {base}, fine-tuned with Retune.")),
        None => line(card, format_args!("This model {what}. It was fine-tuned with Retune.")),
    }
    let labels = labels(run);
    if run.kind() != Kind::Regression && !labels.is_empty() {
        let names: Vec<String> = labels.iter().take(200).map(|name| markdown(name)).collect();
        line(card, format_args!("\nLabels ({}): {}.", labels.len(), names.join(", ")));
    }
    card.push('\n');
}

fn results(card: &mut String, run: &Run) {
    let Some(split) = run.result_split() else { return };
    let prefix = split.prefix();
    let baselines: Vec<(&str, &str)> = BASELINES
        .into_iter()
        .filter(|(suffix, _)| {
            METRICS
                .iter()
                .any(|metric| run.number(&format!("{prefix}{}_{suffix}_baseline", metric.name)).is_some())
        })
        .collect();
    let samples =
        run.samples(split).map(|samples| format!(" ({} samples)", count(samples))).unwrap_or_default();
    line(
        card,
        format_args!("## Results\n\nOn {} data{samples}, with 95% confidence intervals.\n", split.title()),
    );
    let titles: String = baselines.iter().map(|(_, title)| format!(" {title} |")).collect();
    line(card, format_args!("| metric | value | 95% interval |{titles}"));
    line(card, format_args!("|---|--:|--:|{}", "--:|".repeat(baselines.len())));
    for metric in METRICS.iter().filter(|metric| is_main(run.kind(), metric)) {
        let key = format!("{prefix}{}", metric.name);
        let Some(value) = run.number(&key) else { continue };
        let interval =
            run.interval(&key).map(|interval| format!("{}–{}", number(interval.low), number(interval.high)));
        let beside: String = baselines
            .iter()
            .map(|(suffix, _)| {
                run.number(&format!("{key}_{suffix}_baseline")).map(number).unwrap_or_default()
            })
            .map(|value| format!(" {value} |"))
            .collect();
        line(
            card,
            format_args!(
                "| {} | {} | {} |{beside}",
                metric.display_name,
                number(value),
                interval.unwrap_or_default()
            ),
        );
    }
    let classes = run.per_class(split);
    if !classes.is_empty() && classes.len() <= 40 {
        line(card, format_args!("\n| class | precision | recall | F1 | samples |\n|---|--:|--:|--:|--:|"));
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), number);
        for class in classes {
            line(
                card,
                format_args!(
                    "| {} | {} | {} | {} | {} |",
                    markdown(&class.label),
                    shown(class.precision),
                    shown(class.recall),
                    shown(class.f1),
                    class.support
                ),
            );
        }
    }
    if let Some(temperature) = run.number("temperature") {
        line(
            card,
            format_args!(
                "\nScores are softmax probabilities; dividing the logits by {} first calibrates them (fitted on validation data).",
                number(temperature)
            ),
        );
    }
    card.push('\n');
}

fn training(card: &mut String, run: &Run) {
    line(card, format_args!("## Training\n"));
    if let Some(started) = &run.log.started {
        let samples = started.train_samples.map(|samples| format!("{} training samples", count(samples)));
        let seed = started.seed.map(|seed| format!("seed {seed}"));
        let took = run
            .log
            .ended
            .as_ref()
            .and_then(|ended| ended.seconds)
            .map(|seconds| format!("{} on {}", duration(seconds), markdown(&started.isa)));
        let facts: Vec<String> = samples.into_iter().chain(seed).chain(took).collect();
        line(card, format_args!("{}.\n", facts.join(", ")));
    }
    for stage in &run.log.stages {
        let trained = stage.trainable_parameters.zip(stage.total_parameters).filter(|pair| pair.1 > 0).map(
            |(trained, total)| {
                format!(
                    ", {} of {} parameters ({})",
                    parameters(trained),
                    parameters(total),
                    percent(trained as f64 / total as f64)
                )
            },
        );
        let groups: Vec<String> = stage.trainable_groups.iter().map(|group| code(group)).collect();
        line(
            card,
            format_args!(
                "- stage {} from step {}: trains {}{}",
                stage.stage,
                count(stage.step),
                groups.join(", "),
                trained.unwrap_or_default()
            ),
        );
    }
    let sections = ["strategy", "optimizer", "schedule", "train"];
    let mut recipe = toml::Table::new();
    for section in sections {
        if let Some(value) = run.recipe.get(section) {
            recipe.insert(section.to_owned(), value.clone());
        }
    }
    if let Ok(text) = toml::to_string(&recipe)
        && !recipe.is_empty()
    {
        // A fence longer than any run of backticks inside.
        let fence =
            "`".repeat(text.split(|character| character != '`').map(str::len).max().unwrap_or(0).max(2) + 1);
        line(card, format_args!("\n{fence}toml\n{}\n{fence}", text.trim_end()));
    }
    card.push('\n');
}

fn limits(card: &mut String, run: &Run) {
    line(card, format_args!("## Limits\n"));
    line(
        card,
        format_args!(
            "- The numbers hold for data like the {} data; on other kinds of {} nothing has been measured.",
            run.result_split().map_or("training", run::Split::title),
            if run.is_image() { "picture" } else { "text" }
        ),
    );
    if run.result_split() == Some(Split::Validation) {
        line(
            card,
            format_args!(
                "- There was no test data: the results are on the data that chose the checkpoint, and are somewhat too good."
            ),
        );
    }
    if let Some(samples) =
        run.result_split().and_then(|split| run.samples(split)).filter(|samples| *samples < 1000)
    {
        line(card, format_args!("- {samples} samples leave the uncertainty that the intervals show."));
    }
    let weak: Vec<String> = run
        .result_split()
        .map(|split| run.per_class(split))
        .unwrap_or_default()
        .iter()
        .filter(|class| class.support < 10)
        .take(20)
        .map(|class| markdown(&class.label))
        .collect();
    if !weak.is_empty() {
        line(card, format_args!("- Fewer than 10 samples stand behind the scores of: {}.", weak.join(", ")));
    }
    if run.kind() != Kind::Regression {
        line(
            card,
            format_args!(
                "- It always answers with the labels it was trained on, also for a {} that fits none of them.",
                if run.is_image() { "picture" } else { "text" }
            ),
        );
    }
    line(card, format_args!("- No audit of bias or of harm to particular groups has been done."));
    for warning in &run.log.warnings {
        line(card, format_args!("- {}", markdown(&warning.message)));
    }
}

/// A library of image models whose names an artifact's weights have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Library {
    Timm,
    Torchvision,
}

/// The library of an image model that is not Hugging Face's.
fn image_library(run: &Run) -> Option<Library> {
    let config = run.config.as_ref()?;
    config.get("architecture")?;
    let layout = config.get("retune").and_then(|retune| retune.get("layout")).and_then(Value::as_str);
    Some(if layout == Some("timm") { Library::Timm } else { Library::Torchvision })
}

/// Python that loads the run folder with its own library.
pub(crate) fn snippet(run: &Run) -> String {
    let folder = Value::String(run.folder.to_string_lossy().into_owned());
    let text = |key: &str| run.config.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let classes = run.config.as_ref().and_then(|config| config.get("num_classes")?.as_u64()).unwrap_or(0);
    let make = match image_library(run) {
        Some(Library::Timm) => format!(
            "timm.create_model({:?}, num_classes={classes})",
            text("architecture").unwrap_or_default()
        ),
        Some(Library::Torchvision) => {
            format!(
                "torchvision.models.get_model({:?}, num_classes={classes})",
                text("architecture").unwrap_or_default()
            )
        }
        None if run.is_image() => {
            return format!(
                "from transformers import pipeline\n\n\
                 classify = pipeline(\"image-classification\", model={folder})\n\
                 print(classify(\"picture.jpg\"))"
            );
        }
        None => return transformers_snippet(run),
    };
    let library = make.split('.').next().unwrap_or_default();
    format!(
        "import {library}\nfrom pathlib import Path\nfrom safetensors.torch import load_file\n\n\
         model = {make}.eval()\n\
         model.load_state_dict(load_file(Path({folder}) / \"model.safetensors\"))\n\
         # Sizes, mean, deviation and labels are in config.json."
    )
}

/// Python that loads the run folder with `transformers`.
fn transformers_snippet(run: &Run) -> String {
    let folder = Value::String(run.folder.to_string_lossy().into_owned());
    let answer = match run.kind() {
        Kind::Classification => "print(model.config.id2label[logits.argmax(-1).item()])",
        Kind::MultiLabel => {
            "print([name for id, name in model.config.id2label.items() if logits[0, id].sigmoid() >= 0.5])"
        }
        Kind::Regression => "print(logits.squeeze().item())",
    };
    format!(
        "import torch\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n\
         model = AutoModelForSequenceClassification.from_pretrained({folder}).eval()\n\
         tokenizer = AutoTokenizer.from_pretrained({folder})\n\
         with torch.inference_mode():\n    \
         logits = model(**tokenizer(\"your text\", truncation=True, return_tensors=\"pt\")).logits\n{answer}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_hub_id() {
        assert_eq!(
            hub_id("sentence-transformers/all-MiniLM-L6-v2"),
            Some("sentence-transformers/all-MiniLM-L6-v2")
        );
        assert_eq!(hub_id("/home/me/model"), None);
        assert_eq!(hub_id("../model"), None);
        assert_eq!(hub_id("a/b/c"), None);
    }

    #[test]
    fn a_label_cannot_break_the_table() {
        assert_eq!(markdown("a|b\n<b>"), "a\\|b &lt;b&gt;");
        assert_eq!(yaml("a\"b\n"), r#""a\"b\n""#);
    }
}
