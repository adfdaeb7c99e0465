//! How a server is let in: who it is, how it counts, which model it has, what it answers about known pictures.
//!
//! ```text
//! wake --probe--> probed --admission, known pictures--> prove --> here
//!                   |                                     |
//!                   '--no answer, other counts, other model, other answers--> it rests, and is asked again
//! ```

use super::probe::{self, Stated, sha256};
use super::server::{Proving, Server, Stand};
use super::{Cluster, Event, Fault, Owner, POLL};
use crate::engine::{EngineError, Refused};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use vlm::{Job, ModelInfo, Rank};

impl Cluster {
    /// Asks all servers and waits until each was let in or was not; `alive` is called meanwhile, `go_on` is asked again and
    /// again.
    ///
    /// # Errors
    /// None was let in. They are tried again all the same, by `next`. `GivenUp` when `go_on` says no.
    pub fn load(&mut self, alive: &dyn Fn(), go_on: &dyn Fn() -> bool) -> Result<&ModelInfo, EngineError> {
        while !self.servers.iter().all(Server::is_decided) {
            alive();
            if !go_on() {
                return Err(EngineError::GivenUp);
            }
            self.step(POLL);
        }
        if self.servers.iter().any(Server::is_here) {
            return Ok(&self.info);
        }
        Err(match &self.health.refused {
            Some(why) => EngineError::NotAccepted { why: why.clone() },
            None => EngineError::NotProven { why: self.health.fault.clone().unwrap_or_default() },
        })
    }

    /// Asks servers whose rest is over who they are.
    pub(super) fn wake(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        for (i, server) in self.servers.iter_mut().enumerate() {
            if !matches!(server.stand, Stand::Resting { until } if until <= Instant::now()) {
                continue;
            }
            server.stand = Stand::Asked;
            let (way, events, options) = (server.way.clone(), Arc::clone(&self.events), self.options.clone());
            runtime.spawn(async move {
                let model = options.model.as_deref();
                let probed = probe::probe(&way, options.kind, model, options.min_pixels).await;
                // A queue that is closed is a cluster's that has ended.
                let _ = events.push(Event::Probed(i, probed));
            });
        }
    }

    pub(super) fn probed(&mut self, server: usize, outcome: Result<Stated, Fault>) {
        if !matches!(self.servers[server].stand, Stand::Asked) {
            return;
        }
        let stated = match outcome {
            Ok(stated) => stated,
            Err(Fault::Busy(_)) => return self.lose(server, "it has too much to do".into(), false),
            Err(Fault::Lost(why) | Fault::Refused(why) | Fault::Denied(why)) => {
                return self.lose(server, why, false);
            }
        };
        let info = self.info_of(&stated);
        if self.servers.iter().any(Server::is_here) && info != self.info {
            let why = format!("it has another model than the servers that are here: {}", info.name);
            return self.lose(server, why, true);
        }
        if self.info == ModelInfo::default() {
            // Reviews name the model that was there, as long as none was let in.
            self.info = info.clone();
        }
        let trial = match self.options.admission.admit(&info) {
            Ok(trial) => trial,
            Err(refused) => {
                let is_refused = matches!(refused, Refused::NotAccepted { .. });
                return self.lose(server, refused.to_string(), is_refused);
            }
        };
        self.servers[server].stated = Some(stated);
        let jobs: Vec<Arc<Job>> = trial.jobs().into_iter().map(Arc::new).collect();
        let (asked, since) = (jobs.len(), Instant::now());
        let proving = Proving { trial, info, since, asked, answers: BTreeMap::new() };
        self.servers[server].stand = Stand::Proving(proving);
        for (number, job) in jobs.iter().enumerate() {
            self.call(Owner::Trial(server, number), Rank::default(), job, 0);
        }
        self.prove(server);
    }

    /// With the last answer to the known pictures a server is let in, or not.
    pub(super) fn prove(&mut self, server: usize) {
        let Stand::Proving(proving) = &mut self.servers[server].stand else { return };
        if proving.answers.len() < proving.asked {
            return;
        }
        let answers = std::mem::take(&mut proving.answers).into_values().collect();
        if let Err(why) = proving.trial.judge(answers) {
            return self.lose(server, why, false);
        }
        let (info, asked, ms) =
            (proving.info.clone(), proving.asked, proving.since.elapsed().as_millis() as u64);
        tracing::info!(server = %self.servers[server].way.url, model = %info.name, pictures = asked, ms, "a server is let in");
        self.info = info;
        self.health.proof = Some((asked, ms));
        self.servers[server].enter();
    }

    /// Name and marks of a server's model: the same for all servers that say the same of it. The marks have the form of the
    /// hashes of files, which records and messages hold, and can be none of any file.
    fn info_of(&self, stated: &Stated) -> ModelInfo {
        let Stated { kind, version, model, facts_sha256, .. } = stated;
        let software =
            if version.is_empty() { kind.name().to_owned() } else { format!("{} {version}", kind.name()) };
        let places: Vec<_> = self.servers.iter().map(Server::name).collect();
        ModelInfo {
            name: format!("{model} (remote, {software} at {})", places.join(", ")),
            text_sha256: facts_sha256.clone(),
            mmproj_sha256: sha256(&format!("remote: {software}")),
            labels: self.options.labels.clone(),
            proof: None,
            beside: String::new(),
        }
    }
}
