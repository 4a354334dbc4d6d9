//! AVX2 with FMA: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use half::bf16;

use super::{Simd, Task, avx2_tile};
use crate::Isa;
use crate::gemm::tile::{self, Operands, Pairs, Singles, Target};

/// Proof that the machine has AVX2 and FMA: made in [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn run<T: Task>(task: &T, piece: usize) {
    task.run(Avx2(()), piece);
}

/// Eight ones and eight zeros: read from `8 - count` on, they are the mask of the first `count` lanes.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn first(count: usize) -> __m256i {
    assert!(count <= 8);
    // SAFETY: 8 - count + 8 <= 16 elements; a value of `Avx2` proves the instructions.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count).cast()) }
}

/// Methods that are one expression of intrinsics.
macro_rules! methods {
    ($(fn $name:ident($self:ident $(, $arg:ident: $type:ty)*) -> $ret:ty { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name($self $(, $arg: $type)*) -> $ret {
                // SAFETY: the instructions need nothing but to exist, which `self` proves.
                unsafe { $body }
            }
        )*
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const TILE_COLUMNS: usize = 16;
    type F = __m256;
    type U = __m256i;
    type M = __m256;

    #[inline(always)]
    fn isa(self) -> Isa {
        Isa::Avx2
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight elements.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, count: usize) -> __m256 {
        // SAFETY: lanes beyond `count` are not touched.
        unsafe { _mm256_maskload_ps(p, first(count)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for eight elements.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize, v: __m256) {
        // SAFETY: lanes beyond `count` are not touched.
        unsafe { _mm256_maskstore_ps(p, first(count), v) }
    }

    methods! {
        fn splat(self, x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn prefetch(self, p: *const f32) -> () { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fnmadd_ps(a, b, c) }
        fn max(self, a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn sqrt(self, a: __m256) -> __m256 { _mm256_sqrt_ps(a) }
        fn abs(self, a: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        fn round(self, a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn scale_by_power_of_two(self, a: __m256, n: __m256) -> __m256 {{
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }}
        fn less(self, a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
        fn is_nan(self, a: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a) }
        fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 { _mm256_blendv_ps(no, yes, mask) }
        fn reduce_add(self, a: __m256) -> f32 {{
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }}
        fn reduce_max(self, a: __m256) -> f32 {{
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }}
        fn splat_u(self, x: u32) -> __m256i { _mm256_set1_epi32(x as i32) }
        fn count_from(self, start: u32) -> __m256i {
            _mm256_add_epi32(_mm256_set1_epi32(start as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
        }
        fn xor_u(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn mul_wide(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {{
            let even = _mm256_mul_epu32(a, b);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            let high = _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd);
            let low = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            (high, low)
        }}
        fn round_bf16(self, a: __m256) -> __m256 {{
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let nearest = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            let rounded = _mm256_blendv_epi8(nearest, quiet, nan);
            _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(!0xffff)))
        }}
        fn low_half(self, pair: __m256) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pair)))
        }
        fn high_half(self, pair: __m256) -> __m256 {
            _mm256_and_ps(pair, _mm256_castsi256_ps(_mm256_set1_epi32(!0xffff)))
        }
        fn join_halves(self, low: __m256, high: __m256) -> __m256 {
            _mm256_or_ps(_mm256_castsi256_ps(_mm256_srli_epi32::<16>(_mm256_castps_si256(low))), high)
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller vouches for eight numbers of sixteen bits.
        unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(numbers))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: __m256) {
        // SAFETY: the caller vouches for eight numbers of sixteen bits.
        unsafe {
            let halves = _mm256_srli_epi32::<16>(_mm256_castps_si256(v));
            let quarters = _mm256_packus_epi32(halves, halves);
            let together = _mm256_permute4x64_epi64::<0b1000>(quarters);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(together));
        }
    }

    #[inline(always)]
    unsafe fn store_words(self, words: [__m256i; 4], out: *mut u16) {
        // SAFETY: the caller vouches for 64 numbers, eight stores of eight.
        unsafe {
            let [w0, w1, w2, w3] = words;
            let (low_01, high_01) = (_mm256_unpacklo_epi32(w0, w1), _mm256_unpackhi_epi32(w0, w1));
            let (low_23, high_23) = (_mm256_unpacklo_epi32(w2, w3), _mm256_unpackhi_epi32(w2, w3));
            let pairs = [
                _mm256_unpacklo_epi64(low_01, low_23),   // lanes 0 and 4
                _mm256_unpackhi_epi64(low_01, low_23),   // lanes 1 and 5
                _mm256_unpacklo_epi64(high_01, high_23), // lanes 2 and 6
                _mm256_unpackhi_epi64(high_01, high_23), // lanes 3 and 7
            ];
            for (lane, pair) in pairs.into_iter().enumerate() {
                _mm_storeu_si128(out.add(8 * lane).cast(), _mm256_castsi256_si128(pair));
                _mm_storeu_si128(out.add(8 * (lane + 4)).cast(), _mm256_extracti128_si256::<1>(pair));
            }
        }
    }

    #[inline(always)]
    unsafe fn at_least(self, p: *const u16, threshold: u32) -> __m256 {
        // SAFETY: the caller vouches for eight numbers.
        unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(numbers, _mm256_set1_epi32(threshold as i32 - 1)))
        }
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, rows: [*const f32; 8], dst: *mut f32, step: usize, count: usize) {
        // SAFETY: the caller vouches for eight elements of every row and, for each of eight lines of `dst`, for
        // `count` elements; `store_first` writes no more.
        unsafe { transpose(rows, dst, step, count) }
    }

    #[inline(always)]
    unsafe fn tile(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on; `self` proves the instructions.
        unsafe { tile_of_singles(self, operands, target) }
    }

    #[inline(always)]
    unsafe fn tile_of_pairs(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on; `self` proves the instructions.
        unsafe { tile_of_pairs(self, operands, target) }
    }
}

/// [`Simd::tile`], once for all kernels that call it.
///
/// # Safety
/// As there, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of_singles(s: Avx2, operands: &Operands, target: &Target) {
    if target.columns <= Avx2::LANES {
        // SAFETY: handed on.
        return unsafe { tile::multiply::<Avx2, Singles, 6, 1>(s, operands, target) };
    }
    tile::prefetch::<Avx2, { avx2_tile::ROWS }, { avx2_tile::VECTORS }>(s, target);
    let mut sums = [[s.zero(); avx2_tile::VECTORS]; avx2_tile::ROWS];
    // SAFETY: handed on.
    unsafe {
        avx2_tile::accumulate(operands, &mut sums);
        tile::store(s, &sums, target);
    }
}

/// [`Simd::tile_of_pairs`], once for all kernels that call it.
///
/// # Safety
/// As there, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of_pairs(s: Avx2, operands: &Operands, target: &Target) {
    // SAFETY: handed on.
    unsafe {
        if target.columns <= Avx2::LANES {
            tile::multiply::<Avx2, Pairs, 6, 1>(s, operands, target)
        } else {
            tile::multiply::<Avx2, Pairs, 6, 2>(s, operands, target)
        }
    }
}

/// [`Simd::transpose_8x8`] for every x86 path.
///
/// # Safety
/// As there, on a machine with AVX2.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [*const f32; 8], dst: *mut f32, step: usize, count: usize) {
    // SAFETY: the caller vouches for the rows and for `count` elements in each line of `dst`.
    unsafe {
        let r: [__m256; 8] = [
            _mm256_loadu_ps(rows[0]),
            _mm256_loadu_ps(rows[1]),
            _mm256_loadu_ps(rows[2]),
            _mm256_loadu_ps(rows[3]),
            _mm256_loadu_ps(rows[4]),
            _mm256_loadu_ps(rows[5]),
            _mm256_loadu_ps(rows[6]),
            _mm256_loadu_ps(rows[7]),
        ];
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let b0 = _mm256_shuffle_ps::<0x44>(a0, a2);
        let b1 = _mm256_shuffle_ps::<0xEE>(a0, a2);
        let b2 = _mm256_shuffle_ps::<0x44>(a1, a3);
        let b3 = _mm256_shuffle_ps::<0xEE>(a1, a3);
        let b4 = _mm256_shuffle_ps::<0x44>(a4, a6);
        let b5 = _mm256_shuffle_ps::<0xEE>(a4, a6);
        let b6 = _mm256_shuffle_ps::<0x44>(a5, a7);
        let b7 = _mm256_shuffle_ps::<0xEE>(a5, a7);
        store_first(dst, count, _mm256_permute2f128_ps::<0x20>(b0, b4));
        store_first(dst.add(step), count, _mm256_permute2f128_ps::<0x20>(b1, b5));
        store_first(dst.add(2 * step), count, _mm256_permute2f128_ps::<0x20>(b2, b6));
        store_first(dst.add(3 * step), count, _mm256_permute2f128_ps::<0x20>(b3, b7));
        store_first(dst.add(4 * step), count, _mm256_permute2f128_ps::<0x31>(b0, b4));
        store_first(dst.add(5 * step), count, _mm256_permute2f128_ps::<0x31>(b1, b5));
        store_first(dst.add(6 * step), count, _mm256_permute2f128_ps::<0x31>(b2, b6));
        store_first(dst.add(7 * step), count, _mm256_permute2f128_ps::<0x31>(b3, b7));
    }
}

/// Stores the first `count` lanes without a masked store, which is microcode on AMD processors.
///
/// # Safety
/// `count <= 8` elements can be written to `p`; the machine has AVX2.
#[inline(always)]
unsafe fn store_first(p: *mut f32, count: usize, v: __m256) {
    // SAFETY: the widths of the stores add up to `count`.
    unsafe {
        match count {
            8 => _mm256_storeu_ps(p, v),
            6 => {
                _mm_storeu_ps(p, _mm256_castps256_ps128(v));
                _mm_storel_epi64(p.add(4).cast(), _mm_castps_si128(_mm256_extractf128_ps::<1>(v)));
            }
            _ => _mm256_maskstore_ps(p, first(count), v),
        }
    }
}
