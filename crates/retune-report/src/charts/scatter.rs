//! Predicted against true numbers, and how the errors are distributed.

use crate::format::{count, number, tick};
use crate::svg::{Anchor, Scale, Svg, padded};

const WIDTH: f64 = 460.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// One dot per sample; on the diagonal the prediction is right.
pub(crate) fn scatter(points: &[(f64, f64)]) -> Option<String> {
    let domain =
        padded(points.iter().flat_map(|point| [point.0, point.1]), (f64::NEG_INFINITY, f64::INFINITY))?;
    let height = WIDTH - LEFT - RIGHT + TOP + BOTTOM;
    let x = Scale::linear(domain, (LEFT, WIDTH - RIGHT));
    let y = Scale::linear(domain, (height - BOTTOM, TOP));
    let mut svg = Svg::new(WIDTH, height, "Predicted against true values");
    let (ticks, step) = x.ticks(5);
    for value in ticks {
        svg.line("grid", (LEFT, y.position(value)), (WIDTH - RIGHT, y.position(value)));
        svg.text("tick", (LEFT - 8.0, y.position(value) + 4.0), Anchor::End, &tick(value, step));
        svg.text("tick", (x.position(value), height - BOTTOM + 18.0), Anchor::Middle, &tick(value, step));
    }
    svg.line("axis", (LEFT, height - BOTTOM), (WIDTH - RIGHT, height - BOTTOM));
    svg.line(
        "diagonal",
        (x.position(domain.0), y.position(domain.0)),
        (x.position(domain.1), y.position(domain.1)),
    );
    for &(target, prediction) in points.iter().filter(|point| point.0.is_finite() && point.1.is_finite()) {
        let tooltip = format!("target {}, predicted {}", number(target), number(prediction));
        svg.circle("dot faint", (x.position(target), y.position(prediction)), 3.0, Some(&tooltip));
    }
    svg.text("axis-title", (WIDTH - RIGHT, height - 4.0), Anchor::End, "target");
    svg.turned_text("axis-title", (12.0, height / 2.0), -90.0, Anchor::Middle, "predicted");
    Some(svg.finish())
}

/// How often which error occurs.
pub(crate) fn histogram(values: &[f64], title: &str) -> Option<String> {
    let domain = padded(values.iter().copied(), (f64::NEG_INFINITY, f64::INFINITY))?;
    const BARS: usize = 25;
    let mut bars = [0u64; BARS];
    for value in values.iter().filter(|value| value.is_finite()) {
        let share = (value - domain.0) / (domain.1 - domain.0);
        bars[((share * BARS as f64) as usize).min(BARS - 1)] += 1;
    }
    let most = *bars.iter().max()?;
    let height = 290.0;
    let x = Scale::linear(domain, (LEFT, WIDTH - RIGHT));
    let y = Scale::linear((0.0, most as f64 * 1.05), (height - BOTTOM, TOP));
    let mut svg = Svg::new(WIDTH, height, title);
    for value in y.ticks(4).0.into_iter().filter(|value| value.fract() == 0.0) {
        svg.line("grid", (LEFT, y.position(value)), (WIDTH - RIGHT, y.position(value)));
        svg.text("tick", (LEFT - 8.0, y.position(value) + 4.0), Anchor::End, &count(value as u64));
    }
    let width = (WIDTH - LEFT - RIGHT) / BARS as f64;
    for (index, &samples) in bars.iter().enumerate().filter(|(_, samples)| **samples > 0) {
        let at = y.position(samples as f64);
        let left = LEFT + width * index as f64 + 1.0;
        svg.rect("bar", (left, at), (width - 2.0, height - BOTTOM - at), 1.0, Some(&count(samples)));
    }
    svg.line("axis", (LEFT, height - BOTTOM), (WIDTH - RIGHT, height - BOTTOM));
    let (ticks, step) = x.ticks(6);
    for value in ticks {
        svg.text("tick", (x.position(value), height - BOTTOM + 18.0), Anchor::Middle, &tick(value, step));
    }
    svg.text("axis-title", (WIDTH - RIGHT, height - 4.0), Anchor::End, "prediction − target");
    Some(svg.finish())
}
