//! Apache Parquet to rows, by the `parquet` crate's row reader: flat columns and lists of flat values.
//!
//! A row's "line" is its number, counted from 1. Snappy, gzip, zstd and uncompressed files are read.

use crate::csv::refuse_duplicates;
use crate::error::DataError;
use crate::finding::Finding;
use crate::image::{Picture, PictureSource, is_picture};
use crate::read::{BadRows, ReadOptions, RowSink};
use crate::table::{Row, Value};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use ::parquet::record::Field;
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Reads a Parquet file, out of memory or as it lies on disk.
pub(crate) fn read<R: ChunkReader + 'static>(
    path: &Path,
    source: R,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    // The decoder asserts on some damaged files; to a caller that is one more way of being unreadable.
    catch_unwind(AssertUnwindSafe(|| read_rows(path, source, options, rows))).unwrap_or_else(|_| {
        Err(DataError::refused(Finding::error("parquet", path, "the file is damaged: its decoder gave up")))
    })
}

fn read_rows<R: ChunkReader + 'static>(
    path: &Path,
    source: R,
    options: &ReadOptions,
    rows: &mut RowSink<'_>,
) -> Result<(), DataError> {
    let unreadable = |error: ParquetError| {
        DataError::refused(Finding::error("parquet", path, format!("not a readable Parquet file: {error}")))
    };
    let reader = SerializedFileReader::new(source).map_err(unreadable)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    refuse_duplicates(path, 1, &columns)?;
    rows.columns.clone_from(&columns);
    let mut findings = Vec::new();
    let mut bad_rows = BadRows::new(path, options);
    for (index, row) in reader.get_row_iter(None).map_err(unreadable)?.enumerate() {
        let row = row.map_err(unreadable)?;
        let line = index as u64 + 1;
        let values: Result<Vec<Value>, Box<Finding>> = row
            .into_columns()
            .into_iter()
            .map(|(column, field)| {
                value(field).map_err(|message| {
                    Box::new(Finding::error("parquet", path, message).at_line(line).in_column(column))
                })
            })
            .collect();
        match values {
            Ok(values) if values.len() == columns.len() => rows.push(Row { line, values })?,
            Ok(values) => {
                let message = format!("expected {} values, found {}", columns.len(), values.len());
                bad_rows.push(Finding::error("ragged-row", path, message).at_line(line))?;
            }
            Err(finding) => bad_rows.push(*finding)?,
        }
    }
    bad_rows.finish(&mut findings)?;
    if rows.is_empty() {
        return Err(DataError::refused(Finding::error("no-rows", path, "the file has no rows")));
    }
    rows.findings.extend(findings);
    Ok(())
}

fn value(field: Field) -> Result<Value, String> {
    let integer = |number: i64| Ok(Value::Integer(number));
    match field {
        Field::Null => Ok(Value::Null),
        Field::Bool(value) => Ok(Value::Bool(value)),
        Field::Byte(number) => integer(number.into()),
        Field::Short(number) => integer(number.into()),
        Field::Int(number) => integer(number.into()),
        Field::Long(number) => integer(number),
        Field::UByte(number) => integer(number.into()),
        Field::UShort(number) => integer(number.into()),
        Field::UInt(number) => integer(number.into()),
        Field::ULong(number) => {
            Ok(i64::try_from(number).map_or_else(|_| Value::Text(number.to_string()), Value::Integer))
        }
        Field::Float16(number) => Ok(Value::Number(number.to_f64())),
        // Through its shortest decimal form: 0.1f32 is written 0.1, not 0.10000000149011612.
        Field::Float(number) => Ok(Value::Number(number.to_string().parse().unwrap_or(number.into()))),
        Field::Double(number) => Ok(Value::Number(number)),
        Field::Str(text) if text.contains('\0') => Err("a NUL character in the text".to_owned()),
        Field::Str(text) => Ok(Value::Text(text)),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) if is_picture(bytes.data()) => {
                Ok(encoded_picture(Bytes::copy_from_slice(bytes.data()), None))
            }
            Err(_) => Err("binary values that are neither UTF-8 text nor a picture".to_owned()),
        },
        Field::Group(row) if row.get_column_iter().any(|(name, _)| name == "bytes") => picture(row),
        Field::ListInternal(list) => list
            .elements()
            .iter()
            .map(|element| value(element.clone()))
            .collect::<Result<_, _>>()
            .map(Value::List),
        Field::Group(_) | Field::MapInternal(_) => {
            Err("nested groups and maps are not supported; flatten the column first".to_owned())
        }
        other => Ok(Value::Text(other.to_string().trim_matches('"').to_owned())),
    }
}

/// Hugging Face's image feature: a group of `bytes` and `path`, either of which may be null.
fn picture(group: ::parquet::record::Row) -> Result<Value, String> {
    let (mut encoded, mut path) = (None, None);
    for (name, field) in group.into_columns() {
        match (name.as_str(), field) {
            ("bytes", Field::Bytes(bytes)) => encoded = Some(Bytes::copy_from_slice(bytes.data())),
            ("path", Field::Str(text)) if !text.is_empty() => path = Some(text),
            (_, Field::Null) | ("path", Field::Str(_)) => {}
            (other, _) => return Err(format!("a group with `bytes` and `{other}`, which is no picture")),
        }
    }
    Ok(match (encoded, path) {
        (Some(bytes), name) => encoded_picture(bytes, name),
        (None, Some(path)) => Value::Text(path),
        (None, None) => Value::Null,
    })
}

fn encoded_picture(bytes: Bytes, name: Option<String>) -> Value {
    Value::Picture(Arc::new(Picture::new(PictureSource::Encoded { bytes, name })))
}
