//! From the bytes of a file or of a camera to pixels, with every limit checked first.
//!
//! ```text
//! open -> plain file? -> size -> bytes -> format by content -> whole? -> limits -> samples -> RGB
//!                                                              |                     |
//!                           JPEG: every bit (`jpeg`), PNG and TIFF: `container`      '- `depth`: 16 to 8 bits
//! ```
//!
//! Pictures are never guessed at: a file that ends too early, holds damaged data, several pictures, linear
//! light or samples of unknown range is an error, not a picture with a grey lower half or nearly black,
//! because what shows nothing has no defects and would pass. EXIF orientation is ignored: a pipeline's
//! regions of interest are about the sensor's pixels.
//!
//! What cannot be known: BMP, TIFF and JPEG have no checksum. A file whose space was allocated before it was
//! written is refused where the rows at its end are all zero; one whose hole lies in the middle, or whose damage
//! happens to be another valid picture, is not seen. A camera's writer that renames the finished file makes this
//! moot.

mod container;
mod depth;
mod huffman;
mod jpeg;

pub use depth::{Depth, DepthRule};

use super::CameraError;
use crate::domain::frame::SIDE_MAX_PX;
use image::error::{ImageError, LimitError, LimitErrorKind};
use image::{ImageFormat, ImageReader, Limits, RgbImage};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// Most memory that decoding one picture may take.
pub const DECODE_MEMORY_MAX_BYTES: u64 = 1 << 30;
/// Largest file: the largest picture, not compressed at all.
pub const FILE_MAX_BYTES: u64 = 1 << 30;
/// The formats that are accepted, whatever the file's name says.
const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff];

/// Decodes a picture file to 8-bit RGB; transparency is dropped, grey becomes three equal values.
///
/// # Errors
/// A file that cannot be read, is too large, is no picture of an accepted format, is cut off or damaged, or whose
/// samples have no range that `depth` states.
pub fn decode(path: &Path, depth: Depth) -> Result<RgbImage, CameraError> {
    from_bytes(path, read(path)?, depth)
}

/// Reads a whole plain file of at most [`FILE_MAX_BYTES`].
///
/// # Errors
/// It is no plain file, too large or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, CameraError> {
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
///
/// # Errors
/// As [`decode`].
pub fn from_bytes(path: &Path, bytes: Vec<u8>, depth: Depth) -> Result<RgbImage, CameraError> {
    let unfit = |what: String| CameraError::Unfit { path: path.into(), what };
    let standing = |what: String| {
        if what == container::CUT {
            return CameraError::Truncated { path: path.into() };
        }
        unfit(what)
    };
    let format = image::guess_format(&bytes).ok().filter(|f| FORMATS.contains(f));
    let format = format.ok_or_else(|| CameraError::Format { path: path.into() })?;
    match format {
        ImageFormat::Jpeg => jpeg::check(&bytes).map_err(|broken| match broken {
            huffman::Broken::Truncated => CameraError::Truncated { path: path.into() },
            huffman::Broken::Corrupt(_) => unfit(broken.to_string()),
        })?,
        ImageFormat::Png => container::png(&bytes).map_err(standing)?,
        ImageFormat::Tiff => container::tiff(&bytes).map_err(standing)?,
        _ => {}
    }
    let bottom_up = format == ImageFormat::Bmp && container::bmp_is_bottom_up(&bytes);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let picture = reader.decode().map_err(|source| explain(path, source))?;
    let pixels = depth.rgb8(picture).map_err(unfit)?;
    let rows = match format {
        ImageFormat::Bmp | ImageFormat::Tiff => unwritten_rows(&pixels, bottom_up),
        _ => 0,
    };
    if rows > 0 {
        return Err(unfit(format!(
            "the {rows} rows at the end of the file are all zero, as if its writer had not written them yet; a \
             picture that is black there has to come as PNG"
        )));
    }
    Ok(pixels)
}

/// Is a JPEG picture that a camera sent whole? One without tables of codes has the standard's.
///
/// # Errors
/// It is cut off or damaged, in words.
pub fn check_camera_jpeg(bytes: &[u8]) -> Result<(), String> {
    let completed = container::with_standard_codes(bytes);
    jpeg::check(completed.as_deref().unwrap_or(bytes)).map_err(|broken| format!("a JPEG picture: {broken}"))
}

/// The pixels of a JPEG picture that a camera sent.
///
/// # Errors
/// As [`check_camera_jpeg`].
pub fn camera_jpeg(bytes: &[u8]) -> Result<RgbImage, String> {
    let completed = container::with_standard_codes(bytes);
    let bytes = completed.as_deref().unwrap_or(bytes);
    check_camera_jpeg(bytes)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg);
    reader.limits(limits());
    reader.decode().map(image::DynamicImage::into_rgb8).map_err(|e| format!("a JPEG picture: {e}"))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX_PX);
    limits.max_image_height = Some(SIDE_MAX_PX);
    limits.max_alloc = Some(DECODE_MEMORY_MAX_BYTES);
    limits
}

/// Rows of zeros where the file ends: at the bottom of the picture, or at its top.
fn unwritten_rows(pixels: &RgbImage, bottom_up: bool) -> usize {
    let row = pixels.width() as usize * 3;
    let is_zero = |row: &&[u8]| row.iter().all(|v| *v == 0);
    let rows = pixels.as_raw().chunks_exact(row.max(1));
    if bottom_up { rows.take_while(is_zero).count() } else { rows.rev().take_while(is_zero).count() }
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

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
