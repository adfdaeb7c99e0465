//! Tests of decoding: what is whole is read, and what was cut, damaged or is ambiguous is refused by its name.

use super::*;
use crate::simulator::{Product, part};
use image::{DynamicImage, ImageBuffer, Luma, Rgb};

const PROGRESSIVE: &[u8] = include_bytes!("../../../fixtures/pictures/progressive.jpg");

fn picture() -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, (x * y % 251) as u8]))
}

fn a_part(width: u32, height: u32) -> RgbImage {
    let (rgb, _) = part(&Product::ALL[0], 3, 1, width as usize, height as usize);
    RgbImage::from_raw(width, height, rgb).unwrap()
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    written(&picture().into(), format)
}

fn jpeg(picture: &RgbImage, quality: u8) -> Vec<u8> {
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(picture).unwrap();
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<RgbImage, CameraError> {
    from_bytes(Path::new("a.bin"), bytes.to_vec(), Depth::default())
}

fn refused(bytes: &[u8], words: &str) {
    let error = read_bytes(bytes).map(|_| ()).expect_err(words).to_string();
    assert!(error.contains("a.bin") && error.contains(words), "{words}: {error}");
}

#[test]
fn content_decides_and_not_the_name() {
    let dir = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let path = dir.path().join("picture.txt");
        std::fs::write(&path, encoded(format)).unwrap();
        let got = decode(&path, Depth::default()).unwrap();
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
        // Directory entries stand after the pixels of a TIFF; the padding at the very end may be missing.
        let last = whole.len() - if format == ImageFormat::Tiff { 16 } else { 0 };
        for n in 0..last {
            let error = read_bytes(&whole[..n]);
            let error = error.err().unwrap_or_else(|| panic!("{format:?} cut to {n} of {last}"));
            assert!(error.to_string().contains("a.bin"), "{error}");
        }
    }
}

/// Whoever closes a cut JPEG with an end marker does not make it whole.
#[test]
fn a_jpeg_that_is_cut_and_closed_is_refused_at_every_byte() {
    let small = jpeg(&a_part(160, 128), 80);
    for whole in [&small[..], PROGRESSIVE] {
        assert!(read_bytes(whole).is_ok());
        for n in 2..whole.len() - 2 {
            let closed = [&whole[..n], &[0xff, 0xd9]].concat();
            assert!(read_bytes(&closed).is_err(), "cut to {n} of {} and closed", whole.len());
        }
    }
}

#[test]
fn whole_jpegs_of_every_quality_are_read() {
    for (width, height) in [(160, 128), (163, 121), (306, 256)] {
        let part = a_part(width, height);
        for quality in [1, 20, 50, 75, 90, 100] {
            assert_eq!(read_bytes(&jpeg(&part, quality)).unwrap().dimensions(), (width, height));
        }
        let grey = DynamicImage::from(part).into_luma8();
        assert!(read_bytes(&written(&grey.into(), ImageFormat::Jpeg)).is_ok());
    }
}

/// A JPEG has no checksum; what its codes, its blocks and their values give away is refused.
#[test]
fn a_jpeg_whose_bytes_are_zeroed_or_missing_is_refused() {
    let whole = jpeg(&a_part(612, 512), 85);
    let scan = whole.windows(2).position(|m| m == [0xff, 0xda]).unwrap() + 14;
    let (mut refusals, mut all) = (0, 0);
    for place in 0..36 {
        for length in [16, 64, 256, 1024] {
            let at = scan + (whole.len() - scan - length - 2) * place / 36;
            let zeroed = [&whole[..at], &vec![0; length], &whole[at + length..]].concat();
            let missing = [&whole[..at], &whole[at + length..]].concat();
            for (bytes, must) in [(zeroed, length >= 256), (missing, length >= 1024)] {
                let is_refused = read_bytes(&bytes).is_err();
                assert!(is_refused || !must, "{length} bytes at {at}");
                refusals += usize::from(is_refused);
                all += 1;
            }
        }
    }
    println!("{refusals} of {all} damaged JPEGs refused");
    assert!(refusals * 100 >= all * 93, "{refusals} of {all}");
}

#[test]
fn a_restart_marker_or_scan_that_is_missing_is_seen() {
    let scan = |bytes: &[u8]| bytes.windows(2).position(|m| m == [0xff, 0xda]);
    // All scans of the progressive picture but the last, and the end marker.
    let last = PROGRESSIVE.len() - PROGRESSIVE.windows(2).rev().position(|m| m == [0xff, 0xda]).unwrap() - 2;
    assert!(last > scan(PROGRESSIVE).unwrap());
    let fewer = [&PROGRESSIVE[..last], &[0xff, 0xd9]].concat();
    refused(&fewer, "is cut off");
    let garbage = [&PROGRESSIVE[..last], &[7, 7], &PROGRESSIVE[last..]].concat();
    assert!(read_bytes(&garbage).is_err());
}

#[test]
fn a_thumbnail_does_not_end_a_jpeg() {
    let whole = encoded(ImageFormat::Jpeg);
    let thumbnail = [0xFF, 0xD8, 0xFF, 0xD9];
    let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 2 + thumbnail.len() as u8];
    bytes.extend(thumbnail);
    bytes.extend(&whole[2..]);
    assert!(read_bytes(&bytes).is_ok());
    refused(&bytes[..bytes.len() / 2], "is cut off");
}

#[test]
fn garbage_and_other_formats_are_refused() {
    for bytes in [&b""[..], b"hello", b"GIF89a\x01\x00\x01\x00", &[0xFF; 4000], b"\x89PNG\r\n\x1a\n garbage"]
    {
        assert!(read_bytes(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_picture_larger_than_any_camera_takes_is_refused() {
    let mut bytes = encoded(ImageFormat::Bmp);
    bytes[18..22].copy_from_slice(&(SIDE_MAX_PX + 1).to_le_bytes());
    let error = read_bytes(&bytes).unwrap_err();
    assert!(matches!(error, CameraError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_directory_is_not_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let decode = |path: &Path| decode(path, Depth::default());
    assert!(matches!(decode(dir.path()), Err(CameraError::NotAFile { .. })));
    assert!(matches!(decode(&dir.path().join("none.png")), Err(CameraError::Read { .. })));
}

/// A chunk of a PNG with its checksum.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    [&(data.len() as u32).to_be_bytes(), &body[..], &crc32fast::hash(&body).to_be_bytes()].concat()
}

/// A PNG with a chunk after its header.
fn with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&png[..33], &chunk(kind, data), &png[33..]].concat()
}

#[test]
fn a_png_that_is_cut_and_closed_or_changed_is_refused() {
    let whole = written(&a_part(160, 128).into(), ImageFormat::Png);
    let data = whole.windows(4).position(|k| k == b"IDAT").unwrap() + 4;
    let length = u32::from_be_bytes(whole[data - 8..data - 4].try_into().unwrap()) as usize;
    for n in (0..length - 8).step_by(61) {
        let closed =
            [&whole[..data - 8], &chunk(b"IDAT", &whole[data..data + n]), &chunk(b"IEND", &[])].concat();
        assert!(read_bytes(&closed).is_err(), "{n} of {length} bytes of its data");
        let mut changed = whole.clone();
        changed[data + n] ^= 0x10;
        assert!(read_bytes(&changed).is_err(), "a bit of byte {n}");
    }
}

#[test]
fn linear_light_and_animations_are_refused() {
    let png = encoded(ImageFormat::Png);
    let gamma = |value: u32| with_chunk(&png, b"gAMA", &value.to_be_bytes());
    assert_eq!(read_bytes(&gamma(45_455)).unwrap(), picture());
    refused(&gamma(100_000), "gAMA of 1.00000");
    refused(&gamma(10_000), "gAMA of 0.10000");
    assert!(read_bytes(&with_chunk(&gamma(100_000), b"sRGB", &[0])).is_ok(), "sRGB is the last word");
    refused(&with_chunk(&png, b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), "animation");
}

#[test]
fn a_tiff_of_several_pages_is_refused() {
    let mut bytes = encoded(ImageFormat::Tiff);
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let directory = number(&bytes, 4);
    let entries = usize::from(u16::from_le_bytes([bytes[directory], bytes[directory + 1]]));
    let (next, end) = (directory + 2 + 12 * entries, bytes.len() as u32);
    assert_eq!(number(&bytes, next), 0);
    let second = bytes[directory..next + 4].to_vec();
    bytes[next..next + 4].copy_from_slice(&end.to_le_bytes());
    bytes.extend(second);
    refused(&bytes, "several pages");
}

/// Space that was allocated and not written yet reads as zeros.
#[test]
fn a_bitmap_that_is_written_in_part_is_refused() {
    for format in [ImageFormat::Bmp, ImageFormat::Tiff] {
        let part = a_part(160, 128);
        let whole = written(&part.clone().into(), format);
        assert!(read_bytes(&whole).is_ok());
        let bytes = 160 * 128 * 3;
        let start = match format {
            ImageFormat::Bmp => whole.len() - bytes,
            _ => whole.windows(480).position(|row| row == &part.as_raw()[..480]).unwrap(),
        };
        let end = start + bytes;
        for tenth in 0..10 {
            let mut half = whole.clone();
            half[start + (end - start) * tenth / 10..end].fill(0);
            refused(&half, "rows at the end of the file are all zero");
        }
    }
}

#[test]
fn values_of_12_bits_in_16_are_scaled_as_stated_or_refused() {
    let part = DynamicImage::from(a_part(160, 128)).into_luma8();
    let in_16 = |factor: u16| {
        let of = |x, y| Luma([u16::from(part.get_pixel(x, y)[0]) * factor]);
        DynamicImage::from(ImageBuffer::<Luma<u16>, Vec<u16>>::from_fn(160, 128, of))
    };
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let twelve = written(&in_16(16), format);
        refused(&twelve, "depth_bits");
        let read = |bytes: &[u8], bits| from_bytes(Path::new("a.bin"), bytes.to_vec(), Depth(Some(bits)));
        let scaled = read(&twelve, 12).unwrap();
        let apart = scaled.pixels().zip(part.pixels()).map(|(a, b)| a.0[0].abs_diff(b.0[0])).max();
        assert!(apart <= Some(1), "{apart:?}");
        let error = read(&twelve, 10).unwrap_err().to_string();
        assert!(error.contains("depth_bits = 10 allows 1023"), "{error}");
        assert!(read(&twelve, 16).unwrap().pixels().all(|p| p.0[0] < 17), "taken as they are, which is dark");
        // The whole range needs no statement, and 8 bits know no depth.
        let full = read_bytes(&written(&in_16(257), format)).unwrap();
        assert!(full.pixels().zip(part.pixels()).all(|(a, b)| a.0[0] == b.0[0]));
    }
    assert_eq!(from_bytes(Path::new("a"), encoded(ImageFormat::Png), Depth(Some(12))).unwrap(), picture());
}

#[test]
fn floating_point_samples_are_refused() {
    let float = DynamicImage::from(picture()).into_rgb32f();
    refused(&written(&float.into(), ImageFormat::Tiff), "floating-point");
}
