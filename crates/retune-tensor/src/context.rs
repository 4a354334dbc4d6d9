//! The context of a computation: device, kernels, memory pool and the count of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use retune_kernels::{Cpu, Precision, bf16};

use crate::pool::{Buffer, Bytes, Pool};
use crate::tensor::{Shape, Tensor};
use crate::work::{Work, WorkCounts};

/// Where a context's tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory, computed by `retune-kernels`.
    Cpu,
    /// Nowhere: shapes, bytes and operation counts without numbers.
    Meta,
}

/// Device, kernels, pool and counters of work. Cheap to clone; clones share all of them.
#[derive(Clone)]
pub struct Context {
    cpu: Option<Cpu>,
    precision: Precision,
    pool: Pool,
    work: Arc<[AtomicU64; Work::ALL.len()]>,
}

impl Context {
    /// A context that computes on the CPU.
    pub fn cpu(cpu: Cpu) -> Self {
        Self { cpu: Some(cpu), precision: Precision::F32, pool: Pool::new(), work: Arc::default() }
    }

    /// A context that only measures.
    pub fn meta() -> Self {
        Self { cpu: None, precision: Precision::F32, pool: Pool::new(), work: Arc::default() }
    }

    /// The same context with products in another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What the operands of products are rounded to, and kept in for backward.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device of this context's tensors.
    pub fn device(&self) -> Device {
        if self.cpu.is_some() { Device::Cpu } else { Device::Meta }
    }

    /// The CPU kernels, or `None` on [`Device::Meta`].
    pub fn kernels(&self) -> Option<&Cpu> {
        self.cpu.as_ref()
    }

    /// The pool that this context's tensors come from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Floating-point operations (a multiply-add counts two) requested so far.
    pub fn operations(&self) -> u64 {
        self.work().operations()
    }

    /// Work of every kind requested so far.
    pub fn work(&self) -> WorkCounts {
        WorkCounts::from_fn(|kind| self.work[kind as usize].load(Ordering::Relaxed))
    }

    pub(crate) fn count(&self, kind: Work, amount: usize) {
        self.work[kind as usize].fetch_add(amount as u64, Ordering::Relaxed);
    }

    /// Counts values that are read or written one after the other.
    pub(crate) fn count_moved(&self, values: usize) {
        self.count(Work::Memory, values);
    }

    /// A tensor whose values are unspecified: the caller overwrites all of them.
    pub(crate) fn allocate(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let length = shape.elements();
        let buffer = if self.cpu.is_some() { self.pool.take(length) } else { self.pool.take_meta(length) };
        Tensor::new(buffer, shape)
    }

    /// Room for `length` rounded values.
    pub(crate) fn allocate_bf16(&self, length: usize) -> Buffer<bf16> {
        if self.cpu.is_some() { self.pool.take(length) } else { self.pool.take_meta(length) }
    }

    /// Bytes beside the tensors, counted like them.
    pub(crate) fn bytes(&self, length: usize) -> Bytes {
        self.pool.bytes(length, self.cpu.is_some())
    }

    /// A tensor of zeros.
    pub fn zeros(&self, shape: impl Into<Shape>) -> Tensor {
        let mut tensor = self.allocate(shape);
        tensor.make_mut().fill(0.0);
        tensor
    }

    /// A tensor of the given row-major values; on [`Device::Meta`] the values are dropped.
    ///
    /// # Panics
    /// If the number of values is not the product of the shape.
    pub fn tensor(&self, shape: impl Into<Shape>, values: Vec<f32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), values.len(), "{shape:?} needs another number of values");
        let length = values.len();
        let values = if self.cpu.is_some() { values } else { Vec::new() };
        Tensor::new(self.pool.adopt(values, length), shape)
    }
}
