//! A [`Table`] with a column of feature vectors to Apache Parquet, by the `parquet` crate's column writers.
//!
//! The table's own columns become optional texts, the features a list of 32-bit numbers, as Arrow and pandas read them.

use crate::error::DataError;
use crate::table::{Row, Table};
use ::parquet::basic::{Compression, ConvertedType, Repetition, Type as PhysicalType};
use ::parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::types::{Type, TypePtr};
use retune_checkpoint::{CheckpointError, write_atomic};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Rows of one row group: a few megabytes of features, the unit in which readers skip and parallelize.
const ROWS_PER_GROUP: usize = 8192;

/// A column of vectors beside a table.
#[derive(Debug, Clone, Copy)]
pub struct FeatureColumn<'a> {
    /// The column's name, which the table must not have.
    pub name: &'a str,
    /// Values of one vector.
    pub width: usize,
    /// All vectors, `[rows, width]`.
    pub values: &'a [f32],
}

/// Writes a table with a column of vectors atomically.
///
/// # Errors
/// [`DataError::Setting`] when the table has a column of that name already, [`DataError::Io`] when writing fails.
///
/// # Panics
/// If there is not one vector per row.
pub fn write_parquet(path: &Path, table: &Table, features: &FeatureColumn<'_>) -> Result<(), DataError> {
    assert_eq!(features.values.len(), table.rows.len() * features.width, "one vector per row");
    if table.columns.iter().any(|column| column == features.name) {
        return Err(DataError::Setting(format!(
            "{} has a column `{}` already; rename it",
            table.path.display(),
            features.name
        )));
    }
    let bytes = encode(table, features).map_err(|error| DataError::writing(path, io::Error::other(error)))?;
    write_atomic(path, |writer| writer.write_all(&bytes)).map_err(|error| match error {
        CheckpointError::Io { source, .. } => DataError::writing(path, source),
        other => DataError::writing(path, io::Error::other(other)),
    })
}

fn encode(table: &Table, features: &FeatureColumn<'_>) -> Result<Vec<u8>, ParquetError> {
    // Feature values hardly repeat, so a dictionary would only cost room.
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .build();
    let schema = schema(table, features.name)?;
    let mut writer = SerializedFileWriter::new(Vec::<u8>::new(), schema, Arc::new(properties))?;
    let vectors = features.values.chunks((ROWS_PER_GROUP * features.width).max(1));
    for (rows, values) in table.rows.chunks(ROWS_PER_GROUP).zip(vectors) {
        let mut group = writer.next_row_group()?;
        for column in 0..table.columns.len() {
            write_texts(&mut group, rows, column)?;
        }
        write_vectors(&mut group, values, features.width)?;
        group.close()?;
    }
    writer.into_inner()
}

fn schema(table: &Table, features: &str) -> Result<TypePtr, ParquetError> {
    let mut fields: Vec<TypePtr> = Vec::with_capacity(table.columns.len() + 1);
    for column in &table.columns {
        let text = Type::primitive_type_builder(column, PhysicalType::BYTE_ARRAY)
            .with_repetition(Repetition::OPTIONAL)
            .with_converted_type(ConvertedType::UTF8)
            .build()?;
        fields.push(Arc::new(text));
    }
    let element = Type::primitive_type_builder("element", PhysicalType::FLOAT)
        .with_repetition(Repetition::REQUIRED)
        .build()?;
    let list = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    let vectors = Type::group_type_builder(features)
        .with_repetition(Repetition::REQUIRED)
        .with_converted_type(ConvertedType::LIST)
        .with_fields(vec![Arc::new(list)])
        .build()?;
    fields.push(Arc::new(vectors));
    Ok(Arc::new(Type::group_type_builder("table").with_fields(fields).build()?))
}

fn write_texts(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    rows: &[Row],
    column: usize,
) -> Result<(), ParquetError> {
    let cells = rows.iter().map(|row| row.values[column].as_text());
    // A missing cell has definition level 0 and no value.
    let (mut levels, mut texts) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for cell in cells {
        levels.push(i16::from(cell.is_some()));
        texts.extend(cell.map(|text| ByteArray::from(text.into_owned().into_bytes())));
    }
    let mut writer = group.next_column()?.ok_or_else(missing_column)?;
    writer.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None)?;
    writer.close()
}

fn write_vectors(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[f32],
    width: usize,
) -> Result<(), ParquetError> {
    let defined = vec![1_i16; values.len()];
    // A vector begins at repetition level 0 and goes on at 1.
    let repeated: Vec<i16> =
        (0..values.len()).map(|index| i16::from(!index.is_multiple_of(width.max(1)))).collect();
    let mut writer = group.next_column()?.ok_or_else(missing_column)?;
    writer.typed::<FloatType>().write_batch(values, Some(&defined), Some(&repeated))?;
    writer.close()
}

fn missing_column() -> ParquetError {
    ParquetError::General("the row group has fewer columns than its schema".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{ReadOptions, read_table};
    use crate::table::Value;

    fn table(rows: usize) -> Table {
        let cell = |row: usize| if row == 1 { Value::Null } else { format!("text {row}").as_str().into() };
        Table {
            path: "source.csv".into(),
            columns: vec!["text".into()],
            rows: (0..rows).map(|row| Row { line: row as u64 + 2, values: vec![cell(row)] }).collect(),
            findings: vec![],
        }
    }

    #[test]
    fn texts_and_vectors_are_read_back_across_row_groups() {
        let rows = ROWS_PER_GROUP + 3;
        let values: Vec<f32> = (0..2 * rows).map(|value| value as f32 / 4.0).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.parquet");
        let features = FeatureColumn { name: "features", width: 2, values: &values };
        write_parquet(&path, &table(rows), &features).unwrap();
        let read = read_table(&path, &ReadOptions::default()).unwrap();
        assert_eq!(read.columns, ["text", "features"]);
        assert_eq!(read.rows.len(), rows);
        assert_eq!(read.rows[1].values[0], Value::Null);
        for (index, row) in read.rows.iter().enumerate() {
            let vector = [2 * index, 2 * index + 1].map(|value| Value::Number(value as f64 / 4.0));
            assert_eq!(row.values[1], Value::List(vector.to_vec()));
        }
        assert_eq!(read.rows[2].values[0], Value::from("text 2"));
    }

    #[test]
    fn a_column_of_the_same_name_is_refused() {
        let features = FeatureColumn { name: "text", width: 1, values: &[0.0] };
        let error = write_parquet(Path::new("x.parquet"), &table(1), &features).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }
}
