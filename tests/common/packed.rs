//! Folders in one file: path, length, bytes, one after the other, in gzip.

use flate2::read::GzDecoder;
use std::io::Read as _;
use std::path::Path;

/// Writes what a fixture of the project holds into a folder.
pub(crate) fn unpack(fixture: &str, dir: &Path) {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).expect("it is there");
    let mut bytes = vec![];
    GzDecoder::new(file).read_to_end(&mut bytes).expect("it unpacks");
    let mut rest = bytes.as_slice();
    let mut field = || {
        let (length, after) = rest.split_at_checked(8)?;
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
        let (field, after) = after.split_at(length);
        rest = after;
        Some(field)
    };
    while let Some(name) = field() {
        let path = dir.join(std::str::from_utf8(name).expect("text"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
        std::fs::write(path, field().expect("its bytes")).expect("it is written");
    }
}
