//! The tensor: a shared, contiguous, row-major `f32` array; and what a product reads, which may be kept in bf16.

use std::fmt;
use std::sync::{Arc, OnceLock};

use retune_kernels::{Matrix, bf16};

use crate::pool::Buffer;

/// Sizes of a tensor's axes, outermost first.
#[derive(Clone, PartialEq, Eq)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The sizes, outermost first.
    pub fn sizes(&self) -> &[usize] {
        &self.0
    }

    /// The product of the sizes; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The size of the innermost axis; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// The product of all axes but the innermost.
    pub fn rows(&self) -> usize {
        self.0[..self.0.len().saturating_sub(1)].iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Self {
        Self(sizes.to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(sizes: &[usize]) -> Self {
        Self(sizes.to_vec())
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

/// A contiguous row-major `f32` array. Cloning shares the values; writing to a shared tensor copies them first.
#[derive(Clone)]
pub struct Tensor {
    values: Arc<Values>,
    shape: Shape,
}

struct Values {
    buffer: Buffer<f32>,
    /// The same rounded to bf16, made when a product first keeps it and gone with the first write.
    rounded: OnceLock<Arc<Buffer<bf16>>>,
}

impl From<Buffer<f32>> for Values {
    fn from(buffer: Buffer<f32>) -> Self {
        Self { buffer, rounded: OnceLock::new() }
    }
}

impl Tensor {
    pub(crate) fn new(buffer: Buffer<f32>, shape: Shape) -> Self {
        Self { values: Arc::new(buffer.into()), shape }
    }

    /// The same in bf16, made by `make` unless it was already.
    pub(crate) fn rounded(&self, make: impl FnOnce() -> Buffer<bf16>) -> Bf16Tensor {
        let buffer = self.values.rounded.get_or_init(|| Arc::new(make()));
        Bf16Tensor { buffer: Arc::clone(buffer), shape: self.shape.clone() }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The size of the innermost axis; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape.width()
    }

    /// The product of all axes but the innermost.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// The number of values.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The values in row-major order; empty on [`Device::Meta`](crate::Device::Meta).
    pub fn values(&self) -> &[f32] {
        self.values.buffer.values()
    }

    /// The values for writing, copied first if another tensor shares them; empty on `Meta`.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.values).is_none() {
            self.values = Arc::new(self.values.buffer.duplicate().into());
        }
        match Arc::get_mut(&mut self.values) {
            Some(values) => {
                values.rounded.take();
                values.buffer.values_mut()
            }
            None => unreachable!("a buffer that was just made has one owner"),
        }
    }

    /// Whether no other tensor shares the values.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.values).is_some()
    }

    /// The same values under another shape.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "cannot view {:?} as {shape:?}", self.shape);
        Self { values: Arc::clone(&self.values), shape }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}

/// A contiguous row-major array of bf16 numbers. Cloning shares the values.
#[derive(Clone)]
pub struct Bf16Tensor {
    buffer: Arc<Buffer<bf16>>,
    shape: Shape,
}

impl Bf16Tensor {
    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The values in row-major order; empty on [`Device::Meta`](crate::Device::Meta).
    pub fn values(&self) -> &[bf16] {
        self.buffer.values()
    }
}

impl fmt::Debug for Bf16Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bf16Tensor{:?}", self.shape)
    }
}

/// What is kept of a tensor for a product that reads it later: in bf16 where products are, see
/// [`ops::operand`](crate::ops::operand).
#[derive(Clone, Debug)]
pub enum Operand {
    /// The tensor itself.
    F32(Tensor),
    /// Its values, rounded.
    Bf16(Bf16Tensor),
}

/// A factor of a product, borrowed from a tensor or from what was kept of one.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// A tensor.
    F32(&'a Tensor),
    /// Rounded values.
    Bf16(&'a Bf16Tensor),
}

impl<'a> From<&'a Tensor> for Factor<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::F32(tensor)
    }
}

impl<'a> From<&'a Operand> for Factor<'a> {
    fn from(operand: &'a Operand) -> Self {
        match operand {
            Operand::F32(tensor) => Self::F32(tensor),
            Operand::Bf16(tensor) => Self::Bf16(tensor),
        }
    }
}

impl<'a> Factor<'a> {
    /// The sizes of the axes.
    pub fn shape(self) -> &'a Shape {
        match self {
            Self::F32(tensor) => tensor.shape(),
            Self::Bf16(tensor) => tensor.shape(),
        }
    }

    /// The size of the innermost axis; 1 for a scalar.
    pub fn width(self) -> usize {
        self.shape().width()
    }

    /// The product of all axes but the innermost.
    pub fn rows(self) -> usize {
        self.shape().rows()
    }

    /// The values from one on, as a kernel takes them.
    pub(crate) fn matrix_from(self, start: usize) -> Matrix<'a> {
        match self {
            Self::F32(tensor) => Matrix::F32(&tensor.values()[start..]),
            Self::Bf16(tensor) => Matrix::Bf16(&tensor.values()[start..]),
        }
    }

    pub(crate) fn matrix(self) -> Matrix<'a> {
        self.matrix_from(0)
    }
}
