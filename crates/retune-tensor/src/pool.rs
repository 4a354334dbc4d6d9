//! The memory pool: every tensor's bytes are taken from it and go back to it, so that a step reuses the buffers of the
//! step before and the bytes in use are known exactly, on `Meta` too.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes held by tensors of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of all living tensors.
    pub current: u64,
    /// The most bytes that were ever alive at once since [`Pool::reset_peak`].
    pub peak: u64,
    /// Bytes of all buffers, those that wait to be used again among them: what the process holds. It grows until
    /// [`Pool::release_free`].
    pub held: u64,
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
    held: AtomicU64,
    free: Mutex<BTreeMap<usize, Vec<Vec<f32>>>>,
    /// How many `Meta` buffers of each capacity would be free.
    free_meta: Mutex<BTreeMap<usize, usize>>,
}

/// A buffer that returns to its pool when dropped. `Meta` buffers count bytes and hold none.
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    length: usize,
    /// Values that a `Meta` buffer would have room for; 0 for others.
    meta_capacity: usize,
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
            held: self.shared.held.load(Ordering::Relaxed),
        }
    }

    /// Starts a new peak from what is held now.
    pub fn reset_peak(&self) {
        self.shared.peak.store(self.shared.current.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Gives the free buffers back to the operating system.
    pub fn release_free(&self) {
        let freed: usize = self.free().iter().map(|(capacity, list)| capacity * list.len()).sum();
        self.free().clear();
        let freed_meta: usize = self.free_meta().iter().map(|(capacity, count)| capacity * count).sum();
        self.free_meta().clear();
        self.shared.held.fetch_sub(4 * (freed + freed_meta) as u64, Ordering::Relaxed);
    }

    fn free(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_meta(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, usize>> {
        self.shared.free_meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, capacity: usize) {
        self.shared.held.fetch_add(4 * capacity as u64, Ordering::Relaxed);
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
            let fitting = free.range(serving(length)).find(|(_, list)| !list.is_empty());
            let key = fitting.map(|(&capacity, _)| capacity);
            key.and_then(|capacity| free.get_mut(&capacity)).and_then(Vec::pop)
        };
        let is_new = reused.is_none();
        let mut values = reused.unwrap_or_default();
        values.resize(length, 0.0);
        if is_new {
            self.hold(values.capacity());
        }
        Buffer { values, length, meta_capacity: 0, pool: self.clone() }
    }

    /// Takes over a vector that was filled elsewhere.
    pub(crate) fn adopt(&self, values: Vec<f32>) -> Buffer {
        self.account(values.len());
        self.hold(values.capacity());
        Buffer { length: values.len(), values, meta_capacity: 0, pool: self.clone() }
    }

    /// `length` zeroed bytes, or only their count.
    pub(crate) fn bytes(&self, length: usize, holds_values: bool) -> Bytes {
        self.account_bytes(length as u64);
        let values = if holds_values { vec![0; length] } else { Vec::new() };
        Bytes { values, length, pool: self.clone() }
    }

    /// Counts `length` values without holding them, and which buffer would have been used again for them.
    pub(crate) fn take_meta(&self, length: usize) -> Buffer {
        self.account(length);
        let reused = {
            let mut free = self.free_meta();
            let fitting = free.range_mut(serving(length)).find(|(_, count)| **count > 0);
            fitting.map(|(&capacity, count)| {
                *count -= 1;
                capacity
            })
        };
        let meta_capacity = reused.unwrap_or_else(|| {
            self.hold(length);
            length
        });
        Buffer { values: Vec::new(), length, meta_capacity, pool: self.clone() }
    }
}

/// The capacities that serve a request: up to a quarter larger, since batches of mixed lengths would otherwise never find
/// a buffer.
fn serving(length: usize) -> RangeInclusive<usize> {
    length..=length + length / 4
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
        if self.meta_capacity > 0 {
            *self.pool.free_meta().entry(self.meta_capacity).or_default() += 1;
        } else if values.capacity() > 0 {
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
        assert_eq!(pool.memory_use(), MemoryUse { current: 4000, peak: 4000, held: 4400 });
        drop((second, third));
        assert_eq!(pool.memory_use().current, 0);
        pool.release_free();
        assert_eq!(pool.memory_use().held, 0);
    }

    #[test]
    fn what_is_held_without_values_is_what_would_be_held_with_them() {
        let (pool, meta) = (Pool::new(), Pool::new());
        let mut living = Vec::new();
        for step in 0..200_usize {
            let length = 100 + step * 7919 % 977;
            living.push((pool.take(length), meta.take_meta(length)));
            if step % 3 == 2 {
                living.swap_remove(step * 31 % living.len());
                living.swap_remove(step * 17 % living.len());
            }
            assert_eq!(pool.memory_use(), meta.memory_use(), "step {step}");
        }
    }
}
