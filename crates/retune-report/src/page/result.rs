//! The numbers: the headline's scale, every metric with interval and baselines, calibration.

use retune_tasks::metrics::{Direction, METRICS, Metric, ReliabilityBin, ReliabilityDiagram};

use super::{Section, figure, put};
use crate::charts::{histogram, interval_scale, reliability_diagram, scatter};
use crate::format::{Escaped, number, percent, percent_range};
use crate::run::{Kind, Run, Split};
use crate::verdict::{BASELINES, MainResult, is_main};

/// The result on a number line with its baselines.
pub(super) fn scale(page: &mut String, run: &Run) {
    let result = run.result_split().and_then(|split| MainResult::of(run, split));
    if let Some(chart) = result.as_ref().and_then(interval_scale) {
        put(page, format_args!("<div class=\"scale\">{chart}</div>\n"));
    }
}

/// A value as its metric is usually read.
fn shown(metric: &Metric, value: f64) -> String {
    match metric.name {
        "accuracy" | "balanced_accuracy" | "subset_accuracy" | "ece" | "hamming_loss" => percent(value),
        _ => number(value),
    }
}

fn shown_range(metric: &Metric, low: f64, high: f64) -> String {
    match metric.name {
        "accuracy" | "balanced_accuracy" | "subset_accuracy" | "ece" | "hamming_loss" => {
            percent_range(low, high)
        }
        _ => format!("{}–{}", number(low), number(high)),
    }
}

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    if let Some(split) = run.result_split() {
        put(
            &mut html,
            format_args!(
                "<p class=\"lead\">Measured on {} data. An interval holds the true value with 95% confidence; an arrow says which way is better.</p>\n",
                split.title()
            ),
        );
        tables(&mut html, run, split);
        regression_charts(&mut html, run, split);
        let both = split == Split::Test
            && METRICS.iter().any(|metric| run.number(&format!("eval_{}", metric.name)).is_some());
        if both {
            html.push_str("<details class=\"more\"><summary>The same on validation data</summary><div>\n");
            tables(&mut html, run, Split::Validation);
            html.push_str("</div></details>\n");
        }
    }
    Section { id: "result", title: "Result", html }
}

/// The main metrics with their definitions and, folded away, the rest.
fn tables(html: &mut String, run: &Run, split: Split) {
    let key = |metric: &Metric| format!("{}{}", split.prefix(), metric.name);
    let measured = METRICS.iter().filter(|metric| run.metrics.contains_key(&key(metric)));
    let (main, rest): (Vec<&Metric>, Vec<&Metric>) = measured.partition(|metric| is_main(run.kind(), metric));
    let (first, second) = if main.is_empty() { (rest, main) } else { (main, rest) };
    table(html, run, split, &first);
    if !second.is_empty() {
        put(
            html,
            format_args!("<details class=\"more\"><summary>{} more metrics</summary><div>\n", second.len()),
        );
        table(html, run, split, &second);
        html.push_str("</div></details>\n");
    }
}

fn table(html: &mut String, run: &Run, split: Split, measured: &[&Metric]) {
    let prefix = split.prefix();
    let baselines: Vec<(&str, &str)> = BASELINES
        .into_iter()
        .filter(|(suffix, _)| {
            measured
                .iter()
                .any(|metric| run.number(&format!("{prefix}{}_{suffix}_baseline", metric.name)).is_some())
        })
        .collect();
    let intervals = measured.iter().any(|metric| run.interval(&format!("{prefix}{}", metric.name)).is_some());
    put(
        html,
        format_args!(
            "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Metric</th><th scope=\"col\" class=\"n\">Value</th>"
        ),
    );
    if intervals {
        html.push_str("<th scope=\"col\" class=\"n\">95% interval</th>");
    }
    for (_, title) in &baselines {
        put(html, format_args!("<th scope=\"col\" class=\"n\">{title}</th>"));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for metric in measured {
        let key = format!("{prefix}{}", metric.name);
        let arrow = match metric.direction {
            Direction::HigherIsBetter => "↑<span class=\"hidden\"> higher is better</span>",
            Direction::LowerIsBetter => "↓<span class=\"hidden\"> lower is better</span>",
        };
        let value = run.number(&key).map_or("undefined".into(), |value| shown(metric, value));
        put(
            html,
            format_args!(
                "<tr><th scope=\"row\" class=\"name\">{} {arrow}<span class=\"definition\">{}</span></th><td class=\"n\"><strong>{value}</strong></td>",
                metric.display_name, metric.definition
            ),
        );
        if intervals {
            let interval =
                run.interval(&key).map(|interval| shown_range(metric, interval.low, interval.high));
            put(html, format_args!("<td class=\"n\">{}</td>", interval.unwrap_or_default()));
        }
        for (suffix, _) in &baselines {
            let value = run.number(&format!("{key}_{suffix}_baseline")).map(|value| shown(metric, value));
            put(html, format_args!("<td class=\"n\">{}</td>", value.unwrap_or_default()));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

fn regression_charts(html: &mut String, run: &Run, split: Split) {
    let Some(rows) =
        run.predictions_of(split).filter(|rows| run.kind() == Kind::Regression && !rows.scatter.is_empty())
    else {
        return;
    };
    html.push_str("<div class=\"pair\" style=\"margin-top:40px\">\n");
    if let Some(chart) = scatter(&rows.scatter) {
        figure(html, "Predictions", "On the dashed line a prediction is exactly right.", &chart, "");
    }
    let errors: Vec<f64> = rows.scatter.iter().map(|(target, prediction)| prediction - target).collect();
    if let Some(chart) = histogram(&errors, "Distribution of errors") {
        figure(html, "Errors", "Centred on zero where the model is not biased one way.", &chart, "");
    }
    html.push_str("</div>\n");
}

/// Reliability diagram and temperature.
pub(super) fn calibration(run: &Run) -> Section {
    let mut html = String::new();
    if let Some(split) = run.result_split().filter(|_| run.kind() != Kind::Regression) {
        let prefix = split.prefix();
        let saved: Option<Vec<ReliabilityBin>> = run
            .metrics
            .get(&format!("{prefix}reliability"))
            .and_then(|bins| serde_json::from_value(bins.clone()).ok());
        let from_rows = run.predictions_of(split).map(|rows| &rows.reliability);
        let bins = saved.or_else(|| from_rows.map(ReliabilityDiagram::bins)).unwrap_or_default();
        let error = run
            .number(&format!("{prefix}ece"))
            .or_else(|| from_rows.and_then(ReliabilityDiagram::expected_calibration_error));
        let multi_label = run.kind() == Kind::MultiLabel;
        let title = if multi_label { "share of labels that hold" } else { "share right" };
        if let Some(chart) = reliability_diagram(&bins, title) {
            put(
                &mut html,
                format_args!(
                    "<p class=\"lead\">When the model says 80%, is it right in 80% of cases? Bars on the dashed line mean yes, bars below it mean that the model is too sure of itself.</p>\n<div class=\"pair\">\n<div class=\"narrow\">\n"
                ),
            );
            figure(
                &mut html,
                "Reliability",
                if multi_label {
                    "Stated probability of every label decision."
                } else {
                    "Confidence in the predicted class, below it the number of predictions."
                },
                &chart,
                "",
            );
            html.push_str("</div>\n<div>\n<dl>\n");
            if let Some(error) = error {
                super::definition(&mut html, "Calibration error", percent(error));
            }
            if let Some(scaled) = run.number(&format!("{prefix}ece_temperature_scaled")) {
                super::definition(&mut html, "After temperature scaling", percent(scaled));
            }
            if let Some(temperature) = run.number("temperature") {
                super::definition(&mut html, "Temperature", number(temperature));
            }
            html.push_str("</dl>\n");
            if let Some(temperature) = run.number("temperature") {
                let direction =
                    if temperature > 1.0 { "too sure of itself" } else { "less sure than it could be" };
                let text = format!(
                    "On validation data the model was {direction}. Dividing its logits by {} before the softmax fits its confidence to that data; predictions stay the same.",
                    number(temperature)
                );
                put(&mut html, format_args!("<p class=\"lead\">{}</p>\n", Escaped(&text)));
            }
            html.push_str("</div>\n</div>\n");
        }
    }
    Section { id: "calibration", title: "Calibration", html }
}
