//! Tests of triggers by file: what is taken, refused and kept, across restarts.

use super::*;
use std::sync::Mutex;

/// A folder, and a desk that writes down what it accepts.
struct Rig {
    dir: tempfile::TempDir,
    accepted: Arc<Mutex<Vec<Command>>>,
    /// What the desk says next; accepted without.
    refusal: Arc<Mutex<Option<Refusal>>>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, accepted: Arc::default(), refusal: Arc::default() }
    }

    fn open(&self) -> Inbox {
        let (accepted, refusal) = (Arc::clone(&self.accepted), Arc::clone(&self.refusal));
        let handler: Handler = Arc::new(move |command| {
            if let Some(refusal) = refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            accepted.lock().unwrap().push(command);
            Ok(())
        });
        Inbox::open(self.dir.path(), handler).unwrap()
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
fn a_refusal_of_the_desk_is_kept_and_a_new_file_of_this_name_replaces_it() {
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
fn a_full_desk_is_asked_again_and_nothing_overtakes() {
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
    assert!(rig.has("taken/a.json"), "the file is not lost");
}
