//! What stands around the samples of a picture: is a PNG whole, does a TIFF hold one picture, does the light
//! mean what it does everywhere else; and the codes that a camera left out of its JPEG.

/// Every PNG begins so.
const PNG_SIGNATURE: usize = 8;
/// Gamma of pictures for a screen is 1/2.2; what stands around it is a rounding, 1.0 would be linear light.
const GAMMA: std::ops::RangeInclusive<u32> = 40_000..=50_000;

/// A PNG of one picture, to its end chunk, whose light is that of a screen.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn png(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes.get(PNG_SIGNATURE..).unwrap_or_default();
    let (mut gamma, mut standard) = (None, false);
    loop {
        let [a, b, c, d, kind @ ..] = rest else { return Err(CUT.into()) };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        // Kind, data, checksum.
        let (Some(kind), Some(data)) = (kind.get(..4), kind.get(4..4 + length)) else {
            return Err(CUT.into());
        };
        rest = rest.get(12 + length..).ok_or(CUT)?;
        match (kind, data) {
            (b"IEND", _) => break,
            (b"gAMA", [a, b, c, d]) => gamma = Some(u32::from_be_bytes([*a, *b, *c, *d])),
            (b"sRGB" | b"iCCP" | b"cICP", _) => standard = true,
            (b"acTL", _) => {
                return Err("it is an animation, and only its first picture would be looked at".into());
            }
            _ => {}
        }
    }
    match gamma.filter(|gamma| !standard && !GAMMA.contains(gamma)) {
        None => Ok(()),
        Some(gamma) => Err(format!(
            "its gAMA of {:.5} means that its values are not those of a screen (0.45455): save it with that gamma, \
             or without gAMA",
            f64::from(gamma) / 1e5
        )),
    }
}

/// What is said about a file that ends too early.
pub(super) const CUT: &str = "it is cut off before its end";

/// A TIFF of one picture.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn tiff(bytes: &[u8]) -> Result<(), String> {
    let number = |at: usize, size: usize| -> Result<usize, String> {
        let field = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or(CUT)?;
        let big_end = bytes.first() == Some(&b'M');
        let add = |sum: u64, b: &u8| sum << 8 | u64::from(*b);
        let value = if big_end { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) };
        usize::try_from(value).map_err(|_| CUT.to_owned())
    };
    // BigTIFF has offsets of 8 bytes, and counts its entries with 8.
    let is_big = number(2, 2)? == 43;
    let (first, offset, count, entry) = if is_big { (8, 8, 8, 20) } else { (4, 4, 2, 12) };
    let directory = number(first, offset)?;
    let entries = number(directory, count)?;
    let next = entries.checked_mul(entry).and_then(|all| all.checked_add(directory + count)).ok_or(CUT)?;
    if number(next, offset)? == 0 {
        Ok(())
    } else {
        Err("it has several pages, and only the first would be looked at: save each as a file of its own"
            .into())
    }
}

/// The rows of most BMP files come from the bottom; a negative height says that they come from the top.
pub(super) fn bmp_is_bottom_up(bytes: &[u8]) -> bool {
    bytes.get(25).is_none_or(|high| high & 0x80 == 0)
}

/// A JPEG with the standard's tables of codes, where it brings none: USB cameras leave them out, because they
/// are always the same. `None` where nothing is to be added.
pub(super) fn with_standard_codes(jpeg: &[u8]) -> Option<Vec<u8>> {
    let mut at = 2;
    loop {
        match jpeg.get(at..)? {
            // The scan comes, and no table came before it.
            [0xff, 0xda, ..] => break,
            [0xff, 0xc4, ..] => return None,
            [0xff, 0xff, ..] => at += 1,
            [0xff, _, high, low, ..] => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return None,
        }
    }
    let (start, scan) = jpeg.split_at(at);
    Some([start, &standard_codes(), scan].concat())
}

/// Annex K.3 of ITU-T T.81 as a segment: codes by length, and symbols, of DC and AC, luminance and chrominance.
fn standard_codes() -> Vec<u8> {
    const DC: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    const COUNTS: [[u8; 16]; 4] = [
        [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d],
        [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
    ];
    let symbols: [&[u8]; 4] = [&DC, &AC_LUMINANCE, &DC, &AC_CHROMINANCE];
    let mut tables = vec![];
    for ((id, counts), symbols) in [0x00, 0x10, 0x01, 0x11].into_iter().zip(COUNTS).zip(symbols) {
        tables.push(id);
        tables.extend(counts);
        tables.extend(symbols);
    }
    let [high, low] = (tables.len() as u16 + 2).to_be_bytes();
    [&[0xff, 0xc4, high, low], tables.as_slice()].concat()
}

#[rustfmt::skip]
const AC_LUMINANCE: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[rustfmt::skip]
const AC_CHROMINANCE: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
