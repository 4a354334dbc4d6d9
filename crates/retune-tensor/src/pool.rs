//! The memory pool: every tensor's bytes are taken from it and go back to it, so that a step reuses the buffers of the
//! step before and the bytes in use are known exactly, on `Meta` too.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use retune_kernels::bf16;

static RELEASE: OnceLock<fn()> = OnceLock::new();

/// Names what makes the program's allocator give its free memory back to the system, once for the whole process. An
/// allocator that keeps what is freed for a while would hold it beside what is allocated instead.
pub fn set_memory_release(release: fn()) {
    // The first one stays.
    let _ = RELEASE.set(release);
}

/// Gives the allocator's free memory back to the system, if [`set_memory_release`] said how.
pub fn release_memory() {
    if let Some(release) = RELEASE.get() {
        release();
    }
}

/// So many freed bytes are given back at once.
const LARGE_RELEASE: u64 = 1 << 24;

/// Bytes held by tensors of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of all living tensors.
    pub current: u64,
    /// The most bytes that were ever alive at once since [`Pool::reset_peak`].
    pub peak: u64,
    /// Bytes of all buffers, those that wait to be used again among them: what the process holds. Once it is half again
    /// what was ever alive at once, buffers that wait are freed before new ones are made.
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
    /// The most bytes that were ever alive at once.
    highest: AtomicU64,
    held: AtomicU64,
    singles: Shelf<f32>,
    halves: Shelf<bf16>,
}

/// Free buffers of one type, by capacity. Those of `Meta` have a capacity and no values.
#[derive(Debug, Default)]
pub(crate) struct Shelf<T> {
    free: Mutex<ByCapacity<T>>,
}

type ByCapacity<T> = BTreeMap<usize, Vec<Vec<T>>>;

/// Takes out a buffer of this capacity.
fn pop<T>(free: &mut ByCapacity<T>, capacity: usize) -> Option<Vec<T>> {
    let list = free.get_mut(&capacity)?;
    let values = list.pop();
    if list.is_empty() {
        free.remove(&capacity);
    }
    values
}

impl<T> Shelf<T> {
    fn free(&self) -> MutexGuard<'_, ByCapacity<T>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, capacity: usize, values: Vec<T>) {
        self.free().entry(capacity).or_default().push(values);
    }

    /// The smallest free buffer with a capacity in this range.
    fn pick(&self, capacities: RangeInclusive<usize>) -> Option<(usize, Vec<T>)> {
        let mut free = self.free();
        let (&capacity, _) = free.range(capacities).next()?;
        Some((capacity, pop(&mut free, capacity)?))
    }

    /// Frees buffers until there are none or `bytes` are freed, in each turn the smallest that is enough or else the
    /// largest; says how many bytes were, and whether there were values in them.
    fn release(&self, bytes: u64) -> (u64, bool) {
        let mut free = self.free();
        let (mut freed, mut had_values) = (0, false);
        while freed < bytes {
            let enough =
                usize::try_from((bytes - freed).div_ceil(size_of::<T>() as u64)).unwrap_or(usize::MAX);
            let found = free.range(enough..).next().or_else(|| free.iter().next_back());
            let Some(capacity) = found.map(|(&capacity, _)| capacity) else { break };
            had_values |= pop(&mut free, capacity).is_some_and(|values| !values.is_empty());
            freed += (size_of::<T>() * capacity) as u64;
        }
        (freed, had_values)
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
    capacity: usize,
    /// Whether its memory came from elsewhere: then it is not kept, since as much comes from there each time.
    is_adopted: bool,
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
        self.release(u64::MAX);
    }

    /// Gives free buffers back until there are none or so many bytes are back.
    fn release(&self, bytes: u64) {
        let (singles, had_singles) = self.shared.singles.release(bytes);
        let (halves, had_halves) = self.shared.halves.release(bytes.saturating_sub(singles));
        let freed = singles + halves;
        self.shared.held.fetch_sub(freed, Ordering::Relaxed);
        if freed >= LARGE_RELEASE && (had_singles || had_halves) {
            release_memory();
        }
    }

    /// Counts a new buffer among those that are held.
    fn hold<T>(&self, capacity: usize) {
        self.shared.held.fetch_add((size_of::<T>() * capacity) as u64, Ordering::Relaxed);
    }

    fn account(&self, bytes: usize) {
        let now = self.shared.current.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.shared.peak.fetch_max(now, Ordering::Relaxed);
        self.shared.highest.fetch_max(now, Ordering::Relaxed);
    }

    /// A free buffer for `length` values with its capacity, if one serves. If none does, and a new one would be more than
    /// the pool should hold, a much larger one serves too, or others make room for the new one.
    fn reuse<T: Value>(&self, length: usize) -> Option<(usize, Vec<T>)> {
        let shelf = T::shelf(&self.shared);
        if let Some(found) = shelf.pick(length..=2 * length) {
            return Some(found);
        }
        let (held, highest) =
            (self.shared.held.load(Ordering::Relaxed), self.shared.highest.load(Ordering::Relaxed));
        let excess = (held + (size_of::<T>() * length) as u64).saturating_sub(highest + highest / 2);
        if excess == 0 {
            return None;
        }
        let found = shelf.pick(length..=4 * length);
        if found.is_none() {
            self.release(excess);
        }
        found
    }

    /// A buffer of `length` values whose content is whatever its last user left. Buffers serve requests down to half
    /// their size, since batches of mixed lengths and the last of an epoch would otherwise never find one.
    pub(crate) fn take<T: Value>(&self, length: usize) -> Buffer<T> {
        self.account(size_of::<T>() * length);
        let reused = self.reuse(length);
        let is_new = reused.is_none();
        // A new one comes as the system hands it out: those who write it touch it first, each its part.
        let mut values = reused.map_or_else(|| vec![T::default(); length], |(_, values)| values);
        values.resize(length, T::default());
        let capacity = values.capacity();
        if is_new {
            self.hold::<T>(capacity);
        }
        Buffer { values, length, capacity, is_adopted: false, pool: self.clone() }
    }

    /// Takes over a vector that was filled elsewhere, or counts one of `length` values.
    pub(crate) fn adopt(&self, values: Vec<f32>, length: usize) -> Buffer<f32> {
        self.account(size_of::<f32>() * length);
        let capacity = values.capacity().max(length);
        self.hold::<f32>(capacity);
        Buffer { values, length, capacity, is_adopted: true, pool: self.clone() }
    }

    /// `length` zeroed bytes, or only their count.
    pub(crate) fn bytes(&self, length: usize, holds_values: bool) -> Bytes {
        self.account(length);
        let values = if holds_values { vec![0; length] } else { Vec::new() };
        Bytes { values, length, pool: self.clone() }
    }

    /// Counts `length` values without holding them, and which buffer would have been used again for them.
    pub(crate) fn take_meta<T: Value>(&self, length: usize) -> Buffer<T> {
        self.account(size_of::<T>() * length);
        let capacity = self.reuse::<T>(length).map_or_else(
            || {
                self.hold::<T>(length);
                length
            },
            |(capacity, _)| capacity,
        );
        Buffer { values: Vec::new(), length, capacity, is_adopted: false, pool: self.clone() }
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
        if self.is_adopted {
            let bytes = (size_of::<T>() * self.capacity) as u64;
            self.pool.shared.held.fetch_sub(bytes, Ordering::Relaxed);
        } else if self.capacity > 0 {
            T::shelf(&self.pool.shared).put(self.capacity, std::mem::take(&mut self.values));
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
    fn what_was_adopted_is_not_kept() {
        let pool = Pool::new();
        for values in [vec![1.0; 1000], Vec::new()] {
            let adopted = pool.adopt(values, 1000);
            assert_eq!(pool.memory_use(), MemoryUse { current: 4000, peak: 4000, held: 4000 });
            drop(adopted);
            assert_eq!(pool.memory_use(), MemoryUse { current: 0, peak: 4000, held: 0 });
        }
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

    #[test]
    fn buffers_of_lengths_that_do_not_come_again_are_freed_for_new_ones() {
        let pool = Pool::new();
        // Few lengths are within what the buffers of others serve.
        for length in [1000, 700, 500, 350, 240, 2000, 1400] {
            drop(pool.take::<f32>(length));
            let MemoryUse { held, .. } = pool.memory_use();
            assert!(held <= 4 * 3000, "{held} bytes are held after {length} values");
        }
        // The 1,000 values served 700 and 500; 350 were the one new buffer there was room for, served 240 and made room for
        // 2,000, which serve 1,400.
        assert_eq!(pool.memory_use().held, 4 * (2000 + 1000));
    }

    #[test]
    fn the_smallest_buffer_that_is_enough_makes_room() {
        let pool = Pool::new();
        drop([400, 1000, 3000].map(|length| pool.take::<f32>(length)));
        // 1,000 more than half again the 6,800.
        let _large = pool.take::<f32>(6800);
        assert_eq!(pool.memory_use().held, 4 * (400 + 3000 + 6800));
    }

    #[test]
    fn much_that_is_freed_is_given_back_at_once() {
        static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);
        set_memory_release(|| {
            GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
        });
        let (pool, meta) = (Pool::new(), Pool::new());
        let large = LARGE_RELEASE as usize / size_of::<f32>();
        drop(pool.take::<f32>(large / 2));
        pool.release_free();
        drop(meta.take_meta::<f32>(large));
        meta.release_free();
        assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 0);
        drop(pool.take::<f32>(large));
        pool.release_free();
        assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 1);
    }
}
