//! The keyed dropout mask.

/// Philox4x32 with seven rounds, as the paper's figure has it (Salmon et al. 2011).
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter.map(u64::from), key.map(u64::from));
    const WORD: u64 = 1 << 32;
    for _ in 0..7 {
        let (first, second) = (0xD251_1F53 * c[0], 0xCD9E_8D57 * c[2]);
        c = [(second / WORD) ^ c[1] ^ k[0], second % WORD, (first / WORD) ^ c[3] ^ k[1], first % WORD];
        k = [(k[0] + 0x9E37_79B9) % WORD, (k[1] + 0xBB67_AE85) % WORD];
    }
    c.map(|word| word as u32)
}

/// The factor of one element: zero, or what keeps the expectation.
pub fn factor(
    probability: f64,
    key: [u32; 2],
    sample: u32,
    position: u32,
    stream: u32,
    column: usize,
) -> f64 {
    let threshold = (probability * 65536.0).round() as u32;
    let words = philox([(column / 8) as u32, position, sample, stream], key);
    let numbers: Vec<u32> = words.iter().flat_map(|word| [word % 65536, word / 65536]).collect();
    if numbers[column % 8] >= threshold { 65536.0 / f64::from(65536 - threshold) } else { 0.0 }
}
