//! Comparing fast results with reference ones, and gradients with finite differences.

/// The values in f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Checks `|actual - expected| <= absolute + relative · |expected|` for every element.
///
/// # Panics
/// Where an element is further off (or exactly one of the two is not finite), naming it; or if lengths differ.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let a = f64::from(a);
        let close = (a - e).abs() <= absolute + relative * e.abs() || a == e || (a.is_nan() && e.is_nan());
        assert!(close, "{what}: element {i} is {a}, the reference says {e} (off by {})", (a - e).abs());
    }
}

/// Checks a gradient of a scalar function against central differences, in f64.
///
/// # Panics
/// Where an element is off by more than `tolerance · (1 + |difference|)`, naming it.
#[track_caller]
pub fn assert_gradient(what: &str, x: &[f64], gradient: &[f64], tolerance: f64, f: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}: lengths differ");
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let step = 1e-5 * (1.0 + x[i].abs());
        moved[i] = x[i] + step;
        let above = f(&moved);
        moved[i] = x[i] - step;
        let below = f(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * step);
        assert!(
            (gradient[i] - difference).abs() <= tolerance * (1.0 + difference.abs()),
            "{what}: gradient {i} is {}, finite differences say {difference}",
            gradient[i]
        );
    }
}
