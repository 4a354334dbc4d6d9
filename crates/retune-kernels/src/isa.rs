//! The instruction sets a kernel can run on.
//!
//! The portable path is the specification; the others are tested against it.
//! Within one instruction set results do not depend on the number of threads.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// An instruction-set path of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust on arrays of eight lanes; the specification of every kernel.
    Portable,
    /// AVX2 with FMA, eight lanes.
    Avx2,
    /// AVX-512F, sixteen lanes. See [`Isa::detect`] for why it is never chosen by itself.
    Avx512,
    /// AVX-512 with products of bf16 in hardware (AVX512-BF16); asked for like AVX-512.
    Avx512Bf16,
}

impl Isa {
    /// The best path that has been measured: AVX2 where the machine has it, otherwise portable.
    ///
    /// AVX-512 is left to an explicit request: that path compiles from the same generic code as AVX2 and passes its
    /// tests in an emulated processor, but no machine with AVX-512 has timed it yet, and wider is not always faster.
    pub fn detect() -> Isa {
        if Isa::Avx2.available() { Isa::Avx2 } else { Isa::Portable }
    }

    /// Whether products of bf16 are made by the processor, and not from numbers that are widened first.
    pub fn multiplies_bf16(self) -> bool {
        self == Isa::Avx512Bf16
    }

    /// Whether this machine can run the path.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx512 => Isa::Avx2.available() && is_x86_feature_detected!("avx512f"),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx512Bf16 => Isa::Avx512.available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Isa, KernelError> {
        match name {
            "portable" => Ok(Isa::Portable),
            "avx2" => Ok(Isa::Avx2),
            "avx512" => Ok(Isa::Avx512),
            "avx512bf16" => Ok(Isa::Avx512Bf16),
            _ => Err(KernelError::UnknownIsa { name: name.to_owned() }),
        }
    }
}
