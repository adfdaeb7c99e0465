//! Carries out what the state machine decides: timers, disk reads, the client.
//!
//!     network, store, station, timer, stop --> inbox --> machine --> actions, carried out in order
//!                                                ^---- answers, own alarms ----'
//!
//! Disk reads run on the blocking pool, so that a slow disk does not stop the keep-alive.
//!
//! Invariants:
//! - Only this task publishes, and only in the order in which the machine decided, so that the
//!   client's packet ids come in the order of the machine's queue. Hence one inbox: what comes up
//!   while actions are carried out waits until they are done.
//! - At most a window of built results is in memory, however long the outbox is.

use super::link::{
    Link, LinkEvent, CLIENT_INFLIGHT_MAX, PAYLOAD_BYTES_MAX, PUBLISH_OVERHEAD_BYTES, TOPIC_BYTES_MAX,
};
use super::message::{self, StationState, Topics};
use super::owed;
use super::state::{Action, Event, Machine, Owed, Phase, Side, What};
use super::{MqttError, MqttOptions, StationEvent};
use crate::store::error::StoreError;
use crate::store::Store;
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
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Without an acknowledgement for so long, while some are due, the connection counts as broken:
/// keep-alive alone does not notice a broker that answers pings and nothing else.
const ACK_WAIT: Duration = Duration::from_secs(20);

/// The longest goodbye.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Cameras and alarms whose newest state is kept for the next connect.
const RETAINED_MAX: usize = 256;

/// Network events that are taken in before the removals are written.
const BATCH_MAX: usize = 64;

/// Why a result on which every connection is dropped is given up.
const POISON: &str = "every connection is dropped on it, and other results pass";

const ALARM_DEAD: &str = "result_undeliverable";
const ALARM_REFUSED: &str = "result_refused";

/// Results that were read for the machine.
struct Read {
    ready: Vec<(u64, Vec<u8>)>,
    dead: Vec<(u64, String)>,
    next: u64,
    end: bool,
}

pub struct Driver {
    options: MqttOptions,
    topics: Topics,
    store: Arc<Store>,
    machine: Machine,
    inbox: VecDeque<Event>,
    phase: watch::Sender<Phase>,
    link: Option<Link>,
    /// Largest packet that client and broker take, and whether the broker retains.
    packet_bytes_max: usize,
    broker_retains: bool,
    /// Payloads of fetched results that are not published yet.
    results: BTreeMap<u64, Vec<u8>>,
    /// Newest payload of every camera and alarm, by topic.
    retained: BTreeMap<String, Vec<u8>>,
    /// Payloads of reviews and parts that this connection was given; `owed_due`: there may be more.
    owed: BTreeMap<Owed, Vec<u8>>,
    owed_due: bool,
    acknowledged: Vec<u64>,
    refused: bool,
    stopping: bool,
    connected_at: SystemTime,
    retry_at: Option<Instant>,
    hold_until: Option<Instant>,
    /// When something was last acknowledged, or began to wait for it.
    progress_at: Instant,
    stop_by: Option<Instant>,
}

impl Driver {
    pub fn new(options: MqttOptions, store: Arc<Store>, phase: watch::Sender<Phase>) -> Self {
        let now = Instant::now();
        Self {
            topics: Topics::new(&options.prefix),
            options,
            store,
            machine: Machine::default(),
            inbox: VecDeque::new(),
            phase,
            link: None,
            packet_bytes_max: usize::MAX,
            broker_retains: true,
            results: BTreeMap::new(),
            retained: BTreeMap::new(),
            owed: BTreeMap::new(),
            owed_due: false,
            acknowledged: Vec::new(),
            refused: false,
            stopping: false,
            connected_at: SystemTime::now(),
            retry_at: Some(now),
            hold_until: None,
            progress_at: now,
            stop_by: None,
        }
    }

    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<StationEvent>,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), MqttError> {
        let mut committed = self.store.subscribe();
        let mut reviewed = self.store.subscribe_reviews();
        let mut decided = self.store.subscribe_parts();
        self.tell_of_dead_letters().await?;
        let mut events_open = true;
        while self.machine.phase() != Phase::Stopped {
            let deadline = self.next_deadline();
            tokio::select! {
                event = next_link_event(&mut self.link) => self.link_events(event),
                Ok(()) = committed.changed() => self.inbox.push_back(Event::Committed),
                Ok(()) = reviewed.changed() => self.owed_due = true,
                Ok(()) = decided.changed() => self.owed_due = true,
                event = events.recv(), if events_open => match event {
                    Some(event) => self.station_event(event),
                    None => events_open = false,
                },
                // A dropped handle aborts this task, so the end of the channel means stop, too.
                _ = &mut stop, if !self.stopping => self.begin_to_stop(),
                () = sleep_until(deadline) => self.timers(),
            }
            self.settle().await?;
            self.feed_owed().await?;
            let phase = self.machine.phase();
            self.phase.send_if_modified(|told| std::mem::replace(told, phase) != phase);
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
        [self.retry_at, self.hold_until, ack_by, self.stop_by].into_iter().flatten().min()
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
        if due(self.hold_until) {
            self.hold_until = None;
            self.inbox.push_back(Event::HoldOver);
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
            LinkEvent::Sent(pkid) => self.inbox.push_back(Event::Sent { pkid }),
            LinkEvent::Acked(pkid, outcome) => {
                self.progress_at = Instant::now();
                self.inbox.push_back(Event::Acked { pkid, outcome });
            }
            LinkEvent::Down(reason) => {
                tracing::info!(reason, broker = %self.broker(), "no connection to the broker");
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
        tracing::info!(broker = %self.broker(), window, owed = self.store.outbox_len(), "connected to the broker");
        self.inbox.push_back(Event::Connected { window });
        self.owed.clear();
        self.owed_due = true;
        // A broker that restarted without its memory has forgotten what it retained.
        let topics = self.retained.keys().cloned().map(Side::Topic);
        let last = (*self.store.subscribe().borrow() > 0).then_some(Side::Last);
        self.inbox.extend(topics.chain(last).map(Event::Changed));
    }

    fn station_event(&mut self, event: StationEvent) {
        let now = SystemTime::now();
        match event {
            StationEvent::Camera { id, state, reason } => {
                let topic = self.topics.camera_status(&id);
                self.retain(topic, message::camera_status(state, &reason, now));
            }
            StationEvent::Alarm { code, raised, message } => self.alarm(&code, raised, &message),
            StationEvent::Stats(stats) => {
                let up = matches!(self.machine.phase(), Phase::CatchingUp | Phase::Live);
                if let Some(link) = self.link.as_ref().filter(|_| up) {
                    // Neither acknowledged nor retained: when it is not taken, the next ones come soon.
                    let _ = link.try_publish(&self.topics.stats(), false, false, message::stats(&stats, now));
                }
            }
        }
    }

    fn alarm(&mut self, code: &str, raised: bool, text: &str) {
        let payload = message::alarm(code, raised, text, SystemTime::now());
        self.retain(self.topics.alarm(code), payload);
    }

    fn retain(&mut self, topic: String, payload: Vec<u8>) {
        let known = self.retained.contains_key(&topic);
        if topic.len() > TOPIC_BYTES_MAX || (!known && self.retained.len() >= RETAINED_MAX) {
            tracing::warn!(topic, "not published: the topic is too long, or there are too many");
            return;
        }
        self.retained.insert(topic.clone(), payload);
        self.inbox.push_back(Event::Changed(Side::Topic(topic)));
    }

    async fn tell_of_dead_letters(&mut self) -> Result<(), MqttError> {
        let dead = self.on_disk(Store::dead_letters).await?;
        let text = match dead.last() {
            Some(last) => format!("{} results, the last is seq {}: {}", dead.len(), last.seq, last.reason),
            None => String::new(),
        };
        self.alarm(ALARM_DEAD, !dead.is_empty(), &text);
        Ok(())
    }

    /// Gives the machine everything in the inbox and carries out what it decides.
    async fn settle(&mut self) -> Result<(), MqttError> {
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
        self.write_removals().await
    }

    async fn carry_out(&mut self, action: Action) -> Result<(), MqttError> {
        match action {
            Action::Connect => {
                let will = message::status(StationState::Offline, SystemTime::now());
                self.link = Some(Link::connect(&self.options, &self.topics.status(), will));
            }
            Action::Close => {
                self.link = None;
                self.results.clear();
                self.hold_until = None;
            }
            Action::Leave => {
                if let Some(link) = self.link.take() {
                    let left = tokio::time::timeout(STOP_WAIT, link.leave()).await;
                    tracing::info!(in_time = left.is_ok(), "left the broker");
                }
            }
            Action::RetryAfter { failures } => self.retry_at = Some(Instant::now() + backoff(failures)),
            Action::HoldFor { refusals } => {
                self.results.clear();
                self.hold_until = Some(Instant::now() + backoff(refusals));
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::error!(broker = %self.broker(), "the broker refuses results; they stay in the outbox");
                    self.alarm(ALARM_REFUSED, true, "the broker refuses results");
                }
            }
            Action::Fetch { from, count } => self.fetch(from, count).await?,
            Action::Publish(what) => self.publish(what).await?,
            Action::Remove(seq) => {
                self.acknowledged.push(seq);
                if std::mem::take(&mut self.refused) {
                    self.alarm(ALARM_REFUSED, false, "");
                }
            }
            Action::RemoveOwed(owed) => {
                self.on_disk(move |store| owed::ack(store, owed)).await?;
                self.owed.remove(&owed);
                self.owed_due = true;
            }
            Action::DeadLetter(seq) => self.bury(seq, "the broker calls it invalid".into()).await?,
            Action::Poison(seq) => self.bury(seq, POISON.into()).await?,
            Action::SideRefused(side) => tracing::error!(?side, "the broker refused a message"),
        }
        Ok(())
    }

    async fn publish(&mut self, what: What) -> Result<(), MqttError> {
        let (topic, retain, payload) = match what {
            What::Result(seq) => (self.topics.result(), false, self.results.remove(&seq)),
            What::Side(Side::Status) => {
                let state = if self.stopping { StationState::Stopped } else { StationState::Online };
                (self.topics.status(), true, Some(message::status(state, self.connected_at)))
            }
            // Retention may just have removed the last inspection; an empty payload clears the topic.
            What::Side(Side::Last) => {
                (self.topics.last(), true, Some(self.last().await?.unwrap_or_default()))
            }
            What::Side(Side::Owed(owed)) => {
                (owed::topic(&self.topics, owed), false, self.owed.get(&owed).cloned())
            }
            What::Side(Side::Topic(topic)) => {
                let payload = self.retained.get(&topic).cloned();
                (topic, true, payload)
            }
        };
        let payload = payload.expect("a payload is stored before the machine hears of its message");
        let link = self.link.as_ref();
        if link.is_none_or(|l| l.try_publish(&topic, true, retain && self.broker_retains, payload).is_err()) {
            // The client no longer takes what fits in its window: it is stuck.
            self.inbox.push_back(Event::Lost);
        }
        Ok(())
    }

    /// `last` of the newest inspection that can be read.
    async fn last(&mut self) -> Result<Option<Vec<u8>>, MqttError> {
        let newest = |store: &Store| {
            for stored in store.newest_first().take(WINDOW) {
                match stored {
                    Ok(stored) => return Ok(Some(message::last(&stored))),
                    Err(error @ StoreError::BadRecord { .. }) => {
                        tracing::error!(%error, "skipped for `last`")
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(None)
        };
        self.on_disk(newest).await
    }

    async fn fetch(&mut self, from: u64, count: usize) -> Result<(), MqttError> {
        // What was just acknowledged must not be read again.
        self.write_removals().await?;
        let around = self.topics.result().len() + PUBLISH_OVERHEAD_BYTES;
        let payload_max = self.packet_bytes_max.saturating_sub(around).min(PAYLOAD_BYTES_MAX);
        let read = self.on_disk(move |store| read(store, from, count, payload_max)).await?;
        for (seq, reason) in read.dead {
            self.bury(seq, reason).await?;
        }
        let seqs = read.ready.iter().map(|(seq, _)| *seq).collect();
        self.results.extend(read.ready);
        self.inbox.push_back(Event::Fetched { seqs, next: read.next, end: read.end });
        Ok(())
    }

    /// Gives the machine the next reviews and parts that are owed. On every connection anew from the lowest.
    async fn feed_owed(&mut self) -> Result<(), MqttError> {
        let up = matches!(self.machine.phase(), Phase::CatchingUp | Phase::Live);
        if !up || self.stopping || !std::mem::take(&mut self.owed_due) {
            return Ok(());
        }
        let payload_max = self.packet_bytes_max.saturating_sub(TOPIC_BYTES_MAX + PUBLISH_OVERHEAD_BYTES);
        let found = self.on_disk(move |store| owed::read(store, payload_max.min(PAYLOAD_BYTES_MAX))).await?;
        for (owed, payload) in found {
            if self.owed.insert(owed, payload).is_none() {
                self.inbox.push_back(Event::Changed(Side::Owed(owed)));
            }
        }
        self.settle().await
    }

    /// Moves an entry to the dead letters and raises the alarm.
    async fn bury(&mut self, seq: u64, reason: String) -> Result<(), MqttError> {
        tracing::error!(seq, reason, "a result cannot be delivered and is kept as a dead letter");
        self.on_disk(move |store| store.dead_letter(seq, &reason)).await?;
        self.tell_of_dead_letters().await
    }

    async fn write_removals(&mut self) -> Result<(), MqttError> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let seqs = std::mem::take(&mut self.acknowledged);
        self.on_disk(move |store| store.ack(&seqs)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, MqttError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(outcome) => outcome.map_err(MqttError::from),
            Err(error) => Err(MqttError::Task { reason: error.to_string() }),
        }
    }

    fn broker(&self) -> String {
        format!("{}:{}", self.options.host, self.options.port)
    }
}

/// Reads outbox entries and makes their messages.
fn read(store: &Store, from: u64, count: usize, payload_max: usize) -> Result<Read, StoreError> {
    let entries = store.outbox(from, count)?;
    let next = entries.last().map_or(from, |e| e.seq + 1);
    let mut read = Read { ready: Vec::new(), dead: Vec::new(), next, end: entries.len() < count };
    for entry in entries {
        let seq = entry.seq;
        let payload = match store.get(seq) {
            Ok(Some(stored)) => message::result(&stored, entry.schema)
                .ok_or_else(|| format!("message schema {} is not known to this version", entry.schema)),
            Ok(None) => Err("its record is missing".to_owned()),
            Err(error @ StoreError::BadRecord { .. }) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        match payload {
            Ok(payload) if payload.len() <= payload_max => read.ready.push((seq, payload)),
            Ok(payload) => {
                read.dead.push((seq, format!("{} bytes, the limit is {payload_max}", payload.len())));
            }
            Err(reason) => read.dead.push((seq, reason)),
        }
    }
    Ok(read)
}

/// Doubles up to the limit; the actual wait is random between half of it and all of it, so that
/// many stations do not come back at the same instant.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    full.mul_f64(rand::thread_rng().gen_range(0.5..=1.0))
}

async fn next_link_event(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => match link.events.recv().await {
            Some(event) => event,
            None => LinkEvent::Down("the client's task ended".into()),
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
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
            let wait = backoff(failures);
            assert!(wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_MAX, "{failures}: {wait:?}");
        }
        assert!(backoff(1) <= BACKOFF_FIRST);
        assert!(backoff(50) >= BACKOFF_MAX / 2);
    }
}
