//! Image files in and out.
//!
//! A file from outside is decoded as a camera's are (see `camera::decode`): under limits, and whole.

use crate::camera::CameraError;
use crate::camera::decode::{Depth, decode};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Quality of annotated JPEG copies: edges of boxes and letters stay clean.
const JPEG_QUALITY: u8 = 92;

/// Why an image could not be read or written.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum PictureError {
    #[error("cannot read or write {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("not a usable image: {path}")]
    Image { path: PathBuf, source: CameraError },
    #[error("cannot encode {path}")]
    Encode { path: PathBuf, source: image::ImageError },
}

/// Reads an image as 8-bit RGB, as a camera's folder does. The format is told by the content, not by the name.
///
/// # Errors
/// The file cannot be read, is no whole image, or is above the limits.
pub fn load(path: &Path) -> Result<RgbImage, PictureError> {
    load_as(path, Depth::default())
}

/// Like [`load`], with samples of 16 bits as a pipeline states them.
///
/// # Errors
/// As [`load`].
pub fn load_as(path: &Path, depth: Depth) -> Result<RgbImage, PictureError> {
    decode(path, depth).map_err(|source| PictureError::Image { path: path.to_owned(), source })
}

/// Writes an image, with its directories: JPEG when the name ends so, else PNG.
///
/// # Errors
/// A directory or the file cannot be written.
pub fn save(path: &Path, picture: &RgbImage) -> Result<(), PictureError> {
    let at = |source| PictureError::File { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(at)?;
    }
    let mut out = BufWriter::new(File::create(path).map_err(at)?);
    let (w, h) = picture.dimensions();
    let written = if is_jpeg(path) {
        JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY).write_image(
            picture,
            w,
            h,
            ExtendedColorType::Rgb8,
        )
    } else {
        PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive).write_image(
            picture,
            w,
            h,
            ExtendedColorType::Rgb8,
        )
    };
    written.map_err(|source| PictureError::Encode { path: path.to_owned(), source })?;
    out.flush().map_err(at)
}

/// Where the annotated copy of `file` goes: the same path under `dir`, as JPEG or PNG.
pub fn annotated_path(dir: &Path, file: &str) -> PathBuf {
    let path = dir.join(file);
    let png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if png || is_jpeg(&path) {
        return path;
    }
    // `a.bmp` becomes `a.bmp.png`, so that it cannot meet the copy of an `a.png`.
    let mut name = path.into_os_string();
    name.push(".png");
    PathBuf::from(name)
}

fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_picture_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let picture = RgbImage::from_fn(7, 5, |x, y| Rgb([x as u8 * 30, y as u8 * 40, 9]));
        let path = dir.path().join("deep/er/a.png");
        save(&path, &picture).expect("writes");
        assert_eq!(load(&path).expect("reads"), picture);
        let jpeg = dir.path().join("a.JPG");
        save(&jpeg, &picture).expect("writes");
        assert_eq!(std::fs::read(&jpeg).expect("bytes")[..2], [0xff, 0xd8]);
        assert_eq!(load(&jpeg).expect("reads").dimensions(), (7, 5));
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.png");
        assert!(load(&path).expect_err("missing").to_string().ends_with("a.png"));
        std::fs::write(&path, b"no picture").expect("writes");
        assert!(load(&path).expect_err("no image").to_string().ends_with("a.png"));
    }

    #[test]
    fn an_image_above_the_limits_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wide.png");
        save(&path, &RgbImage::new(crate::domain::frame::SIDE_MAX_PX + 1, 1)).expect("writes");
        assert!(load(&path).is_err());
    }

    #[test]
    fn annotated_copies_never_meet() {
        let name = |file| annotated_path(Path::new("out"), file).to_string_lossy().into_owned();
        assert_eq!(name("images/a.jpg"), "out/images/a.jpg");
        assert_eq!(name("a.PNG"), "out/a.PNG");
        assert_eq!(name("a.bmp"), "out/a.bmp.png");
        assert_eq!(name("a"), "out/a.png");
    }
}
