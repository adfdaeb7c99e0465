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

mod disk;
mod hears;
mod says;

use super::board::Board;
use super::commands::{Done, Door};
use super::edge::Edge;
use super::report::{self, Report, Values};
use super::session::{Action, Event, Phase, Session, Who};
use crate::publish::mqtt::dialect::Message;
use crate::publish::mqtt::driver::{ACK_WAIT, BACKOFF_MAX, STOP_WAIT, backoff, next_link_event, sleep_until};
use crate::publish::mqtt::link::Link;
use crate::publish::mqtt::{MqttError, MqttOptions, Protocol, command, state};
use crate::publish::{Report as Others, StationEvent};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::outbox::Kind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

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

    fn broker(&self) -> String {
        format!("{}:{}", self.options.host, self.options.port)
    }
}

/// Where the number of a sink's newest connection is kept.
fn bd_seq_name(sink: &str) -> String {
    format!("sparkplug/{sink}")
}
