//! Writing tables back, as CSV or JSON Lines, and the hashes by which a run knows its data again.

use crate::dataset::{Dataset, Example, Target};
use crate::error::DataError;
use crate::table::{Table, Value};
use retune_checkpoint::{CheckpointError, write_atomic};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::Path;

/// Writes a table atomically: as JSON Lines when the name ends in `.jsonl`, tab-separated for `.tsv`, else as CSV.
///
/// CSV has one kind of cell, so there lists are written as JSON, and a missing cell as an empty one.
///
/// # Errors
/// [`DataError::Io`], and [`DataError::Setting`] for a file name of another known format.
pub fn write_table(table: &Table, path: &Path) -> Result<(), DataError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    let result = match extension.as_deref() {
        Some("jsonl" | "ndjson") => write_atomic(path, |writer| write_json_lines(table, writer)),
        Some("tsv") => write_atomic(path, |writer| write_delimited(table, b'\t', writer)),
        Some(other @ ("parquet" | "json" | "xlsx")) => {
            return Err(DataError::Setting(format!(
                "{}: tables are written as .csv, .tsv or .jsonl, not as .{other}",
                path.display()
            )));
        }
        _ => write_atomic(path, |writer| write_delimited(table, b',', writer)),
    };
    result.map_err(|error| match error {
        CheckpointError::Io { source, .. } => DataError::writing(path, source),
        other => DataError::writing(path, io::Error::other(other)),
    })
}

/// Writes a table with a header, quoting where a field needs it.
///
/// # Errors
/// The writer's own.
pub fn write_delimited(table: &Table, delimiter: u8, writer: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(writer);
    writer.write_record(&table.columns)?;
    for row in &table.rows {
        writer
            .write_record(row.values.iter().map(|value| value.as_text().unwrap_or_default().into_owned()))?;
    }
    writer.flush()
}

/// Writes a table as one JSON object per line, types kept.
///
/// # Errors
/// The writer's own.
pub fn write_json_lines(table: &Table, writer: &mut dyn Write) -> io::Result<()> {
    for row in &table.rows {
        let object: Map<String, Json> =
            table.columns.iter().cloned().zip(row.values.iter().map(Value::to_json)).collect();
        serde_json::to_writer(&mut *writer, &object)?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

/// SHA-256 of a dataset's examples in order (content and targets, by label name), in hexadecimal: equal for the same
/// examples whatever file format they came in.
pub fn dataset_hash<E: Example>(dataset: &Dataset<E>) -> String {
    let mut hasher = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    dataset.labels.names().iter().for_each(|name| field(name.as_bytes()));
    for example in &dataset.examples {
        example.content(&mut field);
        match example.target() {
            Target::Class(class) => field(&class.to_le_bytes()),
            Target::Classes(classes) => {
                let bytes: Vec<u8> = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
                field(&bytes);
            }
            Target::Value(value) => field(&value.to_le_bytes()),
            Target::Values(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                field(&bytes);
            }
            Target::None => field(b"none"),
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_table};
    use crate::table::Row;

    fn table() -> Table {
        Table {
            path: "source.csv".into(),
            columns: vec!["text".into(), "label".into()],
            rows: vec![
                Row { line: 2, values: vec!["two\nlines, \"quoted\"".into(), Value::Integer(1)] },
                Row { line: 4, values: vec!["é\tö".into(), Value::Null] },
            ],
            findings: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, number) in [("a.jsonl", Value::Integer(1)), ("a.csv", "1".into()), ("a.tsv", "1".into())] {
            let path = folder.path().join(name);
            write_table(&table(), &path).unwrap();
            let read = read_table(&path, &ReadOptions::default()).unwrap();
            assert_eq!(read.columns, table().columns);
            assert_eq!(read.rows[0].values, ["two\nlines, \"quoted\"".into(), number]);
            assert_eq!(read.rows[1].values, ["é\tö".into(), Value::Null]);
        }
        let error = write_table(&table(), Path::new("a.parquet")).unwrap_err().to_string();
        assert!(error.contains("not as .parquet"), "{error}");
    }
}
