//! Tests of triggers by file: what is taken, refused and kept, across restarts.

use super::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// A folder, and a dispatcher that writes down what it accepts.
struct Rig {
    dir: tempfile::TempDir,
    accepted: Arc<Mutex<Vec<Command>>>,
    /// What the dispatcher says next; accepted without.
    refusal: Arc<Mutex<Option<Refusal>>>,
    /// Stamps of files that were accepted and are not settled.
    known: Arc<Known>,
}

#[derive(Default)]
struct Known(Mutex<BTreeSet<String>>);

impl Fates for Known {
    fn was_accepted(&self, stamp: &str) -> bool {
        self.0.lock().unwrap().contains(stamp)
    }

    fn settle(&self, stamp: &str) {
        self.0.lock().unwrap().remove(stamp);
    }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, accepted: Arc::default(), refusal: Arc::default(), known: Arc::default() }
    }

    fn open(&self) -> Inbox {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> io::Result<Inbox> {
        let (accepted, refusal) = (Arc::clone(&self.accepted), Arc::clone(&self.refusal));
        let known = Arc::clone(&self.known);
        let handler: Handler = Arc::new(move |command, sender| {
            if let Some(refusal) = refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            let Sender::File { stamp, .. } = sender else { panic!("{sender:?}") };
            known.0.lock().unwrap().insert(stamp.clone());
            accepted.lock().unwrap().push(command);
            Ok(None)
        });
        let fates: Arc<dyn Fates> = Arc::<Known>::clone(&self.known);
        Inbox::open(self.dir.path(), handler, fates)
    }

    fn refuses(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(".new"), text).unwrap();
        fs::rename(self.dir.path().join(".new"), self.dir.path().join(name)).unwrap();
    }

    fn parts(&self) -> Vec<String> {
        let part = |c: &Command| match c {
            Command::Trigger(r) => r.trigger.part_id.clone().unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        self.accepted.lock().unwrap().iter().map(part).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

fn full() -> Refusal {
    Refusal::Full { camera: "cam1".into(), waiting: 8 }
}

#[test]
fn whole_files_are_taken_once_in_the_order_in_which_they_came() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    rig.put("b.json", r#"{"part_id":"P1","lot":"L","correlation_id":"own"}"#);
    // Coarse clocks of file systems tick every few milliseconds.
    std::thread::sleep(Duration::from_millis(30));
    rig.put("a.json", r#"{"part_id":"P2"}"#);
    rig.put("a.txt", r#"{"part_id":"P3"}"#);
    rig.put(".hidden.json", r#"{"part_id":"P4"}"#);
    for _ in 0..3 {
        inbox.scan().unwrap();
    }
    assert_eq!(rig.parts(), ["P1", "P2"]);
    assert!(rig.has("done/a.json") && rig.has("done/b.json") && !rig.has("a.json") && !rig.has("b.json"));
    assert!(rig.has("a.txt") && rig.has(".hidden.json"), "these are none of ours");
    let accepted = rig.accepted.lock().unwrap();
    let ids = accepted.iter().map(|c| match c {
        Command::Trigger(r) => r.trigger.correlation_id.as_deref(),
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), [Some("own"), Some("a")], "the name stands in for a missing id");
}

#[test]
fn a_half_written_file_waits_and_is_taken_when_it_is_whole() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    let text = r#"{"part_id":"P1","lot":"L"}"#;
    for end in 0..text.len() {
        fs::write(rig.dir.path().join("a.json"), &text[..end]).unwrap();
        inbox.scan().unwrap();
        assert!(rig.has("a.json"), "{}", &text[..end]);
    }
    fs::write(rig.dir.path().join("a.json"), text).unwrap();
    inbox.scan().unwrap();
    assert_eq!(rig.parts(), ["P1"]);
}

#[test]
fn what_stays_no_command_is_refused_with_its_reason() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    let long = format!("{{{}}}", " ".repeat(command::BYTES_MAX));
    for (name, text) in
        [("cut.json", r#"{"part_id":"#), ("bogus.json", r#"{"bogus":1}"#), ("long.json", &long)]
    {
        rig.put(name, text);
    }
    for _ in 0..STILL_SCANS {
        inbox.scan().unwrap();
        assert!(rig.has("cut.json") && rig.has("bogus.json"));
    }
    inbox.scan().unwrap();
    for (name, words) in [("cut", "EOF"), ("bogus", "unknown field"), ("long", "bytes; at most 16384")] {
        assert!(rig.has(&format!("refused/{name}.json")) && !rig.has(&format!("{name}.json")));
        let reason = rig.text(&format!("refused/{name}.json.reason"));
        assert!(reason.starts_with("malformed: ") && reason.contains(words), "{reason}");
    }
    assert!(rig.parts().is_empty());
}

#[test]
fn a_refusal_of_the_dispatcher_is_kept_and_a_new_file_of_this_name_replaces_it() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    rig.refuses(Some(Refusal::Paused { camera: "cam1".into() }));
    rig.put("a.json", r#"{"part_id":"P1"}"#);
    inbox.scan().unwrap();
    assert_eq!(rig.text("refused/a.json.reason"), "paused: camera cam1 is paused\n");
    rig.refuses(None);
    rig.put("a.json", r#"{"part_id":"P2"}"#);
    inbox.scan().unwrap();
    assert_eq!(rig.parts(), ["P2"]);
    assert!(rig.has("done/a.json") && !rig.has("refused/a.json") && !rig.has("refused/a.json.reason"));
}

#[test]
fn a_full_intake_is_asked_again_and_nothing_overtakes() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    rig.refuses(Some(full()));
    rig.put("a.json", r#"{"part_id":"P1"}"#);
    std::thread::sleep(Duration::from_millis(30));
    rig.put("b.json", r#"{"part_id":"P2"}"#);
    for _ in 0..3 {
        inbox.scan().unwrap();
    }
    assert!(rig.has("taken/a.json") && rig.has("b.json"));
    rig.refuses(None);
    inbox.scan().unwrap();
    assert_eq!(rig.parts(), ["P1", "P2"]);
}

#[test]
fn a_stop_puts_back_what_waits_and_a_crash_leaves_it_refused() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    rig.refuses(Some(full()));
    rig.put("a.json", r#"{"part_id":"P1"}"#);
    inbox.scan().unwrap();
    inbox.put_back();
    assert!(rig.has("a.json") && !rig.has("taken/a.json"));

    let mut inbox = rig.open();
    inbox.scan().unwrap();
    assert!(rig.has("taken/a.json"));
    // The process is gone, and nobody has put anything back.
    drop(inbox);
    rig.refuses(None);
    let mut inbox = rig.open();
    inbox.scan().unwrap();
    assert!(rig.text("refused/a.json.reason").starts_with("interrupted: "));
    assert!(rig.has("refused/a.json") && rig.parts().is_empty(), "never taken twice");
}

#[test]
fn the_deadline_counts_from_when_the_file_came() {
    let rig = Rig::new();
    rig.put("a.json", "{}");
    let came = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    let mut inbox = rig.open();
    inbox.scan().unwrap();
    let accepted = rig.accepted.lock().unwrap();
    let [Command::Trigger(request)] = accepted.as_slice() else { panic!("{accepted:?}") };
    assert!(request.received < came + Duration::from_millis(150), "{:?}", request.received - came);
}

#[test]
fn old_outcomes_go() {
    let rig = Rig::new();
    let _inbox = rig.open();
    let refused = rig.dir.path().join("refused");
    for n in 0..5 {
        fs::write(refused.join(format!("{n}.json")), "{}").unwrap();
        fs::write(refused.join(format!("{n}.json.reason")), "x").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    prune(&refused, 2).unwrap();
    let mut left: Vec<_> = plain_files(&refused).unwrap().iter().map(DirEntry::file_name).collect();
    left.sort();
    assert_eq!(left, ["3.json", "3.json.reason", "4.json", "4.json.reason"]);
}

#[test]
fn a_folder_that_is_gone_is_an_error_until_it_is_back() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    let away = rig.dir.path().join("done");
    fs::remove_dir(&away).unwrap();
    rig.put("a.json", "{}");
    assert!(inbox.scan().is_err());
    assert!(rig.has("a.json") && rig.parts().is_empty(), "the file is not lost");
    fs::create_dir(&away).unwrap();
    inbox.scan().unwrap();
    assert!(rig.has("done/a.json") && rig.parts().len() == 1);
}

/// A crash at each place between the folder and `done`.
#[test]
fn after_a_crash_a_file_that_was_accepted_is_done_and_any_other_refused() {
    let rig = Rig::new();
    let own = || Own::open(rig.dir.path()).unwrap();
    let inbox = rig.open();
    for name in ["claimed.json", "accepted.json"] {
        rig.put(name, "{}");
        inbox.claim(&own(), OsStr::new(name)).unwrap();
    }
    let meta = fs::metadata(rig.dir.path().join("taken/accepted.json")).unwrap();
    rig.known.0.lock().unwrap().insert(stamp(&meta));
    drop(inbox);
    rig.open();
    assert!(rig.has("done/accepted.json") && !rig.has("refused/accepted.json"));
    assert!(rig.text("refused/claimed.json.reason").starts_with("interrupted: "));
    assert!(rig.known.0.lock().unwrap().is_empty(), "settled, and not known any more");
    assert!(rig.parts().is_empty(), "nothing is taken twice");
}

#[test]
fn a_file_that_takes_the_place_of_one_that_was_read_is_the_one_that_counts() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    rig.put("a.json", r#"{"part_id":"P1"}"#);
    let meta = fs::metadata(rig.dir.path().join("a.json")).unwrap();
    let found = Found { name: "a.json".into(), came: SystemTime::now(), stamp: stamp(&meta) };
    rig.put("a.json", r#"{"part_id":"P2"}"#);
    inbox.look(&Own::open(rig.dir.path()).unwrap(), found).unwrap();
    assert_eq!(rig.parts(), ["P2"]);
}

#[test]
fn files_of_one_name_are_triggers_of_their_own_and_an_id_of_their_own_names_them() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    for text in ["{}", "{}", r#"{"correlation_id":"c1"}"#] {
        rig.put("trigger.json", text);
        inbox.scan().unwrap();
    }
    let names = rig
        .accepted
        .lock()
        .unwrap()
        .iter()
        .map(|c| match c {
            Command::Trigger(r) => (r.name.clone(), r.trigger.correlation_id.clone().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>();
    let stem = (None, "trigger".to_owned());
    assert_eq!(names, [stem.clone(), stem, (Some("c1".into()), "c1".into())]);
}

#[test]
fn foreign_files_do_not_keep_triggers_waiting_and_stay() {
    let rig = Rig::new();
    let mut inbox = rig.open();
    for n in 0..=SCAN_MAX {
        fs::write(rig.dir.path().join(format!("{n}.png")), "").unwrap();
    }
    rig.put("z.json", r#"{"part_id":"P1"}"#);
    inbox.scan().unwrap();
    assert_eq!(rig.parts(), ["P1"]);
    fs::write(rig.dir.path().join("done/notes.txt"), "").unwrap();
    prune(&rig.dir.path().join("done"), 0).unwrap();
    assert!(rig.has("done/notes.txt") && !rig.has("done/z.json") && rig.has("7.png"));
}

#[test]
fn a_link_in_the_place_of_a_folder_is_an_error_and_nothing_behind_it_is_removed() {
    let rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = elsewhere.path().join("a.json");
    fs::write(&foreign, "{}").unwrap();
    let mut inbox = rig.open();
    let done = rig.dir.path().join("done");
    fs::remove_dir(&done).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &done).unwrap();
    rig.put("b.json", "{}");
    let error = inbox.scan().unwrap_err().to_string();
    assert!(error.contains("done: is a link"), "{error}");
    assert!(rig.try_open().is_err_and(|e| e.to_string().contains("is a link")));
    assert!(rig.has("b.json") && rig.parts().is_empty() && foreign.exists());
    // A folder that is open already leads to itself, whatever has taken its name.
    fs::remove_file(&done).unwrap();
    fs::create_dir(&done).unwrap();
    let own = Own::open(rig.dir.path()).unwrap();
    fs::rename(&done, rig.dir.path().join("was_done")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &done).unwrap();
    inbox.claim(&own, OsStr::new("b.json")).unwrap();
    keep(&own, OsStr::new("b.json"), &own.done, &own.refused).unwrap();
    assert!(rig.has("was_done/b.json") && !elsewhere.path().join("b.json").exists());
}
