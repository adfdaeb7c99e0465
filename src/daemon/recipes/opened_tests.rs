use super::*;
use crate::config;
use crate::domain::learn::LearnKind;
use crate::domain::reference::FeatureSource;
use crate::inspect::reference::bank::{Bank, Known, LearnedFrom, Limit};
use crate::inspect::reference::file;
use crate::inspect::reference::nearest::Nearest;
use crate::recipe::beside::{Files, version_of};
use crate::recipe::learned::with_prompt;
use crate::store::StoreOptions;
use crate::store::recipes::{Entry, Step};
use half::f16;
use std::path::Path;

/// A station whose only camera runs `photo` out of a folder of its own.
struct Kitchen {
    dir: tempfile::TempDir,
    text: String,
}

impl Kitchen {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("pipelines");
        std::fs::create_dir(&own).unwrap();
        let text = std::fs::read_to_string("pipelines/photo.toml").unwrap();
        let config = format!(
            "pipelines_dir = \"{}\"\n[station]\nsite = \"p\"\narea = \"a\"\nline = \"l\"\nstation = \"s\"\n[store]\ndir = \
             \"{}\"\n[mqtt]\nurl = \"mqtt://broker\"\n[[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n",
            own.display(),
            dir.path().join("store").display()
        );
        std::fs::write(dir.path().join("inspectd.toml"), config).unwrap();
        let kitchen = Self { dir, text };
        kitchen.write(&kitchen.text);
        kitchen
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path("pipelines/photo.toml"), text).unwrap();
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store"), StoreOptions::default()).unwrap()
    }

    /// The version that is active after a start.
    fn start(&self) -> anyhow::Result<String> {
        let store = self.store();
        let config = read(&self.path("inspectd.toml"));
        Ok(open(&config, &store)?.pipeline("photo").unwrap().version.clone())
    }
}

fn read(path: &Path) -> Config {
    config::load_to_run(path).unwrap()
}

fn version(text: &str) -> String {
    crate::recipe::beside::version_of(text, &crate::recipe::beside::Files::default())
}

#[test]
fn the_first_version_is_active_and_a_later_one_without_a_gate_replaces_it_at_the_next_start() {
    let kitchen = Kitchen::new();
    assert_eq!(kitchen.start().unwrap(), version(&kitchen.text));
    let edited = format!("{}\n# edited\n", kitchen.text);
    kitchen.write(&edited);
    assert_eq!(kitchen.start().unwrap(), version(&edited));
    let entries = kitchen.store().recipe_entries(Some("photo"), 9).unwrap();
    let steps: Vec<_> = entries.iter().map(|e: &Entry| (e.version.clone(), e.step)).collect();
    assert_eq!(steps, [(version(&edited), Step::Active), (version(&kitchen.text), Step::Active)]);
}

#[test]
fn what_a_gate_must_prove_or_has_errors_leaves_the_known_version_active() {
    let kitchen = Kitchen::new();
    let gated = format!("{}\n[gate]\n", kitchen.text);
    kitchen.write(&gated);
    assert_eq!(kitchen.start().unwrap(), version(&gated), "the first has nothing to prove");
    // Neither with its gate nor without it.
    for edited in [format!("{gated}# edited\n"), kitchen.text.clone()] {
        kitchen.write(&edited);
        assert_eq!(kitchen.start().unwrap(), version(&gated));
        assert_eq!(
            kitchen.store().recipe_book("photo").unwrap().unwrap().decided,
            version(&gated),
            "it is still to be replayed"
        );
    }
    kitchen.write("schema = ");
    assert_eq!(kitchen.start().unwrap(), version(&gated));
}

#[test]
fn a_first_version_with_errors_is_an_error_of_the_config() {
    let kitchen = Kitchen::new();
    kitchen.write(&kitchen.text.replace("mm_per_px", "mm_for_px"));
    let error = kitchen.start().unwrap_err();
    assert!(error.is::<ReadError>() && error.to_string().contains("mm_for_px"), "{error}");
}

/// The file is older than what was learned, until it has another text.
#[test]
fn a_learned_version_stays_active_beside_the_file_that_it_was_made_of() {
    let kitchen = Kitchen::new();
    let of_file = kitchen.start().unwrap();
    let learned = format!("{}\n# learned\n", kitchen.text);
    let active = version(&learned);
    let book = Book { active: active.clone(), decided: of_file.clone(), ..Book::default() };
    let store = kitchen.store();
    let found = entry("photo", &active, Step::Found, "anna", String::new(), None);
    store
        .append_recipe_step(found, Some((&learned, &crate::recipe::beside::Files::default())), None)
        .unwrap();
    drop(store);
    assert_eq!(kitchen.start().unwrap(), of_file, "what was not active before a crash is not after it");
    let store = kitchen.store();
    let step = entry("photo", &active, Step::Active, "anna", String::new(), None);
    store.append_recipe_step(step, None, Some(&book)).unwrap();
    drop(store);
    for _ in 0..2 {
        assert_eq!(kitchen.start().unwrap(), active);
        assert_eq!(kitchen.store().recipe_book("photo").unwrap(), Some(book.clone()));
    }
    let edited = format!("{}\n# edited\n", kitchen.text);
    kitchen.write(&edited);
    assert_eq!(kitchen.start().unwrap(), version(&edited));
}

/// A bank of two cells of two numbers.
fn bank() -> Vec<u8> {
    let cells = [0.0, 1.0, -1.0, 0.5].map(f16::from_f32).to_vec();
    file::write(&Bank {
        features: FeatureSource::Backbone,
        features_sha256: "abc".into(),
        mean: vec![0.5, -0.5],
        deviation: vec![1.0, 2.0],
        known: Known::Free(Nearest::new(cells, 2).unwrap()),
        cell: Limit { at: 2.0, steepness: 4.0 },
        tile: Limit { at: 1.5, steepness: 5.0 },
        from: LearnedFrom::default(),
    })
}

/// The folder has no bank: the store has it, whole, or the version is not active.
#[test]
fn a_learned_version_is_active_with_its_bank_and_never_without_it() {
    let (whole, cut) = (bank(), bank()[..200].to_vec());
    let beside = |bytes: Vec<u8>| Files::from([("photo.bank".to_owned(), Arc::from(bytes))]);
    for (files, is_whole) in [(beside(whole), true), (beside(cut), false), (Files::new(), false)] {
        let kitchen = Kitchen::new();
        let of_file = kitchen.start().unwrap();
        let text = with_prompt(&kitchen.text, "photo", LearnKind::Bank, FeatureSource::Backbone);
        let learned = version_of(&text, &files);
        let book = Book { active: learned.clone(), decided: of_file.clone(), ..Book::default() };
        let step = |step| entry("photo", &learned, step, "anna", String::new(), None);
        let store = kitchen.store();
        store.append_recipe_step(step(Step::Found), Some((&text, &files)), None).unwrap();
        store.append_recipe_step(step(Step::Active), None, Some(&book)).unwrap();
        drop(store);
        assert_eq!(kitchen.start().unwrap(), if is_whole { learned } else { of_file });
    }
}

#[test]
fn a_recipe_that_was_made_here_needs_no_file_and_one_whose_file_has_gone_is_not_known() {
    let kitchen = Kitchen::new();
    let store = kitchen.store();
    for (name, is_made_here) in [("nut", true), ("bolt", false)] {
        let text = kitchen.text.replace("name = \"photo\"", &format!("name = \"{name}\""));
        let active = version(&text);
        let book = Book { active: active.clone(), decided: String::new(), is_made_here };
        let step = entry(name, &active, Step::Active, "anna", String::new(), None);
        let kept = (text.as_str(), &crate::recipe::beside::Files::default());
        store.append_recipe_step(step, Some(kept), Some(&book)).unwrap();
    }
    drop(store);
    assert_eq!(kitchen.start().unwrap(), version(&kitchen.text));
    let store = kitchen.store();
    let known = open(&read(&kitchen.path("inspectd.toml")), &store).unwrap();
    assert_eq!(known.names(), ["nut", "photo"]);
    drop(store);
    // A camera may name it; one whose file has gone is refused, with the place in the config.
    let config = std::fs::read_to_string(kitchen.path("inspectd.toml")).unwrap();
    let names = |name: &str| {
        let text = config.replace("pipeline = \"photo\"", &format!("pipeline = \"{name}\""));
        std::fs::write(kitchen.path("inspectd.toml"), text).unwrap();
        read(&kitchen.path("inspectd.toml"))
    };
    let (nut, bolt) = (names("nut"), names("bolt"));
    let store = kitchen.store();
    assert_eq!(open(&nut, &store).unwrap().names(), ["nut", "photo"]);
    let error = open(&bolt, &store).unwrap_err();
    let words = "inspectd.toml:14:1: camera[0].pipeline = \"bolt\": ";
    assert!(error.is::<ReadError>() && error.to_string().contains(words), "{error}");
    assert!(error.to_string().ends_with("no recipe of this name was made on this station"), "{error}");
    drop(store);
    std::fs::write(kitchen.path("inspectd.toml"), &config).unwrap();
    // A file of its name is a newer word, and is kept like one that was made here.
    let edited = kitchen.text.replace("name = \"photo\"", "name = \"nut\"") + "\n# edited\n";
    std::fs::write(kitchen.path("pipelines/nut.toml"), &edited).unwrap();
    for _ in 0..2 {
        let store = kitchen.store();
        let known = open(&read(&kitchen.path("inspectd.toml")), &store).unwrap();
        assert_eq!(known.pipeline("nut").unwrap().version, version(&edited));
        drop(store);
        std::fs::remove_file(kitchen.path("pipelines/nut.toml")).ok();
    }
}
