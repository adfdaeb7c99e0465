//! Places: who may have a connection, and who goes when there are no more.
//!
//! ```text
//! new --a place is free--> open
//!     '--no: somebody who waits for his peer goes--> open
//!        '--no: a reserved place--> answers health and nothing else
//!           '--no: closed at once
//!
//! Waiting (for a head) --head--> Receiving (a body) --whole--> Working --answer handed over--> Waiting
//! ```
//!
//! Who waits for his peer may go at any time; who works, when nothing has moved for [`BUSY`]. Of these
//! goes one of the home (`peer`) that has the most of them, and there the one that has waited longest:
//! so a flood from one address pushes out itself, and a request that comes whole is answered before its
//! turn to go comes.

use super::peer::Home;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Connections that are open at the same time.
pub const CONNECTIONS_MAX: usize = 128;
/// Further ones for health alone, so that a supervisor can ask while all others work.
pub(crate) const RESERVED_MAX: usize = 16;
/// A request on which nothing moves for so long may go when there is no other room.
const BUSY: Duration = Duration::from_mins(1);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Waiting,
    Receiving,
    Working,
}

struct Slot {
    home: Home,
    phase: Phase,
    /// When something moved last.
    since: Instant,
    reserved: bool,
    close: Arc<Notify>,
}

impl Slot {
    fn may_go(&self, now: Instant) -> bool {
        self.phase != Phase::Working || now.saturating_duration_since(self.since) >= BUSY
    }
}

#[derive(Default)]
struct Slots {
    next: u64,
    open: BTreeMap<u64, Slot>,
}

/// The connection answers health and nothing else; an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HealthOnly;

/// The open connections.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Mutex<Slots>>);

/// One taken place; dropping it leaves.
pub(crate) struct Place {
    id: u64,
    /// It answers health and nothing else.
    pub reserved: bool,
    places: Places,
}

impl Places {
    /// Takes a place, with what says that it has to be left; `None` when all are at work.
    pub(crate) fn enter(&self, home: Home, now: Instant) -> Option<(Place, Arc<Notify>)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = if all.make_room(false, CONNECTIONS_MAX, now) {
            false
        } else if all.make_room(true, RESERVED_MAX, now) {
            true
        } else {
            return None;
        };
        all.next += 1;
        let (id, close) = (all.next, Arc::new(Notify::new()));
        let slot = Slot { home, phase: Phase::Waiting, since: now, reserved, close: Arc::clone(&close) };
        all.open.insert(id, slot);
        Some((Place { id, reserved, places: self.clone() }, close))
    }
}

impl Slots {
    /// True when one of the places of this kind is free, or has just been left.
    fn make_room(&mut self, reserved: bool, max: usize, now: Instant) -> bool {
        let of_kind = || self.open.iter().filter(|(_, slot)| slot.reserved == reserved);
        if of_kind().count() < max {
            return true;
        }
        let may_go: Vec<(&u64, &Slot)> = of_kind().filter(|(_, slot)| slot.may_go(now)).collect();
        let mut of_home: HashMap<Home, usize> = HashMap::new();
        for (_, slot) in &may_go {
            *of_home.entry(slot.home).or_default() += 1;
        }
        let weakest = may_go
            .into_iter()
            .min_by_key(|(_, s)| (s.phase == Phase::Working, Reverse(of_home[&s.home]), s.since))
            .map(|(id, _)| *id);
        let Some(gone) = weakest.and_then(|id| self.open.remove(&id)) else { return false };
        gone.close.notify_one();
        true
    }
}

impl Place {
    /// Something moved.
    pub(crate) fn mark(&self, phase: Phase) {
        let mut all = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = all.open.get_mut(&self.id) {
            (slot.phase, slot.since) = (phase, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn home(last: u8) -> Home {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn is_told_to_go(close: &Notify) -> bool {
        use std::future::Future as _;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(close.notified()).poll(&mut context).is_ready()
    }

    /// So many connections of a home, which are all at this phase.
    fn fill(places: &Places, home: Home, count: usize, phase: Phase) -> Vec<(Place, Arc<Notify>)> {
        let enter = |_| places.enter(home, Instant::now()).expect("a place");
        let all: Vec<_> = (0..count).map(enter).collect();
        all.iter().for_each(|(place, _)| place.mark(phase));
        all
    }

    #[test]
    fn who_waits_for_his_peer_makes_room_the_longest_first() {
        for phase in [Phase::Waiting, Phase::Receiving] {
            let places = Places::default();
            let old = fill(&places, home(1), CONNECTIONS_MAX, phase);
            let (new, close) = places.enter(home(1), Instant::now()).expect("one goes");
            assert!(!new.reserved && !is_told_to_go(&close));
            let gone: Vec<bool> = old.iter().map(|(_, close)| is_told_to_go(close)).collect();
            assert_eq!(gone.iter().position(|g| *g), Some(0), "{phase:?}");
            assert_eq!(gone.iter().filter(|g| **g).count(), 1);
        }
    }

    #[test]
    fn a_flood_pushes_out_itself() {
        let places = Places::default();
        let honest = fill(&places, home(1), 3, Phase::Waiting);
        let flood = fill(&places, home(2), CONNECTIONS_MAX + 500, Phase::Receiving);
        assert!(honest.iter().all(|(_, close)| !is_told_to_go(close)));
        assert_eq!(flood.iter().filter(|(_, close)| is_told_to_go(close)).count(), 503);
    }

    #[test]
    fn while_all_work_health_has_places_of_its_own() {
        let places = Places::default();
        let working = fill(&places, home(1), CONNECTIONS_MAX, Phase::Working);
        let health = fill(&places, home(2), RESERVED_MAX, Phase::Waiting);
        assert!(health.iter().all(|(place, _)| place.reserved));
        // One more takes the place of a reserved one that waits, never of one that works.
        let (one_more, _) = places.enter(home(3), Instant::now()).expect("a reserved place");
        assert!(one_more.reserved && is_told_to_go(&health[0].1));
        assert!(working.iter().all(|(_, close)| !is_told_to_go(close)));
        health.iter().for_each(|(place, _)| place.mark(Phase::Working));
        one_more.mark(Phase::Working);
        assert!(places.enter(home(3), Instant::now()).is_none(), "all are at work");
        // What has not moved for long may go.
        let later = Instant::now() + BUSY;
        assert!(!places.enter(home(3), later).expect("a stalled one goes").0.reserved);
        drop(working);
        assert!(!places.enter(home(3), Instant::now()).expect("they have left").0.reserved);
    }
}
