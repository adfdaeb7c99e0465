//! Bodies in both directions, which say at each step that something moves.
//!
//! ```text
//! peer --Received: 5 s a piece, 20 s in all--> route --answer--> Sent --> peer
//! ```
//!
//! A body that comes too slowly ends in an error, and the request in 408 (`guard`).

use super::model_api;
use super::places::{Phase, Place};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The longest wait for the next piece of a request's body.
pub(super) const PIECE: Duration = Duration::from_secs(5);
/// The longest time that a whole body may take; 256 KiB in it are 13 KB a second.
const WHOLE: Duration = Duration::from_secs(20);
/// That of a body with pictures: 16 MiB in it are 280 KB a second.
const WHOLE_WITH_PICTURES: Duration = Duration::from_mins(1);

/// The longest time for the whole body of a request to this path.
pub(super) fn whole(path: &str) -> Duration {
    if path == model_api::CHAT { WHOLE_WITH_PICTURES } else { WHOLE }
}

/// Whether the body of a request came too slowly; an extension of the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<AtomicBool>);

impl Late {
    pub(super) fn is_late(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body.
pub(super) struct Received<B> {
    body: B,
    place: Arc<Place>,
    late: Late,
    ends: Instant,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<B: HttpBody> Received<B> {
    /// The head is there: from now on the body is waited for, `piece` for each part and `whole` for all.
    pub(super) fn new(body: B, place: Arc<Place>, late: Late, piece: Duration, whole: Duration) -> Self {
        place.mark(if body.is_end_stream() { Phase::Working } else { Phase::Receiving });
        let timer = Box::pin(tokio::time::sleep(piece.min(whole)));
        Self { body, place, late, ends: Instant::now() + whole, patience: piece, timer }
    }
}

impl<B> HttpBody for Received<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let whole = frame.is_none() || self.body.is_end_stream();
                self.place.mark(if whole { Phase::Working } else { Phase::Receiving });
                let next = (Instant::now() + self.patience).min(self.ends);
                self.timer.as_mut().reset(next);
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => self.timer.as_mut().poll(context).map(|()| {
                self.late.0.store(true, Ordering::Relaxed);
                Some(Err("the body comes too slowly".into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; its place works until the last byte was handed over.
pub(super) struct Sent {
    body: Body,
    place: Arc<Place>,
}

impl Sent {
    pub(super) fn new(body: Body, place: Arc<Place>) -> Self {
        place.mark(Phase::Working);
        Self { body, place }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.place.mark(Phase::Waiting);
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            // The next piece is asked for when the peer has taken what was before it.
            self.place.mark(Phase::Working);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::places::Places;
    use futures_util::{StreamExt as _, stream};
    use std::convert::Infallible;
    use std::net::IpAddr;

    fn received(body: Body, piece: Duration, whole: Duration) -> (Body, Late) {
        let (place, _) = Places::default()
            .enter(IpAddr::from([10, 0, 0, 1]).into(), std::time::Instant::now())
            .expect("a place");
        let late = Late::default();
        (Body::new(Received::new(body, Arc::new(place), late.clone(), piece, whole)), late)
    }

    async fn take(body: Body) -> Result<Bytes, axum::Error> {
        axum::body::to_bytes(body, 1024).await
    }

    const LONG: Duration = Duration::from_mins(10);

    #[tokio::test]
    async fn a_body_that_comes_is_handed_on() {
        let (body, late) = received(Body::from("whole"), LONG, LONG);
        assert_eq!(take(body).await.unwrap(), "whole");
        assert!(!late.is_late());
    }

    #[tokio::test]
    async fn a_body_that_stops_is_given_up() {
        let some = stream::iter([Ok::<_, Infallible>("some")]).chain(stream::pending());
        let (body, late) = received(Body::from_stream(some), Duration::from_millis(20), LONG);
        assert!(take(body).await.is_err() && late.is_late());
    }

    /// A byte now and then does not hold a place for ever.
    #[tokio::test]
    async fn a_body_that_drips_is_given_up() {
        let drip = stream::repeat(Ok::<_, Infallible>("x")).then(|byte| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            byte
        });
        let (body, late) = received(Body::from_stream(drip), LONG, Duration::from_millis(100));
        assert!(take(body).await.is_err() && late.is_late());
    }
}
