//! Pictures: find their files, open and check them, resize, augment, and hand out pixels in time for a step.
//!
//! A table's content cells become [`Picture`]s, which [`open_pictures`] opens once to find what is broken; the rest of
//! the way (labels, splits, findings) is that of every table. Resizing follows Pillow to the bit. Knows no tensor.

mod affine;
mod augment;
mod cifar;
mod color;
mod dataset;
mod decode;
mod duplicates;
mod folder;
mod idx;
mod inspect;
mod jpeg;
mod mixing;
mod picture;
mod pixels;
mod policy;
mod preprocess;
mod resize;

pub use augment::{Augmentation, Crop, ViewKey};
pub use dataset::{ImageDataset, ImageExample};
pub use decode::{DEFAULT_MAX_PIXELS, PictureProblem, decode, has_picture_extension};
pub use duplicates::{check_pictures, pictures_hash, pictures_similar_to, similar_pictures};
pub use folder::split_folders;
pub use inspect::{PictureOptions, open_pictures};
pub use mixing::{Mixing, PairMix};
pub use picture::{Picture, PictureFacts, PictureSource};
pub use pixels::{Pixels, thumbnail};
pub use policy::Policy;
pub use preprocess::{Fit, ImagePreprocessor, Middle, Place};
pub use resize::{Interpolation, Region, resize};

pub(crate) use augment::Draws;
pub(crate) use cifar::read as read_cifar;
pub(crate) use decode::is_picture;
pub(crate) use duplicates::ALIKE;
pub(crate) use folder::read as read_folder;
pub(crate) use idx::{is_idx, read as read_idx};
