//! Rows a second out of a data file, read, checked, tokenized and packed into batches:
//! `cargo run --release -p retune-data --example text_input -- FILE --tokenizer FOLDER [--max-length 128] [--batch-size 32]
//! [--threads 2] [--cache FOLDER] [--ids 1000]` prints one JSON object. `bench/input.py` puts it beside `datasets` and
//! `transformers`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use retune_data::{
    BatchOrder, CheckOptions, DatasetOptions, EncodedDataset, LengthPolicy, OverLength, ReadOptions,
    RoleOverrides, TOKENS, TextDataset, TextExample, TextTokenizer, TokenCache, check_table, infer_roles,
    read_table,
};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut file, mut folder, mut cache) = (None, None, None);
    let (mut max_length, mut batch_size, mut threads, mut shown) = (128, 32, 2, 0);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--tokenizer" => folder = Some(PathBuf::from(value()?)),
            "--cache" => cache = Some(PathBuf::from(value()?)),
            "--max-length" => max_length = value()?.parse()?,
            "--batch-size" => batch_size = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--ids" => shown = value()?.parse()?,
            _ => file = Some(PathBuf::from(argument)),
        }
    }
    let file = file.ok_or("name a data file")?;
    let folder = folder.ok_or("name a tokenizer's folder with --tokenizer")?;

    let started = Instant::now();
    let table = read_table(&file, &ReadOptions::default())?;
    let roles = infer_roles(&table, &RoleOverrides::default())?;
    let read_seconds = started.elapsed().as_secs_f64();
    let findings = check_table(&table, &roles, &CheckOptions::default());
    let dataset = TextDataset::new(table, roles, &DatasetOptions::default())?;
    let checked_seconds = started.elapsed().as_secs_f64();

    let tokenizer = TextTokenizer::from_directory(&folder, "bert")?;
    let policy = LengthPolicy { max_length, over_length: OverLength::Truncate };
    let examples: Vec<&TextExample> = dataset.examples.iter().collect();
    let tokens = TokenCache {
        limit: if cache.is_some() { u64::MAX / 2 } else { 0 },
        root: cache.unwrap_or_default().join(TOKENS),
        smallest: 0,
        model: folder.display().to_string(),
    };
    let (columns, used) = tokens.encode(&tokenizer, &file, &examples, &policy, threads)?;
    let encoded = EncodedDataset::new(Arc::new(columns), &policy);
    let encoded_seconds = started.elapsed().as_secs_f64();

    let lengths: Vec<u32> = (0..encoded.len()).map(|row| encoded.tokens(row) as u32).collect();
    let epoch = BatchOrder::new(lengths, batch_size, 42, false, true, false).epoch(0);
    let (mut rows, mut packed) = (0, 0);
    for batch in 0..epoch.batches() {
        let samples = epoch.batch(batch);
        let (mut ids, mut type_ids, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for (row_ids, row_type_ids) in samples.iter().flat_map(|&row| encoded.sequences(row as usize)) {
            ids.extend_from_slice(row_ids);
            type_ids.extend_from_slice(row_type_ids);
            offsets.push(ids.len());
        }
        std::hint::black_box((&ids, &type_ids, &offsets));
        rows += samples.len();
        packed += ids.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    let ids: Vec<Vec<u32>> = (0..shown.min(encoded.len()))
        .map(|row| encoded.sequences(row).flat_map(|(ids, _)| ids).copied().collect())
        .collect();
    println!(
        "{}",
        json!({
            "rows": rows,
            "tokens": packed,
            "findings": findings.len(),
            "found": used.found,
            "kept": used.kept,
            "read_seconds": read_seconds,
            "check_seconds": checked_seconds - read_seconds,
            "encode_seconds": encoded_seconds - checked_seconds,
            "batch_seconds": seconds - encoded_seconds,
            "seconds": seconds,
            "rows_per_second": rows as f64 / seconds,
            "ids": ids,
        })
    );
    Ok(())
}
