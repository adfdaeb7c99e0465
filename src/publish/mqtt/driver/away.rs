//! A broker that is away, as the log says it: once when it goes, now and then while it stays away, once when it is back.

use super::Driver;
use crate::publish::mqtt::MqttError;
use crate::publish::mqtt::owed::on_disk;
use crate::store::outbox::Kind;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is said again.
const AGAIN: Duration = Duration::from_mins(10);

/// What is known of it, and what is to be said.
#[derive(Debug, Default)]
pub(super) struct Away {
    since: Option<Instant>,
    said_at: Option<Instant>,
    due: Option<Due>,
}

/// What the log does not say yet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Gone { reason: String, away: Duration },
    Back { away: Duration },
}

impl Away {
    /// There is no connection, and why.
    pub(super) fn down(&mut self, reason: &str, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if self.said_at.is_none_or(|at| now.duration_since(at) >= AGAIN) {
            self.said_at = Some(now);
            self.due = Some(Due::Gone { reason: reason.to_owned(), away: now.duration_since(since) });
        }
    }

    /// There is one. True where it was away before.
    pub(super) fn up(&mut self, now: Instant) -> bool {
        self.said_at = None;
        let away = self.since.take().map(|since| now.duration_since(since));
        self.due = away.map(|away| Due::Back { away });
        away.is_some()
    }
}

impl Driver {
    /// Says what is due, with the number of what is kept.
    ///
    /// # Errors
    /// The outbox cannot be read.
    pub(super) async fn report_away(&mut self) -> Result<(), MqttError> {
        let Some(due) = self.away.due.take() else { return Ok(()) };
        let sinks = on_disk(&self.store, |store| store.sinks()).await?;
        let owed = sinks.into_iter().find(|sink| sink.name == self.options.sink).map(|sink| sink.owed);
        let [results, parts, reviews] = owed.unwrap_or([0; Kind::ALL.len()]);
        let (sink, broker) = (&self.options.sink, self.broker());
        match due {
            Due::Gone { reason, away } => tracing::warn!(
                sink,
                broker,
                reason,
                away_s = away.as_secs(),
                parts,
                reviews,
                "broker away, {results} results kept"
            ),
            Due::Back { away } => tracing::info!(
                sink,
                broker,
                away_s = away.as_secs(),
                parts,
                reviews,
                "broker back, {results} results to deliver"
            ),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_stays_away_is_said_once_and_then_at_intervals() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let gone = |reason: &str, s| Some(Due::Gone { reason: reason.into(), away: Duration::from_secs(s) });
        let mut away = Away::default();
        assert!(!away.up(at(0)) && away.due.is_none(), "the first connection is no return");
        away.down("refused", at(10));
        assert_eq!(away.due.take(), gone("refused", 0));
        for s in 11..AGAIN.as_secs() {
            away.down("refused", at(s));
            assert_eq!(away.due.take(), None, "{s}");
        }
        away.down("timeout", at(10 + AGAIN.as_secs()));
        assert_eq!(away.due.take(), gone("timeout", AGAIN.as_secs()));
        assert!(away.up(at(1_000)));
        assert_eq!(away.due.take(), Some(Due::Back { away: Duration::from_secs(990) }));
        away.down("refused", at(1_001));
        assert_eq!(away.due.take(), gone("refused", 0), "the next loss is said at once");
    }
}
