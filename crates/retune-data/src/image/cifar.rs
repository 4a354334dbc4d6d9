//! CIFAR's binary files (Krizhevsky 2009): records of one label byte (CIFAR-100: coarse and fine) and 32 × 32 pixels as
//! three planes.

use std::path::Path;
use std::sync::Arc;

use super::picture::{Picture, PictureSource};
use super::pixels::Pixels;
use crate::error::DataError;
use crate::finding::Finding;
use crate::read::Format;
use crate::table::{Row, Table, Value};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
/// Files beside the data that name the classes, one a line.
const NAME_FILES: [&[&str]; 2] =
    [&["batches.meta.txt", "classes.txt"], &["fine_label_names.txt", "classes.txt"]];
/// CIFAR-10's classes.
const CLASSES: &[&str] =
    &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Reads a file of records: columns `image` and `label`, for CIFAR-100 also `coarse_label`.
pub(crate) fn read(path: &Path, bytes: &[u8], format: Format) -> Result<Table, DataError> {
    let hundred = format == Format::Cifar100;
    let (labels, classes) = if hundred { (2, 100) } else { (1, 10) };
    let record = labels + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let message = format!("{} bytes are no whole number of records of {record} bytes", bytes.len());
        let advice = "is it a CIFAR binary file, and is it whole?";
        return Err(DataError::refused(Finding::error("cifar", path, message).suggest(advice)));
    }
    let names = class_names(path, hundred);
    let mut rows = Vec::with_capacity(bytes.len() / record);
    for (index, record) in bytes.chunks_exact(record).enumerate() {
        let line = index as u64 + 1;
        let (label, planes) = record.split_at(labels);
        let fine = usize::from(label[labels - 1]);
        if fine >= classes {
            let message = format!("the label {fine} is not from 0 to {}", classes - 1);
            return Err(DataError::refused(Finding::error("cifar", path, message).at_line(line)));
        }
        let picture = Picture::new(PictureSource::Pixels(Arc::new(interleaved(planes))));
        let name = names.get(fine).map_or_else(|| Value::Integer(fine as i64), |name| name.as_str().into());
        let mut values = vec![Value::Picture(Arc::new(picture)), name];
        if hundred {
            values.push(Value::Integer(label[0].into()));
        }
        rows.push(Row { line, values });
    }
    let mut columns = vec!["image".to_owned(), "label".to_owned()];
    if hundred {
        columns.push("coarse_label".to_owned());
    }
    Ok(Table { path: path.to_path_buf(), columns, rows, findings: Vec::new() })
}

fn interleaved(planes: &[u8]) -> Pixels {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    let data = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]).collect();
    Pixels { width: SIDE, height: SIDE, channels: 3, data }
}

/// The classes' names from a file beside the data, else CIFAR-10's own; none for CIFAR-100 alone.
fn class_names(path: &Path, hundred: bool) -> Vec<String> {
    let wanted = if hundred { 100 } else { 10 };
    let read = |name: &&str| {
        let text = std::fs::read_to_string(path.with_file_name(name)).ok()?;
        let names: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        (names.len() == wanted).then_some(names)
    };
    let beside = NAME_FILES[usize::from(hundred)].iter().find_map(read);
    let own = || if hundred { Vec::new() } else { CLASSES.iter().map(|name| (*name).to_owned()).collect() };
    beside.unwrap_or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn planes_become_pixels_and_numbers_names() {
        let mut record = vec![2_u8];
        record.extend((0..3 * PLANE).map(|index| (index / PLANE * 100 + index % 7) as u8));
        let table = read(Path::new("batch.bin"), &record, Format::Cifar10).unwrap();
        assert_eq!(table.rows[0].values[1], "bird".into());
        let Value::Picture(picture) = &table.rows[0].values[0] else { panic!("a picture") };
        let pixels = picture.open(3, 2000).unwrap();
        // Sample i of plane c is 100·c + (1024·c + i) mod 7, and 1024 mod 7 is 2.
        assert_eq!((pixels.at(0, 0), pixels.at(5, 0)), (&[0, 102, 204][..], &[5, 100, 202][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(length in 0_usize..4, extra in 0_usize..3, fill: u8, hundred: bool) {
            let (format, record) = if hundred { (Format::Cifar100, 3074) } else { (Format::Cifar10, 3073) };
            let bytes = vec![fill; length * record + extra];
            let known = usize::from(fill) < if hundred { 100 } else { 10 };
            let table = read(Path::new("batch.bin"), &bytes, format);
            prop_assert_eq!(table.is_ok(), length > 0 && extra == 0 && known);
            if let Ok(table) = table {
                prop_assert_eq!(table.rows.len(), length);
            }
        }
    }
}
