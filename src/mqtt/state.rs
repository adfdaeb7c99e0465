//! The connection and its window on the outbox, as a machine without clock, network or disk:
//! events go in, actions come out, `mod.rs` carries them out.
//!
//!              Due                Connected              outbox read to its end, all acknowledged
//!     Offline -----> Connecting ------------> CatchingUp ----------------------------> Live
//!        ^               |                     |  ^  ^ '------- publish refused -------'|
//!        |---- Lost -----'<------- Lost -------'  |  '--.                               |
//!        '<--------------------------- Lost ------|-----|-------------------------------'
//!                                                 |  HoldOver: again from the lowest
//!                                                 '-- refused: hold, send no results
//!     any --Stop--> Stopping --all acknowledged--> Stopped
//!
//! In flight is a queue in the order of publishing; its front is the oldest message that is not
//! acknowledged. Packet ids come back from the client in that same order.
//!
//!     outbox: [ 5 6 7 8 9 10 11 … ]       fetched: 8 9
//!               `---'                      in flight: 5(pkid 3) 6(pkid 4, acked) 7(not yet sent)
//!
//! After a failure a connection begins with one message in flight at a time, until a result is
//! acknowledged: some brokers (mosquitto 2.0.11 is one) refuse a message and then close, and what
//! else is on its way to a closed socket destroys the answer that says why.
//!
//! A message on which the broker (or what stands between) drops every connection would hold up all
//! others for ever. A result that was alone in flight at `STRIKES` losses in a row is a suspect:
//!
//!     suspect --next connection--> held back, others first --one is acknowledged--> tried again
//!        ^                                                                            |
//!        '------- lost again; at the `CONVICTIONS`th time: dead letter <--------------'
//!
//! So an outage, in which no other message passes either, convicts nothing.
//!
//! Invariants:
//! - Results are published in the order of the outbox, none left out but a suspect, on every
//!   connection anew from the lowest entry.
//! - The queue in flight, acknowledged ones behind its front included, is never longer than the
//!   window: so packet ids, which cycle through more numbers than that, never collide.
//! - An entry leaves the outbox only on a PUBACK that says success (or as a dead letter).

use std::collections::{BTreeSet, VecDeque};

/// Losses in a row with a result alone in flight that make it a suspect.
const STRIKES: u32 = 2;

/// Times that a suspect is lost after another result has passed, until it is a dead letter.
const CONVICTIONS: u32 = 3;

/// A result that may be what the connection is dropped for.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    seq: u64,
    strikes: u32,
    convictions: u32,
}

/// Messages that are not results: the newest state of something, retained by the broker. Only the
/// newest payload matters, so many changes of one thing take one place. Ordered by importance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Status,
    /// `camera/…`, `alarm/…`: the whole topic.
    Topic(String),
    Last,
    /// Not retained, and owed until it is acknowledged; a broker that refuses them does not hold the
    /// results back.
    Owed(Owed),
}

/// What the store owes beside results, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owed {
    /// An operator's decision.
    Review(u64),
    /// The verdict about a part with several views.
    Part(u64),
}

/// One message that needs an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Side(Side),
    /// The result with this sequence number.
    Result(u64),
}

/// What a PUBACK says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Refused for now: not authorised, quota, unspecified. Sent again after a pause.
    Later,
    /// This very message will never be accepted: topic or payload invalid.
    Never,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to connect.
    Due,
    /// The broker accepted us; at most `window` messages may be in flight.
    Connected {
        window: usize,
    },
    /// The connection failed, broke, or made no progress for too long.
    Lost,
    /// Something new is in the store.
    Committed,
    /// Answer to `Action::Fetch`: entries that can be published, where to go on, and whether the
    /// outbox ended there.
    Fetched {
        seqs: Vec<u64>,
        next: u64,
        end: bool,
    },
    /// A message that is no result has a new payload.
    Changed(Side),
    /// The client gave the next message its packet id and wrote it to the network.
    Sent {
        pkid: u16,
    },
    Acked {
        pkid: u16,
        outcome: Outcome,
    },
    /// The pause after a refusal is over.
    HoldOver,
    /// Say goodbye.
    Stop,
}

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a fresh client and connect.
    Connect,
    /// Drop the client.
    Close,
    /// Send DISCONNECT, then drop the client.
    Leave,
    /// `Due` after the backoff of this many failures in a row.
    RetryAfter {
        failures: u32,
    },
    /// `HoldOver` after the backoff of this many refusals in a row.
    HoldFor {
        refusals: u32,
    },
    /// Read up to `count` entries of the outbox from `from` on.
    Fetch {
        from: u64,
        count: usize,
    },
    Publish(What),
    /// Acknowledged: remove the entry.
    Remove(u64),
    /// Acknowledged: it is no longer owed.
    RemoveOwed(Owed),
    /// The broker says that it will never take it: move the entry to the dead letters.
    DeadLetter(u64),
    /// Every connection is dropped on it while others pass: the same.
    Poison(u64),
    /// The broker refused a message that is no result; it is sent again when it changes.
    SideRefused(Side),
}

#[derive(Clone, Debug)]
struct Flight {
    what: What,
    pkid: Option<u16>,
    acked: bool,
}

/// One connection.
#[derive(Clone, Debug, Default)]
struct Session {
    window: usize,
    /// Connection failures before this one; 0 as soon as a result was acknowledged. While it is not
    /// 0, one message at a time.
    failures: u32,
    in_flight: VecDeque<Flight>,
    dirty: BTreeSet<Side>,
    /// Entries that were read and not published yet.
    fetched: VecDeque<u64>,
    /// Where to read on.
    next: u64,
    /// The outbox may hold more from `next` on.
    more: bool,
    /// An answer to `Fetch` is awaited; `again`: something was committed meanwhile.
    fetching: bool,
    again: bool,
    /// A result was published on this connection since `last` was; at its beginning the driver asks
    /// for `last` in any case, because the former connection may have ended between the two.
    last_is_stale: bool,
    /// A result was refused: nothing is published until the pause is over and the rest of what is
    /// in flight is answered; then again from the lowest entry.
    held: bool,
    rewind: bool,
    refusals: u32,
    /// While there is one, one message at a time, so that a loss has one culprit.
    suspect: Option<Suspect>,
    /// The suspect is held back until another result was acknowledged, or no other is there.
    skip: bool,
}

#[derive(Clone, Debug)]
enum State {
    Offline { failures: u32, suspect: Option<Suspect> },
    Connecting { failures: u32, suspect: Option<Suspect> },
    CatchingUp(Session),
    Live(Session),
    Stopping(Session),
    Stopped,
}

/// The state in a word, for health and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Offline,
    Connecting,
    CatchingUp,
    Live,
    Stopping,
    Stopped,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: State::Offline { failures: 0, suspect: None } }
    }
}

impl Machine {
    /// The state in a word.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Offline { .. } => Phase::Offline,
            State::Connecting { .. } => Phase::Connecting,
            State::CatchingUp(_) => Phase::CatchingUp,
            State::Live(_) => Phase::Live,
            State::Stopping(_) => Phase::Stopping,
            State::Stopped => Phase::Stopped,
        }
    }

    /// Messages that are published and not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        match &self.state {
            State::CatchingUp(s) | State::Live(s) | State::Stopping(s) => {
                s.in_flight.iter().filter(|f| !f.acked).count()
            }
            State::Offline { .. } | State::Connecting { .. } | State::Stopped => 0,
        }
    }

    /// Takes in one event. Events that have no meaning in the present state change nothing.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Offline { failures, suspect } => offline(failures, suspect, &event, &mut actions),
            State::Connecting { failures, suspect } => connecting(failures, suspect, &event, &mut actions),
            State::CatchingUp(session) => connected(session, false, event, &mut actions),
            State::Live(session) => connected(session, true, event, &mut actions),
            State::Stopping(session) => stopping(session, event, &mut actions),
            State::Stopped => State::Stopped,
        };
        actions
    }
}

fn offline(failures: u32, suspect: Option<Suspect>, event: &Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Due => {
            actions.push(Action::Connect);
            State::Connecting { failures, suspect }
        }
        Event::Stop => State::Stopped,
        _ => State::Offline { failures, suspect },
    }
}

fn connecting(failures: u32, suspect: Option<Suspect>, event: &Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Connected { window } => {
            let skip = suspect.is_some_and(|s| s.strikes >= STRIKES);
            let window = *window;
            let mut session = Session { window, failures, suspect, skip, more: true, ..Session::default() };
            session.dirty.insert(Side::Status);
            session.pump(actions);
            session.rest(false)
        }
        Event::Lost => lose(failures, suspect, actions),
        Event::Stop => {
            actions.push(Action::Close);
            State::Stopped
        }
        _ => State::Connecting { failures, suspect },
    }
}

fn connected(mut session: Session, live: bool, event: Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Lost => return session.lost(actions),
        Event::Stop => {
            session.fetched.clear();
            session.more = false;
            session.dirty.insert(Side::Status);
            session.publish_sides(actions);
            return session.leave_when_done(actions);
        }
        Event::Committed if session.fetching => session.again = true,
        Event::Committed => session.more = true,
        Event::Fetched { seqs, next, end } => session.take_fetched(seqs, next, end),
        Event::Changed(side) => {
            session.dirty.insert(side);
        }
        Event::Sent { pkid } => {
            if !session.sent(pkid) {
                return lose(session.failures, session.suspect, actions);
            }
        }
        Event::Acked { pkid, outcome } => session.acked(pkid, outcome, actions),
        Event::HoldOver => session.held = false,
        Event::Due | Event::Connected { .. } => {}
    }
    session.pump(actions);
    session.rest(live)
}

fn stopping(mut session: Session, event: Event, actions: &mut Vec<Action>) -> State {
    match event {
        Event::Lost => {
            actions.push(Action::Close);
            return State::Stopped;
        }
        Event::Sent { pkid } => {
            session.sent(pkid);
        }
        Event::Acked { pkid, outcome } => session.acked(pkid, outcome, actions),
        Event::Changed(side) => {
            session.dirty.insert(side);
        }
        Event::Due
        | Event::Connected { .. }
        | Event::Committed
        | Event::Fetched { .. }
        | Event::HoldOver
        | Event::Stop => {}
    }
    session.publish_sides(actions);
    session.leave_when_done(actions)
}

fn lose(failures: u32, suspect: Option<Suspect>, actions: &mut Vec<Action>) -> State {
    let failures = failures.saturating_add(1);
    actions.extend([Action::Close, Action::RetryAfter { failures }]);
    State::Offline { failures, suspect }
}

impl Session {
    /// The end of the connection; a result that was alone in flight may be its cause.
    fn lost(self, actions: &mut Vec<Action>) -> State {
        let mut waiting = self.in_flight.iter().filter(|f| !f.acked).map(|f| &f.what);
        let suspect = match (waiting.next(), waiting.next(), self.suspect) {
            (Some(What::Result(seq)), None, Some(s)) if s.seq == *seq => {
                Some(Suspect { strikes: s.strikes.saturating_add(1), ..s })
            }
            (Some(What::Result(seq)), None, None) => Some(Suspect { seq: *seq, strikes: 1, convictions: 0 }),
            // Others fared no better while it was held back: it is its turn again.
            (_, _, Some(s)) if self.skip => Some(Suspect { strikes: STRIKES - 1, ..s }),
            (_, _, suspect) => suspect,
        };
        lose(self.failures, suspect, actions)
    }

    /// What an acknowledged result means for the suspect.
    fn acquit_or_convict(&mut self, acknowledged: u64, actions: &mut Vec<Action>) {
        let Some(suspect) = &mut self.suspect else { return };
        if suspect.seq == acknowledged {
            self.suspect = None;
            self.skip = false;
        } else if std::mem::take(&mut self.skip) {
            suspect.convictions += 1;
            suspect.strikes = STRIKES - 1;
            if suspect.convictions >= CONVICTIONS {
                actions.push(Action::Poison(suspect.seq));
                self.suspect = None;
            } else {
                self.try_the_suspect();
            }
        }
    }

    fn try_the_suspect(&mut self) {
        self.skip = false;
        self.fetched.clear();
        self.rewind = true;
    }

    /// The client hands out packet ids in the order in which we published. False: we published
    /// nothing that lacks an id, so client and machine no longer agree.
    fn sent(&mut self, pkid: u16) -> bool {
        match self.in_flight.iter_mut().find(|f| f.pkid.is_none()) {
            Some(flight) => {
                flight.pkid = Some(pkid);
                true
            }
            None => false,
        }
    }

    fn acked(&mut self, pkid: u16, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(flight) = self.in_flight.iter_mut().find(|f| f.pkid == Some(pkid) && !f.acked) else {
            return;
        };
        flight.acked = true;
        match (flight.what.clone(), outcome) {
            (What::Result(seq), Outcome::Success) => {
                self.failures = 0;
                self.refusals = 0;
                actions.push(Action::Remove(seq));
                self.acquit_or_convict(seq, actions);
            }
            (What::Result(seq), Outcome::Never) => {
                self.suspect = self.suspect.filter(|s| s.seq != seq);
                actions.push(Action::DeadLetter(seq));
            }
            (What::Result(_), Outcome::Later) => {
                self.fetched.clear();
                self.rewind = true;
                if !self.held {
                    self.held = true;
                    self.refusals = self.refusals.saturating_add(1);
                    actions.push(Action::HoldFor { refusals: self.refusals });
                }
            }
            (What::Side(Side::Owed(owed)), Outcome::Success) => actions.push(Action::RemoveOwed(owed)),
            (What::Side(_), Outcome::Success) => {}
            (What::Side(side), Outcome::Later | Outcome::Never) => actions.push(Action::SideRefused(side)),
        }
        while self.in_flight.front().is_some_and(|f| f.acked) {
            self.in_flight.pop_front();
        }
    }

    fn take_fetched(&mut self, seqs: Vec<u64>, next: u64, end: bool) {
        if !std::mem::take(&mut self.fetching) {
            return;
        }
        self.more = !end || self.again;
        self.again = false;
        if !self.rewind {
            let held_back = self.suspect.filter(|_| self.skip).map(|s| s.seq);
            self.fetched.extend(seqs.into_iter().filter(|seq| Some(*seq) != held_back));
            self.next = next;
        }
    }

    fn results_in_flight(&self) -> bool {
        self.in_flight.iter().any(|f| !f.acked && matches!(f.what, What::Result(_)))
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < if self.failures == 0 && self.suspect.is_none() { self.window } else { 1 }
    }

    fn publish(&mut self, what: What, actions: &mut Vec<Action>) {
        actions.push(Action::Publish(what.clone()));
        self.in_flight.push_back(Flight { what, pkid: None, acked: false });
    }

    fn publish_sides(&mut self, actions: &mut Vec<Action>) {
        while self.has_room() {
            let Some(side) = self.dirty.pop_first() else { break };
            self.publish(What::Side(side), actions);
        }
    }

    /// Fills the window: first what is no result (it is little and always the newest), then results.
    fn pump(&mut self, actions: &mut Vec<Action>) {
        let others = self.more || self.fetching || !self.fetched.is_empty() || self.results_in_flight();
        if self.skip && !others {
            self.try_the_suspect();
        }
        if self.rewind && !self.held && !self.fetching && !self.results_in_flight() {
            self.rewind = false;
            self.next = 0;
            self.more = true;
        }
        let results_may_go = !self.held && !self.rewind;
        self.publish_sides(actions);
        while results_may_go && self.has_room() {
            let Some(seq) = self.fetched.pop_front() else { break };
            self.publish(What::Result(seq), actions);
            self.last_is_stale = true;
        }
        if !results_may_go || !self.fetched.is_empty() || self.fetching {
            return;
        }
        if self.more {
            if self.has_room() {
                self.fetching = true;
                actions.push(Action::Fetch { from: self.next, count: self.window - self.in_flight.len() });
            }
        } else if std::mem::take(&mut self.last_is_stale) {
            self.dirty.insert(Side::Last);
            self.publish_sides(actions);
        }
    }

    /// Live once the outbox was read to its end and all of it acknowledged; from then on until a
    /// refusal or the end of the connection.
    fn rest(self, live: bool) -> State {
        let refused = self.held || self.rewind || self.skip;
        let behind = self.more || self.fetching || !self.fetched.is_empty() || self.results_in_flight();
        if refused || (behind && !live) {
            State::CatchingUp(self)
        } else {
            State::Live(self)
        }
    }

    fn leave_when_done(self, actions: &mut Vec<Action>) -> State {
        if self.dirty.is_empty() && self.in_flight.is_empty() {
            actions.push(Action::Leave);
            State::Stopped
        } else {
            State::Stopping(self)
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
