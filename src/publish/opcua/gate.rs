//! The gate before the server: the library takes every connection that it is given, so they are counted here.
//!
//! ```text
//! accept --is there a place, and one for its address?--yes--> copied to and fro --> the server, on a port of loopback
//!    |            '--no--> closed                                '-- silent for too long, or one side ends: both end
//!    '-- the system has no descriptor --> after a pause it goes on
//! ```
//!
//! Invariants:
//! - No more connections than `connections` have a descriptor for longer than it takes to close it.
//! - Bytes are passed on as they are, in their order; who is let in, the server decides.
//!
//! The server's own port is one of loopback: a program of this machine can connect to it uncounted, and meets the same
//! certificates and passwords there.

use super::Limits;
use super::OpcuaError;
use opcua::server::ServerInfo;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// After an error of the listening socket.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the server has begun.
const LOOK: Duration = Duration::from_millis(5);
/// Clients that are turned away are in the log at most so often.
const SAID_EVERY: Duration = Duration::from_mins(1);
/// What is read at once, each way of a connection.
const BUFFER_BYTES: usize = 16 * 1024;

/// The listening socket, and who is inside.
pub(super) struct Gate {
    listener: TcpListener,
    /// The port that clients know.
    port: u16,
    inside: Arc<Inside>,
    /// A connection without a byte from its client ends after this.
    idle: Duration,
}

impl Gate {
    /// # Errors
    /// The socket does not say its port.
    pub(super) fn new(listener: TcpListener, limits: &Limits) -> Result<Self, OpcuaError> {
        let port = listener.local_addr()?.port();
        let (most, most_of_one) = (limits.connections, limits.connections_per_address);
        let inside = Arc::new(Inside { most, most_of_one, by_address: Mutex::default() });
        Ok(Self { listener, port, inside, idle: limits.session_timeout })
    }

    /// Lets clients in to the server at `server`, which has this `info`, for ever; why it cannot.
    pub(super) async fn watch(self, server: Option<SocketAddr>, info: &ServerInfo) -> io::Error {
        let Some(server) = server else { return io::Error::other("the server has no address") };
        // The library names its own port to clients, once it has begun. They know the gate's.
        while info.port.load(Ordering::Relaxed) != server.port() {
            tokio::time::sleep(LOOK).await;
        }
        info.port.store(self.port, Ordering::Relaxed);
        let mut said: Option<Instant> = None;
        loop {
            let (client, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(%error, "no OPC UA client can connect");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let peer = from.ip().to_canonical();
            match Place::take(&self.inside, peer) {
                Ok(place) => {
                    let idle = self.idle;
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = pass(client, server, idle).await {
                            tracing::debug!(%peer, %error, "an OPC UA connection has ended");
                        }
                    });
                }
                Err(why) => {
                    if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
                        said = Some(Instant::now());
                        tracing::warn!(%peer, why, "an OPC UA client is turned away; others may have been within the last minute");
                    }
                }
            }
        }
    }
}

/// Connections that there are.
struct Inside {
    most: usize,
    most_of_one: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Inside {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; it is free again when this is dropped.
struct Place {
    inside: Arc<Inside>,
    peer: IpAddr,
}

impl Place {
    /// # Errors
    /// Which key of the config leaves no place.
    fn take(inside: &Arc<Inside>, peer: IpAddr) -> Result<Self, &'static str> {
        let mut by_address = inside.lock();
        if by_address.values().sum::<usize>() >= inside.most {
            return Err("there are [opcua] connections of them already");
        }
        let own = by_address.entry(peer).or_default();
        if *own >= inside.most_of_one {
            return Err("there are [opcua] connections_per_address from there already");
        }
        *own += 1;
        drop(by_address);
        Ok(Self { inside: Arc::clone(inside), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.inside.lock();
        if let Some(own) = by_address.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                by_address.remove(&self.peer);
            }
        }
    }
}

/// Copies both ways until one side ends, or the client says nothing and takes nothing for `idle`.
async fn pass(mut client: TcpStream, server: SocketAddr, idle: Duration) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    // Messages are small, and each is waited for.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::select! {
        ended = copy(from_client, to_server, Some(idle), None) => ended,
        ended = copy(from_server, to_client, None, Some(idle)) => ended,
    }
}

/// Copies until the end. A read, or a write, that takes longer than its limit is an error.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    read_within: Option<Duration>,
    write_within: Option<Duration>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = within(read_within, from.read(&mut buffer)).await?;
        if count == 0 {
            return Ok(());
        }
        within(write_within, to.write_all(&buffer[..count])).await?;
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await?,
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_altogether_and_by_address_and_are_free_again() {
        let inside = Arc::new(Inside { most: 3, most_of_one: 2, by_address: Mutex::default() });
        let [one, other, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let first = Place::take(&inside, one).unwrap();
        let _second = Place::take(&inside, one).unwrap();
        let full = Place::take(&inside, one).err().unwrap();
        assert!(full.contains("connections_per_address"), "{full}");
        let from_another = Place::take(&inside, other).unwrap();
        assert!(Place::take(&inside, third).err().unwrap().contains("[opcua] connections of them"));
        drop(first);
        assert!(Place::take(&inside, third).is_ok());
        drop(from_another);
        assert_eq!(*inside.lock(), HashMap::from([(one, 1)]), "nobody is remembered who has left");
    }

    #[tokio::test]
    async fn bytes_are_passed_on_and_a_silent_client_ends() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = front.accept().await.unwrap();
        let idle = Duration::from_millis(50);
        let passing = tokio::spawn(pass(accepted, server.local_addr().unwrap(), idle));
        let (mut inner, _) = server.accept().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        inner.read_exact(&mut heard).await.unwrap();
        inner.write_all(&heard).await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let ended = passing.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(client.read(&mut heard).await.unwrap(), 0, "its connection is closed");
    }
}
