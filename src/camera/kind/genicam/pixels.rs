//! GenICam pixel formats to 8-bit RGB: unpacked to 8 bits a sample first, then de-mosaiced by OpenCV.
//!
//! Numbers are those of the GenICam Pixel Format Naming Convention (PFNC): bits 16..24 are the bits a
//! pixel, of the lower half the kind.

use image::RgbImage;
use opencv::core::{Mat, Vec3b};
use opencv::imgproc;
use opencv::prelude::*;

/// How samples lie in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Bits8,
    /// Little-endian 16-bit words with so many significant bits.
    Word(u32),
    /// Two 12-bit samples in three bytes, low bits first (Mono12p).
    Lsb12,
    /// Two 12-bit samples in three bytes: high bytes outside, nibbles between (GigE's Packed).
    Gev12,
    /// Four 10-bit samples in five bytes, low bits first.
    Lsb10,
}

/// What samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Grey,
    Rgb,
    Bgr,
    /// OpenCV's conversion of this mosaic.
    Bayer(i32),
}

fn layout(format: u32) -> Option<(Packing, Colour)> {
    use Colour::{Bayer, Bgr, Grey, Rgb};
    use Packing::{Bits8, Gev12, Lsb10, Lsb12, Word};
    use imgproc::{COLOR_BayerBGGR2RGB, COLOR_BayerGBRG2RGB, COLOR_BayerGRBG2RGB, COLOR_BayerRGGB2RGB};
    let [gr, rg, gb, bg] =
        [COLOR_BayerGRBG2RGB, COLOR_BayerRGGB2RGB, COLOR_BayerGBRG2RGB, COLOR_BayerBGGR2RGB].map(Bayer);
    Some(match format {
        0x0108_0001 => (Bits8, Grey),
        0x0110_0003 => (Word(10), Grey),
        0x0110_0005 => (Word(12), Grey),
        0x0110_0007 => (Word(16), Grey),
        0x010C_0006 => (Gev12, Grey),
        0x010C_0047 => (Lsb12, Grey),
        0x010A_0046 => (Lsb10, Grey),
        0x0218_0014 => (Bits8, Rgb),
        0x0218_0015 => (Bits8, Bgr),
        0x0108_0008 => (Bits8, gr),
        0x0108_0009 => (Bits8, rg),
        0x0108_000A => (Bits8, gb),
        0x0108_000B => (Bits8, bg),
        0x0110_000C => (Word(10), gr),
        0x0110_000D => (Word(10), rg),
        0x0110_000E => (Word(10), gb),
        0x0110_000F => (Word(10), bg),
        0x0110_0010 => (Word(12), gr),
        0x0110_0011 => (Word(12), rg),
        0x0110_0012 => (Word(12), gb),
        0x0110_0013 => (Word(12), bg),
        0x010C_0057 => (Lsb12, gr),
        0x010C_0059 => (Lsb12, rg),
        0x010C_0055 => (Lsb12, gb),
        0x010C_0053 => (Lsb12, bg),
        _ => return None,
    })
}

/// An RGB picture of a camera's buffer.
///
/// # Errors
/// The words of what is wrong: an unknown format, or fewer bytes than the size needs.
pub(super) fn rgb(data: &[u8], width: u32, height: u32, format: u32) -> Result<RgbImage, String> {
    let Some((packing, colour)) = layout(format) else { return Err(format!("pixel format {format:#010x}")) };
    let channels = if matches!(colour, Colour::Rgb | Colour::Bgr) { 3 } else { 1 };
    let count = width as usize * height as usize * channels;
    let short = || format!("{} bytes for {width}x{height} pixels of format {format:#010x}", data.len());
    let samples = unpack(data, packing, count).filter(|_| count > 0).ok_or_else(short)?;
    let code = match colour {
        Colour::Rgb => return RgbImage::from_raw(width, height, samples).ok_or_else(short),
        Colour::Bgr => imgproc::COLOR_BGR2RGB,
        Colour::Grey => imgproc::COLOR_GRAY2RGB,
        Colour::Bayer(code) => code,
    };
    let convert = || {
        let (rows, cols) = (height as i32, width as i32);
        let mut out = Mat::default();
        if channels == 3 {
            let view = Mat::new_rows_cols_with_bytes::<Vec3b>(rows, cols, &samples)?;
            imgproc::cvt_color_def(&view, &mut out, code)?;
        } else {
            let view = Mat::new_rows_cols_with_data::<u8>(rows, cols, &samples)?;
            imgproc::cvt_color_def(&view, &mut out, code)?;
        }
        Ok(out.data_bytes()?.to_vec())
    };
    let bytes = convert().map_err(|e: opencv::Error| e.to_string())?;
    RgbImage::from_raw(width, height, bytes).ok_or_else(short)
}

/// The upper eight bits of `count` samples; `None` when there are fewer.
fn unpack(data: &[u8], packing: Packing, count: usize) -> Option<Vec<u8>> {
    let mut samples: Vec<u8> = match packing {
        Packing::Bits8 => data.get(..count)?.to_vec(),
        Packing::Word(bits) => {
            let words = data.get(..2 * count)?.chunks_exact(2);
            words.map(|w| (u16::from_le_bytes([w[0], w[1]]) >> (bits - 8)).min(255) as u8).collect()
        }
        Packing::Lsb12 => {
            let pairs = data.get(..(3 * count).div_ceil(2))?.chunks(3);
            pairs
                .flat_map(|b| {
                    [b[0] >> 4 | (b.get(1).copied().unwrap_or(0) << 4), b.get(2).copied().unwrap_or(0)]
                })
                .collect()
        }
        Packing::Gev12 => {
            let pairs = data.get(..(3 * count).div_ceil(2))?.chunks(3);
            pairs.flat_map(|b| [b[0], b.get(2).copied().unwrap_or(0)]).collect()
        }
        Packing::Lsb10 => {
            let fours = data.get(..(5 * count).div_ceil(4))?.chunks(5);
            fours
                .flat_map(|b| {
                    let bits = b.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
                    [2, 12, 22, 32].map(|shift| (bits >> shift) as u8)
                })
                .collect()
        }
    };
    samples.truncate(count);
    (samples.len() == count).then_some(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONO_12P: u32 = 0x010C_0047;

    #[test]
    fn packed_samples_keep_their_upper_bits() {
        // 0xABC and 0x123, low bits first; and the same as GigE packs them.
        assert_eq!(unpack(&[0xBC, 0x3A, 0x12], Packing::Lsb12, 2), Some(vec![0xAB, 0x12]));
        assert_eq!(unpack(&[0xAB, 0x3C, 0x12], Packing::Gev12, 2), Some(vec![0xAB, 0x12]));
        // 10 bits: 0x3FF, 0, 0x200, 0x004 -> 0xFF, 0, 0x80, 1.
        let bits: u64 = 0x3FF | 0x200 << 20 | 0x004 << 30;
        assert_eq!(unpack(&bits.to_le_bytes()[..5], Packing::Lsb10, 4), Some(vec![0xFF, 0, 0x80, 1]));
        assert_eq!(unpack(&[0xFF, 0x0F, 0x00, 0x08], Packing::Word(12), 2), Some(vec![0xFF, 0x80]));
        assert_eq!(unpack(&[0xBC, 0x3A], Packing::Lsb12, 2), None);
    }

    #[test]
    fn mono12p_becomes_grey() {
        let picture = rgb(&[0xBC, 0x3A, 0x12, 0xBC, 0x3A, 0x12], 2, 2, MONO_12P).unwrap();
        assert_eq!(picture.get_pixel(0, 1).0, [0xAB; 3]);
        assert_eq!(picture.get_pixel(1, 0).0, [0x12; 3]);
    }

    /// An even colour, seen through each mosaic, comes back: so no mosaic is taken for another.
    #[test]
    fn every_mosaic_gives_its_colour_back() {
        let colour = [200_u8, 120, 40];
        // Channel (0 red, 1 green, 2 blue) at even and odd columns of even and odd rows.
        let mosaics = [
            (0x0108_0008, [[1, 0], [2, 1]]),
            (0x0108_0009, [[0, 1], [1, 2]]),
            (0x0108_000A, [[1, 2], [0, 1]]),
            (0x0108_000B, [[2, 1], [1, 0]]),
        ];
        for (format, channels) in mosaics {
            let data: Vec<u8> = (0..16 * 16).map(|i| colour[channels[i / 16 % 2][i % 16 % 2]]).collect();
            let picture = rgb(&data, 16, 16, format).unwrap();
            assert_eq!(picture.get_pixel(8, 8).0, colour, "{format:#x}");
        }
    }

    #[test]
    fn what_is_unknown_or_short_is_named() {
        assert!(rgb(&[0; 64], 8, 8, 0x0123_4567).unwrap_err().contains("0x01234567"));
        assert!(rgb(&[0; 63], 8, 8, 0x0108_0001).unwrap_err().contains("63 bytes"));
        assert!(rgb(&[], 0, 0, 0x0108_0001).is_err());
    }
}
