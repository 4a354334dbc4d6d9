//! How lengths are distributed: a bar for each bin, the last one for what is beyond.

use retune_data::Distribution;

use crate::format::count;
use crate::svg::{Anchor, Scale, Svg};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// At most so many bars have their beginning written below.
const LABELS: usize = 7;

/// A bar chart of a distribution's bins; `unit` stands below the axis.
pub(crate) fn distribution(lengths: &Distribution, title: &str, unit: &str) -> Option<String> {
    let most = lengths.bins.iter().map(|bin| bin.count).max()?;
    let y = Scale::linear((0.0, most as f64 * 1.05), (HEIGHT - BOTTOM, TOP));
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    for value in y.ticks(4).0.into_iter().filter(|value| value.fract() == 0.0) {
        svg.line("grid", (LEFT, y.position(value)), (WIDTH - RIGHT, y.position(value)));
        svg.text("tick", (LEFT - 8.0, y.position(value) + 4.0), Anchor::End, &count(value as u64));
    }
    let width = (WIDTH - LEFT - RIGHT) / lengths.bins.len() as f64;
    let step = lengths.bins.len().div_ceil(LABELS);
    for (index, bin) in lengths.bins.iter().enumerate() {
        let left = LEFT + width * index as f64;
        if bin.count > 0 {
            let range = match bin.to {
                Some(to) if to == bin.from + 1 => count(bin.from as u64),
                Some(to) => format!("{} to {}", count(bin.from as u64), count(to as u64 - 1)),
                None => format!("{} and more", count(bin.from as u64)),
            };
            let tooltip = format!("{range}: {}", count(bin.count as u64));
            // A count of one is still a bar that can be seen.
            let height = (HEIGHT - BOTTOM - y.position(bin.count as f64)).max(1.5);
            let class = if bin.to.is_some() { "bar" } else { "bar quiet" };
            let gap = if width > 6.0 { 1.0 } else { 0.3 };
            svg.rect(
                class,
                (left + gap, HEIGHT - BOTTOM - height),
                (width - 2.0 * gap, height),
                1.0,
                Some(&tooltip),
            );
        }
        let is_last = bin.to.is_none();
        let room_before_last =
            lengths.bins.last().is_some_and(|last| last.to.is_some()) || index + step < lengths.bins.len();
        if is_last {
            svg.text("tick", (left + width / 2.0, HEIGHT - BOTTOM + 18.0), Anchor::Middle, "more");
        } else if index % step == 0 && room_before_last {
            let label = count(bin.from as u64);
            svg.text("tick", (left, HEIGHT - BOTTOM + 18.0), Anchor::Middle, &label);
        }
    }
    svg.line("axis", (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM));
    svg.text("axis-title", (WIDTH - RIGHT, HEIGHT - 4.0), Anchor::End, unit);
    Some(svg.finish())
}
