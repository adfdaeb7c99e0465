//! From a file to pixels, with every limit checked first.
//!
//!     open -> plain file? -> size -> bytes -> format by content -> complete? -> limits -> RGB
//!
//! Pictures are never guessed at: a file that ends too early is an error, not a picture with a grey
//! lower half, because a grey half has no defects and would pass. EXIF orientation is ignored: a
//! pipeline's regions of interest are about the sensor's pixels.

use crate::camera::CameraError;
use image::error::{ImageError, LimitError, LimitErrorKind};
use image::{ImageFormat, ImageReader, Limits, RgbImage};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// Most pixels a side.
pub const SIDE_MAX_PX: u32 = 16_384;
/// Most memory that decoding one picture may take.
pub const DECODE_MEMORY_MAX_BYTES: u64 = 1 << 30;
/// Largest file: the largest picture, not compressed at all.
pub const FILE_MAX_BYTES: u64 = 1 << 30;
/// The formats that are accepted, whatever the file's name says.
const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff];

/// Decodes a picture file to 8-bit RGB; transparency is dropped, grey becomes three equal values.
///
/// # Errors
/// A file that cannot be read, is too large, is no picture of an accepted format, is cut off or damaged.
pub fn decode(path: &Path) -> Result<RgbImage, CameraError> {
    from_bytes(path, read(path)?)
}

/// Reads a whole plain file of at most `FILE_MAX_BYTES`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CameraError> {
    let failed = |source| CameraError::Read { path: path.into(), source };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(CameraError::NotAFile { path: path.into() });
    }
    let too_large = || CameraError::TooLarge {
        path: path.into(),
        what: format!("more than {FILE_MAX_BYTES} bytes in the file"),
    };
    if meta.len() > FILE_MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    File::open(path).and_then(|f| f.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Decodes the bytes of a file; `path` is for messages.
pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<RgbImage, CameraError> {
    let format = image::guess_format(&bytes).ok().filter(|f| FORMATS.contains(f));
    let format = format.ok_or_else(|| CameraError::Format { path: path.into() })?;
    if format == ImageFormat::Jpeg && !jpeg_is_complete(&bytes) {
        return Err(CameraError::Truncated { path: path.into() });
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX_PX);
    limits.max_image_height = Some(SIDE_MAX_PX);
    limits.max_alloc = Some(DECODE_MEMORY_MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let picture = reader.decode().map_err(|source| explain(path, source))?;
    Ok(picture.into_rgb8())
}

/// Sorts a decoder's error by what can be done about it.
fn explain(path: &Path, source: ImageError) -> CameraError {
    let path = path.to_path_buf();
    match source {
        ImageError::Limits(e) => CameraError::TooLarge { path, what: limit(&e) },
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            CameraError::Truncated { path }
        }
        source => CameraError::Decode { path, source },
    }
}

fn limit(e: &LimitError) -> String {
    match e.kind() {
        LimitErrorKind::DimensionError => format!("more than {SIDE_MAX_PX} pixels a side"),
        LimitErrorKind::InsufficientMemory => {
            format!("decoding it takes more than {DECODE_MEMORY_MAX_BYTES} bytes")
        }
        _ => e.to_string(),
    }
}

/// True when a JPEG goes on to its end marker. The decoder does not insist on it: it fills what is
/// missing with grey.
fn jpeg_is_complete(b: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xD9;
    let mut i = 0;
    // Invariant: no marker before `i` is left to look at; every turn moves `i` forward.
    while let Some(at) = b.get(i..).and_then(|rest| rest.iter().position(|v| *v == 0xFF)) {
        i += at + 1;
        match b.get(i..) {
            None | Some([]) => return false,
            Some([END_OF_IMAGE, ..]) => return true,
            // 0: a data byte of 255; 1 and D0 to D8: markers without a length.
            Some([0 | 1 | 0xD0..=0xD8, ..]) => i += 1,
            // Padding before a marker.
            Some([0xFF, ..]) => {}
            // A segment, skipped by its length: a thumbnail in it has an end marker of its own.
            Some([_, hi, lo, ..]) => i += 1 + usize::from(u16::from_be_bytes([*hi, *lo])),
            Some(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::DynamicImage;

    fn picture() -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y % 251) as u8]))
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        DynamicImage::from(picture()).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn content_decides_and_not_the_name() {
        let dir = tempfile::tempdir().unwrap();
        for format in FORMATS {
            let path = dir.path().join("picture.txt");
            std::fs::write(&path, encoded(format)).unwrap();
            let got = decode(&path).unwrap();
            assert_eq!(got.dimensions(), (40, 30), "{format:?}");
            if format != ImageFormat::Jpeg {
                assert_eq!(got, picture(), "{format:?}");
            }
        }
    }

    /// Every cut of every format: an error and never pixels that nobody took.
    #[test]
    fn a_cut_picture_is_an_error_that_names_the_file() {
        for format in FORMATS {
            let whole = encoded(format);
            let last = match format {
                // All pixels are there before the end: the last chunk of a PNG is empty.
                ImageFormat::Png => whole.len() - 12,
                // Directory entries stand behind the pixels; the padding at the very end may be missing.
                ImageFormat::Tiff => whole.len() - 16,
                _ => whole.len(),
            };
            for n in 0..last {
                let error = from_bytes(Path::new("cut.bin"), whole[..n].to_vec());
                let error = error.err().unwrap_or_else(|| panic!("{format:?} cut to {n} of {last}"));
                assert!(error.to_string().contains("cut.bin"), "{error}");
            }
        }
    }

    #[test]
    fn a_thumbnail_does_not_end_a_jpeg() {
        let whole = encoded(ImageFormat::Jpeg);
        let thumbnail = [0xFF, 0xD8, 0xFF, 0xD9];
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 2 + thumbnail.len() as u8];
        bytes.extend(thumbnail);
        bytes.extend(&whole[2..]);
        assert!(jpeg_is_complete(&bytes));
        assert!(!jpeg_is_complete(&bytes[..bytes.len() / 2]));
    }

    #[test]
    fn garbage_and_other_formats_are_refused() {
        for bytes in
            [&b""[..], b"hello", b"GIF89a\x01\x00\x01\x00", &[0xFF; 4000], b"\x89PNG\r\n\x1a\n garbage"]
        {
            assert!(from_bytes(Path::new("g"), bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_picture_larger_than_any_camera_takes_is_refused() {
        let mut bytes = encoded(ImageFormat::Bmp);
        bytes[18..22].copy_from_slice(&(SIDE_MAX_PX + 1).to_le_bytes());
        let error = from_bytes(Path::new("wide"), bytes).unwrap_err();
        assert!(matches!(error, CameraError::TooLarge { .. }), "{error:?}");
    }

    #[test]
    fn a_directory_is_not_a_picture() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(decode(dir.path()), Err(CameraError::NotAFile { .. })));
        assert!(matches!(decode(&dir.path().join("none.png")), Err(CameraError::Read { .. })));
    }
}
