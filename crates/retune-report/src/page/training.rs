//! How it was trained: stages and groups, loss and metric curves, learning rates.

use retune_tasks::metrics::Metric;
use serde_json::Value;

use super::{Section, figure, put};
use crate::charts::{LineChart, Mark, Rate, RateChart, Series, smoothed};
use crate::format::{Escaped, count, duration, learning_rate, number, parameters, percent};
use crate::log::StageEntered;
use crate::run::{Kind, Run};

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    stages(&mut html, run);
    features(&mut html, run);
    forecast(&mut html, run);
    let marks = marks(run);
    let mut charts = String::new();
    rate_chart(&mut charts, run);
    loss_chart(&mut charts, run, &marks);
    metric_chart(&mut charts, run, &marks);
    learning_rate_chart(&mut charts, run, &marks);
    gradient_chart(&mut charts, run, &marks);
    if !charts.is_empty() {
        put(&mut html, format_args!("<div class=\"pair\">\n{charts}</div>\n"));
    }
    Section { id: "training", title: "Training", html }
}

/// Groups in depth order: embeddings, numbered blocks, then what comes after them. Frozen groups of the
/// first stage are listed first by the log, which settles the order of names without a number.
fn depth_order(stages: &[StageEntered]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for stage in stages {
        for group in stage.frozen_groups.iter().chain(&stage.trainable_groups) {
            if !groups.contains(&group.as_str()) {
                groups.push(group);
            }
        }
    }
    let rank = |group: &&str| {
        let lower = group.to_lowercase();
        let digits: String = lower.chars().filter(char::is_ascii_digit).collect();
        if lower.contains("embed") {
            (0, 0)
        } else if let Ok(number) = digits.parse::<u64>() {
            (1, number)
        } else if lower == "head" || lower.contains("classifier") {
            (3, 0)
        } else {
            (2, 0)
        }
    };
    groups.sort_by_key(rank);
    groups
}

fn stages(html: &mut String, run: &Run) {
    let stages = &run.log.stages;
    if stages.is_empty() {
        return;
    }
    let groups = depth_order(stages);
    let ends = stages.iter().skip(1).map(|stage| stage.step).chain([run.log.last_step()]);
    put(
        html,
        format_args!(
            "<p class=\"lead\"><i class=\"swatch on\"></i>trained &#160; <i class=\"swatch\"></i>frozen, from the input (left) to the head (right). A frozen layer group keeps the pretrained weights exactly.</p>\n"
        ),
    );
    html.push_str("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Stage</th><th scope=\"col\" class=\"n\">Steps</th><th scope=\"col\">Layer groups</th><th scope=\"col\" class=\"n\">Trained parameters</th><th scope=\"col\" class=\"n\">Share</th></tr></thead>\n<tbody>\n");
    for (stage, end) in stages.iter().zip(ends) {
        let name = if stage.name.is_empty() { format!("stage {}", stage.stage) } else { stage.name.clone() };
        put(html, format_args!("<tr><th scope=\"row\">{}</th>", Escaped(&name)));
        put(
            html,
            format_args!(
                "<td class=\"n\">{}–{}</td><td><span class=\"strip\" aria-hidden=\"true\">",
                count(stage.step),
                count(end.max(stage.step))
            ),
        );
        for group in &groups {
            let trained = stage.trainable_groups.iter().any(|name| name == group);
            let (class, state) = if trained { (" class=\"on\"", "trained") } else { ("", "frozen") };
            put(html, format_args!("<i{class} title=\"{}: {state}\"></i>", Escaped(group)));
        }
        let spoken =
            format!("trained: {}; frozen: {}", listed(&stage.trainable_groups), listed(&stage.frozen_groups));
        put(html, format_args!("</span><span class=\"hidden\">{}</span></td>", Escaped(&spoken)));
        let trained = stage.trainable_parameters.map(parameters).unwrap_or_default();
        let total =
            stage.total_parameters.map(|total| format!(" of {}", parameters(total))).unwrap_or_default();
        let share = stage.trainable_parameters.zip(stage.total_parameters).filter(|pair| pair.1 > 0);
        let share = share.map(|(trained, total)| percent(trained as f64 / total as f64)).unwrap_or_default();
        put(html, format_args!("<td class=\"n\">{trained}{total}</td><td class=\"n\">{share}</td></tr>\n"));
    }
    html.push_str("</tbody></table></div>\n");
}

/// What the feature cache saved, in a sentence.
fn features(html: &mut String, run: &Run) {
    let told = &run.log.features;
    let reused: u64 = told.iter().map(|features| features.reused).sum();
    if reused == 0 {
        return;
    }
    let computed: u64 = told.iter().map(|features| features.computed).sum();
    let saved: f64 = told.iter().filter_map(|features| features.saved_seconds).sum();
    let time = if saved >= 1.0 { format!(", which saved about {}", duration(saved)) } else { String::new() };
    put(
        html,
        format_args!(
            "<p>The outputs of the frozen layer groups were computed {} times and taken from the feature cache {} times{time} \
             (an estimate, at the rate of those that were computed). The result is the same to the bit.</p>\n",
            count(computed),
            count(reused)
        ),
    );
}

/// What was predicted before the first step, beside what the run took.
fn forecast(html: &mut String, run: &Run) {
    let Some(forecast) = &run.log.forecast else { return };
    let mut rows = String::new();
    let mut row = |name: &str, values: (Option<f64>, Option<f64>), shown: &dyn Fn(f64) -> String| {
        let (Some(predicted), Some(measured)) = values else { return };
        let off = if measured > 0.0 {
            format!("{:+.0}%", 100.0 * (predicted / measured - 1.0)).replace('-', "−")
        } else {
            String::new()
        };
        let cells = [shown(predicted), shown(measured), off];
        let cells: String = cells.iter().map(|cell| format!("<td class=\"n\">{cell}</td>")).collect();
        put(&mut rows, format_args!("<tr><th scope=\"row\">{name}</th>{cells}</tr>\n"));
    };
    row("Time of a step", (forecast.predicted_step_seconds, forecast.step_seconds), &|seconds| {
        format!("{seconds:.3} s")
    });
    row("Training and its evaluations", (forecast.predicted_seconds, forecast.seconds), &duration);
    let memory = [forecast.predicted_resident_bytes, forecast.resident_bytes];
    let [predicted, measured] = memory.map(|bytes| bytes.map(|bytes| bytes as f64));
    row("Most memory in use", (predicted, measured), &|bytes| {
        format!("{} MiB", count((bytes / f64::from(1 << 20)).round() as u64))
    });
    if !rows.is_empty() {
        put(
            html,
            format_args!(
                "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Before the first step</th>\
                 <th scope=\"col\" class=\"n\">Predicted</th><th scope=\"col\" class=\"n\">Measured</th>\
                 <th scope=\"col\" class=\"n\">Off by</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
            ),
        );
    }
}

fn listed(groups: &[String]) -> String {
    if groups.is_empty() { "none".into() } else { groups.join(", ") }
}

fn marks(run: &Run) -> Vec<Mark> {
    let stages = if run.log.stages.len() > 1 { run.log.stages.as_slice() } else { &[] };
    let boundaries = stages.iter().map(|stage| Mark {
        step: stage.step as f64,
        label: if stage.name.is_empty() { format!("stage {}", stage.stage) } else { stage.name.clone() },
        best: false,
    });
    let best = run.log.best.as_ref().map(|best| Mark {
        step: best.step as f64,
        label: format!("best checkpoint, step {}", count(best.step)),
        best: true,
    });
    boundaries.chain(best).collect()
}

/// One row of a legend: class of the swatch, its shape, its text.
fn legend(rows: &[(&str, &str, &str)], marks: &[Mark]) -> String {
    let mut html = String::from("<ul class=\"legend\">");
    let mut entry = |class: &str, shape: &str, text: &str| {
        put(&mut html, format_args!("<li><i class=\"{class} {shape}\"></i>{}</li>", Escaped(text)));
    };
    for (class, shape, text) in rows {
        entry(class, shape, text);
    }
    if marks.iter().any(|mark| mark.best) {
        entry("best", "round", "best checkpoint");
    }
    if marks.iter().any(|mark| !mark.best) {
        entry("", "dashed", "stage begins");
    }
    html.push_str("</ul>");
    html
}

fn chart(
    run: &Run,
    label: &str,
    series: Vec<Series>,
    marks: &[Mark],
    limits: (f64, f64),
    logarithmic: bool,
) -> Option<String> {
    LineChart { label, series, marks, limits, logarithmic, last_step: run.log.last_step() as f64 }.draw()
}

/// The search before the first step, where there was one.
fn rate_chart(html: &mut String, run: &Run) {
    let Some(found) = &run.learning_rate else { return };
    let get = |key: &str| found.get(key).and_then(Value::as_f64).filter(|value| value.is_finite());
    let (Some(chosen), Some(low), Some(high)) = (get("learning_rate"), get("low"), get("high")) else {
        return;
    };
    let probes = found.get("probes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rates = probes.iter().filter_map(|probe| {
        let get = |key: &str| probe.get(key).and_then(Value::as_f64);
        let outcome = probe.get("outcome").and_then(Value::as_str).unwrap_or_default();
        Some(Rate {
            rate: get("learning_rate")?,
            loss: get("loss"),
            standard_error: get("standard_error").unwrap_or(0.0),
            good: matches!(outcome, "best" | "within_noise"),
        })
    });
    let chart =
        RateChart { rates: rates.collect(), range: (low, high), chosen, loss_before: get("loss_before") };
    let Some(drawing) = chart.draw() else { return };
    let explanation = format!(
        "Held-out loss after {} steps from the same state. Within noise of the best: {} to {}; the run took {}.",
        count(get("burst_steps").unwrap_or(0.0) as u64),
        learning_rate(low),
        learning_rate(high),
        learning_rate(chosen)
    );
    let legend = "<ul class=\"legend\"><li><i class=\"best round\"></i>within noise of the best</li></ul>";
    figure(html, "Search for the learning rate", &explanation, &drawing, legend);
}

fn loss_chart(html: &mut String, run: &Run, marks: &[Mark]) {
    let raw: Vec<(f64, f64)> =
        run.log.steps.iter().map(|step| (step.step as f64, step.loss.unwrap_or(f64::NAN))).collect();
    let validation: Vec<(f64, f64)> =
        run.log.validation().filter_map(|eval| Some((eval.step as f64, eval.value("loss")?))).collect();
    let mut series = Vec::new();
    let mut rows = Vec::new();
    if raw.len() > 24 {
        let mean = smoothed(&raw, raw.len() as f64 / 24.0 + 4.0);
        series.push(Series { class: "series-1".into(), points: raw, dots: false, opacity: 0.28 });
        series.push(Series { class: "series-1".into(), points: mean, dots: false, opacity: 1.0 });
        rows.push(("series-1", "", "training, moving average"));
    } else if !raw.is_empty() {
        series.push(Series { class: "series-1".into(), points: raw, dots: true, opacity: 1.0 });
        rows.push(("series-1", "", "training"));
    }
    if !validation.is_empty() {
        series.push(Series { class: "series-2".into(), points: validation, dots: true, opacity: 1.0 });
        rows.push(("series-2", "", "validation"));
    }
    if let Some(drawing) = chart(run, "Loss per step", series, marks, (0.0, f64::INFINITY), false) {
        figure(
            html,
            "Loss",
            "Validation rising while training falls is overfitting.",
            &drawing,
            &legend(&rows, marks),
        );
    }
}

fn metric_chart(html: &mut String, run: &Run, marks: &[Mark]) {
    let usual: &[&str] = match run.kind() {
        Kind::Classification => &["accuracy", "f1_macro"],
        Kind::MultiLabel => &["f1_micro", "f1_macro", "subset_accuracy"],
        Kind::Regression => &["rmse"],
    };
    let chosen = run.primary_metric().filter(|metric| metric.name != "loss");
    let mut metrics: Vec<&Metric> = chosen.into_iter().collect();
    for metric in usual.iter().filter_map(|name| Metric::find(name)) {
        // Curves share an axis only where they share a range.
        let fits = metrics.first().is_none_or(|first| first.range == metric.range);
        if fits && metrics.iter().all(|other| other.name != metric.name) {
            metrics.push(metric);
        }
    }
    let mut series = Vec::new();
    let mut rows = Vec::new();
    for metric in &metrics {
        let points: Vec<(f64, f64)> = run
            .log
            .validation()
            .filter_map(|eval| Some((eval.step as f64, eval.value(metric.name)?)))
            .collect();
        if points.is_empty() || series.len() == 4 {
            continue;
        }
        let class = ["series-1", "series-2", "series-3", "series-4"][series.len()];
        rows.push((class, "", metric.display_name));
        series.push(Series { class: class.into(), points, dots: true, opacity: 1.0 });
    }
    let limits = metrics.first().map_or((f64::NEG_INFINITY, f64::INFINITY), |metric| metric.range);
    if let Some(drawing) = chart(run, "Validation metrics per step", series, marks, limits, false) {
        let best = run
            .log
            .best
            .as_ref()
            .and_then(|best| Some((best.step, Metric::find(&best.metric)?, best.value?)));
        let explanation = match best {
            Some((step, metric, value)) => format!(
                "Best by {}: {} at step {}.",
                metric.display_name.to_lowercase(),
                number(value),
                count(step)
            ),
            None => "On validation data.".to_owned(),
        };
        figure(html, "Validation metrics", &explanation, &drawing, &legend(&rows, &[]));
    }
}

/// A learning rate curve and the groups that share it.
struct Shared<'a> {
    groups: Vec<&'a str>,
    points: Vec<(f64, f64)>,
}

fn learning_rate_chart(html: &mut String, run: &Run, marks: &[Mark]) {
    let mut groups: Vec<&str> = depth_order(&run.log.stages);
    for step in &run.log.steps {
        for group in step.learning_rates.keys() {
            if !groups.contains(&group.as_str()) {
                groups.push(group);
            }
        }
    }
    let mut curves: Vec<Shared> = Vec::new();
    for group in groups {
        let points: Vec<(f64, f64)> = run
            .log
            .steps
            .iter()
            .map(|step| {
                let rate = step.learning_rates.get(group).and_then(Value::as_f64);
                (step.step as f64, rate.unwrap_or(f64::NAN))
            })
            .collect();
        if points.iter().all(|point| point.1.is_nan()) {
            continue;
        }
        let same = |curve: &&mut Shared| {
            curve.points.iter().zip(&points).all(|(a, b)| a.1.to_bits() == b.1.to_bits())
        };
        match curves.iter_mut().find(same) {
            Some(curve) => curve.groups.push(group),
            None => curves.push(Shared { groups: vec![group], points }),
        }
    }
    let peaks = || {
        curves.iter().filter_map(|curve| {
            curve.points.iter().map(|point| point.1).filter(|rate| *rate > 0.0).reduce(f64::max)
        })
    };
    let Some((lowest, highest)) = peaks().reduce(f64::min).zip(peaks().reduce(f64::max)) else { return };
    let logarithmic = highest / lowest > 20.0;
    let number_of_curves = curves.len();
    let names: Vec<String> = curves
        .iter()
        .map(|curve| match curve.groups.as_slice() {
            [only] => (*only).to_owned(),
            [first, .., last] => format!("{first} … {last} ({} groups)", curve.groups.len()),
            [] => String::new(),
        })
        .collect();
    // The nearer to the head, the stronger the line.
    let strength = |index: usize| {
        1.0 - 0.78 * (number_of_curves - 1 - index) as f64 / (number_of_curves.max(2) - 1) as f64
    };
    let series = curves
        .into_iter()
        .enumerate()
        .map(|(index, curve)| Series {
            class: "series-1".into(),
            points: curve.points,
            dots: false,
            opacity: strength(index),
        })
        .collect();
    let limits = (0.0, f64::INFINITY);
    if let Some(drawing) =
        chart(run, "Learning rate per layer group and step", series, marks, limits, logarithmic)
    {
        let mut rows = String::from("<ul class=\"legend\">");
        for (index, name) in names.iter().enumerate().rev() {
            put(
                &mut rows,
                format_args!(
                    "<li><i class=\"series-1\" style=\"opacity:{:.2}\"></i>{}</li>",
                    strength(index),
                    Escaped(name)
                ),
            );
        }
        rows.push_str("</ul>");
        let explanation = if logarithmic {
            "One line per layer group, logarithmic scale."
        } else {
            "One line per layer group."
        };
        figure(html, "Learning rates", explanation, &drawing, &rows);
    }
}

fn gradient_chart(html: &mut String, run: &Run, marks: &[Mark]) {
    let raw: Vec<(f64, f64)> =
        run.log.steps.iter().map(|step| (step.step as f64, step.grad_norm.unwrap_or(f64::NAN))).collect();
    if raw.is_empty() {
        return;
    }
    let mean = smoothed(&raw, raw.len() as f64 / 24.0 + 4.0);
    let series = vec![
        Series { class: "series-3".into(), points: raw, dots: false, opacity: 0.28 },
        Series { class: "series-3".into(), points: mean, dots: false, opacity: 1.0 },
    ];
    if let Some(drawing) = chart(run, "Gradient norm per step", series, marks, (0.0, f64::INFINITY), false) {
        let clipping = run.recipe_value("optimizer.max_grad_norm").and_then(toml_number);
        let explanation = match clipping {
            Some(limit) if limit > 0.0 => format!("Before clipping to {limit}."),
            _ => "Norm over all trained parameters.".to_owned(),
        };
        figure(
            html,
            "Gradient norm",
            &explanation,
            &drawing,
            &legend(&[("series-3", "", "moving average")], &[]),
        );
    }
}

fn toml_number(value: &toml::Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|integer| integer as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_in_depth_order_whatever_the_log_says_first() {
        let stage = StageEntered {
            trainable_groups: ["head", "pooler", "layer.10", "layer.2", "embeddings"]
                .map(String::from)
                .to_vec(),
            ..StageEntered::default()
        };
        assert_eq!(depth_order(&[stage]), ["embeddings", "layer.2", "layer.10", "pooler", "head"]);
    }
}
