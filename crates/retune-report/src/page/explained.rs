//! Where an image model looked for its answer, in the pictures that it got most wrong and in some that it got right.

use std::path::Path;

use super::examples::thumbnail_bytes;
use super::{Section, put};
use crate::format::{Escaped, answer, base64, percent};
use crate::predictions::PredictionRow;
use crate::run::Run;

const LEAD: &str = "Grad-CAM (Selvaraju et al. 2017): the colour shows which parts of the picture spoke for the answer, as the \
                    last feature map (of a transformer, its patches before the last attention) has them. A model that is \
                    right for a wrong reason looks beside the object.";

pub(super) fn section(run: &Run) -> Section {
    let mut html = String::new();
    let rows = run.result_split().and_then(|split| run.predictions_of(split)).or(run.predictions.first());
    let (right, mut wrong): (Vec<_>, Vec<_>) =
        rows.map(|rows| rows.explained.iter().partition(|row| row.right())).unwrap_or_default();
    wrong.sort_by(|a: &&PredictionRow, b| b.loss.unwrap_or(0.0).total_cmp(&a.loss.unwrap_or(0.0)));
    for (title, rows) in [("Wrong", wrong), ("Right", right)] {
        list(&mut html, title, &rows, run);
    }
    if !html.is_empty() {
        html.insert_str(0, &format!("<p class=\"lead\">{}</p>\n", Escaped(LEAD)));
    }
    Section { id: "explained", title: "Where it looked", html }
}

fn list(html: &mut String, title: &str, rows: &[&PredictionRow], run: &Run) {
    let mut items = String::new();
    for row in rows {
        let Some(bytes) = row.heat_map.as_deref().and_then(|name| thumbnail_bytes(run, name)) else {
            continue;
        };
        item(&mut items, row, &bytes);
    }
    if !items.is_empty() {
        put(html, format_args!("<h3>{title}</h3>\n<ol class=\"examples pictures small\">\n{items}</ol>\n"));
    }
}

fn item(html: &mut String, row: &PredictionRow, bytes: &[u8]) {
    let path = row.image.as_deref().unwrap_or_default();
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let looked_for = row.heat_map_of.clone().unwrap_or_else(|| answer(&row.prediction));
    put(
        html,
        format_args!(
            "<li><img alt=\"Heat map of {}\" src=\"data:image/jpeg;base64,{}\"/><blockquote title=\"{}\">{}</blockquote>",
            Escaped(&name),
            base64(bytes),
            Escaped(path),
            Escaped(&name)
        ),
    );
    let class = if row.right() { "right" } else { "wrong" };
    put(html, format_args!("<p><span>looked for <b class=\"{class}\">{}</b></span>", Escaped(&looked_for)));
    if !row.right() {
        let target = answer(&row.target);
        put(html, format_args!("<span>target <b class=\"right\">{}</b></span>", Escaped(&target)));
    }
    if let Some(score) = row.score {
        put(html, format_args!("<span>score {}</span>", percent(score)));
    }
    html.push_str("</p></li>\n");
}
