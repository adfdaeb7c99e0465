//! Asks the engine room for the features of one picture, behind everything that the line asks.
//!
//! ```text
//! a job a tile --at most `TILES_MAX` under way--> engine, class replay --answers, in whatever order--> in their own
//! ```

use crate::daemon::recipes::PART_MAX;
use crate::engine::{Class, Engine, Event, Order, Readiness, Reply};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use vlm::{Completion, Job, ModelInfo, VlmError};

/// Tiles of one picture that are under way: their pictures, and their features on the way back, take memory.
const TILES_MAX: usize = 8;
/// How often somebody who waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// One entry a job, in their order; each has one entry a question.
pub(super) type Answers = Vec<Vec<Result<Completion, VlmError>>>;

/// Waits until the engine can be asked; `None` as soon as `go_on` says no.
///
/// # Errors
/// It does not come, in words.
pub(super) fn ready(engine: &Engine, go_on: &dyn Fn() -> bool) -> Result<Option<ModelInfo>, String> {
    let (began, failures) = (Instant::now(), engine.failures());
    loop {
        match engine.readiness() {
            _ if !go_on() => return Ok(None),
            Readiness::Ready => return Ok(Some(engine.info())),
            // It waits for one start, and not for the next when that fails.
            Readiness::Coming { why } | Readiness::Resting { why, .. } => {
                if engine.failures() > failures || began.elapsed() > PART_MAX || engine.is_over() {
                    return Err(engine.health().fault.unwrap_or(why));
                }
                engine.want();
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks all jobs of one picture; `None` as soon as `go_on` says no.
///
/// # Errors
/// The engine was lost over it, in words: no other process gets what may have killed this one.
pub(super) fn ask(
    engine: &Engine,
    jobs: Vec<Job>,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Answers>, String> {
    let (sender, heard) = channel();
    // Whoever has given up hears nothing more.
    let reply: Reply = Arc::new(move |event| _ = sender.send(event));
    let deadline = Instant::now() + PART_MAX;
    let mut answers: Answers = jobs.iter().map(|_| vec![]).collect();
    let mut waiting: VecDeque<_> = jobs.into_iter().enumerate().collect();
    let mut under_way = BTreeMap::new();
    while !waiting.is_empty() || !under_way.is_empty() {
        if !go_on() {
            under_way.into_keys().for_each(|id| engine.cancel(id));
            return Ok(None);
        }
        if engine.is_over() {
            return Err("the engine's thread has ended".into());
        }
        while under_way.len() < TILES_MAX
            && let Some((place, job)) = waiting.pop_front()
        {
            let order = Order { class: Class::Replay, deadline, job: job.clone(), reply: Arc::clone(&reply) };
            match engine.submit(order) {
                Ok(id) => _ = under_way.insert(id, place),
                // A replay asks, too: there will be room.
                Err(_) => {
                    waiting.push_front((place, job));
                    break;
                }
            }
        }
        let Ok(Event::Answer(answer)) = heard.recv_timeout(LOOK) else { continue };
        let Some(place) = under_way.remove(&answer.id) else { continue };
        if let Some(Err(VlmError::Lost { why })) = answer.answers.iter().find(|a| is_lost(a)) {
            let why = format!("the engine was lost: {why}");
            under_way.into_keys().for_each(|id| engine.cancel(id));
            return Err(why);
        }
        answers[place] = answer.answers;
    }
    Ok(Some(answers))
}

const fn is_lost(answer: &Result<Completion, VlmError>) -> bool {
    matches!(answer, Err(VlmError::Lost { .. }))
}
