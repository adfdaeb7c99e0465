//! A cluster as commands ask it: a set of jobs at a time, answered when all are.

use super::Cluster;
use crate::engine::Backend as _;
use std::time::Duration;
use vlm::{Answered, Answers, Job, ModelInfo, Rank, Timing, Vlm, VlmError};

/// How often whoever asks is asked whether to go on.
const POLL: Duration = Duration::from_millis(20);

impl Vlm for Cluster {
    fn info(&self) -> &ModelInfo {
        self.identity()
    }

    fn answer(&mut self, jobs: &[Job], keep_going: &(dyn Fn() -> bool + Sync)) -> Answers {
        let mut answered: Vec<Answered> = vec![];
        for (id, job) in (0..).zip(jobs) {
            match self.abilities().check(job) {
                Ok(()) => self.submit(id, Rank { class: 0, due: id }, job.clone()),
                Err(why) => answered.push(Answered {
                    id,
                    answers: job.asks.iter().map(|_| Err(VlmError::Unable { why: why.clone() })).collect(),
                    timing: Timing::default(),
                }),
            }
        }
        while answered.len() < jobs.len() {
            if !keep_going() {
                (0..jobs.len() as u64).for_each(|id| self.cancel(id));
            }
            self.next(POLL, true, &mut answered);
        }
        answered.sort_by_key(|a| a.id);
        let timing = answered.iter().fold(Timing::default(), |sum, a| sum + a.timing);
        Answers { jobs: answered.into_iter().map(|a| a.answers).collect(), timing }
    }
}
