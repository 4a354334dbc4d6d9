//! PyTorch's `torch.save` files, zip and legacy, read as data.
//!
//! [`machine`] turns the pickle into plain values under the allow-list of [`globals`]; [`container`] finds the
//! storages in the file; [`state_dict`] walks the values to named tensors. What comes out are checked byte ranges.

mod calls;
mod container;
mod globals;
mod machine;
mod opcodes;
mod state_dict;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::Result;
use crate::dtype::Dtype;
use crate::error::CheckpointError;

pub use state_dict::WrapperRule;

/// A tensor found in a pickled file: a strided view of a byte range known to lie inside the file.
#[derive(Debug)]
pub(crate) struct FoundTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// From the first byte of the first element to behind the last byte of the last one.
    pub(crate) bytes: Range<usize>,
    /// Strides in elements, where the elements don't lie in row-major order.
    pub(crate) strides: Option<Vec<usize>>,
}

/// Everything found in a pickled file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tensors: Vec<FoundTensor>,
    /// Scalars beside the tensors (`best_prec1`, `epoch`), as text.
    pub(crate) scalars: BTreeMap<String, String>,
    /// Dictionaries gone through and prefixes taken off, outermost first.
    pub(crate) unwrapped: Vec<String>,
}

/// Whether `file` starts as a `torch.save` file does, in either format.
pub(crate) fn is_pickled(file: &[u8]) -> bool {
    // A safetensors file's header length may happen to spell either beginning, but a brace follows it.
    let safetensors = file.get(8) == Some(&b'{');
    !safetensors && (container::is_zip(file) || matches!(file, [0x80, 2..=5, ..]))
}

/// Reads the `torch.save` file whose whole content is `file`.
pub(crate) fn read(path: &Path, file: &[u8], rule: &WrapperRule) -> Result<Found> {
    let container = container::open(path, file)?;
    state_dict::collect(path, &container, rule)
}

/// Gives a refusal the file it was met in.
fn explain(path: &Path, refusal: machine::Refusal) -> CheckpointError {
    match refusal {
        machine::Refusal::Global(global) => CheckpointError::Refused { path: path.to_path_buf(), global },
        machine::Refusal::Damaged { position, what } => {
            CheckpointError::format(path, format!("the pickle at its byte {position} {what}"))
        }
    }
}
