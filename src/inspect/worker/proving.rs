//! A loaded engine while it answers known pictures, on a thread of its own: the line goes on with reviews, and
//! whoever waits for the engine only looks whether it is through.
//!
//!     Remote --thread `proof`: ask--> Proven (the engine again, and its outcomes)
//!                  '-- too slow, or nobody waits any more: told to stop between two passes

use super::remote::Remote;
use crate::inspect::proof::{ask, Outcome, Proof};
use crate::threads;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model that has not answered its known pictures after so long will not keep up with any line.
const PROOF_MAX: Duration = Duration::from_secs(10 * 60);

/// An engine that has answered.
pub struct Proven {
    pub remote: Remote,
    pub proof: Proof,
    pub outcomes: Vec<Outcome>,
    pub took: Duration,
}

/// An engine that is asked. Dropping it stops the engine.
pub struct Proving {
    pid: u32,
    done: Receiver<Proven>,
    dropped: Arc<AtomicBool>,
}

impl Proving {
    /// Begins to ask.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mut remote: Remote, proof: Proof) -> std::io::Result<Self> {
        let (pid, dropped) = (remote.pid(), Arc::new(AtomicBool::new(false)));
        let (tx, done) = sync_channel(1);
        let gone = Arc::clone(&dropped);
        threads::spawn("proof", move || {
            let since = Instant::now();
            let keep_going = || since.elapsed() < PROOF_MAX && !gone.load(Ordering::Relaxed);
            let outcomes = ask(&mut remote, &proof, &keep_going);
            // When nobody waits any more, the engine ends here.
            let _ = tx.send(Proven { remote, proof, outcomes, took: since.elapsed() });
        })?;
        Ok(Self { pid, done, dropped })
    }

    /// Waits a moment; `Err` says that the thread is gone without a word.
    pub fn poll(&mut self, wait: Duration) -> Option<Result<Proven, String>> {
        match self.done.recv_timeout(wait) {
            Ok(proven) => Some(Ok(proven)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err("the proof of the model panicked".to_owned())),
        }
    }

    /// The process that is asked.
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Proving {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}
