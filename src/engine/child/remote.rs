//! One process of the engine, which may be lost at any moment.
//!
//! ```text
//! submit: Adapter, where it has it not yet; Job -->            <-- Delta, …, Answer, in whatever order
//! stop:   Stop --within the grace--> Answer, with what is complete
//!                  '--no word: hung-------> lost
//! ```
//!
//! Every error says why it is lost, and then it is: whoever has it drops it, which kills the process.

use super::wire::{self, FromEngine, ToEngine};
use crate::ipc::{Child, IpcError, Program};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vlm::{AdapterFile, Answered, Delta, Job, ModelInfo, Rank};

/// How long a killed or crashed process is given to show how it ended.
const STATUS_WAIT: Duration = Duration::from_millis(200);

/// Longest answer to one job: a few hundred bytes a token, and no question has ten thousand.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Adapters whose files it keeps.
const ADAPTERS_MAX: usize = 8;

/// Longest reason and name that are taken over, in characters: they end up in records and messages.
const WORDS_CHARS_MAX: usize = 300;

/// A process that is loading its model, or has.
pub(super) struct Remote {
    child: Child,
    info: ModelInfo,
    /// From "stop" to "hung"; also the limit of a message that began.
    grace: Duration,
    jobs: BTreeMap<u64, Sent>,
    /// sha256 of the adapters that it has; the one that a job named last comes last.
    adapters: Vec<Arc<str>>,
    /// What streamed answers have said and nobody has fetched yet.
    deltas: Vec<Delta>,
}

/// A job that it owes an answer.
struct Sent {
    questions: usize,
    /// sha256 of its adapter.
    adapter: Option<Arc<str>>,
    /// Bytes that its streamed answers have said so far.
    said: usize,
    /// When it was told to stop it.
    stopped: Option<Instant>,
}

/// How far loading has come.
pub(super) enum Loading {
    Ready,
    NotYet,
    Failed(String),
}

impl Remote {
    /// Starts the process; `poll_ready` says when its model is there.
    pub(super) fn start(program: &Program, grace: Duration) -> Result<Self, IpcError> {
        let mut child = Child::spawn(program)?;
        child.channel.limit_payload(ANSWER_BYTES_MAX);
        Ok(Self {
            child,
            info: ModelInfo::default(),
            grace,
            jobs: BTreeMap::new(),
            adapters: vec![],
            deltas: vec![],
        })
    }

    /// Waits a moment for the model.
    pub(super) fn poll_ready(&mut self, wait: Duration) -> Loading {
        match self.child.channel.recv::<FromEngine>(wait, self.grace) {
            Ok(None) => Loading::NotYet,
            Ok(Some((FromEngine::Ready { name, text_sha256, mmproj_sha256, labels, proof }, _))) => {
                let [name, text_sha256, mmproj_sha256] =
                    [name, text_sha256, mmproj_sha256].map(|w| readable(&w));
                self.info =
                    ModelInfo { name, text_sha256, mmproj_sha256, labels, proof, beside: String::new() };
                Loading::Ready
            }
            Ok(Some((FromEngine::Failed { why }, _))) => Loading::Failed(readable(&why)),
            Ok(Some(_)) => Loading::Failed("the engine answers before its model is loaded".into()),
            Err(error) => Loading::Failed(self.words(&error)),
        }
    }

    /// Name and hashes of its model; empty until it is loaded.
    pub(super) const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// An error of the connection, with how the process ended when that explains it.
    fn words(&mut self, error: &IpcError) -> String {
        let since = Instant::now();
        while matches!(error, IpcError::Closed | IpcError::Io { .. }) && since.elapsed() < STATUS_WAIT {
            if let Some(status) = self.child.exited() {
                return format!("its process ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        error.to_string()
    }

    /// Gives it a job.
    ///
    /// # Errors
    /// Why it is lost.
    pub(super) fn submit(&mut self, id: u64, rank: Rank, job: &Job) -> Result<(), String> {
        if let Some(adapter) = &job.adapter {
            self.bring(adapter).map_err(|e| self.words(&e))?;
        }
        let (header, asks) = wire::job_message(id, rank, job);
        let images = job.shown.images();
        let pixels = images.iter().map(|i| i.as_raw().as_slice());
        let payload: Vec<&[u8]> = std::iter::once(asks.as_slice()).chain(pixels).collect();
        let adapter = job.adapter.as_ref().map(|adapter| Arc::clone(&adapter.sha256));
        self.jobs.insert(id, Sent { questions: job.asks.len(), adapter, said: 0, stopped: None });
        self.child.channel.send(&header, &payload, self.grace).map_err(|e| self.words(&e))
    }

    /// Sends an adapter that it does not have yet. Beyond `ADAPTERS_MAX` it forgets the oldest that no job under way names.
    fn bring(&mut self, adapter: &AdapterFile) -> Result<(), IpcError> {
        if let Some(at) = self.adapters.iter().position(|sha256| *sha256 == adapter.sha256) {
            let known = self.adapters.remove(at);
            self.adapters.push(known);
            return Ok(());
        }
        let is_named =
            |sha256: &Arc<str>| self.jobs.values().any(|sent| sent.adapter.as_ref() == Some(sha256));
        let unused = self.adapters.iter().position(|sha256| !is_named(sha256));
        if let Some(at) = unused.filter(|_| self.adapters.len() >= ADAPTERS_MAX) {
            let sha256 = self.adapters.remove(at).to_string();
            self.child.channel.send(&ToEngine::Forget { sha256 }, &[], self.grace)?;
        }
        let (name, sha256) = (adapter.name.to_string(), adapter.sha256.to_string());
        self.child.channel.send(&ToEngine::Adapter { name, sha256 }, &[&adapter.bytes], self.grace)?;
        self.adapters.push(Arc::clone(&adapter.sha256));
        Ok(())
    }

    /// Tells it to stop a job, which it must answer within the grace.
    ///
    /// # Errors
    /// Why it is lost.
    pub(super) fn stop(&mut self, id: u64) -> Result<(), String> {
        let Some(sent) = self.jobs.get_mut(&id) else { return Ok(()) };
        sent.stopped.get_or_insert_with(Instant::now);
        self.child.channel.send(&ToEngine::Stop { id }, &[], self.grace).map_err(|e| self.words(&e))
    }

    /// Waits at most `wait` for an answer, and takes in what came.
    ///
    /// # Errors
    /// Why it is lost.
    pub(super) fn next(&mut self, wait: Duration, out: &mut Vec<Answered>) -> Result<(), String> {
        let mut wait = wait;
        while !self.jobs.is_empty() || self.has_ended() {
            match self.child.channel.recv::<FromEngine>(wait, self.grace) {
                Ok(None) => break,
                Ok(Some((FromEngine::Answer { id, timing_ms, words_bytes }, payload))) => {
                    let sent = self.jobs.get(&id).ok_or("it answers a job that it was not given")?;
                    let answers = wire::answers_of(&payload, words_bytes, sent.questions)?;
                    self.jobs.remove(&id);
                    out.push(Answered { id, answers, timing: wire::timing_of(timing_ms) });
                }
                Ok(Some((FromEngine::Delta { id, ask }, payload))) => self.take_delta(id, ask, payload)?,
                Ok(Some((FromEngine::Failed { why }, _))) => return Err(readable(&why)),
                Ok(Some((FromEngine::Ready { .. }, _))) => return Err("it speaks out of turn".into()),
                Err(error) => return Err(self.words(&error)),
            }
            wait = Duration::ZERO;
        }
        let longest = self.jobs.values().filter_map(|sent| sent.stopped).map(|at| at.elapsed()).max();
        match longest.filter(|waited| *waited > self.grace) {
            Some(waited) => Err(format!("hung: no word {} ms after the deadline", waited.as_millis())),
            None => Ok(()),
        }
    }

    fn take_delta(&mut self, id: u64, ask: usize, payload: Vec<u8>) -> Result<(), String> {
        let sent = self.jobs.get_mut(&id).ok_or("it says something of a job that it was not given")?;
        sent.said += payload.len();
        if ask >= sent.questions || sent.said > ANSWER_BYTES_MAX {
            return Err("it says more than it was asked".into());
        }
        let text = String::from_utf8(payload).map_err(|_| "what it says is no text")?;
        self.deltas.push(Delta { id, ask, text });
        Ok(())
    }

    /// Gives what streamed answers have said since the last call.
    pub(super) fn deltas(&mut self, out: &mut Vec<Delta>) {
        out.append(&mut self.deltas);
    }

    /// The jobs that it owes an answer, and how many questions each has.
    pub(super) fn owed(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.jobs.iter().map(|(id, sent)| (*id, sent.questions))
    }

    /// Looks now and then whether its process is still there, although it has nothing to say.
    fn has_ended(&mut self) -> bool {
        self.child.exited().is_some()
    }
}

/// The engine's words on one line, cut to a length.
fn readable(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
