//! The backend that is two: the engine's process, which has the features of pictures, and servers for all other questions.
//!
//! ```text
//! job --questions for features--> here: the process with the files ---------------.
//!     '--all other questions----> held until a server is here --> servers ---------'--> the job is answered
//! ```
//!
//! A recipe's bank in the box is so the gate before the servers: where it is sure that a tile is normal, a rule `skip`
//! asks them nothing.
//!
//! Invariants:
//! - Every job is answered exactly once, each question by the side that can answer it, and in its place.
//! - A side that is lost takes its own questions with it and no others.
//! - A question waits for servers that are coming, until its job is stopped; for servers that rest it waits not.

use super::cluster::Cluster;
use super::{Abilities, Backend, Forms, Health, Readiness};
use std::collections::BTreeMap;
use std::time::Duration;
use vlm::adapter::identity;
use vlm::{Answered, Answers, Completion, Job, ModelInfo, Rank, Timing, Vlm, VlmError};

/// The half of a job that one side answers.
struct Half {
    job: Job,
    /// Where its questions stand in the whole job.
    places: Vec<usize>,
}

/// The questions for features, and the others; `None`: there are none of the kind.
fn halves(job: &Job) -> [Option<Half>; 2] {
    [true, false].map(|features| {
        let (places, asks): (Vec<_>, Vec<_>) = job
            .asks
            .iter()
            .cloned()
            .enumerate()
            .filter(|(_, ask)| ask.features().is_some() == features)
            .unzip();
        (!asks.is_empty()).then(|| Half { job: Job { asks, ..job.clone() }, places })
    })
}

/// The marks of two sides as those of one model: each pair in one, as those of a file and of an adapter that is added to it.
pub fn marks_of_both(here: [&str; 2], servers: [&str; 2]) -> [String; 2] {
    [0, 1].map(|at| identity(here[at], Some(servers[at])))
}

/// Both models in one name; its labels are the servers', who are asked for defects.
fn both(here: &ModelInfo, servers: &ModelInfo) -> ModelInfo {
    let [text_sha256, mmproj_sha256] = marks_of_both(
        [&here.text_sha256, &here.mmproj_sha256],
        [&servers.text_sha256, &servers.mmproj_sha256],
    );
    ModelInfo {
        name: format!("{}, with features of {}", servers.name, here.name),
        text_sha256,
        mmproj_sha256,
        labels: servers.labels.clone(),
        proof: None,
        beside: String::new(),
    }
}

/// What both can answer together.
fn abilities(here: &Abilities, servers: &Abilities) -> Abilities {
    Abilities {
        forms: Forms { cells: here.forms.cells, ..servers.forms },
        pixel_bytes_max: here.pixel_bytes_max.min(servers.pixel_bytes_max),
        images_max: here.images_max.min(servers.images_max),
        // A job's questions change their places.
        streams: false,
        ..servers.clone()
    }
}

/// A job that is not answered yet.
struct Open {
    answers: Vec<Option<Result<Completion, VlmError>>>,
    /// By side, the places of what it was asked; empty: nothing, or it has answered.
    places: [Vec<usize>; 2],
    timing: Timing,
}

/// A process here and servers, as one backend.
pub struct Mixed {
    here: Box<dyn Backend>,
    servers: Box<dyn Backend>,
    open: BTreeMap<u64, Open>,
    /// For servers that are coming.
    held: BTreeMap<u64, (Rank, Job)>,
    answered: Vec<Answered>,
    abilities: Abilities,
    /// Of both sides, as they were last.
    identities: [ModelInfo; 2],
    info: ModelInfo,
    health: Health,
}

/// The sides of a job.
const HERE: usize = 0;
const SERVERS: usize = 1;

impl Mixed {
    /// Both as they are.
    pub fn new(here: Box<dyn Backend>, servers: Box<dyn Backend>) -> Self {
        let abilities = abilities(here.abilities(), servers.abilities());
        let (open, held, answered) = (BTreeMap::new(), BTreeMap::new(), vec![]);
        let (info, health) = (ModelInfo::default(), Health::default());
        let identities = [info.clone(), info.clone()];
        let mut both = Self { here, servers, open, held, answered, abilities, identities, info, health };
        both.show();
        both
    }

    /// What one side has answered goes into its places; with the other side's the job is answered.
    fn take(&mut self, side: usize, came: Vec<Answered>) {
        for Answered { id, answers, timing } in came {
            let Some(open) = self.open.get_mut(&id) else { continue };
            open.timing = open.timing + timing;
            for (place, answer) in std::mem::take(&mut open.places[side]).into_iter().zip(answers) {
                open.answers[place] = Some(answer);
            }
            if open.places.iter().all(Vec::is_empty)
                && let Some(Open { answers, timing, .. }) = self.open.remove(&id)
            {
                let answers = answers.into_iter().map(|a| a.unwrap_or(Err(VlmError::Stopped))).collect();
                self.answered.push(Answered { id, answers, timing });
            }
        }
    }

    /// Gives the servers what was held for them, or says why nobody answers it.
    fn release(&mut self) {
        match self.servers.readiness() {
            _ if self.held.is_empty() => {}
            Readiness::Coming { .. } => {}
            Readiness::Ready => {
                for (id, (rank, job)) in std::mem::take(&mut self.held) {
                    self.servers.submit(id, rank, job);
                }
            }
            Readiness::Resting { why, .. } => {
                let ids: Vec<u64> = self.held.keys().copied().collect();
                ids.into_iter().for_each(|id| self.drop_held(id, || VlmError::Lost { why: why.clone() }));
            }
        }
    }

    fn drop_held(&mut self, id: u64, error: impl Fn() -> VlmError) {
        if let Some((_, job)) = self.held.remove(&id) {
            let answers = job.asks.iter().map(|_| Err(error())).collect();
            self.take(SERVERS, vec![Answered { id, answers, timing: Timing::default() }]);
        }
    }

    /// True while one side has something to answer.
    fn has_work(&self, side: usize) -> bool {
        self.open.values().any(|open| !open.places[side].is_empty())
    }

    /// What the station says of both: losses are those of the process, as a server that is lost takes no part with it whose
    /// features suffice.
    fn show(&mut self) {
        let (here, servers) = (self.here.health(), self.servers.health());
        let said = |of: fn(&Health) -> &Option<String>| {
            let said: Vec<&str> = [here, servers].into_iter().filter_map(|h| of(h).as_deref()).collect();
            (!said.is_empty()).then(|| said.join("; "))
        };
        let proof = [here.proof, servers.proof].into_iter().flatten().reduce(|a, b| (a.0 + b.0, a.1 + b.1));
        let health =
            Health { losses: here.losses, fault: said(|h| &h.fault), refused: said(|h| &h.refused), proof };
        if health != self.health {
            self.health = health;
        }
        let identities = [self.here.identity(), self.servers.identity()];
        if identities != self.identities.each_ref() {
            self.identities = identities.map(Clone::clone);
            let [here, servers] = &self.identities;
            // Until a server was first let in, nobody knows its model.
            self.info = if *servers == ModelInfo::default() { here.clone() } else { both(here, servers) };
        }
    }
}

impl Backend for Mixed {
    fn identity(&self) -> &ModelInfo {
        &self.info
    }

    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// The process': what needs no server goes on without one.
    fn readiness(&self) -> Readiness {
        self.here.readiness()
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn failures(&self) -> u64 {
        self.here.failures()
    }

    fn pid(&self) -> Option<u32> {
        self.here.pid()
    }

    fn submit(&mut self, id: u64, rank: Rank, job: Job) {
        let [here, servers] = halves(&job);
        let places =
            [&here, &servers].map(|half| half.as_ref().map(|h| h.places.clone()).unwrap_or_default());
        if places.iter().all(Vec::is_empty) {
            return self.answered.push(Answered { id, answers: vec![], timing: Timing::default() });
        }
        let answers = job.asks.iter().map(|_| None).collect();
        self.open.insert(id, Open { answers, places, timing: Timing::default() });
        if let Some(Half { job, .. }) = here {
            self.here.submit(id, rank, job);
        }
        if let Some(Half { job, .. }) = servers {
            self.held.insert(id, (rank, job));
            self.release();
        }
    }

    fn cancel(&mut self, id: u64) {
        let away = match self.servers.readiness() {
            Readiness::Ready => None,
            Readiness::Coming { why } | Readiness::Resting { why, .. } => Some(why),
        };
        self.drop_held(id, || away.clone().map_or(VlmError::Stopped, |why| VlmError::Lost { why }));
        let Some(open) = self.open.get(&id) else { return };
        let [here, servers] = open.places.each_ref().map(|places| !places.is_empty());
        if here {
            self.here.cancel(id);
        }
        if servers {
            self.servers.cancel(id);
        }
    }

    fn next(&mut self, wait: Duration, wanted: bool, out: &mut Vec<Answered>) {
        let (half, mut came) = (wait / 2, [vec![], vec![]]);
        let waits = match [HERE, SERVERS].map(|side| self.has_work(side)) {
            [true, true] => [half, half],
            [false, true] => [Duration::ZERO, wait],
            [_, false] => [wait, Duration::ZERO],
        };
        self.here.next(waits[HERE], wanted, &mut came[HERE]);
        self.servers.next(waits[SERVERS], wanted, &mut came[SERVERS]);
        let [here, servers] = came;
        self.take(HERE, here);
        self.take(SERVERS, servers);
        self.release();
        self.show();
        out.append(&mut self.answered);
    }
}

/// A pair in this process and servers, as commands ask them: a set of jobs at a time.
pub struct MixedVlm<V> {
    here: V,
    servers: Cluster,
    info: ModelInfo,
}

impl<V: Vlm> MixedVlm<V> {
    /// Both as they are.
    pub fn new(here: V, servers: Cluster) -> Self {
        let info = both(here.info(), servers.identity());
        Self { here, servers, info }
    }
}

impl<V: Vlm> Vlm for MixedVlm<V> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers {
        let unanswered = |job: &Job| job.asks.iter().map(|_| Err(VlmError::Stopped)).collect::<Vec<_>>();
        let mut answers = Answers { jobs: jobs.iter().map(unanswered).collect(), timing: Timing::default() };
        let all: Vec<[Option<Half>; 2]> = jobs.iter().map(halves).collect();
        for (side, vlm) in [&mut self.here as &mut dyn Vlm, &mut self.servers].into_iter().enumerate() {
            let asked = all.iter().enumerate().filter_map(|(at, halves)| Some((at, halves[side].as_ref()?)));
            let asked: Vec<(usize, &Half)> = asked.collect();
            let own: Vec<Job> = asked.iter().map(|(_, half)| half.job.clone()).collect();
            let came = vlm.answer(&own, keep_going);
            answers.timing = answers.timing + came.timing;
            for ((at, half), came) in asked.into_iter().zip(came.jobs) {
                for (place, answer) in half.places.iter().zip(came) {
                    answers.jobs[at][*place] = answer;
                }
            }
        }
        answers
    }
}

#[cfg(test)]
#[path = "mixed_tests.rs"]
mod tests;
