//! The counter-based generator behind dropout, shuffling and initialization.
//!
//! Philox4x32 with seven rounds: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
//! (SC 2011), which finds that seven rounds pass BigCrush.

use crate::simd::Simd;

const ROUNDS: usize = 7;
const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;

/// 128 random bits as a pure function of a counter and a key: Philox4x32 with seven rounds.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let product_0 = u64::from(MULTIPLIER_0) * u64::from(c0);
        let product_1 = u64::from(MULTIPLIER_1) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (product_1 >> 32) as u32 ^ c1 ^ k0,
            product_1 as u32,
            (product_0 >> 32) as u32 ^ c3 ^ k1,
            product_0 as u32,
        );
        k0 = k0.wrapping_add(WEYL_0);
        k1 = k1.wrapping_add(WEYL_1);
    }
    [c0, c1, c2, c3]
}

/// The words of the counters `(block, rest…)` with `block` counting up from lane to lane.
#[inline(always)]
pub(crate) fn vector<S: Simd>(s: S, first_block: u32, rest: [u32; 3], key: [u32; 2]) -> [S::U; 4] {
    let [mut c0, mut c1, mut c2, mut c3] =
        [s.count_from(first_block), s.splat_u(rest[0]), s.splat_u(rest[1]), s.splat_u(rest[2])];
    let [mut k0, mut k1] = key;
    let (multiplier_0, multiplier_1) = (s.splat_u(MULTIPLIER_0), s.splat_u(MULTIPLIER_1));
    for _ in 0..ROUNDS {
        let (high_0, low_0) = s.mul_wide(c0, multiplier_0);
        let (high_1, low_1) = s.mul_wide(c2, multiplier_1);
        c0 = s.xor_u(s.xor_u(high_1, c1), s.splat_u(k0));
        c2 = s.xor_u(s.xor_u(high_0, c3), s.splat_u(k1));
        (c1, c3) = (low_1, low_0);
        k0 = k0.wrapping_add(WEYL_0);
        k1 = k1.wrapping_add(WEYL_1);
    }
    [c0, c1, c2, c3]
}
