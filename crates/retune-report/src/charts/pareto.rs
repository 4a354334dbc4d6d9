//! Quality against time: what each strategy reached and what it took.

use crate::format::{duration, number, tick};
use crate::svg::{Anchor, Scale, Svg, padded};

/// One strategy.
pub(crate) struct Trade {
    pub name: String,
    pub seconds: f64,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    /// Whether it ran to its end; else the point is where it stood when it was dropped.
    pub whole: bool,
    pub chosen: bool,
    /// Whether no other whole run is both faster and as good.
    pub unbeaten: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 48.0;
/// Times further apart than this are drawn on a logarithmic axis.
const WIDE: f64 = 12.0;
/// Between the baselines of two names.
const LINE: f64 = 16.0;

/// The drawing, or nothing where there is nothing to draw.
pub(crate) fn pareto(trades: &[Trade], metric: &str, range: (f64, f64)) -> Option<String> {
    let drawn = |trade: &&Trade| trade.seconds > 0.0 && trade.seconds.is_finite() && trade.value.is_finite();
    let mut trades: Vec<&Trade> = trades.iter().filter(drawn).collect();
    trades.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let (first, last) = (trades.first()?.seconds, trades.last()?.seconds);
    let span = (LEFT, WIDTH - RIGHT);
    let x = if last / first > WIDE {
        Scale::logarithmic((first / 1.3, last * 1.3), span)
    } else {
        Scale::linear((0.0, 1.12 * last), span)
    };
    let ends = |trade: &&Trade| trade.interval.map_or([trade.value; 2], |(low, high)| [low, high]);
    let floor = HEIGHT - BOTTOM;
    let y = Scale::linear(padded(trades.iter().flat_map(ends), range)?, (floor, TOP));
    let mut svg = Svg::new(WIDTH, HEIGHT, &format!("{metric} against seconds of a run, by strategy"));
    let (ticks, step) = y.ticks(6);
    for value in ticks {
        svg.line("grid", (LEFT, y.position(value)), (WIDTH - RIGHT, y.position(value)));
        svg.text("tick", (LEFT - 8.0, y.position(value) + 4.0), Anchor::End, &tick(value, step));
    }
    svg.line("axis", (LEFT, floor), (WIDTH - RIGHT, floor));
    for value in x.ticks(6).0 {
        svg.text("tick", (x.position(value), floor + 18.0), Anchor::Middle, &duration(value));
    }
    svg.text("axis-title", (WIDTH - RIGHT, HEIGHT - 6.0), Anchor::End, "time of a run");
    svg.turned_text("axis-title", (12.0, TOP + 60.0), -90.0, Anchor::Middle, metric);
    let place = |trade: &Trade| (x.position(trade.seconds), y.position(trade.value));
    let line: Vec<(f64, f64)> =
        trades.iter().filter(|trade| trade.unbeaten).map(|trade| place(trade)).collect();
    svg.polyline("line series-3", 0.6, &line);
    for trade in &trades {
        let (at, height) = place(trade);
        let mut tooltip = format!("{}: {} in {}", trade.name, number(trade.value), duration(trade.seconds));
        if let Some((low, high)) = trade.interval {
            svg.line("stem", (at, y.position(low)), (at, y.position(high)));
            for end in [low, high] {
                svg.line("stem", (at - 4.0, y.position(end)), (at + 4.0, y.position(end)));
            }
            tooltip.push_str(&format!(", 95% interval {} to {}", number(low), number(high)));
        }
        let class = match trade {
            Trade { whole: false, .. } => "dot faint",
            Trade { unbeaten: true, .. } => "dot best",
            _ => "dot series-1",
        };
        if trade.chosen {
            svg.circle("ring", (at, height), 9.5, None);
        }
        svg.circle(class, (at, height), 5.5, Some(&tooltip));
    }
    let points: Vec<(f64, f64)> = trades.iter().map(|trade| place(trade)).collect();
    for (trade, label) in trades.iter().zip(labels(&trades, &points)) {
        let class = if trade.chosen { "point-label chosen" } else { "point-label" };
        svg.text(class, (label.x, label.y), label.anchor, &trade.name);
    }
    Some(svg.finish())
}

struct Label {
    x: f64,
    y: f64,
    anchor: Anchor,
}

/// Where the names stand: beside their points, moved up or down where two would lie over each other.
fn labels(trades: &[&Trade], points: &[(f64, f64)]) -> Vec<Label> {
    let mut taken: Vec<(f64, f64, f64)> = Vec::new();
    let mut placed = Vec::with_capacity(trades.len());
    for (trade, &(at, height)) in trades.iter().zip(points) {
        let width = 7.6 * trade.name.chars().count() as f64;
        let to_the_right = at + 16.0 + width < WIDTH;
        let (start, end) =
            if to_the_right { (at + 14.0, at + 14.0 + width) } else { (at - 14.0 - width, at - 14.0) };
        let is_free = |y: f64| {
            taken.iter().all(|&(other_start, other_end, other)| {
                start > other_end || end < other_start || (y - other).abs() >= LINE
            })
        };
        let around = (0..2 * trades.len()).map(|step| {
            let distance = LINE * (step.div_ceil(2)) as f64;
            height + 4.5 + if step % 2 == 0 { distance } else { -distance }
        });
        let y = around
            .into_iter()
            .find(|&y| y > TOP && y < HEIGHT - BOTTOM && is_free(y))
            .unwrap_or(height + 4.5);
        taken.push((start, end, y));
        let (x, anchor) = if to_the_right { (start, Anchor::Start) } else { (end, Anchor::End) };
        placed.push(Label { x, y, anchor });
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trade(name: &str, seconds: f64, value: f64) -> Trade {
        let interval = Some((value - 0.02, value + 0.02));
        Trade { name: name.to_owned(), seconds, value, interval, whole: true, chosen: false, unbeaten: true }
    }

    #[test]
    fn names_of_points_that_lie_together_are_apart() {
        let trades: Vec<Trade> = ["gradual", "full", "last_n = 2"].map(|name| trade(name, 40.0, 0.9)).into();
        let borrowed: Vec<&Trade> = trades.iter().collect();
        let heights: Vec<f64> = labels(&borrowed, &[(200.0, 100.0); 3]).iter().map(|label| label.y).collect();
        for (place, a) in heights.iter().enumerate() {
            assert!(heights[place + 1..].iter().all(|b| (a - b).abs() >= LINE), "{heights:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        assert_eq!(
            pareto(&[trade("head", 3.0, f64::NAN), trade("full", 0.0, 0.5)], "accuracy", (0.0, 1.0)),
            None
        );
        let drawn =
            pareto(&[trade("head", 3.0, 0.8), trade("full", 90.0, 0.9)], "accuracy", (0.0, 1.0)).unwrap();
        assert!(drawn.contains("0.800 in 3") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
