//! The shipped pair in a folder of its own, whole until a test exchanges a file.

use std::io::Cursor;
use std::path::{Path, PathBuf};

pub(crate) const TEXT: &str = "inspectd-small.gguf";
pub(crate) const VISION: &str = "mmproj-inspectd-small.gguf";

/// A copy that is removed with the value.
pub(crate) struct Pair(tempfile::TempDir);

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self(tempfile::tempdir().unwrap());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
        for name in [TEXT, VISION] {
            std::fs::copy(shipped.join(name), pair.path(name)).unwrap();
        }
        pair
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Puts other bytes in the place of a file, in one step, as an update does it.
    pub(crate) fn exchange(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path("new"), bytes).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

/// A vision file of which the first tenth of the tensors' data is zeroed: it loads, and sees defects nowhere.
pub(crate) fn blinded(vision: &[u8]) -> Vec<u8> {
    let content = candle_core::quantized::gguf_file::Content::read(&mut Cursor::new(vision)).unwrap();
    let begin = usize::try_from(content.tensor_data_offset).unwrap();
    let mut bytes = vision.to_vec();
    let tenth = (bytes.len() - begin) / 10;
    bytes[begin..begin + tenth].fill(0);
    bytes
}
