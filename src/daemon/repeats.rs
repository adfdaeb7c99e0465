//! Triggers that come again: a broker, a gateway or a sender that heard no answer may send one twice.
//!
//! ```text
//! trigger with a correlation id: its name is (sender, correlation_id, camera, part)
//!     not known --> carried out; its answer is remembered for `WINDOW`, the newest `KEPT_MAX` of them
//!     known, and it says the same --> the first answer again, and nothing is carried out
//!     known, and it says something else --> refused: `repeated`
//!     known of another sender only: it says the same and names its part --> the first answer again
//!                                   otherwise --> another trigger, carried out
//! trigger by file: its name is the file itself, so that a start knows which files were accepted
//! ```
//!
//! A sender is a broker, an account or token of the page, a server for PLCs, or the trigger folder. Two systems that both count 1, 2, 3
//! mean different parts: none of theirs may be taken for a repeat. One system that publishes a command to two brokers, or
//! by MQTT and then by HTTP, means one part, and that shows only where the trigger names it by its `part_id`. Two systems
//! behind one broker cannot be told apart, since no broker says who publishes.
//!
//! An accepted trigger has an id (ULID) of its time and its identity, which answer and result name; what comes again is
//! answered with the first one's.
//!
//! Acceptances are durable with the trigger (`store::answered`), so that one that comes again after a crash or a
//! restart is known. Refusals are remembered by the process. One without a correlation id cannot be told from a
//! new trigger: it is carried out as often as it comes.

use crate::domain::trigger::{Outcome, Refusal, Request, Sender};
use crate::store::answered::{Answered, Contents, Name, Names};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

/// How long a trigger that comes again is known. A sender that retries does so within seconds; an outage of the
/// broker between sender and station takes minutes.
pub(super) const WINDOW: Duration = Duration::from_mins(10);
/// Triggers that are known at the same time; beyond it the oldest are forgotten before their window ends. Enough for
/// 27 a second.
pub(super) const KEPT_MAX: usize = 16_384;

/// What a trigger is known by, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub name: Name,
    /// Of its id, camera, part and words: the same from every sender. Zeroes of a file.
    contents: Contents,
    /// It says which part it means.
    names_part: bool,
    /// What stores of before there were senders know it by.
    senderless: Option<(Name, Contents)>,
}

/// What is known of a trigger that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    New,
    /// It has come before and was answered so.
    Again(Outcome),
}

/// The answers of the last while.
#[derive(Default)]
pub(super) struct Repeats {
    known: HashMap<Name, Known>,
    /// The newest name of what says so.
    said: HashMap<Contents, Name>,
    /// Oldest first; an entry that `known` has with another time is of an earlier life.
    order: VecDeque<(Instant, Name)>,
    /// When the newest trigger came.
    newest: Option<SystemTime>,
}

struct Known {
    at: Instant,
    contents: Contents,
    /// With the id of the trigger, where it was accepted.
    outcome: Outcome,
}

impl Identity {
    /// Of a trigger with a correlation id of its sender's.
    fn of(request: &Request, sender: &Sender) -> Option<Self> {
        let named = [request.name.as_deref(), request.camera.as_deref(), request.part.as_deref()];
        named[0]?;
        let t = &request.trigger;
        let deadline = t.deadline.map(|d| d.as_millis().to_string());
        let mut words = vec![t.part_id.as_deref(), t.lot.as_deref(), deadline.as_deref()];
        words.extend(t.expected.iter().flat_map(|(key, value)| [Some(key.as_str()), Some(value.as_str())]));
        let from = match sender {
            Sender::Mqtt { sink } => [Some("mqtt"), Some(sink.as_str())],
            Sender::Http { name } => [Some("http"), Some(name.as_str())],
            Sender::Opcua { user } => [Some("opcua"), Some(user.as_str())],
            Sender::File { .. } => [Some("file"), None],
            Sender::Plc { server, .. } => [Some("plc"), Some(server.as_str())],
        };
        Some(Self {
            name: digest(&[[Some("sender")].as_slice(), &from, &named].concat()),
            contents: digest(&[[Some("says")].as_slice(), &named, &words].concat()),
            names_part: t.part_id.as_ref().is_some_and(|part_id| !part_id.is_empty()),
            senderless: Some((digest(&[[Some("correlation")].as_slice(), &named].concat()), digest(&words))),
        })
    }

    /// Of a file, by the stamp that stays with it.
    pub(super) fn of_file(stamp: &str) -> Self {
        Self::known(digest(&[Some("file"), Some(stamp)]), Contents::default())
    }

    /// The id (ULID) of the trigger of this identity that was accepted at `at`. It follows from what the store knows, so
    /// that one that comes again after a restart is answered with the id that its result has.
    pub(super) fn trigger_id(&self, at: SystemTime) -> String {
        let known = if self.contents == Contents::default() { &self.name } else { &self.contents };
        let mut random = [0; 16];
        random[6..].copy_from_slice(&known[..10]);
        let ms = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        ulid::Ulid::from_parts(ms, u128::from_be_bytes(random)).to_string()
    }

    /// Of what a store knows.
    const fn known(name: Name, contents: Contents) -> Self {
        Self { name, contents, names_part: false, senderless: None }
    }
}

/// No two lists of words have one text: each word stands behind its length, and a missing one is not an empty one.
fn digest(words: &[Option<&str>]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word.map_or(u64::MAX, |w| w.len() as u64).to_be_bytes());
        hash.update(word.unwrap_or_default());
    }
    *hash.finalize().first_chunk().expect("a sha256 has 32 bytes")
}

impl Repeats {
    /// What a former process has accepted, oldest first; their age counts by the wall clock.
    pub(super) fn restore(answered: Vec<Answered>) -> Self {
        let mut repeats = Self::default();
        let (now, wall) = (Instant::now(), SystemTime::now());
        for Answered { name, contents, at } in answered {
            let age = wall.duration_since(at).unwrap_or_default();
            // What is older than the machine's own clock is older than the window.
            let wall_at = at;
            let at = now.checked_sub(age).or_else(|| now.checked_sub(WINDOW)).unwrap_or(now);
            let identity = Identity::known(name, contents);
            repeats.insert(identity, at, Ok(Some(identity.trigger_id(wall_at))));
        }
        repeats
    }

    /// # Errors
    /// `Repeated`: the sender has called another trigger so.
    pub(super) fn look(&self, identity: &Identity, correlation_id: &str) -> Result<Look, Refusal> {
        if let Some(known) = self.within(&identity.name) {
            if known.contents == identity.contents {
                return Ok(Look::Again(known.outcome.clone()));
            }
            let ago_s = known.at.elapsed().as_secs();
            return Err(Refusal::Repeated { correlation_id: correlation_id.to_owned(), ago_s });
        }
        let others = self.said.get(&identity.contents).filter(|_| identity.names_part);
        let others = others.and_then(|name| self.within(name));
        // Who sent it then is not known: only what says the same is the same trigger.
        let senderless = || {
            let (name, contents) = identity.senderless?;
            self.within(&name).filter(|known| known.contents == contents)
        };
        match others.or_else(senderless) {
            Some(known) => Ok(Look::Again(known.outcome.clone())),
            None => Ok(Look::New),
        }
    }

    /// The time of a trigger that comes now. No two have the same millisecond, so that no two have the same id.
    pub(super) fn moment(&mut self) -> SystemTime {
        let after = self.newest.and_then(|newest| newest.checked_add(Duration::from_millis(1)));
        let now = SystemTime::now().max(after.unwrap_or(SystemTime::UNIX_EPOCH));
        self.newest = Some(now);
        now
    }

    /// What is known by a name whose window is not over.
    fn within(&self, name: &Name) -> Option<&Known> {
        self.known.get(name).filter(|known| known.at.elapsed() < WINDOW)
    }

    /// Whether this very name is known and need not be remembered anew.
    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.within(&identity.name).is_some()
    }

    /// Whether a trigger of this name was accepted, however long ago, as long as it is kept.
    pub(super) fn was_accepted(&self, name: &Name) -> bool {
        self.known.get(name).is_some_and(|known| known.outcome.is_ok())
    }

    /// What an acceptance at `at` writes beside its triggers: its names, and those whose window is over.
    pub(super) fn names(&mut self, identities: &[Identity], at: SystemTime) -> Names {
        let add = identities.iter().map(|i| Answered { name: i.name, contents: i.contents, at }).collect();
        Names { add, remove: self.expire(Instant::now(), identities.len()) }
    }

    /// Remembers an answer.
    pub(super) fn insert(&mut self, identity: Identity, at: Instant, outcome: Outcome) {
        // What it said before is said no more.
        self.forget(&identity.name);
        self.order.push_back((at, identity.name));
        if identity.contents != Contents::default() {
            self.said.insert(identity.contents, identity.name);
        }
        self.known.insert(identity.name, Known { at, contents: identity.contents, outcome });
    }

    /// Forgets one that nobody needs any more.
    pub(super) fn forget(&mut self, name: &Name) {
        let Some(Known { contents, .. }) = self.known.remove(name) else { return };
        if self.said.get(&contents) == Some(name) {
            self.said.remove(&contents);
        }
    }

    /// Forgets what is out of its window, and the oldest beyond [`KEPT_MAX`] less the room that is wanted.
    fn expire(&mut self, now: Instant, wanted: usize) -> Vec<Name> {
        let mut gone = Vec::new();
        while let Some((at, name)) = self.order.front().copied() {
            let over = now.saturating_duration_since(at) >= WINDOW || self.order.len() + wanted > KEPT_MAX;
            if !over {
                break;
            }
            self.order.pop_front();
            if self.known.get(&name).is_some_and(|known| known.at == at) {
                self.forget(&name);
                gone.push(name);
            }
        }
        gone
    }
}

/// When the trigger of this id was accepted.
pub(super) fn time_of(id: &str) -> Option<SystemTime> {
    let id: ulid::Ulid = id.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(id.timestamp_ms()))
}

/// The names of a trigger: first by its correlation id, where it has one, then by its file, where it is one.
pub(super) fn identities(request: &Request, sender: &Sender) -> Vec<Identity> {
    let by_file = match sender {
        Sender::File { stamp, .. } => Some(Identity::of_file(stamp)),
        Sender::Mqtt { .. } | Sender::Http { .. } | Sender::Opcua { .. } | Sender::Plc { .. } => None,
    };
    Identity::of(request, sender).into_iter().chain(by_file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::frame::Trigger;

    fn mqtt() -> Sender {
        Sender::Mqtt { sink: "mqtt".into() }
    }

    fn request(id: Option<&str>, camera: &str, part_id: &str) -> Request {
        let trigger = Trigger { part_id: Some(part_id.into()), ..Trigger::default() };
        let name = id.map(Into::into);
        Request { camera: Some(camera.into()), part: None, name, trigger, received: Instant::now() }
    }

    fn accepted() -> Outcome {
        Ok(Some("01HF7YAT010000000000000T01".into()))
    }

    fn identity(camera: &str, part_id: &str) -> Identity {
        Identity::of(&request(Some("c7"), camera, part_id), &mqtt()).unwrap()
    }

    #[test]
    fn a_name_is_of_one_trigger_for_one_window() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        let first = identity("cam1", "P1");
        assert_eq!(repeats.look(&first, "c7"), Ok(Look::New));
        repeats.insert(first, now, accepted());
        assert_eq!(repeats.look(&first, "c7"), Ok(Look::Again(accepted())));
        let other = repeats.look(&identity("cam1", "P2"), "c7").unwrap_err();
        assert!(other.code() == "repeated" && other.to_string().contains("\"c7\""), "{other}");
        assert_eq!(
            repeats.look(&identity("cam2", "P1"), "c7"),
            Ok(Look::New),
            "another camera, another trigger"
        );
        assert_eq!(Identity::of(&request(None, "cam1", "P1"), &mqtt()), None);
        assert_eq!(repeats.expire(now + WINDOW, 0), [first.name]);
        assert_eq!(repeats.look(&first, "c7"), Ok(Look::New));
    }

    #[test]
    fn the_table_has_its_size_and_the_oldest_go_first() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        for n in 0..KEPT_MAX {
            repeats.insert(identity("cam1", &n.to_string()), now, accepted());
            // A camera's name makes names differ.
            repeats.insert(identity(&n.to_string(), ""), now, accepted());
        }
        let gone = repeats.expire(now, 1);
        assert_eq!(repeats.order.len(), KEPT_MAX - 1);
        assert!(repeats.said.len() == repeats.known.len(), "nothing stays that nobody knows");
        assert!(repeats.known.len() < KEPT_MAX && gone.contains(&identity("0", "").name));
    }

    #[test]
    fn a_restart_knows_what_was_accepted_within_the_window() {
        let (name, contents) = ([1; 16], [2; 16]);
        let ago = |s: u64| SystemTime::now() - Duration::from_secs(s);
        let at = ago(60);
        let old = Answered { name: [9; 16], contents, at: ago(700) };
        let repeats = Repeats::restore(vec![old, Answered { name, contents, at }]);
        let of = |name| Identity::known(name, contents);
        let Ok(Look::Again(Ok(Some(id)))) = repeats.look(&of(name), "c7") else { panic!("it is known") };
        assert_eq!(id, of(name).trigger_id(at), "the id that it had");
        assert_eq!(repeats.look(&of([9; 16]), "c7"), Ok(Look::New));
        assert!(repeats.was_accepted(&[9; 16]), "a file is known until its fate is settled");
    }

    /// As the versions before there were senders wrote it.
    #[test]
    fn what_an_old_store_knows_is_the_same_trigger_from_every_sender() {
        let words = |part_id| [Some(part_id), None, None];
        let old = |part_id| Answered {
            name: digest(&[Some("correlation"), Some("c7"), Some("cam1"), None]),
            contents: digest(&words(part_id)),
            at: SystemTime::now(),
        };
        let repeats = Repeats::restore(vec![old("P1")]);
        let erp = Sender::Mqtt { sink: "erp".into() };
        for sender in [mqtt(), erp] {
            let again = Identity::of(&request(Some("c7"), "cam1", "P1"), &sender).unwrap();
            assert!(matches!(repeats.look(&again, "c7"), Ok(Look::Again(Ok(_)))));
            assert!(!repeats.knows(&again), "and is remembered as this sender's");
            let other = Identity::of(&request(Some("c7"), "cam1", "P2"), &sender).unwrap();
            assert_eq!(repeats.look(&other, "c7"), Ok(Look::New));
        }
    }

    #[test]
    fn the_id_of_a_trigger_is_of_its_time_and_of_what_it_says() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let first = identity("cam1", "P1");
        let id = first.trigger_id(at);
        assert_eq!((id.len(), id.as_str()), (26, first.trigger_id(at).as_str()));
        assert_ne!(id, first.trigger_id(at + Duration::from_millis(1)));
        assert_ne!(id, identity("cam1", "P2").trigger_id(at));
        let parsed: ulid::Ulid = id.parse().unwrap();
        assert_eq!(parsed.timestamp_ms(), 1_700_000_000_123);
        let (one, other) = (Identity::of_file("1"), Identity::of_file("2"));
        assert_ne!(one.trigger_id(at), other.trigger_id(at), "files are told apart by their stamps");
    }

    #[test]
    fn words_do_not_run_into_each_other() {
        assert_ne!(digest(&[Some("ab"), Some("c")]), digest(&[Some("a"), Some("bc")]));
        assert_ne!(digest(&[None, Some("")]), digest(&[Some(""), None]));
    }
}
