//! AVX-512F: sixteen lanes, thirty-two registers. Compiled from the same kernels as AVX2, but so far tested in an
//! emulated processor alone and never timed: see [`crate::Isa::detect`].

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::{Simd, Task};
use crate::Isa;
use crate::gemm::tile::{self, Operands, Pairs, Singles, Target, Words};

/// Proof that the machine has AVX-512F, AVX2 and FMA: made in [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    /// Whether it has AVX512-BF16 too, and that is asked for.
    multiplies_bf16: bool,
}

/// # Safety
/// The machine has AVX-512F, AVX2 and FMA, and AVX512-BF16 if `multiplies_bf16`.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(crate) unsafe fn run<T: Task>(task: &T, piece: usize, multiplies_bf16: bool) {
    task.run(Avx512 { multiplies_bf16 }, piece);
}

/// Pairs of bf16 numbers, multiplied and added by one instruction. It takes subnormal numbers for zero.
struct HardwarePairs;

impl Words<Avx512> for HardwarePairs {
    const PASSES: usize = 1;

    #[inline(always)]
    fn part(_s: Avx512, word: __m512, _pass: usize) -> __m512 {
        word
    }

    #[inline(always)]
    fn multiply_add(_s: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: vectors of the same bits; this is inlined into `tile_in_hardware` alone, which has the instruction.
        unsafe {
            let (a, b) = (transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

/// # Safety
/// As [`crate::gemm::tile::multiply`], on a machine with AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
unsafe fn tile_in_hardware(s: Avx512, operands: &Operands, target: &Target) {
    // SAFETY: handed on.
    unsafe {
        if target.columns <= Avx512::LANES {
            tile::multiply::<Avx512, HardwarePairs, 14, 1>(s, operands, target)
        } else {
            tile::multiply::<Avx512, HardwarePairs, 14, 2>(s, operands, target)
        }
    }
}

/// [`Simd::tile`], once for all kernels that call it, and [`Simd::tile_of_pairs`] by widening.
///
/// # Safety
/// As [`crate::gemm::tile::multiply`], on a machine with AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn tile_of<W: Words<Avx512>>(s: Avx512, operands: &Operands, target: &Target) {
    // SAFETY: handed on.
    unsafe {
        if target.columns <= Avx512::LANES {
            tile::multiply::<Avx512, W, 14, 1>(s, operands, target)
        } else {
            tile::multiply::<Avx512, W, 14, 2>(s, operands, target)
        }
    }
}

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    assert!(count <= 16);
    ((1u32 << count) - 1) as __mmask16
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

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE_ROWS: usize = 14;
    const TILE_COLUMNS: usize = 32;
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn isa(self) -> Isa {
        if self.multiplies_bf16 { Isa::Avx512Bf16 } else { Isa::Avx512 }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for sixteen elements.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, count: usize) -> __m512 {
        // SAFETY: lanes beyond `count` are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(count), p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for sixteen elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize, v: __m512) {
        // SAFETY: lanes beyond `count` are not touched.
        unsafe { _mm512_mask_storeu_ps(p, first(count), v) }
    }

    methods! {
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn prefetch(self, p: *const f32) -> () { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn sqrt(self, a: __m512) -> __m512 { _mm512_sqrt_ps(a) }
        fn abs(self, a: __m512) -> __m512 { _mm512_abs_ps(a) }
        fn round(self, a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn scale_by_power_of_two(self, a: __m512, n: __m512) -> __m512 {{
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }}
        fn less(self, a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
        fn is_nan(self, a: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
        fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 { _mm512_mask_blend_ps(mask, no, yes) }
        fn reduce_add(self, a: __m512) -> f32 { _mm512_reduce_add_ps(a) }
        fn reduce_max(self, a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        fn splat_u(self, x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
        fn count_from(self, start: u32) -> __m512i {{
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_add_epi32(_mm512_set1_epi32(start as i32), lanes)
        }}
        fn xor_u(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn mul_wide(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {{
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd);
            let low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd));
            (high, low)
        }}
        fn round_bf16(self, a: __m512) -> __m512 {{
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let quiet = _mm512_set1_epi32(0x0040_0000);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let rounded = _mm512_mask_or_epi32(nearest, nan, bits, quiet);
            _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(!0xffff)))
        }}
        fn low_half(self, pair: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pair)))
        }
        fn high_half(self, pair: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pair), _mm512_set1_epi32(!0xffff)))
        }
        fn join_halves(self, low: __m512, high: __m512) -> __m512 {{
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(high)))
        }}
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller vouches for sixteen numbers of sixteen bits.
        unsafe {
            let numbers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: __m512) {
        // SAFETY: the caller vouches for sixteen numbers of sixteen bits.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(v)));
            _mm256_storeu_si256(p.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn store_words(self, words: [__m512i; 4], out: *mut u16) {
        // SAFETY: the caller vouches for 128 numbers, sixteen stores of eight.
        unsafe {
            let [w0, w1, w2, w3] = words;
            let (low_01, high_01) = (_mm512_unpacklo_epi32(w0, w1), _mm512_unpackhi_epi32(w0, w1));
            let (low_23, high_23) = (_mm512_unpacklo_epi32(w2, w3), _mm512_unpackhi_epi32(w2, w3));
            let quads = [
                _mm512_unpacklo_epi64(low_01, low_23),   // lanes 0, 4, 8, 12
                _mm512_unpackhi_epi64(low_01, low_23),   // lanes 1, 5, 9, 13
                _mm512_unpacklo_epi64(high_01, high_23), // lanes 2, 6, 10, 14
                _mm512_unpackhi_epi64(high_01, high_23), // lanes 3, 7, 11, 15
            ];
            for (lane, quad) in quads.into_iter().enumerate() {
                _mm_storeu_si128(out.add(8 * lane).cast(), _mm512_extracti32x4_epi32::<0>(quad));
                _mm_storeu_si128(out.add(8 * (lane + 4)).cast(), _mm512_extracti32x4_epi32::<1>(quad));
                _mm_storeu_si128(out.add(8 * (lane + 8)).cast(), _mm512_extracti32x4_epi32::<2>(quad));
                _mm_storeu_si128(out.add(8 * (lane + 12)).cast(), _mm512_extracti32x4_epi32::<3>(quad));
            }
        }
    }

    #[inline(always)]
    unsafe fn at_least(self, p: *const u16, threshold: u32) -> __mmask16 {
        // SAFETY: the caller vouches for sixteen numbers.
        unsafe {
            let numbers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_cmpge_epu32_mask(numbers, _mm512_set1_epi32(threshold as i32))
        }
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, rows: [*const f32; 8], dst: *mut f32, step: usize, count: usize) {
        // SAFETY: handed on; `self` proves AVX2.
        unsafe { super::avx2::transpose(rows, dst, step, count) }
    }

    #[inline(always)]
    unsafe fn tile(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on; `self` proves the instructions.
        unsafe { tile_of::<Singles>(self, operands, target) }
    }

    #[inline(always)]
    unsafe fn tile_of_pairs(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on; the flag is the proof of AVX512-BF16.
        unsafe {
            if self.multiplies_bf16 {
                tile_in_hardware(self, operands, target)
            } else {
                tile_of::<Pairs>(self, operands, target)
            }
        }
    }
}
