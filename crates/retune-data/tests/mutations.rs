//! A deterministic mutation fuzz: small good files, damaged in every way a disk or an editor can, are read or
//! refused, but never panic, hang or give rows of the wrong width.

use retune_data::{CheckOptions, OnBadRow, ReadOptions, RoleOverrides, check_table, infer_roles, read_bytes};
use std::path::Path;

const ROUNDS: u64 = 400;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const NASTY: &[&[u8]] = &[
        b"\"",
        b"\n",
        b"\r",
        b",",
        b"\t",
        b"\0",
        b"\xFF",
        b"{",
        b"]",
        b"\xEF\xBB\xBF",
        b"1e999",
        b"\\u0000",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            3 => {
                let end = (at + random.below(9)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let nasty = NASTY[random.below(NASTY.len())];
                bytes.splice(at..at, nasty.iter().copied());
            }
        }
    }
}

fn survive(name: &str) {
    let path = Path::new("tests/data").join(name);
    let good = std::fs::read(&path).unwrap();
    let mut random = Random(good.len() as u64);
    let mut read = 0;
    for round in 0..ROUNDS {
        let mut bytes = good.clone();
        mutate(&mut bytes, &mut random);
        let on_bad_row = if round % 2 == 0 { OnBadRow::Refuse } else { OnBadRow::Skip };
        let options = ReadOptions { on_bad_row, ..Default::default() };
        let Ok(table) = read_bytes(&path, bytes, &options) else { continue };
        read += 1;
        assert!(table.rows.iter().all(|row| row.values.len() == table.columns.len()));
        if let Ok(roles) = infer_roles(&table, &RoleOverrides::default()) {
            check_table(&table, &roles, &CheckOptions::default());
        }
    }
    assert!(read > 0, "no mutation of {name} could be read: the fuzz tests nothing");
}

#[test]
fn damaged_csv_never_panics() {
    survive("clean.csv");
    survive("messy.csv");
}

#[test]
fn damaged_tsv_never_panics() {
    survive("headerless_quotes.tsv");
}

#[test]
fn damaged_json_lines_never_panic() {
    survive("types.jsonl");
    survive("types.json");
}

#[test]
fn damaged_parquet_never_panics() {
    // The decoder's own assertions are caught by the reader; their messages would drown the test's.
    std::panic::set_hook(Box::new(|_| {}));
    for name in ["types.snappy.parquet", "types.zstd.parquet", "types.gzip.parquet"] {
        survive(name);
    }
}
