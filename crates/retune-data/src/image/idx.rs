//! IDX files, as MNIST and its descendants come in: big-endian sizes, then bytes. Labels are in a file beside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::picture::{Picture, PictureSource};
use super::pixels::Pixels;
use crate::error::DataError;
use crate::finding::Finding;
use crate::table::{Row, Table, Value};

/// Unsigned bytes, the only element type that pictures come in.
const BYTES: u8 = 0x08;

/// Whether bytes begin as an IDX file of pictures does: two zeros, bytes, three or four dimensions.
pub(crate) fn is_idx(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, BYTES, 3 | 4, ..])
}

/// Reads a file of pictures and, if it is there, the file of their labels: columns `image` and `label`.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Table, DataError> {
    let (sizes, data) = parse(path, bytes)?;
    let (count, height, width, channels) = match *sizes.as_slice() {
        [count, height, width] => (count, height, width, 1),
        [count, height, width, channels @ (1 | 3 | 4)] => (count, height, width, channels),
        _ => {
            let message =
                format!("sizes {sizes:?} are not those of pictures: count, height, width, channels");
            return Err(refused(path, message));
        }
    };
    if height == 0 || width == 0 {
        return Err(refused(path, "its pictures have no pixels".to_owned()));
    }
    if count == 0 {
        return Err(DataError::refused(Finding::error("no-rows", path, "the file has no pictures")));
    }
    let labels = match labels_beside(path) {
        Some(beside) => {
            let bytes = std::fs::read(&beside).map_err(|source| DataError::reading(&beside, source))?;
            let (sizes, labels) = parse(&beside, &bytes)?;
            if sizes != [count] {
                let message = format!("labels of sizes {sizes:?} do not fit {count} pictures");
                return Err(refused(&beside, message));
            }
            Some(labels.to_vec())
        }
        None => None,
    };
    let rows = data.chunks_exact(height * width * channels).enumerate().map(|(index, data)| {
        let pixels = Pixels { width, height, channels, data: data.to_vec() };
        let picture = Picture::new(PictureSource::Pixels(Arc::new(pixels)));
        let label = labels.as_ref().map(|labels| Value::Integer(labels[index].into()));
        let values = std::iter::once(Value::Picture(Arc::new(picture))).chain(label).collect();
        Row { line: index as u64 + 1, values }
    });
    let rows: Vec<Row> = rows.collect();
    let columns = if labels.is_some() { vec!["image", "label"] } else { vec!["image"] };
    let columns = columns.into_iter().map(str::to_owned).collect();
    Ok(Table { path: path.to_path_buf(), columns, rows, findings: Vec::new() })
}

fn refused(path: &Path, message: String) -> DataError {
    DataError::refused(Finding::error("idx", path, message))
}

/// The sizes of an IDX file and its bytes, which must be as many as the sizes say.
fn parse<'b>(path: &Path, bytes: &'b [u8]) -> Result<(Vec<usize>, &'b [u8]), DataError> {
    let [0, 0, element, dimensions, rest @ ..] = bytes else {
        return Err(refused(path, "does not begin as an IDX file does".to_owned()));
    };
    if *element != BYTES {
        return Err(refused(
            path,
            format!("holds elements of type {element:#04x}; only bytes (0x08) are read"),
        ));
    }
    let header = usize::from(*dimensions) * 4;
    let Some((sizes, data)) = rest.split_at_checked(header) else {
        return Err(refused(path, "ends within its sizes".to_owned()));
    };
    let sizes: Vec<usize> = sizes
        .chunks_exact(4)
        .map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize)
        .collect();
    let wanted = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    if wanted != Some(data.len()) {
        return Err(refused(path, format!("sizes {sizes:?} do not fit {} bytes of data", data.len())));
    }
    Ok((sizes, data))
}

/// The labels' file: `images` and `idx3` in the name are `labels` and `idx1` there.
fn labels_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let beside = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1");
    (beside != name).then(|| path.with_file_name(beside)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, BYTES, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    #[test]
    fn pictures_find_their_labels_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("train-images-idx3-ubyte");
        std::fs::write(folder.path().join("train-labels-idx1-ubyte"), idx(&[2], &[7, 0])).unwrap();
        let table = read(&images, &idx(&[2, 1, 2], &[1, 2, 3, 4])).unwrap();
        assert_eq!(table.rows[0].values[1], Value::Integer(7));
        let Value::Picture(picture) = &table.rows[1].values[0] else { panic!("a picture") };
        assert_eq!(picture.open(1, 100).unwrap().data, [3, 4]);
    }

    #[test]
    fn labels_of_another_number_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images-idx3");
        std::fs::write(folder.path().join("labels-idx1"), idx(&[3], &[7, 0, 1])).unwrap();
        let error = read(&images, &idx(&[2, 1, 2], &[1, 2, 3, 4])).unwrap_err().to_string();
        assert!(error.contains("labels of sizes [3] do not fit 2 pictures"), "{error}");
    }

    #[test]
    fn no_pictures_of_any_size_are_refused() {
        // Without data the sizes fit, whatever their product is.
        for sizes in [&[0, 28, 28][..], &[0, u32::MAX, u32::MAX, 4]] {
            let error = read(Path::new("x"), &idx(sizes, &[])).unwrap_err().to_string();
            assert!(error.contains("no pictures"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), start: bool) {
            let mut all = if start { vec![0, 0, BYTES, 3] } else { Vec::new() };
            all.extend(bytes);
            if let Ok(table) = read(Path::new("x"), &all) {
                prop_assert!(!table.rows.is_empty());
            }
        }

        #[test]
        fn what_fits_its_sizes_is_read(count in 1_u32..4, height in 1_u32..5, width in 1_u32..5) {
            let data = vec![3; (count * height * width) as usize];
            let table = read(Path::new("x"), &idx(&[count, height, width], &data)).unwrap();
            prop_assert_eq!(table.rows.len(), count as usize);
            prop_assert!(read(Path::new("x"), &idx(&[count, height, width], &data[1..])).is_err());
        }
    }
}
