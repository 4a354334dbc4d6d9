//! `cargo +nightly fuzz run pickle fuzz/corpus/pickle fixtures/checkpoint -- -malloc_limit_mb=512`
//! Any instructions, behind what a legacy `torch.save` file starts with, so that every input reaches the unpickler.

#![no_main]

use libfuzzer_sys::fuzz_target;
use retune_checkpoint::{OpenOptions, Weights, WrapperRule};

/// Magic number, version and machine, as pickled.
const START: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";

fuzz_target!(|data: &[u8]| {
    let file = [START, data].concat();
    for wrappers in [WrapperRule::Automatic, WrapperRule::Literal] {
        if let Ok(weights) = Weights::from_bytes("fuzz", file.clone(), &OpenOptions { wrappers }) {
            for name in weights.names() {
                let _ = weights.to_f32(name);
            }
        }
    }
});
