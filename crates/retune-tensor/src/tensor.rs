//! The tensor: a shared, contiguous, row-major `f32` array.

use std::fmt;
use std::sync::Arc;

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
    buffer: Arc<Buffer>,
    shape: Shape,
}

impl Tensor {
    pub(crate) fn new(buffer: Buffer, shape: Shape) -> Self {
        Self { buffer: Arc::new(buffer), shape }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The size of the innermost axis; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape.sizes().last().copied().unwrap_or(1)
    }

    /// The product of all axes but the innermost.
    pub fn rows(&self) -> usize {
        let sizes = self.shape.sizes();
        sizes[..sizes.len().saturating_sub(1)].iter().product()
    }

    /// The number of values.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The values in row-major order; empty on [`Device::Meta`](crate::Device::Meta).
    pub fn values(&self) -> &[f32] {
        self.buffer.values()
    }

    /// The values for writing, copied first if another tensor shares them; empty on `Meta`.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.buffer).is_none() {
            self.buffer = Arc::new(self.buffer.duplicate());
        }
        match Arc::get_mut(&mut self.buffer) {
            Some(buffer) => buffer.values_mut(),
            None => unreachable!("a buffer that was just made has one owner"),
        }
    }

    /// Whether no other tensor shares the values.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.buffer).is_some()
    }

    /// The same values under another shape.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "cannot view {:?} as {shape:?}", self.shape);
        Self { buffer: Arc::clone(&self.buffer), shape }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}
