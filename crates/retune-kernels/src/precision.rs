//! bf16 numbers as operands of products: the conversions, and the type of a factor that is stored in either precision.
//!
//! A product of two bf16 numbers is exact in f32, and sums are f32: what bf16 costs is the rounding of operands, to
//! nearest and ties to even. Masters, norms, softmax and losses never see it.

use half::bf16;

use crate::scratch::Shared;
use crate::simd::{Simd, Task, lanes};
use crate::{Cpu, elementwise};

#[cfg(target_endian = "big")]
compile_error!("pairs of bf16 numbers are packed as a little-endian machine reads them");

/// What the operands of matrix products are rounded to; sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16: the range of f32 with eight bits of significand.
    Bf16,
}

/// A factor of a product, as it is stored. For [`Precision::Bf16`] numbers stored in f32 are rounded when they are
/// packed.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Stored in f32.
    F32(&'a [f32]),
    /// Stored in bf16; for [`Precision::Bf16`] alone.
    Bf16(&'a [bf16]),
}

impl<'a> Matrix<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Matrix::F32(data) => data.len(),
            Matrix::Bf16(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of a factor that must be stored in f32.
    pub(crate) fn singles(self) -> &'a [f32] {
        match self {
            Matrix::F32(data) => data,
            Matrix::Bf16(_) => panic!("a product in f32 of a factor that is stored in bf16"),
        }
    }
}

impl<'a> From<&'a [f32]> for Matrix<'a> {
    fn from(data: &'a [f32]) -> Self {
        Matrix::F32(data)
    }
}

impl<'a> From<&'a Vec<f32>> for Matrix<'a> {
    fn from(data: &'a Vec<f32>) -> Self {
        Matrix::F32(data)
    }
}

impl<'a> From<&'a [bf16]> for Matrix<'a> {
    fn from(data: &'a [bf16]) -> Self {
        Matrix::Bf16(data)
    }
}

/// A number that a vector of f32 can be read from.
pub(crate) trait Element: Copy + Sync {
    const ZERO: Self;

    /// `x[at..at + LANES]`, zero beyond the end.
    fn read<S: Simd>(s: S, x: &[Self], at: usize) -> S::F;

    /// The same, rounded to bf16.
    fn read_rounded<S: Simd>(s: S, x: &[Self], at: usize) -> S::F;

    fn rounded(self) -> bf16;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn read<S: Simd>(s: S, x: &[f32], at: usize) -> S::F {
        s.read(x, at)
    }

    #[inline(always)]
    fn read_rounded<S: Simd>(s: S, x: &[f32], at: usize) -> S::F {
        s.round_bf16(s.read(x, at))
    }

    #[inline(always)]
    fn rounded(self) -> bf16 {
        bf16::from_f32(self)
    }
}

impl Element for bf16 {
    const ZERO: bf16 = bf16::ZERO;

    #[inline(always)]
    fn read<S: Simd>(s: S, x: &[bf16], at: usize) -> S::F {
        assert!(at <= x.len());
        let left = x.len() - at;
        let mut rest = [bf16::ZERO; 16];
        let from = if left >= S::LANES {
            x[at..].as_ptr()
        } else {
            rest[..left].copy_from_slice(&x[at..]);
            rest.as_ptr()
        };
        // SAFETY: `LANES <= 16` elements follow, in the slice or in the copy of its rest.
        unsafe { s.load_bf16(from) }
    }

    #[inline(always)]
    fn read_rounded<S: Simd>(s: S, x: &[bf16], at: usize) -> S::F {
        Self::read(s, x, at)
    }

    #[inline(always)]
    fn rounded(self) -> bf16 {
        self
    }
}

/// `x[at..at + LANES] = v` for numbers rounded to bf16, dropping what falls beyond the end.
#[inline(always)]
pub(crate) fn write<S: Simd>(s: S, x: &mut [bf16], at: usize, v: S::F) {
    assert!(at <= x.len());
    let left = x.len() - at;
    if left >= S::LANES {
        // SAFETY: `LANES` elements follow `at`.
        unsafe { s.store_bf16(x[at..].as_mut_ptr(), v) };
    } else {
        let mut rest = [bf16::ZERO; 16];
        // SAFETY: no path has more than sixteen lanes.
        unsafe { s.store_bf16(rest.as_mut_ptr(), v) };
        x[at..].copy_from_slice(&rest[..left]);
    }
}

/// Rounds to bf16: to nearest, ties to even; a NaN stays a NaN of its sign.
pub fn to_bf16(cpu: &Cpu, x: &[f32], y: &mut [bf16]) {
    assert_eq!(x.len(), y.len(), "to_bf16: x and y differ in length");
    let task = Round { x, y: Shared::new(y) };
    cpu.run(x.len().div_ceil(PIECE), x.len() <= elementwise::ALONE, &task);
}

/// The same numbers in f32.
pub fn from_bf16(cpu: &Cpu, x: &[bf16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "from_bf16: x and y differ in length");
    let task = Widen { x, y: Shared::new(y) };
    cpu.run(x.len().div_ceil(PIECE), x.len() <= elementwise::ALONE, &task);
}

/// Elements of a piece.
const PIECE: usize = 1 << 14;

struct Round<'a> {
    x: &'a [f32],
    y: Shared<'a, bf16>,
}

impl Task for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let range = piece * PIECE..((piece + 1) * PIECE).min(self.x.len());
        // SAFETY: pieces do not overlap.
        let (x, y) = (&self.x[range.clone()], unsafe { self.y.range(range) });
        lanes!(S, i in x.len(), {
            write(s, y, i, f32::read_rounded(s, x, i));
        });
    }
}

struct Widen<'a> {
    x: &'a [bf16],
    y: Shared<'a, f32>,
}

impl Task for Widen<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, piece: usize) {
        let range = piece * PIECE..((piece + 1) * PIECE).min(self.x.len());
        // SAFETY: pieces do not overlap.
        let (x, y) = (&self.x[range.clone()], unsafe { self.y.range(range) });
        lanes!(S, i in x.len(), {
            s.write(y, i, bf16::read(s, x, i));
        });
    }
}
