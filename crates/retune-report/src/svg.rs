//! A small writer of inline SVG, and axes. Colours come from the page's CSS classes, so that one drawing
//! serves the light and the dark theme; every text and tooltip is escaped here.

use std::fmt::Write;

use crate::format::Escaped;

/// A drawing of fixed inner size that scales with the page.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

/// Which end of a text stands at its point.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty drawing; `label` is what a screen reader says of it.
    pub fn new(width: f64, height: f64, label: &str) -> Svg {
        Svg { width, height, label: label.to_owned(), body: String::new() }
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// A rectangle with an opacity and, where given, a tooltip.
    pub fn rect(
        &mut self,
        class: &str,
        corner: (f64, f64),
        size: (f64, f64),
        opacity: f64,
        tooltip: Option<&str>,
    ) {
        let ((x, y), (width, height)) = (corner, (size.0.max(0.0), size.1.max(0.0)));
        let opacity = if opacity < 1.0 { format!(r#" fill-opacity="{opacity:.3}""#) } else { String::new() };
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"{opacity}"#
        ));
        self.close("rect", tooltip);
    }

    pub fn circle(&mut self, class: &str, centre: (f64, f64), radius: f64, tooltip: Option<&str>) {
        let (x, y) = centre;
        self.push(format_args!(r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}""#));
        self.close("circle", tooltip);
    }

    /// A line through points; a point that is not finite interrupts it.
    pub fn polyline(&mut self, class: &str, opacity: f64, points: &[(f64, f64)]) {
        let mut path = String::new();
        let mut drawing = false;
        for &(x, y) in points {
            if !(x.is_finite() && y.is_finite()) {
                drawing = false;
                continue;
            }
            let command = if drawing { 'L' } else { 'M' };
            // Writing to a String cannot fail.
            let _ = write!(path, "{command}{x:.1} {y:.1}");
            drawing = true;
        }
        let opacity =
            if opacity < 1.0 { format!(r#" stroke-opacity="{opacity:.2}""#) } else { String::new() };
        self.push(format_args!(r#"<path class="{class}" d="{path}"{opacity}/>"#));
    }

    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let ((x, y), text) = (at, Escaped(text));
        self.push(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// A text turned up along the vertical axis (reading upwards) or at `degrees`.
    pub fn turned_text(&mut self, class: &str, at: (f64, f64), degrees: f64, anchor: Anchor, text: &str) {
        let anchor = if matches!(anchor, Anchor::Middle) { "middle" } else { "start" };
        let ((x, y), text) = (at, Escaped(text));
        self.push(format_args!(
            r#"<text class="{class}" transform="translate({x:.1} {y:.1}) rotate({degrees})" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// The whole element.
    pub fn finish(self) -> String {
        let (width, height, label) = (self.width, self.height, Escaped(&self.label));
        format!(
            r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{label}">{}</svg>"#,
            self.body
        )
    }

    fn push(&mut self, arguments: std::fmt::Arguments) {
        let _ = self.body.write_fmt(arguments);
    }

    fn close(&mut self, element: &str, tooltip: Option<&str>) {
        match tooltip {
            Some(tooltip) => self.push(format_args!("><title>{}</title></{element}>", Escaped(tooltip))),
            None => self.push(format_args!("/>")),
        }
    }
}

/// A straight or logarithmic map from data to drawing units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    domain: (f64, f64),
    range: (f64, f64),
    logarithmic: bool,
}

impl Scale {
    pub fn linear(domain: (f64, f64), range: (f64, f64)) -> Scale {
        let domain = if domain.1 > domain.0 { domain } else { (domain.0 - 0.5, domain.0 + 0.5) };
        Scale { domain, range, logarithmic: false }
    }

    /// Both ends of the domain must be positive.
    pub fn logarithmic(domain: (f64, f64), range: (f64, f64)) -> Scale {
        let domain = if domain.1 > domain.0 { domain } else { (domain.0 / 2.0, domain.0 * 2.0) };
        Scale { domain, range, logarithmic: true }
    }

    pub fn position(&self, value: f64) -> f64 {
        let warp = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (low, high) = (warp(self.domain.0), warp(self.domain.1));
        let share = (warp(value) - low) / (high - low);
        self.range.0 + share * (self.range.1 - self.range.0)
    }

    /// Round values inside the domain, about `wanted` of them, with the distance between neighbours.
    pub fn ticks(&self, wanted: usize) -> (Vec<f64>, f64) {
        let (low, high) = self.domain;
        if self.logarithmic {
            let decades = high.log10() - low.log10();
            let multiples: &[f64] = if decades < 1.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
            let values =
                exponents.flat_map(|exponent| multiples.iter().map(move |m| m * 10f64.powi(exponent)));
            return (values.filter(|value| (low..=high).contains(value)).collect(), low);
        }
        let step = nice_step((high - low) / wanted.max(1) as f64);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        ((first..=last).map(|index| index as f64 * step).collect(), step)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|nice| *nice >= step * 0.999)
        .unwrap_or(10.0 * power)
}

/// A domain that holds all values with a little air, widened to round numbers.
pub(crate) fn padded(values: impl Iterator<Item = f64>, limits: (f64, f64)) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return None;
    }
    let air = 0.06 * (high - low).max(1e-9_f64.max(0.02 * high.abs()));
    let step = nice_step((high - low + 2.0 * air) / 5.0);
    let low = ((low - air) / step).floor() * step;
    let high = ((high + air) / step).ceil() * step;
    Some((low.max(limits.0), high.min(limits.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let (ticks, step) = Scale::linear((0.0, 430.0), (0.0, 1.0)).ticks(5);
        assert_eq!((ticks, step), (vec![0.0, 100.0, 200.0, 300.0, 400.0], 100.0));
        let (ticks, _) = Scale::logarithmic((1e-6, 1e-3), (0.0, 1.0)).ticks(5);
        assert_eq!(ticks.len(), 4);
    }

    #[test]
    fn a_single_value_still_has_a_scale() {
        let scale = Scale::linear((3.0, 3.0), (0.0, 100.0));
        assert_eq!(scale.position(3.0), 50.0);
        assert!(padded([2.0].into_iter(), (0.0, 10.0)).is_some());
        assert_eq!(padded([f64::NAN].into_iter(), (0.0, 1.0)), None);
    }

    #[test]
    fn text_and_tooltips_are_escaped() {
        let mut svg = Svg::new(10.0, 10.0, "a \"b\" <c>");
        svg.text("tick", (0.0, 0.0), Anchor::Start, "<script>");
        svg.rect("bar", (0.0, 0.0), (1.0, 1.0), 0.5, Some("</title>&"));
        let text = svg.finish();
        assert!(!text.contains("<script>") && text.contains("&lt;/title&gt;&amp;"));
        assert!(roxmltree::Document::parse(&text).is_ok());
    }
}
