//! The memory pool: every tensor's bytes are taken from it and go back to it, so that a step reuses the buffers of the
//! step before and the bytes in use are known exactly, on `Meta` too.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retune_kernels::bf16;

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

/// A pool of buffers. Cheap to clone; clones share the buffers.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    current: AtomicU64,
    peak: AtomicU64,
    held: AtomicU64,
    singles: Shelf<f32>,
    halves: Shelf<bf16>,
}

/// Free buffers of one type, by capacity.
#[derive(Debug, Default)]
pub(crate) struct Shelf<T> {
    free: Mutex<BTreeMap<usize, Vec<Vec<T>>>>,
    /// How many `Meta` buffers of each capacity would be free.
    free_meta: Mutex<BTreeMap<usize, usize>>,
}

impl<T> Shelf<T> {
    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<T>>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_meta(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.free_meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the shelf and says how many bytes lay, or would lie, on it.
    fn release(&self) -> u64 {
        let freed: usize = self.free().iter().map(|(capacity, list)| capacity * list.len()).sum();
        self.free().clear();
        let freed_meta: usize = self.free_meta().iter().map(|(capacity, count)| capacity * count).sum();
        self.free_meta().clear();
        (size_of::<T>() * (freed + freed_meta)) as u64
    }
}

/// A type of values that buffers hold.
pub(crate) trait Value: Copy + Default {
    fn shelf(shared: &Shared) -> &Shelf<Self>;
}

impl Value for f32 {
    fn shelf(shared: &Shared) -> &Shelf<Self> {
        &shared.singles
    }
}

impl Value for bf16 {
    fn shelf(shared: &Shared) -> &Shelf<Self> {
        &shared.halves
    }
}

/// A buffer that returns to its pool when dropped. `Meta` buffers count bytes and hold none.
#[derive(Debug)]
pub(crate) struct Buffer<T: Value> {
    values: Vec<T>,
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
        let freed = self.shared.singles.release() + self.shared.halves.release();
        self.shared.held.fetch_sub(freed, Ordering::Relaxed);
    }

    fn hold<T>(&self, capacity: usize) {
        self.shared.held.fetch_add((size_of::<T>() * capacity) as u64, Ordering::Relaxed);
    }

    fn account<T>(&self, length: usize) {
        self.account_bytes((size_of::<T>() * length) as u64);
    }

    fn account_bytes(&self, bytes: u64) {
        let now = self.shared.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.shared.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// A buffer of `length` values whose content is whatever its last user left.
    pub(crate) fn take<T: Value>(&self, length: usize) -> Buffer<T> {
        self.account::<T>(length);
        let reused = {
            let mut free = T::shelf(&self.shared).free();
            let fitting = free.range(serving(length)).find(|(_, list)| !list.is_empty());
            let key = fitting.map(|(&capacity, _)| capacity);
            key.and_then(|capacity| free.get_mut(&capacity)).and_then(Vec::pop)
        };
        let is_new = reused.is_none();
        let mut values = reused.unwrap_or_default();
        values.resize(length, T::default());
        if is_new {
            self.hold::<T>(values.capacity());
        }
        Buffer { values, length, meta_capacity: 0, pool: self.clone() }
    }

    /// Takes over a vector that was filled elsewhere.
    pub(crate) fn adopt(&self, values: Vec<f32>) -> Buffer<f32> {
        self.account::<f32>(values.len());
        self.hold::<f32>(values.capacity());
        Buffer { length: values.len(), values, meta_capacity: 0, pool: self.clone() }
    }

    /// `length` zeroed bytes, or only their count.
    pub(crate) fn bytes(&self, length: usize, holds_values: bool) -> Bytes {
        self.account_bytes(length as u64);
        let values = if holds_values { vec![0; length] } else { Vec::new() };
        Bytes { values, length, pool: self.clone() }
    }

    /// Counts `length` values without holding them, and which buffer would have been used again for them.
    pub(crate) fn take_meta<T: Value>(&self, length: usize) -> Buffer<T> {
        self.account::<T>(length);
        let reused = {
            let mut free = T::shelf(&self.shared).free_meta();
            let fitting = free.range_mut(serving(length)).find(|(_, count)| **count > 0);
            fitting.map(|(&capacity, count)| {
                *count -= 1;
                capacity
            })
        };
        let meta_capacity = reused.unwrap_or_else(|| {
            self.hold::<T>(length);
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

impl<T: Value> Buffer<T> {
    pub(crate) fn values(&self) -> &[T] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }

    pub(crate) fn duplicate(&self) -> Self {
        if self.values.is_empty() {
            return self.pool.take_meta(self.length);
        }
        let mut copy = self.pool.take(self.length);
        copy.values.copy_from_slice(&self.values);
        copy
    }
}

impl<T: Value> Drop for Buffer<T> {
    fn drop(&mut self) {
        let bytes = (size_of::<T>() * self.length) as u64;
        self.pool.shared.current.fetch_sub(bytes, Ordering::Relaxed);
        let values = std::mem::take(&mut self.values);
        let shelf = T::shelf(&self.pool.shared);
        if self.meta_capacity > 0 {
            *shelf.free_meta().entry(self.meta_capacity).or_default() += 1;
        } else if values.capacity() > 0 {
            shelf.free().entry(values.capacity()).or_default().push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_reused_and_the_peak_is_exact() {
        let pool = Pool::new();
        let first = pool.take::<f32>(1000);
        let address = first.values().as_ptr();
        drop(first);
        let second = pool.take::<f32>(900);
        assert_eq!(second.values().as_ptr(), address);
        let third = pool.take::<f32>(100);
        assert_eq!(pool.memory_use(), MemoryUse { current: 4000, peak: 4000, held: 4400 });
        drop((second, third));
        assert_eq!(pool.memory_use().current, 0);
        pool.release_free();
        assert_eq!(pool.memory_use().held, 0);
    }

    #[test]
    fn rounded_values_take_half_the_bytes_and_other_buffers() {
        let pool = Pool::new();
        drop(pool.take::<bf16>(1000));
        let singles = pool.take::<f32>(1000);
        assert_eq!(pool.memory_use(), MemoryUse { current: 4000, peak: 4000, held: 6000 });
        let halves = pool.take::<bf16>(1000);
        assert_eq!(pool.memory_use(), MemoryUse { current: 6000, peak: 6000, held: 6000 });
        drop((singles, halves));
        pool.release_free();
        assert_eq!(pool.memory_use(), MemoryUse { current: 0, peak: 6000, held: 0 });
    }

    #[test]
    fn what_is_held_without_values_is_what_would_be_held_with_them() {
        let (pool, meta) = (Pool::new(), Pool::new());
        let mut living = Vec::new();
        for step in 0..200_usize {
            let length = 100 + step * 7919 % 977;
            living.push((pool.take::<f32>(length), meta.take_meta::<f32>(length)));
            if step % 3 == 2 {
                living.swap_remove(step * 31 % living.len());
                living.swap_remove(step * 17 % living.len());
            }
            assert_eq!(pool.memory_use(), meta.memory_use(), "step {step}");
        }
    }
}
