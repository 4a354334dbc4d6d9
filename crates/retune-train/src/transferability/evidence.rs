//! LogME: the logarithm of the maximum evidence of a linear model from features to classes (You et al. 2021,
//! <https://arxiv.org/abs/2102.11005>, algorithm 1), per sample and averaged over classes.

use super::{Labelled, dot};

/// Rounds of the fixed-point iteration at most; it takes two or three.
const ROUNDS: usize = 100;

/// The log evidence per sample, averaged over one regression per class against the rest. Greater is better; only values on
/// the same samples can be compared.
pub(crate) fn log_evidence(data: &Labelled) -> f64 {
    let count = data.len();
    // Of features F the evidence needs the eigenvalues of F Fᵀ and the targets in the basis of its eigenvectors.
    let mut gram = vec![0.0; count * count];
    for a in 0..count {
        for b in 0..=a {
            let product = dot(data.row(a), data.row(b));
            gram[a * count + b] = product;
            gram[b * count + a] = product;
        }
    }
    let mut targets: Vec<Vec<f64>> = (0..data.class_count as u32)
        .map(|class| data.classes.iter().map(|&own| f64::from(u8::from(own == class))).collect())
        .collect();
    let eigenvalues = diagonalize(&mut gram, &mut targets);
    let present = targets.iter().filter(|target| target.iter().any(|value| *value != 0.0));
    let evidences: Vec<f64> = present.map(|target| maximum(&eigenvalues, target) / count as f64).collect();
    evidences.iter().sum::<f64>() / evidences.len().max(1) as f64
}

/// The log evidence at the prior precision α and noise precision β that maximize it. `target` is in the basis of the
/// eigenvectors of F Fᵀ, as many as samples.
fn maximum(eigenvalues: &[f64], target: &[f64]) -> f64 {
    let count = target.len() as f64;
    let pairs = || eigenvalues.iter().zip(target);
    let (mut alpha, mut beta) = (1.0_f64, 1.0_f64);
    let residual = |ratio: f64| pairs().map(|(s, x)| (x / (1.0 + s / ratio)).powi(2)).sum::<f64>();
    let weights = |ratio: f64| pairs().map(|(s, x)| s * (x / (ratio + s)).powi(2)).sum::<f64>();
    for _ in 0..ROUNDS {
        let ratio = alpha / beta;
        let gamma: f64 = eigenvalues.iter().map(|s| s / (s + ratio)).sum();
        // The floors keep both finite where the features fit the targets exactly, or say nothing.
        alpha = gamma / (weights(ratio) + 1e-12);
        beta = (count - gamma).max(1e-12) / (residual(ratio) + 1e-12);
        let moved = (alpha / beta - ratio).abs() / ratio;
        if moved < 1e-6 {
            break;
        }
    }
    let ratio = alpha / beta;
    let determinant: f64 = eigenvalues.iter().map(|s| (1.0 + s / ratio).ln()).sum();
    0.5 * (count * beta.ln()
        - determinant
        - beta * residual(ratio)
        - alpha * weights(ratio)
        - count * std::f64::consts::TAU.ln())
}

/// The eigenvalues of a symmetric matrix, which is destroyed, by cyclic Jacobi rotations (Golub and Van Loan 2013, section
/// 8.5); the vectors are turned into the basis of its eigenvectors. Eigenvalues below rounding are 0.
fn diagonalize(matrix: &mut [f64], vectors: &mut [Vec<f64>]) -> Vec<f64> {
    const SWEEPS: usize = 30;
    let size = (matrix.len() as f64).sqrt() as usize;
    let trace: f64 = (0..size).map(|place| matrix[place * size + place]).sum();
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..size {
            for q in p + 1..size {
                let (app, aqq, apq) = (matrix[p * size + p], matrix[q * size + q], matrix[p * size + q]);
                if apq.abs() <= 1e-13 * trace / size as f64 {
                    continue;
                }
                rotated = true;
                let tau = (aqq - app) / (2.0 * apq);
                let tangent = tau.signum() / (tau.abs() + tau.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                let (first, second) = matrix.split_at_mut(q * size);
                let (row_p, row_q) = (&mut first[p * size..(p + 1) * size], &mut second[..size]);
                for (a, b) in row_p.iter_mut().zip(row_q.iter_mut()) {
                    (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
                }
                for row in matrix.chunks_exact_mut(size) {
                    (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
                }
                for vector in &mut *vectors {
                    (vector[p], vector[q]) =
                        (cosine * vector[p] - sine * vector[q], sine * vector[p] + cosine * vector[q]);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let floor = 1e-12 * trace;
    (0..size)
        .map(|place| matrix[place * size + place])
        .map(|value| if value > floor { value } else { 0.0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_of_two_by_two_are_those_of_the_characteristic_polynomial() {
        // x² − 7x + 6 = 0; eigenvectors (1, −2)/√5 of 1 and (2, 1)/√5 of 6.
        let (mut matrix, mut vectors) = (vec![5.0, 2.0, 2.0, 2.0], vec![vec![1.0, 0.5]]);
        let mut found: Vec<(f64, f64)> = diagonalize(&mut matrix, &mut vectors)
            .into_iter()
            .zip(vectors[0].iter().map(|value| value.abs()))
            .collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        for ((value, coordinate), (expected, projected)) in
            found.into_iter().zip([(1.0, 0.0), (6.0, 2.5 / 5_f64.sqrt())])
        {
            assert!((value - expected).abs() < 1e-12 && (coordinate - projected).abs() < 1e-12);
        }
    }
}
