//! Initial values of new parameters, drawn from keys: the same seed and name give the same values on any machine,
//! whatever else is initialized.

use retune_kernels::philox4x32;

/// How a new parameter is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    /// All zeros (biases).
    Zeros,
    /// All ones (norm weights).
    Ones,
    /// All the same (layer scales).
    Constant {
        /// The value.
        value: f32,
    },
    /// Normal with mean 0 and this standard deviation.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in [-bound, bound].
    Uniform {
        /// Greatest absolute value.
        bound: f32,
    },
}

/// FNV-1a hash of a module path, the same in every build.
pub fn hash_name(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A Philox key that depends on every one of `parts`.
pub fn random_key(parts: &[u64]) -> [u32; 2] {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for &part in parts {
        // The splitmix64 finalizer (Steele et al. 2014) between parts.
        state = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    [state as u32, (state >> 32) as u32]
}

impl Initialization {
    /// The values of a parameter of this name under this seed.
    pub fn values(self, name: &str, seed: u64, elements: usize) -> Vec<f32> {
        match self {
            Self::Zeros => vec![0.0; elements],
            Self::Ones => vec![1.0; elements],
            Self::Constant { value } => vec![value; elements],
            Self::Uniform { bound } => {
                uniform_pairs(name, seed, elements).map(|u| (2.0 * u - 1.0) as f32 * bound).collect()
            }
            Self::Normal { std } => {
                let uniform: Vec<f64> = uniform_pairs(name, seed, elements.next_multiple_of(2)).collect();
                // Box and Muller (1958): two uniforms give two normals.
                let mut normal: Vec<f32> = uniform
                    .chunks_exact(2)
                    .flat_map(|pair| {
                        let radius = (-2.0 * (1.0 - pair[0]).ln()).sqrt();
                        let (sin, cos) = (std::f64::consts::TAU * pair[1]).sin_cos();
                        [(radius * cos) as f32 * std, (radius * sin) as f32 * std]
                    })
                    .collect();
                normal.truncate(elements);
                normal
            }
        }
    }
}

/// `elements` numbers in [0, 1), four from each Philox block.
fn uniform_pairs(name: &str, seed: u64, elements: usize) -> impl Iterator<Item = f64> {
    let key = random_key(&[seed, hash_name(name)]);
    (0..elements.div_ceil(4) as u64)
        .flat_map(move |block| philox4x32([block as u32, (block >> 32) as u32, 0, 0], key))
        .map(|word| f64::from(word) / 4_294_967_296.0)
        .take(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_the_asked_mean_and_deviation() {
        let values = Initialization::Normal { std: 0.02 }.values("classifier.weight", 42, 100_001);
        assert_eq!(values.len(), 100_001);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 100_001.0;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 100_001.0;
        // Four standard errors of the mean: 4 · 0.02 / sqrt(100 001) = 2.5e-4.
        assert!(mean.abs() < 2.5e-4, "mean {mean}");
        assert!((variance.sqrt() - 0.02).abs() < 2e-4, "deviation {}", variance.sqrt());
    }

    #[test]
    fn values_depend_on_name_and_seed_only() {
        let draw = |name, seed| Initialization::Uniform { bound: 1.0 }.values(name, seed, 16);
        assert_eq!(draw("a", 1), draw("a", 1));
        assert_ne!(draw("a", 1), draw("a", 2));
        assert_ne!(draw("a", 1), draw("b", 1));
    }
}
