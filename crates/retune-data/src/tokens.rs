//! Token ids of many texts in columns, in Arrow's format: in memory, or in a file that is mapped into memory.
//!
//! A file is known by what it holds: its name has the hash of its bytes, and one whose bytes have another hash is not
//! read. The columns are named as Hugging Face names them, so that `datasets` and `pyarrow` open it too.

use crate::tokenize::{Encoding, TokenSequence};
use arrow_array::builder::BooleanBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, BooleanArray, LargeListArray, RecordBatch, UInt32Array};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::root_as_footer;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use retune_checkpoint::FileBytes;
use retune_checkpoint::cache::create_unfinished;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the name of a file of tokens ends.
pub(crate) const SUFFIX: &str = "arrow";
/// Hexadecimal digits of the hash in a file's name.
const HASH_DIGITS: usize = 32;
/// The last bytes of an Arrow file: the footer's length and a magic word.
const TAIL: usize = 10;

fn schema() -> SchemaRef {
    let list = |name: &str, nullable| Field::new(name, DataType::LargeList(item()), nullable);
    Arc::new(Schema::new(vec![
        list("input_ids", false),
        list("token_type_ids", true),
        list("window_lengths", true),
        Field::new("original_length", DataType::UInt32, false),
        Field::new("truncated", DataType::Boolean, false),
    ]))
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::UInt32, false))
}

/// Lists of numbers one after the other; a list that says nothing is null.
#[derive(Default)]
struct Lists {
    values: Vec<u32>,
    lengths: Vec<usize>,
    valid: Vec<bool>,
}

impl Lists {
    fn push(&mut self, values: Option<impl IntoIterator<Item = u32>>) {
        let before = self.values.len();
        self.valid.push(values.is_some());
        self.values.extend(values.into_iter().flatten());
        self.lengths.push(self.values.len() - before);
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.valid.contains(&false).then(|| NullBuffer::from(self.valid));
        let values = Arc::new(UInt32Array::from(self.values));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        Ok(Arc::new(LargeListArray::try_new(item(), offsets, values, nulls)?))
    }
}

/// Encodings on their way into columns.
#[derive(Default)]
pub(crate) struct ColumnBuilder {
    ids: Lists,
    type_ids: Lists,
    window_lengths: Lists,
    original_lengths: Vec<u32>,
    truncated: BooleanBuilder,
}

impl ColumnBuilder {
    pub fn push(&mut self, encoding: &Encoding) {
        let windows = &encoding.windows;
        let ids = || windows.iter().flat_map(|window| window.ids.iter().copied());
        let type_ids = || windows.iter().flat_map(|window| window.type_ids.iter().copied());
        self.ids.push(Some(ids()));
        self.type_ids.push(type_ids().any(|type_id| type_id != 0).then(type_ids));
        let lengths = windows.iter().map(|window| window.ids.len() as u32);
        self.window_lengths.push((windows.len() != 1).then_some(lengths));
        self.original_lengths.push(encoding.original_length as u32);
        self.truncated.append_value(encoding.truncated);
    }

    pub fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            self.ids.finish()?,
            self.type_ids.finish()?,
            self.window_lengths.finish()?,
            Arc::new(UInt32Array::from(self.original_lengths)),
            Arc::new(self.truncated.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
}

/// The columns of some consecutive texts.
#[derive(Debug, Clone)]
struct Chunk {
    ids: List,
    type_ids: List,
    window_lengths: List,
    original_lengths: ScalarBuffer<u32>,
    truncated: BooleanArray,
}

#[derive(Debug, Clone)]
struct List {
    offsets: OffsetBuffer<i64>,
    values: ScalarBuffer<u32>,
    nulls: Option<NullBuffer>,
}

impl List {
    fn of(array: &dyn Array) -> Option<Self> {
        let list = array.as_list_opt::<i64>()?;
        let values = list.values().as_primitive_opt::<UInt32Type>()?.values().clone();
        Some(List { offsets: list.offsets().clone(), values, nulls: list.nulls().cloned() })
    }

    fn get(&self, row: usize) -> Option<&[u32]> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        Some(&self.values[self.offsets[row] as usize..self.offsets[row + 1] as usize])
    }
}

impl Chunk {
    /// `None` if the columns are not those of tokens, or do not fit each other.
    fn of(batch: &RecordBatch) -> Option<Self> {
        if *batch.schema() != *schema() {
            return None;
        }
        let chunk = Chunk {
            ids: List::of(batch.column(0))?,
            type_ids: List::of(batch.column(1))?,
            window_lengths: List::of(batch.column(2))?,
            original_lengths: batch.column(3).as_primitive_opt::<UInt32Type>()?.values().clone(),
            truncated: batch.column(4).as_boolean_opt()?.clone(),
        };
        let fits = |row| {
            let tokens = chunk.ids.get(row).map_or(0, <[u32]>::len);
            let is_like = |list: &List, length: fn(&[u32]) -> usize| {
                list.get(row).is_none_or(|values| length(values) == tokens)
            };
            let sum = |lengths: &[u32]| -> usize { lengths.iter().map(|&length| length as usize).sum() };
            is_like(&chunk.type_ids, <[u32]>::len) && is_like(&chunk.window_lengths, sum)
        };
        (0..batch.num_rows()).all(fits).then_some(chunk)
    }
}

/// One sequence: its token ids and its segment ids.
pub type Sequence<'a> = (&'a [u32], &'a [u32]);

/// Token ids of many texts, in their order.
#[derive(Debug, Clone, Default)]
pub struct TokenColumns {
    chunks: Vec<Chunk>,
    /// The first text of each chunk, and the end.
    starts: Vec<usize>,
    /// Segment ids of texts whose segments are all the first.
    zeros: Arc<[u32]>,
}

impl TokenColumns {
    /// Columns in memory.
    pub(crate) fn from_batches(batches: &[RecordBatch]) -> Option<Self> {
        let chunks: Vec<Chunk> = batches.iter().map(Chunk::of).collect::<Option<_>>()?;
        let mut starts = vec![0];
        let mut longest = 0;
        for (chunk, batch) in chunks.iter().zip(batches) {
            starts.push(starts[starts.len() - 1] + batch.num_rows());
            longest = chunk.ids.offsets.lengths().max().unwrap_or(0).max(longest);
        }
        Some(TokenColumns { chunks, starts, zeros: vec![0; longest].into() })
    }

    /// Maps a file that [`TokenFile`] wrote, after holding all its bytes against the hash in its name.
    ///
    /// # Errors
    /// If it cannot be read, was damaged, or holds something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let damaged =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()));
        let file = FileBytes::open(path).map_err(io::Error::other)?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.rsplit('-').next() != Some(short_hash(&Sha256::digest(file.bytes())).as_str()) {
            return Err(damaged("is damaged: its bytes are not those that were written"));
        }
        let buffer = Buffer::from(bytes::Bytes::from_owner(file));
        let batches = read_batches(&buffer).map_err(|error| damaged(&format!("cannot be read: {error}")))?;
        Self::from_batches(&batches).ok_or_else(|| damaged("holds no tokens"))
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// True without texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunk of a text, and its place there.
    fn find(&self, text: usize) -> (&Chunk, usize) {
        let chunk = self.starts.partition_point(|&start| start <= text) - 1;
        (&self.chunks[chunk], text - self.starts[chunk])
    }

    /// The sequences of a text: one, or its windows.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn sequences(&self, text: usize) -> impl Iterator<Item = Sequence<'_>> + Clone {
        let (chunk, row) = self.find(text);
        let ids = chunk.ids.get(row).unwrap_or_default();
        let type_ids = chunk.type_ids.get(row).unwrap_or(&self.zeros[..ids.len()]);
        let (whole, lengths) = match chunk.window_lengths.get(row) {
            Some(lengths) => (None, lengths),
            None => (Some(ids.len()), &[][..]),
        };
        let lengths = whole.into_iter().chain(lengths.iter().map(|&length| length as usize));
        lengths.scan(0, move |start, length| {
            let window = *start..*start + length;
            *start = window.end;
            Some((&ids[window.clone()], &type_ids[window]))
        })
    }

    /// Tokens of a text in all its sequences, special ones included.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn tokens(&self, text: usize) -> usize {
        let (chunk, row) = self.find(text);
        (chunk.ids.offsets[row + 1] - chunk.ids.offsets[row]) as usize
    }

    /// Tokens of a text before it was cut, special ones included.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn original_length(&self, text: usize) -> usize {
        let (chunk, row) = self.find(text);
        chunk.original_lengths[row] as usize
    }

    /// Whether a text lost tokens.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn is_truncated(&self, text: usize) -> bool {
        let (chunk, row) = self.find(text);
        chunk.truncated.value(row)
    }

    /// A text's encoding, copied out.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn encoding(&self, text: usize) -> Encoding {
        let copy =
            |(ids, type_ids): Sequence<'_>| TokenSequence { ids: ids.to_vec(), type_ids: type_ids.to_vec() };
        Encoding {
            windows: self.sequences(text).map(copy).collect(),
            original_length: self.original_length(text),
            truncated: self.is_truncated(text),
        }
    }
}

/// The record batches of a file, without copying: their columns are parts of `file`.
fn read_batches(file: &Buffer) -> Result<Vec<RecordBatch>, ArrowError> {
    let short = || ArrowError::ParseError("too short".to_owned());
    let tail_at = file.len().checked_sub(TAIL).ok_or_else(short)?;
    let mut tail = [0; TAIL];
    tail.copy_from_slice(&file[tail_at..]);
    let footer_at = tail_at.checked_sub(read_footer_length(tail)?).ok_or_else(short)?;
    let footer = root_as_footer(&file[footer_at..tail_at])
        .map_err(|error| ArrowError::ParseError(error.to_string()))?;
    let schema = footer.schema().ok_or_else(|| ArrowError::ParseError("no schema".to_owned()))?;
    let decoder = FileDecoder::new(Arc::new(try_fb_to_schema(schema)?), footer.version());
    let blocks = footer.recordBatches().into_iter().flatten();
    let read = |block: &arrow_ipc::Block| {
        let bytes = block.bodyLength().checked_add(i64::from(block.metaDataLength()));
        let (start, length) =
            (usize::try_from(block.offset()).ok(), bytes.and_then(|n| usize::try_from(n).ok()));
        let (start, length) = start.zip(length).ok_or_else(short)?;
        if start.checked_add(length).is_none_or(|end| end > file.len()) {
            return Err(short());
        }
        decoder.read_record_batch(block, &file.slice_with_length(start, length))?.ok_or_else(short)
    };
    blocks.map(read).collect()
}

/// A file of tokens that is being written. It appears under its name when it is whole, and goes when it is given up.
pub struct TokenFile {
    writer: Option<FileWriter<BufWriter<Hashed>>>,
    path: PathBuf,
}

/// A file and the hash of what went into it.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl TokenFile {
    /// Begins a file in a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let (file, path) = create_unfinished(folder)?;
        let hashed = BufWriter::with_capacity(1 << 20, Hashed { file, hash: Sha256::new() });
        let writer = FileWriter::try_new(hashed, &schema()).map_err(into_io)?;
        Ok(TokenFile { writer: Some(writer), path })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.write(batch).map_err(into_io)
    }

    /// Gives the file its name. There is no sync: what a power cut spoiled has another hash.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<PathBuf> {
        let Some(writer) = self.writer.take() else { return Ok(self.path.clone()) };
        let finished = writer.into_inner().map_err(into_io);
        let hashed =
            finished.and_then(|buffered| buffered.into_inner().map_err(io::IntoInnerError::into_error));
        let named = hashed.and_then(|Hashed { hash, file }| {
            let named = self.path.with_file_name(format!("tokens-{}.{SUFFIX}", short_hash(&hash.finalize())));
            std::fs::rename(&self.path, &named)?;
            file.unlock()?;
            Ok(named)
        });
        named.inspect_err(|_| {
            let _ = std::fs::remove_file(&self.path);
        })
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn into_io(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}

fn short_hash(hash: &[u8]) -> String {
    hash.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], type_ids: &[u32]) -> TokenSequence {
        TokenSequence { ids: ids.to_vec(), type_ids: type_ids.to_vec() }
    }

    fn encodings() -> Vec<Encoding> {
        let one = Encoding {
            windows: vec![sequence(&[101, 7, 102], &[0; 3])],
            original_length: 3,
            truncated: false,
        };
        let pair = Encoding {
            windows: vec![sequence(&[101, 7, 102, 9, 102], &[0, 0, 0, 1, 1])],
            original_length: 9,
            truncated: true,
        };
        let windows = Encoding {
            windows: vec![sequence(&[101, 1, 102], &[0; 3]), sequence(&[101, 2, 3, 102], &[0; 4])],
            original_length: 5,
            truncated: false,
        };
        let empty = Encoding { windows: vec![sequence(&[], &[])], ..Encoding::default() };
        vec![one, pair, windows, empty]
    }

    fn batches() -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for encodings in encodings().chunks(3) {
            let mut builder = ColumnBuilder::default();
            encodings.iter().for_each(|encoding| builder.push(encoding));
            batches.push(builder.finish().unwrap());
        }
        batches
    }

    fn write(folder: &Path) -> PathBuf {
        let mut file = TokenFile::create(folder).unwrap();
        batches().iter().for_each(|batch| file.write(batch).unwrap());
        file.finish().unwrap()
    }

    fn assert_whole(columns: &TokenColumns) {
        let copied: Vec<Encoding> = (0..columns.len()).map(|text| columns.encoding(text)).collect();
        assert_eq!(copied, encodings());
        assert_eq!((0..4).map(|text| columns.tokens(text)).collect::<Vec<_>>(), [3, 5, 7, 0]);
    }

    #[test]
    fn columns_give_back_every_encoding_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_whole(&TokenColumns::from_batches(&batches()).unwrap());
        assert_whole(&TokenColumns::open(&write(folder.path())).unwrap());
    }

    #[test]
    fn a_mapped_file_lives_on_when_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        let columns = TokenColumns::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_whole(&columns);
    }

    #[test]
    fn a_damaged_byte_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for place in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let error = TokenColumns::open(&path).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "byte {place}: {error}");
        }
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(TokenColumns::open(&path).is_err());
    }

    #[test]
    fn a_file_that_was_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = TokenFile::create(folder.path()).unwrap();
        file.write(&batches()[0]).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
