//! How much work operations are, by kinds of which each has a speed of its own on a machine.

use std::ops::{Add, AddAssign, Index, Sub};

/// A kind of work. What is slow about operations of one kind is alike, so that one speed, measured on a machine, tells
/// how long so much of it takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Floating-point operations of matrix products, convolutions of single pixels among them.
    Product,
    /// The same of products with a side of fewer than [`NARROW`](Self::NARROW) values, which registers are less full with.
    NarrowProduct,
    /// Floating-point operations of convolutions with a window of 3×3 and stride 1, of which kernels spare some.
    SquareConvolution,
    /// Floating-point operations of other convolutions.
    Convolution,
    /// Floating-point operations of convolutions channel by channel.
    DepthwiseConvolution,
    /// Floating-point operations of attention.
    Attention,
    /// Values that an exponential function is computed for, or the like.
    Function,
    /// Values that a random number is drawn for.
    Random,
    /// Values that are read or written where memory sets the pace.
    Memory,
}

impl Work {
    /// Products with a smaller side count apart.
    pub const NARROW: usize = 64;

    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Product,
        Self::NarrowProduct,
        Self::SquareConvolution,
        Self::Convolution,
        Self::DepthwiseConvolution,
        Self::Attention,
        Self::Function,
        Self::Random,
        Self::Memory,
    ];

    /// Whether its unit is a floating-point operation (a multiply-add counts two).
    pub fn is_arithmetic(self) -> bool {
        !matches!(self, Self::Function | Self::Random | Self::Memory)
    }
}

/// Amounts of work by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts([u64; Work::ALL.len()]);

impl WorkCounts {
    /// Counts from a function of the kind.
    pub fn from_fn(count: impl Fn(Work) -> u64) -> Self {
        Self(Work::ALL.map(count))
    }

    /// Floating-point operations of all kinds.
    pub fn operations(&self) -> u64 {
        Work::ALL.into_iter().filter(|kind| kind.is_arithmetic()).map(|kind| self[kind]).sum()
    }

    /// So many times as much, rounded.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self(self.0.map(|count| (count as f64 * factor).round() as u64))
    }
}

impl Index<Work> for WorkCounts {
    type Output = u64;

    fn index(&self, kind: Work) -> &u64 {
        &self.0[kind as usize]
    }
}

impl Add for WorkCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_fn(|kind| self[kind] + other[kind])
    }
}

impl AddAssign for WorkCounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for WorkCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self::from_fn(|kind| self[kind] - earlier[kind])
    }
}
