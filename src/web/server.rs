//! Sockets: each has a place (`places`), and everything that is waited for has its time.
//!
//! ```text
//! accept --place?--> TLS (5 s) --> request's head (5 s) --> its body (`body`) --> route --> answer
//!            '--no: closed at once                              '-- again, kept alive --------'
//! ```

use super::body::{Late, PIECE, Received, Sent, whole};
use super::peer::Peer;
use super::places::{HealthOnly, Place, Places};
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

/// How requests are answered.
#[derive(Clone)]
pub(super) struct Service {
    pub tls: Option<TlsAcceptor>,
    pub router: axum::Router,
    /// A proxy on this machine is believed about who asks.
    pub has_proxy: bool,
}

/// Accepts until the runtime ends.
pub(super) async fn serve(listener: TcpListener, service: Service) {
    let places = Places::default();
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
        let service = service.clone();
        tokio::spawn(async move {
            let work = connection(stream, peer, service, Arc::new(place));
            tokio::select! {
                () = work => {}
                () = close.notified() => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, service: Service, place: Arc<Place>) {
    let _ = stream.set_nodelay(true);
    match &service.tls {
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, tls.accept(stream)).await {
                requests(TokioIo::new(stream), peer, &service, place).await;
            }
        }
        None => requests(TokioIo::new(stream), peer, &service, place).await,
    }
}

async fn requests<S>(stream: TokioIo<S>, peer: SocketAddr, service: &Service, place: Arc<Place>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let reserved = place.reserved;
    let Service { router, has_proxy, .. } = service;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, place, late) = (router.clone(), Arc::clone(&place), Late::default());
        let whole = whole(request.uri().path());
        let mut request = request
            .map(|body| Body::new(Received::new(body, Arc::clone(&place), late.clone(), PIECE, whole)));
        let home = Peer(peer).home(*has_proxy, request.headers());
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(home);
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
