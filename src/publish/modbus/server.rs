//! Who may connect, how many, and how long a silent client stays.
//!
//! ```text
//! accept --address in `allow`?--> a free place of `connections_max`? --> frames, until it leaves or is silent
//!    |        '--no--> closed         '--no--> closed                        '--> its handshakes are told
//!    '-- the system has no descriptor --> all are closed, and after a pause it goes on
//! ```

use super::frames::Frames;
use super::handshake::Client;
use super::{ModbusOptions, Units};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_modbus::server::tcp::Server;

/// After an error of the listening socket.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients that are turned away are in the log at most so often.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Serves clients for ever.
pub(super) async fn accept(options: &ModbusOptions, listener: TcpListener, units: &Units) {
    let door = Arc::new(Entrance {
        options: options.clone(),
        units: units.clone(),
        inside: Arc::default(),
        clients: AtomicU64::new(0),
        said: Mutex::new(None),
    });
    let server = Server::new(listener);
    let enter = |stream: TcpStream, from: SocketAddr| {
        let entered = door.enter(stream, from);
        async move { Ok::<_, io::Error>(entered) }
    };
    loop {
        let left = |error: io::Error| tracing::debug!(%error, "a Modbus connection has ended");
        if let Err(error) = server.serve(&enter, left).await {
            tracing::error!(%error, "no Modbus client can connect");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Entrance {
    options: ModbusOptions,
    units: Units,
    /// Connections that there are.
    inside: Arc<AtomicUsize>,
    /// That there were.
    clients: AtomicU64,
    /// When it was last said that one was turned away.
    said: Mutex<Option<Instant>>,
}

impl Entrance {
    /// A client that may come in, and its connection.
    fn enter(&self, stream: TcpStream, from: SocketAddr) -> Option<(Frames, Guarded)> {
        let ModbusOptions { allow, connections_max, idle, .. } = &self.options;
        if !(allow.is_empty() || allow.iter().any(|network| network.holds(from.ip()))) {
            self.turn_away(from.ip(), "its address is not in [modbus] allow");
            return None;
        }
        let Some(place) = Place::take(&self.inside, *connections_max) else {
            self.turn_away(from.ip(), "there are [modbus] connections of them already");
            return None;
        };
        // Frames are a few bytes, and a PLC waits for each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a Modbus connection may be slow");
        }
        let client = self.clients.fetch_add(1, Ordering::Relaxed);
        let peer = from.ip().to_canonical().to_string();
        tracing::info!(peer, client, "a Modbus client has connected");
        let frames = Frames::new(self.units.clone(), client, peer);
        let seat = Seat { units: self.units.clone(), client, _place: place };
        let timer = Box::pin(tokio::time::sleep(*idle));
        Some((frames, Guarded { stream, idle: *idle, timer, _seat: seat }))
    }

    fn turn_away(&self, peer: IpAddr, why: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(%peer, why, "a Modbus client is turned away; others may have been within the last minute");
        }
    }
}

/// One of so many places; it is free again when this is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(inside: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let enter = |count: usize| (count < most).then_some(count + 1);
        let taken = inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter);
        taken.is_ok().then(|| Self(Arc::clone(inside)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A client that is there; its handshakes hear of its end, however it comes.
struct Seat {
    units: Units,
    client: Client,
    _place: Place,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = Instant::now();
        self.units.0.values().for_each(|unit| unit.lock().client_left(self.client, now));
        tracing::info!(client = self.client, "a Modbus client has left");
    }
}

/// A connection that fails when nothing moves on it for a while.
struct Guarded {
    stream: TcpStream,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    _seat: Seat,
}

impl Guarded {
    /// What moved, or the end of the wait.
    fn watched<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let until = tokio::time::Instant::now() + self.idle;
            self.timer.as_mut().reset(until);
            return moved;
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watched(cx, moved)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_client_has_left() {
        let inside = Arc::new(AtomicUsize::new(0));
        let first = Place::take(&inside, 2);
        let second = Place::take(&inside, 2);
        assert!(first.is_some() && second.is_some() && Place::take(&inside, 2).is_none());
        drop(first);
        assert!(Place::take(&inside, 2).is_some());
    }
}
