//! Bytes of a picture file to [`Pixels`], by the `image` crate: JPEG, PNG, WebP, BMP, TIFF, the first frame of a GIF.
//!
//! The format is found in the bytes, whatever the name says. 16-bit samples keep their upper 8 bits, an EXIF
//! orientation is applied, and a size that is only declared is refused before anything of it is allocated.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::error::ImageError;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::jpeg;
use super::pixels::Pixels;

/// More pixels than this are refused unless told otherwise: what Pillow takes for a decompression bomb.
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// The formats that are read, with the endings of their files.
const FORMATS: &[(ImageFormat, &str, &[&str])] = &[
    (ImageFormat::Jpeg, "JPEG", &["jpg", "jpeg", "jpe", "jfif"]),
    (ImageFormat::Png, "PNG", &["png"]),
    (ImageFormat::WebP, "WebP", &["webp"]),
    (ImageFormat::Bmp, "BMP", &["bmp", "dib"]),
    (ImageFormat::Tiff, "TIFF", &["tif", "tiff"]),
    (ImageFormat::Gif, "GIF", &["gif"]),
];

/// Why a picture cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PictureProblem {
    /// The finding's code, such as `truncated-picture`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl PictureProblem {
    fn new(code: &'static str, message: impl Into<String>, advice: &'static str) -> Self {
        Self { code, message: message.into(), advice }
    }

    pub(super) fn unreadable(error: &std::io::Error) -> Self {
        if error.kind() == ErrorKind::NotFound {
            let advice = "paths are relative to the data file's folder";
            return Self::new("missing-picture", "there is no such file", advice);
        }
        Self::new("unreadable-picture", format!("cannot be read: {error}"), "look at its permissions")
    }

    fn truncated() -> Self {
        Self::new("truncated-picture", "ends too early: a part of the picture is missing", "copy it again")
    }

    fn broken(reason: impl std::fmt::Display) -> Self {
        Self::new("broken-picture", format!("cannot be decoded: {reason}"), "export or copy it again")
    }
}

/// Whether a file's name ends as those of pictures do.
pub fn has_picture_extension(path: &Path) -> bool {
    extension(path).is_some_and(|found| FORMATS.iter().any(|(_, _, endings)| endings.contains(&&*found)))
}

fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase)
}

/// Whether bytes begin as a picture of a known format does.
pub(crate) fn is_picture(bytes: &[u8]) -> bool {
    ::image::guess_format(bytes).is_ok_and(|format| FORMATS.iter().any(|(known, ..)| *known == format))
}

/// What a file is, where its name says something else.
pub(super) fn misnamed(path: &Path, bytes: &[u8]) -> Option<&'static str> {
    let format = ::image::guess_format(bytes).ok()?;
    let (_, name, endings) = FORMATS.iter().find(|(known, ..)| *known == format)?;
    let found = extension(path)?;
    (!endings.contains(&&*found)).then_some(name)
}

/// Decodes the bytes of a picture file.
///
/// # Errors
/// If they are no picture of a known format, are broken or cut off, or declare more than `max_pixels` pixels.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Pixels, PictureProblem> {
    if bytes.is_empty() {
        return Err(PictureProblem::new("empty-picture", "the file is empty", "copy it again"));
    }
    if bytes.iter().take(64).all(|&byte| byte == 0) {
        let message = "the file begins with zeros: it was not written to its end";
        return Err(PictureProblem::new("empty-picture", message, "copy it again"));
    }
    let format = ::image::guess_format(bytes).ok();
    let Some((format, ..)) = FORMATS.iter().find(|(known, ..)| Some(*known) == format) else {
        let known: Vec<&str> = FORMATS.iter().map(|(_, name, _)| *name).collect();
        let message = format!("is no {} file", known.join(", ").replace(", GIF", " or GIF"));
        return Err(PictureProblem::new("not-a-picture", message, "convert it, or remove it"));
    };
    if *format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        return Err(PictureProblem::truncated());
    }
    // Decoders of six formats read bytes that anybody may have written: one that gives up is one more broken picture.
    catch_unwind(AssertUnwindSafe(|| decode_as(bytes, *format, max_pixels)))
        .unwrap_or_else(|_| Err(PictureProblem::broken("its decoder gave up")))
}

fn decode_as(bytes: &[u8], format: ImageFormat, max_pixels: u64) -> Result<Pixels, PictureProblem> {
    let mut limits = Limits::no_limits();
    // A decoder may hold the picture twice, in 16 bits and four channels.
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(1 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(problem)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > max_pixels {
        let message = format!("declares {width} × {height} pixels, more than {max_pixels} in all");
        let advice = "scale it down, or remove it";
        return Err(PictureProblem::new("huge-picture", message, advice));
    }
    let orientation = decoder.orientation().map_err(problem)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(problem)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(PictureProblem::broken("it has no pixels"));
    }
    let color = image.color();
    let (channels, data) = match (color.has_color(), color.has_alpha()) {
        (false, _) => (1, image.into_luma8().into_raw()),
        (true, false) => (3, image.into_rgb8().into_raw()),
        (true, true) => (4, image.into_rgba8().into_raw()),
    };
    Ok(Pixels { width, height, channels, data })
}

fn problem(error: ImageError) -> PictureProblem {
    match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => PictureProblem::truncated(),
        ImageError::Limits(error) => {
            let advice = "scale it down, or remove it";
            PictureProblem::new("huge-picture", format!("is too large to be opened: {error}"), advice)
        }
        other => PictureProblem::broken(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage, RgbaImage};
    use proptest::prelude::*;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn picture() -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_fn(19, 11, |x, y| Rgb([x as u8 * 12, y as u8 * 20, 77])))
    }

    #[test]
    fn every_lossless_format_gives_its_pixels_back() {
        let expected = picture().into_rgb8().into_raw();
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let decoded = decode(&encoded(&picture(), format), DEFAULT_MAX_PIXELS).unwrap();
            assert_eq!((decoded.width, decoded.height, decoded.channels), (19, 11, 3), "{format:?}");
            assert_eq!(decoded.data, expected, "{format:?}");
        }
        let grey = DynamicImage::ImageLuma8(GrayImage::from_fn(4, 4, |x, y| Luma([(x * 4 + y) as u8])));
        let decoded = decode(&encoded(&grey, ImageFormat::Png), DEFAULT_MAX_PIXELS).unwrap();
        assert_eq!((decoded.channels, decoded.data), (1, grey.into_luma8().into_raw()));
        let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(3, 3, ::image::Rgba([1, 2, 3, 4])));
        let decoded = decode(&encoded(&clear, ImageFormat::Gif), DEFAULT_MAX_PIXELS).unwrap();
        assert_eq!((decoded.width, decoded.height, decoded.channels), (3, 3, 4));
    }

    #[test]
    fn sixteen_bits_keep_their_range() {
        let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
            ImageBuffer::from_fn(2, 1, |x, _| Luma([if x == 0 { 65535 } else { 32896 }]));
        let bytes = encoded(&DynamicImage::ImageLuma16(deep), ImageFormat::Png);
        let decoded = decode(&bytes, DEFAULT_MAX_PIXELS).unwrap();
        assert_eq!((decoded.channels, decoded.data), (1, vec![255, 128]));
    }

    #[test]
    fn a_picture_cut_anywhere_is_no_picture() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            let bytes = encoded(&picture(), format);
            assert!(decode(&bytes, DEFAULT_MAX_PIXELS).is_ok());
            for length in (0..bytes.len() * 9 / 10).step_by(7) {
                let result = decode(&bytes[..length], DEFAULT_MAX_PIXELS);
                assert!(result.is_err(), "{format:?} cut to {length} of {} bytes", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_picture_is_a_picture_or_a_problem(
            format in prop::sample::select(FORMATS),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        ) {
            let mut bytes = encoded(&picture(), format.0);
            for (place, byte) in places {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(pixels) = decode(&bytes, 1 << 16) {
                prop_assert!(pixels.width > 0 && pixels.height > 0);
                prop_assert!(pixels.width * pixels.height <= 1 << 16);
                prop_assert_eq!(pixels.data.len(), pixels.width * pixels.height * pixels.channels);
            }
        }

        #[test]
        fn any_bytes_behind_a_known_beginning_are_a_picture_or_a_problem(
            format in prop::sample::select(FORMATS),
            kept in 2_usize..40,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut all = encoded(&picture(), format.0);
            all.truncate(kept);
            all.extend(bytes);
            if let Ok(pixels) = decode(&all, 1 << 16) {
                prop_assert_eq!(pixels.data.len(), pixels.width * pixels.height * pixels.channels);
            }
        }
    }

    #[test]
    fn a_declared_size_is_refused_before_it_is_allocated() {
        let bytes = encoded(&picture(), ImageFormat::Png);
        let problem = decode(&bytes, 100).unwrap_err();
        assert_eq!((problem.code, problem.message.contains("19 × 11")), ("huge-picture", true));
    }

    #[test]
    fn what_is_no_picture_is_named_so() {
        assert_eq!(decode(b"", 9).unwrap_err().code, "empty-picture");
        assert_eq!(decode(&[0; 500], 9).unwrap_err().code, "empty-picture");
        let problem = decode(b"<html>not found</html>", 9).unwrap_err();
        assert_eq!(problem.message, "is no JPEG, PNG, WebP, BMP, TIFF or GIF file");
    }

    #[test]
    fn a_wrong_name_is_seen() {
        let png = encoded(&picture(), ImageFormat::Png);
        assert_eq!(misnamed(Path::new("a.JPG"), &png), Some("PNG"));
        assert_eq!(misnamed(Path::new("a.png"), &png), None);
    }
}
