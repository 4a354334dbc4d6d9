//! `cargo +nightly fuzz run csv fuzz/corpus/csv fixtures/data`
//! Any bytes as a data file of the format that the first byte picks, through roles, checks and targets: examples, or
//! refused.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use retune_data::{
    CheckOptions, DatasetOptions, ReadOptions, RoleOverrides, TextDataset, check_table, infer_roles, read_bytes,
};

const NAMES: &[&str] = &["data.csv", "data.tsv", "data.jsonl", "data.json", "data.txt"];

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let name = Path::new(NAMES[usize::from(*first) % NAMES.len()]);
    let Ok(table) = read_bytes(name, bytes.to_vec(), &ReadOptions::default()) else { return };
    let rows = table.rows.len();
    let Ok(roles) = infer_roles(&table, &RoleOverrides::default()) else { return };
    let _ = check_table(&table, &roles, &CheckOptions::default());
    if let Ok(dataset) = TextDataset::new(table, roles, &DatasetOptions::default()) {
        assert_eq!(dataset.len(), rows, "no row is left out without being asked to");
    }
});
