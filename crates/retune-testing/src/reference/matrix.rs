//! Products and softmax.

/// `Σ_p a(i, p) · b(p, j)` for `[m, n, k]`.
pub fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            c.push((0..k).map(|p| a(i, p) * b(p, j)).sum());
        }
    }
    c
}

/// Softmax of one row.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let greatest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|v| (v - greatest).exp()).sum();
    x.iter().map(|v| (v - greatest).exp() / total).collect()
}
