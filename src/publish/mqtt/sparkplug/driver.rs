//! Carries out what the session decides: timers, disk reads, the client.
//!
//! ```text
//! network, store, station, commands, timer, stop --> inbox --> session --> actions, carried out in order
//! ```
//!
//! The fence is an UNSUBSCRIBE from a filter that was never asked for: it changes nothing, needs no right to any topic,
//! every version of MQTT answers it, and its answer says that the broker has read what was sent before it. (A PINGREQ
//! would do, but the client sends it by its own clock; a QoS 1 message would need a topic of ours and a right to it.)
//!
//! Invariants:
//! - Only this task publishes, in the order in which the session decided, so the numbers on the wire are the session's.
//! - The number of a connection is on the disk before its CONNECT, so no two have the same one, also over a crash; only
//!   a disk without room lets a connection go on without.
//! - What is too long for the broker is given up before it has a number.

use super::board::Board;
use super::commands::{self, Ask, Done, Door};
use super::edge::Edge;
use super::metrics;
use super::payload::{self, Metric, Payload};
use super::report::{self, Page, Report, Values};
use super::session::{Action, Event, Out, Phase, Session, Who};
use crate::domain::camera::CameraState;
use crate::domain::trigger::Refusal;
use crate::publish::mqtt::dialect::Message;
use crate::publish::mqtt::driver::{ACK_WAIT, BACKOFF_MAX, STOP_WAIT, backoff, next_link_event, sleep_until};
use crate::publish::mqtt::link::{
    Heard, Link, LinkEvent, PAYLOAD_BYTES_MAX, PUBLISH_OVERHEAD_BYTES, TOPIC_BYTES_MAX,
};
use crate::publish::mqtt::{MqttError, MqttOptions, Protocol, command, state};
use crate::publish::{Report as Others, StationEvent, alarm_of};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::{Cause, Kind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// What is older than this when it is sent is historical.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// Network events that are taken in before the acknowledgements are written.
const BATCH_MAX: usize = 64;

/// Answers that are kept for their turn.
const ANSWERS_MAX: usize = 128;

/// Commands whose outcomes wait to be taken in.
const DONE_MAX: usize = 64;

const ALARM_DEAD: &str = "result_undeliverable";
const ALARM_REFUSED: &str = "result_refused";

pub(in crate::publish::mqtt) struct Driver {
    options: MqttOptions,
    edge: Arc<Edge>,
    door: Arc<Door>,
    /// Passes the alarms about this sink on to the other sinks.
    others: Option<Others>,
    store: Arc<Store>,
    session: Session,
    inbox: VecDeque<Event>,
    phase: watch::Sender<state::Phase>,
    link: Option<Link>,
    /// Largest packet that client and broker take.
    packet_bytes_max: usize,
    board: Board,
    /// The board has what the store has newest.
    is_newest: bool,
    /// Alarms that stand.
    standing: BTreeSet<String>,
    /// What is fetched and not published yet, by its place.
    ready: BTreeMap<u64, Report>,
    acknowledged: Vec<u64>,
    answers: BTreeMap<u64, (Who, Values)>,
    answers_ever: u64,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    born_at: SystemTime,
    away_since: Option<Instant>,
    stopping: bool,
    retry_at: Option<Instant>,
    /// Fences, and when the host has been online for long enough after them.
    settle: VecDeque<(u64, Instant)>,
    /// When the broker last answered, or began to owe an answer.
    progress_at: Instant,
    stop_by: Option<Instant>,
}

impl Driver {
    /// # Errors
    /// [`StoreError`]: the store failed.
    pub(in crate::publish::mqtt) fn new(
        options: MqttOptions,
        edge: Arc<Edge>,
        door: Arc<Door>,
        store: Arc<Store>,
        phase: watch::Sender<state::Phase>,
        others: Option<Others>,
    ) -> Result<Self, MqttError> {
        let bd_seq = match store.remembered::<u8>(&bd_seq_name(&options.sink)) {
            Ok(found) => found,
            Err(error @ StoreError::BadMeta { .. }) => {
                tracing::error!(sink = options.sink, %error, "the number of the last birth is lost: it begins at 0");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        let mut board = Board::new(&edge.devices);
        board.set(&Who::Node, report::properties(&options.prefix), SystemTime::now());
        Ok(Self {
            session: Session::new(bd_seq, edge.primary_host.is_some(), edge.devices.iter().cloned()),
            options,
            edge,
            door,
            others,
            store,
            inbox: VecDeque::new(),
            phase,
            link: None,
            packet_bytes_max: usize::MAX,
            board,
            is_newest: false,
            standing: BTreeSet::new(),
            ready: BTreeMap::new(),
            acknowledged: Vec::new(),
            answers: BTreeMap::new(),
            answers_ever: 0,
            done: mpsc::channel(DONE_MAX),
            born_at: SystemTime::now(),
            away_since: None,
            stopping: false,
            retry_at: Some(now),
            settle: VecDeque::new(),
            progress_at: now,
            stop_by: None,
        })
    }

    pub(in crate::publish::mqtt) async fn run(
        mut self,
        mut events: mpsc::Receiver<StationEvent>,
        mut retried: watch::Receiver<u64>,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), MqttError> {
        let mut committed = self.store.subscribe();
        let mut reviewed = self.store.subscribe_reviews();
        let mut decided = self.store.subscribe_parts();
        self.report_dead_letters().await?;
        // A former run may have left them raised.
        self.alarm(ALARM_REFUSED, String::new());
        self.alarm(command::ALARM_REFUSED, String::new());
        let mut events_open = true;
        while self.session.phase() != Phase::Stopped {
            let deadline = self.next_deadline();
            tokio::select! {
                event = next_link_event(&mut self.link) => self.link_events(event),
                Ok(()) = committed.changed() => self.inbox.push_back(Event::Committed(Kind::Result)),
                Ok(()) = reviewed.changed() => self.inbox.push_back(Event::Committed(Kind::Review)),
                Ok(()) = decided.changed() => self.inbox.push_back(Event::Committed(Kind::Part)),
                Ok(()) = retried.changed() => {
                    self.inbox.push_back(Event::Retried);
                    self.report_dead_letters().await?;
                }
                Some(done) = self.done.1.recv() => self.answered(done),
                event = events.recv(), if events_open => match event {
                    Some(event) => self.station_event(event).await?,
                    None => events_open = false,
                },
                // A dropped handle aborts this task, so the end of the channel means stop, too.
                _ = &mut stop, if !self.stopping => self.begin_to_stop(),
                () = sleep_until(deadline) => self.timers(),
            }
            self.settle_inbox().await?;
            self.show_phase();
        }
        Ok(())
    }

    fn begin_to_stop(&mut self) {
        self.stopping = true;
        self.stop_by = Some(Instant::now() + STOP_WAIT);
        self.inbox.push_back(Event::Stop);
    }

    fn show_phase(&self) {
        let phase = match self.session.phase() {
            Phase::Offline => state::Phase::Offline,
            Phase::Connecting | Phase::Subscribing | Phase::Waiting | Phase::Dying { stop: false } => {
                state::Phase::Connecting
            }
            Phase::Born if self.session.is_through() => state::Phase::Live,
            Phase::Born => state::Phase::CatchingUp,
            Phase::Dying { stop: true } => state::Phase::Stopping,
            Phase::Stopped => state::Phase::Stopped,
        };
        self.phase.send_if_modified(|known| std::mem::replace(known, phase) != phase);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let answer_by = self.session.awaits_broker().then(|| self.progress_at + ACK_WAIT);
        let settled = self.settle.front().map(|(_, at)| *at);
        [self.retry_at, answer_by, settled, self.stop_by].into_iter().flatten().min()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.stop_by) {
            tracing::warn!(sink = self.options.sink, "the broker did not take the goodbye in time");
            self.stop_by = None;
            self.inbox.push_back(Event::Lost);
            // Where it was between two connections.
            self.inbox.push_back(Event::Stop);
            return;
        }
        if due(self.retry_at) {
            self.retry_at = None;
            self.inbox.push_back(Event::Due);
        }
        while due(self.settle.front().map(|(_, at)| *at)) {
            let settled = self.settle.pop_front().map(|(fence, _)| Event::Settled(fence));
            self.inbox.extend(settled);
        }
        if self.session.awaits_broker() && self.progress_at + ACK_WAIT <= now {
            tracing::warn!(
                sink = self.options.sink,
                wait_s = ACK_WAIT.as_secs(),
                "no answer from the broker"
            );
            self.inbox.push_back(Event::Lost);
        }
    }

    fn link_events(&mut self, first: LinkEvent) {
        self.link_event(first);
        for _ in 1..BATCH_MAX {
            match self.link.as_mut().and_then(|link| link.events.try_recv().ok()) {
                Some(event) => self.link_event(event),
                None => break,
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { packet_bytes_max, .. } => {
                let ours = PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + PUBLISH_OVERHEAD_BYTES;
                self.packet_bytes_max = packet_bytes_max.map_or(ours, |theirs| theirs.min(ours));
                let away_s = self.away_since.take().map(|since| since.elapsed().as_secs());
                tracing::info!(sink = self.options.sink, broker = %self.broker(), away_s, "connected to the broker");
                self.inbox.push_back(Event::Up);
            }
            LinkEvent::Subscribed { refused } => self.subscribed(&refused),
            LinkEvent::Unsubscribed => {
                self.progress_at = Instant::now();
                self.inbox.push_back(Event::Fenced);
            }
            LinkEvent::Sent(_) => {}
            // Only NDEATH is sent with QoS 1.
            LinkEvent::Acked(..) => self.inbox.push_back(Event::DeathTaken),
            LinkEvent::Heard(heard) => self.heard(heard),
            LinkEvent::Down(reason) => {
                if self.away_since.is_none() && !self.stopping {
                    self.away_since = Some(Instant::now());
                    tracing::warn!(sink = self.options.sink, broker = %self.broker(), reason, "broker away");
                }
                self.inbox.push_back(Event::Lost);
            }
        }
    }

    fn subscribed(&mut self, refused: &[usize]) {
        let all = self.edge.subscriptions();
        let topics: Vec<&str> =
            refused.iter().filter_map(|place| all.get(*place)).map(String::as_str).collect();
        let text = match topics.as_slice() {
            [] => String::new(),
            topics => format!("the broker refuses the subscription to {}", topics.join(", ")),
        };
        if !text.is_empty() {
            tracing::error!(sink = self.options.sink, "{text}");
        }
        self.alarm(command::ALARM_REFUSED, text);
        self.progress_at = Instant::now();
        self.inbox.push_back(Event::Subscribed);
    }

    /// The state of the primary host, whose id is the end of the topic
    /// (tck-id-message-flow-edge-node-birth-publish-phid-wait-id), or a command.
    fn heard(&mut self, heard: Heard) {
        if self.edge.state_topic().as_ref() == Some(&heard.topic) {
            match host_state(&heard.payload) {
                Ok((online, at)) => {
                    tracing::info!(
                        sink = self.options.sink,
                        host = self.edge.primary_host,
                        online,
                        "primary host"
                    );
                    self.inbox.push_back(Event::Host { online, at });
                }
                Err(reason) => tracing::warn!(topic = heard.topic, reason, "no state of a host"),
            }
            return;
        }
        let Some(who) = self.edge.commanded(&heard.topic) else { return };
        let owner = self.board.owner(&who);
        match commands::read(&who, owner, &heard.topic, &heard.payload, heard.retained) {
            Ok(commands::Asked { rebirth, command }) => {
                if rebirth {
                    tracing::info!(sink = self.options.sink, "a host asks for births");
                    self.inbox.push_back(Event::Rebirth);
                }
                if let Some(written) = command {
                    self.command(who, written);
                }
            }
            Err(reason) => tracing::warn!(topic = heard.topic, reason, "no command"),
        }
    }

    fn command(&mut self, who: Who, mut written: commands::Written) {
        if !self.edge.commands {
            let reason = "commands of this broker are not taken: its section does not say commands = true";
            written.body = Err(Refusal::Malformed { reason: reason.into() });
        }
        let ask = Ask { who, written, at: std::time::Instant::now(), done: self.done.0.clone() };
        if let Some(done) = self.door.put(ask) {
            self.answered(done);
        }
    }

    fn answered(&mut self, done: Done) {
        let Done { who, verb, id, outcome } = done;
        let values = report::answer(&verb, id.as_deref(), &outcome);
        self.board.note(&who, &values, SystemTime::now());
        self.answers_ever += 1;
        let id = self.answers_ever;
        self.answers.insert(id, (who.clone(), values));
        if self.answers.len() > ANSWERS_MAX {
            self.answers.pop_first();
        }
        self.inbox.push_back(Event::Answered { who, id });
    }

    async fn station_event(&mut self, event: StationEvent) -> Result<(), MqttError> {
        let now = SystemTime::now();
        match event {
            StationEvent::Camera { id, status } => {
                let who = Who::Device(id.clone());
                self.board.set(&who, report::camera(&status), now);
                if status.state == CameraState::Fault {
                    self.inbox.extend([Event::Changed(who), Event::Dead(id)]);
                } else {
                    self.inbox.extend([Event::Alive(id), Event::Changed(who)]);
                }
                return Ok(());
            }
            StationEvent::Alarm { code, raised, message } => self.note_alarm(&code, raised, &message),
            StationEvent::Recipe(status) => _ = self.board.set(&Who::Node, report::recipe(&status), now),
            StationEvent::Stats(stats) => {
                self.board.set(&Who::Node, report::stats(&stats), now);
                self.count_outbox().await?;
            }
        }
        self.inbox.push_back(Event::Changed(Who::Node));
        Ok(())
    }

    fn note_alarm(&mut self, code: &str, raised: bool, message: &str) {
        let changed = if raised { self.standing.insert(code.to_owned()) } else { self.standing.remove(code) };
        if raised || changed {
            let values = report::alarms(self.standing.iter().map(String::as_str), code, raised, message);
            self.board.set(&Who::Node, values, SystemTime::now());
        }
    }

    /// Raises an alarm about this sink or, without a text, clears it.
    fn alarm(&mut self, code: &str, message: String) {
        let (code, raised) = (alarm_of(&self.options.sink, code), !message.is_empty());
        self.note_alarm(&code, raised, &message);
        self.inbox.push_back(Event::Changed(Who::Node));
        if let Some(others) = &self.others {
            others(StationEvent::Alarm { code, raised, message });
        }
    }

    async fn report_dead_letters(&mut self) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        let dead = self.on_disk(move |store| store.outbox(&sink).dead_letters()).await?;
        let text = dead.last().map_or(String::new(), |last| {
            let (count, owed, reason) = (dead.len(), last.owed, &last.reason);
            format!(
                "{count} messages were given up, the last is {owed}: {reason}; `inspectd outbox retry` sends them again"
            )
        });
        self.alarm(ALARM_DEAD, text);
        Ok(())
    }

    async fn count_outbox(&mut self) -> Result<(), MqttError> {
        let sinks = self.on_disk(|store| store.sinks()).await?;
        if let Some(sink) = sinks.into_iter().find(|sink| sink.name == self.options.sink) {
            self.board.set(&Who::Node, report::outbox(sink.owed), SystemTime::now());
        }
        Ok(())
    }

    /// Gives the session everything in the inbox and carries out what it decides.
    async fn settle_inbox(&mut self) -> Result<(), MqttError> {
        loop {
            while let Some(event) = self.inbox.pop_front() {
                // A birth may have told it meanwhile.
                if let Event::Changed(who) = &event
                    && !self.board.has_untold(who)
                {
                    continue;
                }
                let awaited = self.session.awaits_broker();
                let actions = self.session.handle(event);
                if !awaited {
                    self.progress_at = Instant::now();
                }
                self.is_newest = false;
                for action in actions {
                    self.carry_out(action).await?;
                }
            }
            self.write_acks().await?;
            if self.inbox.is_empty() {
                return Ok(());
            }
        }
    }

    async fn carry_out(&mut self, action: Action) -> Result<(), MqttError> {
        match action {
            Action::Connect { bd_seq } => {
                self.keep(bd_seq).await?;
                // tck-id-message-flow-edge-node-birth-publish-will-message,
                // tck-id-message-flow-edge-node-birth-publish-will-message-qos,
                // tck-id-message-flow-edge-node-birth-publish-will-message-will-retained,
                // tck-id-payloads-ndeath-will-message, tck-id-payloads-ndeath-will-message-qos,
                // tck-id-payloads-ndeath-will-message-retain, and a clean session:
                // tck-id-principles-persistence-clean-session-311, tck-id-principles-persistence-clean-session-50
                self.link = Some(Link::connect(&self.options, self.death(bd_seq), false));
            }
            Action::Subscribe => {
                let topics = self.edge.subscriptions();
                self.unless_taken(|link| link.try_subscribe(topics).is_ok());
            }
            Action::Publish { seq, what } => self.publish(seq, what).await?,
            Action::Fence => {
                let topic = self.edge.fence_topic();
                self.unless_taken(|link| link.try_unsubscribe(topic).is_ok());
            }
            Action::SettleAfter(fence) => {
                self.settle.push_back((fence, Instant::now() + self.edge.host_lost));
            }
            Action::Ack(places) => self.acknowledged.extend(places),
            Action::Fetch { kind, from, count } => self.fetch(kind, from, count).await?,
            Action::Die { bd_seq } => {
                let Message { topic, payload } = self.death(bd_seq);
                self.unless_taken(|link| link.try_publish(&topic, true, false, payload).is_ok());
            }
            Action::Leave => self.leave().await,
            Action::Close => self.close(),
            Action::RetryAfter { failures } => {
                self.retry_at = Some(Instant::now() + backoff(failures, BACKOFF_MAX));
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        self.link = None;
        self.ready.clear();
        self.answers.clear();
        self.settle.clear();
    }

    /// MQTT 3.1.1: DISCONNECT, after NDEATH (tck-id-payloads-ndeath-will-message-publisher-disconnect-mqtt311). The
    /// client cannot give a DISCONNECT of MQTT 5 its reason "with will", which a node must
    /// (tck-id-payloads-ndeath-will-message-publisher-disconnect-mqtt50,
    /// tck-id-operational-behavior-edge-node-intentional-disconnect-packet): so none is sent, and the broker publishes
    /// the will, which says what NDEATH has said.
    async fn leave(&mut self) {
        if let Some(link) = self.link.take()
            && self.options.protocol == Protocol::V311
        {
            let left = tokio::time::timeout(STOP_WAIT, link.leave()).await;
            tracing::info!(sink = self.options.sink, in_time = left.is_ok(), "left the broker");
        }
        self.close();
    }

    /// A client that takes no more is stuck.
    fn unless_taken(&mut self, give: impl FnOnce(&Link) -> bool) {
        if !self.link.as_ref().is_some_and(give) {
            self.break_off();
        }
    }

    /// Nothing more goes out on this connection: the numbers would have a gap.
    fn break_off(&mut self) {
        self.link = None;
        self.inbox.push_back(Event::Lost);
    }

    /// On the disk before it is used.
    async fn keep(&mut self, bd_seq: u8) -> Result<(), MqttError> {
        let name = bd_seq_name(&self.options.sink);
        let kept = self.on_disk(move |store| match store.remember(&name, &bd_seq) {
            Err(error) if error.passes() => {
                tracing::warn!(%error, "the number of a birth is not on the disk");
                Ok(())
            }
            kept => kept,
        });
        kept.await
    }

    /// NDEATH: the number alone, without `seq` (tck-id-topics-ndeath-payload, tck-id-topics-ndeath-seq,
    /// tck-id-payloads-ndeath-seq, tck-id-message-flow-edge-node-birth-publish-will-message-payload).
    fn death(&self, bd_seq: u8) -> Message {
        let now = SystemTime::now();
        let metrics = vec![metrics::bd_seq(bd_seq, now)];
        let payload = Payload { timestamp: Some(metrics::millis(now)), metrics, ..Payload::default() };
        Message { topic: self.edge.topic("DEATH", &Who::Node), payload: payload::encode(&payload) }
    }

    async fn publish(&mut self, seq: u8, what: Out) -> Result<(), MqttError> {
        let now = SystemTime::now();
        let (kind, who, metrics) = match what {
            Out::NodeBirth { bd_seq } => {
                self.born_at = now;
                self.look_up_newest().await?;
                ("BIRTH", Who::Node, self.board.birth(&Who::Node, bd_seq, now))
            }
            Out::DeviceBirth(device) => {
                self.look_up_newest().await?;
                let who = Who::Device(device);
                let metrics = self.board.birth(&who, 0, now);
                ("BIRTH", who, metrics)
            }
            Out::DeviceDeath(device) => ("DEATH", Who::Device(device), vec![]),
            Out::State(who) => {
                let metrics = self.board.untold(&who);
                ("DATA", who, metrics)
            }
            Out::Answer(id) => {
                let Some((who, values)) = self.answers.remove(&id) else {
                    self.break_off();
                    return Ok(());
                };
                let metrics = self.data(&who, &values, now, false);
                ("DATA", who, metrics)
            }
            Out::Entry { place, who, again } => {
                let Some(Report { values, at, since, .. }) = self.ready.remove(&place) else {
                    self.break_off();
                    return Ok(());
                };
                let late = now.duration_since(since).is_ok_and(|age| age > LIVE_WITHIN);
                let historical = again || late || since < self.born_at;
                let metrics = self.data(&who, &values, at, historical);
                ("DATA", who, metrics)
            }
        };
        self.send(kind, &who, seq, metrics, now);
        Ok(())
    }

    fn data(&mut self, who: &Who, values: &Values, at: SystemTime, historical: bool) -> Vec<Metric> {
        let owner = self.board.owner(who);
        values.iter().map(|(name, value)| owner.data(name, value, at, historical)).collect()
    }

    /// With QoS 0 and without retain (tck-id-topics-nbirth-mqtt, tck-id-topics-ndata-mqtt, tck-id-topics-dbirth-mqtt,
    /// tck-id-topics-ddata-mqtt, tck-id-topics-ddeath-mqtt, tck-id-payloads-nbirth-qos, tck-id-payloads-nbirth-retain,
    /// tck-id-payloads-dbirth-qos, tck-id-payloads-dbirth-retain, tck-id-payloads-ndata-qos,
    /// tck-id-payloads-ndata-retain, tck-id-payloads-ddata-qos, tck-id-payloads-ddata-retain,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-qos,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-retained,
    /// tck-id-message-flow-device-birth-publish-dbirth-qos,
    /// tck-id-message-flow-device-birth-publish-dbirth-retained), with the time of sending
    /// (tck-id-topics-nbirth-timestamp, tck-id-topics-ndata-timestamp, tck-id-topics-dbirth-timestamp,
    /// tck-id-topics-ddata-timestamp, tck-id-payloads-nbirth-timestamp, tck-id-payloads-ndata-timestamp,
    /// tck-id-payloads-dbirth-timestamp, tck-id-payloads-ddata-timestamp, tck-id-payloads-ddeath-timestamp,
    /// tck-id-message-flow-edge-node-birth-publish-nbirth-payload,
    /// tck-id-message-flow-device-birth-publish-dbirth-payload).
    fn send(&mut self, kind: &str, who: &Who, seq: u8, metrics: Vec<Metric>, now: SystemTime) {
        let topic = self.edge.topic(kind, who);
        let timestamp = Some(metrics::millis(now));
        let payload =
            payload::encode(&Payload { timestamp, metrics, seq: Some(seq.into()), ..Payload::default() });
        if topic.len() + payload.len() + PUBLISH_OVERHEAD_BYTES > self.packet_bytes_max {
            let (bytes, limit) = (payload.len(), self.packet_bytes_max);
            let text = format!("{topic} has {bytes} bytes, and the broker takes packets of {limit}");
            tracing::error!(sink = self.options.sink, "{text}");
            self.alarm(ALARM_REFUSED, text);
            self.break_off();
            return;
        }
        self.unless_taken(|link| link.try_publish(&topic, false, false, payload).is_ok());
    }

    /// Births carry the newest values, also of what is still owed.
    async fn look_up_newest(&mut self) -> Result<(), MqttError> {
        if std::mem::replace(&mut self.is_newest, true) {
            return Ok(());
        }
        for Report { who, values, at, .. } in self.on_disk(report::newest).await? {
            self.board.note(&who, &values, at);
        }
        self.count_outbox().await
    }

    async fn fetch(&mut self, kind: Kind, from: u64, count: usize) -> Result<(), MqttError> {
        // What was just acknowledged must not be read again.
        self.write_acks().await?;
        let sink = self.options.sink.clone();
        let Page { made, next, end } =
            self.on_disk(move |store| report::page(store, &sink, kind, from, count)).await?;
        let mut entries = Vec::new();
        for (place, made) in made {
            if self.session.has_sent(place) {
                continue;
            }
            match made.map(|report| (self.length(&report), report)) {
                Ok((length, report)) if length <= self.packet_bytes_max => {
                    entries.push((place, report.who.clone()));
                    self.ready.insert(place, report);
                }
                Ok((length, _)) => {
                    let reason = format!("{length} bytes, and the broker takes {}", self.packet_bytes_max);
                    self.bury(place, Cause::Size, reason).await?;
                }
                Err(reason) => self.bury(place, Cause::Unreadable, reason).await?,
            }
        }
        self.inbox.push_back(Event::Fetched { kind, entries, next, end });
        Ok(())
    }

    /// Bytes of the packet about it, at most.
    fn length(&mut self, report: &Report) -> usize {
        let metrics = self.data(&report.who, &report.values, report.at, true);
        let payload = Payload { timestamp: Some(u64::MAX), metrics, seq: Some(255), ..Payload::default() };
        let topic = self.edge.topic("DATA", &report.who);
        topic.len() + payload::encode(&payload).len() + PUBLISH_OVERHEAD_BYTES
    }

    /// Moves an entry to the dead letters and raises the alarm.
    async fn bury(&mut self, place: u64, cause: Cause, reason: String) -> Result<(), MqttError> {
        let sink = self.options.sink.clone();
        tracing::error!(sink, place, reason, "a message cannot be delivered and is kept as a dead letter");
        self.on_disk(move |store| store.outbox(&sink).give_up(place, cause, &reason)).await?;
        self.report_dead_letters().await
    }

    async fn write_acks(&mut self) -> Result<(), MqttError> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let acknowledged = std::mem::take(&mut self.acknowledged);
        let sink = self.options.sink.clone();
        self.on_disk(move |store| store.outbox(&sink).ack(&acknowledged)).await
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

/// Where the number of a sink's newest connection is kept.
fn bd_seq_name(sink: &str) -> String {
    format!("sparkplug/{sink}")
}

/// What a host says of itself: whether it is online, and of when that is.
fn host_state(payload: &[u8]) -> Result<(bool, i64), String> {
    #[derive(serde::Deserialize)]
    struct State {
        online: bool,
        timestamp: i64,
    }
    let State { online, timestamp } = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    Ok((online, timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_whether_it_is_online_and_of_when_that_is() {
        assert_eq!(
            host_state(br#"{"online":true,"timestamp":1700000000000}"#),
            Ok((true, 1_700_000_000_000))
        );
        for bad in [&b"OFFLINE"[..], b"{}", br#"{"online":"true","timestamp":1}"#, b""] {
            assert!(host_state(bad).is_err());
        }
    }
}
