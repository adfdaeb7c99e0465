//! What the station's store says of a config: which recipes were made here, and whether this version may use it.
//!
//! ```text
//! no store yet -------------------------> nothing is known, and nothing speaks against a start
//! a store --its daemon, or the command--> names of recipes | refused: of a newer version, damaged | no answer, and why
//! ```

use crate::control::Request;
use crate::control::client::{Client, ControlError, Taken};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Folder of the database in the store's directory.
const LEDGER: &str = "ledger";
/// Codes of refusals that every start would hear, too.
const FINAL: [&str; 3] = ["newer", "damaged", "cut_off"];

/// What the store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Kept {
    /// There is no store yet.
    NoStore,
    /// The recipes that were made on this station.
    Recipes(BTreeSet<String>),
    /// It cannot be used, and why.
    Refused(String),
    /// It cannot be asked from here, and why.
    Untold(String),
}

impl Kept {
    /// Asks the store in a directory, which need not be there.
    pub(in crate::cli) fn ask(dir: &Path) -> Self {
        match dir.join(LEDGER).symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::NoStore,
            Err(error) => return Self::Untold(format!("{}: {error}", dir.display())),
        }
        let asked = Client::reach(dir)
            .and_then(|mut client| client.ask(Request::MadeHere, |_| Ok::<_, ControlError>(Taken::Silently)));
        match asked {
            Ok(summary) => {
                let names = summary["recipes"].as_array().into_iter().flatten();
                Self::Recipes(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
            }
            Err(ControlError::Refused(refusal)) if FINAL.contains(&refusal.code.as_str()) => {
                Self::Refused(refusal.reason)
            }
            Err(error) => Self::Untold(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::beside::Files;
    use crate::store::newer_tests::set_format;
    use crate::store::recipes::{Book, Entry, Step};
    use crate::store::{Store, StoreOptions};

    #[test]
    fn the_store_names_what_was_made_here() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Kept::ask(dir.path()), Kept::NoStore);
        assert_eq!(Kept::ask(&dir.path().join("not/there")), Kept::NoStore);
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        for (name, is_made_here) in [("nut", true), ("bolt", false)] {
            let (pipeline, version) = (name.to_owned(), "v1".to_owned());
            let (at, by, reason) = ("2026-11-29T00:00:00Z".to_owned(), "anna".to_owned(), String::new());
            let (step, is_override, replay) = (Step::Active, false, None);
            let entry = Entry {
                seq: 0,
                at,
                pipeline,
                version,
                step,
                by,
                reason,
                is_override,
                replay,
                made_of: vec![],
            };
            let book = Book { active: "v1".into(), decided: String::new(), is_made_here };
            store.append_recipe_step(entry, Some(("text", &Files::new())), Some(&book)).unwrap();
        }
        drop(store);
        assert_eq!(Kept::ask(dir.path()), Kept::Recipes(["nut".to_owned()].into()));
    }

    #[test]
    fn a_store_of_a_newer_version_says_so() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), StoreOptions::default()).unwrap());
        set_format(dir.path(), 99);
        let Kept::Refused(why) = Kept::ask(dir.path()) else { panic!("it is refused") };
        assert!(why.contains("it has format 99, and this version reads up to 2"), "{why}");
        assert!(why.contains("Install the newer version again"), "{why}");
    }
}
