//! What signals tell the station, heard from the first moment of its process.
//!
//! ```text
//! SIGTERM, SIGINT --thread `signals`--> told to stop, for good: a start is given up, a line drains
//! SIGHUP ----------------'--> told to stop where its terminal was closed; else the recipes are looked at
//! ```
//!
//! Whoever listens only once the line runs is killed by a signal that comes before, and hears nothing of one that comes
//! while the line starts again for a compaction.

use crate::threads;
use anyhow::Context as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// What the station was told; clones hear the same.
#[derive(Clone, Debug)]
pub struct Told {
    stop: watch::Receiver<bool>,
    /// The recipes are to be looked at; told before anybody waits, it is not lost.
    reload: Arc<Notify>,
}

impl Told {
    /// Listens until the process ends. Call it once, before anything else is begun.
    ///
    /// # Errors
    /// The system has no room for the thread, or no handler for the signals.
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("the runtime of signals")?;
        let (mut term, mut int, mut hangup) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).context("a handler for signals");
            (
                listen(SignalKind::terminate())?,
                listen(SignalKind::interrupt())?,
                listen(SignalKind::hangup())?,
            )
        };
        let by_hand = std::io::stdin().is_terminal();
        let (tell, stop) = watch::channel(false);
        let reload = Arc::new(Notify::new());
        let look = Arc::clone(&reload);
        let listening = async move {
            loop {
                let stop = tokio::select! {
                    _ = term.recv() => true,
                    _ = int.recv() => true,
                    _ = hangup.recv() => by_hand,
                };
                if stop {
                    tell.send_replace(true);
                } else {
                    look.notify_one();
                }
            }
        };
        // Its end is seen by the channel: `is_to_stop`.
        threads::spawn("signals", move || runtime.block_on(listening)).context("the thread of signals")?;
        Ok(Self { stop, reload })
    }

    /// True once it is to stop. A station that can hear no signal any more is to stop, too.
    pub(crate) fn is_to_stop(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Waits until it is to stop.
    pub(super) async fn to_stop(&self) {
        let mut stop = self.stop.clone();
        // An error says that the thread has ended.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Waits until the recipes are to be looked at.
    pub(super) async fn to_reload(&self) {
        self.reload.notified().await;
    }

    /// What a test tells: `true` to stop. Dropping the sender tells it, too.
    #[cfg(test)]
    pub(super) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (tell, stop) = watch::channel(false);
        (tell, Self { stop, reload: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_looks_late_knows_what_was_told_and_a_thread_that_ended_tells_to_stop() {
        let (tell, told) = Told::by_hand();
        let other = told.clone();
        assert!(!told.is_to_stop());
        told.reload.notify_one();
        told.to_reload().await;
        tell.send_replace(true);
        assert!(told.is_to_stop() && other.is_to_stop());
        other.to_stop().await;

        let (tell, told) = Told::by_hand();
        drop(tell);
        assert!(told.is_to_stop());
        told.to_stop().await;
    }
}
