//! The H-score: how much of the variance of features is between classes (Bao et al. 2019,
//! <https://arxiv.org/abs/2212.10082>), with a covariance that few samples suffice for (Ibrahim, Ponomareva and Mazumder
//! 2021, <https://arxiv.org/abs/2110.06893>).

use super::{Labelled, dot};

/// tr(Σ_α⁻¹ (1 − α) Σ_z): Σ_z is the covariance of the features' means by class, Σ_α that of the features, shrunk towards a
/// multiple of the identity by the α of Ledoit and Wolf (2004). From 0, where the classes do not differ, to the number of
/// classes less one; greater is better.
pub(crate) fn h_score(data: &Labelled) -> f64 {
    let (count, width) = (data.len() as f64, data.width.max(1) as f64);
    // As many rows as samples: Σ_α⁻¹ is needed between rows alone, where F (FᵀF + cI)⁻¹ Fᵀ is (K + cI)⁻¹ K with K = F Fᵀ.
    let gram = centred_products(data);
    let size = data.len();
    let variance = (0..size).map(|row| gram[row * size + row]).sum::<f64>() / count;
    if size == 0 || variance <= 0.0 {
        return 0.0;
    }
    let alpha = shrinkage(&gram, size, width);
    let mut matrix: Vec<f64> = gram.iter().map(|product| (1.0 - alpha) / count * product).collect();
    // The floor keeps it invertible where the samples say that nothing is to be shrunk.
    let ridge = (alpha * variance / width).max(1e-10 * variance);
    (0..size).for_each(|row| matrix[row * size + row] += ridge);
    factorize(&mut matrix, size);
    let between: f64 = (0..data.class_count as u32)
        .map(|class| {
            let members: Vec<usize> = (0..size).filter(|&row| data.classes[row] == class).collect();
            let mut column: Vec<f64> =
                (0..size).map(|row| members.iter().map(|&member| gram[row * size + member]).sum()).collect();
            solve(&matrix, &mut column);
            members.iter().map(|&member| column[member]).sum::<f64>() / members.len().max(1) as f64
        })
        .sum();
    (1.0 - alpha) / count * between
}

/// The products of all pairs of rows, the rows' mean taken off, [samples, samples].
fn centred_products(data: &Labelled) -> Vec<f64> {
    let size = data.len();
    let mut gram = vec![0.0; size * size];
    for a in 0..size {
        for b in 0..=a {
            let product = dot(data.row(a), data.row(b));
            gram[a * size + b] = product;
            gram[b * size + a] = product;
        }
    }
    let means: Vec<f64> =
        gram.chunks_exact(size.max(1)).map(|row| row.iter().sum::<f64>() / size as f64).collect();
    let mean = means.iter().sum::<f64>() / size.max(1) as f64;
    for (row, own) in gram.chunks_exact_mut(size.max(1)).zip(&means) {
        row.iter_mut().zip(&means).for_each(|(product, others)| *product += mean - own - others);
    }
    gram
}

/// Ledoit and Wolf's share of the identity ("A well-conditioned estimator for large-dimensional covariance matrices",
/// 2004), from products of rows.
fn shrinkage(gram: &[f64], size: usize, width: f64) -> f64 {
    let count = size as f64;
    let diagonal = || (0..size).map(|row| gram[row * size + row]);
    let squares = gram.iter().map(|product| product * product).sum::<f64>() / (count * count);
    let of_samples = diagonal().map(|product| product * product).sum::<f64>() / count;
    let trace = diagonal().sum::<f64>() / count;
    let distance = squares - trace * trace / width;
    let noise = ((of_samples - squares) / count).min(distance);
    if noise > 0.0 { noise / distance } else { 0.0 }
}

/// Cholesky's factor of a symmetric positive definite matrix, in its lower half.
fn factorize(matrix: &mut [f64], size: usize) {
    for row in 0..size {
        let (above, own) = matrix.split_at_mut(row * size);
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for column in 0..row {
            let other = &above[column * size..(column + 1) * size];
            own[column] = (own[column] - product(&own[..column], &other[..column])) / other[column];
        }
        own[row] = (own[row] - product(&own[..row], &own[..row])).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Solves L Lᵀ x = b in place of b.
fn solve(factor: &[f64], b: &mut [f64]) {
    let size = b.len();
    for row in 0..size {
        let known: f64 = (0..row).map(|column| factor[row * size + column] * b[column]).sum();
        b[row] = (b[row] - known) / factor[row * size + row];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|below| factor[below * size + row] * b[below]).sum();
        b[row] = (b[row] - known) / factor[row * size + row];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_without_overlap_score_their_number_less_one_and_like_classes_nothing() {
        // Variance 1; the classes' means are ±1, or both 0. All pairs of rows are alike in size: nothing is shrunk.
        let data = |classes: [u32; 4]| Labelled {
            features: vec![1.0, 1.0, -1.0, -1.0],
            width: 1,
            classes: classes.to_vec(),
            class_count: 2,
        };
        assert!((h_score(&data([0, 0, 1, 1])) - 1.0).abs() < 1e-8);
        assert!(h_score(&data([0, 1, 0, 1])).abs() < 1e-8);
        let constant = Labelled { features: vec![3.0; 4], ..data([0, 0, 1, 1]) };
        assert!(h_score(&constant).abs() < 1e-12);
    }
}
