//! The envelope of every value in the database.
//!
//! ```text
//! | version: 1 byte | CRC32 of version and body: 4 bytes, big-endian | body |
//! ```
//!
//! The version says which wire struct the body is; the CRC finds what sled's own checks miss
//! (an edit through sled itself, a bug that swaps values).

/// Largest value: far below the size at which sled moves values to blob files that it never syncs.
pub(super) const VALUE_BYTES_MAX: usize = 4096;

/// Bytes in front of the body.
pub(super) const HEADER_BYTES: usize = 5;

/// Puts the envelope around a body.
pub(super) fn seal(version: u8, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_BYTES + body.len());
    value.push(version);
    value.extend_from_slice(&checksum(version, body).to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// Takes the envelope off: (version, body), or what is wrong with it.
pub(super) fn open(value: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let (header, body) = value.split_at_checked(HEADER_BYTES).ok_or("value is shorter than its header")?;
    let stored = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    if stored != checksum(header[0], body) {
        return Err("checksum does not match");
    }
    Ok((header[0], body))
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[version]);
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let value = seal(1, b"{\"seq\":7}");
        assert_eq!(open(&value), Ok((1, &b"{\"seq\":7}"[..])));
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "bit {bit}");
        }
        assert!(open(&value[..4]).is_err());
    }
}
