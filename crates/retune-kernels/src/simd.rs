//! One vocabulary of vector operations, so that a kernel is written once and runs on every instruction set.
//!
//! A value of an implementing type is the proof that the machine has the instructions; [`run`] makes one inside a
//! function compiled for them. Everything generic over [`Simd`] is `#[inline(always)]`, because only code
//! inlined into such a function may use the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_tile;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::bf16;

use crate::Isa;

/// Vectors of f32 (`F`), of u32 (`U`) and lane masks (`M`), all of `LANES` lanes.
///
/// Given a NaN, `max` returns its second operand, as x86 does.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    const LANES: usize;
    /// Rows of the matrix-multiplication tile held in registers.
    const TILE_ROWS: usize;
    /// Columns of that tile.
    const TILE_COLUMNS: usize;
    type F: Copy;
    type U: Copy;
    type M: Copy;

    /// The instruction set.
    fn isa(self) -> Isa;
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `LANES` elements can be read from `p`.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Lanes from `count` on are zero.
    ///
    /// # Safety
    /// `count` elements can be read from `p`; `count <= LANES`.
    unsafe fn load_part(self, p: *const f32, count: usize) -> Self::F;
    /// # Safety
    /// `LANES` elements can be written to `p`.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// # Safety
    /// `count` elements can be written to `p`; `count <= LANES`.
    unsafe fn store_part(self, p: *mut f32, count: usize, v: Self::F);
    /// Asks for the cache line at `p`, which need not be readable.
    fn prefetch(self, p: *const f32);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a · b`
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a · 2^n` for integral `n` in `-126..=127`.
    fn scale_by_power_of_two(self, a: Self::F, n: Self::F) -> Self::F;
    /// Whether `a < b`; false for a NaN.
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    fn is_nan(self, a: Self::F) -> Self::M;
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;
    fn reduce_add(self, a: Self::F) -> f32;
    fn reduce_max(self, a: Self::F) -> f32;

    fn splat_u(self, x: u32) -> Self::U;
    /// `start, start + 1, …`
    fn count_from(self, start: u32) -> Self::U;
    fn xor_u(self, a: Self::U, b: Self::U) -> Self::U;
    /// The high and the low half of each lane's 64-bit product.
    fn mul_wide(self, a: Self::U, b: Self::U) -> (Self::U, Self::U);
    /// Writes lane `l` of the four words, one behind the other, as the eight 16-bit numbers from `8·l` on.
    ///
    /// # Safety
    /// `8 · LANES` numbers can be written to `out`.
    unsafe fn store_words(self, words: [Self::U; 4], out: *mut u16);
    /// Whether each of the `LANES` numbers at `p` is at least `threshold <= 65535`.
    ///
    /// # Safety
    /// `LANES` numbers can be read from `p`.
    unsafe fn at_least(self, p: *const u16, threshold: u32) -> Self::M;

    /// Rounded to bf16, to nearest and ties to even: the low half of each lane's bits is zero. A NaN stays a NaN.
    fn round_bf16(self, a: Self::F) -> Self::F;
    /// The low half of each lane's bits as a bf16 number, widened.
    fn low_half(self, pair: Self::F) -> Self::F;
    /// The high half of each lane's bits as a bf16 number, widened.
    fn high_half(self, pair: Self::F) -> Self::F;
    /// Lanes whose halves are these bf16 numbers.
    fn join_halves(self, low: Self::F, high: Self::F) -> Self::F;
    /// # Safety
    /// `LANES` elements can be read from `p`.
    unsafe fn load_bf16(self, p: *const bf16) -> Self::F;
    /// Writes numbers that are rounded to bf16 already.
    ///
    /// # Safety
    /// `LANES` elements can be written to `p`.
    unsafe fn store_bf16(self, p: *mut bf16, v: Self::F);

    /// Turns a block of 8×8: `dst[p · step + r] = rows[r][p]` for `p` in `0..8` and `r` in `0..count`.
    ///
    /// # Safety
    /// Eight elements can be read from every row; `7 · step + count` can be written to `dst`; `count <= 8`.
    unsafe fn transpose_8x8(self, rows: [*const f32; 8], dst: *mut f32, step: usize, count: usize);

    /// One tile of a matrix product, see [`crate::gemm::tile`].
    ///
    /// # Safety
    /// As [`crate::gemm::tile::multiply`].
    unsafe fn tile(self, operands: &crate::gemm::tile::Operands, target: &crate::gemm::tile::Target);

    /// The same for operands whose elements are pairs of bf16 numbers, neighbours along k, in the bits of f32.
    ///
    /// # Safety
    /// As [`crate::gemm::tile::multiply`].
    unsafe fn tile_of_pairs(self, operands: &crate::gemm::tile::Operands, target: &crate::gemm::tile::Target);

    /// `x[at..at + LANES]`, zero beyond the end.
    #[inline(always)]
    fn read(self, x: &[f32], at: usize) -> Self::F {
        assert!(at <= x.len());
        let left = x.len() - at;
        // SAFETY: `left` elements follow `at`, and no more than that are read.
        unsafe {
            let p = x.as_ptr().add(at);
            if left >= Self::LANES { self.load(p) } else { self.load_part(p, left) }
        }
    }

    /// `x[at..at + LANES] = v`, dropping what falls beyond the end.
    #[inline(always)]
    fn write(self, x: &mut [f32], at: usize, v: Self::F) {
        assert!(at <= x.len());
        let left = x.len() - at;
        // SAFETY: `left` elements follow `at`, and no more than that are written.
        unsafe {
            let p = x.as_mut_ptr().add(at);
            if left >= Self::LANES { self.store(p, v) } else { self.store_part(p, left, v) }
        }
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
}

/// Runs a block for every vector of `0..length`, its last time for what is left over. Two copies of the block, so that
/// the one in the loop is known to have whole vectors.
macro_rules! lanes {
    ($simd:ident, $at:ident in $length:expr, $body:block) => {{
        let length = $length;
        let mut $at = 0;
        while length - $at >= <$simd as $crate::simd::Simd>::LANES {
            $body
            $at += <$simd as $crate::simd::Simd>::LANES;
        }
        if $at < length {
            $body
        }
    }};
}
pub(crate) use lanes;

/// `to = from`, in vectors: the library's copy is microcode for rows of a few KiB, several times slower here.
#[inline(always)]
pub(crate) fn copy<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let to = &mut to[..from.len()];
    lanes!(S, i in from.len(), {
        s.write(to, i, s.read(from, i));
    });
}

/// Work that is written for any instruction set.
pub(crate) trait Task: Sync {
    /// Does one piece. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(&self, s: S, piece: usize);
}

/// Does one piece of a task on an instruction set that the machine has.
pub(crate) fn run<T: Task>(isa: Isa, task: &T, piece: usize) {
    match isa {
        Isa::Portable => task.run(portable::Portable, piece),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Cpu` is only made with an instruction set that is available.
        Isa::Avx2 => unsafe { avx2::run(task, piece) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::run(task, piece, false) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, with AVX512-BF16.
        Isa::Avx512Bf16 => unsafe { avx512::run(task, piece, true) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => {
            unreachable!("a Cpu is only made with an instruction set that is available")
        }
    }
}
