//! Pictures of a request: `data:` URLs, whose heads are read before anything is decoded.
//!
//! ```text
//! data:image/png;base64,… --> bytes --head: format, sides--> few enough pixels? --> Picture
//! http://…, https://… --> refused: the box fetches nothing
//! ```
//!
//! A file of five megabytes may say that it holds 40000 x 40000 pixels, which are gigabytes once it is decoded.

use super::asked::Picture;
use super::error::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT as BASE64;
use image::{ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Pictures of one request, frames of videos included.
pub const PICTURES_MAX: usize = 32;
/// Pixels of one picture: a camera of 24 megapixels.
pub const PICTURE_PIXELS_MAX: u64 = 25_000_000;
/// Pixels of all pictures of one request: decoding them takes time from the line.
pub const PIXELS_MAX: u64 = 100_000_000;
/// Memory that reading a picture's head may take.
const HEAD_BYTES_MAX: u64 = 16 << 20;
/// What is decoded, whatever the URL calls it.
const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff];
/// The pictures of a request so far.
#[derive(Default)]
pub(super) struct Budget {
    pictures: usize,
    pixels: u64,
}

/// What stands between `data:` and its comma, and what comes after it.
///
/// # Errors
/// It is another kind of URL.
pub(super) fn data_url<'a>(url: &'a str, place: &str) -> Result<(&'a str, &'a str), Refused> {
    let refused = |message: &str| Err(Refused::param(place, message).coded("invalid_image_url"));
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "data" => {}
        "http" | "https" => {
            return refused(
                "this box fetches no pictures from other machines: send the picture itself, as a data: URL \
                 (data:image/jpeg;base64,…). In Dify set MULTIMODAL_SEND_FORMAT=base64",
            );
        }
        _ => return refused("a data: URL is expected, as in data:image/jpeg;base64,…"),
    }
    match rest.split_once(',') {
        Some((kind, data)) if kind.to_ascii_lowercase().ends_with(";base64") => Ok((kind, data)),
        _ => refused("a data: URL in base64 is expected, as in data:image/jpeg;base64,…"),
    }
}

impl Budget {
    /// Takes the picture that a text in base64 holds.
    ///
    /// # Errors
    /// It is no base64, no picture, or there are too many pixels.
    pub(super) fn take(&mut self, data: &str, is_low: bool, place: &str) -> Result<Picture, Refused> {
        let refused = |message: String| Refused::param(place, message).coded("invalid_image");
        self.pictures += 1;
        if self.pictures > PICTURES_MAX {
            return Err(refused(format!("a request has at most {PICTURES_MAX} pictures, frames included")));
        }
        let is_blank = |c: char| c.is_ascii_whitespace();
        // Clients write base64 with its padding or without, and in lines.
        let joined = data.contains(is_blank).then(|| data.replace(is_blank, ""));
        let bytes = BASE64.decode(joined.as_deref().unwrap_or(data));
        let bytes = bytes.map_err(|error| refused(format!("the base64 of the picture: {error}")))?;
        let (width, height) = sides(&bytes).map_err(refused)?;
        let pixels = u64::from(width) * u64::from(height);
        self.pixels = self.pixels.saturating_add(pixels);
        if pixels > PICTURE_PIXELS_MAX {
            return Err(refused(format!(
                "a picture of {width}x{height} pixels is too large: at most {PICTURE_PIXELS_MAX} pixels are taken"
            )));
        }
        if self.pixels > PIXELS_MAX {
            return Err(refused(format!(
                "the pictures of a request have at most {PIXELS_MAX} pixels together"
            )));
        }
        Ok(Picture { bytes, is_low, place: place.to_owned() })
    }
}

/// The sides that a picture's head states.
fn sides(bytes: &[u8]) -> Result<(u32, u32), String> {
    let format = image::guess_format(bytes).ok().filter(|format| FORMATS.contains(format));
    let format = format.ok_or("this is no picture in PNG, JPEG, BMP or TIFF format")?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(HEAD_BYTES_MAX);
    reader.limits(limits);
    let (width, height) =
        reader.into_dimensions().map_err(|error| format!("the head of the picture: {error}"))?;
    if width == 0 || height == 0 {
        return Err("the picture has no pixels".to_owned());
    }
    Ok((width, height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, RgbImage};

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        DynamicImage::from(RgbImage::new(width, height)).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn text(bytes: &[u8]) -> String {
        BASE64.encode(bytes)
    }

    fn words(refused: Refused) -> String {
        assert_eq!((refused.status.as_u16(), refused.words.param.as_deref()), (400, Some("here")));
        refused.words.message
    }

    #[test]
    fn pictures_of_every_format_are_taken_with_padding_and_without() {
        let mut budget = Budget::default();
        for format in FORMATS {
            let bytes = encoded(40, 30, format);
            for text in [text(&bytes), text(&bytes).trim_end_matches('=').to_owned(), text(&bytes) + "\n"] {
                let picture = budget.take(&text, true, "here").unwrap();
                assert_eq!((&picture.bytes, picture.is_low), (&bytes, true), "{format:?}");
            }
        }
        let gif = [b"GIF89a".as_slice(), &[1; 40]].concat();
        assert!(words(budget.take(&text(&gif), false, "here").unwrap_err()).contains("PNG, JPEG"));
        assert!(words(budget.take("a!b", false, "here").unwrap_err()).contains("base64"));
        assert!(words(budget.take("", false, "here").unwrap_err()).contains("no picture"));
    }

    /// A head is a few bytes, whatever it promises.
    #[test]
    fn a_head_that_promises_gigabytes_is_refused_by_itself() {
        let mut png = encoded(8, 8, ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0x9c, 0x40, 0, 0, 0x9c, 0x40]);
        let sum = crc32fast::hash(&png[12..29]);
        png[29..33].copy_from_slice(&sum.to_be_bytes());
        let refused = words(Budget::default().take(&text(&png), false, "here").unwrap_err());
        assert!(refused.contains("40000x40000"), "{refused}");
        let mut bmp = encoded(8, 8, ImageFormat::Bmp);
        bmp[18..22].copy_from_slice(&40_000u32.to_le_bytes());
        bmp[22..26].copy_from_slice(&40_000u32.to_le_bytes());
        let refused = words(Budget::default().take(&text(&bmp), false, "here").unwrap_err());
        assert!(refused.contains("40000x40000"), "{refused}");
    }

    #[test]
    fn count_and_pixels_of_a_request_have_their_limits() {
        let (small, mut budget) = (text(&encoded(1, 1, ImageFormat::Png)), Budget::default());
        let taken = (0..PICTURES_MAX + 3).filter(|_| budget.take(&small, false, "here").is_ok()).count();
        assert_eq!(taken, PICTURES_MAX);
        let mut budget = Budget { pictures: 0, pixels: PIXELS_MAX };
        assert!(words(budget.take(&small, false, "here").unwrap_err()).contains("together"));
    }

    #[test]
    fn only_pictures_in_the_request_itself_are_shown() {
        assert_eq!(data_url("data:image/png;base64,AAA", "here").unwrap(), ("image/png;base64", "AAA"));
        assert_eq!(data_url("DATA:image/png;BASE64,AAA", "here").unwrap().1, "AAA");
        for url in ["https://example.com/a.png", "HTTP://10.0.0.1/a.png"] {
            assert!(words(data_url(url, "here").unwrap_err()).contains("fetches no pictures"), "{url}");
        }
        for url in ["file:///etc/passwd", "data:image/png,abc", "data:", "data", "", "é"] {
            assert!(words(data_url(url, "here").unwrap_err()).contains("data: URL"), "{url}");
        }
    }
}
