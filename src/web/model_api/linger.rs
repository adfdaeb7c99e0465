//! Bodies whose request is refused before they are read. A client writes its whole body before it reads the answer: were
//! the connection closed at once, it would hear of a broken pipe instead of 401, 413 or 429.
//!
//! ```text
//! body --read by the route as far as it wants--> answer --of 400 or more: the rest is read and dropped--> answered
//! ```
//!
//! What is dropped takes no memory, has the time limits of every body (`body`), and is at most [`DROPPED_BYTES_MAX`].

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Whoever sends more is not waited for.
const DROPPED_BYTES_MAX: usize = 64 << 20;

/// A body that is left where it is when its reader goes.
#[derive(Clone)]
struct Left(Arc<Mutex<Body>>);

impl Left {
    fn with<T>(&self, work: impl FnOnce(&mut Body) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Left {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// Reads the rest of a question's body before it is refused.
pub(crate) async fn linger(request: Request, next: Next) -> Response {
    if request.method() != Method::POST || request.uri().path() != super::CHAT {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let left = Left(Arc::new(Mutex::new(body)));
    let answer = next.run(Request::from_parts(head, Body::new(left.clone()))).await;
    if answer.status().as_u16() >= 400 {
        let mut rest = Body::new(left).into_data_stream();
        let mut dropped = 0;
        while let Some(Ok(piece)) = rest.next().await {
            dropped += piece.len();
            if dropped > DROPPED_BYTES_MAX {
                break;
            }
        }
    }
    answer
}
