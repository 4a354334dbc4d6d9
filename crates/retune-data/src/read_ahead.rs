//! Samples made ready by worker threads while the model computes: the same ones for any number of workers.
//!
//! What a request gives depends on the request alone, so threads only decide when it is there. Memory is bounded by
//! what was announced last.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is asked for ahead of time.
pub trait AheadRequest: Clone + Eq + Hash + Send + 'static {}

impl<T: Clone + Eq + Hash + Send + 'static> AheadRequest for T {}

/// A pool of threads that turn requests into results ahead of time.
pub struct ReadAhead<R: AheadRequest, T> {
    shared: Arc<Shared<R, T>>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared<R, T> {
    work: Box<dyn Fn(&R) -> T + Send + Sync>,
    state: Mutex<State<R, T>>,
    changed: Condvar,
}

struct State<R, T> {
    waiting: VecDeque<R>,
    /// `None` while a thread works on it.
    begun: HashMap<R, Option<T>>,
    closed: bool,
}

impl<R: AheadRequest, T: Send + 'static> ReadAhead<R, T> {
    /// One with this many threads beside the caller's; `work` must be a function of its request.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(workers: usize, work: impl Fn(&R) -> T + Send + Sync + 'static) -> std::io::Result<Self> {
        let state = State { waiting: VecDeque::new(), begun: HashMap::new(), closed: false };
        let shared =
            Arc::new(Shared { work: Box::new(work), state: Mutex::new(state), changed: Condvar::new() });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("retune-read-ahead".to_owned()).spawn(move || shared.serve())
        };
        let workers = (0..workers).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, workers })
    }

    /// Says what will be asked for next, in that order. What was announced before and is not among it is forgotten.
    pub fn announce(&self, requests: &[R]) {
        if self.workers.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        state.begun.retain(|request, _| requests.contains(request));
        state.waiting =
            requests.iter().filter(|request| !state.begun.contains_key(request)).cloned().collect();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The results of requests, in their order. The caller's thread works too until they are there.
    pub fn take(&self, requests: &[R]) -> Vec<T> {
        let mut ready: Vec<Option<T>> = requests.iter().map(|_| None).collect();
        for (request, slot) in requests.iter().zip(&mut ready) {
            let mut state = self.shared.lock();
            if state.begun.contains_key(request) {
                continue;
            }
            if let Some(place) = state.waiting.iter().position(|waiting| waiting == request) {
                state.waiting.remove(place);
            }
            drop(state);
            *slot = Some((self.shared.work)(request));
        }
        for (request, slot) in requests.iter().zip(&mut ready) {
            if slot.is_none() {
                *slot = Some(self.wait_for(request));
            }
        }
        ready.into_iter().flatten().collect()
    }

    fn wait_for(&self, request: &R) -> T {
        let mut state = self.shared.lock();
        loop {
            match state.begun.get_mut(request) {
                Some(result) => {
                    if let Some(result) = result.take() {
                        state.begun.remove(request);
                        return result;
                    }
                }
                // Asked for twice in one call, or its thread ended in a panic.
                None => {
                    drop(state);
                    return (self.shared.work)(request);
                }
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<R: AheadRequest, T> Shared<R, T> {
    fn lock(&self) -> MutexGuard<'_, State<R, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            let Some(request) = state.waiting.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.begun.insert(request.clone(), None);
            drop(state);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.work)(&request)));
            state = self.lock();
            match result {
                // Forgotten in the meantime if it is no longer there.
                Ok(result) => {
                    if let Some(slot) = state.begun.get_mut(&request) {
                        *slot = Some(result);
                    }
                }
                Err(_) => {
                    state.begun.remove(&request);
                }
            }
            self.changed.notify_all();
        }
    }
}

impl<R: AheadRequest, T> Drop for ReadAhead<R, T> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A panic in a worker was caught; there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn any_number_of_workers_gives_the_same_in_the_same_order() {
        for workers in [0, 1, 3] {
            let ahead = ReadAhead::new(workers, |request: &u64| request * request).unwrap();
            for start in (0..40).step_by(8) {
                let batch: Vec<u64> = (start..start + 8).collect();
                let next: Vec<u64> = (start + 8..start + 16).collect();
                ahead.announce(&[batch.clone(), next].concat());
                let expected: Vec<u64> = batch.iter().map(|request| request * request).collect();
                assert_eq!(ahead.take(&batch), expected, "{workers} workers");
            }
        }
    }

    #[test]
    fn what_was_never_announced_or_asked_for_twice_is_made_on_the_spot() {
        let ahead = ReadAhead::new(2, |request: &u32| request + 1).unwrap();
        ahead.announce(&[5, 6]);
        assert_eq!(ahead.take(&[9, 5, 5]), [10, 6, 6]);
    }

    #[test]
    fn no_more_is_kept_than_was_announced_last() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let ahead = ReadAhead::new(1, move |request: &u32| {
            counter.fetch_add(1, Ordering::SeqCst);
            *request
        })
        .unwrap();
        for start in 0..50 {
            ahead.announce(&[start, start + 1]);
            let state = ahead.shared.lock();
            assert!(state.begun.len() + state.waiting.len() <= 2);
        }
        assert_eq!(ahead.take(&[49, 50]), [49, 50]);
        assert!(ahead.shared.lock().begun.is_empty());
        assert!(made.load(Ordering::SeqCst) >= 2);
    }
}
