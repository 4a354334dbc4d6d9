//! The samples that the model got most wrong: the first thing to look at, since wrong labels gather here.

use super::{Section, put};
use std::path::{Component, Path};

use crate::format::{Escaped, answer, base64, count, number, percent, shortened};
use crate::predictions::PredictionRow;
use crate::run::{Kind, Run};

/// Examples shown at once; the rest unfolds.
const SHOWN: usize = 8;
/// Pictures shown at once.
const SHOWN_PICTURES: usize = 12;
/// Longest text shown of one sample, in characters.
const LONGEST: usize = 600;
/// A larger file is no thumbnail.
const LARGEST_THUMBNAIL: u64 = 256 << 10;

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
        let shown = if run.is_image() { SHOWN_PICTURES } else { SHOWN };
        let (first, rest) = rows.worst.split_at(rows.worst.len().min(shown));
        list(&mut html, first, run);
        if !rest.is_empty() {
            put(
                &mut html,
                format_args!("<details class=\"more\"><summary>{} more</summary><div>\n", rest.len()),
            );
            list(&mut html, rest, run);
            html.push_str("</div></details>\n");
        }
    }
    Section { id: "examples", title: "Most wrong", html }
}

/// A text, or a picture with its name.
fn sample(html: &mut String, row: &PredictionRow, run: &Run) {
    if !run.is_image() {
        let text = row.text.as_deref().unwrap_or_default();
        put(html, format_args!("<blockquote>{}", Escaped(&shortened(text, LONGEST))));
        if let Some(pair) = &row.text_pair {
            put(html, format_args!("\n↔ {}", Escaped(&shortened(pair, LONGEST))));
        }
        html.push_str("</blockquote>");
        return;
    }
    let path = row.image.as_deref().unwrap_or_default();
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if let Some(bytes) = row.thumbnail.as_deref().and_then(|thumbnail| thumbnail_bytes(run, thumbnail)) {
        let alt = if name.is_empty() { "picture" } else { &*name };
        put(
            html,
            format_args!("<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\"/>", Escaped(alt), base64(&bytes)),
        );
    }
    put(html, format_args!("<blockquote title=\"{}\">{}</blockquote>", Escaped(path), Escaped(&name)));
}

/// A thumbnail of the run's own folder; none if it leads out of it.
pub(super) fn thumbnail_bytes(run: &Run, name: &str) -> Option<Vec<u8>> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let path = run.folder.join("predictions").join(name);
    let small = std::fs::metadata(&path).is_ok_and(|file| file.len() <= LARGEST_THUMBNAIL);
    if inside && small { std::fs::read(&path).ok() } else { None }
}

fn list(html: &mut String, rows: &[PredictionRow], run: &Run) {
    let kind = run.kind();
    let class = if run.is_image() { "examples pictures" } else { "examples" };
    put(html, format_args!("<ol class=\"{class}\">\n"));
    for row in rows {
        html.push_str("<li>");
        sample(html, row, run);
        put(
            html,
            format_args!("<p><span>target <b class=\"right\">{}</b></span>", Escaped(&answer(&row.target))),
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
        if let Some(line) = row.line.filter(|_| row.image.is_none()) {
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
