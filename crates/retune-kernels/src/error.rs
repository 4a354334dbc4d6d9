//! What can go wrong before a kernel runs. Wrong slice lengths are programmer errors and panic instead.

use crate::Isa;

/// Why an execution context cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The name is none of the instruction sets.
    #[error("unknown instruction set `{name}`; use `portable`, `avx2` or `avx512`")]
    UnknownIsa {
        /// The name as given.
        name: String,
    },
    /// The machine lacks the instruction set that was asked for.
    #[error(
        "this machine cannot run the `{isa}` kernels; leave the instruction set to detection or use `portable`"
    )]
    IsaUnavailable {
        /// The instruction set asked for.
        isa: Isa,
    },
    /// Zero threads were asked for.
    #[error("the number of threads must be at least 1")]
    NoThreads,
    /// The thread pool could not be started.
    #[error("cannot start {threads} threads: {source}")]
    ThreadPool {
        /// The number of threads asked for.
        threads: usize,
        /// What the thread pool said.
        source: rayon::ThreadPoolBuildError,
    },
}
