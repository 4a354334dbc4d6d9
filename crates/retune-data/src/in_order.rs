//! Pieces of work done ahead by several threads and handed on in order, with only a few of them in memory.
//!
//! A piece is a function of its number alone, so that threads decide when a result is there and never what it is.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Results that may wait, for each thread.
const AHEAD: usize = 2;

struct State<T> {
    next: usize,
    taken: usize,
    done: BTreeMap<usize, std::thread::Result<T>>,
    stopped: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Does `pieces` pieces of work on `threads` threads and gives the results to `take` in the order of the pieces. At most
/// [`in_flight`] pieces are begun and not yet taken.
///
/// # Errors
/// The first that a piece or `take` returns, in the order of the pieces.
pub(crate) fn in_order<T: Send, E: Send>(
    pieces: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    if threads <= 1 || pieces <= 1 {
        return (0..pieces).try_for_each(|piece| take(work(piece)?));
    }
    let state = State { next: 0, taken: 0, done: BTreeMap::new(), stopped: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(pieces) {
            scope.spawn(|| serve(&shared, pieces, threads, &work));
        }
        let taken = catch_unwind(AssertUnwindSafe(|| {
            (0..pieces).try_for_each(|piece| {
                let mut state = shared.lock();
                let result = loop {
                    match state.done.remove(&piece) {
                        Some(result) => break result,
                        None => state = shared.wait(state),
                    }
                };
                drop(state);
                let result = take(result.unwrap_or_else(|panic| resume_unwind(panic))?);
                shared.lock().taken = piece + 1;
                shared.changed.notify_all();
                result
            })
        }));
        shared.stop();
        taken.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Pieces at most that are begun and not yet taken.
pub(crate) fn in_flight(threads: usize) -> usize {
    AHEAD * threads.max(1)
}

fn serve<T, E>(
    shared: &Shared<Result<T, E>>,
    pieces: usize,
    threads: usize,
    work: &(impl Fn(usize) -> Result<T, E> + Sync),
) {
    let mut state = shared.lock();
    while !state.stopped && state.next < pieces {
        if state.next >= state.taken + in_flight(threads) {
            state = shared.wait(state);
            continue;
        }
        let piece = state.next;
        state.next += 1;
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(|| work(piece)));
        state = shared.lock();
        state.done.insert(piece, result);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        for threads in [0, 1, 2, 5] {
            let mut results = Vec::new();
            let square = |piece: usize| Ok::<_, ()>(piece * piece);
            let keep = |result| {
                results.push(result);
                Ok(())
            };
            in_order(100, threads, square, keep).unwrap();
            assert_eq!(results, (0..100).map(|piece| piece * piece).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn no_more_pieces_are_in_memory_than_promised() {
        let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |piece: usize| {
            most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok::<_, ()>(piece)
        };
        let slow = |_| {
            std::thread::yield_now();
            held.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(500, 3, work, slow).unwrap();
        let most = most.load(Ordering::SeqCst);
        assert!((1..=in_flight(3)).contains(&most), "{most}");
    }

    #[test]
    fn the_first_error_by_order_ends_it() {
        for threads in [1, 4] {
            let work = |piece: usize| if piece == 7 || piece == 9 { Err(piece) } else { Ok(piece) };
            let mut taken = 0;
            let error = in_order(1000, threads, work, |_| {
                taken += 1;
                Ok(())
            });
            assert_eq!((error, taken), (Err(7), 7));
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller() {
        let run = || in_order(9, 2, |piece| if piece == 4 { panic!("broken") } else { Ok::<_, ()>(()) }, Ok);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}
