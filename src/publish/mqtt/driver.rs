//! Carries out what the state machine decides: timers, disk reads, the client.
//!
//! ```text
//! network, store, station, timer, stop --> inbox --> machine --> actions, carried out in order
//!                                            ^---- answers, own alarms ----'
//! ```
//!
//! Disk reads run on the blocking pool, so that a slow disk does not stop the keep-alive.
//!
//! Invariants:
//! - Only this task publishes, and only in the order in which the machine decided, so that the
//!   client's packet ids come in the order of the machine's queue. Hence one inbox: what comes up
//!   while actions are carried out waits until they are done.
//! - At most a window of built messages of each kind is in memory, however long the outbox is.
//! - Nothing that is longer than the broker takes is given to the client, which would end the connection.

mod alarms;
mod away;
mod images;
mod last;

use super::dialect::{self, Dialect, Message};
use super::link::{
    CLIENT_INFLIGHT_MAX, Link, LinkEvent, PAYLOAD_BYTES_MAX, PUBLISH_OVERHEAD_BYTES, TOPIC_BYTES_MAX,
};
use super::owed::{self, Read};
use super::state::{Action, Entry, Event, Hold, Machine, Phase, Side, What};
use super::{MqttError, MqttOptions, Report, StationEvent};
use crate::publish::StationState;
use crate::store::Store;
use crate::store::outbox::{Cause, Kind};
use alarms::Held;
use away::Away;
use images::Images;
use rand::Rng as _;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Messages in flight at most; the broker may ask for fewer.
const WINDOW: usize = 32;
const _: () = assert!(WINDOW < CLIENT_INFLIGHT_MAX as usize, "packet ids must not collide");

/// Wait before the first new attempt, doubled with every further failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The longest pause of a kind on which every connection is dropped: each try costs the others a connection.
const DROPPED_WAIT_MAX: Duration = Duration::from_mins(5);

/// So many losses in a row with the same kind alone in flight are an alarm.
const DROPPED_ALARM: u32 = 3;

/// Without an acknowledgement for so long, while some are due, the connection counts as broken:
/// keep-alive alone does not notice a broker that answers pings and nothing else.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(20);

/// The longest goodbye.
pub(super) const STOP_WAIT: Duration = Duration::from_secs(5);

/// Cameras (their state, their newest result) and alarms of which the newest is kept for the next connect.
const RETAINED_MAX: usize = 512;

/// Network events that are taken in before the removals are written.
const BATCH_MAX: usize = 64;

/// Why messages are given up.
const INVALID: &str = "the broker calls it invalid, and takes others of its kind";
const POISON: &str = "every connection is dropped on it, and others of its kind pass";

pub(super) struct Driver {
    options: MqttOptions,
    dialect: Arc<dyn Dialect>,
    /// Passes the alarms about this sink on to the other sinks.
    others: Option<Report>,
    store: Arc<Store>,
    machine: Machine,
    inbox: VecDeque<Event>,
    phase: watch::Sender<Phase>,
    link: Option<Link>,
    /// Largest packet that client and broker take, and whether the broker retains.
    packet_bytes_max: usize,
    broker_retains: bool,
    /// Payloads of what is fetched and not published yet.
    payloads: BTreeMap<Entry, Vec<u8>>,
    /// Newest payload of every camera and alarm, by topic.
    retained: BTreeMap<String, Vec<u8>>,
    acknowledged: Vec<u64>,
    /// Why kinds pause, while the alarm is raised.
    refused: BTreeMap<Kind, String>,
    /// By kind; `held_reported`: how many the alarm names.
    held: [Held; Kind::ALL.len()],
    held_reported: usize,
    /// Dead letters may fit the connection that was just made.
    dead_due: bool,
    away: Away,
    /// `None`: the sink wants no pictures, or its broker takes none.
    images: Option<Images>,
    /// Number of the newest inspection that `last` has looked at.
    seen: u64,
    stopping: bool,
    connected_at: SystemTime,
    retry_at: Option<Instant>,
    /// By kind.
    hold_until: [Option<Instant>; Kind::ALL.len()],
    /// When something was last acknowledged, or began to wait for it.
    progress_at: Instant,
    stop_by: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        options: MqttOptions,
        store: Arc<Store>,
        phase: watch::Sender<Phase>,
        others: Option<Report>,
    ) -> Self {
        let now = Instant::now();
        let images = options.images_px.map(Images::new);
        Self {
            dialect: dialect::json(&options.prefix),
            options,
            others,
            store,
            machine: Machine::default(),
            inbox: VecDeque::new(),
            phase,
            link: None,
            packet_bytes_max: usize::MAX,
            broker_retains: true,
            payloads: BTreeMap::new(),
            retained: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: BTreeMap::new(),
            held: Default::default(),
            held_reported: 0,
            dead_due: false,
            away: Away::default(),
            images,
            seen: 0,
            stopping: false,
            connected_at: SystemTime::now(),
            retry_at: Some(now),
            hold_until: Default::default(),
            progress_at: now,
            stop_by: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<StationEvent>,
        mut retried: watch::Receiver<u64>,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), MqttError> {
        let mut committed = self.store.subscribe();
        let mut reviewed = self.store.subscribe_reviews();
        let mut decided = self.store.subscribe_parts();
        self.report_dead_letters().await?;
        self.clear_alarms();
        let mut events_open = true;
        while self.machine.phase() != Phase::Stopped {
            let deadline = self.next_deadline();
            tokio::select! {
                event = next_link_event(&mut self.link) => self.link_events(event),
                Ok(()) = committed.changed() => self.inbox.push_back(Event::Committed(Kind::Result)),
                Ok(()) = reviewed.changed() => self.inbox.push_back(Event::Committed(Kind::Review)),
                Ok(()) = decided.changed() => self.inbox.push_back(Event::Committed(Kind::Part)),
                Ok(()) = retried.changed() => self.dead_letters_are_owed().await?,
                event = events.recv(), if events_open => match event {
                    Some(event) => self.station_event(event),
                    None => events_open = false,
                },
                // A dropped handle aborts this task, so the end of the channel means stop, too.
                _ = &mut stop, if !self.stopping => self.begin_to_stop(),
                made = images::made(&mut self.images) => self.image_made(made),
                () = sleep_until(deadline) => self.timers(),
            }
            self.settle().await?;
            let phase = self.machine.phase();
            self.phase.send_if_modified(|known| std::mem::replace(known, phase) != phase);
        }
        Ok(())
    }

    fn begin_to_stop(&mut self) {
        self.stopping = true;
        self.connected_at = SystemTime::now();
        self.stop_by = Some(Instant::now() + STOP_WAIT);
        self.inbox.push_back(Event::Stop);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ack_by = (self.machine.unacknowledged() > 0).then(|| self.progress_at + ACK_WAIT);
        let own = [self.retry_at, ack_by, self.stop_by];
        own.into_iter().chain(self.hold_until).flatten().min()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.stop_by) {
            tracing::warn!("the broker did not acknowledge in time; the rest stays in the outbox");
            self.inbox.push_back(Event::Lost);
            return;
        }
        if due(self.retry_at) {
            self.retry_at = None;
            self.inbox.push_back(Event::Due);
        }
        for kind in Kind::ALL {
            if due(self.hold_until[kind as usize]) {
                self.hold_until[kind as usize] = None;
                self.inbox.push_back(Event::HoldOver(kind));
            }
        }
        if self.machine.unacknowledged() > 0 && self.progress_at + ACK_WAIT <= now {
            tracing::warn!(wait_s = ACK_WAIT.as_secs(), "no acknowledgement from the broker");
            self.inbox.push_back(Event::Lost);
        }
    }

    /// Takes in a network event and those that already wait behind it, so that their removals are
    /// written together.
    fn link_events(&mut self, first: LinkEvent) {
        self.link_event(first);
        for _ in 1..BATCH_MAX {
            match self.link.as_mut().and_then(|l| l.events.try_recv().ok()) {
                Some(event) => self.link_event(event),
                None => break,
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { receive_max, packet_bytes_max, retain } => {
                self.up(receive_max, packet_bytes_max, retain);
            }
            LinkEvent::Subscribed { .. } | LinkEvent::Unsubscribed | LinkEvent::Heard(_) => {}
            LinkEvent::Sent(pkid) => self.inbox.push_back(Event::Sent { pkid }),
            LinkEvent::Acked(pkid, outcome) => {
                self.progress_at = Instant::now();
                self.inbox.push_back(Event::Acked { pkid, outcome });
            }
            LinkEvent::Down(reason) => {
                tracing::debug!(sink = self.options.sink, reason, broker = %self.broker(), "no connection to the broker");
                if !self.stopping {
                    self.away.down(&reason, Instant::now());
                }
                self.inbox.push_back(Event::Lost);
            }
        }
    }

    fn up(&mut self, receive_max: Option<u16>, packet_bytes_max: Option<usize>, retain: bool) {
        let ours = PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + PUBLISH_OVERHEAD_BYTES;
        self.packet_bytes_max = packet_bytes_max.map_or(ours, |theirs| theirs.min(ours));
        self.broker_retains = retain;
        self.connected_at = SystemTime::now();
        let window = receive_max.map_or(WINDOW, |max| WINDOW.min(usize::from(max).saturating_sub(1)).max(1));
        if !self.away.up(Instant::now()) {
            tracing::info!(sink = self.options.sink, broker = %self.broker(), window, "connected to the broker");
        }
        self.inbox.push_back(Event::Connected { window });
        self.held = Default::default();
        self.dead_due = true;
        // A broker that restarted without its memory has forgotten what it retained.
        let topics = self.retained.keys().cloned().map(Side::Topic);
        let last = (*self.store.subscribe().borrow() > 0).then_some(Side::Last);
        self.inbox.extend(topics.chain(last).map(Event::Changed));
    }

    fn station_event(&mut self, event: StationEvent) {
        let now = SystemTime::now();
        match event {
            StationEvent::Camera { id, status } => {
                let message = self.dialect.camera(&id, &status, now);
                self.retain(message);
            }
            StationEvent::Alarm { code, raised, message } => {
                let message = self.dialect.alarm(&code, raised, &message, now);
                self.retain(message);
            }
            StationEvent::Recipe(status) => {
                let message = self.dialect.recipe(&status, now);
                self.retain(message);
            }
            StationEvent::Stats(stats) => {
                let up = matches!(self.machine.phase(), Phase::CatchingUp | Phase::Live);
                let Message { topic, payload } = self.dialect.stats(&stats, now);
                let fits = self.fits(&topic, &payload);
                if let Some(link) = self.link.as_ref().filter(|_| up && fits) {
                    // Neither acknowledged nor retained: when it is not taken, the next ones come soon.
                    let _ = link.try_publish(&topic, false, false, payload);
                }
            }
        }
    }

    fn retain(&mut self, Message { topic, payload }: Message) {
        let known = self.retained.contains_key(&topic);
        if topic.len() > TOPIC_BYTES_MAX || (!known && self.retained.len() >= RETAINED_MAX) {
            tracing::warn!(topic, "not published: the topic is too long, or there are too many");
            return;
        }
        self.retained.insert(topic.clone(), payload);
        self.inbox.push_back(Event::Changed(Side::Topic(topic)));
    }

    /// Somebody, or `retry_dead_letters`, asked for it; what waits because of a refusal is tried at once, too.
    async fn dead_letters_are_owed(&mut self) -> Result<(), MqttError> {
        // All is read again.
        self.held = Default::default();
        self.hold_until = Default::default();
        self.retry_at = self.retry_at.map(|_| Instant::now());
        self.inbox.push_back(Event::Retried);
        self.report_dead_letters().await
    }

    /// What was given up, and fits the connection that was just made, is owed again.
    async fn retry_dead_letters(&mut self) -> Result<(), MqttError> {
        if std::mem::take(&mut self.dead_due) {
            let payload_max = Kind::ALL.map(|kind| self.payload_max(kind));
            let (sink, dialect) = (self.options.sink.clone(), Arc::clone(&self.dialect));
            let retry =
                move |store: &Store| match owed::sendable(store, &sink, dialect.as_ref(), payload_max)? {
                    letters if letters.is_empty() => Ok(0),
                    letters => store.outbox(&sink).retry(Some(&letters)),
                };
            let count = owed::on_disk(&self.store, retry).await?;
            if count > 0 {
                tracing::info!(count, "dead letters can be delivered now and are owed again");
            }
        }
        Ok(())
    }

    fn fits(&self, topic: &str, payload: &[u8]) -> bool {
        fits(topic, payload, self.packet_bytes_max)
    }

    /// The longest payload of a kind on this connection.
    fn payload_max(&self, kind: Kind) -> usize {
        let around = self.dialect.owed_topic(kind).len() + PUBLISH_OVERHEAD_BYTES;
        self.packet_bytes_max.saturating_sub(around).min(PAYLOAD_BYTES_MAX)
    }

    /// Gives the machine everything in the inbox and carries out what it decides.
    async fn settle(&mut self) -> Result<(), MqttError> {
        loop {
            while let Some(event) = self.inbox.pop_front() {
                let idle = self.machine.unacknowledged() == 0;
                let actions = self.machine.handle(event);
                if idle {
                    self.progress_at = Instant::now();
                }
                for action in actions {
                    self.carry_out(action).await?;
                }
            }
            self.write_removals().await?;
            self.retry_dead_letters().await?;
            self.report_held();
            self.report_away().await?;
            self.go_on_with_images();
            if self.inbox.is_empty() {
                return Ok(());
            }
        }
    }

    async fn carry_out(&mut self, action: Action) -> Result<(), MqttError> {
        match action {
            Action::Connect => {
                let will = self.dialect.status(StationState::Offline, SystemTime::now());
                self.link = Some(Link::connect(&self.options, will, true));
            }
            Action::Close => {
                self.link = None;
                self.payloads.clear();
                self.images_lost();
                self.hold_until = Default::default();
            }
            Action::Leave => {
                if let Some(link) = self.link.take() {
                    let left = tokio::time::timeout(STOP_WAIT, link.leave()).await;
                    tracing::info!(in_time = left.is_ok(), "left the broker");
                }
            }
            Action::RetryAfter { failures } => {
                self.retry_at = Some(Instant::now() + backoff(failures, BACKOFF_MAX));
            }
            Action::HoldFor { kind, times, why } => self.hold(kind, times, why),
            Action::Fetch { kind, from, count } => self.fetch(kind, from, count).await?,
            Action::Publish(what) => self.publish(what).await?,
            Action::Remove(entry) => {
                self.acknowledged.push(entry.place);
                if let Some(images) = &mut self.images {
                    images.acknowledged(entry);
                }
                self.report_refused(entry.kind, None);
            }
            Action::DeadLetter(entry) => self.bury(entry.place, Cause::Invalid, INVALID.into()).await?,
            Action::Poison(entry) => self.bury(entry.place, Cause::Dropped, POISON.into()).await?,
            Action::SideRefused(side) => {
                let topic = match &side {
                    Side::Status => "status",
                    Side::Last => "last",
                    Side::Topic(topic) | Side::Image(topic) => topic,
                };
                tracing::error!(topic, "the broker refused a message");
            }
        }
        Ok(())
    }

    fn hold(&mut self, kind: Kind, times: u32, why: Hold) {
        self.payloads.retain(|entry, _| entry.kind != kind);
        let most = match why {
            Hold::Refused => BACKOFF_MAX,
            Hold::Dropped => DROPPED_WAIT_MAX,
        };
        self.hold_until[kind as usize] = Some(Instant::now() + backoff(times, most));
        let word = kind.as_str();
        match why {
            Hold::Refused => self.report_refused(kind, Some(format!("the broker refuses {word}s"))),
            Hold::Dropped if times >= DROPPED_ALARM => {
                self.report_refused(kind, Some(format!("every connection is dropped on a {word}")));
            }
            Hold::Dropped => {}
        }
    }

    async fn publish(&mut self, what: What) -> Result<(), MqttError> {
        let (topic, retain, payload) = match &what {
            What::Owed(entry) => (self.dialect.owed_topic(entry.kind), false, self.payloads.remove(entry)),
            What::Side(Side::Status) => {
                let state = if self.stopping { StationState::Stopped } else { StationState::Online };
                let Message { topic, payload } = self.dialect.status(state, self.connected_at);
                (topic, true, Some(payload))
            }
            What::Side(Side::Last) => {
                let Message { topic, payload } = self.last().await?;
                (topic, true, Some(payload))
            }
            What::Side(Side::Topic(topic)) => (topic.clone(), true, self.retained.get(topic).cloned()),
            What::Side(Side::Image(topic)) => {
                (topic.clone(), false, self.images.as_mut().and_then(Images::publish))
            }
        };
        let payload = payload.expect("a payload is stored before the machine hears of its message");
        if let What::Side(side) = what
            && !self.fits(&topic, &payload)
        {
            let (bytes, limit) = (payload.len(), self.packet_bytes_max);
            tracing::warn!(topic, bytes, limit, "not published: longer than the broker takes");
            self.inbox.push_back(Event::Skipped(side));
            return Ok(());
        }
        let link = self.link.as_ref();
        if link.is_none_or(|l| l.try_publish(&topic, true, retain && self.broker_retains, payload).is_err()) {
            // The client no longer takes what fits in its window: it is stuck.
            self.inbox.push_back(Event::Lost);
        }
        Ok(())
    }

    async fn fetch(&mut self, kind: Kind, from: u64, count: usize) -> Result<(), MqttError> {
        // What was just acknowledged must not be read again.
        self.write_removals().await?;
        let payload_max = self.payload_max(kind);
        let (sink, dialect) = (self.options.sink.clone(), Arc::clone(&self.dialect));
        let read =
            move |store: &Store| owed::read(store, &sink, dialect.as_ref(), kind, from, count, payload_max);
        let Read { ready, numbers, held, dead, next, end } = owed::on_disk(&self.store, read).await?;
        for (place, cause, reason) in dead {
            self.bury(place, cause, reason).await?;
        }
        self.held[kind as usize].add(held);
        if let Some(images) = self.images.as_mut().filter(|_| kind == Kind::Result) {
            images.read(numbers.into_iter());
        }
        let places = ready.iter().map(|(place, _)| *place).collect();
        self.payloads.extend(ready.into_iter().map(|(place, payload)| (Entry { kind, place }, payload)));
        self.inbox.push_back(Event::Fetched { kind, places, next, end });
        Ok(())
    }

    /// Moves an entry to the dead letters and raises the alarm.
    async fn bury(&mut self, place: u64, cause: Cause, reason: String) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        tracing::error!(sink, place, reason, "a message cannot be delivered and is kept as a dead letter");
        owed::on_disk(&self.store, move |store| store.outbox(&sink).give_up(place, cause, &reason)).await?;
        self.report_dead_letters().await
    }

    async fn write_removals(&mut self) -> Result<(), MqttError> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let acknowledged = std::mem::take(&mut self.acknowledged);
        let sink = self.options.sink.clone();
        owed::on_disk(&self.store, move |store| store.outbox(&sink).ack(&acknowledged)).await
    }

    fn broker(&self) -> String {
        format!("{}:{}", self.options.host, self.options.port)
    }
}

/// Whether a packet is as long as the broker takes.
const fn fits(topic: &str, payload: &[u8], packet_bytes_max: usize) -> bool {
    topic.len() + payload.len() + PUBLISH_OVERHEAD_BYTES <= packet_bytes_max
}

/// Doubles up to the limit; the actual wait is random between half of it and all of it, so that
/// many stations do not come back at the same instant.
pub(super) fn backoff(times: u32, most: Duration) -> Duration {
    let doublings = times.saturating_sub(1).min(16);
    let full = BACKOFF_FIRST.saturating_mul(1 << doublings).min(most);
    full.mul_f64(rand::thread_rng().gen_range(0.5..=1.0))
}

pub(super) async fn next_link_event(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => match link.events.recv().await {
            Some(event) => event,
            None => LinkEvent::Down("the client's task ended".into()),
        },
        None => std::future::pending().await,
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_to_its_limit_and_is_never_nothing() {
        for failures in 0..100 {
            let wait = backoff(failures, BACKOFF_MAX);
            assert!(wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_MAX, "{failures}: {wait:?}");
        }
        assert!(backoff(1, BACKOFF_MAX) <= BACKOFF_FIRST);
        assert!(backoff(50, BACKOFF_MAX) >= BACKOFF_MAX / 2);
    }
}
