//! The page of a comparison of strategies: what was chosen and why, quality against time, what the features knew.

use retune_tasks::metrics::Metric;

use super::{Section, document, figure, put};
use crate::charts::{CutRow, Trade, cut_rows, pareto};
use crate::comparison::{Comparison, Model, Strategy};
use crate::format::{
    Escaped, bytes, count, duration, learning_rate, number, parameters, percent, percent_range,
};

/// The whole page.
pub(crate) fn render(found: &Comparison) -> String {
    let sections = vec![trade_off(found), table(found), cuts(found), cost(found)];
    document(
        &format!("{} · Retune comparison", found.name),
        &header(found),
        sections,
        env!("CARGO_PKG_VERSION"),
    )
}

fn header(found: &Comparison) -> String {
    let mut html = String::new();
    put(
        &mut html,
        format_args!("<p class=\"run\"><strong>{}</strong> · strategies compared", Escaped(&found.name)),
    );
    if let Some(model) = found.models.first() {
        put(&mut html, format_args!(" · {}", Escaped(&model.model)));
    }
    put(&mut html, format_args!(" · judged on {} validation samples</p>\n", count(found.samples)));
    let headline = match found.chosen() {
        Some(chosen) => {
            format!("Take {}: {} in {} a run", chosen.name, quality(found, chosen), duration(chosen.seconds))
        }
        None => "Nothing was chosen".to_owned(),
    };
    put(&mut html, format_args!("<h1>{}</h1>\n", Escaped(&headline)));
    if !found.choice.reason.is_empty() {
        put(&mut html, format_args!("<p class=\"conclusion\">{}</p>\n", Escaped(&found.choice.reason)));
    }
    html
}

/// The metric's value with its interval, in words.
fn quality(found: &Comparison, strategy: &Strategy) -> String {
    let value = strategy.value.map_or_else(|| "undefined".to_owned(), number);
    match strategy.interval {
        Some(interval) => {
            format!("{} {value} ({} to {})", found.metric, number(interval.low), number(interval.high))
        }
        None => format!("{} {value}", found.metric),
    }
}

fn trade_off(found: &Comparison) -> Section {
    let mut html = String::new();
    let trades: Vec<Trade> = found
        .strategies
        .iter()
        .map(|strategy| Trade {
            name: strategy.name.clone(),
            seconds: strategy.seconds,
            value: strategy.value.unwrap_or(f64::NAN),
            interval: strategy.interval.map(|interval| (interval.low, interval.high)),
            whole: strategy.is_whole,
            chosen: strategy.name == found.choice.name,
            unbeaten: is_unbeaten(found, strategy),
        })
        .collect();
    let range = Metric::find(&found.metric).map_or((f64::NEG_INFINITY, f64::INFINITY), |metric| metric.range);
    if let Some(chart) = pareto(&trades, &found.metric, range) {
        let explanation = format!(
            "Best validation {} of each strategy with its 95% interval, against the time of one run with its search for a \
             learning rate. No whole run is both better and faster than one on the line.",
            found.metric
        );
        let legend = "<ul class=\"legend\"><li class=\"best\"><i class=\"round\"></i>whole run, unbeaten</li>\
                      <li class=\"series-1\"><i class=\"round\"></i>whole run</li>\
                      <li class=\"faint\"><i class=\"round\"></i>dropped early, where it stood</li>\
                      <li><i class=\"ring\"></i>chosen</li></ul>";
        figure(&mut html, "Quality against time", &explanation, &chart, legend);
    }
    Section { id: "trade-off", title: "The trade-off", html }
}

/// Whether no other whole run is as good in less time.
fn is_unbeaten(found: &Comparison, strategy: &Strategy) -> bool {
    let Some(value) = strategy.value.filter(|_| strategy.is_whole) else { return false };
    !found.strategies.iter().any(|other| {
        let is_better = |theirs: f64| {
            found.as_good(theirs, value)
                && other.seconds <= strategy.seconds
                && (theirs != value || other.seconds < strategy.seconds)
        };
        other.name != strategy.name && other.is_whole && other.value.is_some_and(is_better)
    })
}

fn table(found: &Comparison) -> Section {
    let mut html = String::new();
    if !found.strategies.is_empty() {
        put(
            &mut html,
            format_args!(
                "<p class=\"lead\">A whole run has {} steps. On the frontier is what no other whole run matches in quality, \
                 time, memory and trained values at once.</p>\n<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>",
                count(found.steps)
            ),
        );
        head(&mut html, "Strategy", false);
        for name in [
            found.metric.as_str(),
            "95% interval",
            "Loss",
            "Worst class",
            "Time",
            "Memory",
            "Trains",
            "To store",
        ] {
            head(&mut html, name, true);
        }
        head(&mut html, "Learning rate", true);
        html.push_str("</tr></thead>\n<tbody>\n");
        found.strategies.iter().for_each(|strategy| row(&mut html, found, strategy));
        html.push_str("</tbody></table></div>\n");
    }
    Section { id: "strategies", title: "Strategies", html }
}

fn head(html: &mut String, name: &str, is_number: bool) {
    let class = if is_number { " class=\"n\"" } else { "" };
    put(html, format_args!("<th scope=\"col\"{class}>{}</th>", Escaped(name)));
}

fn row(html: &mut String, found: &Comparison, strategy: &Strategy) {
    let mut notes = Vec::new();
    if strategy.name == found.choice.name {
        notes.push("chosen".to_owned());
    }
    if strategy.on_the_frontier {
        notes.push("on the frontier".to_owned());
    }
    match strategy.dropped_at {
        Some(step) => notes.push(format!("dropped after step {}", count(step))),
        None if !strategy.is_whole => notes.push(format!("stopped at step {}", count(strategy.steps))),
        None => {}
    }
    put(
        html,
        format_args!(
            "<tr><th scope=\"row\">{}<span class=\"definition\">{}</span></th>",
            Escaped(&strategy.name),
            Escaped(&notes.join(", "))
        ),
    );
    let shown = |value: Option<f64>| value.map_or_else(String::new, number);
    let interval = strategy.interval.map(|ends| format!("{}–{}", number(ends.low), number(ends.high)));
    let worst = strategy.worst_class.as_ref().map(|(label, recall)| format!("{label} {}", percent(*recall)));
    let rates: Vec<String> = strategy.learning_rates.iter().copied().map(learning_rate).collect();
    for cell in [
        shown(strategy.value),
        interval.unwrap_or_default(),
        shown(strategy.loss),
        worst.unwrap_or_default(),
        duration(strategy.seconds),
        bytes(strategy.memory_bytes),
        parameters(strategy.trained_parameters),
        bytes(strategy.artifact_bytes),
        rates.join(", "),
    ] {
        put(html, format_args!("<td class=\"n\">{}</td>", Escaped(&cell)));
    }
    html.push_str("</tr>\n");
}

fn cuts(found: &Comparison) -> Section {
    let mut html = String::new();
    for model in found.models.iter().filter(|model| !model.cuts.is_empty()) {
        if html.is_empty() {
            html.push_str(
                "<p class=\"lead\">Features of the frozen backbone, a mean per sample, scored without training the model. Where \
                 a cut well below the head does as well as the head's, the layers above it were made for something else.</p>\n",
            );
        }
        if found.models.len() > 1 {
            put(&mut html, format_args!("<h3>{}</h3>\n", Escaped(&model.model)));
        }
        cut_chart(&mut html, model);
        cut_table(&mut html, model);
    }
    Section { id: "features", title: "What the features already knew", html }
}

fn cut_chart(html: &mut String, model: &Model) {
    let best = model.best_cut().map(|cut| cut.below.as_str());
    let rows: Vec<CutRow> = model
        .cuts
        .iter()
        .map(|cut| CutRow {
            name: cut.below.clone(),
            linear_probe: cut.linear_probe,
            interval: cut.linear_probe_interval.map(|interval| (interval.low, interval.high)),
            nearest_neighbours: cut.nearest_neighbours,
            best: Some(cut.below.as_str()) == best,
        })
        .collect();
    let label = "Validation samples that features classify rightly, by the layer group above them";
    let Some(chart) = cut_rows(&rows, label) else { return };
    let legend = "<ul class=\"legend\"><li class=\"best\"><i class=\"round\"></i>linear probe, the best cut</li>\
                  <li class=\"series-1\"><i class=\"round\"></i>linear probe</li>\
                  <li class=\"series-2\"><i class=\"round\"></i>nearest neighbours</li></ul>";
    let explanation =
        "By the layer group above the cut, from the input down to the head, with 95% intervals.";
    figure(html, "Depth", explanation, &chart, legend);
}

/// The cuts from the best to the worst.
fn cut_table(html: &mut String, model: &Model) {
    html.push_str("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>");
    head(html, "Features below", false);
    for name in ["last_n", "Linear probe", "95% interval", "Nearest neighbours", "LogME", "H-score"] {
        head(html, name, true);
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    let mut ranked: Vec<_> = model.cuts.iter().collect();
    ranked.sort_by(|a, b| {
        let by_evidence = b.log_evidence.partial_cmp(&a.log_evidence);
        b.linear_probe.total_cmp(&a.linear_probe).then(by_evidence.unwrap_or(std::cmp::Ordering::Equal))
    });
    for cut in ranked {
        put(html, format_args!("<tr><th scope=\"row\">{}</th>", Escaped(&cut.below)));
        let interval = cut.linear_probe_interval.map(|ends| percent_range(ends.low, ends.high));
        let score = |score: Option<f64>| score.map_or_else(String::new, number);
        for cell in [
            cut.last_n.to_string(),
            percent(cut.linear_probe),
            interval.unwrap_or_default(),
            percent(cut.nearest_neighbours),
            score(cut.log_evidence),
            score(cut.h_score),
        ] {
            put(html, format_args!("<td class=\"n\">{cell}</td>"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

fn cost(found: &Comparison) -> Section {
    let mut html = String::new();
    if found.seconds_of_whole_runs > 0.0 {
        put(
            &mut html,
            format_args!(
                "<p class=\"lead\">The comparison took {}. Whole runs of every strategy would have taken about {}, at the pace \
                 that each was seen to have: it cost {:.0}% of that.</p>\n",
                duration(found.seconds),
                duration(found.seconds_of_whole_runs),
                100.0 * found.seconds / found.seconds_of_whole_runs
            ),
        );
    }
    Section { id: "cost", title: "What the comparison cost", html }
}
