//! Remembers which files of a watched folder were taken, so that a restart does not inspect them anew.
//!
//! ```text
//! complete file --take--> one step of the store: taken/{camera}/{name} = its stamp, and an inspection is owed
//!                              '--> ticket --> frame --> commit of its inspection ends the ticket
//! killed in between --> the next start records review("interrupted") with the file's name
//! ```
//!
//! Invariant: a file has one inspection, whatever ends the process: it is noted before anybody inspects it, and
//! what is noted is owed until it is recorded.

use super::intake::Intake;
use crate::camera::kind::folder::{Stamp, Taken};
use crate::domain::frame::Trigger;
use crate::store::Store;
use crate::store::accepted::Accepted;
use crate::store::error::StoreError;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// The files of one camera that were taken.
pub(super) struct Files {
    store: Arc<Store>,
    intake: Arc<Intake>,
    camera: String,
    dir: PathBuf,
    /// Names in the store, and what the files were.
    known: HashMap<String, Stamp>,
}

/// A stamp on the disk. Nanoseconds since 1970.
#[derive(Serialize, Deserialize)]
struct StampV1 {
    len: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
}

impl Files {
    /// What a former process has taken, too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn load(
        store: Arc<Store>,
        intake: Arc<Intake>,
        camera: &str,
        dir: PathBuf,
    ) -> Result<Self, StoreError> {
        let known = store.remembered_under::<StampV1>(&prefix(camera))?;
        let known = known.into_iter().map(|(name, wire)| (name, stamp(&wire))).collect();
        Ok(Self { store, intake, camera: camera.to_owned(), dir, known })
    }

    fn name(&self, file: &OsStr) -> String {
        format!("{}{}", prefix(&self.camera), file.as_bytes().escape_ascii())
    }
}

fn prefix(camera: &str) -> String {
    format!("taken/{camera}/")
}

fn stamp(wire: &StampV1) -> Stamp {
    Stamp {
        len: wire.len,
        modified_ns: wire.modified_ns.into(),
        changed_ns: wire.changed_ns.into(),
        inode: wire.inode,
    }
}

impl Taken for Files {
    fn was(&self, name: &OsStr, stamp: &Stamp) -> bool {
        self.known.get(&self.name(name)) == Some(stamp)
    }

    fn take(&mut self, name: &OsStr, stamp: &Stamp) -> Result<Option<u64>, String> {
        let mut accepted = Accepted {
            camera: self.camera.clone(),
            pipeline: self.intake.in_force().name.clone(),
            trigger: Trigger::default(),
            received: SystemTime::now(),
            origin: Some(self.dir.join(name).display().to_string()),
        };
        let ns = |ns: i128| i64::try_from(ns).unwrap_or(i64::MAX);
        let (modified_ns, changed_ns) = (ns(stamp.modified_ns), ns(stamp.changed_ns));
        let wire = StampV1 { len: stamp.len, modified_ns, changed_ns, inode: stamp.inode };
        let key = self.name(name);
        self.store.accept_picture(&mut accepted, &key, &wire).map_err(|e| e.to_string())?;
        self.known.insert(key, *stamp);
        Ok(accepted.trigger.ticket.map(|ticket| ticket.0))
    }

    fn gone(&mut self, name: &OsStr) {
        let key = self.name(name);
        if self.known.remove(&key).is_some() {
            forget(&self.store, &[key]);
        }
    }

    fn only(&mut self, there: &mut dyn Iterator<Item = &OsStr>) {
        let there: HashSet<String> = there.map(|name| self.name(name)).collect();
        let gone: Vec<String> = self.known.keys().filter(|key| !there.contains(*key)).cloned().collect();
        self.known.retain(|key, _| there.contains(key));
        forget(&self.store, &gone);
    }
}

/// A failing store is seen by its next commit; a name too many costs nothing.
fn forget(store: &Store, keys: &[String]) {
    if let Err(error) = store.forget_later(keys.iter().map(String::as_str)) {
        tracing::error!(%error, "what left a folder is not forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TriggerOn;
    use crate::daemon::commanded::Orders;
    use crate::daemon::intake::tests::camera;
    use crate::recipe::pipeline_from_str;
    use crate::store::StoreOptions;

    #[test]
    fn a_taken_file_is_known_to_the_next_start_and_its_inspection_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string("pipelines/any-part.toml").unwrap();
        let pipeline = Arc::new(pipeline_from_str("any-part", &text).unwrap());
        let start = || {
            let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
            let intake = Arc::new(Intake::new(
                &camera("cam1", TriggerOn::Interval),
                Orders::configured(Arc::clone(&pipeline)),
            ));
            (Files::load(Arc::clone(&store), intake, "cam1", "in".into()).unwrap(), store)
        };
        let stamp = Stamp { len: 7, modified_ns: 1, changed_ns: 1_790_000_000_123_456_789, inode: 5 };
        let (odd, plain) = (OsStr::from_bytes(b"a\xff\n.png"), OsStr::new("b.png"));
        let (mut files, store) = start();
        assert!(!files.was(odd, &stamp));
        assert!(files.take(odd, &stamp).unwrap().is_some());
        files.take(plain, &stamp).unwrap();
        drop((files, store));
        let (mut files, store) = start();
        assert!(files.was(odd, &stamp) && files.was(plain, &stamp));
        assert!(!files.was(odd, &Stamp { inode: 6, ..stamp }), "another file of this name");
        let owed = store.accepted().unwrap();
        assert_eq!(owed.iter().filter_map(|a| a.origin.as_deref()).collect::<Vec<_>>()[1], "in/b.png");
        files.only(&mut [odd].into_iter());
        assert!(files.was(odd, &stamp) && !files.was(plain, &stamp));
        files.gone(odd);
        drop((files, store));
        assert!(start().0.known.is_empty());
    }
}
