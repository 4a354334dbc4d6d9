//! Held-out loss against learning rate: what a search saw, and what it chose.

use crate::format::{learning_rate, number, tick};
use crate::svg::{Anchor, Scale, Svg, padded};

/// One rate that was tried.
pub(crate) struct Rate {
    pub rate: f64,
    /// Mean held-out loss; `None` where training diverged.
    pub loss: Option<f64>,
    /// Standard error of its difference to the best rate's.
    pub standard_error: f64,
    /// Whether it is the best or within noise of it.
    pub good: bool,
}

/// What a search for a learning rate saw.
pub(crate) struct RateChart {
    /// In rising order.
    pub rates: Vec<Rate>,
    /// The rates within noise of the best, lowest and highest.
    pub range: (f64, f64),
    pub chosen: f64,
    pub loss_before: Option<f64>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

impl RateChart {
    /// The drawing, or nothing where there is nothing to draw.
    pub fn draw(&self) -> Option<String> {
        let usable = |rate: &&Rate| rate.rate > 0.0 && rate.rate.is_finite();
        let rates: Vec<&Rate> = self.rates.iter().filter(usable).collect();
        let (lowest, highest) = (rates.first()?.rate, rates.last()?.rate);
        let x = Scale::logarithmic((lowest / 1.5, highest * 1.5), (LEFT, WIDTH - RIGHT));
        // A loss far above that before training would leave no room for the rest.
        let ceiling = self.loss_before.map_or(f64::INFINITY, |loss| 1.25 * loss);
        let ends = rates.iter().filter_map(|rate| rate.loss.map(|loss| (loss, rate.standard_error)));
        let ends = ends.flat_map(|(loss, error)| [loss - error, loss + error]).map(|end| end.min(ceiling));
        let domain = padded(ends.chain(self.loss_before), (0.0, f64::INFINITY))?;
        let y = Scale::linear(domain, (HEIGHT - BOTTOM, TOP));
        let mut svg = Svg::new(WIDTH, HEIGHT, "Held-out loss after a short burst, by learning rate");
        let (low, high) = (x.position(self.range.0 / 1.2), x.position(self.range.1 * 1.2));
        svg.rect("interval", (low, TOP), (high - low, HEIGHT - BOTTOM - TOP), 1.0, None);
        let (ticks, step) = y.ticks(5);
        for value in ticks {
            let at = y.position(value);
            svg.line("grid", (LEFT, at), (WIDTH - RIGHT, at));
            svg.text("tick", (LEFT - 8.0, at + 4.0), Anchor::End, &tick(value, step));
        }
        let floor = HEIGHT - BOTTOM;
        svg.line("axis", (LEFT, floor), (WIDTH - RIGHT, floor));
        for value in x.ticks(5).0 {
            svg.text("tick", (x.position(value), floor + 18.0), Anchor::Middle, &learning_rate(value));
        }
        svg.text("axis-title", (WIDTH - RIGHT, HEIGHT - 4.0), Anchor::End, "learning rate");
        if let Some(before) = self.loss_before.map(|loss| y.position(loss)) {
            svg.line("mark-stage", (LEFT, before), (WIDTH - RIGHT, before));
            svg.text("mark-label", (LEFT + 6.0, before - 5.0), Anchor::Start, "before training");
        }
        let at = x.position(self.chosen);
        svg.line("mark-best", (at, TOP - 4.0), (at, floor));
        svg.text("mark-label", (at, TOP - 10.0), Anchor::Middle, &learning_rate(self.chosen));
        let height = |loss: f64| y.position(loss.min(domain.1));
        let place = |rate: &&Rate| (x.position(rate.rate), rate.loss.map_or(f64::NAN, height));
        let points: Vec<(f64, f64)> = rates.iter().map(place).collect();
        svg.polyline("line series-1", 0.5, &points);
        for (rate, point) in rates.iter().zip(points) {
            let Some(loss) = rate.loss else {
                svg.text("mark-label", (x.position(rate.rate), TOP + 12.0), Anchor::Middle, "diverged");
                continue;
            };
            let error = rate.standard_error;
            svg.line("stem", (point.0, height(loss - error)), (point.0, height(loss + error)));
            let tooltip = format!("{}: {} ± {}", learning_rate(rate.rate), number(loss), number(error));
            let class = if rate.good { "dot best" } else { "dot series-1" };
            svg.circle(class, point, 4.0, Some(&tooltip));
        }
        Some(svg.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: f64, loss: Option<f64>) -> Rate {
        Rate { rate, loss, standard_error: 0.01, good: false }
    }

    #[test]
    fn a_loss_that_ran_away_leaves_room_for_the_rest() {
        let chart = |last: Option<f64>| RateChart {
            rates: vec![rate(1e-5, Some(0.7)), rate(1e-4, Some(0.5)), rate(1e-3, last)],
            range: (1e-4, 1e-4),
            chosen: 1e-4,
            loss_before: Some(0.69),
        };
        let drawn = chart(Some(900.0)).draw().unwrap();
        assert!(!drawn.contains("900") || drawn.contains("<title>"), "{drawn}");
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        // The other points lie where they would lie beside a loss at the ceiling.
        let dots = |text: &str| {
            let circles =
                text.split("<circle").skip(1).take(2).map(|part| part.split("r=").next().unwrap().to_owned());
            circles.collect::<Vec<_>>()
        };
        assert_eq!(dots(&drawn), dots(&chart(Some(1e6)).draw().unwrap()));
        assert!(chart(None).draw().unwrap().contains("diverged"));
    }

    #[test]
    fn no_rate_is_no_chart() {
        let chart = RateChart { rates: Vec::new(), range: (1.0, 1.0), chosen: 1.0, loss_before: None };
        assert_eq!(chart.draw(), None);
    }
}
