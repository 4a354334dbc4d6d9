//! `cargo +nightly fuzz run picture_file fuzz/corpus/picture_file`
//! Any bytes as a file of many pictures (CIFAR-10, CIFAR-100, IDX, or Parquet, as the first byte picks): pictures that have
//! the pixels they say, or refused.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use retune_data::image::{PictureOptions, open_pictures};
use retune_data::{Format, Modality, OnBadRow, ReadOptions, RoleOverrides, Value, infer_roles, read_bytes};

const FORMATS: [Format; 4] = [Format::Cifar10, Format::Cifar100, Format::Idx, Format::Parquet];

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let format = FORMATS[usize::from(*first) % FORMATS.len()];
    // What is a record of 3,073 bytes need not be invented by the fuzzer.
    let repeated = match format {
        Format::Cifar10 => bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { 3073 }).collect(),
        Format::Cifar100 => bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { 6148 }).collect(),
        _ => bytes.to_vec(),
    };
    let options = ReadOptions { format: Some(format), on_bad_row: OnBadRow::Skip, ..ReadOptions::default() };
    let Ok(mut table) = read_bytes(Path::new("pictures"), repeated, &options) else { return };
    let overrides = RoleOverrides { modality: Modality::Image, ..RoleOverrides::default() };
    let Ok(roles) = infer_roles(&table, &overrides) else { return };
    let pictures = PictureOptions { on_bad_row: OnBadRow::Skip, threads: 1, ..PictureOptions::default() };
    if open_pictures(&mut table, &roles, &pictures).is_err() {
        return;
    }
    for value in table.rows.iter().flat_map(|row| &row.values) {
        let Value::Picture(picture) = value else { continue };
        if let Ok(pixels) = picture.open(3, 1 << 16) {
            assert_eq!(pixels.data.len(), pixels.width * pixels.height * 3);
        }
    }
});
