//! Per class: precision, recall and F1, the confusion matrix, and which classes are taken for which.

use std::cmp::Ordering;

use retune_tasks::metrics::{ClassScores, ConfusionMatrix};

use super::{Section, figure, put};
use crate::charts::heat_map;
use crate::format::{Escaped, count, number, percent};
use crate::run::{Kind, Run};

/// Rows of the table that are shown at once; the rest unfolds.
const SHOWN: usize = 16;
/// Most frequent confusions listed.
const CONFUSIONS: usize = 12;

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    let multi_label = run.kind() == Kind::MultiLabel;
    if let Some(split) = run.result_split() {
        let mut classes = run.per_class(split);
        if !classes.is_empty() {
            // Classes that occur come first, the weakest on top.
            let weakest = |a: &ClassScores, b: &ClassScores| match (a.f1, b.f1) {
                (Some(x), Some(y)) => x.total_cmp(&y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            };
            classes.sort_by(|a, b| weakest(a, b).then_with(|| b.support.cmp(&a.support)));
            put(
                &mut html,
                format_args!(
                    "<p class=\"lead\">The weakest on top. Precision: how often a prediction of this {0} is right. Recall: how many of its samples are found.</p>\n",
                    if multi_label { "label" } else { "class" }
                ),
            );
            table(&mut html, &classes[..classes.len().min(SHOWN)]);
            if classes.len() > SHOWN {
                put(
                    &mut html,
                    format_args!(
                        "<details class=\"more\"><summary>{} more</summary><div>\n",
                        classes.len() - SHOWN
                    ),
                );
                table(&mut html, &classes[SHOWN..]);
                html.push_str("</div></details>\n");
            }
        }
        if let Some(matrix) = run.confusion_matrix(split) {
            confusion(&mut html, &matrix);
        }
    }
    Section { id: "classes", title: if multi_label { "Labels" } else { "Classes" }, html }
}

fn table(html: &mut String, classes: &[ClassScores]) {
    html.push_str("<div class=\"scroll\" tabindex=\"0\"><table class=\"compact\">\n<thead><tr><th scope=\"col\">Name</th><th scope=\"col\">F1</th><th scope=\"col\" class=\"n\">Precision</th><th scope=\"col\" class=\"n\">Recall</th><th scope=\"col\" class=\"n\">Samples</th></tr></thead>\n<tbody>\n");
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), number);
    for class in classes {
        put(
            html,
            format_args!(
                "<tr><th scope=\"row\">{}</th><td style=\"white-space:nowrap\"><span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{:.1}%\"></i></span>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                Escaped(&class.label),
                100.0 * class.f1.unwrap_or(0.0).clamp(0.0, 1.0),
                shown(class.f1),
                shown(class.precision),
                shown(class.recall),
                count(class.support)
            ),
        );
    }
    html.push_str("</tbody></table></div>\n");
}

fn confusion(html: &mut String, matrix: &ConfusionMatrix) {
    let classes = matrix.labels.len();
    html.push_str("<h3>Confusion matrix</h3>\n");
    let chart = heat_map(matrix);
    // A drawing of few classes would otherwise be blown up to the page's width, one of many squeezed on a phone.
    let (widest, narrowest) = match classes {
        0..=2 => (330, 240),
        3 => (460, 300),
        4..=8 => (660, 480),
        9..=16 => (900, 720),
        _ => (1024, 640),
    };
    html.push_str("<p class=\"lead\">A row is what samples are, a column what they were taken for. Right answers lie on the diagonal.</p>\n");
    put(
        html,
        format_args!(
            "<div class=\"scroll\" tabindex=\"0\"><div style=\"max-width:{widest}px;min-width:{narrowest}px\">{}</div></div>\n",
            chart.replacen("<svg ", "<svg class=\"keep\" ", 1)
        ),
    );
    let mut errors: Vec<(u64, usize, usize)> = Vec::new();
    for (target, row) in matrix.matrix.iter().enumerate() {
        for (prediction, &samples) in row.iter().enumerate() {
            if target != prediction && samples > 0 {
                errors.push((samples, target, prediction));
            }
        }
    }
    if errors.is_empty() || classes <= 2 {
        return;
    }
    errors.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    let mut rows = String::from(
        "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Target</th><th scope=\"col\">Taken for</th><th scope=\"col\" class=\"n\">Samples</th><th scope=\"col\" class=\"n\">Of the target's</th></tr></thead>\n<tbody>\n",
    );
    for &(samples, target, prediction) in errors.iter().take(CONFUSIONS) {
        let total: u64 = matrix.matrix[target].iter().sum();
        put(
            &mut rows,
            format_args!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                Escaped(&matrix.labels[target]),
                Escaped(&matrix.labels[prediction]),
                count(samples),
                percent(samples as f64 / total as f64)
            ),
        );
    }
    rows.push_str("</tbody></table></div>\n");
    html.push_str("<div style=\"margin-top:36px;max-width:760px\">\n");
    figure(html, "Most frequent confusions", "", &rows, "");
    html.push_str("</div>\n");
}
