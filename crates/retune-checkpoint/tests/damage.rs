//! A short deterministic fuzz: damaged copies of valid files are read, or refused with a message; never a panic, and
//! never an allocation out of proportion to the file.

use std::fs;
use std::path::Path;

use retune_checkpoint::{OpenOptions, Weights, WrapperRule};

const FILES: [&str; 9] = [
    "reference.safetensors",
    "reference_mixed.safetensors",
    "plain_zip.pth",
    "plain_legacy.pth",
    "plain_protocol4.pth",
    "wrapped_zip.pth",
    "wrapped_legacy.pth",
    "untyped.pth",
    "malicious_legacy.pth",
];

/// Reads everything a file claims to hold. Returns whether it was accepted.
fn read_whole(bytes: &[u8]) -> bool {
    // There are two ways to look at a pickle; each damaged copy goes one of them.
    let even = bytes.iter().fold(0, |sum, byte| sum ^ byte) & 1 == 0;
    let wrappers = if even { WrapperRule::Automatic } else { WrapperRule::Literal };
    let Ok(weights) = Weights::from_bytes("damaged", bytes.to_vec(), &OpenOptions { wrappers }) else {
        return false;
    };
    weights.tied();
    for name in weights.names() {
        let info = weights.info(name).unwrap();
        assert_eq!(weights.to_f32(name).unwrap().len(), info.elements());
        assert_eq!(weights.bytes(name).unwrap().len(), info.elements() * info.dtype.size());
    }
    true
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/checkpoint").join(name)).unwrap()
}

/// The most address space this process ever had, in bytes; zero where the system doesn't say.
fn peak_address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn every_truncation_flipped_byte_and_lying_number_is_read_or_refused() {
    let before = peak_address_space();
    for name in FILES {
        let valid = fixture(name);
        assert_eq!(read_whole(&valid), !name.starts_with("malicious"), "{name}");
        for length in 0..valid.len() {
            // A legacy or safetensors file is needed to its last byte; a zip's directory stands at its end.
            assert!(!read_whole(&valid[..length]), "{name} cut to {length} bytes was accepted");
        }
        let mut damaged = valid.clone();
        for position in 0..valid.len() {
            for byte in [valid[position] ^ 1, valid[position] ^ 0x80] {
                damaged[position] = byte;
                read_whole(&damaged);
            }
            damaged[position] = valid[position];
        }
        // Four bytes at once reach lengths and offsets.
        for position in 0..valid.len().saturating_sub(4) {
            damaged[position..position + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
            read_whole(&damaged);
            damaged[position..position + 4].copy_from_slice(&valid[position..position + 4]);
        }
    }
    assert!(peak_address_space() - before < 1 << 30, "some damaged file caused a huge allocation");
}

#[test]
fn instructions_in_any_order_are_read_or_refused() {
    // A linear congruential generator (Knuth's MMIX constants) picks instructions and small operands.
    let mut state = 1u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let words: [&[u8]; 32] = [
        b"(",
        b"0",
        b"1",
        b"2",
        b"N",
        b"\x88",
        b"]",
        b"}",
        b")",
        b"a",
        b"e",
        b"s",
        b"u",
        b"t",
        b"l",
        b"d",
        b"b",
        b"R",
        b"Q",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x94",
        b"h\x00",
        b"h\x01",
        b"q\x00",
        b"K\x02",
        b"X\x01\x00\x00\x00a",
        b"X\x07\x00\x00\x00storage",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
    ];
    // What comes before the object in a legacy file.
    let valid = fixture("plain_legacy.pth");
    let object = valid.windows(2).enumerate().filter(|(_, pair)| *pair == [0x80, 2]).nth(3).unwrap().0;
    for _ in 0..20_000 {
        let mut file = valid[..object].to_vec();
        file.extend(b"\x80\x02");
        for _ in 0..next(40) {
            file.extend(words[next(words.len())]);
        }
        file.extend(b".\x80\x02].");
        read_whole(&file);
    }
}
