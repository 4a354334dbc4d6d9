//! Position embeddings for pictures of another size: cubic interpolation over the grid of patches, as the ecosystem that
//! a checkpoint comes from computes it.

use super::{Layout, PositionTable};

/// Where values are read, and how far around.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Grid {
    /// The corner patches keep their places (torchvision's `interpolate_embeddings`).
    Corners,
    /// Patches are areas (`interpolate_pos_encoding` of `transformers`).
    Areas,
    /// Patches are areas, and where there become fewer, all of them are read (timm's `resample_abs_pos_embed`).
    Antialiased,
}

impl From<Layout> for Grid {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Torchvision => Self::Corners,
            Layout::Timm => Self::Antialiased,
            Layout::HuggingFace => Self::Areas,
        }
    }
}

/// The table [1, tokens + from², width] for another number of patches, [1, tokens + to², width]; `None` if the shapes are
/// not those of square grids.
pub(super) fn resample(
    table: PositionTable,
    [from, to]: [&[usize]; 2],
    layout: Layout,
    values: &[f32],
) -> Option<Vec<f32>> {
    let (&[1, from, width], &[1, to, same]) = (from, to) else { return None };
    let side = |rows: usize| {
        let patches = rows.checked_sub(table.tokens)?;
        let side = patches.isqrt();
        (side > 0 && side * side == patches).then_some(side)
    };
    let (from, to) = (side(from)?, side(to)?);
    if width != same {
        return None;
    }
    let (tokens, patches) = values.split_at_checked(table.tokens * width)?;
    let weights = weights(from, to, layout.into());
    let mut resampled = tokens.to_vec();
    // Rows first, into [to, from, width].
    let rows = weighted_sums(&weights, patches, from * width);
    for row in rows.chunks_exact(from * width) {
        resampled.extend(weighted_sums(&weights, row, width));
    }
    Some(resampled)
}

/// Each output's sum of the inputs' `width` values, by its weights.
fn weighted_sums(weights: &[Vec<f64>], inputs: &[f32], width: usize) -> Vec<f32> {
    let mut sums = Vec::with_capacity(weights.len() * width);
    for weights in weights {
        let at = |column: usize| -> f64 {
            let terms = weights.iter().zip(inputs.chunks_exact(width));
            terms.filter(|(weight, _)| **weight != 0.0).map(|(weight, x)| weight * f64::from(x[column])).sum()
        };
        sums.extend((0..width).map(|column| at(column) as f32));
    }
    sums
}

/// How much of each of `from` values is in each of `to`.
fn weights(from: usize, to: usize, grid: Grid) -> Vec<Vec<f64>> {
    let step = from as f64 / to as f64;
    let of = |index: usize| {
        let mut weights = vec![0.0; from];
        let last = from as i64 - 1;
        if grid == Grid::Antialiased {
            let (centre, reach) = ((index as f64 + 0.5) * step, step.max(1.0));
            let distance = |at: usize| (at as f64 + 0.5 - centre) / reach;
            for (at, weight) in weights.iter_mut().enumerate() {
                *weight = cubic(distance(at), -0.5);
            }
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            return weights;
        }
        let place = match grid {
            Grid::Corners if to == 1 => 0.0,
            Grid::Corners => index as f64 * last as f64 / (to - 1) as f64,
            _ => (index as f64 + 0.5) * step - 0.5,
        };
        let first = place.floor() as i64 - 1;
        for at in first..first + 4 {
            weights[at.clamp(0, last) as usize] += cubic(at as f64 - place, -0.75);
        }
        weights
    };
    (0..to).map(of).collect()
}

/// The cubic convolution kernel with parameter `a` (Keys 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retune_testing::counter_normal_like;
    use serde_json::Value;

    #[test]
    fn tables_are_interpolated_as_each_ecosystem_does_it() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/positions.json");
        let cases: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as usize;
            let (from, to, width, tokens) = (number("from"), number("to"), number("width"), number("tokens"));
            let values = counter_normal_like("positions", (tokens + from * from) * width, 1.0);
            let shapes = [[1, tokens + from * from, width], [1, tokens + to * to, width]];
            let layout: Layout = serde_json::from_value(case["layout"].clone()).unwrap();
            let table = PositionTable { name: "positions", tokens };
            let ours = resample(table, [&shapes[0], &shapes[1]], layout, &values).unwrap();
            let theirs = case["values"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                let theirs = theirs.as_f64().unwrap();
                assert!(
                    (f64::from(*ours) - theirs).abs() < 2e-6,
                    "{layout:?} {from} to {to}: {ours}, {theirs}"
                );
            }
        }
    }

    #[test]
    fn a_table_that_is_no_square_is_left_alone() {
        let table = PositionTable { name: "positions", tokens: 1 };
        let resample = |from: &[usize], to: &[usize]| {
            resample(table, [from, to], Layout::Timm, &vec![0.0; from.iter().product()])
        };
        assert!(resample(&[1, 5, 2], &[1, 10, 2]).is_some());
        assert!(resample(&[1, 6, 2], &[1, 10, 2]).is_none());
        assert!(resample(&[1, 5, 2], &[1, 10, 3]).is_none());
        assert!(resample(&[5, 2], &[1, 10, 2]).is_none());
    }
}
