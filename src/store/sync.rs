//! Group commit: many committers wait, one thread makes their records durable.
//!
//! ```text
//! commit (holds the chain lock)   transaction, then `request(mark)` -> Flush
//! commit (lock released)          `wait(flush)` ---------.
//! sync thread                     takes all requests up to now
//!                                 sled flush_async, fdatasync of `db`, then `ends`
//!                                 done = taken ----------' wakes every waiter up to there
//! ```
//!
//! While one sync runs, the next committers gather behind it and share the following one.
//!
//! Invariants:
//! - `durable` never exceeds what one completed flush and fdatasync covered.
//! - After the first failure `durable` never moves again: a failed fdatasync may have dropped the
//!   dirty pages, so that a second, successful one proves nothing.

use super::error::StoreError;
use super::high_water::{HighWaterFile, HighWaterMark};
use super::kv::Db;
use crate::threads;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// A flush that was asked for: the next one that begins after that.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is durable before it is waited for"]
pub struct Flush(u64);

#[derive(Default)]
struct State {
    /// Flushes that were asked for, and those that are done.
    requested: u64,
    done: u64,
    /// How far the ledgers reach of which somebody asked for, and how far on the disk.
    requested_mark: HighWaterMark,
    durable: HighWaterMark,
    failed: Option<String>,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    finished: Condvar,
    published: watch::Sender<u64>,
}

/// The sync thread and its clients' side.
pub(super) struct Sync {
    shared: Arc<Shared>,
    /// For those that look at the database as a whole.
    db: Db,
    thread: Option<JoinHandle<()>>,
}

impl Sync {
    /// Starts the thread. `file` is our own descriptor of sled's data file, opened before any write
    /// that is to be waited for, so that it sees every write error.
    pub(super) fn start(db: Db, file: File, mark: HighWaterFile) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            finished: Condvar::new(),
            published: watch::channel(0).0,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(StoreError::io("start the runtime of the sync thread", ""))?;
        let inner = Arc::clone(&shared);
        let kept = db.clone();
        let thread = threads::spawn("store-sync", move || run(&inner, &Disk { db, file, runtime }, mark))
            .map_err(StoreError::io("start the sync thread", ""))?;
        Ok(Self { shared, db: kept, thread: Some(thread) })
    }

    /// Asks for everything that was written up to now to be made durable, the ledgers up to `mark`
    /// among it; does not wait. Returns the flush to wait for.
    pub(super) fn request(&self, mark: HighWaterMark) -> Flush {
        let mut state = lock(&self.shared);
        state.requested += 1;
        state.requested_mark = state.requested_mark.furthest(mark);
        self.shared.wake.notify_one();
        Flush(state.requested)
    }

    /// Waits until what the flush was asked for is on the disk.
    pub(super) fn wait(&self, Flush(number): Flush) -> Result<(), StoreError> {
        let mut state = lock(&self.shared);
        loop {
            if state.done >= number {
                return Ok(());
            }
            if let Some(reason) = &state.failed {
                return Err(StoreError::Stopped { reason: reason.clone() });
            }
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Refuses when an earlier write or sync failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        lock(&self.shared).failed.as_ref().map_or(Ok(()), |r| Err(StoreError::Stopped { reason: r.clone() }))
    }

    /// Stops all further commits: after a write that failed half-way nobody knows what is stored.
    pub(super) fn fail(&self, reason: &str) {
        fail(&self.shared, reason);
    }

    /// The database itself.
    pub(super) const fn db(&self) -> &Db {
        &self.db
    }

    /// The highest sequence number of an inspection that is on the disk.
    pub(super) fn durable(&self) -> u64 {
        lock(&self.shared).durable.result
    }

    /// The last place of the outbox's log that is on the disk.
    pub(super) fn durable_log(&self) -> u64 {
        lock(&self.shared).durable.log
    }

    /// Follows `durable`.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.published.subscribe()
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        lock(&self.shared).closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's sync thread had panicked");
        }
    }
}

/// What the sync thread writes through.
struct Disk {
    db: Db,
    /// Our own descriptor of sled's file.
    file: File,
    runtime: tokio::runtime::Runtime,
}

impl Disk {
    /// Flushes sled's buffers into its file, then the file onto the disk.
    ///
    /// sled's own flush ends in `sync_file_range`, which neither waits for the disk's cache nor for
    /// metadata; only the fdatasync makes it durable.
    fn flush(&self) -> Result<(), StoreError> {
        self.runtime.block_on(self.db.flush_async()).map_err(|e| StoreError::kv("flush the database", e))?;
        self.file.sync_data().map_err(StoreError::io("fdatasync", "db"))
    }
}

fn run(shared: &Shared, disk: &Disk, mut file: HighWaterFile) {
    // A panic inside sled must wake the waiters with an error, not leave them waiting for ever.
    struct OnPanic<'a>(&'a Shared);
    impl Drop for OnPanic<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                fail(self.0, "the sync thread panicked");
            }
        }
    }
    let _guard = OnPanic(shared);
    let mut state = lock(shared);
    loop {
        while state.requested <= state.done && !state.closing {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed.is_some() || state.requested <= state.done {
            return;
        }
        let (number, mark) = (state.requested, state.requested_mark);
        drop(state);
        let outcome = disk.flush().and_then(|()| file.write(mark));
        state = lock(shared);
        match outcome {
            Ok(()) => {
                state.done = number;
                state.durable = mark;
                shared.published.send_replace(mark.result);
                shared.finished.notify_all();
            }
            Err(error) => {
                drop(state);
                fail(shared, &error.to_string());
                return;
            }
        }
    }
}

fn fail(shared: &Shared, reason: &str) {
    tracing::error!(reason, "the store stops: nothing more will be acknowledged");
    lock(shared).failed.get_or_insert_with(|| reason.to_owned());
    shared.finished.notify_all();
    shared.wake.notify_one();
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // The state is valid after every single assignment, so a panic elsewhere cannot have torn it.
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}
