//! The features of one key on disk: a folder of parts, each written by one process and never changed again.
//!
//! Two runs that compute the same features write a part each; whoever comes later reads both. What fails here costs time
//! and never a result: the caller computes what it does not find.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use retune_checkpoint::cache::{UNFINISHED, extension, files, remove_if_abandoned};
use retune_checkpoint::write_atomic;
use serde::{Deserialize, Serialize};

use super::part::{Cost, Entry, Part, SUFFIX};
use crate::trainee::SampleHash;

/// Says what a folder's features are of.
const ABOUT: &str = "about.json";
/// Its time of change says when the features were last used.
const USED: &str = "used";

/// What a folder's features are of, for a person: the folder's name alone decides whether they fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The model's name or path in the recipe that first computed them.
    pub model: String,
    /// The layer group below which everything is frozen.
    pub below: String,
    /// The kernels' instruction set.
    pub isa: String,
    /// The version of Retune.
    pub version: String,
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: usize,
    entry: Entry,
}

/// What reading a record came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was read.
    Read,
    /// There is one, in a file that has not been held against computed values yet.
    Unchecked,
    /// There is none.
    Absent,
}

/// The features of one key.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    parts: Vec<OpenPart>,
    index: HashMap<SampleHash, Place>,
    /// Bytes that may still be written.
    room: u64,
    failure: Option<String>,
}

#[derive(Debug)]
struct OpenPart {
    part: Part,
    /// Whether its values were held against computed ones, or are such.
    trusted: bool,
}

impl Folder {
    /// Opens the folder of a key and reads the indices of its parts; makes it if there is none. `room` is how many bytes
    /// the folder may hold.
    pub fn open(path: PathBuf, about: &About, room: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        let json = serde_json::to_vec_pretty(about).map_err(io::Error::other)?;
        if !path.join(ABOUT).is_file() {
            write_atomic(&path.join(ABOUT), |file| file.write_all(&json)).map_err(io::Error::other)?;
        }
        std::fs::write(path.join(USED), b"")?;
        let mut folder = Self { path, parts: Vec::new(), index: HashMap::new(), room, failure: None };
        for path in files(&folder.path)? {
            match extension(&path) {
                // One that is damaged is computed again; `retune cache clean` removes it.
                SUFFIX => {
                    if let Ok((part, entries)) = Part::open(&path) {
                        folder.add(part, &entries);
                    }
                }
                UNFINISHED => remove_if_abandoned(&path),
                _ => {}
            }
        }
        Ok(folder)
    }

    fn add(&mut self, part: Part, entries: &[Entry]) {
        let number = self.parts.len();
        self.parts.push(OpenPart { part, trusted: false });
        for &entry in entries {
            self.room = self.room.saturating_sub(entry.bytes());
            self.index.entry(entry.sample).or_insert(Place { part: number, entry });
        }
    }

    /// Whether a sample's values are here, in a file that is trusted.
    pub fn has(&self, sample: &SampleHash) -> bool {
        self.index.get(sample).is_some_and(|place| self.parts[place.part].trusted)
    }

    /// Reads a sample's values, if they are here and whole. Values of a file that nobody trusts yet are not given out.
    pub fn read(&mut self, sample: &SampleHash, values: &mut [f32]) -> Found {
        let Some(place) = self.index.get(sample) else { return Found::Absent };
        let OpenPart { part, trusted } = &self.parts[place.part];
        if !trusted {
            return Found::Unchecked;
        }
        match part.read(&place.entry, values) {
            Ok(true) => Found::Read,
            Ok(false) | Err(_) => {
                self.index.remove(sample);
                Found::Absent
            }
        }
    }

    /// Takes in a sample's computed values: writes them if they are new, else holds the file against them. A file with
    /// other bits (of another machine's library, say) is forgotten, and `false` is the answer.
    pub fn take_in(&mut self, sample: SampleHash, computed: &[f32], cost: Cost) -> bool {
        let Some(&Place { part: number, entry }) = self.index.get(&sample) else {
            self.write(sample, computed, cost);
            return true;
        };
        if self.parts[number].trusted {
            return true;
        }
        let mut found = vec![0.0; computed.len()];
        let same_bits = |found: &[f32]| found.iter().zip(computed).all(|(a, b)| a.to_bits() == b.to_bits());
        if matches!(self.parts[number].part.read(&entry, &mut found), Ok(true)) && same_bits(&found) {
            return true;
        }
        self.index.retain(|_, place| place.part != number);
        self.write(sample, computed, cost);
        false
    }

    /// From here on the parts that [`Folder::take_in`] found right for these samples are read from.
    pub fn trust(&mut self, samples: &[SampleHash]) {
        for sample in samples {
            if let Some(place) = self.index.get(sample) {
                self.parts[place.part].trusted = true;
            }
        }
    }

    fn write(&mut self, sample: SampleHash, values: &[f32], cost: Cost) {
        let bytes = 4 * values.len() as u64;
        if self.failure.is_some() || bytes > self.room {
            return;
        }
        match self.append(sample, values, cost) {
            Ok(entry) => self.room = self.room.saturating_sub(entry.bytes()),
            Err(error) => self.fail(&error),
        }
    }

    fn append(&mut self, sample: SampleHash, values: &[f32], cost: Cost) -> io::Result<Entry> {
        if !self.parts.last().is_some_and(|open| open.part.is_unfinished()) {
            self.parts.push(OpenPart { part: Part::create(&self.path)?, trusted: true });
        }
        let number = self.parts.len() - 1;
        let part = &mut self.parts[number].part;
        let entry = part.append(sample, values)?;
        part.cost.units += cost.units;
        part.cost.seconds += cost.seconds;
        self.index.insert(sample, Place { part: number, entry });
        Ok(entry)
    }

    /// Gives what was written so far its name, so that other runs find it.
    pub fn finish(&mut self) {
        let unfinished = self.parts.last_mut().filter(|open| open.part.is_unfinished());
        match unfinished.map(|open| open.part.finish()) {
            // The folder was cleared meanwhile: its features live on in this run's open files.
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => self.fail(&error),
            _ => {}
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failure.get_or_insert_with(|| format!("{}: {error}", self.path.display()));
    }

    /// What went wrong since the last call. Nothing is written after a failure.
    pub fn take_failure(&mut self) -> Option<String> {
        let failure = self.failure.take_if(|failure| !failure.is_empty());
        // An empty message keeps the folder read-only without telling it twice.
        if failure.is_some() {
            self.failure = Some(String::new());
        }
        failure
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.index.values().map(|place| place.entry.bytes()).sum()
    }

    /// What computing all records took, by those who did.
    pub fn cost(&self) -> Cost {
        self.parts.iter().fold(Cost::default(), |sum, OpenPart { part, .. }| Cost {
            units: sum.units + part.cost.units,
            seconds: sum.seconds + part.cost.seconds,
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What a folder of features holds, as `retune cache list` tells it.
pub(super) fn examine(path: &Path) -> io::Result<Examined> {
    let mut examined = Examined::default();
    if let Ok(bytes) = std::fs::read(path.join(ABOUT)) {
        examined.about = serde_json::from_slice(&bytes).unwrap_or_default();
    }
    examined.used = std::fs::metadata(path.join(USED)).and_then(|metadata| metadata.modified()).ok();
    let mut samples = std::collections::HashSet::new();
    for file in files(path)? {
        let Ok(metadata) = std::fs::metadata(&file) else { continue };
        examined.bytes += metadata.len();
        if extension(&file) == SUFFIX {
            match Part::open(&file) {
                Ok((_, entries)) => samples.extend(entries.iter().map(|entry| entry.sample)),
                Err(_) => examined.damaged.push(file),
            }
        }
    }
    examined.samples = samples.len();
    Ok(examined)
}

/// What [`examine`] finds.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub about: About,
    pub samples: usize,
    pub bytes: u64,
    pub used: Option<std::time::SystemTime>,
    pub damaged: Vec<PathBuf>,
}

/// Removes what abandoned writers and damage left in a folder.
pub(super) fn tidy(path: &Path) -> io::Result<()> {
    for file in files(path)? {
        if extension(&file) == UNFINISHED {
            remove_if_abandoned(&file);
        }
    }
    examine(path)?.damaged.iter().try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 1 << 20;

    fn open(path: &Path) -> Folder {
        Folder::open(path.to_owned(), &About::default(), ROOM).unwrap()
    }

    fn cost() -> Cost {
        Cost { units: 2, seconds: 0.5 }
    }

    #[test]
    fn what_one_run_wrote_another_finds_once_it_has_held_it_against_a_computed_value() {
        let root = tempfile::tempdir().unwrap();
        let mut first = open(root.path());
        first.take_in([1; 16], &[1.0, 2.0], cost());
        first.take_in([2; 16], &[3.0], cost());
        drop(first);
        let mut second = open(root.path());
        let mut values = [0.0; 2];
        assert_eq!(second.read(&[1; 16], &mut values), Found::Unchecked);
        assert_eq!(second.read(&[9; 16], &mut values), Found::Absent);
        assert!(second.take_in([2; 16], &[3.0], cost()));
        second.trust(&[[2; 16]]);
        assert_eq!(second.read(&[1; 16], &mut values), Found::Read);
        assert_eq!(values, [1.0, 2.0]);
        assert_eq!(second.cost(), Cost { units: 4, seconds: 1.0 });
    }

    #[test]
    fn a_file_of_other_bits_is_thrown_away_whole() {
        let root = tempfile::tempdir().unwrap();
        let mut first = open(root.path());
        first.take_in([1; 16], &[1.0], cost());
        first.take_in([2; 16], &[3.0], cost());
        drop(first);
        let mut second = open(root.path());
        assert!(!second.take_in([2; 16], &[f32::from_bits(3.0_f32.to_bits() + 1)], cost()));
        second.trust(&[[2; 16]]);
        assert_eq!(second.read(&[1; 16], &mut [0.0]), Found::Absent);
        let mut value = [0.0];
        assert_eq!(second.read(&[2; 16], &mut value), Found::Read);
        assert_eq!(value[0].to_bits(), 3.0_f32.to_bits() + 1);
    }

    #[test]
    fn two_writers_at_once_leave_two_parts_that_both_count() {
        let root = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (open(root.path()), open(root.path()));
        first.take_in([1; 16], &[1.0], cost());
        second.take_in([1; 16], &[1.0], cost());
        second.take_in([2; 16], &[2.0], cost());
        // A third comes while both write: it must not take their files for abandoned ones.
        drop(open(root.path()));
        drop((first, second));
        let examined = examine(root.path()).unwrap();
        assert_eq!((examined.samples, examined.damaged.len()), (2, 0));
        assert_eq!(files(root.path()).unwrap().iter().filter(|path| extension(path) == SUFFIX).count(), 2);
    }

    #[test]
    fn a_folder_that_is_cleared_under_a_run_costs_it_nothing_but_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let mut folder = open(&path);
        folder.take_in([1; 16], &[1.0], cost());
        folder.finish();
        std::fs::remove_dir_all(&path).unwrap();
        let mut value = [0.0];
        assert_ne!(folder.read(&[1; 16], &mut value), Found::Unchecked);
        folder.take_in([2; 16], &[2.0], cost());
        folder.finish();
        let failure = folder.take_failure();
        assert!(failure.is_some_and(|failure| failure.contains("key")));
        assert_eq!(folder.take_failure(), None);
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(root.path().to_owned(), &About::default(), 100).unwrap();
        for sample in 0..10 {
            folder.take_in([sample; 16], &[0.0; 4], cost());
        }
        assert_eq!(folder.index.len(), 2);
        assert!(folder.bytes() <= 100 + 36);
    }

    #[test]
    fn damaged_and_abandoned_files_are_tidied_away() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = open(root.path());
        folder.take_in([1; 16], &[1.0], cost());
        drop(folder);
        std::fs::write(root.path().join("part-dead-1-0.tmp"), b"half").unwrap();
        std::fs::write(root.path().join("part-bad-1-0.features"), b"half").unwrap();
        tidy(root.path()).unwrap();
        let names: Vec<String> =
            files(root.path()).unwrap().iter().map(|path| extension(path).to_owned()).collect();
        assert_eq!(names.iter().filter(|name| *name == SUFFIX).count(), 1);
        assert!(!names.iter().any(|name| name == UNFINISHED));
    }
}
