//! Sockets: at most `CONNECTIONS_MAX`, and the idle make room for the new.
//!
//!     accept --room?--> TLS (5 s) --> request head (5 s) --> request (busy) --> idle, kept alive
//!                '--no: the connection that is idle longest is closed
//!
//! A thousand sockets that send nothing push each other out, and a request that comes whole is
//! answered before its turn to be pushed out comes. A request that takes longer than `BUSY` may be
//! pushed out, too: a reader that never reads does not hold a place for ever.

use super::{guard, App};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// Connections that are open at the same time.
pub const CONNECTIONS_MAX: usize = 128;
/// The longest wait for a request's head, and for a TLS handshake.
const HEAD: Duration = Duration::from_secs(5);
/// A request that takes longer may be pushed out when there is no other room.
const BUSY: Duration = Duration::from_secs(60);
/// Pause after an accept that failed, for example for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

struct Slot {
    /// When it became what it is.
    since: Instant,
    busy: bool,
    close: Arc<Notify>,
}

/// The open connections, by number.
#[derive(Default)]
struct Slots {
    next: u64,
    open: BTreeMap<u64, Slot>,
}

type Shared = Arc<Mutex<Slots>>;

/// Takes a place, pushing out who may be pushed out; `None` when all are at work.
fn enter(slots: &Shared) -> Option<(Place, Arc<Notify>)> {
    let mut all = slots.lock().unwrap_or_else(PoisonError::into_inner);
    if all.open.len() >= CONNECTIONS_MAX {
        let weakest = all.open.iter().min_by_key(|(_, s)| (s.busy, s.since)).map(|(id, _)| *id)?;
        let slot = &all.open[&weakest];
        if slot.busy && slot.since.elapsed() < BUSY {
            return None;
        }
        slot.close.notify_one();
        all.open.remove(&weakest);
    }
    all.next += 1;
    let (id, close) = (all.next, Arc::new(Notify::new()));
    all.open.insert(id, Slot { since: Instant::now(), busy: false, close: Arc::clone(&close) });
    Some((Place { id, slots: Arc::clone(slots) }, close))
}

/// One taken place; dropping it leaves.
struct Place {
    id: u64,
    slots: Shared,
}

impl Place {
    fn mark(&self, busy: bool) {
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = all.open.get_mut(&self.id) {
            (slot.busy, slot.since) = (busy, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.id);
    }
}

/// Busy until it is dropped: when the answer's last byte was handed over.
struct Work(Arc<Place>);

impl Work {
    fn new(place: &Arc<Place>) -> Self {
        place.mark(true);
        Self(Arc::clone(place))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.mark(false);
    }
}

/// An answer's body that holds its connection busy.
struct Held {
    body: Body,
    _work: Work,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Accepts until the runtime ends.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, app: Arc<App>) {
    let slots = Shared::default();
    let router = guard::router(Arc::clone(&app));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        // Without a place the socket is closed at once: the peer sees it and may try again.
        let Some((place, close)) = enter(&slots) else { continue };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let work = connection(stream, peer, tls, router, Arc::new(place));
            tokio::select! {
                () = work => {}
                () = close.notified() => {}
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    place: Arc<Place>,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, tls.accept(stream)).await {
                requests(TokioIo::new(stream), peer, router, place).await;
            }
        }
        None => requests(TokioIo::new(stream), peer, router, place).await,
    }
}

async fn requests<S>(stream: TokioIo<S>, peer: SocketAddr, router: axum::Router, place: Arc<Place>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, work) = (router.clone(), Work::new(&place));
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let answer = router.oneshot(request).await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Body::new(Held { body, _work: work })))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
