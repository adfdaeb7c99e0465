//! Commands in, acknowledgements out: a second client, so that nothing that comes in can hold up results.
//!
//! ```text
//! broker --cmd/…--> ears --queue (bounded)--> one at a time: parse --> dispatcher
//! broker <--PUBACK-- after the answer <--cmd/ack, or the sender's response topic: accepted, or the reason--'
//! ```
//!
//! Who hears never waits for who carries out, and who carries out may wait for room in the client: so a burst is
//! answered command by command, however long it is.
//!
//! Invariants:
//! - Packets of more than [`COMMAND_BYTES_MAX`] end the connection, which is made anew; results flow on.
//! - The session is clean: a command that came while the station was away is not carried out late, nor is one that
//!   waited when the connection ended. A sender without an answer may send it again under its correlation id.
//! - Every command gets one acknowledgement, under the id that its sender gave, a refused one and one that comes
//!   again, too. Which may command, and where the answer goes, the dialect says.
//! - A broker that lets nobody hear commands, or two stations under one client id or one path ([`twin`]), raise an alarm.
//! - A broker that ends the connection when it is asked for the station's own status is not asked again.

mod twin;
mod wire;

pub(crate) use twin::Presence;

use super::MqttOptions;
use super::dialect::{self, Asked, Dialect};
use crate::command::{self, Handler, Verb};
use crate::domain::trigger::Sender;
use crate::publish::{Report, StationEvent, StationState, alarm_of, instance};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use twin::{Step, Twin};
use wire::{Arrived, Ears, Heard, Lost, Receipt, Voice};

/// Longest packet that is taken in.
pub const COMMAND_BYTES_MAX: u32 = command::BYTES_MAX as u32;
/// A broker of MQTT 5 is told not to have more commands open.
pub const OPEN_MAX: u16 = 512;
/// Commands that wait for their turn: as many as packets have numbers. Brokers of MQTT 3.1.1 have a limit of their own,
/// or none; mosquitto 2.0.11 goes far beyond the one that it has.
const QUEUE_MAX: usize = u16::MAX as usize;
/// Bytes of commands that wait.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Waits between connections double from the first to the last of these.
const RECONNECT_MIN: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// A connection that has lasted so long is nobody else's; a refused subscription is asked for again after it.
const SETTLED: Duration = Duration::from_mins(1);
/// Connections in a row that end sooner, until somebody else is suspected to use the client id.
const SHORT_MAX: u32 = 4;

/// Raised while the broker refuses the subscription to commands.
pub const ALARM_REFUSED: &str = "commands_refused";
/// Raised while another client seems to use the station's client id.
pub const ALARM_TAKEN: &str = "client_id_taken";
/// Raised while another station publishes under the same path.
pub const ALARM_TWIN: &str = "twin_station";

/// The running listener; it ends when this is dropped, however the line ends.
#[must_use]
pub struct Listening(JoinHandle<()>);

impl Listening {
    /// The listener that a task is.
    pub(super) const fn to(task: JoinHandle<()>) -> Self {
        Self(task)
    }

    /// True when it has ended by itself, which only a panic does.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens for commands; `report` passes alarms of the connection on. Call it inside a tokio runtime.
pub fn listen(options: MqttOptions, handler: Handler, report: Report) -> Listening {
    let listener = Listener {
        dialect: dialect::json(&options.prefix),
        options,
        handler,
        report,
        refused: AtomicBool::new(false),
        taken: AtomicBool::new(false),
        twin: Mutex::default(),
        speaks: Notify::new(),
        watch: Mutex::new(Watch::Wanted),
    };
    Listening(tokio::spawn(async move { listener.run().await }))
}

/// Commands of a connection that wait for their turn.
struct Commands {
    queue: mpsc::Sender<Arrived>,
    bytes: AtomicUsize,
}

impl Commands {
    /// Puts one in; it comes back when there is no room.
    fn put(&self, arrived: Arrived) -> Result<(), Box<Arrived>> {
        let length = arrived.payload.len();
        if self.bytes.load(Ordering::Relaxed) + length > QUEUE_BYTES_MAX {
            return Err(Box::new(arrived));
        }
        // Before it can be taken out.
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.queue.try_send(arrived).map_err(|full| {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            Box::new(full.into_inner())
        })
    }
}

/// How it stands with the subscription to the station's own status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Wanted,
    /// The broker has not answered yet.
    Asked,
    Answered,
    /// The connection ended over it.
    GivenUp,
}

struct Listener {
    options: MqttOptions,
    dialect: Arc<dyn Dialect>,
    handler: Handler,
    report: Report,
    /// The alarms that stand.
    refused: AtomicBool,
    taken: AtomicBool,
    twin: Mutex<Twin>,
    /// There is a twin that is to hear us.
    speaks: Notify,
    watch: Mutex<Watch>,
}

impl Listener {
    async fn run(&self) {
        // Those of a former run do not stand any more.
        for code in [ALARM_REFUSED, ALARM_TAKEN, ALARM_TWIN] {
            self.alarm(code, String::new());
        }
        let (mut wait, mut short) = (RECONNECT_MIN, 0);
        loop {
            let began = Instant::now();
            let (was_up, lost) = self.connection().await;
            let lasted = began.elapsed();
            if lasted > RECONNECT_MAX {
                wait = RECONNECT_MIN;
            }
            tracing::warn!(reason = %lost.reason, "the connection for commands is gone");
            short = if was_up && lasted < SETTLED { short + 1 } else { 0 };
            self.suspect(&lost, short);
            self.watch_is_lost();
            tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            wait = (2 * wait).min(RECONNECT_MAX);
        }
    }

    /// One connection, from CONNECT to its end; whether it was up.
    async fn connection(&self) -> (bool, Lost) {
        let (voice, ears) = wire::connection(&self.options, &self.client_id());
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let queue = Commands { queue, bytes: AtomicUsize::new(0) };
        let mut up = false;
        let lost = tokio::select! {
            lost = self.hear(&voice, ears, &queue, &mut up) => lost,
            never = self.carry_out(&voice, waiting, &queue.bytes) => never,
            never = self.settle(&voice) => never,
            never = self.speak(&voice) => never,
        };
        (up, lost)
    }

    /// Queues what comes in. Never waits but for the network.
    async fn hear(&self, voice: &Voice, mut ears: Ears, queue: &Commands, up: &mut bool) -> Lost {
        let gone = |reason: String| Lost { reason, taken_over: false };
        loop {
            match ears.next().await {
                Ok(Heard::Up) => {
                    *up = true;
                    if voice.subscribe(self.topics()).is_err() {
                        return gone("the client took no subscription".into());
                    }
                }
                Ok(Heard::Subscribed { asked: 1, refused }) => self.watched(refused.is_empty()),
                Ok(Heard::Subscribed { refused, .. }) => {
                    self.subscribed(&refused);
                    self.watch(voice);
                }
                Ok(Heard::Command(arrived)) if self.is_status(&arrived) => self.status_heard(&arrived),
                Ok(Heard::Command(arrived)) => match queue.put(arrived) {
                    Ok(()) => {}
                    // QoS 0 promises nothing, and its sender waits for an answer that says so.
                    Err(arrived) if matches!(arrived.receipt, Receipt::None) => {
                        let topic = &arrived.topic;
                        tracing::warn!(topic, "a command with QoS 0 is lost: too many wait already");
                    }
                    Err(_) => return gone("the broker has more commands open than can wait here".into()),
                },
                Ok(Heard::Other) => {}
                Err(lost) => return lost,
            }
        }
    }

    /// Carries out what waits, in its order; the broker has its PUBACK when the answer is on its way.
    async fn carry_out(
        &self,
        voice: &Voice,
        mut waiting: mpsc::Receiver<Arrived>,
        bytes: &AtomicUsize,
    ) -> Lost {
        while let Some(arrived) = waiting.recv().await {
            bytes.fetch_sub(arrived.payload.len(), Ordering::Relaxed);
            let answer = self.take(&arrived).await;
            let answered = match answer {
                Some((to, answer)) => voice.answer(to, answer, arrived.correlation).await,
                None => Ok(()),
            };
            if answered.is_err() || voice.acknowledge(&arrived.receipt).await.is_err() {
                break;
            }
        }
        // The ears know why.
        std::future::pending().await
    }

    /// What time brings: a connection that lasts is nobody else's, and a broker may have changed its mind.
    async fn settle(&self, voice: &Voice) -> Lost {
        loop {
            tokio::time::sleep(SETTLED).await;
            if self.taken.swap(false, Ordering::Relaxed) {
                self.alarm(ALARM_TAKEN, String::new());
            }
            let minute = |twin: &mut Twin| twin.minute(Instant::now());
            self.about_a_twin(minute);
            if self.refused.load(Ordering::Relaxed) && voice.subscribe(self.topics()).is_err() {
                tracing::warn!("a refused subscription could not be asked for again");
            }
        }
    }

    /// Asks for the station's own status, where nothing speaks against it.
    fn watch(&self, voice: &Voice) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = self.dialect.presence_topic().filter(|_| *watch == Watch::Wanted)
            && voice.watch(topic).is_ok()
        {
            *watch = Watch::Asked;
        }
    }

    fn watched(&self, granted: bool) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Watch::Answered;
        if !granted {
            tracing::info!(
                "the broker does not show us our own status: a second station of this path is not noticed"
            );
        }
    }

    /// The connection has ended: the next one asks again, unless this was the broker's answer.
    fn watch_is_lost(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        *watch = match *watch {
            Watch::Asked => {
                tracing::warn!(
                    "the connection ended when the station's status was asked for: this is not done again"
                );
                Watch::GivenUp
            }
            Watch::GivenUp => Watch::GivenUp,
            Watch::Wanted | Watch::Answered => Watch::Wanted,
        };
    }

    fn is_status(&self, arrived: &Arrived) -> bool {
        self.dialect.presence_topic().is_some_and(|topic| topic == arrived.topic)
    }

    /// What is retained may be an old word of our own.
    fn status_heard(&self, arrived: &Arrived) {
        if let Some(said) = self.dialect.read_presence(&arrived.payload).filter(|_| !arrived.retained) {
            self.about_a_twin(|twin| twin.heard(instance(), said, Instant::now()));
        }
    }

    fn about_a_twin(&self, look: impl FnOnce(&mut Twin) -> Step) {
        let Step { alarm, answer } = look(&mut self.twin.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(text) = alarm {
            if text.is_empty() {
                tracing::info!("the other station of this path is gone");
            } else {
                tracing::error!("{text}");
            }
            self.alarm(ALARM_TWIN, text);
        }
        if answer {
            self.speaks.notify_one();
        }
    }

    /// Says that this station is there, so that a twin hears it. Not retained: the state on the broker is not ours to
    /// change here.
    async fn speak(&self, voice: &Voice) -> Lost {
        let since = SystemTime::now();
        loop {
            self.speaks.notified().await;
            let status = self.dialect.status(StationState::Online, since);
            if voice.answer(status.topic, status.payload, None).await.is_err() {
                // The ears know why.
                return std::future::pending().await;
            }
        }
    }

    fn client_id(&self) -> String {
        format!("{}-cmd", self.options.client_id)
    }

    fn topics(&self) -> impl Iterator<Item = String> + use<> {
        self.dialect.command_topics().into_iter()
    }

    fn subscribed(&self, refused: &[usize]) {
        let topics: Vec<_> =
            self.topics().enumerate().filter(|(i, _)| refused.contains(i)).map(|(_, topic)| topic).collect();
        if topics.is_empty() {
            tracing::info!("commands are heard");
        } else {
            let topics = topics.join(", ");
            tracing::error!(topics, "the broker refuses the subscription to commands");
        }
        let was = self.refused.swap(!topics.is_empty(), Ordering::Relaxed);
        if was == topics.is_empty() {
            let text = format!("the broker refuses the subscription to {}", topics.join(", "));
            self.alarm(ALARM_REFUSED, if topics.is_empty() { String::new() } else { text });
        }
    }

    /// Two clients of one id throw each other out for ever, and nobody hears all commands.
    fn suspect(&self, lost: &Lost, short: u32) {
        let id = self.client_id();
        let text = if lost.taken_over {
            format!(
                "another client has taken over the session of {id}: does a second station have this client_id?"
            )
        } else if short >= SHORT_MAX {
            format!(
                "{short} connections of {id} in a row have ended within {} s: perhaps a second station has this \
                     client_id",
                SETTLED.as_secs()
            )
        } else {
            return;
        };
        if !self.taken.swap(true, Ordering::Relaxed) {
            tracing::error!("{text}");
            self.alarm(ALARM_TAKEN, text);
        }
    }

    /// Raises an alarm or, without a text, clears it.
    fn alarm(&self, code: &str, message: String) {
        let code = alarm_of(&self.options.sink, code);
        (self.report)(StationEvent::Alarm { code, raised: !message.is_empty(), message });
    }

    /// Carries one command out; the topic and the bytes of its acknowledgement.
    async fn take(&self, arrived: &Arrived) -> Option<(String, Vec<u8>)> {
        let Asked { verb, body, correlation_id, answer_to } =
            self.dialect.read_command(&arrived.incoming())?;
        let order = body.and_then(|body| body.order(Verb::parse(&verb)?, arrived.at));
        let sender = Sender::Mqtt { sink: self.options.sink.clone() };
        let outcome = match order {
            Ok(order) => command::carry_out(&self.handler, order.command, sender.clone()).await,
            Err(refusal) => Err(refusal),
        };
        command::log::outcome(&verb, &sender, correlation_id.as_deref(), &outcome);
        let answer = self.dialect.answer(&verb, correlation_id.as_deref(), &outcome, SystemTime::now());
        Some((answer_to, answer))
    }
}
