//! Curves over training steps with stage boundaries and the best checkpoint.

use crate::format::{count, tick};
use crate::svg::{Anchor, Scale, Svg, padded};

/// How many points of a curve are drawn at most; more are averaged in buckets.
const POINTS: usize = 500;

/// One curve.
pub(crate) struct Series {
    /// CSS class that gives its colour (`series-1` …).
    pub class: String,
    /// (step, value), ascending steps; a value that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// Whether each point gets a dot.
    pub dots: bool,
    /// Opacity of the line.
    pub opacity: f64,
}

/// A vertical line at a step.
pub(crate) struct Mark {
    pub step: f64,
    pub label: String,
    /// The best checkpoint rather than a stage boundary.
    pub best: bool,
}

/// Curves over steps.
pub(crate) struct LineChart<'a> {
    pub label: &'a str,
    pub series: Vec<Series>,
    pub marks: &'a [Mark],
    /// Smallest and largest value that make sense.
    pub limits: (f64, f64),
    pub logarithmic: bool,
    pub last_step: f64,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;

impl LineChart<'_> {
    /// The drawing, or nothing where there is nothing to draw.
    pub fn draw(&self) -> Option<String> {
        let values = || self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let vertical = (HEIGHT - BOTTOM, TOP);
        let y = if self.logarithmic {
            let positive = || values().filter(|value| *value > 0.0 && value.is_finite());
            let (low, high) = (positive().reduce(f64::min)?, positive().reduce(f64::max)?);
            Scale::logarithmic((low / 1.3, high * 1.3), vertical)
        } else {
            Scale::linear(padded(values(), self.limits)?, vertical)
        };
        let x = Scale::linear((0.0, self.last_step.max(1.0)), (LEFT, WIDTH - RIGHT));
        let mut svg = Svg::new(WIDTH, HEIGHT, self.label);
        let (ticks, step) = y.ticks(5);
        for value in ticks {
            let at = y.position(value);
            svg.line("grid", (LEFT, at), (WIDTH - RIGHT, at));
            let label = if self.logarithmic { tick(value, value) } else { tick(value, step) };
            svg.text("tick", (LEFT - 8.0, at + 4.0), Anchor::End, &label);
        }
        svg.line("axis", (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM));
        for value in x.ticks(5).0.into_iter().filter(|value| value.fract() == 0.0) {
            svg.text(
                "tick",
                (x.position(value), HEIGHT - BOTTOM + 18.0),
                Anchor::Middle,
                &count(value as u64),
            );
        }
        svg.text("axis-title", (WIDTH - RIGHT, HEIGHT - 4.0), Anchor::End, "step");
        self.draw_marks(&mut svg, &x);
        for series in &self.series {
            let position = |&(step, value): &(f64, f64)| {
                let outside = self.logarithmic && value <= 0.0;
                (x.position(step), if outside { f64::NAN } else { y.position(value) })
            };
            let points: Vec<(f64, f64)> = bucketed(&series.points).iter().map(position).collect();
            svg.polyline(&format!("line {}", series.class), series.opacity, &points);
            if series.dots {
                for point in series.points.iter().filter(|point| point.1.is_finite()) {
                    let tooltip =
                        format!("step {}: {}", count(point.0 as u64), crate::format::number(point.1));
                    svg.circle(&format!("dot {}", series.class), position(point), 3.2, Some(&tooltip));
                }
            }
        }
        Some(svg.finish())
    }

    fn draw_marks(&self, svg: &mut Svg, x: &Scale) {
        let mut free_from = f64::NEG_INFINITY;
        for mark in self.marks {
            let at = x.position(mark.step);
            let class = if mark.best { "mark-best" } else { "mark-stage" };
            svg.line(class, (at, TOP - if mark.best { 4.0 } else { 18.0 }), (at, HEIGHT - BOTTOM));
            if mark.best {
                svg.circle("dot best", (at, TOP - 8.0), 4.0, Some(&mark.label));
            } else if at >= free_from {
                let label = crate::format::shortened(&mark.label, 16);
                svg.text("mark-label", (at + 4.0, TOP - 20.0), Anchor::Start, &label);
                free_from = at + 8.0 + 7.0 * label.chars().count() as f64;
            }
        }
    }
}

/// At most [`POINTS`] points, each the mean of its neighbours.
fn bucketed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    points
        .chunks(points.len().div_ceil(POINTS))
        .map(|chunk| {
            let length = chunk.len() as f64;
            let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
            (sum.0 / length, sum.1 / length)
        })
        .collect()
}

/// An exponential moving average over about `window` points, without the pull of its start.
pub(crate) fn smoothed(points: &[(f64, f64)], window: f64) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / window.max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(step, value)| {
            if !value.is_finite() {
                return (step, value);
            }
            sum = keep * sum + (1.0 - keep) * value;
            weight = keep * weight + (1.0 - keep);
            (step, sum / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_what_it_is_when_smoothed() {
        let points: Vec<(f64, f64)> = (0..20).map(|step| (f64::from(step), 2.5)).collect();
        assert!(smoothed(&points, 8.0).iter().all(|point| (point.1 - 2.5).abs() < 1e-12));
    }

    #[test]
    fn a_million_steps_are_drawn_as_a_few_hundred_points() {
        let points: Vec<(f64, f64)> = (0..1_000_000).map(|step| (f64::from(step), 1.0)).collect();
        assert!(bucketed(&points).len() <= POINTS);
    }

    #[test]
    fn nothing_finite_is_no_chart() {
        let series =
            Series { class: "series-1".into(), points: vec![(0.0, f64::NAN)], dots: true, opacity: 1.0 };
        let chart = LineChart {
            label: "loss",
            series: vec![series],
            marks: &[],
            limits: (0.0, 1.0),
            logarithmic: false,
            last_step: 0.0,
        };
        assert_eq!(chart.draw(), None);
    }
}
