//! The result and its interval on one scale with the baselines: the picture of the headline.

use crate::format::{number, percent, tick};
use crate::svg::{Anchor, Scale, Svg, padded};
use crate::verdict::MainResult;

/// A number line with the result, its interval and its baselines.
pub(crate) fn interval_scale(result: &MainResult) -> Option<String> {
    let share = result.metric.range == (0.0, 1.0);
    let percents = result.metric.name == "accuracy";
    let domain = if share {
        (0.0, 1.0)
    } else {
        let ends = result.interval.iter().flat_map(|interval| [interval.low, interval.high]);
        let values =
            ends.chain([result.value, 0.0]).chain(result.baselines.iter().map(|baseline| baseline.1));
        padded(values, result.metric.range)?
    };
    let (width, left, right) = (720.0, 14.0, 14.0);
    let x = Scale::linear(domain, (left, width - right));
    let show = |value: f64| if percents { percent(value) } else { number(value) };
    let axis = 64.0 + 25.0 * result.baselines.len() as f64;
    let mut svg = Svg::new(width, axis + 26.0, "The result and its 95% interval beside the baselines");
    let (ticks, step) = x.ticks(5);
    for value in ticks {
        let at = x.position(value);
        svg.line("grid", (at, 34.0), (at, axis));
        let label = if percents { format!("{:.0}%", 100.0 * value) } else { tick(value, step) };
        let anchor = if at < left + 10.0 {
            Anchor::Start
        } else if at > width - right - 10.0 {
            Anchor::End
        } else {
            Anchor::Middle
        };
        svg.text("tick", (at, axis + 18.0), anchor, &label);
    }
    svg.line("axis", (left, axis), (width - right, axis));
    let at = x.position(result.value);
    if let Some(interval) = result.interval {
        let (low, high) = (x.position(interval.low), x.position(interval.high));
        svg.rect("interval", (low, 34.0), ((high - low).max(2.0), 20.0), 1.0, None);
    }
    svg.line("result", (at, 30.0), (at, 58.0));
    let anchor = if at > width - 150.0 {
        Anchor::End
    } else if at < 150.0 {
        Anchor::Start
    } else {
        Anchor::Middle
    };
    svg.text("result-label", (at, 20.0), anchor, &format!("this model {}", show(result.value)));
    for (index, (name, value)) in result.baselines.iter().enumerate() {
        let (at, y) = (x.position(*value), 72.0 + 25.0 * index as f64);
        svg.line("stem", (at, y), (at, axis));
        svg.circle("dot baseline", (at, y), 4.5, None);
        let text = format!("{name} {}", show(*value));
        let room = at + 16.0 + 7.5 * text.chars().count() as f64;
        if room < width {
            svg.text("baseline-label", (at + 10.0, y + 4.5), Anchor::Start, &text);
        } else {
            svg.text("baseline-label", (at - 10.0, y + 4.5), Anchor::End, &text);
        }
    }
    Some(svg.finish())
}
