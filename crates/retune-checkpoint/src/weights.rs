//! One view of a checkpoint's weights, whichever files and formats they are in: names, shapes, and values as `f32`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::dtype::Dtype;
use crate::error::{CheckpointError, shorten};
use crate::hash::{FileHash, hash_file};
use crate::map::FileBytes;
use crate::pickle::{self, WrapperRule};
use crate::transform::{Tensor, Tensors};
use crate::{Result, safetensors};

/// Weight files of a folder, in the order in which they are looked for.
pub(crate) const FOLDER_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// File endings that weight files have when they bear another name.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "pth", "pt", "th"];

/// Files with such an ending that hold something else: a trainer's own state.
const NOT_WEIGHTS: [&str; 7] = [
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.bin",
    "scheduler.pt",
    "rng_state.pth",
    "scaler.pt",
];

/// Type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked against the file when the tensor was found.
        self.shape.iter().product()
    }
}

/// How weights are opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// How the weights are found inside a pickled file.
    pub wrappers: WrapperRule,
}

/// A checkpoint's weights, memory-mapped: opening reads headers only, and a tensor's bytes are read when asked for.
#[derive(Debug)]
pub struct Weights {
    location: PathBuf,
    files: Vec<PathBuf>,
    contents: Vec<FileBytes>,
    tensors: Vec<Entry>,
    positions: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    unwrapped: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    info: TensorInfo,
    file: usize,
    bytes: Range<usize>,
    /// Strides in elements, where the elements don't lie in row-major order.
    strides: Option<Vec<usize>>,
}

impl Weights {
    /// Opens a weight file, or the weights of a folder: `model.safetensors`, its sharded index,
    /// `pytorch_model.bin`, its sharded index, else the one file with a weight file's ending.
    /// A file's format is told from its content, not from its name.
    ///
    /// # Errors
    /// When nothing is found, a file is damaged, or a pickle holds anything but tensors and plain containers.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// [`Weights::open`] with options.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self> {
        let file = if path.is_dir() { find_in(path)? } else { path.to_path_buf() };
        if file.extension().is_some_and(|ending| ending == "json") {
            return Self::open_sharded(&file, options);
        }
        let mut weights = Self::empty(path);
        weights.add_file(FileBytes::open(&file)?, options)?;
        Ok(weights)
    }

    /// Reads weights from the content of one file in memory. Messages name it by `name`.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>, options: &OpenOptions) -> Result<Self> {
        let mut weights = Self::empty(Path::new(name));
        weights.add_file(FileBytes::from_vec(name, bytes), options)?;
        Ok(weights)
    }

    /// Tensor names in the order in which the files hold them: the same for every opening of the same files.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|entry| entry.name.as_str())
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.positions.get(name).map(|&position| &self.tensors[position].info)
    }

    /// A tensor's bytes in row-major order, little-endian, in its own [`Dtype`]. Copied only where the file holds
    /// them in another order.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.entry(name)?;
        let stored = &self.contents[entry.file].bytes()[entry.bytes.clone()];
        Ok(match &entry.strides {
            None => Cow::Borrowed(stored),
            Some(strides) => Cow::Owned(gather(stored, entry.info.dtype.size(), &entry.info.shape, strides)),
        })
    }

    /// Reads a tensor into `values`, row-major, converted to `f32` (nearest value where the stored type is wider).
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`], or [`CheckpointError::Shape`] when `values` has another length.
    pub fn read_f32(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let info = &self.entry(name)?.info;
        if values.len() != info.elements() {
            let what = format!(
                "has shape {:?}, {} elements; room for {} was given",
                info.shape,
                info.elements(),
                values.len()
            );
            return Err(CheckpointError::Shape { tensor: shorten(name), what });
        }
        info.dtype.convert(&self.bytes(name)?, values);
        Ok(())
    }

    /// A tensor's values, row-major, converted to `f32`.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`].
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.entry(name)?.info.elements()];
        self.read_f32(name, &mut values)?;
        Ok(values)
    }

    /// All tensors, converted to `f32`: what [`crate::Transform::apply`] takes.
    ///
    /// # Errors
    /// As [`Weights::to_f32`].
    pub fn to_tensors(&self) -> Result<Tensors> {
        let read = |entry: &Entry| {
            let tensor = Tensor { shape: entry.info.shape.clone(), values: self.to_f32(&entry.name)? };
            Ok((entry.name.clone(), tensor))
        };
        self.tensors.iter().map(read).collect()
    }

    /// Text that the files carry beside the tensors: safetensors metadata, or a pickled checkpoint's scalars
    /// (`epoch`, `best_prec1`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Dictionaries of a pickled file that were gone through and prefixes that were taken off its names.
    pub fn unwrapped(&self) -> &[String] {
        &self.unwrapped
    }

    /// Tensors that are one and the same view of one storage, as pickled files keep tied weights: groups of two
    /// names or more.
    pub fn tied(&self) -> Vec<Vec<&str>> {
        let mut groups: Vec<Vec<&str>> = Vec::new();
        let mut seen: HashMap<_, usize> = HashMap::new();
        for entry in self.tensors.iter().filter(|entry| !entry.bytes.is_empty()) {
            let view = (entry.file, &entry.bytes, &entry.info.shape, &entry.strides);
            let group = *seen.entry(view).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(&entry.name);
        }
        groups.retain(|group| group.len() > 1);
        groups
    }

    /// The weight files, and the index file first where there is one.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// SHA-256 and size of each of [`Weights::files`]. Reads every file whole.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn file_hashes(&self) -> Result<Vec<FileHash>> {
        self.files.iter().map(|file| hash_file(file)).collect()
    }

    fn empty(location: &Path) -> Self {
        Self {
            location: location.to_path_buf(),
            files: Vec::new(),
            contents: Vec::new(),
            tensors: Vec::new(),
            positions: HashMap::new(),
            metadata: BTreeMap::new(),
            unwrapped: Vec::new(),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        match self.positions.get(name) {
            Some(&position) => Ok(&self.tensors[position]),
            None => Err(CheckpointError::UnknownTensor {
                path: self.location.clone(),
                tensor: shorten(name),
                similar: nearest(name, self.names()),
            }),
        }
    }

    fn open_sharded(index: &Path, options: &OpenOptions) -> Result<Self> {
        let shard_of = crate::index::read(index)?;
        let folder = crate::atomic::parent(index);
        let mut weights = Self::empty(folder);
        weights.files.push(index.to_path_buf());
        let shards: BTreeSet<&String> = shard_of.values().collect();
        for shard in shards {
            weights.add_file(FileBytes::open(&folder.join(shard))?, options)?;
        }
        for (name, shard) in &shard_of {
            if !weights.positions.contains_key(name) {
                return Err(CheckpointError::tensor(
                    index,
                    name,
                    format!("is said to be in {shard}, which lacks it"),
                ));
            }
        }
        Ok(weights)
    }

    fn add_file(&mut self, content: FileBytes, options: &OpenOptions) -> Result<()> {
        let file = self.contents.len();
        let path = content.path();
        if content.bytes().starts_with(b"version https://git-lfs") {
            let what = "is a Git LFS pointer, not the weights themselves; run `git lfs pull` in its folder";
            return Err(CheckpointError::format(path, what));
        }
        if pickle::is_pickled(content.bytes()) {
            let found = pickle::read(path, content.bytes(), &options.wrappers)?;
            self.metadata.extend(found.scalars);
            for step in found.unwrapped {
                if !self.unwrapped.contains(&step) {
                    self.unwrapped.push(step);
                }
            }
            for tensor in found.tensors {
                let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape };
                self.add(
                    path,
                    Entry { name: tensor.name, info, file, bytes: tensor.bytes, strides: tensor.strides },
                )?;
            }
        } else {
            let header = safetensors::parse(path, content.bytes())?;
            self.metadata.extend(header.metadata);
            for tensor in header.tensors {
                let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape };
                self.add(path, Entry { name: tensor.name, info, file, bytes: tensor.bytes, strides: None })?;
            }
        }
        self.files.push(path.to_path_buf());
        self.contents.push(content);
        Ok(())
    }

    fn add(&mut self, path: &Path, entry: Entry) -> Result<()> {
        if let Some(&position) = self.positions.get(&entry.name) {
            let other = self.contents[self.tensors[position].file].path().display();
            return Err(CheckpointError::tensor(path, &entry.name, format!("is also in {other}")));
        }
        self.positions.insert(entry.name.clone(), self.tensors.len());
        self.tensors.push(entry);
        Ok(())
    }
}

/// The weight files of a folder, relative to it, as [`Weights::open`] would read them: an index first, then its shards.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let file = find_in(folder)?;
    let mut files: Vec<PathBuf> = file.file_name().map(PathBuf::from).into_iter().collect();
    if file.extension().is_some_and(|ending| ending == "json") {
        let shards = crate::index::read(&file)?;
        files.extend(shards.values().collect::<BTreeSet<_>>().into_iter().map(PathBuf::from));
    }
    Ok(files)
}

/// The weight file of a folder.
fn find_in(folder: &Path) -> Result<PathBuf> {
    if let Some(file) = FOLDER_FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let entries = std::fs::read_dir(folder).map_err(CheckpointError::io("list", folder))?;
    let mut candidates: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_weight_file(path)).collect();
    candidates.sort();
    let what = match candidates.as_slice() {
        [file] => return Ok(file.clone()),
        [] => format!(
            "holds no weights; looked for {}, or one file ending in .{}",
            FOLDER_FILES.join(", "),
            ENDINGS.join(", .")
        ),
        several => {
            let names: Vec<_> = several
                .iter()
                .filter_map(|path| path.file_name())
                .map(|name| name.to_string_lossy())
                .collect();
            format!(
                "holds several weight files ({}); name the one to use instead of the folder",
                names.join(", ")
            )
        }
    };
    Err(CheckpointError::NoWeights { path: folder.to_path_buf(), what })
}

fn is_weight_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    path.is_file() && ENDINGS.contains(&ending) && !NOT_WEIGHTS.contains(&name) && !name.starts_with('.')
}

/// Copies a strided view into row-major order. `stored` reaches to the view's last element.
fn gather(stored: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(shape.iter().product::<usize>() * size);
    crate::strided::for_each(shape, strides, |element| {
        gathered.extend_from_slice(&stored[element * size..(element + 1) * size]);
    });
    gathered
}

/// The name that shares the longest ending with `name`, then the longest beginning: a wrong prefix is the usual
/// mistake.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let matching = |a: &mut dyn Iterator<Item = (char, char)>| a.take_while(|(x, y)| x == y).count();
    names
        .map(|other| {
            let ending = matching(&mut name.chars().rev().zip(other.chars().rev()));
            let beginning = matching(&mut name.chars().zip(other.chars()));
            (ending.max(beginning), other)
        })
        .filter(|(shared, _)| *shared * 2 >= name.chars().count())
        .max_by_key(|(shared, _)| *shared)
        .map(|(_, other)| shorten(other))
}
