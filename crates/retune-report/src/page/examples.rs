//! The samples that the model got most wrong: the first thing to look at, since wrong labels gather here.

use super::{Section, put};
use crate::format::{Escaped, answer, count, number, percent, shortened};
use crate::predictions::PredictionRow;
use crate::run::{Kind, Run};

/// Examples shown at once; the rest unfolds.
const SHOWN: usize = 8;
/// Longest text shown of one sample, in characters.
const LONGEST: usize = 600;

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    let rows = run.result_split().and_then(|split| run.predictions_of(split)).or(run.predictions.first());
    if let Some(rows) = rows.filter(|rows| !rows.worst.is_empty()) {
        let wrong = rows.labelled - rows.right;
        let kind = run.kind();
        let lead = match kind {
            Kind::Regression => format!(
                "The largest errors of {} samples in predictions/{}.jsonl.",
                count(rows.labelled as u64),
                rows.split
            ),
            _ => format!(
                "{} of {} samples in predictions/{}.jsonl are wrong; these are the ones the model was surest about. Look here for labels that are themselves wrong.",
                count(wrong as u64),
                count(rows.labelled as u64),
                rows.split
            ),
        };
        put(&mut html, format_args!("<p class=\"lead\">{}</p>\n", Escaped(&lead)));
        let (first, rest) = rows.worst.split_at(rows.worst.len().min(SHOWN));
        list(&mut html, first, kind);
        if !rest.is_empty() {
            put(
                &mut html,
                format_args!("<details class=\"more\"><summary>{} more</summary><div>\n", rest.len()),
            );
            list(&mut html, rest, kind);
            html.push_str("</div></details>\n");
        }
    }
    Section { id: "examples", title: "Most wrong", html }
}

fn list(html: &mut String, rows: &[PredictionRow], kind: Kind) {
    html.push_str("<ol class=\"examples\">\n");
    for row in rows {
        let text = row.text.as_deref().unwrap_or_default();
        put(html, format_args!("<li><blockquote>{}", Escaped(&shortened(text, LONGEST))));
        if let Some(pair) = &row.text_pair {
            put(html, format_args!("\n↔ {}", Escaped(&shortened(pair, LONGEST))));
        }
        put(
            html,
            format_args!(
                "</blockquote><p><span>target <b class=\"right\">{}</b></span>",
                Escaped(&answer(&row.target))
            ),
        );
        put(
            html,
            format_args!(
                "<span>predicted <b class=\"wrong\">{}</b></span>",
                Escaped(&answer(&row.prediction))
            ),
        );
        match (kind, row.error()) {
            (Kind::Regression, Some(error)) => {
                put(html, format_args!("<span>off by {}</span>", number(error)))
            }
            _ => scores(html, row),
        }
        if let Some(line) = row.line {
            put(html, format_args!("<span>line {line}</span>"));
        }
        html.push_str("</p></li>\n");
    }
    html.push_str("</ol>\n");
}

fn scores(html: &mut String, row: &PredictionRow) {
    if let Some(score) = row.score {
        put(html, format_args!("<span>score {}</span>", percent(score)));
    }
    let target_score = row.target.as_str().and_then(|target| row.scores.get(target)?.as_f64());
    if let Some(score) = target_score {
        put(html, format_args!("<span>target's score {}</span>", percent(score)));
    }
    if let Some(loss) = row.loss {
        put(html, format_args!("<span>loss {}</span>", number(loss)));
    }
}
