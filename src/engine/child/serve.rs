//! The engine's process: loads the model, answers job by job, ends when its socket closes.
//!
//! ```text
//! reader thread: socket --Job, Stop--> main thread: step by step --Delta, Answer--> socket
//! ```

use super::wire::{self, FromEngine, ToEngine};
use crate::ipc::{Channel, IpcError};
use crate::threads;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;
use vlm::{AdapterFile, Answered, Delta, Job, Rank, Steps, VlmError};

/// How long the daemon may take to read an answer, and a message to come through once it began.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the reader waits before it waits again.
const POLL: Duration = Duration::from_mins(1);

/// Messages between the two threads. The daemon has at most 64 jobs under way, each with one stop, so that it never
/// waits for a step to end.
const MESSAGES_MAX: usize = 256;

const NO_ADAPTER: &str = "a job names an adapter that was not sent";

/// Serves the daemon at the other end of `channel` until it goes away.
///
/// # Errors
/// When the connection breaks in another way than by its end.
pub fn serve(
    mut channel: Channel,
    load: impl FnOnce() -> Result<Box<dyn Steps>, VlmError>,
) -> Result<(), IpcError> {
    let messages = read_on_a_thread(channel.try_clone()?).map_err(|source| IpcError::Spawn { source })?;
    let mut model = match threads::caught(load) {
        Ok(Ok(model)) => model,
        Ok(Err(error)) => return fail(&mut channel, error.to_string()),
        Err(words) => return fail(&mut channel, words),
    };
    channel.send(&wire::ready(model.info()), &[], PATIENCE)?;
    let (mut busy, mut answered, mut deltas) = (false, vec![], vec![]);
    loop {
        // Without work there is nothing to do but to wait.
        let mut next = if busy { messages.try_recv() } else { messages.recv().map_err(Into::into) };
        while let Ok(message) = next {
            match message {
                Message::Job(id, rank, job) => model.submit(id, rank, job),
                Message::Stop(id) => answered.extend(model.cancel(id)),
                Message::Bad(why) => return fail(&mut channel, why),
            }
            next = messages.try_recv();
        }
        if next.is_err_and(|e| e == TryRecvError::Disconnected) {
            return Ok(());
        }
        match threads::caught(|| model.step(&mut answered)) {
            Ok(goes_on) => busy = goes_on,
            // Nobody can vouch for the state of an engine that panicked.
            Err(words) => return fail(&mut channel, words),
        }
        model.deltas(&mut deltas);
        say(&mut channel, &mut deltas)?;
        reply(&mut channel, &mut answered)?;
    }
}

fn say(channel: &mut Channel, deltas: &mut Vec<Delta>) -> Result<(), IpcError> {
    for Delta { id, ask, text } in deltas.drain(..) {
        channel.send(&FromEngine::Delta { id, ask }, &[text.as_bytes()], PATIENCE)?;
    }
    Ok(())
}

fn reply(channel: &mut Channel, answered: &mut Vec<Answered>) -> Result<(), IpcError> {
    for answered in answered.drain(..) {
        let (header, payload) = wire::answered(answered);
        channel.send(&header, &[&payload], PATIENCE)?;
    }
    Ok(())
}

fn fail(channel: &mut Channel, why: String) -> Result<(), IpcError> {
    channel.send(&FromEngine::Failed { why }, &[], PATIENCE)
}

enum Message {
    Job(u64, Rank, Job),
    Stop(u64),
    Bad(String),
}

fn read_on_a_thread(mut channel: Channel) -> std::io::Result<Receiver<Message>> {
    let (tx, messages) = sync_channel(MESSAGES_MAX);
    threads::spawn("engine-reader", move || {
        if let Err(error) = read(&mut channel, &tx) {
            tracing::debug!(%error, "the engine's connection ends");
        }
    })?;
    Ok(messages)
}

fn read(channel: &mut Channel, messages: &SyncSender<Message>) -> Result<(), IpcError> {
    let mut adapters: BTreeMap<String, AdapterFile> = BTreeMap::new();
    loop {
        let Some((header, payload)) = channel.recv(POLL, PATIENCE)? else { continue };
        let message = match header {
            ToEngine::Job {
                id,
                rank: (class, due),
                images,
                clip_ns,
                min_pixels,
                max_pixels,
                words_bytes,
                adapter,
            } => {
                let clip_ns = clip_ns.as_deref();
                let job = wire::job_of(&images, clip_ns, min_pixels, max_pixels, words_bytes, &payload);
                let named = adapter.map(|sha256| adapters.get(&sha256).cloned().ok_or(NO_ADAPTER.to_owned()));
                match job.and_then(|job| Ok(Job { adapter: named.transpose()?, ..job })) {
                    Ok(job) => Message::Job(id, Rank { class, due }, job),
                    Err(why) => Message::Bad(why),
                }
            }
            ToEngine::Adapter { name, sha256 } => {
                let file =
                    AdapterFile { name: name.into(), sha256: sha256.as_str().into(), bytes: payload.into() };
                adapters.insert(sha256, file);
                continue;
            }
            ToEngine::Forget { sha256 } => {
                adapters.remove(&sha256);
                continue;
            }
            ToEngine::Stop { id } => Message::Stop(id),
        };
        if messages.send(message).is_err() {
            return Ok(());
        }
    }
}
