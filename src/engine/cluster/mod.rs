//! The backend that is other machines: servers of OpenAI's chat completions (vLLM, llama-server) with one model.
//!
//! ```text
//! job --a question each--> waiting, by rank --the server with least under way--> POST --> read by the form's grammar
//!                             ^                                                   |
//!                             '--its server is lost, and another one is here------'--> all questions answered: the job is
//! ```
//!
//! A server that answers other machines is not believed more than the engine's process: [`probe`] proves that it counts
//! tokens as we do, the admission that it has the accepted model and answers known pictures, and [`held`] that what it
//! says has its form. What servers cannot do (features of cells, grammars, clips, adapters) is not in [`ABILITIES`].
//!
//! Invariants:
//! - Every job is answered exactly once. A question has one answer, of one server; when that is lost, it is asked of
//!   another one, once.
//! - An error, an answer that is late, cut off or outside of its form, and one without probabilities are no pass.
//! - All servers that are here have the same model, by what they say of it.
//! - No call waits longer than it was told to: requests are made by a thread of their own.

mod ask;
mod entry;
mod form;
mod held;
mod http;
mod options;
mod probe;
mod server;
mod wire;

pub use http::{Url, authorities};
pub use options::{Kind, Options};

use super::{Abilities, Backend, EngineError, Forms, Health, Readiness};
use crate::queue::{Policy, Popped, Queue};
use crate::threads;
use held::Grammars;
use http::{To, Way};
use hyper::StatusCode;
use probe::Stated;
use server::{Server, Stand};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, block_in_place};
use vlm::{Answered, Completion, Ground, Job, ModelInfo, Rank, Shown, Timing, VlmError};

/// What servers can answer.
pub const ABILITIES: Abilities = Abilities {
    forms: Forms { defects: true, lines: true, schema: true, lark: false, cells: false },
    ground: Ground::Bounded,
    images_max: 16,
    pixel_bytes_max: 64 << 20,
    clips: false,
    conversations: true,
    adapters: false,
    streams: false,
    prefix_cache: true,
};

/// What has come and was not looked at: as many as there can be questions under way.
const EVENTS_MAX: usize = 8192;
/// Servers that one question is asked of, one after the other: what has ended two of them is asked of no third.
const LOST_MAX: usize = 2;
/// Times that a question is put to servers that are busy.
const BUSY_MAX: u32 = 100;
/// Known pictures that are not answered after so long never will be.
const PROOF_MAX: Duration = Duration::from_mins(10);
/// How often a call that waits for the servers looks.
const POLL: Duration = Duration::from_millis(50);
/// Threads that make requests: pictures are compressed there.
const THREADS: usize = 2;

/// What a request says of the model.
struct Target {
    kind: Kind,
    model: String,
    min_pixels: u32,
}

/// Why there is no answer.
#[derive(Debug)]
enum Fault {
    /// The server is gone, late, or said what is no answer.
    Lost(String),
    /// It has too much to do, and may say for how long.
    Busy(Option<Duration>),
    /// It refuses this question.
    Refused(String),
    /// It refuses us, or cannot be asked.
    Denied(String),
}

/// What the thread of requests has brought.
enum Event {
    Probed(usize, Result<Stated, Fault>),
    /// A call's attempt, by their numbers.
    Came(u64, u64, Result<wire::Came, Fault>),
}

/// Whose question it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Job(u64),
    /// The server's proof, by the number of its job.
    Trial(usize, usize),
}

/// One question until it is answered.
struct Call {
    owner: Owner,
    rank: Rank,
    job: Arc<Job>,
    ask: usize,
    /// Servers that were lost with it.
    lost: Vec<usize>,
    busy: u32,
    /// `None`: it waits.
    at: Option<At>,
}

/// Where a question was put.
struct At {
    server: usize,
    /// What comes of an attempt that was given up belongs to nobody.
    attempt: u64,
    task: AbortHandle,
    since: Instant,
}

/// A job that is not answered yet.
struct Open {
    answers: Vec<Option<Result<Completion, VlmError>>>,
    timing: Timing,
}

/// The servers and what is asked of them.
pub struct Cluster {
    options: Options,
    /// `None` when it ends.
    runtime: Option<Runtime>,
    grammars: Arc<Grammars>,
    events: Arc<Queue<Event>>,
    servers: Vec<Server>,
    jobs: BTreeMap<u64, Open>,
    calls: BTreeMap<u64, Call>,
    /// Calls that are at no server, best first.
    waiting: BTreeSet<(Rank, u64)>,
    next_call: u64,
    next_attempt: u64,
    answered: Vec<Answered>,
    info: ModelInfo,
    health: Health,
    failed: u64,
}

impl Cluster {
    /// A backend that asks no server yet.
    ///
    /// # Errors
    /// `Start`: the system has no threads, or the key is none.
    pub fn new(options: Options) -> Result<Self, EngineError> {
        let start = |why: String| EngineError::Start { why };
        let key = options.key.as_deref().map(http::bearer).transpose().map_err(start)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .thread_name("cluster")
            .build()
            .map_err(|error| start(error.to_string()))?;
        let way = |url: &Url| {
            let (tls, key) = (options.tls.clone(), key.clone());
            Server::new(Way { url: url.clone(), tls, key, timeout: options.timeout })
        };
        Ok(Self {
            servers: options.servers.iter().map(way).collect(),
            runtime: Some(runtime),
            grammars: Arc::new(Grammars::new().map_err(start)?),
            events: Arc::new(Queue::new(Policy::Wait, EVENTS_MAX)),
            jobs: BTreeMap::new(),
            calls: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_call: 0,
            next_attempt: 0,
            answered: vec![],
            info: ModelInfo::default(),
            health: Health::default(),
            failed: 0,
            options,
        })
    }

    /// Waits at most `wait` for what comes, and goes on with everything.
    fn step(&mut self, wait: Duration) {
        self.wake();
        let mut wait = wait;
        while let Popped::Item(event) = self.events.pop(Some(wait)) {
            match event {
                Event::Probed(server, outcome) => self.probed(server, outcome),
                Event::Came(call, attempt, outcome) => self.came(call, attempt, outcome),
            }
            wait = Duration::ZERO;
        }
        for server in 0..self.servers.len() {
            if matches!(&self.servers[server].stand, Stand::Proving(p) if p.since.elapsed() > PROOF_MAX) {
                let why = format!("its known pictures were not answered after {} s", PROOF_MAX.as_secs());
                self.lose(server, why, false);
            }
        }
        self.dispatch();
        self.show();
    }

    fn call(&mut self, owner: Owner, rank: Rank, job: &Arc<Job>, ask: usize) {
        let id = self.next_call;
        self.next_call += 1;
        let call = Call { owner, rank, job: Arc::clone(job), ask, lost: vec![], busy: 0, at: None };
        self.calls.insert(id, call);
        self.waiting.insert((rank, id));
    }

    /// Puts what waits to the servers with least under way.
    fn dispatch(&mut self) {
        let waiting: Vec<_> = self.waiting.iter().copied().collect();
        for (rank, id) in waiting {
            let Some(call) = self.calls.get(&id) else { continue };
            let fits = |(i, server): &(usize, &Server)| {
                let is_its_own = match call.owner {
                    Owner::Trial(own, _) => own == *i,
                    Owner::Job(_) => server.is_here(),
                };
                is_its_own && !call.lost.contains(i) && server.has_room(&self.options)
            };
            let servers = self.servers.iter().enumerate().filter(fits);
            let Some((server, _)) = servers.min_by_key(|(_, server)| server.out) else { continue };
            self.waiting.remove(&(rank, id));
            self.put(id, server);
        }
    }

    fn put(&mut self, id: u64, server: usize) {
        let (Some(call), Some(runtime)) = (self.calls.get_mut(&id), &self.runtime) else { return };
        let Server { way, stated: Some(stated), out, .. } = &mut self.servers[server] else { return };
        *out += 1;
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let target =
            Target { kind: stated.kind, model: stated.model.clone(), min_pixels: self.options.min_pixels };
        let (way, job, ask) = (way.clone(), Arc::clone(&call.job), call.ask);
        let (grammars, events) = (Arc::clone(&self.grammars), Arc::clone(&self.events));
        let task = runtime.spawn(async move {
            let outcome = request(&way, &target, &grammars, &job, ask).await;
            // A queue that is closed is a cluster's that has ended.
            let _ = events.push(Event::Came(id, attempt, outcome));
        });
        call.at = Some(At { server, attempt, task: task.abort_handle(), since: Instant::now() });
    }

    fn came(&mut self, id: u64, attempt: u64, outcome: Result<wire::Came, Fault>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(At { server, .. }) = call.at.take_if(|at| at.attempt == attempt) else { return };
        self.servers[server].out = self.servers[server].out.saturating_sub(1);
        match outcome {
            Ok(wire::Came { answer, timing }) => {
                self.servers[server].answered();
                self.answer(id, answer, timing);
            }
            Err(Fault::Refused(why)) => {
                self.servers[server].answered();
                let why = format!("{}: {why}", self.servers[server].name());
                self.answer(id, Err(VlmError::Unable { why }), Timing::default());
            }
            Err(Fault::Busy(wait)) => {
                self.servers[server].is_busy(wait);
                call.busy += 1;
                if call.busy < BUSY_MAX {
                    self.waiting.insert((call.rank, id));
                } else {
                    let why = format!("{}: it has too much to do", self.servers[server].name());
                    self.answer(id, Err(VlmError::Lost { why }), Timing::default());
                }
            }
            Err(Fault::Lost(why) | Fault::Denied(why)) => {
                call.lost.push(server);
                self.waiting.insert((call.rank, id));
                self.lose(server, why, false);
            }
        }
    }

    /// A question is answered, and with the last one its job.
    fn answer(&mut self, id: u64, answer: Result<Completion, VlmError>, timing: Timing) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.waiting.remove(&(call.rank, id));
        match call.owner {
            Owner::Job(job) => {
                let Some(open) = self.jobs.get_mut(&job) else { return };
                open.timing = open.timing + timing;
                open.answers[call.ask] = Some(answer);
                if open.answers.iter().all(Option::is_some) {
                    self.close(job);
                }
            }
            Owner::Trial(server, number) => {
                if let Stand::Proving(proving) = &mut self.servers[server].stand {
                    proving.answers.insert(number, vec![answer]);
                }
                self.prove(server);
            }
        }
    }

    /// Gives a job out, with what was not answered stopped.
    fn close(&mut self, id: u64) {
        let Some(Open { answers, timing }) = self.jobs.remove(&id) else { return };
        let answers = answers.into_iter().map(|a| a.unwrap_or(Err(VlmError::Stopped))).collect();
        self.answered.push(Answered { id, answers, timing });
    }

    /// A server is lost. What it had is asked of another one that is here, or is lost with it.
    fn lose(&mut self, server: usize, why: String, is_refused: bool) {
        let was_here = self.servers[server].is_here();
        self.servers[server].rest(why, is_refused);
        let is_its = |call: &&mut Call| call.at.as_ref().is_some_and(|at| at.server == server);
        for call in self.calls.values_mut().filter(is_its) {
            if let Some(at) = call.at.take() {
                at.task.abort();
            }
            call.lost.push(server);
        }
        self.calls.retain(|_, call| !matches!(call.owner, Owner::Trial(own, _) if own == server));
        let calls = &self.calls;
        self.waiting.retain(|(_, id)| calls.contains_key(id));
        self.waiting
            .extend(calls.iter().filter(|(_, call)| call.at.is_none()).map(|(id, call)| (call.rank, *id)));
        let is_last = !self.servers.iter().any(Server::is_here);
        if is_last {
            self.failed += 1;
            self.health.losses += u64::from(was_here);
        }
        let here: Vec<usize> = (0..self.servers.len()).filter(|i| self.servers[*i].is_here()).collect();
        let is_lost = |call: &Call| {
            let has_one = here.iter().any(|server| !call.lost.contains(server));
            matches!(call.owner, Owner::Job(_)) && (!has_one || call.lost.len() >= LOST_MAX)
        };
        let lost: Vec<u64> = self
            .waiting
            .iter()
            .map(|(_, id)| *id)
            .filter(|id| self.calls.get(id).is_some_and(is_lost))
            .collect();
        let why = self.servers[server].why();
        for id in lost {
            self.answer(id, Err(VlmError::Lost { why: why.clone() }), Timing::default());
        }
    }

    /// What the station says: each server that is not here, and why.
    fn show(&mut self) {
        let away = self.servers.iter().filter(|server| server.fault.is_some());
        let said: Vec<_> = away.map(Server::why).collect();
        let (here, all) = (self.servers.iter().filter(|server| server.is_here()).count(), self.servers.len());
        let count = if all > 1 { format!(" ({here} of {all} servers answer)") } else { String::new() };
        self.health.fault = (!said.is_empty()).then(|| format!("{}{count}", said.join("; ")));
        let refused = self.servers.iter().find(|server| server.is_refused).filter(|_| here == 0);
        self.health.refused = refused.map(Server::why);
    }
}

/// A conversation is somebody else's: its pictures may be large and its schema anything. While they are worked on, the other
/// questions of this thread go to another one.
fn beside<T>(job: &Job, work: impl FnOnce() -> T) -> T {
    if matches!(job.shown, Shown::Turns(_)) { block_in_place(work) } else { work() }
}

/// Asks one question of one server.
async fn request(
    way: &Way,
    target: &Target,
    grammars: &Grammars,
    job: &Job,
    ask: usize,
) -> Result<wire::Came, Fault> {
    let failed = |error: VlmError| wire::Came { answer: Err(error), timing: Timing::default() };
    let Some(ask) = job.asks.get(ask) else { return Ok(failed(VlmError::Stopped)) };
    let began = Instant::now();
    let body = match beside(job, || threads::caught(|| wire::body(target, job, ask))) {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Ok(failed(error)),
        Err(why) => return Ok(failed(VlmError::Lost { why })),
    };
    let preprocess_ms = began.elapsed().as_secs_f64() * 1e3;
    let sent = Instant::now();
    let response = way.ask(To::Api("/chat/completions"), Some(body.bytes)).await.map_err(Fault::Lost)?;
    if response.status != StatusCode::OK {
        return Err(probe::status(&response));
    }
    let read = || wire::read(grammars, ask, body.picture_tokens, &response.body);
    let mut came = beside(job, || threads::caught(read)).map_err(Fault::Lost)??;
    came.timing.preprocess_ms = preprocess_ms;
    if came.timing == (Timing { preprocess_ms, ..Timing::default() }) {
        // Who does not say where the time went has spent it on the answer.
        came.timing.decode_ms = sent.elapsed().as_secs_f64() * 1e3;
    }
    Ok(came)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.events.close();
        // It may end where waiting is forbidden.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Backend for Cluster {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &ABILITIES
    }

    /// That of the server which is nearest to an answer.
    fn readiness(&self) -> Readiness {
        let order = |readiness: &Readiness| match readiness {
            Readiness::Ready => (0, Duration::ZERO),
            Readiness::Coming { .. } => (1, Duration::ZERO),
            Readiness::Resting { left, .. } => (2, *left),
        };
        let nearest = self.servers.iter().map(Server::readiness).min_by_key(order);
        nearest.unwrap_or_else(|| Readiness::Coming { why: "there is no server".into() })
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        self.failed
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        let questions = job.asks.len();
        if questions == 0 || !self.servers.iter().any(Server::is_here) {
            let why = self.servers.iter().map(Server::why).collect::<Vec<_>>().join("; ");
            let answers = job.asks.iter().map(|_| Err(VlmError::Lost { why: why.clone() })).collect();
            return self.answered.push(Answered { id, answers, timing: Timing::default() });
        }
        let job = Arc::new(job);
        let answers = (0..questions).map(|_| None).collect();
        self.jobs.insert(id, Open { answers, timing: Timing::default() });
        (0..questions).for_each(|ask| self.call(Owner::Job(id), rank, &job, ask));
        self.dispatch();
    }

    fn cancel(&mut self, id: u64) {
        if !self.jobs.contains_key(&id) {
            return;
        }
        let its: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.owner == Owner::Job(id)).map(|(id, _)| *id).collect();
        let mut hung = BTreeSet::new();
        for call in its.into_iter().filter_map(|id| self.calls.remove(&id).map(|call| (id, call))) {
            let (id, call) = call;
            self.waiting.remove(&(call.rank, id));
            let Some(At { server, task, since, .. }) = call.at else { continue };
            task.abort();
            let server_of = &mut self.servers[server];
            server_of.out = server_of.out.saturating_sub(1);
            if server_of.stopped(since) {
                hung.insert(server);
            }
        }
        self.close(id);
        for server in hung {
            self.lose(server, "hung: it let several questions pass their deadline".into(), false);
        }
    }

    fn next(&mut self, wait: Duration, _wanted: bool, out: &mut Vec<Answered>) {
        let wait = if self.answered.is_empty() { wait } else { Duration::ZERO };
        self.step(wait);
        out.append(&mut self.answered);
    }
}
