//! What holds for any input: tables survive being written, splits partition, batches permute, readers never panic.

use proptest::prelude::*;
use retune_data::{
    BatchOrder, DatasetOptions, Format, OnBadRow, ReadOptions, RoleOverrides, Row, SplitOptions, Table,
    TextDataset, Value, hold_out, infer_roles, k_fold, read_bytes, write_delimited, write_json_lines,
};
use std::path::Path;

/// Text with all that matters to a delimited file.
fn cell() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just("\"".to_owned()),
            Just(",".to_owned()),
            Just("\n".to_owned()),
            Just("\r\n".to_owned()),
            Just(" ".to_owned()),
            Just("é".to_owned()),
            "[a-z]{1,4}",
        ],
        0..8,
    )
    .prop_map(|pieces| pieces.concat())
}

fn cells() -> impl Strategy<Value = Vec<Vec<String>>> {
    (1usize..4).prop_flat_map(|width| {
        proptest::collection::vec(proptest::collection::vec(cell(), width..=width), 1..20)
    })
}

fn table(cells: &[Vec<String>]) -> Table {
    let columns = (0..cells[0].len()).map(|column| format!("c{column}")).collect();
    let rows = cells
        .iter()
        .map(|cells| Row { line: 0, values: cells.iter().map(|cell| Value::Text(cell.clone())).collect() })
        .collect();
    Table { path: "t.csv".into(), columns, rows, findings: vec![] }
}

fn texts(table: &Table) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_text().unwrap_or_default().into_owned();
    table.rows.iter().map(|row| row.values.iter().map(text).collect()).collect()
}

/// Where each row starts, counted by hand: one line per line break inside the rows before.
fn starts(cells: &[Vec<String>]) -> Vec<u64> {
    let mut line = 2;
    cells
        .iter()
        .map(|row| {
            let start = line;
            line += 1 + row.iter().map(|cell| cell.matches('\n').count() as u64).sum::<u64>();
            start
        })
        .collect()
}

proptest! {
    #[test]
    fn csv_is_read_back_as_written_with_exact_lines(cells in cells()) {
        let mut bytes = Vec::new();
        write_delimited(&table(&cells), b',', &mut bytes).unwrap();
        let options = ReadOptions {
            delimiter: Some(b','), quoting: Some(true), has_header: Some(true), ..Default::default()
        };
        let read = read_bytes(Path::new("t.csv"), bytes, &options).unwrap();
        prop_assert_eq!(texts(&read), cells.clone());
        prop_assert_eq!(read.rows.iter().map(|row| row.line).collect::<Vec<_>>(), starts(&cells));
    }

    #[test]
    fn json_lines_are_read_back_as_written(cells in cells()) {
        let mut bytes = Vec::new();
        write_json_lines(&table(&cells), &mut bytes).unwrap();
        let read = read_bytes(Path::new("t.jsonl"), bytes, &ReadOptions::default()).unwrap();
        prop_assert_eq!(texts(&read), cells);
    }

    #[test]
    fn every_epoch_is_a_permutation_in_batches(
        lengths in proptest::collection::vec(1u32..200, 0..300),
        batch_size in 1usize..20,
        seed in any::<u64>(),
        epoch in 0u64..5,
        group in any::<bool>(),
    ) {
        let order = BatchOrder::new(lengths.clone(), batch_size, seed, group, true, false);
        let batches = order.epoch(epoch);
        let mut seen = Vec::new();
        for index in 0..batches.batches() {
            let batch = batches.batch(index);
            prop_assert!(batch.len() == batch_size || index + 1 == batches.batches());
            seen.extend(batch);
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
    }

    #[test]
    fn splits_partition_the_rows_and_part_no_equal_texts(
        labels in proptest::collection::vec(0usize..3, 30..120),
        distinct in 25usize..60,
        seed in any::<u64>(),
        stratified in any::<bool>(),
    ) {
        let mut text = "text,label\n".to_owned();
        for (row, label) in labels.iter().enumerate() {
            text.push_str(&format!("message {},l{label}\n", row % distinct));
        }
        let table = read_bytes(Path::new("t.csv"), text.into_bytes(), &ReadOptions::default()).unwrap();
        let overrides = RoleOverrides { label_columns: vec!["label".into()], ..Default::default() };
        let roles = infer_roles(&table, &overrides).unwrap();
        let dataset = TextDataset::new(table, roles, &DatasetOptions::default()).unwrap();
        let options = SplitOptions { seed, stratified, ..Default::default() };
        let mut splits = Vec::new();
        splits.extend(hold_out(&dataset, 0.3, &options));
        splits.extend(k_fold(&dataset, 3, &options).unwrap_or_default());
        for split in splits {
            let mut all: Vec<usize> = split.train.iter().chain(&split.held_out).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for row in split.train {
                prop_assert!(split.held_out.iter().all(|other| other % distinct != row % distinct));
            }
        }
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "(\"|,|\t|;|\n|\r|\\{|\\}|\\[|:|[a-z0-9é\u{0}]){0,200}") {
        for format in [None, Some(Format::Csv), Some(Format::Jsonl), Some(Format::Json), Some(Format::LabelSpaceText)] {
            for on_bad_row in [OnBadRow::Refuse, OnBadRow::Skip] {
                let options = ReadOptions { format, on_bad_row, ..Default::default() };
                if let Ok(table) = read_bytes(Path::new("fuzz"), text.clone().into_bytes(), &options) {
                    prop_assert!(table.rows.iter().all(|row| row.values.len() == table.columns.len()));
                }
            }
        }
    }
}
