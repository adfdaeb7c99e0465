//! Tests of stores that a newer version of the program wrote.

use super::images::EXTENSIONS;
use super::tests::{open, sample};
use super::*;
use std::collections::BTreeMap;

/// What a store holds.
#[derive(Debug, PartialEq)]
struct Contents {
    /// Every row of every tree: the tree's name, key, value.
    rows: Vec<[Vec<u8>; 3]>,
    /// Every file beside the database, but what each opening touches.
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Contents {
    fn of(dir: &Path) -> Self {
        let db = open_database(&dir.join("ledger")).unwrap();
        let (mut rows, mut files) = (vec![], BTreeMap::new());
        for name in db.tree_names() {
            for row in &db.tree(&name).unwrap() {
                let (key, value) = row.unwrap();
                rows.push([name.to_vec(), key.to_vec(), value.to_vec()]);
            }
        }
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if ["ledger", "lock", "ballast"].iter().any(|name| path == dir.join(name)) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        Self { rows, files }
    }
}

/// Makes a closed store one of another format, with a tree that this version does not know.
pub(crate) fn set_format(dir: &Path, format: u8) {
    let db = open_database(&dir.join("ledger")).unwrap();
    db.tree("meta").unwrap().insert(FORMAT_KEY, value::seal(format, b"")).unwrap();
    db.tree("of_a_later_version").unwrap().insert(b"key", b"value").unwrap();
    db.flush().unwrap();
}

/// A downgrade: the older version must not guess at what it does not know, nor change it.
#[test]
fn a_store_of_a_newer_version_is_refused_and_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = store.put_image(b"a picture", EXTENSIONS[0]).unwrap();
    store.commit(&sample(1), Some(image)).unwrap();
    drop(store);
    set_format(dir.path(), FORMAT + 1);
    let before = Contents::of(dir.path());
    assert!(before.rows.len() > 4 && !before.files.is_empty(), "there is something to lose");
    // Neither a plain start nor one that would compact changes a row.
    let compacts = StoreOptions { compact_above_bytes: 0, ..StoreOptions::default() };
    for options in [StoreOptions::default(), compacts] {
        let error = Store::open(dir.path(), options).err().expect("it is refused");
        assert!(matches!(error, StoreError::NewerFormat { found: 3, known: 2 }), "{error}");
        let words = error.to_string();
        assert!(words.contains("it has format 3, and this version reads up to 2"), "{words}");
        assert!(words.contains("Install the newer version again, or restore a backup"), "{words}");
        assert_eq!(Contents::of(dir.path()), before);
        assert!(!dir.path().join("ledger.new").exists());
    }
    set_format(dir.path(), FORMAT);
    assert_eq!(open(dir.path()).verify().unwrap().inspections, 1, "the version that wrote it goes on");
}
