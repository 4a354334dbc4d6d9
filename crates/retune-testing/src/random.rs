//! Reproducible numbers that Python golden scripts draw by the same definition.

/// A number in `[0, 1)` from a name and an index.
///
/// FNV-1a (64 bits) of the name's UTF-8 bytes, plus `index · 0x9E3779B97F4A7C15`, through splitmix64's finalizer;
/// the top 24 bits over 2^24.
pub fn counter_uniform(name: &str, index: u64) -> f32 {
    uniform(fnv1a(name), index)
}

/// `n` numbers in `[-scale, scale)`: `(counter_uniform(name, i) - 0.5) · 2 · scale` for `i` in `0..n`.
pub fn counter_normal_like(name: &str, n: usize, scale: f32) -> Vec<f32> {
    let hash = fnv1a(name);
    (0..n as u64).map(|index| (uniform(hash, index) - 0.5) * 2.0 * scale).collect()
}

fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

fn uniform(hash: u64, index: u64) -> f32 {
    let mut z = hash.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z ^= z >> 30;
    z = z.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_name_hashes_to_fnv1a_offset_basis() {
        assert_eq!(fnv1a(""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a("a"), 0xAF63_DC4C_8601_EC8C);
    }

    #[test]
    fn numbers_lie_in_their_range_and_fill_it() {
        let values = counter_normal_like("range", 4096, 2.0);
        assert!(values.iter().all(|v| (-2.0..2.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.1, "mean {mean}");
    }
}
