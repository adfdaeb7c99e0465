//! The files of a model: one, or the parts into which llama.cpp's gguf-split has cut one.
//!
//! ```text
//! NAME-00001-of-00003.gguf   split.no 0, split.count 3, split.tensors.count N, all metadata, tensors
//! NAME-00002-of-00003.gguf   split.no 1, …, tensors alone
//! NAME-00003-of-00003.gguf   split.no 2, …
//! ```
//!
//! All parts stand in one folder, and part 1 is the one that is named. Source: gguf-split.cpp and `llama_split_path` of
//! llama.cpp, `add_shard_kv_data` of its gguf-py.
//!
//! Invariant: a model is opened whole. What is missing, twice, or of another model is refused by its name.

use super::{Gguf, Part, Source, Value, bad, brief};
use crate::error::VlmError;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";
/// Most parts that a model may have: what its names can count.
const PARTS_MAX: u64 = 99_999;
/// Bytes that are hashed at once.
const HASHED_BYTES: usize = 1 << 20;

/// What a file says about the parts of its model.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Split {
    /// From 0.
    no: u64,
    count: u64,
    tensors: u64,
}

/// What a file says about parts; `None`: it is whole.
fn split(g: &Gguf) -> Result<Option<Split>, VlmError> {
    if !g.metadata.contains_key(COUNT_KEY) {
        return Ok(None);
    }
    let number = |key: &str, max: u64| match g.metadata.get(key) {
        Some(Value::Uint(n)) if *n <= max => Ok(*n),
        Some(Value::Int(n)) if u64::try_from(*n).is_ok_and(|n| n <= max) => Ok(*n as u64),
        found => {
            let found = found.map_or("nothing".into(), brief);
            Err(g.error(format!("key {key}"), format!("a number from 0 to {max} expected, found {found}")))
        }
    };
    let count = number(COUNT_KEY, PARTS_MAX)?;
    if count < 2 {
        return Ok(None);
    }
    Ok(Some(Split {
        no: number(NO_KEY, count - 1)?,
        count,
        tensors: number(TENSORS_KEY, u64::from(u32::MAX))?,
    }))
}

/// The path of part `no`, beside one whose name ends as llama.cpp's do; `None`: it does not.
fn path_of(path: &Path, no: u64, count: u64) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (before, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, own) = before.rsplit_once('-')?;
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let fits = is_number(own) && total.parse() == Ok(count) && is_number(total);
    fits.then(|| path.with_file_name(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)))
}

/// A file that cannot have parts.
pub(super) fn whole(g: Gguf) -> Result<Gguf, VlmError> {
    match split(&g)? {
        Some(Split { no, count, .. }) => Err(g.error(
            format!("key {COUNT_KEY}"),
            format!("this is part {} of {count}; here a whole file is expected: join the parts", no + 1),
        )),
        None => Ok(g),
    }
}

/// A file with the parts that it says there are.
pub(super) fn joined(mut first: Gguf) -> Result<Gguf, VlmError> {
    let Some(split) = split(&first)? else { return Ok(first) };
    let Split { no, count, tensors } = split;
    let path = |no| {
        path_of(first.path(), no, count).ok_or_else(|| {
            let why = format!("this is part {} of {count}, and its name must end in -{:05}-of-{count:05}.gguf, as the names of all parts", no + 1, no + 1);
            first.error(format!("key {COUNT_KEY}"), why)
        })
    };
    let paths: Vec<PathBuf> = (0..count).map(path).collect::<Result<_, _>>()?;
    if paths[no as usize] != first.path() {
        return Err(misnamed(&first, no, count));
    }
    if no > 0 {
        let why = format!("this is part {} of {count}: name part 1, {}", no + 1, paths[0].display());
        return Err(first.error(format!("key {NO_KEY}"), why));
    }
    if let Some(missing) = paths.iter().position(|path| !path.is_file()) {
        let what = format!("part {} of {count}", missing + 1);
        return Err(bad(&paths[missing], what, "is missing: all parts of a model stand in one folder"));
    }
    for path in &paths[1..] {
        add(&mut first, path, split)?;
    }
    let found = first.tensors.len() as u64;
    if found != tensors {
        let why = format!(
            "{tensors} tensors expected, and the {count} parts hold {found}: one of them is of another model, or damaged"
        );
        return Err(first.error(format!("key {TENSORS_KEY}"), why));
    }
    first.metadata.retain(|key, _| ![NO_KEY, COUNT_KEY, TENSORS_KEY].contains(&key.as_str()));
    Ok(first)
}

/// Adds the next part.
fn add(first: &mut Gguf, path: &Path, of: Split) -> Result<(), VlmError> {
    let mut part = Gguf::open_one(path)?;
    let (no, count) = (first.parts.len() as u64, of.count);
    let what = format!("part {} of {count}", no + 1);
    let found = split(&part)?
        .ok_or_else(|| part.error(&*what, format!("has no key {COUNT_KEY}: it is a file for itself")))?;
    if (found.count, found.tensors) != (count, of.tensors) {
        let why = format!(
            "is of another model: it has {} parts and {} tensors, and part 1 says {count} and {}",
            found.count, found.tensors, of.tensors
        );
        return Err(part.error(what, why));
    }
    if found.no != no {
        return Err(misnamed(&part, found.no, count));
    }
    let index = first.parts.len();
    for (name, mut info) in part.tensors.drain() {
        info.part = index;
        if first.tensors.contains_key(&name) {
            let why = format!("stands in an earlier part, too: {what} is of another model");
            return Err(bad(path, format!("tensor {name}"), why));
        }
        first.tensors.insert(name, info);
    }
    first.file_bytes += part.file_bytes;
    first.parts.append(&mut part.parts);
    Ok(())
}

/// A part whose name and key differ.
fn misnamed(g: &Gguf, no: u64, count: u64) -> VlmError {
    let right = path_of(g.path(), no, count);
    let right = right.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    g.error(
        format!("key {NO_KEY}"),
        format!("is {no}: this is part {} of {count}, and its name would be {right}", no + 1),
    )
}

impl Part {
    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), VlmError> {
        let read = self.source.read_exact_at(out, offset);
        read.map_err(|source| VlmError::Io { path: self.path.clone(), source })
    }

    fn sha256(&self) -> Result<String, VlmError> {
        if let Source::Memory(bytes) = &self.source {
            return Ok(hex(Sha256::digest(bytes)));
        }
        let (mut hasher, mut buffer, mut at) = (Sha256::new(), vec![0; HASHED_BYTES], 0);
        while at < self.bytes {
            let piece = &mut buffer[..(self.bytes - at).min(HASHED_BYTES as u64) as usize];
            self.read_exact_at(piece, at)?;
            hasher.update(&*piece);
            at += piece.len() as u64;
        }
        Ok(hex(hasher.finalize()))
    }
}

impl Gguf {
    /// The identity of the model, in hex: the sha256 of its file; of a split one that of the sha256s of all parts, in
    /// hex and in order, with a line break between them. It is that of the very files that are open here.
    ///
    /// # Errors
    /// `Io`.
    pub fn sha256(&self) -> Result<String, VlmError> {
        let parts: Vec<String> = self.parts.iter().map(Part::sha256).collect::<Result<_, _>>()?;
        Ok(match &parts[..] {
            [one] => one.clone(),
            all => hex(Sha256::digest(all.join("\n"))),
        })
    }
}

pub(crate) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_llama_cpp_names_them() {
        let path = |name: &str, no, count| path_of(Path::new(name), no, count);
        assert_eq!(path("a/m-00001-of-00003.gguf", 2, 3), Some("a/m-00003-of-00003.gguf".into()));
        assert_eq!(path("m-1-of-2-00001-of-00002.gguf", 1, 2), Some("m-1-of-2-00002-of-00002.gguf".into()));
        for name in ["m.gguf", "m-00001-of-00002.gguf", "m-1-of-3.gguf", "-of-00003.gguf", "m-00001-of-00003"]
        {
            assert_eq!(path(name, 0, 3), None, "{name}");
        }
    }
}
