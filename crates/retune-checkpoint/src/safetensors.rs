//! A strict reader of the safetensors header: <https://github.com/huggingface/safetensors#format>.
//!
//! Eight bytes of header length, a JSON header, then the tensors' bytes without gap or overlap. Nothing is
//! allocated from a number in the file before that number is checked against the file's length.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::Result;
use crate::dtype::Dtype;
use crate::error::{CheckpointError, shorten};

/// The reference implementation's bound on a header, which no model comes near.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// A parsed header: tensors in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) tensors: Vec<HeaderTensor>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// One tensor of a header, its byte range counted from the file's first byte and known to lie inside the file.
#[derive(Debug)]
pub(crate) struct HeaderTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Range<usize>,
}

/// Reads and checks the header of the safetensors file whose whole content is `file`.
pub(crate) fn parse(path: &Path, file: &[u8]) -> Result<Header> {
    let fail = |what: String| CheckpointError::format(path, what);
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(fail(format!(
            "is not a safetensors file: {} bytes long, shorter than the 8-byte header length; fetch or copy it again",
            file.len()
        )));
    };
    let declared = u64::from_le_bytes(*length);
    let length = usize::try_from(declared).unwrap_or(usize::MAX);
    if length > MAX_HEADER_BYTES || length > rest.len() {
        return Err(fail(format!(
            "declares a header of {declared} bytes, but {} bytes follow; the file is truncated or not safetensors: \
             fetch or copy it again",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length);
    if header.first() != Some(&b'{') {
        return Err(fail("is not a safetensors file: its header doesn't start with `{`".into()));
    }
    let header = std::str::from_utf8(header).map_err(|error| {
        fail(format!("has a header that is not UTF-8 at byte {}", 8 + error.valid_up_to()))
    })?;
    let raw: RawHeader = serde_json::from_str(header)
        .map_err(|error| fail(format!("has a header that cannot be read: {error}")))?;

    let data_start = 8 + length;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        let tensor =
            check(&raw, data_start, data.len()).map_err(|what| CheckpointError::tensor(path, &name, what))?;
        tensors.push(HeaderTensor { name, ..tensor });
    }
    tensors.sort_by(|a, b| (a.bytes.start, a.bytes.end, &a.name).cmp(&(b.bytes.start, b.bytes.end, &b.name)));
    check_cover(path, &tensors, data_start, file.len())?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Checks one tensor on its own: known type, range inside the data, length equal to shape times element size.
fn check(raw: &RawTensor, data_start: usize, data_length: usize) -> Result<HeaderTensor, String> {
    let dtype = Dtype::from_name(&raw.dtype).ok_or_else(|| {
        let known = Dtype::ALL.map(Dtype::name).join(", ");
        format!("has the unsupported dtype `{}`; supported are {known}", shorten(&raw.dtype))
    })?;
    let [start, end] = raw.data_offsets;
    if start > end || end > data_length as u64 {
        return Err(format!(
            "declares bytes {start}..{end} of the data, which has {data_length}; the file is truncated or damaged: \
             fetch or copy it again"
        ));
    }
    let size = raw.shape.iter().try_fold(dtype.size() as u64, |size, &dimension| size.checked_mul(dimension));
    if size != Some(end - start) {
        let needs = size.map_or("more than 2^64".into(), |size| size.to_string());
        return Err(format!(
            "declares {} bytes, but shape {:?} of {} needs {needs}",
            end - start,
            raw.shape,
            dtype.name()
        ));
    }
    // Both bounds and every dimension of a non-empty tensor are at most the file's length; an empty tensor's
    // other dimensions may be anything, so they are checked.
    let shape: Option<Vec<usize>> =
        raw.shape.iter().map(|&dimension| usize::try_from(dimension).ok()).collect();
    let shape =
        shape.ok_or_else(|| format!("has a dimension too large for this machine: {:?}", raw.shape))?;
    let bytes = data_start + start as usize..data_start + end as usize;
    Ok(HeaderTensor { name: String::new(), dtype, shape, bytes })
}

/// Checks that the tensors, sorted by their bytes, cover the data exactly.
fn check_cover(path: &Path, tensors: &[HeaderTensor], data_start: usize, file_length: usize) -> Result<()> {
    let mut end = data_start;
    let mut previous = None;
    for tensor in tensors {
        if tensor.bytes.start < end {
            let previous = previous.unwrap_or_default();
            return Err(CheckpointError::tensor(
                path,
                &tensor.name,
                format!("overlaps the bytes of tensor `{}`; the header is damaged", shorten(previous)),
            ));
        }
        if tensor.bytes.start > end {
            let gap = tensor.bytes.start - end;
            return Err(CheckpointError::tensor(
                path,
                &tensor.name,
                format!("is preceded by {gap} bytes that belong to no tensor; the header is damaged"),
            ));
        }
        end = tensor.bytes.end;
        previous = Some(tensor.name.as_str());
    }
    if end != file_length {
        return Err(CheckpointError::format(
            path,
            format!("ends with {} bytes that belong to no tensor; the header is damaged", file_length - end),
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header as JSON, read entry by entry so that a repeated name is seen rather than overwritten.
struct RawHeader {
    tensors: BTreeMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            let repeated = tensors.contains_key(&name) || (name == "__metadata__" && metadata.is_some());
            if repeated {
                let _: IgnoredAny = map.next_value()?;
                return Err(de::Error::custom(format!("tensor `{}` is declared twice", shorten(&name))));
            }
            if name == "__metadata__" {
                metadata =
                    map.next_value::<Option<BTreeMap<String, String>>>()?.or_else(|| Some(BTreeMap::new()));
                continue;
            }
            let tensor = map
                .next_value::<RawTensor>()
                .map_err(|error| de::Error::custom(format!("tensor `{}`: {error}", shorten(&name))))?;
            tensors.insert(name, tensor);
        }
        Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        parse(Path::new("model.safetensors"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn tensors_come_in_the_order_of_their_bytes_with_checked_ranges() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
            "empty":{"dtype":"I64","shape":[0,3],"data_offsets":[8,8]}}"#;
        let header_length = header.len();
        let parsed = parse(Path::new("x"), &file(header, 8)).unwrap();
        let names: Vec<&str> = parsed.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "empty"]);
        assert_eq!(parsed.tensors[1].bytes, header_length + 12..header_length + 16);
        assert_eq!(parsed.metadata["format"], "pt");
    }

    #[test]
    fn each_damage_is_named() {
        let tensor = |offsets: &str, shape: &str, dtype: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![1, 2, 3], "shorter than the 8-byte header length"),
            (u64::MAX.to_le_bytes().to_vec(), "declares a header of 18446744073709551615 bytes"),
            (file("{}", 0)[..9].to_vec(), "truncated"),
            (file("[]", 0), "doesn't start with `{`"),
            (file("{\"w\":", 0), "cannot be read"),
            (file(&tensor("[0,4]", "[1]", "F32"), 3), "tensor `w`: declares bytes 0..4"),
            (file(&tensor("[4,0]", "[1]", "F32"), 4), "tensor `w`: declares bytes 4..0"),
            (file(&tensor("[0,4]", "[2]", "F32"), 4), "shape [2] of F32 needs 8"),
            (file(&tensor("[0,4]", "[4294967296,4294967296]", "F32"), 4), "more than 2^64"),
            (file(&tensor("[0,4]", "[-1]", "F32"), 4), "tensor `w`"),
            (file(&tensor("[0,4]", "[1]", "F7"), 4), "unsupported dtype `F7`"),
            (file(&tensor("[4,8]", "[1]", "F32"), 8), "preceded by 4 bytes"),
            (file(&tensor("[0,4]", "[1]", "F32"), 8), "ends with 4 bytes"),
            (
                file(
                    r#"{"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                    6,
                ),
                "tensor `w`: overlaps the bytes of tensor `v`",
            ),
            (
                file(
                    r#"{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
                    0,
                ),
                "tensor `w` is declared twice",
            ),
        ];
        for (bytes, expected) in cases {
            let message = refusal(&bytes);
            assert!(message.contains(expected) && message.starts_with("model.safetensors: "), "{message}");
        }
        let mut invalid = file("{\"w\":\"?\"}", 0);
        invalid[14] = 0xff;
        assert!(refusal(&invalid).contains("not UTF-8 at byte 14"));
    }
}
