//! Sockets: each has a place (`places`), and everything that is waited for has its time.
//!
//!     accept --place?--> TLS (5 s) --> request's head (5 s) --> its body (`body`) --> route --> answer
//!                '--no: closed at once                              '-- again, kept alive --------'

use super::body::{Late, PIECE, Received, Sent, WHOLE};
use super::peer::Peer;
use super::places::{Place, Places};
use super::{App, guard};
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// The longest wait for a request's head, and for a TLS handshake.
const HEAD: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, for example for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// The connection answers health and nothing else; an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct HealthOnly;

/// Accepts until the runtime ends.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, app: Arc<App>) {
    let places = Places::default();
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
        let Some((place, close)) = places.enter(peer.ip().into(), Instant::now()) else { continue };
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
    let reserved = place.reserved;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, place, late) = (router.clone(), Arc::clone(&place), Late::default());
        let mut request = request
            .map(|body| Body::new(Received::new(body, Arc::clone(&place), late.clone(), PIECE, WHOLE)));
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(late);
        if place.reserved {
            request.extensions_mut().insert(HealthOnly);
        }
        async move {
            let answer = router.oneshot(request).await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Body::new(Sent::new(body, place))))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(!reserved)
        .max_buf_size(64 * 1024)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
