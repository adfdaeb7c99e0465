//! The engine's process as the line sees it: a `Vlm` that may be lost at any moment.
//!
//!     answer: jobs --> Go --> answers … Done
//!                 everybody late --> Stop --within the grace--> answers, the rest `Stopped`
//!                                      '--no word: hung-------> lost
//!
//! Once lost, always lost: the worker drops it, which kills the process. What was not answered is an
//! error of the engine, so a review.

use super::wire::{self, engine_error, FromEngine, ToEngine};
use crate::ipc::{Child, IpcError, Program};
use crate::vlm::{Answers, Completion, Job, ModelInfo, Timing, Vlm, VlmError};
use std::time::{Duration, Instant};

/// How often the line's clock is looked at while the engine works.
const POLL: Duration = Duration::from_millis(20);

/// How long a killed or crashed process is given to show how it ended.
const STATUS_WAIT: Duration = Duration::from_millis(200);

/// Longest answer to one job: a few hundred bytes a token, and no question has ten thousand.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Longest reason and name that are taken over, in characters: they end up in records and messages.
const WORDS_CHARS_MAX: usize = 300;

/// A process that is loading its model, or has.
pub struct Remote {
    child: Child,
    info: ModelInfo,
    /// From "stop" to "hung"; also the limit of a message that began.
    grace: Duration,
    run: u64,
    lost: Option<String>,
}

/// How far loading has come.
pub enum Loading {
    Ready,
    NotYet,
    Failed(String),
}

impl Remote {
    /// Starts the process; `poll_ready` says when its model is there.
    pub fn start(program: &Program, grace: Duration) -> Result<Self, IpcError> {
        let mut child = Child::spawn(program)?;
        child.channel.limit_payload(ANSWER_BYTES_MAX);
        Ok(Self { child, info: ModelInfo::default(), grace, run: 0, lost: None })
    }

    /// Waits a moment for the model.
    pub fn poll_ready(&mut self, wait: Duration) -> Loading {
        match self.child.channel.recv::<FromEngine>(wait, self.grace) {
            Ok(None) => Loading::NotYet,
            Ok(Some((FromEngine::Ready { name, text_sha256, mmproj_sha256, labels, proof }, _))) => {
                let [name, text_sha256, mmproj_sha256] =
                    [name, text_sha256, mmproj_sha256].map(|w| readable(&w));
                self.info = ModelInfo { name, text_sha256, mmproj_sha256, labels, proof };
                Loading::Ready
            }
            Ok(Some((FromEngine::Failed { why }, _))) => Loading::Failed(readable(&why)),
            Ok(Some(_)) => Loading::Failed("the engine answers before its model is loaded".into()),
            Err(error) => Loading::Failed(self.words(&error)),
        }
    }

    /// Why it must not be used any more.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
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

    fn send(&mut self, jobs: &[Job]) -> Result<(), IpcError> {
        self.run += 1;
        for job in jobs {
            let (header, asks) = wire::job_message(job);
            let images = job.shown.images();
            let pixels = images.iter().map(|i| i.as_raw().as_slice());
            let payload: Vec<&[u8]> = std::iter::once(asks.as_slice()).chain(pixels).collect();
            self.child.channel.send(&header, &payload, self.grace)?;
        }
        self.child.channel.send(&ToEngine::Go { run: self.run }, &[], self.grace)
    }

    /// Takes answers in until `Done`; an error says why the engine is lost.
    fn collect(
        &mut self,
        jobs: &[Job],
        keep_going: &(dyn Fn() -> bool + Sync),
        answers: &mut [Option<Vec<Result<Completion, VlmError>>>],
    ) -> Result<Timing, String> {
        let mut stopped: Option<Instant> = None;
        loop {
            let message = self.child.channel.recv::<FromEngine>(POLL, self.grace);
            let this = self.run;
            match message {
                Ok(None) => {}
                Ok(Some((FromEngine::Answer { run, job }, payload))) if run == this => {
                    let asked = jobs.get(job).ok_or("it answers a job that it was not given")?.asks.len();
                    answers[job] = Some(wire::answers_of(&payload, asked)?);
                }
                Ok(Some((FromEngine::Done { run, timing_ms }, _))) if run == this => {
                    return Ok(wire::timing_of(timing_ms));
                }
                Ok(Some((FromEngine::Failed { why }, _))) => return Err(readable(&why)),
                Ok(Some(_)) => return Err("it speaks out of turn".into()),
                Err(error) => return Err(self.words(&error)),
            }
            // Asked every time: the line shows life by it.
            let late = !keep_going();
            match stopped {
                Some(at) if at.elapsed() > self.grace => {
                    return Err(format!("hung: no word {} ms after the deadline", at.elapsed().as_millis()));
                }
                None if late => {
                    stopped = Some(Instant::now());
                    let stop = ToEngine::Stop { run: this };
                    self.child.channel.send(&stop, &[], self.grace).map_err(|e| self.words(&e))?;
                }
                _ => {}
            }
        }
    }
}

/// The engine's words on one line, cut to a length.
fn readable(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Vlm for Remote {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers {
        if self.lost.is_none() && !keep_going() {
            // Everybody is late already: an engine that is not asked need not be stopped in a long pass.
            let stopped = |job: &Job| job.asks.iter().map(|_| Err(VlmError::Stopped)).collect();
            return Answers { jobs: jobs.iter().map(stopped).collect(), timing: Timing::default() };
        }
        let mut answers: Vec<Option<_>> = jobs.iter().map(|_| None).collect();
        let sent = match self.lost.clone() {
            Some(why) => Err(why),
            None => self.send(jobs).map_err(|e| self.words(&e)),
        };
        let outcome = sent.and_then(|()| self.collect(jobs, keep_going, &mut answers));
        let why = match &outcome {
            Ok(_) => "it left the job out".to_owned(),
            Err(why) => why.clone(),
        };
        let missing = |job: &Job| job.asks.iter().map(|_| Err(engine_error(why.clone()))).collect();
        let answers =
            answers.into_iter().zip(jobs).map(|(a, job)| a.unwrap_or_else(|| missing(job))).collect();
        self.lost = outcome.as_ref().err().cloned();
        Answers { jobs: answers, timing: outcome.unwrap_or_default() }
    }
}
