//! `cargo +nightly fuzz run safetensors -- -malloc_limit_mb=512`
//! Any bytes, read as a safetensors file or whatever their beginning says: read whole, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use retune_checkpoint::{OpenOptions, Weights};

fuzz_target!(|data: &[u8]| {
    if let Ok(weights) = Weights::from_bytes("fuzz", data.to_vec(), &OpenOptions::default()) {
        for name in weights.names() {
            let _ = weights.to_f32(name);
        }
    }
});
