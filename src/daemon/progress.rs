//! Signs of life of work that cannot say how far it is.
//!
//! ```text
//! the caller's thread: opening the store, which recovers, compacts, syncs
//! thread `progress`: every second the bytes that the other threads have read and written --more?--> alive
//! ```
//!
//! sled's recovery is one call that may take minutes on a slow disk, and so may a compaction. Both read or write all
//! the while; on a disk that hangs nothing moves, nothing is said, and systemd ends the process.

use super::systemd::Systemd;
use crate::camera::Stop;
use crate::threads;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Does the work on this thread; `systemd` hears that it is alive while the process reads or writes.
///
/// # Errors
/// The thread that looks cannot be started; the work was not begun.
pub(super) fn while_it_moves<T>(systemd: &Arc<Systemd>, work: impl FnOnce() -> T) -> io::Result<T> {
    let stop = Stop::default();
    let (systemd, stopped) = (Arc::clone(systemd), stop.clone());
    let look = move || {
        let mut seen = None;
        while !stopped.wait_until(Instant::now() + LOOK) {
            let moved = bytes_moved();
            if moved.is_some() && moved != seen {
                systemd.alive();
            }
            seen = moved;
        }
    };
    let _watch = Watch { stop, thread: Some(threads::spawn("progress", look)?) };
    Ok(work())
}

/// Ends the thread, also when the work panics: nobody must look alive on account of work that is over.
struct Watch {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks for progress had panicked");
        }
    }
}

/// What all threads but this one have read and written; `None` where the kernel does not count it.
fn bytes_moved() -> Option<u64> {
    // SAFETY: asks for a number and changes nothing.
    let this = unsafe { libc::gettid() }.to_string();
    let tasks = fs::read_dir("/proc/self/task").ok()?.map_while(Result::ok);
    let others = tasks.filter(|task| task.file_name() != *this);
    let moved = others.filter_map(|task| Some(moved_by(&fs::read_to_string(task.path().join("io")).ok()?)));
    moved.reduce(u64::wrapping_add)
}

/// `rchar` and `wchar` of a thread.
fn moved_by(io: &str) -> u64 {
    let counts = io.lines().filter_map(|line| line.strip_prefix("rchar: ").or(line.strip_prefix("wchar: ")));
    counts.filter_map(|count| count.parse::<u64>().ok()).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn reading_and_writing_moves_and_computing_does_not() {
        assert_eq!(moved_by("rchar: 6976\nwchar: 56\nsyscr: 10\nread_bytes: 512\n"), 7032);
        // On a thread of its own: this process has others, which the count of all of them would include.
        let (ready, go) = std::sync::mpsc::sync_channel(0);
        let (done, end) = std::sync::mpsc::sync_channel::<()>(0);
        let reader = threads::spawn("reader", move || {
            // SAFETY: as above.
            ready.send(unsafe { libc::gettid() }).unwrap();
            let mut bytes = [0; 4096];
            fs::File::open("/dev/zero").unwrap().read_exact(&mut bytes).unwrap();
            ready.send(0).unwrap();
            _ = end.recv();
        });
        let reader = (reader.unwrap(), go.recv().unwrap());
        let count = || moved_by(&fs::read_to_string(format!("/proc/self/task/{}/io", reader.1)).unwrap());
        go.recv().unwrap();
        let moved = count();
        assert!(moved >= 4096 && bytes_moved().is_some(), "{moved}");
        assert_eq!(count(), moved, "who waits does not move");
        drop(done);
        reader.0.join().unwrap();
    }
}
