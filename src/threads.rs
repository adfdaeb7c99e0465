//! Threads: every one has a name, and a panic on one ends in words, not in silence.
//!
//! ```text
//! spawn(name, body) --> a thread that `/proc/PID/task/*/comm`, `top -H` and a panic's message name
//! caught(work) -------> what the work returns, or the words of its panic, for whoever goes on after it
//! ```
//!
//! This is the only place that starts a thread (tests/tidy.rs checks it). Whoever starts one keeps its handle
//! and looks at it: `daemon` says for each thread what its end means for the line.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Starts a thread. The kernel keeps the first 15 bytes of its name.
///
/// # Errors
/// The system has no room for a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(body)
}

/// Does the work; a panic becomes an error with its words. Whoever calls it vouches for what the work has left
/// half-done.
///
/// # Errors
/// The words of the panic.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_words(payload.as_ref()))
}

/// What a panic said.
fn panic_words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "without a message".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_a_thread_by_its_name() {
        let comm = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(spawn("store-sync", comm).unwrap().join().unwrap(), "store-sync\n");
        let long = spawn("take:camera-of-the-long-name", comm).unwrap().join().unwrap();
        assert_eq!(long, "take:camera-of-\n");
    }

    #[test]
    fn a_panic_ends_in_its_words() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught::<()>(|| panic!("line {}", 3)), Err("panic: line 3".into()));
        assert_eq!(caught::<()>(|| panic!("plain")), Err("panic: plain".into()));
        let odd = caught::<()>(|| std::panic::panic_any(5));
        assert_eq!(odd, Err("panic: without a message".into()));
    }
}
