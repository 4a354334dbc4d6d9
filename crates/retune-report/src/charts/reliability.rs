//! The reliability diagram: stated confidence against share right, with how many predictions each bar stands on.

use retune_tasks::metrics::ReliabilityBin;

use crate::format::{count, percent};
use crate::svg::{Anchor, Scale, Svg};

/// Bars of the share right per confidence bin against the diagonal of a perfectly calibrated model.
pub(crate) fn reliability_diagram(bins: &[ReliabilityBin], vertical_title: &str) -> Option<String> {
    let most = bins.iter().map(|bin| bin.count).max().filter(|&most| most > 0)?;
    let (width, left, right, top, plot, strip) = (460.0, 70.0, 14.0, 14.0, 290.0, 54.0);
    let height = top + plot + 22.0 + strip + 40.0;
    let x = Scale::linear((0.0, 1.0), (left, width - right));
    let y = Scale::linear((0.0, 1.0), (top + plot, top));
    let mut svg = Svg::new(width, height, "Reliability diagram: confidence against share right");
    for part in 0..=5 {
        let share = f64::from(part) / 5.0;
        svg.line("grid", (left, y.position(share)), (width - right, y.position(share)));
        svg.text(
            "tick",
            (left - 8.0, y.position(share) + 4.0),
            Anchor::End,
            &format!("{:.0}%", 100.0 * share),
        );
        let anchor = if part == 5 { Anchor::End } else { Anchor::Middle };
        let at = if part == 5 { width - right } else { x.position(share) };
        svg.text("tick", (at, height - 22.0), anchor, &format!("{:.0}%", 100.0 * share));
    }
    let strip_bottom = top + plot + 22.0 + strip;
    for bin in bins {
        let (Some(accuracy), Some(confidence)) = (bin.accuracy, bin.confidence) else { continue };
        let (from, to) = (x.position(bin.lower) + 1.5, x.position(bin.upper) - 1.5);
        let tooltip = format!(
            "confidence {}: {} right, {} predictions",
            percent(confidence),
            percent(accuracy),
            count(bin.count)
        );
        let top_edge = y.position(accuracy);
        svg.rect("bar", (from, top_edge), (to - from, y.position(0.0) - top_edge), 1.0, Some(&tooltip));
        let tall = (strip * bin.count as f64 / most as f64).max(1.0);
        svg.rect("bar quiet", (from, strip_bottom - tall), (to - from, tall), 1.0, Some(&tooltip));
    }
    svg.line("diagonal", (x.position(0.0), y.position(0.0)), (x.position(1.0), y.position(1.0)));
    svg.line("axis", (left, y.position(0.0)), (width - right, y.position(0.0)));
    svg.line("axis", (left, strip_bottom), (width - right, strip_bottom));
    svg.turned_text("axis-title", (12.0, top + plot / 2.0), -90.0, Anchor::Middle, vertical_title);
    svg.text("tick", (left - 8.0, strip_bottom - strip + 10.0), Anchor::End, &count(most));
    svg.text("axis-title", (width - right, height - 4.0), Anchor::End, "stated confidence");
    Some(svg.finish())
}
