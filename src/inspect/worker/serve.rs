//! The engine's process: loads the model, answers run after run, ends when its socket closes.
//!
//!     reader thread: socket --Job, Go--> main thread: answer --> socket
//!                      '-- Stop, or the end of the connection: the flag that is asked between passes

use super::wire::{self, FromEngine, ToEngine};
use crate::ipc::{Channel, IpcError};
use crate::threads;
use crate::vlm::{Answers, Job, Vlm, VlmError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::time::Duration;

/// How long the line may take to read an answer, and a message to come through once it began.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the reader waits before it waits again.
const POLL: Duration = Duration::from_secs(60);

/// Messages between the two threads; the main thread only waits for them.
const MESSAGES_MAX: usize = 4;

/// When to stop: the run that was told to, and whether the line is gone.
#[derive(Default)]
struct Signals {
    stopped_run: AtomicU64,
    closed: AtomicBool,
}

/// Serves the line at the other end of `channel` until it goes away.
///
/// # Errors
/// When the connection breaks in another way than by its end.
pub fn serve(
    mut channel: Channel,
    load: impl FnOnce() -> Result<Box<dyn Vlm>, VlmError>,
) -> Result<(), IpcError> {
    let signals = Arc::new(Signals::default());
    let messages = read_on_a_thread(channel.try_clone()?, Arc::clone(&signals))
        .map_err(|source| IpcError::Spawn { source })?;
    let mut vlm = match threads::caught(load) {
        Ok(Ok(vlm)) => vlm,
        Ok(Err(error)) => return fail(&mut channel, error.to_string()),
        Err(words) => return fail(&mut channel, words),
    };
    channel.send(&wire::ready(vlm.info()), &[], PATIENCE)?;
    let mut jobs: Vec<Job> = vec![];
    for message in messages {
        match message {
            Message::Job(job) => jobs.push(job),
            Message::Bad(why) => return fail(&mut channel, why),
            Message::Go(run) => {
                let go_on = || {
                    !signals.closed.load(Ordering::Relaxed)
                        && signals.stopped_run.load(Ordering::Relaxed) < run
                };
                let jobs = std::mem::take(&mut jobs);
                match threads::caught(|| vlm.answer(&jobs, &go_on)) {
                    Ok(answers) => reply(&mut channel, run, answers)?,
                    // Nobody can vouch for the state of an engine that panicked.
                    Err(words) => return fail(&mut channel, words),
                }
            }
        }
    }
    Ok(())
}

fn fail(channel: &mut Channel, why: String) -> Result<(), IpcError> {
    channel.send(&FromEngine::Failed { why }, &[], PATIENCE)
}

fn reply(channel: &mut Channel, run: u64, mut answers: Answers) -> Result<(), IpcError> {
    for (job, answers) in std::mem::take(&mut answers.jobs).into_iter().enumerate() {
        channel.send(&FromEngine::Answer { run, job }, &[&wire::answer_message(answers)], PATIENCE)?;
    }
    channel.send(&wire::done(run, &answers), &[], PATIENCE)
}

enum Message {
    Job(Job),
    Go(u64),
    Bad(String),
}

fn read_on_a_thread(mut channel: Channel, signals: Arc<Signals>) -> std::io::Result<Receiver<Message>> {
    let (tx, messages) = sync_channel(MESSAGES_MAX);
    threads::spawn("engine-reader", move || {
        if let Err(error) = read(&mut channel, &signals, &tx) {
            tracing::debug!(%error, "the engine's connection ends");
        }
        signals.closed.store(true, Ordering::Relaxed);
    })?;
    Ok(messages)
}

fn read(channel: &mut Channel, signals: &Signals, messages: &SyncSender<Message>) -> Result<(), IpcError> {
    loop {
        let Some((header, payload)) = channel.recv(POLL, PATIENCE)? else { continue };
        let message = match header {
            ToEngine::Job { images, clip_ns, min_pixels, max_pixels, asks_bytes } => {
                let clip_ns = clip_ns.as_deref();
                match wire::job_of(&images, clip_ns, min_pixels, max_pixels, asks_bytes, &payload) {
                    Ok(job) => Message::Job(job),
                    Err(why) => Message::Bad(why),
                }
            }
            ToEngine::Go { run } => Message::Go(run),
            ToEngine::Stop { run } => {
                signals.stopped_run.fetch_max(run, Ordering::Relaxed);
                continue;
            }
        };
        if messages.send(message).is_err() {
            return Ok(());
        }
    }
}
