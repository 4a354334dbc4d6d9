//! Arrays of eight lanes in plain Rust: what every vector operation means.

use half::bf16;

use super::Simd;
use crate::Isa;
use crate::gemm::tile::{self, Operands, Pairs, Singles, Target, Words};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map(a: [f32; 8], f: impl Fn(f32) -> f32) -> [f32; 8] {
    a.map(f)
}

#[inline(always)]
fn zip<A: Copy, R: Copy + Default>(a: [A; 8], b: [A; 8], f: impl Fn(A, A) -> R) -> [R; 8] {
    let mut out = [R::default(); 8];
    for lane in 0..8 {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

impl Simd for Portable {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const TILE_COLUMNS: usize = 16;
    type F = [f32; 8];
    type U = [u32; 8];
    type M = [bool; 8];

    #[inline(always)]
    fn isa(self) -> Isa {
        Isa::Portable
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for eight elements; an array needs no more alignment than its element.
        unsafe { p.cast::<[f32; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, count: usize) -> Self::F {
        let mut out = [0.0; 8];
        for (lane, out) in out.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            *out = unsafe { p.add(lane).read() };
        }
        out
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: the caller vouches for eight elements.
        unsafe { p.cast::<[f32; 8]>().write(v) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize, v: Self::F) {
        for (lane, value) in v.into_iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { p.add(lane).write(value) }
        }
    }

    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.sub(c, self.mul(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        map(a, f32::sqrt)
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, a: Self::F, n: Self::F) -> Self::F {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }

    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        a.map(f32::is_nan)
    }

    #[inline(always)]
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F {
        let mut out = no;
        for lane in 0..8 {
            if mask[lane] {
                out[lane] = yes[lane];
            }
        }
        out
    }

    #[inline(always)]
    fn reduce_add(self, a: Self::F) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }

    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn splat_u(self, x: u32) -> Self::U {
        [x; 8]
    }

    #[inline(always)]
    fn count_from(self, start: u32) -> Self::U {
        std::array::from_fn(|lane| start.wrapping_add(lane as u32))
    }

    #[inline(always)]
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn mul_wide(self, a: Self::U, b: Self::U) -> (Self::U, Self::U) {
        let product = zip(a, b, |a, b| u64::from(a) * u64::from(b));
        (product.map(|p| (p >> 32) as u32), product.map(|p| p as u32))
    }

    #[inline(always)]
    unsafe fn store_words(self, words: [Self::U; 4], out: *mut u16) {
        for lane in 0..8 {
            for (word, lanes) in words.iter().enumerate() {
                // SAFETY: the caller vouches for 64 numbers; the last written is 8·7 + 2·3 + 1 = 63.
                unsafe {
                    out.add(8 * lane + 2 * word).write(lanes[lane] as u16);
                    out.add(8 * lane + 2 * word + 1).write((lanes[lane] >> 16) as u16);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn at_least(self, p: *const u16, threshold: u32) -> Self::M {
        // SAFETY: the caller vouches for eight numbers.
        let numbers = unsafe { p.cast::<[u16; 8]>().read() };
        numbers.map(|number| u32::from(number) >= threshold)
    }

    #[inline(always)]
    fn round_bf16(self, a: Self::F) -> Self::F {
        a.map(|a| bf16::from_f32(a).to_f32())
    }

    #[inline(always)]
    fn low_half(self, pair: Self::F) -> Self::F {
        pair.map(|pair| f32::from_bits(pair.to_bits() << 16))
    }

    #[inline(always)]
    fn high_half(self, pair: Self::F) -> Self::F {
        pair.map(|pair| f32::from_bits(pair.to_bits() & !0xffff))
    }

    #[inline(always)]
    fn join_halves(self, low: Self::F, high: Self::F) -> Self::F {
        zip(low, high, |low, high| f32::from_bits(low.to_bits() >> 16 | high.to_bits()))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::F {
        // SAFETY: the caller vouches for eight numbers; an array needs no more alignment than its element.
        unsafe { p.cast::<[bf16; 8]>().read() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: Self::F) {
        // SAFETY: the caller vouches for eight numbers.
        unsafe { p.cast::<[bf16; 8]>().write(v.map(|v| bf16::from_bits((v.to_bits() >> 16) as u16))) }
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, rows: [*const f32; 8], dst: *mut f32, step: usize, count: usize) {
        for (r, row) in rows.into_iter().enumerate().take(count) {
            for p in 0..8 {
                // SAFETY: the caller vouches for eight elements of each row and for `7 · step + count` of `dst`.
                unsafe { dst.add(p * step + r).write(row.add(p).read()) }
            }
        }
    }

    unsafe fn tile(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on.
        unsafe { tile_of::<Singles>(self, operands, target) }
    }

    unsafe fn tile_of_pairs(self, operands: &Operands, target: &Target) {
        // SAFETY: handed on.
        unsafe { tile_of::<Pairs>(self, operands, target) }
    }
}

/// [`Simd::tile`], once for all kernels that call it.
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn tile_of<W: Words<Portable>>(s: Portable, operands: &Operands, target: &Target) {
    // SAFETY: handed on.
    unsafe {
        if target.columns <= Portable::LANES {
            tile::multiply::<Portable, W, 6, 1>(s, operands, target)
        } else {
            tile::multiply::<Portable, W, 6, 2>(s, operands, target)
        }
    }
}
