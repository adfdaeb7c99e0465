//! Long answers: a body in pieces, as a thread that reads the store makes them.
//!
//! ```text
//! thread --bounded channel--> body of the answer
//! ```
//!
//! A reader that has gone, or takes nothing for [`READ_WAIT`], ends the work: nobody holds a place by not reading. Work
//! that fails cuts the body off, so that its reader sees that something is missing.

use axum::body::{Body, Bytes};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// How long a reader has for a piece of the body.
const READ_WAIT: Duration = Duration::from_secs(30);
/// Pieces of the body that wait for the reader.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;

/// The body that `work` writes, on a thread where waiting is allowed. `turn` is held as long as it works; `what` names
/// it in the log.
pub(super) fn streamed(
    what: &'static str,
    turn: OwnedSemaphorePermit,
    work: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> Body {
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let done = Arc::new(AtomicBool::new(false));
    let is_whole = Arc::clone(&done);
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let mut out = Pieces { pieces, buffer: Vec::new(), runtime, read_wait: READ_WAIT };
        match work(&mut out).and_then(|()| out.flush()) {
            Ok(()) => done.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "{what} ended early"),
        }
        // Before the channel ends: whoever has read this to its end may ask for the next.
        drop(turn);
    });
    let stream = futures_util::stream::unfold(body, move |mut body| {
        let is_whole = Arc::clone(&is_whole);
        async move {
            match body.recv().await {
                Some(piece) => Some((piece, body)),
                // Said once; a panic comes here, too.
                None if !is_whole.swap(true, Ordering::Relaxed) => {
                    Some((Err(io::Error::other("the work failed")), body))
                }
                None => None,
            }
        }
    });
    Body::from_stream(stream)
}

/// A writer into the channel.
pub(super) struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    runtime: tokio::runtime::Handle,
    read_wait: Duration,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Ok(Bytes::from(std::mem::take(&mut self.buffer)));
        let sent = tokio::time::timeout(self.read_wait, self.pieces.send(piece));
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the reader has gone")),
            Err(_) => Err(io::Error::other(format!("the reader took nothing for {:?}", self.read_wait))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_does_not_hold_its_place() {
        let (pieces, mut body) = mpsc::channel(PIECES_MAX);
        let runtime = tokio::runtime::Handle::current();
        let (buffer, read_wait) = (Vec::new(), Duration::from_millis(50));
        let mut out = Pieces { pieces, buffer, runtime, read_wait };
        let written = tokio::task::spawn_blocking(move || {
            let piece = vec![0; PIECE_BYTES];
            (0..PIECES_MAX + 9).try_for_each(|_| out.write_all(&piece))
        });
        let error = written.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("took nothing"), "{error}");
        assert_eq!(body.recv().await.unwrap().unwrap().len(), PIECE_BYTES);
    }
}
