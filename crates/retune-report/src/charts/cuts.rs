//! How well features classify at each depth of a backbone, a row per cut.

use crate::format::{percent, percent_range, shortened};
use crate::svg::{Anchor, Scale, Svg, padded};

/// What features below a layer group say.
pub(crate) struct CutRow {
    pub name: String,
    pub linear_probe: f64,
    pub interval: Option<(f64, f64)>,
    pub nearest_neighbours: f64,
    pub best: bool,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 8.0;
const ROW: f64 = 28.0;
const BOTTOM: f64 = 40.0;

/// The drawing, or nothing where there is nothing to draw. Rows are in depth order, the input's first.
pub(crate) fn cut_rows(rows: &[CutRow], label: &str) -> Option<String> {
    let values = rows.iter().flat_map(|row| {
        let (low, high) = row.interval.unwrap_or((row.linear_probe, row.linear_probe));
        [low, high, row.linear_probe, row.nearest_neighbours]
    });
    let domain = padded(values, (0.0, 1.0))?;
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let floor = height - BOTTOM;
    let x = Scale::linear(domain, (LEFT, WIDTH - RIGHT));
    let mut svg = Svg::new(WIDTH, height, label);
    for value in x.ticks(6).0 {
        svg.line("grid", (x.position(value), TOP), (x.position(value), floor));
        let shown = format!("{:.0}%", 100.0 * value);
        svg.text("tick", (x.position(value), floor + 18.0), Anchor::Middle, &shown);
    }
    svg.line("axis", (LEFT, floor), (WIDTH - RIGHT, floor));
    svg.text("axis-title", (WIDTH - RIGHT, height - 4.0), Anchor::End, "right on validation samples");
    for (place, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (place as f64 + 0.5);
        let class = if row.best { "point-label chosen" } else { "point-label" };
        svg.text(class, (LEFT - 14.0, y + 4.5), Anchor::End, &shortened(&row.name, 26));
        let mut tooltip = format!("linear probe {}", percent(row.linear_probe));
        if let Some((low, high)) = row.interval {
            svg.line("stem", (x.position(low), y), (x.position(high), y));
            tooltip.push_str(&format!(", 95% interval {}", percent_range(low, high)));
        }
        let neighbours = format!("nearest neighbours {}", percent(row.nearest_neighbours));
        svg.circle("dot series-2", (x.position(row.nearest_neighbours), y), 4.0, Some(&neighbours));
        let class = if row.best { "dot best" } else { "dot series-1" };
        svg.circle(class, (x.position(row.linear_probe), y), 5.0, Some(&tooltip));
    }
    Some(svg.finish())
}
