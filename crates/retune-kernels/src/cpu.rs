//! The execution context that every kernel is handed: instruction set, thread pool and scratch arena.
//!
//! Work is cut into pieces by shape alone; threads take pieces from one counter. Which thread computes a
//! piece therefore varies, what the piece computes does not.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::scratch::{Arena, Scratch};
use crate::simd::{self, Task};
use crate::{Isa, KernelError};

/// An execution context: instruction set, thread pool, scratch arena. Cloning shares all three.
#[derive(Clone)]
pub struct Cpu {
    inner: Arc<Inner>,
}

struct Inner {
    isa: Isa,
    threads: usize,
    /// The helpers beside the calling thread; none when there is one thread.
    pool: Option<rayon::ThreadPool>,
    arena: Arena,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("isa", &self.inner.isa).field("threads", &self.inner.threads).finish()
    }
}

impl Cpu {
    /// A context of `threads` threads (the calling thread counts as one) on the given instruction set.
    ///
    /// # Errors
    /// No threads, an instruction set this machine lacks, or a thread pool that does not start.
    pub fn new(threads: usize, isa: Isa) -> Result<Cpu, KernelError> {
        if threads == 0 {
            return Err(KernelError::NoThreads);
        }
        if !isa.available() {
            return Err(KernelError::IsaUnavailable { isa });
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|index| format!("retune-kernel-{}", index + 1))
                .build()
                .map_err(|source| KernelError::ThreadPool { threads, source })?;
            Some(pool)
        };
        Ok(Cpu { inner: Arc::new(Inner { isa, threads, pool, arena: Arena::default() }) })
    }

    /// The instruction set the kernels run on.
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// The number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.inner.threads
    }

    /// Calls `f` once for every piece in `0..pieces`, on all threads, in no particular order.
    ///
    /// Choose `pieces` by the shape of the work and never by the number of threads: then the result has the same
    /// bits on any number of threads.
    pub fn for_each_piece(&self, pieces: usize, f: impl Fn(usize) + Sync) {
        let Some(pool) = self.inner.pool.as_ref().filter(|_| pieces > 1) else {
            (0..pieces).for_each(f);
            return;
        };
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    break;
                }
                f(piece);
            }
        };
        let helpers = (self.inner.threads - 1).min(pieces - 1);
        pool.in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| work());
            }
            work();
        });
    }

    /// Borrows `len` elements of scratch memory.
    pub(crate) fn scratch(&self, len: usize) -> Scratch<'_> {
        self.inner.arena.take(len)
    }

    /// Does all pieces of a task; `alone` keeps to the calling thread what is too small to share.
    pub(crate) fn run<T: Task>(&self, pieces: usize, alone: bool, task: &T) {
        if alone {
            (0..pieces).for_each(|piece| simd::run(self.inner.isa, task, piece));
        } else {
            self.for_each_piece(pieces, |piece| simd::run(self.inner.isa, task, piece));
        }
    }
}
