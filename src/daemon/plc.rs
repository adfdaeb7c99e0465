//! The line as servers of PLC protocols see it: results as they are stored, commands by the one door, states.
//!
//! ```text
//! recorder --after the commit--> Followers --try_send, a queue a server--> PartResult
//!                                    '--full: lost to this server, counted, alarm `plc_missed_SERVER`
//! server --Verb, fields--> Plc::command --the checks and the log of every door--> dispatcher
//!                                 '--> Ok: the id by which the result is found, or a Refusal
//! server --cameras()--> CameraView: state, orders, what waits
//! ```
//!
//! Invariants:
//! - The line never waits for a server: what finds no room is lost to this server alone, and is in the store.
//! - A result belongs to the command whose correlation id it carries, and to none other; its order says nothing.
//! - Every trigger that was accepted ends in a stored inspection: with a picture, or as a review without one (its
//!   window missed, the station stopped). A trigger that was refused has no inspection.

use super::cameras::Cameras;
use super::station::Station;
use crate::command::{self, CommandBody, Handler, Verb};
use crate::domain::camera::{CameraLoad, CameraStatus};
use crate::domain::plc::PartResult;
use crate::domain::trigger::{Refusal, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver};

/// Results that wait for one server. A server takes them at once; it is the disk of the line that is slow.
pub(super) const RESULTS_MAX: usize = 256;
/// Raised once a result has found no room at a server; cleared by the next start.
pub(super) const ALARM_MISSED: &str = "plc_missed";

/// Who is told of every result.
#[derive(Default)]
pub(super) struct Followers(Mutex<Vec<Follower>>);

struct Follower {
    server: String,
    queue: mpsc::Sender<PartResult>,
    lost: u64,
}

impl Followers {
    /// From now on `server` is told.
    pub(super) fn add(&self, server: &str) -> Receiver<PartResult> {
        let (queue, results) = mpsc::channel(RESULTS_MAX);
        self.lock().push(Follower { server: server.to_owned(), queue, lost: 0 });
        results
    }

    /// Tells everybody; the servers that had no room, and how many results each has lost by now. A server that has
    /// ended is told nothing any more.
    pub(super) fn tell(&self, result: &PartResult) -> Vec<(String, u64)> {
        let mut without_room = Vec::new();
        self.lock().retain_mut(|follower| match follower.queue.try_send(result.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                follower.lost += 1;
                without_room.push((follower.server.clone(), follower.lost));
                true
            }
        });
        without_room
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A camera, as servers show it.
#[derive(Clone, Debug)]
pub(super) struct CameraView {
    /// `id` in the config.
    pub id: String,
    pub status: CameraStatus,
    pub load: CameraLoad,
}

/// The line, for one server; share it in an `Arc`.
pub(super) struct Plc {
    /// The word of the protocol: `modbus`.
    server: String,
    handler: Handler,
    station: Arc<Station>,
    loads: Box<dyn Fn() -> Vec<(String, CameraLoad)> + Send + Sync>,
}

impl Plc {
    /// The line for `server`, and the results that it will be told.
    pub(super) fn new(
        server: &str,
        handler: Handler,
        station: &Arc<Station>,
        cameras: &Cameras,
    ) -> (Self, Receiver<PartResult>) {
        let results = station.follow(server);
        let (server, station) = (server.to_owned(), Arc::clone(station));
        (Self { server, handler, station, loads: Box::new(cameras.loads()) }, results)
    }

    /// Carries a command of the client `peer` out, and waits for the disk: do not call it from a task. A trigger
    /// without a correlation id gets one.
    ///
    /// # Errors
    /// The reason; there will be no inspection then.
    pub(super) fn command(&self, verb: Verb, body: CommandBody, peer: &str) -> Result<String, Refusal> {
        let id = || format!("{}-{}", self.server, ulid::Ulid::generate());
        let body = CommandBody { correlation_id: body.id().or_else(|| Some(id())), ..body };
        let id = body.correlation_id.clone().unwrap_or_default();
        let sender = Sender::Plc { server: self.server.clone(), peer: peer.to_owned() };
        let ordered = body.order(verb, Instant::now());
        let outcome = ordered.and_then(|order| (self.handler)(order.command, &sender));
        command::log::outcome(verb.as_str(), &sender, Some(&id), &outcome);
        outcome.map(|_| id)
    }

    /// How the cameras are, by id.
    pub(super) fn cameras(&self) -> Vec<CameraView> {
        let status = self.station.cameras();
        let view = |(id, load): (String, CameraLoad)| {
            let status = status.iter().find(|(known, _)| *known == id)?.1.clone();
            Some(CameraView { id, status, load })
        };
        (self.loads)().into_iter().filter_map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::grade::Grade;
    use crate::domain::part::Outcome;
    use crate::domain::trigger::Command;
    use std::time::SystemTime;

    fn result(seq: u64) -> PartResult {
        PartResult {
            camera: "cam1".into(),
            inspection_id: format!("{seq:026}"),
            seq,
            part_id: None,
            lot: None,
            correlation_id: None,
            outcome: Outcome::Pass,
            grade: Grade::Ok,
            reason: None,
            findings: 0,
            score: 0.0,
            latency_ms: 1.0,
            pipeline: "plate".into(),
            pipeline_version: "1".into(),
            captured_at: SystemTime::UNIX_EPOCH,
            finished_at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_server_that_takes_nothing_loses_results_and_delays_nobody() {
        let followers = Followers::default();
        let (mut quick, slow) = (followers.add("opcua"), followers.add("modbus"));
        for seq in 1..=RESULTS_MAX as u64 {
            assert!(followers.tell(&result(seq)).is_empty());
            assert_eq!(quick.try_recv().unwrap().seq, seq);
        }
        assert_eq!(followers.tell(&result(900)), [("modbus".to_owned(), 1)]);
        assert_eq!(followers.tell(&result(901)), [("modbus".to_owned(), 2)]);
        assert_eq!(quick.try_recv().unwrap().seq, 900, "the other one has it");
        drop(slow);
        assert!(followers.tell(&result(902)).is_empty(), "a server that ended has lost nothing");
        assert_eq!(followers.lock().len(), 1);
    }

    fn plc(handler: Handler) -> Plc {
        let station = Arc::new(Station::with_sinks(vec![]));
        Plc { server: "modbus".into(), handler, station, loads: Box::new(Vec::new) }
    }

    #[test]
    fn a_command_has_the_checks_of_every_door_and_an_id_by_which_its_result_is_found() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&taken);
        let plc = plc(Arc::new(move |command, sender| {
            log.lock().unwrap().push((command, sender.to_string()));
            Ok(None)
        }));
        let body = |part_id: &str| CommandBody { part_id: Some(part_id.into()), ..CommandBody::default() };
        let id = plc.command(Verb::Trigger, body("P1  "), "10.0.0.7").unwrap();
        let own = CommandBody { correlation_id: Some("mb-1".into()), ..body("P2") };
        assert_eq!(plc.command(Verb::Trigger, own, "10.0.0.7").unwrap(), "mb-1");
        let refused = plc.command(Verb::Trigger, body("P\u{7}"), "10.0.0.7");
        assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{refused:?}");
        let taken = taken.lock().unwrap();
        let [(Command::Trigger(first), sender), (Command::Trigger(second), _)] = taken.as_slice() else {
            panic!("{taken:?}")
        };
        assert_eq!(sender, "modbus:10.0.0.7");
        assert_eq!(first.trigger.part_id.as_deref(), Some("P1"));
        assert_eq!(first.trigger.correlation_id.as_deref(), Some(id.as_str()));
        assert!(id.starts_with("modbus-"), "{id}");
        assert_eq!(second.trigger.correlation_id.as_deref(), Some("mb-1"));
    }
}
