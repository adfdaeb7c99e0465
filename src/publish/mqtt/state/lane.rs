//! One kind of owed messages on a connection: where it reads on, and what it makes of refusals and losses.
//!
//! ```text
//! outbox: [ 5 6 7 8 9 10 11 … ]       fetched: 8 9        next: 10
//!           `---'                      in flight: 5 6 7
//! ```
//!
//! A message on which the broker (or what stands between) drops every connection, or which it calls invalid,
//! would hold up all others of its kind for ever. It is a suspect: lost [`STRIKES`] times in a row alone in
//! flight, or called invalid once.
//!
//! ```text
//! suspect --> held back, others of its kind first --one is acknowledged--> tried again
//!    ^                                                                        |
//!    '-- lost again; at the `CONVICTIONS`th time (called invalid: at once): dead letter
//! ```
//!
//! While no other of its kind passes nothing is convicted: it may be an outage, a topic that is not allowed,
//! a setting of the broker. Then the lane waits, longer and longer, and the other kinds go on.

use super::{Action, Entry, Hold};
use crate::store::outbox::Kind;
use std::collections::VecDeque;

/// Losses in a row with a message alone in flight that make it a suspect.
pub(super) const STRIKES: u32 = 2;

/// Times that a suspect is lost after another of its kind has passed, until it is a dead letter.
pub(super) const CONVICTIONS: u32 = 3;

/// A message that may be what the connection is dropped for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pub place: u64,
    /// In a row, alone in flight.
    pub strikes: u32,
    /// The same of whatever message of its kind, since one has passed.
    pub losses: u32,
    convictions: u32,
    /// The broker has called it invalid.
    invalid: bool,
}

impl Suspect {
    const fn new(place: u64) -> Self {
        Self { place, strikes: 0, losses: 0, convictions: 0, invalid: false }
    }
}

/// One kind of owed messages.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub kind: Kind,
    /// Entries that were read and not published yet.
    pub fetched: VecDeque<u64>,
    /// Where to read on.
    pub next: u64,
    /// The outbox may hold more from `next` on.
    pub more: bool,
    /// An answer to `Fetch` is awaited; `again`: something was committed meanwhile.
    pub fetching: bool,
    again: bool,
    /// Nothing is published until the pause is over; then again from the lowest entry, as soon as the rest
    /// of what is in flight is answered.
    pub held: bool,
    pub rewind: bool,
    refusals: u32,
    /// While there is one that is not waiting, one message at a time, so that a loss has one culprit.
    pub suspect: Option<Suspect>,
    /// The suspect is held back until another was acknowledged, or no other is there.
    pub skip: bool,
}

impl Lane {
    /// The lane of a new connection; what is suspected outlives the former one.
    pub(super) fn new(kind: Kind, suspect: Option<Suspect>, actions: &mut Vec<Action>) -> Self {
        let mut lane = Self {
            kind,
            fetched: VecDeque::new(),
            next: 0,
            more: true,
            fetching: false,
            again: false,
            held: false,
            rewind: false,
            refusals: 0,
            suspect,
            skip: suspect.is_some_and(|s| s.strikes >= STRIKES || s.invalid),
        };
        if let Some(suspect) = suspect.filter(|s| s.losses >= STRIKES) {
            lane.hold(suspect.losses, Hold::Dropped, actions);
        }
        lane
    }

    pub(super) fn committed(&mut self) {
        if self.fetching {
            self.again = true;
        } else {
            self.more = true;
        }
    }

    pub(super) fn take_fetched(&mut self, places: Vec<u64>, next: u64, end: bool) {
        if !std::mem::take(&mut self.fetching) {
            return;
        }
        self.more = !end || self.again;
        self.again = false;
        if !self.rewind {
            let held_back = self.suspect.filter(|_| self.skip).map(|s| s.place);
            self.fetched.extend(places.into_iter().filter(|place| Some(*place) != held_back));
            self.next = next;
        }
    }

    /// From the lowest entry on again, when what is in flight is answered.
    pub(super) fn rewind(&mut self) {
        self.fetched.clear();
        self.rewind = true;
    }

    /// Somebody says so: no pause, nothing suspected.
    pub(super) fn retry(&mut self) {
        (self.held, self.suspect, self.skip) = (false, None, false);
        self.rewind();
    }

    pub(super) fn stop(&mut self) {
        self.fetched.clear();
        self.more = false;
    }

    /// True when it may publish.
    pub(super) const fn is_free(&self) -> bool {
        !self.held && !self.rewind
    }

    /// A loss would be blamed on its next message.
    pub(super) const fn is_on_trial(&self) -> bool {
        self.suspect.is_some() && !self.held
    }

    /// Something waits, or may wait, to be published.
    pub(super) fn has_more(&self) -> bool {
        self.more || self.fetching || !self.fetched.is_empty()
    }

    /// Prepares the next look at the lane; `in_flight`: some of it is.
    pub(super) fn turn(&mut self, in_flight: bool) {
        if !self.held && !self.rewind && !in_flight && !self.has_more() {
            if self.skip {
                self.try_the_suspect();
            } else {
                // Read to the end and answered: it is no longer owed, or too long for this connection.
                self.suspect = None;
            }
        }
        if self.rewind && !self.held && !self.fetching && !in_flight {
            (self.rewind, self.more, self.next) = (false, true, 0);
        }
    }

    pub(super) fn acknowledged(&mut self, place: u64, actions: &mut Vec<Action>) {
        self.refusals = 0;
        actions.push(Action::Remove(self.owed(place)));
        let Some(suspect) = &mut self.suspect else { return };
        suspect.losses = 0;
        if suspect.place == place {
            self.suspect = None;
            self.skip = false;
        } else if std::mem::take(&mut self.skip) {
            suspect.convictions += 1;
            suspect.strikes = STRIKES - 1;
            let Suspect { place, invalid, convictions, .. } = *suspect;
            if invalid {
                actions.push(Action::DeadLetter(self.owed(place)));
                self.suspect = None;
            } else if convictions >= CONVICTIONS {
                actions.push(Action::Poison(self.owed(place)));
                self.suspect = None;
            } else {
                self.try_the_suspect();
            }
        }
    }

    /// The broker refuses for now.
    pub(super) fn refused(&mut self, actions: &mut Vec<Action>) {
        if !self.held {
            self.refusals = self.refusals.saturating_add(1);
            self.hold(self.refusals, Hold::Refused, actions);
        }
        self.rewind();
    }

    /// The broker calls this one invalid.
    pub(super) fn invalid(&mut self, place: u64, actions: &mut Vec<Action>) {
        match self.suspect {
            // Once more, or others fare no better while it is held back.
            Some(s) if s.invalid && (s.place == place || self.skip) => self.refused(actions),
            _ => {
                let known = self.suspect.filter(|s| s.place == place).unwrap_or(Suspect::new(place));
                self.suspect = Some(Suspect { invalid: true, ..known });
                self.rewind();
            }
        }
        self.skip = true;
    }

    /// What is suspected after the connection was lost; `alone`: this one of the lane was alone in flight.
    pub(super) fn after_loss(&self, alone: Option<u64>) -> Option<Suspect> {
        let Some(lost) = alone else { return self.suspect };
        let losses = self.suspect.map_or(0, |s| s.losses).saturating_add(1);
        Some(match self.suspect {
            Some(s) if s.place == lost => Suspect { strikes: s.strikes.saturating_add(1), losses, ..s },
            // Another fared no better while it was held back: it is its turn again.
            Some(s) if self.skip => Suspect { strikes: STRIKES - 1, losses, ..s },
            _ => Suspect { strikes: 1, losses, ..Suspect::new(lost) },
        })
    }

    fn hold(&mut self, times: u32, why: Hold, actions: &mut Vec<Action>) {
        self.held = true;
        actions.push(Action::HoldFor { kind: self.kind, times, why });
    }

    fn try_the_suspect(&mut self) {
        self.skip = false;
        self.rewind();
    }

    const fn owed(&self, place: u64) -> Entry {
        Entry { kind: self.kind, place }
    }
}
