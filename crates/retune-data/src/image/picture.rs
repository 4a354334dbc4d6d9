//! A picture before it is decoded: where it is, what messages call it, and what was found when it was opened.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::decode::{PictureProblem, decode};
use super::pixels::Pixels;

/// A picture and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Where it is.
    pub source: PictureSource,
    /// What was found when it was opened; `None` before.
    pub facts: Option<PictureFacts>,
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq)]
pub enum PictureSource {
    /// In a file of its own.
    File(PathBuf),
    /// Inside of a data file, as the bytes of a picture file.
    Encoded {
        /// A whole JPEG, PNG, … file.
        bytes: Bytes,
        /// The name that the data file gives it.
        name: Option<String>,
    },
    /// Inside of a data file, as pixels.
    Pixels(Arc<Pixels>),
}

/// What was found when a picture was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureFacts {
    /// Pixels in a row, as it is shown.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What its file holds: 1 (grey), 3 (RGB) or 4 (RGBA) channels.
    pub channels: usize,
    /// SHA-256 of its file, or of its pixels if it has none.
    pub sha256: [u8; 32],
    /// 64 bits that change little when a picture is scaled or compressed again: whether each of 8 × 8 means of its
    /// luma is brighter than its right neighbour (Krawetz 2013, "dHash").
    pub fingerprint: u64,
}

impl Picture {
    /// A picture that was not opened yet.
    pub fn new(source: PictureSource) -> Self {
        Self { source, facts: None }
    }

    /// Its own file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            PictureSource::File(path) => Some(path),
            _ => None,
        }
    }

    /// The bytes of its file; none for pixels.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn bytes(&self) -> std::io::Result<Option<Cow<'_, [u8]>>> {
        match &self.source {
            PictureSource::File(path) => Ok(Some(Cow::Owned(std::fs::read(path)?))),
            PictureSource::Encoded { bytes, .. } => Ok(Some(Cow::Borrowed(bytes))),
            PictureSource::Pixels(_) => Ok(None),
        }
    }

    /// Its pixels with this many channels, turned as its EXIF orientation says.
    ///
    /// # Errors
    /// If its file cannot be read or decoded, or has more than `max_pixels` pixels.
    pub fn open(&self, channels: usize, max_pixels: u64) -> Result<Pixels, PictureProblem> {
        if let PictureSource::Pixels(pixels) = &self.source {
            return Ok(Pixels::clone(pixels).with_channels(channels));
        }
        let bytes = self.bytes().map_err(|error| PictureProblem::unreadable(&error))?;
        Ok(decode(&bytes.unwrap_or_default(), max_pixels)?.with_channels(channels))
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            PictureSource::File(path) => write!(formatter, "{}", path.display()),
            PictureSource::Encoded { name: Some(name), .. } => formatter.write_str(name),
            PictureSource::Encoded { bytes, .. } => write!(formatter, "a picture of {} bytes", bytes.len()),
            PictureSource::Pixels(pixels) => {
                write!(formatter, "a picture of {} × {} pixels", pixels.width, pixels.height)
            }
        }
    }
}
