//! Files beside a recipe that it judges by: banks and heads, which were learned from confirmed parts, and an adapter.
//!
//! They are part of the recipe: an exchanged file is another version, and what was active is kept with its files.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::inspect::reference::file::BANK_BYTES_MAX;

/// The hex digits of the hash that name a version.
const VERSION_DIGITS: usize = 12;

/// The bytes of files by their names; what could not be read is not there.
pub type Files = BTreeMap<String, Arc<[u8]>>;

/// The keys of a prompt that name such a file.
const KEYS: [&str; 2] = ["bank", "head"];

/// The key of the recipe itself that names one.
pub(super) const ADAPTER_KEY: &str = "adapter";

/// The files that a recipe's text names, whether or not the text is right in all else.
pub fn named(text: &str) -> BTreeSet<String> {
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let prompts = table.get("prompt").and_then(toml::Value::as_array).into_iter().flatten();
    let names = prompts.flat_map(|prompt| KEYS.iter().filter_map(|key| prompt.get(*key)?.as_str()));
    let names = names.chain(table.get(ADAPTER_KEY).and_then(toml::Value::as_str));
    names.filter(|name| is_plain(name)).map(str::to_owned).collect()
}

/// True for the name of a file in the same folder.
pub fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(fits)
}

/// Reads the files that a recipe's text names, in the folder of the recipe's own file.
pub fn read(recipe: &Path, text: &str) -> Files {
    let dir = recipe.parent().unwrap_or(Path::new(""));
    let read = |name: String| {
        let mut bytes = vec![];
        let file = File::open(dir.join(&name)).ok()?;
        // One byte more than is allowed shows that it is too long.
        file.take(BANK_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Some((name, bytes.into()))
    };
    named(text).into_iter().filter_map(read).collect()
}

/// Writes such a file, or the recipe's own: whatever ends the process or the power, the former one lies there or the new one, whole.
///
/// # Errors
/// The folder, or the disk, does not take it; the former one stays.
pub fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    // What was learned is read by the daemon's own user.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    // On the disk before it has its name, and the name before anybody is told.
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// The first digits of the sha256 that names a version: of the text alone, or of it with the hashes of its files.
pub fn version_of(text: &str, files: &Files) -> String {
    let mut hasher = Sha256::new();
    hasher.update(text.as_bytes());
    for (name, bytes) in files {
        hasher.update([0]);
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(Sha256::digest(bytes));
    }
    let mut digits = String::new();
    for byte in hasher.finalize().iter().take(VERSION_DIGITS / 2) {
        write!(digits, "{byte:02x}").expect("a String takes everything that is written to it");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_text_are_read_from_its_folder_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.bank"), "a").unwrap();
        let bank = |name: &str| format!("[[prompt]]\nbank = \"{name}\"\n");
        let text = ["a.bank", "../a.bank", "missing.bank", ".a", "a/b"].map(bank).concat();
        std::fs::write(dir.path().join("a.head"), "a").unwrap();
        let text = format!("{text}[[prompt]]\nhead = \"a.head\"\n");
        std::fs::write(dir.path().join("a.gguf"), "a").unwrap();
        let text = format!("adapter = \"a.gguf\"\n{text}");
        let files = read(&dir.path().join("r.toml"), &text);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.bank", "a.gguf", "a.head"]);
        assert!(named("[[prompt]\n").is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole_and_for_all_to_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bank");
        for bytes in [&b"a longer one"[..], b"short"] {
            write(&path, bytes).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("none/a.bank"), b"a").is_err());
    }

    #[test]
    fn another_bank_is_another_version_and_no_bank_is_the_text_alone() {
        let files = |bytes: &[u8]| Files::from([("a.bank".to_owned(), Arc::from(bytes))]);
        let text_alone = "e3b0c44298fc";
        assert_eq!(version_of("", &Files::new()), text_alone);
        let (one, other) = (version_of("", &files(b"1")), version_of("", &files(b"2")));
        assert!(one != other && one != text_alone && one == version_of("", &files(b"1")));
    }
}
