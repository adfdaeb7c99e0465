//! Which times this machine slept: a virtual machine is stopped now and then, and what a rig measures
//! then is not the product.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the watcher wakes.
const EVERY: Duration = Duration::from_millis(20);
/// It slept when it woke so much too late: far longer than processes that are merely busy let it wait.
const SLEPT: Duration = Duration::from_millis(500);

/// Watches until it is dropped.
pub(crate) struct Awake {
    /// From when until when the machine slept.
    naps: Arc<Mutex<Vec<(Instant, Instant)>>>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Awake {
    pub(crate) fn new() -> Self {
        let (naps, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, stop) = (Arc::clone(&naps), Arc::clone(&over));
        let watcher = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let due = Instant::now() + EVERY;
                std::thread::sleep(EVERY);
                let woke = Instant::now();
                if woke.saturating_duration_since(due) > SLEPT {
                    noted.lock().unwrap().push((due, woke));
                }
            }
        });
        Self { naps, over, watcher: Some(watcher) }
    }

    /// `took`, counted from `since`, without what was slept of it.
    pub(crate) fn within(&self, since: Instant, took: Duration) -> Duration {
        // A nap that has just ended is noted by now.
        std::thread::sleep(2 * EVERY);
        let until = since + took;
        let naps = self.naps.lock().unwrap();
        let slept: Duration =
            naps.iter().map(|(a, b)| (*b).min(until).saturating_duration_since((*a).max(since))).sum();
        took.saturating_sub(slept)
    }

    /// All of it, and the longest nap.
    pub(crate) fn slept(&self) -> (Duration, Duration) {
        let naps = self.naps.lock().unwrap();
        let lengths = || naps.iter().map(|(a, b)| *b - *a);
        (lengths().sum(), lengths().max().unwrap_or_default())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
