//! Buffers that kernels borrow and give back, so that a training step allocates nothing once it is warm.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// A cache line, which is what buffers are aligned to.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Buffers not in use.
#[derive(Default)]
pub(crate) struct Arena {
    free: Mutex<Vec<Vec<Line>>>,
}

/// A borrowed buffer, aligned to 64 bytes. What it holds at first is unspecified.
pub(crate) struct Scratch<'a> {
    arena: &'a Arena,
    lines: Vec<Line>,
    len: usize,
}

impl Arena {
    /// Borrows `len` elements.
    pub(crate) fn take(&self, len: usize) -> Scratch<'_> {
        let needed = len.div_ceil(16);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, or else the largest, which then grows: the arena stays small.
        let best = (0..free.len()).min_by_key(|&i| {
            let lines = free[i].len();
            if lines >= needed { (0, lines) } else { (1, usize::MAX - lines) }
        });
        let mut lines = best.map_or_else(Vec::new, |i| free.swap_remove(i));
        drop(free);
        if lines.len() < needed {
            lines.clear();
            lines.resize(needed, Line([0.0; 16]));
        }
        Scratch { arena: self, lines, len }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        self.arena.free.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
    }
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen f32 without padding, and `take` made at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A mutable slice that pieces of work share, each taking ranges that no other touches.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out what a `&mut [T]` would, and who asks vouches that ranges do not overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), owner: std::marker::PhantomData }
    }

    /// The elements of a range.
    ///
    /// # Safety
    /// While the result lives, no other range that overlaps this one is in use.
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice by the assertion, unaliased by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Sets one element.
    ///
    /// # Safety
    /// As [`Shared::range`], for this element.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, at: usize, value: T) {
        // SAFETY: handed on.
        unsafe { self.range(at..at + 1)[0] = value };
    }

    /// Where element `at` lies.
    #[inline(always)]
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.len);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(at) }
    }
}
