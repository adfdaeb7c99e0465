//! The session of an edge node as a machine without clock, network or disk: events go in, actions come out.
//!
//! ```text
//!          Due               Up               Subscribed           host online, or none is waited for
//! Offline -----> Connecting ----> Subscribing ----------> Waiting ---------------------------------> Born
//!    ^               |                 |                     |                                        |  Rebirth: all births again
//!    |               |                 '-- host online, or none is waited for ----------------------->|
//!    |<---- Lost ----'<------ Lost ----'<------ Lost --------'<------------ Lost ---------------------|
//!    |<-- NDEATH taken -- Dying <-- host offline -----------------------------------------------------|
//! Stopped <-- NDEATH taken -- Dying <-- Stop (from any that is connected)
//! ```
//!
//! What is owed is sent with QoS 0, for which there is no acknowledgement. So every window is followed by a fence, a
//! packet that changes nothing and that the broker answers (`driver`): as packets of a connection are read in their
//! order, its answer says that the broker has read all that was sent before it.
//!
//! ```text
//! owed --Fetch--> ready --Publish--> sent --fence answered--> [no primary host]               --Ack--> the cursor goes on
//!   ^                                 |                   '-> [primary host] held --Settled---^
//!   '---- Lost, host offline, a host that came anew: sent again, as historical ---'
//! ```
//!
//! With a primary host an entry that was read by the broker is held until the host has been online for as long as its
//! death may go unnoticed: what was sent to a host that had died is sent again.
//!
//! The limit of it: an answered fence proves that the broker has the message, not that a host has it. Without a primary
//! host a host that is away misses what is sent, and a broker may drop QoS 0 for a subscriber that is too slow for it.
//!
//! Invariants:
//! - `seq` goes on by one with each message, from 0 of NBIRTH over 255 to 0 (tck-id-payloads-nbirth-seq,
//!   tck-id-topics-nbirth-seq-num, tck-id-payloads-sequence-num-always-included,
//!   tck-id-payloads-sequence-num-req-nbirth, tck-id-payloads-sequence-num-incrementing, tck-id-payloads-dbirth-seq,
//!   tck-id-payloads-dbirth-seq-inc, tck-id-payloads-ndata-seq, tck-id-payloads-ndata-seq-inc,
//!   tck-id-payloads-ddata-seq, tck-id-payloads-ddata-seq-inc, tck-id-payloads-ddeath-seq,
//!   tck-id-payloads-ddeath-seq-inc, tck-id-payloads-ddeath-seq-number, tck-id-topics-dbirth-seq,
//!   tck-id-topics-ndata-seq-num, tck-id-topics-ddata-seq-num, tck-id-topics-ddeath-seq-num,
//!   tck-id-message-flow-edge-node-birth-publish-nbirth-payload-seq,
//!   tck-id-message-flow-device-birth-publish-dbirth-payload-seq).
//! - NBIRTH is the first message, and a DBIRTH comes before anything else of its device; those of the devices that are
//!   there follow NBIRTH at once (tck-id-principles-birth-certificates-order,
//!   tck-id-message-flow-device-birth-publish-nbirth-wait, tck-id-payloads-dbirth-order, tck-id-payloads-ndata-order,
//!   tck-id-payloads-ddata-order, tck-id-message-flow-edge-node-birth-publish-connect).
//! - An entry is acknowledged only after it was sent and a fence behind it was answered.

mod words;

pub(super) use words::{Action, Event, Out, Who};

use crate::store::outbox::Kind;
use std::collections::{BTreeSet, VecDeque};

/// Entries between two fences, at most.
pub(super) const WINDOW: usize = 32;

/// Messages that are not known to be read, at most: births and deaths come on top.
const UNREAD_MAX: usize = 64;

/// Entries that are held for a primary host, at most; then nothing owed is sent until some settle.
const HELD_MAX: usize = 65_536;

/// Answers to commands that wait for their turn; the oldest go first.
const ANSWERS_MAX: usize = 64;

/// See the module's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Offline,
    Connecting,
    Subscribing,
    Waiting,
    Born,
    Dying { stop: bool },
    Stopped,
}

/// What is known of the primary host.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    online: bool,
    /// Of its newest word that it is online.
    newest: Option<i64>,
}

/// What is read of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    next: u64,
    /// There may be more.
    open: bool,
    fetching: bool,
}

/// Entries behind one fence.
#[derive(Clone, Debug)]
struct Batch {
    fence: u64,
    places: Vec<u64>,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub(super) struct Session {
    phase: Phase,
    /// That of the newest connection; `None` before the first ever.
    bd_seq: Option<u8>,
    seq: u8,
    /// `None`: nobody is waited for.
    host: Option<Host>,
    failures: u32,
    alive: BTreeSet<String>,
    born: BTreeSet<String>,
    dirty: BTreeSet<Who>,
    answers: VecDeque<(Who, u64)>,
    lanes: [Lane; Kind::ALL.len()],
    ready: VecDeque<(u64, Who)>,
    /// Entries that were sent and are not acknowledged, and the same by their fences.
    sent: BTreeSet<u64>,
    batches: VecDeque<Batch>,
    /// The highest place that was ever sent.
    sent_to: u64,
    /// Places up to here may have been sent before.
    again_to: u64,
    /// Fences that were sent, and whether the last of them is out.
    fences: u64,
    fence_out: bool,
    /// Messages before and behind the fence that is out.
    covered: usize,
    uncovered: usize,
    /// The fence behind the newest births, and whether a host has asked for others since.
    birth_fence: u64,
    rebirth_due: bool,
}

impl Session {
    /// `bd_seq`: of the newest connection that was ever tried. `waits`: there is a primary host.
    pub(super) fn new(bd_seq: Option<u8>, waits: bool, devices: impl IntoIterator<Item = String>) -> Self {
        Self {
            phase: Phase::Offline,
            bd_seq,
            seq: 0,
            host: waits.then(Host::default),
            failures: 0,
            alive: devices.into_iter().collect(),
            born: BTreeSet::new(),
            dirty: BTreeSet::new(),
            answers: VecDeque::new(),
            lanes: Default::default(),
            ready: VecDeque::new(),
            sent: BTreeSet::new(),
            batches: VecDeque::new(),
            sent_to: 0,
            again_to: 0,
            fences: 0,
            fence_out: false,
            covered: 0,
            uncovered: 0,
            birth_fence: 0,
            rebirth_due: false,
        }
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// An entry was sent on this connection, and is not acknowledged.
    pub(super) fn has_sent(&self, place: u64) -> bool {
        self.sent.contains(&place)
    }

    /// Something was sent that the broker is not known to have read.
    pub(super) const fn awaits_broker(&self) -> bool {
        self.fence_out || matches!(self.phase, Phase::Subscribing | Phase::Dying { .. })
    }

    /// All that was owed is sent and read by the broker.
    pub(super) fn is_through(&self) -> bool {
        let lanes = self.lanes.iter().all(|lane| !lane.open && !lane.fetching);
        self.phase == Phase::Born && lanes && self.ready.is_empty() && !self.fence_out && self.uncovered == 0
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Due => self.due(&mut out),
            Event::Up => self.up(&mut out),
            Event::Subscribed => self.subscribed(&mut out),
            Event::Host { online, at } => self.host_says(online, at, &mut out),
            Event::Rebirth => self.rebirth(&mut out),
            Event::Changed(who) => self.changed(who),
            Event::Answered { who, id } => self.answered(who, id),
            Event::Alive(device) => self.device_is_alive(device, &mut out),
            Event::Dead(device) => self.device_is_dead(&device, &mut out),
            Event::Committed(kind) => self.lanes[kind as usize].open = true,
            Event::Retried => self.read_anew(),
            Event::Fetched { kind, entries, next, end } => self.fetched(kind, entries, next, end),
            Event::Fenced => self.fenced(&mut out),
            Event::Settled(fence) => self.settled(fence, &mut out),
            Event::DeathTaken => self.death_taken(&mut out),
            Event::Lost => self.lost(&mut out),
            Event::Stop => self.stop(&mut out),
        }
        if self.phase == Phase::Born {
            self.pump(&mut out);
        }
        out
    }

    /// The number goes on with each attempt, as nobody knows whether a CONNECT that failed had reached the broker
    /// (tck-id-topics-nbirth-bdseq-increment, tck-id-payloads-ndeath-bdseq).
    fn due(&mut self, out: &mut Vec<Action>) {
        if self.phase == Phase::Offline {
            let bd_seq = self.bd_seq.map_or(0, |last| last.wrapping_add(1));
            self.bd_seq = Some(bd_seq);
            self.phase = Phase::Connecting;
            out.push(Action::Connect { bd_seq });
        }
    }

    fn up(&mut self, out: &mut Vec<Action>) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Subscribing;
            out.push(Action::Subscribe);
        }
    }

    fn subscribed(&mut self, out: &mut Vec<Action>) {
        if self.phase == Phase::Subscribing {
            self.phase = Phase::Waiting;
            self.failures = 0;
            self.birth_if_awaited(out);
        }
    }

    /// Births wait for the host (tck-id-message-flow-edge-node-birth-publish-phid-wait,
    /// tck-id-message-flow-edge-node-birth-publish-phid-wait-online,
    /// tck-id-operational-behavior-edge-node-birth-sequence-wait).
    fn birth_if_awaited(&mut self, out: &mut Vec<Action>) {
        if self.phase == Phase::Waiting && self.host.is_none_or(|host| host.online) {
            self.read_anew();
            self.births(out);
            self.phase = Phase::Born;
        }
    }

    /// A word that is older than the newest "online" is of a session of the host that is over
    /// (tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp,
    /// tck-id-operational-behavior-edge-node-termination-host-offline-timestamp).
    fn host_says(&mut self, online: bool, at: i64, out: &mut Vec<Action>) {
        let Some(host) = self.host.as_mut() else { return };
        if host.newest.is_some_and(|newest| at < newest) {
            return;
        }
        if online {
            let is_new = host.newest.is_some_and(|newest| at > newest);
            *host = Host { online, newest: Some(at) };
            if self.phase == Phase::Born && is_new {
                // It was away, and nobody has said so.
                self.send_again();
            }
            self.birth_if_awaited(out);
        } else {
            host.online = false;
            // tck-id-message-flow-edge-node-birth-publish-phid-offline,
            // tck-id-operational-behavior-edge-node-termination-host-offline,
            // tck-id-operational-behavior-edge-node-termination-host-offline-reconnect: there is one broker, and so it
            // is the next one. Who only waits has no session that could end.
            if self.phase == Phase::Born {
                self.die(false, out);
            }
        }
    }

    /// No data until then (tck-id-operational-behavior-data-commands-rebirth-action-1,
    /// tck-id-operational-behavior-data-commands-rebirth-action-2). While births are on their way the next wait for them,
    /// so that who asks without end gets one set of births for each answer of the broker.
    fn rebirth(&mut self, out: &mut Vec<Action>) {
        if self.phase != Phase::Born {
            return;
        }
        self.rebirth_due = self.fences_answered() < self.birth_fence;
        if !self.rebirth_due {
            self.births(out);
        }
    }

    /// With the number of the will (tck-id-topics-nbirth-bdseq-matching, tck-id-payloads-nbirth-bdseq-repeat,
    /// tck-id-operational-behavior-data-commands-rebirth-action-3,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-payload-bdSeq).
    fn births(&mut self, out: &mut Vec<Action>) {
        self.seq = 0;
        self.born.clear();
        self.dirty.clear();
        self.rebirth_due = false;
        self.birth_fence = self.fences + 1;
        let bd_seq = self.bd_seq.unwrap_or_default();
        self.publish(Out::NodeBirth { bd_seq }, out);
        for device in self.alive.clone() {
            self.give_birth(&device, out);
        }
    }

    fn give_birth(&mut self, device: &str, out: &mut Vec<Action>) {
        if self.born.insert(device.to_owned()) {
            self.dirty.remove(&Who::Device(device.to_owned()));
            self.publish(Out::DeviceBirth(device.to_owned()), out);
        }
    }

    fn publish(&mut self, what: Out, out: &mut Vec<Action>) {
        out.push(Action::Publish { seq: self.seq, what });
        self.seq = self.seq.wrapping_add(1);
        self.uncovered += 1;
    }

    fn changed(&mut self, who: Who) {
        // A birth brings what changes before it.
        let is_born = match &who {
            Who::Node => true,
            Who::Device(device) => self.born.contains(device),
        };
        if self.phase == Phase::Born && is_born {
            self.dirty.insert(who);
        }
    }

    fn answered(&mut self, who: Who, id: u64) {
        if self.phase == Phase::Born {
            self.answers.push_back((who, id));
            if self.answers.len() > ANSWERS_MAX {
                self.answers.pop_front();
            }
        }
    }

    fn device_is_alive(&mut self, device: String, out: &mut Vec<Action>) {
        if self.phase == Phase::Born {
            self.give_birth(&device, out);
        }
        self.alive.insert(device);
    }

    /// Its last state says why (tck-id-operational-behavior-device-ddeath).
    fn device_is_dead(&mut self, device: &str, out: &mut Vec<Action>) {
        self.alive.remove(device);
        if self.phase == Phase::Born && self.born.contains(device) {
            let who = Who::Device(device.to_owned());
            if self.dirty.remove(&who) {
                self.publish(Out::State(who), out);
            }
            self.born.remove(device);
            self.publish(Out::DeviceDeath(device.to_owned()), out);
        }
    }

    fn fetched(&mut self, kind: Kind, entries: Vec<(u64, Who)>, next: u64, end: bool) {
        let lane = &mut self.lanes[kind as usize];
        if !lane.fetching {
            // It was read for a connection that is gone.
            return;
        }
        *lane = Lane { next, open: !end, fetching: false };
        for (place, who) in entries {
            let waits = self.ready.iter().any(|(known, _)| *known == place);
            if !waits && !self.sent.contains(&place) {
                self.ready.push_back((place, who));
            }
        }
    }

    fn fenced(&mut self, out: &mut Vec<Action>) {
        if !self.fence_out {
            return;
        }
        self.fence_out = false;
        self.covered = 0;
        let fence = self.fences;
        if self.host.is_none() {
            self.ack_through(fence, out);
        } else if self.batches.iter().any(|batch| batch.fence == fence) {
            out.push(Action::SettleAfter(fence));
        }
        if self.rebirth_due {
            self.rebirth(out);
        }
    }

    fn settled(&mut self, fence: u64, out: &mut Vec<Action>) {
        if self.host.is_some_and(|host| host.online) {
            self.ack_through(fence, out);
        }
    }

    fn ack_through(&mut self, fence: u64, out: &mut Vec<Action>) {
        let mut places = Vec::new();
        while self.batches.front().is_some_and(|batch| batch.fence <= fence) {
            places.extend(self.batches.pop_front().map(|batch| batch.places).unwrap_or_default());
        }
        places.iter().for_each(|place| _ = self.sent.remove(place));
        if !places.is_empty() {
            out.push(Action::Ack(places));
        }
    }

    /// What is not acknowledged is owed as before.
    fn send_again(&mut self) {
        self.again_to = self.sent_to;
        self.sent.clear();
        self.batches.clear();
        self.read_anew();
    }

    fn read_anew(&mut self) {
        for lane in &mut self.lanes {
            *lane = Lane { next: 0, open: true, fetching: false };
        }
        self.ready.clear();
    }

    /// tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath,
    /// tck-id-payloads-ndeath-will-message-publisher
    fn die(&mut self, stop: bool, out: &mut Vec<Action>) {
        out.push(Action::Die { bd_seq: self.bd_seq.unwrap_or_default() });
        self.phase = Phase::Dying { stop };
    }

    /// Its acknowledgement is that of all that went before it.
    fn death_taken(&mut self, out: &mut Vec<Action>) {
        let Phase::Dying { stop } = self.phase else { return };
        if self.host.is_none() {
            self.ack_through(u64::MAX, out);
        }
        out.push(Action::Leave);
        self.over(stop, out);
    }

    fn lost(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Offline | Phase::Stopped => {}
            phase => {
                out.push(Action::Close);
                self.over(matches!(phase, Phase::Dying { stop: true }), out);
            }
        }
    }

    fn over(&mut self, stop: bool, out: &mut Vec<Action>) {
        self.send_again();
        self.born.clear();
        self.dirty.clear();
        self.answers.clear();
        (self.fence_out, self.covered, self.uncovered, self.rebirth_due) = (false, 0, 0, false);
        if let Some(host) = self.host.as_mut() {
            host.online = false;
        }
        if stop {
            self.phase = Phase::Stopped;
        } else {
            self.phase = Phase::Offline;
            self.failures += 1;
            out.push(Action::RetryAfter { failures: self.failures });
        }
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Offline => self.phase = Phase::Stopped,
            Phase::Connecting => {
                out.push(Action::Close);
                self.over(true, out);
            }
            Phase::Subscribing | Phase::Waiting | Phase::Born => self.die(true, out),
            Phase::Dying { .. } => self.phase = Phase::Dying { stop: true },
            Phase::Stopped => {}
        }
    }

    /// Sends what may be sent, and asks for more.
    fn pump(&mut self, out: &mut Vec<Action>) {
        if !self.rebirth_due {
            self.say(out);
            self.send(out);
        }
        if self.uncovered > 0 && !self.fence_out {
            self.fences += 1;
            self.fence_out = true;
            (self.covered, self.uncovered) = (self.uncovered, 0);
            out.push(Action::Fence);
        }
        self.fetch(out);
    }

    /// Entries, as long as not too many are unread or held.
    fn send(&mut self, out: &mut Vec<Action>) {
        let mut places = Vec::new();
        let unread = self.entries_unread();
        while unread + places.len() < WINDOW && self.sent.len() < HELD_MAX {
            let Some((place, who)) = self.ready.pop_front() else { break };
            if let Who::Device(device) = &who {
                self.give_birth(device, out);
            }
            let again = place <= self.again_to;
            self.publish(Out::Entry { place, who, again }, out);
            self.sent.insert(place);
            self.sent_to = self.sent_to.max(place);
            places.push(place);
        }
        self.note_sent(places);
    }

    /// Answers and states, as long as not too many are unread.
    fn say(&mut self, out: &mut Vec<Action>) {
        while self.covered + self.uncovered < UNREAD_MAX {
            if let Some((who, id)) = self.answers.pop_front() {
                if let Who::Device(device) = &who {
                    self.give_birth(device, out);
                }
                self.publish(Out::Answer(id), out);
            } else if let Some(who) = self.dirty.pop_first() {
                self.publish(Out::State(who), out);
            } else {
                break;
            }
        }
    }

    /// They stand behind the last fence, and so before the next one.
    fn note_sent(&mut self, places: Vec<u64>) {
        let fence = self.fences + 1;
        if places.is_empty() {
            return;
        }
        match self.batches.back_mut().filter(|batch| batch.fence == fence) {
            Some(batch) => batch.places.extend(places),
            None => self.batches.push_back(Batch { fence, places }),
        }
    }

    /// Entries whose fence was not answered.
    fn entries_unread(&self) -> usize {
        let answered = self.fences_answered();
        let unread = self.batches.iter().rev().take_while(|batch| batch.fence > answered);
        unread.map(|batch| batch.places.len()).sum()
    }

    fn fences_answered(&self) -> u64 {
        self.fences - u64::from(self.fence_out)
    }

    fn fetch(&mut self, out: &mut Vec<Action>) {
        let room = WINDOW.saturating_sub(self.ready.len());
        for kind in Kind::ALL {
            let lane = &mut self.lanes[kind as usize];
            if room > 0 && lane.open && !lane.fetching {
                lane.fetching = true;
                out.push(Action::Fetch { kind, from: lane.next, count: room });
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
