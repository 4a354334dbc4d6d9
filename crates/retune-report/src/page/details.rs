//! Data, how to use the model, and the record: what was loaded, the resolved recipe, the machine.

use serde_json::Value;

use super::{Section, definition, put};
use crate::format::{Escaped, count, duration, parameters, shell, time};
use crate::model_card::snippet;
use crate::run::Run;

/// Names of one list in the load report that are written out.
const NAMES: usize = 200;

pub(super) fn data(run: &Run) -> Section {
    let mut html = String::new();
    let mut list = String::new();
    if let Some(started) = &run.log.started {
        for (name, samples) in [
            ("Training samples", started.train_samples),
            ("Validation samples", started.eval_samples),
            ("Test samples", started.test_samples),
        ] {
            if let Some(samples) = samples {
                definition(&mut list, name, count(samples));
            }
        }
    }
    if let Some(labels) =
        run.config.as_ref().and_then(|config| config.get("id2label")).and_then(Value::as_object)
    {
        let names: Vec<&str> = labels.values().filter_map(Value::as_str).take(30).collect();
        let more = if labels.len() > names.len() { ", …" } else { "" };
        definition(&mut list, "Labels", format_args!("{}: {}{more}", labels.len(), names.join(", ")));
    }
    if let Some(toml::Value::Table(data)) = run.recipe_value("data") {
        for (key, value) in data {
            flatten(&mut list, key, value);
        }
    }
    if let Some(path) = run.recipe_str("augmentation.paraphrases") {
        definition(&mut list, "Paraphrases", path);
        let hashes = run.recipe_value("lock.sha256");
        if let Some(hash) = hashes.and_then(|hashes| hashes.get(path)?.as_str()) {
            definition(&mut list, "Their SHA-256", hash);
        }
        if let Some(toml::Value::Array(command)) = run.recipe_value("augmentation.paraphrase_command") {
            let words: Vec<String> = command.iter().filter_map(|word| Some(shell(word.as_str()?))).collect();
            if !words.is_empty() {
                definition(&mut list, "Written by", words.join(" "));
            }
        }
        if let Some(probability) = run.recipe_value("augmentation.paraphrase_probability") {
            definition(&mut list, "Drawn with probability", probability);
        }
    }
    if !list.is_empty() {
        put(&mut html, format_args!("<dl>\n{list}</dl>\n"));
    }
    Section { id: "data", title: "Data", html }
}

fn flatten(list: &mut String, key: &str, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            for (inner, value) in table {
                flatten(list, &format!("{key}.{inner}"), value);
            }
        }
        toml::Value::String(text) => definition(list, key, text),
        other => definition(list, key, other),
    }
}

pub(super) fn usage(run: &Run) -> Section {
    let folder = shell(&run.folder.to_string_lossy());
    let finished = run.config.is_some();
    let mut html = String::new();
    if finished {
        let (new, labelled) =
            if run.is_image() { ("new/pictures", "labelled/pictures") } else { ("new.csv", "labelled.csv") };
        let commands = format!(
            "retune predict --model {folder} --data {new} --output predictions.jsonl\nretune eval {folder} --data {labelled}"
        );
        put(
            &mut html,
            format_args!("<p class=\"lead\">The run folder is a model in the layout of its ecosystem.</p>\n"),
        );
        put(&mut html, format_args!("<pre><code>{}</code></pre>\n", Escaped(&commands)));
        put(&mut html, format_args!("<pre><code>{}</code></pre>\n", Escaped(&snippet(run))));
    } else {
        put(
            &mut html,
            format_args!(
                "<p class=\"lead\">There is no finished model in this folder yet.</p>\n<pre><code>{}</code></pre>\n",
                Escaped(&format!("retune resume {folder}"))
            ),
        );
    }
    Section { id: "use", title: "Use the model", html }
}

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    if let Some(report) = &run.load_report {
        load_report(&mut html, report);
    }
    if let Some(recipe) = &run.recipe_text {
        put(
            &mut html,
            format_args!(
                "<details><summary>Resolved recipe<span>recipe.lock.toml</span></summary><div><pre><code>{}</code></pre></div></details>\n",
                Escaped(recipe)
            ),
        );
    }
    environment(&mut html, run);
    Section { id: "record", title: "Record", html }
}

fn load_report(html: &mut String, report: &Value) {
    let Some(entries) = report.as_object() else { return };
    let summary: Vec<String> = entries
        .iter()
        .filter_map(|(name, value)| Some(format!("{} {}", value.as_array()?.len(), name.replace('_', " "))))
        .collect();
    put(
        html,
        format_args!(
            "<details><summary>What was loaded<span>{}</span></summary><div>\n<dl>\n",
            Escaped(&summary.join(", "))
        ),
    );
    for (name, value) in entries {
        let name = name.replace('_', " ");
        match value {
            Value::Array(items) if items.is_empty() => definition(html, &name, "none"),
            Value::Array(items) => {
                let mut shown: Vec<String> = items.iter().take(NAMES).map(entry).collect();
                if items.len() > NAMES {
                    shown.push(format!("and {} more", items.len() - NAMES));
                }
                definition(html, &format!("{name} ({})", items.len()), shown.join(", "));
            }
            other => definition(html, &name, entry(other)),
        }
    }
    html.push_str("</dl></div></details>\n");
}

/// A tensor of the load report: its name alone, or its name and what was said of it.
fn entry(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        Value::Object(fields) => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let parts: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key} {}", text(value))).collect();
            parts.join(" ")
        }
        other => other.to_string(),
    }
}

fn environment(html: &mut String, run: &Run) {
    let Some(started) = &run.log.started else { return };
    html.push_str("<details><summary>Environment</summary><div>\n<dl>\n");
    if let Some(time) = time(&started.time) {
        definition(html, "Started", time);
    }
    if let Some(seconds) = run.log.ended.as_ref().and_then(|ended| ended.seconds) {
        definition(html, "Took", duration(seconds));
    }
    if let Some(ended) = run.log.ended.as_ref().filter(|ended| !ended.reason.is_empty()) {
        definition(html, "Ended because", &ended.reason);
    }
    if run.log.resumed > 0 {
        definition(html, "Resumed", format_args!("{} times", run.log.resumed));
    }
    if !started.version.is_empty() {
        definition(html, "Retune", &started.version);
    }
    if !started.isa.is_empty() {
        definition(html, "Instruction set", &started.isa);
    }
    if let Some(threads) = started.threads {
        definition(html, "Threads", threads);
    }
    if let Some(seed) = started.seed {
        definition(html, "Seed", seed);
    }
    if let Some(total) = started.parameters {
        definition(html, "Parameters", format_args!("{} ({})", parameters(total), count(total)));
    }
    let (samples, seconds) = run.log.steps.iter().fold((0u64, 0.0), |(samples, seconds), step| {
        (samples + step.samples.unwrap_or(0), seconds + step.seconds.unwrap_or(0.0))
    });
    if samples > 0 && seconds > 0.0 {
        definition(html, "Training speed", format_args!("{:.1} samples/s", samples as f64 / seconds));
    }
    if let Some(last) = run.log.checkpoints.last() {
        definition(html, "Last checkpoint", format_args!("step {}: {}", count(last.step), last.path));
    }
    html.push_str("</dl></div></details>\n");
}
