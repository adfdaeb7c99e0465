//! What the model API counts: questions by what came of them, and tokens.

use super::contract::{MODEL_OPEN, MODEL_REQUESTS, MODEL_TOKENS};
use super::exposition::Exposition;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has its whole answer.
    Answered,
    /// It cannot be answered, whenever it is asked.
    Refused,
    /// There was no room for it.
    Full,
    /// The engine was not there, failed, or was too slow.
    Failed,
    /// Whoever asked has left.
    Left,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Refused, Self::Full, Self::Failed, Self::Left];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// What was counted since the start.
#[derive(Default)]
pub(crate) struct Counts {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    open: AtomicU64,
}

impl Counts {
    /// A question has come.
    pub(crate) fn open(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::Relaxed);
        Ticket { counts: Arc::clone(self), outcome: None }
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst) as f64;
        let outcomes = Outcome::ALL.into_iter().map(|o| ([o.as_str()], of(&self.outcomes[o as usize])));
        out.family(&MODEL_REQUESTS, outcomes);
        let tokens = [("prompt", &self.prompt_tokens), ("completion", &self.completion_tokens)];
        out.family(&MODEL_TOKENS, tokens.map(|(kind, count)| ([kind], of(count))));
        out.one(&MODEL_OPEN, of(&self.open));
    }
}

/// A question that is open; it is counted when this is dropped, and without an outcome whoever asked has left.
pub(crate) struct Ticket {
    counts: Arc<Counts>,
    outcome: Option<Outcome>,
}

impl Ticket {
    /// What came of it.
    pub(crate) fn ended(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// It has its answer, of so many tokens.
    pub(crate) fn answered(&mut self, prompt_tokens: usize, completion_tokens: usize) {
        self.ended(Outcome::Answered);
        self.counts.prompt_tokens.fetch_add(prompt_tokens as u64, Ordering::Relaxed);
        self.counts.completion_tokens.fetch_add(completion_tokens as u64, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::Left);
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
        self.counts.outcomes[outcome as usize].fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_is_counted_once_with_its_outcome() {
        let counts = Arc::new(Counts::default());
        let (mut answered, mut full, left) = (counts.open(), counts.open(), counts.open());
        answered.answered(100, 7);
        full.ended(Outcome::Full);
        drop((answered, full));
        let mut out = Exposition::default();
        counts.write(&mut out);
        let text = out.finish();
        for line in [
            "requests_total{outcome=\"answered\"} 1",
            "requests_total{outcome=\"full\"} 1",
            "requests_total{outcome=\"left\"} 0",
            "tokens_total{kind=\"prompt\"} 100",
            "tokens_total{kind=\"completion\"} 7",
            "open_requests 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        drop(left);
        let mut out = Exposition::default();
        counts.write(&mut out);
        let text = out.finish();
        assert!(
            text.contains("requests_total{outcome=\"left\"} 1") && text.contains("open_requests 0"),
            "{text}"
        );
    }
}
