//! Modbus TCP: the station as a server that PLCs poll, with the handshake that their programmers know.
//!
//! ```text
//! PLC --TCP--> server (who may connect, how many, how long) --frames--> frames --words--> handshake of its camera
//!                                                                                   |  ^
//!                       commands of `[modbus]` --one thread a camera waits for the disk --' results, states
//! map      the table of registers         codes      numbers for words
//! ```
//!
//! One unit a camera. The server shows what is on the disk already, so that it needs no cursor of the outbox: what a PLC
//! did not fetch is in the store.
//!
//! Invariants:
//! - At most `connections_max` connections, from addresses that `allow` names; a silent one ends after `idle`.
//! - A frame is carried out while its camera's handshake is locked: a read sees one state, a write is one step.
//! - The line never waits for a PLC, and a PLC never waits for the disk: commands are carried out beside the frames.

pub(crate) mod codes;
mod frames;
pub(crate) mod handshake;
pub(crate) mod map;
mod server;

use crate::command::{CommandBody, Verb};
use crate::domain::camera::{CameraLoad, CameraState, CameraStatus};
use crate::domain::network::Network;
use crate::domain::plc::PartResult;
use crate::domain::trigger::Refusal;
use codes::Error;
use handshake::{Action, Handshake, Line, Setup};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinHandle, JoinSet};

/// How often cameras are looked at and deadlines are seen.
const TICK: Duration = Duration::from_millis(50);
/// Commands of one camera that wait for the one before: what a handshake can have asked for between two resets.
const COMMANDS_MAX: usize = 4;

/// What the server is told by the config.
#[derive(Clone, Debug)]
pub(crate) struct ModbusOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Networks whose clients may connect; empty: any, for a server on this machine alone.
    pub allow: Vec<Network>,
    /// Connections at once.
    pub connections_max: usize,
    /// A connection without a frame ends after this.
    pub idle: Duration,
    /// The cameras, by their units.
    pub cameras: BTreeMap<u8, String>,
    /// Key under which `expected` goes to the recipe (`from_trigger`).
    pub expected: String,
    /// Of every camera; the unit is filled in.
    pub setup: Setup,
}

/// Carries out a command of a client, by its address; it waits for the disk.
pub(crate) type Door = Arc<dyn Fn(Verb, CommandBody, &str) -> Result<(), Refusal> + Send + Sync>;

/// How the cameras are, by id.
pub(crate) type Look = Box<dyn Fn() -> Vec<(String, CameraStatus, CameraLoad)> + Send + Sync>;

/// The line, as the server needs it.
pub(crate) struct Wiring {
    /// Where commands go.
    pub door: Door,
    /// How the cameras are.
    pub look: Look,
    /// What was inspected.
    pub results: Receiver<PartResult>,
}

/// The running server; it ends when this is dropped, with its connections.
#[must_use]
pub(crate) struct Serving {
    task: JoinHandle<()>,
    /// Where it listens, with its port.
    pub listen: SocketAddr,
}

impl Serving {
    /// True when it has ended by itself, which only a panic does.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The cameras' handshakes; clones are the same.
#[derive(Clone)]
struct Units(Arc<BTreeMap<u8, Unit>>);

/// One camera and its PLC.
struct Unit {
    camera: String,
    handshake: Mutex<Handshake>,
    /// To who carries commands out, with the address of the client.
    commands: Sender<(Action, String)>,
}

impl Unit {
    fn lock(&self) -> MutexGuard<'_, Handshake> {
        self.handshake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what the handshake wants done; what finds no room is refused.
    fn pass_on(&self, handshake: &mut Handshake, peer: &str) {
        for action in handshake.actions() {
            if let Err(error) = self.commands.try_send((action, peer.to_owned())) {
                outcome(handshake, &error.into_inner().0, Err(Error::NotReady));
            }
        }
    }
}

fn outcome(handshake: &mut Handshake, action: &Action, outcome: Result<(), Error>) {
    match action {
        Action::Trigger { number, .. } => handshake.taken(*number, outcome, Instant::now()),
        Action::Recipe { number, .. } => handshake.changed(*number, outcome),
    }
}

/// Starts the server. Call it inside a tokio runtime.
///
/// # Errors
/// Nobody can listen at its address.
pub(crate) fn serve(options: ModbusOptions, wiring: Wiring) -> std::io::Result<Serving> {
    let listener = std::net::TcpListener::bind(options.listen)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let listen = listener.local_addr()?;
    let now = Instant::now();
    let mut units = BTreeMap::new();
    let mut queues = Vec::new();
    for (unit, camera) in &options.cameras {
        let (commands, queue) = channel(COMMANDS_MAX);
        let setup = Setup { unit: *unit, ..options.setup.clone() };
        let handshake = Mutex::new(Handshake::new(setup, now));
        units.insert(*unit, Unit { camera: camera.clone(), handshake, commands });
        queues.push((*unit, queue));
    }
    let units = Units(Arc::new(units));
    let task = tokio::spawn(async move {
        let Wiring { door, look, results } = wiring;
        let look = Arc::new(look);
        let mut workers = JoinSet::new();
        for (unit, queue) in queues {
            let expected = options.expected.clone();
            workers.spawn(carry_out(
                units.clone(),
                unit,
                queue,
                Arc::clone(&door),
                Arc::clone(&look),
                expected,
            ));
        }
        tokio::select! {
            () = server::accept(&options, listener, &units) => {}
            () = tell(&units, results) => {}
            () = follow(&units, &look) => {}
            // A worker ends by a panic only: whoever watches this task sees its end.
            _ = workers.join_next() => {}
        }
    });
    Ok(Serving { task, listen })
}

/// Tells the handshakes what was inspected. The line has ended when nothing comes any more; a PLC may still fetch.
async fn tell(units: &Units, mut results: Receiver<PartResult>) {
    while let Some(result) = results.recv().await {
        for unit in units.0.values().filter(|unit| unit.camera == result.camera) {
            unit.lock().result(result.clone());
        }
    }
    std::future::pending::<()>().await;
}

/// Tells them how their cameras are, and the time.
async fn follow(units: &Units, look: &Look) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        see(units, look);
        units.0.values().for_each(|unit| unit.lock().tick(Instant::now()));
    }
}

fn see(units: &Units, look: &Look) {
    let seen = Instant::now();
    for (camera, status, load) in look() {
        for unit in units.0.values().filter(|unit| unit.camera == camera) {
            unit.lock().line(line_of(&status, &load), seen);
        }
    }
}

fn line_of(status: &CameraStatus, load: &CameraLoad) -> Line {
    Line {
        online: status.state == CameraState::Ready,
        paused: status.line.paused,
        is_triggered: load.is_triggered,
        acquiring: load.is_taking || load.triggers > 0,
        pipeline: status.line.pipeline.clone(),
        deadline: load.deadline,
    }
}

/// Carries out the commands of one camera, in their order.
async fn carry_out(
    units: Units,
    unit: u8,
    mut queue: Receiver<(Action, String)>,
    door: Door,
    look: Arc<Look>,
    expected: String,
) {
    let Some(unit) = units.0.get(&unit) else { return };
    while let Some((action, peer)) = queue.recv().await {
        let (verb, body) = words(&action, &unit.camera, &expected);
        let door = Arc::clone(&door);
        let done = match tokio::task::spawn_blocking(move || door(verb, body, &peer)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Err(Refusal::Stopping),
        };
        if matches!(action, Action::Recipe { .. }) {
            // The number of the recipe stands before its acknowledgement.
            see(&units, &look);
        }
        outcome(&mut unit.lock(), &action, done.as_ref().copied().map_err(Error::from));
    }
}

/// A command in the words of every door.
fn words(action: &Action, camera: &str, expected_as: &str) -> (Verb, CommandBody) {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let camera = Some(camera.to_owned());
    match action {
        Action::Trigger { correlation_id, part_id, lot, expected, .. } => {
            let expected = some(expected).map(|text| (expected_as.to_owned(), text));
            let body = CommandBody {
                camera,
                part_id: some(part_id),
                lot: some(lot),
                expected: expected.into_iter().collect(),
                correlation_id: Some(correlation_id.clone()),
                ..CommandBody::default()
            };
            (Verb::Trigger, body)
        }
        Action::Recipe { pipeline, .. } => {
            let pipeline = Some(pipeline.clone());
            (Verb::Pipeline, CommandBody { camera, pipeline, ..CommandBody::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    fn serving(options: impl FnOnce(&mut ModbusOptions)) -> Serving {
        let setup = Setup {
            unit: 0,
            epoch: 1,
            config_checksum: 0,
            recipes: BTreeMap::new(),
            watchdog: Duration::ZERO,
            keep_results: true,
        };
        let mut all = ModbusOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            allow: vec![],
            connections_max: 2,
            idle: Duration::from_mins(1),
            cameras: BTreeMap::from([(1, "cam1".to_owned())]),
            expected: "serial".into(),
            setup,
        };
        options(&mut all);
        let (_, results) = channel(1);
        let wiring = Wiring { door: Arc::new(|_, _, _| Ok(())), look: Box::new(Vec::new), results };
        serve(all, wiring).unwrap()
    }

    /// What comes of the first register: nothing from a server that has closed the connection.
    async fn protocol(serving: &Serving) -> Option<u8> {
        let mut plc = TcpStream::connect(serving.listen).await.ok()?;
        plc.write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1]).await.ok()?;
        let mut answer = [0; 11];
        plc.read_exact(&mut answer).await.ok()?;
        Some(answer[10])
    }

    #[tokio::test]
    async fn a_client_is_served_from_where_the_config_allows_and_as_long_as_it_speaks() {
        let serving = serving(|_| ());
        assert_eq!(protocol(&serving).await, Some(1));
        assert!(!serving.is_over(), "a line that inspects nothing is still shown");
        let elsewhere = Network::parse("192.168.10.0/24").unwrap();
        let closed = super::tests::serving(|options| options.allow = vec![elsewhere]);
        assert_eq!(protocol(&closed).await, None);
        let hasty = super::tests::serving(|options| options.idle = Duration::from_millis(50));
        let mut silent = TcpStream::connect(hasty.listen).await.unwrap();
        // Its end, by which name ever.
        assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }

    #[test]
    fn a_trigger_has_the_words_of_every_door() {
        let trigger = Action::Trigger {
            number: 3,
            correlation_id: "modbus-1-1-3".into(),
            part_id: "P1".into(),
            lot: String::new(),
            expected: "SN1".into(),
        };
        let (verb, body) = words(&trigger, "cam1", "serial");
        assert_eq!(
            (verb, body.camera.as_deref(), body.part_id.as_deref()),
            (Verb::Trigger, Some("cam1"), Some("P1"))
        );
        assert_eq!((body.lot, body.expected["serial"].as_str()), (None, "SN1"));
        assert_eq!(body.correlation_id.as_deref(), Some("modbus-1-1-3"));
        let (verb, body) = words(&Action::Recipe { number: 1, pipeline: "photo".into() }, "cam1", "serial");
        assert_eq!(
            (verb, body.pipeline.as_deref(), body.correlation_id),
            (Verb::Pipeline, Some("photo"), None)
        );
    }
}
