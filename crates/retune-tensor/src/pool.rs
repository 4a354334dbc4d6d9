//! The memory pool: every tensor's bytes are taken from it and go back to it, so that a step reuses the buffers of the
//! step before and the bytes in use are known exactly, on `Meta` too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes held by tensors of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of all living tensors.
    pub current: u64,
    /// The most bytes that were ever alive at once since [`Pool::reset_peak`].
    pub peak: u64,
}

/// A pool of `f32` buffers. Cheap to clone; clones share the buffers.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    current: AtomicU64,
    peak: AtomicU64,
    free: Mutex<BTreeMap<usize, Vec<Vec<f32>>>>,
}

/// A buffer that returns to its pool when dropped. `Meta` buffers count bytes and hold none.
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    length: usize,
    pool: Pool,
}

impl Pool {
    /// A new, empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// What living tensors hold now, and the most they held.
    pub fn memory_use(&self) -> MemoryUse {
        MemoryUse {
            current: self.shared.current.load(Ordering::Relaxed),
            peak: self.shared.peak.load(Ordering::Relaxed),
        }
    }

    /// Starts a new peak from what is held now.
    pub fn reset_peak(&self) {
        self.shared.peak.store(self.shared.current.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Gives the free buffers back to the operating system.
    pub fn release_free(&self) {
        self.free().clear();
    }

    fn free(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, length: usize) {
        self.account_bytes(4 * length as u64);
    }

    fn account_bytes(&self, bytes: u64) {
        let now = self.shared.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.shared.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// A buffer of `length` values whose content is whatever its last user left.
    pub(crate) fn take(&self, length: usize) -> Buffer {
        self.account(length);
        let reused = {
            let mut free = self.free();
            // A buffer up to a quarter larger serves: batches of mixed lengths would otherwise never find one.
            let fitting = free.range(length..=length + length / 4).find(|(_, list)| !list.is_empty());
            let key = fitting.map(|(&capacity, _)| capacity);
            key.and_then(|capacity| free.get_mut(&capacity)).and_then(Vec::pop)
        };
        let mut values = reused.unwrap_or_default();
        values.resize(length, 0.0);
        Buffer { values, length, pool: self.clone() }
    }

    /// Takes over a vector that was filled elsewhere.
    pub(crate) fn adopt(&self, values: Vec<f32>) -> Buffer {
        self.account(values.len());
        Buffer { length: values.len(), values, pool: self.clone() }
    }

    /// `length` zeroed bytes, or only their count.
    pub(crate) fn bytes(&self, length: usize, holds_values: bool) -> Bytes {
        self.account_bytes(length as u64);
        let values = if holds_values { vec![0; length] } else { Vec::new() };
        Bytes { values, length, pool: self.clone() }
    }

    /// Counts `length` values without holding them.
    pub(crate) fn take_meta(&self, length: usize) -> Buffer {
        self.account(length);
        Buffer { values: Vec::new(), length, pool: self.clone() }
    }
}

/// Small integers that an operation keeps for its backward, counted in the pool; `Meta` ones hold none.
#[derive(Debug)]
pub(crate) struct Bytes {
    values: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl Bytes {
    pub(crate) fn values(&self) -> &[u8] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [u8] {
        &mut self.values
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.pool.shared.current.fetch_sub(self.length as u64, Ordering::Relaxed);
    }
}

impl Buffer {
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    pub(crate) fn duplicate(&self) -> Buffer {
        if self.values.is_empty() {
            return self.pool.take_meta(self.length);
        }
        let mut copy = self.pool.take(self.length);
        copy.values.copy_from_slice(&self.values);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.shared.current.fetch_sub(4 * self.length as u64, Ordering::Relaxed);
        let values = std::mem::take(&mut self.values);
        if values.capacity() > 0 {
            self.pool.free().entry(values.capacity()).or_default().push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_reused_and_the_peak_is_exact() {
        let pool = Pool::new();
        let first = pool.take(1000);
        let address = first.values().as_ptr();
        drop(first);
        let second = pool.take(900);
        assert_eq!(second.values().as_ptr(), address);
        let third = pool.take(100);
        assert_eq!(pool.memory_use(), MemoryUse { current: 4000, peak: 4000 });
        drop((second, third));
        assert_eq!(pool.memory_use().current, 0);
    }
}
