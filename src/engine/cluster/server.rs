//! One server of a cluster: whether it may be asked, and what it has under way.
//!
//! ```text
//! Resting --the rest is over--> Asked --it counts as we do--> Proving --known pictures held--> Here
//!    ^                            |                              |                              |
//!    '----------------------------'------------------------------'------------------------------'
//!       no answer, other counts       they did not hold, other model     lost: gone, late, spoke garbage, hung
//! ```
//!
//! A rest doubles with every failure in a row, as that of the engine's process does; an answer ends the row.

use super::Options;
use super::http::Way;
use super::probe::Stated;
use crate::engine::{Readiness, Trial, rest};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vlm::{Completion, ModelInfo, VlmError};

/// How long a server that is busy is left alone when it does not say how long.
const BUSY: Duration = Duration::from_millis(500);
/// Questions in a row that were stopped at their deadline without a word from the server before it counts as hung.
const SILENT_MAX: u32 = 3;
/// A question that was stopped sooner says nothing about its server.
const SILENT_MIN: Duration = Duration::from_secs(1);

/// Where a server stands.
pub(super) enum Stand {
    Resting {
        until: Instant,
    },
    /// Who it is, and how it counts.
    Asked,
    Proving(Proving),
    Here,
}

/// A server that answers what it must before it is let in.
pub(super) struct Proving {
    pub trial: Box<dyn Trial>,
    pub info: ModelInfo,
    pub since: Instant,
    pub asked: usize,
    /// By the number of the job.
    pub answers: BTreeMap<usize, Vec<Result<Completion, VlmError>>>,
}

pub(super) struct Server {
    pub way: Way,
    pub stand: Stand,
    pub stated: Option<Stated>,
    /// Why it is not here; kept while it is tried again.
    pub fault: Option<String>,
    /// What it has is not what was accepted.
    pub is_refused: bool,
    /// In a row.
    failures: u32,
    /// Questions under way.
    pub out: usize,
    /// It takes nothing new until then.
    busy_until: Option<Instant>,
    answered_at: Instant,
    silent: u32,
}

impl Server {
    pub(super) fn new(way: Way) -> Self {
        let now = Instant::now();
        Self {
            way,
            stand: Stand::Resting { until: now },
            stated: None,
            fault: None,
            is_refused: false,
            failures: 0,
            out: 0,
            busy_until: None,
            answered_at: now,
            silent: 0,
        }
    }

    pub(super) fn name(&self) -> String {
        self.way.url.place()
    }

    pub(super) const fn is_here(&self) -> bool {
        matches!(self.stand, Stand::Here)
    }

    /// It was tried, and is here or not.
    pub(super) const fn is_decided(&self) -> bool {
        self.is_here() || self.fault.is_some()
    }

    /// True when it can take one more question now.
    pub(super) fn has_room(&self, options: &Options) -> bool {
        let slots = self.stated.as_ref().and_then(|stated| stated.slots).unwrap_or(usize::MAX);
        let is_busy = self.busy_until.is_some_and(|until| until > Instant::now());
        self.out < options.requests_max.min(slots) && !is_busy
    }

    /// It rests, and why.
    pub(super) fn rest(&mut self, why: String, is_refused: bool) {
        tracing::error!(server = %self.way.url, why, "a server is lost");
        self.stand = Stand::Resting { until: Instant::now() + rest(self.failures) };
        self.failures = self.failures.saturating_add(1);
        self.fault = Some(why);
        self.is_refused = is_refused;
        self.silent = 0;
        self.out = 0;
    }

    /// It is let in.
    pub(super) fn enter(&mut self) {
        self.stand = Stand::Here;
        (self.fault, self.is_refused) = (None, false);
        self.busy_until = None;
        self.answered_at = Instant::now();
    }

    /// It has answered a question.
    pub(super) fn answered(&mut self) {
        (self.failures, self.silent) = (0, 0);
        self.answered_at = Instant::now();
    }

    /// It wants to be left alone for a while.
    pub(super) fn is_busy(&mut self, wait: Option<Duration>) {
        self.busy_until = Some(Instant::now() + wait.unwrap_or(BUSY));
    }

    /// A question was stopped that it was asked then; true when it has hung.
    pub(super) fn stopped(&mut self, asked_at: Instant) -> bool {
        if self.answered_at < asked_at && asked_at.elapsed() >= SILENT_MIN {
            self.silent += 1;
        }
        self.silent >= SILENT_MAX
    }

    pub(super) fn readiness(&self) -> Readiness {
        let why = self.why();
        match &self.stand {
            Stand::Here => Readiness::Ready,
            Stand::Asked | Stand::Proving(_) => Readiness::Coming { why },
            Stand::Resting { until } => {
                Readiness::Resting { left: until.saturating_duration_since(Instant::now()), why }
            }
        }
    }

    /// Why it is not here, with its name.
    pub(super) fn why(&self) -> String {
        let said = match (&self.stand, &self.fault) {
            (_, Some(fault)) => fault.as_str(),
            (Stand::Proving(_), None) => "the model is still answering known pictures",
            _ => "it has not said yet what it is",
        };
        format!("{}: {said}", self.name())
    }
}
