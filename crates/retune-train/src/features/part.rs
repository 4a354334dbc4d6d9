//! A file of features: records in the order in which they were computed, and an index at the end.
//!
//! Little-endian. A record is its values; the index has, for each, the sample's hash, offset, length and checksum; the
//! last bytes say where the index begins. A file without a whole index is no part: it is one that nobody finished.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use retune_checkpoint::cache::create_unfinished;

use crate::trainee::SampleHash;

const MAGIC: [u8; 8] = *b"RTFEAT01";
/// Bytes of an index entry: hash, offset, number of values, checksum.
const ENTRY: usize = 16 + 8 + 4 + 8;
/// Bytes at the end: offset of the index, entries, checksum of the index, cost in units and seconds, magic.
const TRAILER: usize = 6 * 8;
/// How a finished part's name ends.
pub(super) const SUFFIX: &str = "features";

/// Where a record lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub sample: SampleHash,
    offset: u64,
    values: u32,
    checksum: u64,
}

/// What computing a part's features took: samples' lengths in the modality's unit, and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    pub units: u64,
    pub seconds: f64,
}

/// A file of features, finished or being written.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    end: u64,
    /// The records so far, of a part that is being written.
    unfinished: Option<Vec<Entry>>,
    pub cost: Cost,
}

impl Part {
    /// Begins a part under a name that nobody else uses, locked for as long as it is open.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let (file, path) = create_unfinished(folder)?;
        Ok(Self { file, path, end: 0, unfinished: Some(Vec::new()), cost: Cost::default() })
    }

    /// Opens a finished part and reads its index.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not a whole file of features");
        let trailer_at = length.checked_sub(TRAILER as u64).ok_or_else(damaged)?;
        file.seek(SeekFrom::Start(trailer_at))?;
        let mut trailer = [0; TRAILER];
        file.read_exact(&mut trailer)?;
        let word = |index: usize| u64::from_le_bytes(array(&trailer[8 * index..]));
        let (index_at, count, checksum_of_index) = (word(0), word(1), word(2));
        let index_bytes = count.checked_mul(ENTRY as u64).ok_or_else(damaged)?;
        if trailer[40..] != MAGIC || index_at.checked_add(index_bytes) != Some(trailer_at) {
            return Err(damaged());
        }
        file.seek(SeekFrom::Start(index_at))?;
        let mut index = vec![0; index_bytes as usize];
        file.read_exact(&mut index)?;
        if checksum(&index) != checksum_of_index {
            return Err(damaged());
        }
        let entries: Vec<Entry> = index.chunks_exact(ENTRY).map(Entry::decode).collect();
        let inside = |entry: &Entry| {
            entry.offset.checked_add(4 * u64::from(entry.values)).is_some_and(|end| end <= index_at)
        };
        if !entries.iter().all(inside) {
            return Err(damaged());
        }
        let cost = Cost { units: word(3), seconds: f64::from_bits(word(4)) };
        Ok((Self { file, path: path.to_owned(), end: length, unfinished: None, cost }, entries))
    }

    /// Whether it is still being written.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Appends a record to a part that is being written.
    pub fn append(&mut self, sample: SampleHash, values: &[f32]) -> io::Result<Entry> {
        let mut bytes = vec![0; 4 * values.len()];
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&bytes)?;
        let entry =
            Entry { sample, offset: self.end, values: values.len() as u32, checksum: checksum(&bytes) };
        self.end += bytes.len() as u64;
        self.unfinished.get_or_insert_default().push(entry);
        Ok(entry)
    }

    /// Writes the index and gives the part its name. There is no sync: a record that a power cut spoiled fails its
    /// checksum and is computed again.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(entries) = self.unfinished.take() else { return Ok(()) };
        let mut index = Vec::with_capacity(entries.len() * ENTRY + TRAILER);
        entries.iter().for_each(|entry| entry.encode(&mut index));
        let words =
            [self.end, entries.len() as u64, checksum(&index), self.cost.units, self.cost.seconds.to_bits()];
        words.iter().for_each(|word| index.extend(word.to_le_bytes()));
        index.extend(MAGIC);
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&index)?;
        let named = self.path.with_extension(SUFFIX);
        std::fs::rename(&self.path, &named)?;
        self.path = named;
        self.file.unlock()
    }

    /// Reads a record's values. `false` if it is not what was written, or has another length.
    pub fn read(&self, entry: &Entry, values: &mut [f32]) -> io::Result<bool> {
        if entry.values as usize != values.len() {
            return Ok(false);
        }
        let mut bytes = vec![0; 4 * values.len()];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(entry.offset))?;
        file.read_exact(&mut bytes)?;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes(array(bytes));
        }
        Ok(checksum(&bytes) == entry.checksum)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.unfinished.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Entry {
    fn encode(&self, index: &mut Vec<u8>) {
        index.extend(self.sample);
        index.extend(self.offset.to_le_bytes());
        index.extend(self.values.to_le_bytes());
        index.extend(self.checksum.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            sample: array(bytes),
            offset: u64::from_le_bytes(array(&bytes[16..])),
            values: u32::from_le_bytes(array(&bytes[24..])),
            checksum: u64::from_le_bytes(array(&bytes[28..])),
        }
    }

    /// Bytes of the record and of its entry.
    pub fn bytes(&self) -> u64 {
        4 * u64::from(self.values) + ENTRY as u64
    }
}

/// The first bytes of a slice that has at least as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// Tells damaged bytes from whole ones: a multiplicative hash in four lanes, as fast as memory and no proof against
/// intent.
fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9e37_79b1_85eb_ca87;
    let mix = |lane: u64, word: u64| (lane ^ word).wrapping_mul(PRIME).rotate_left(29);
    let mut lanes = [1_u64, 2, 3, 4].map(|seed| seed.wrapping_mul(PRIME));
    let blocks = bytes.chunks_exact(32);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = mix(*lane, u64::from_le_bytes(array(word)));
        }
    }
    let tail = rest.iter().fold(bytes.len() as u64, |sum, &byte| mix(sum, u64::from(byte)));
    lanes.into_iter().fold(tail, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, first: f32) -> Vec<f32> {
        (0..count).map(|index| first + index as f32).collect()
    }

    #[test]
    fn a_finished_part_gives_back_every_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::create(folder.path()).unwrap();
        let records = [values(5, 0.5), vec![f32::MIN_POSITIVE / 2.0, -0.0, f32::NAN], values(0, 0.0)];
        let entries: Vec<Entry> =
            (0..).zip(&records).map(|(n, r)| part.append([n; 16], r).unwrap()).collect();
        part.cost = Cost { units: 7, seconds: 1.5 };
        part.finish().unwrap();
        let (opened, index) = Part::open(&part.path).unwrap();
        assert_eq!((index.as_slice(), opened.cost), (entries.as_slice(), part.cost));
        for (entry, record) in index.iter().zip(&records) {
            let mut read = vec![1.0; record.len()];
            assert!(opened.read(entry, &mut read).unwrap());
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read), bits(record));
        }
    }

    #[test]
    fn a_part_that_was_not_finished_is_gone_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::create(folder.path()).unwrap();
        part.append([0; 16], &values(4, 0.0)).unwrap();
        let path = part.path.clone();
        assert!(Part::open(&path).is_err());
        drop(part);
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_byte_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::create(folder.path()).unwrap();
        part.append([1; 16], &values(9, 3.0)).unwrap();
        part.append([2; 16], &values(3, 5.0)).unwrap();
        part.finish().unwrap();
        let whole = std::fs::read(&part.path).unwrap();
        let copy = folder.path().join("copy.features");
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            std::fs::write(&copy, &bytes).unwrap();
            let Ok((part, index)) = Part::open(&copy) else { continue };
            // What a part cost is for the report only and has no checksum.
            let is_cost = (whole.len() - 24..whole.len() - 8).contains(&place);
            let all_whole = index.iter().all(|entry| {
                let mut read = vec![0.0; entry.values as usize];
                part.read(entry, &mut read).unwrap()
            });
            assert_eq!(all_whole, is_cost, "byte {place} of {}", whole.len());
        }
    }
}
