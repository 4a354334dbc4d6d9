//! The confusion matrix as a heat map, from 2 classes to a few hundred.

use retune_tasks::metrics::ConfusionMatrix;

use crate::format::{count, percent, shortened};
use crate::svg::{Anchor, Svg};

/// Up to how many classes cells carry numbers.
const NUMBERED: usize = 16;
/// Up to how many classes rows and columns carry names.
const NAMED: usize = 48;

/// Rows are targets, columns predictions; a cell is as dark as its share of the row. Right answers and
/// errors have different colours, and small shares are lifted (square root) so that rare errors are seen.
pub(crate) fn heat_map(matrix: &ConfusionMatrix) -> String {
    let classes = matrix.labels.len();
    let cell = match classes {
        0..=3 => 92.0,
        4..=8 => 58.0,
        9..=16 => 44.0,
        17..=48 => 18.0,
        _ => (820.0 / classes as f64).max(3.0),
    };
    let name_length = if classes <= NUMBERED { 20 } else { 16 };
    let names: Vec<String> = matrix.labels.iter().map(|label| shortened(label, name_length)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
    let named = classes <= NAMED;
    let letter = if classes <= NUMBERED { 7.2 } else { 6.4 };
    let left = if named { 34.0 + letter * longest } else { 30.0 };
    let turned = named && letter * longest > cell - 8.0;
    let top = match (named, turned) {
        (false, _) => 30.0,
        (true, false) => 48.0,
        (true, true) => 38.0 + 0.72 * letter * longest,
    };
    let side = cell * classes as f64;
    let overhang = if turned { 0.72 * letter * longest } else { 8.0 };
    let mut svg = Svg::new(
        left + side + overhang,
        top + side + 8.0,
        "Confusion matrix: rows are targets, columns are predictions",
    );
    svg.text("axis-title", (left, 14.0), Anchor::Start, "predicted");
    svg.turned_text("axis-title", (14.0, top + side / 2.0), -90.0, Anchor::Middle, "target");
    let name_class = if classes <= NUMBERED { "cell-name" } else { "cell-name small" };
    let gap = if cell > 10.0 { 1.5 } else { 0.0 };
    for (target, row) in matrix.matrix.iter().enumerate() {
        let total: u64 = row.iter().sum();
        let y = top + cell * target as f64;
        if named {
            svg.text(name_class, (left - 8.0, y + cell / 2.0 + 4.0), Anchor::End, &names[target]);
            let middle = left + cell * (target as f64 + 0.5);
            if turned {
                svg.turned_text(name_class, (middle + 2.0, top - 8.0), -45.0, Anchor::Start, &names[target]);
            } else {
                svg.text(name_class, (middle, top - 10.0), Anchor::Middle, &names[target]);
            }
        }
        svg.rect("cell-empty", (left, y), (side, cell), 1.0, None);
        for (prediction, &samples) in row.iter().enumerate().filter(|(_, samples)| **samples > 0) {
            let share = samples as f64 / total as f64;
            let right = target == prediction;
            let x = left + cell * prediction as f64;
            let opacity = share.sqrt().max(0.12);
            let tooltip = format!(
                "{} predicted as {}: {} of {} ({})",
                matrix.labels[target],
                matrix.labels[prediction],
                count(samples),
                count(total),
                percent(share)
            );
            let class = if right { "cell-right" } else { "cell-wrong" };
            svg.rect(
                class,
                (x + gap, y + gap),
                (cell - 2.0 * gap, cell - 2.0 * gap),
                opacity,
                Some(&tooltip),
            );
            if classes <= NUMBERED {
                let class = if opacity > 0.6 { "cell-number on-dark" } else { "cell-number" };
                svg.text(class, (x + cell / 2.0, y + cell / 2.0 + 4.5), Anchor::Middle, &count(samples));
            }
        }
    }
    svg.finish()
}
