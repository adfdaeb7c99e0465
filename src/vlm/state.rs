//! States in the metadata of a GGUF file what its maker knows: writes a copy with more keys.
//!
//! ```text
//! magic, version, tensor count | key count + n | keys, the new ones last | tensor table | padding | tensors
//!                                                ^^^^^^^^^^^^^^^^^^^^^^^
//! ```
//! Offsets of tensors count from the end of the header, so the table and every byte of the tensors stay as they are.

use super::error::VlmError;
use super::gguf::{Gguf, Value};
use super::synth::write::put_pair;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes before the number of keys: magic, version and the number of tensors.
const BEFORE_COUNT: usize = 16;
const COUNT_BYTES: usize = 8;

/// Writes `to`, which must not exist, as `from` with further keys.
///
/// # Errors
/// `Io` for either file; `Model` when `from` is not sound or has one of the keys already.
pub fn with_keys(from: &Path, to: &Path, keys: &[(String, Value)]) -> Result<(), VlmError> {
    let gguf = Gguf::open(from)?;
    if let Some((key, _)) = keys.iter().find(|(key, _)| gguf.metadata.contains_key(key)) {
        return Err(gguf.error(format!("key {key}"), "is there already: start from the file without it"));
    }
    if gguf.paths().len() > 1 {
        return Err(gguf.error("file", "is split: join its parts first (llama-gguf-split --merge)"));
    }
    let layout = gguf.layout;
    let (mut source, mut head) = (File::open(from).map_err(|e| io_error(from, e))?, vec![]);
    Read::by_ref(&mut source).take(layout.table_end).read_to_end(&mut head).map_err(|e| io_error(from, e))?;
    let count = gguf.metadata.len() as u64 + keys.len() as u64;
    let (metadata, table) = head.split_at(layout.metadata_end as usize);
    let mut out = metadata[..BEFORE_COUNT].to_vec();
    out.extend(count.to_le_bytes());
    out.extend(&metadata[BEFORE_COUNT + COUNT_BYTES..]);
    keys.iter().for_each(|(key, value)| put_pair(&mut out, key, value));
    out.extend(table);
    out.resize(out.len().next_multiple_of(layout.alignment as usize), 0);
    source.seek(SeekFrom::Start(layout.data_start)).map_err(|e| io_error(from, e))?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to).map_err(|e| io_error(to, e))?;
    target.write_all(&out).map_err(|e| io_error(to, e))?;
    io::copy(&mut source, &mut target).map_err(|e| io_error(to, e))?;
    target.sync_all().map_err(|e| io_error(to, e))
}

fn io_error(path: &Path, source: io::Error) -> VlmError {
    VlmError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{LABELS_KEY, PROOF_KEY, load};
    use crate::synth::{Quant, Shape, Vocabulary, write_pair};

    #[test]
    fn a_copy_states_more_and_its_tensors_are_byte_for_byte_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let shape = Shape::named("tiny-k").unwrap();
        write_pair(&shape, Quant::Q4KM, &Vocabulary::bytes(), 1, &path("t"), &path("m")).unwrap();
        let texts = |words: &[&str]| Value::List(words.iter().map(|w| Value::Text((*w).into())).collect());
        let keys = [
            (LABELS_KEY.to_owned(), texts(&["pit", "stain"])),
            (PROOF_KEY.to_owned(), Value::Text("p".into())),
        ];
        with_keys(&path("t"), &path("t2"), &keys).unwrap();
        let (old, new) = (Gguf::open(&path("t")).unwrap(), Gguf::open(&path("t2")).unwrap());
        let bytes = |g: &Gguf| std::fs::read(g.path()).unwrap().split_off(g.layout.data_start as usize);
        assert_eq!(bytes(&old), bytes(&new));
        for (name, tensor) in &old.tensors {
            let at = |t: &crate::gguf::TensorInfo, g: &Gguf| t.offset - g.layout.data_start;
            let moved = &new.tensors[name];
            assert_eq!((&tensor.shape, tensor.dtype), (&moved.shape, moved.dtype), "{name}");
            assert_eq!(at(tensor, &old), at(moved, &new), "{name}");
        }
        let mut metadata = old.metadata.clone();
        metadata.extend(keys.clone());
        assert_eq!(new.metadata, metadata);
        let info = load(&path("t2"), &path("m"), None, &candle_core::Device::Cpu).unwrap().info;
        assert_eq!(
            (info.labels, info.proof),
            (vec!["pit".to_owned(), "stain".to_owned()], Some("p".to_owned()))
        );
        let info = load(&path("t"), &path("m"), None, &candle_core::Device::Cpu).unwrap().info;
        assert_eq!((info.labels, info.proof), (vec![], None));

        let again = with_keys(&path("t2"), &path("t3"), &keys[1..]).unwrap_err();
        assert!(again.to_string().contains(PROOF_KEY), "{again}");
        assert!(with_keys(&path("t"), &path("t2"), &keys).is_err(), "no file is overwritten");
        for bad in [texts(&[]), texts(&["a", "a"]), texts(&[""]), Value::Text("a".into())] {
            let to = path("bad");
            with_keys(&path("t"), &to, &[(LABELS_KEY.to_owned(), bad.clone())]).unwrap();
            let error = load(&to, &path("m"), None, &candle_core::Device::Cpu).err().expect("refused");
            assert!(error.to_string().contains(LABELS_KEY), "{bad:?}: {error}");
            std::fs::remove_file(&to).unwrap();
        }
    }
}
