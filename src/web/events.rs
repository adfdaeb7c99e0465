//! What is new, told to every open page at once (server-sent events).
//!
//!     commit, review --> follow --> broadcast --> one stream a page
//!
//!     event: inspection   data: Summary             event: review   data: Summary, as it stands now
//!     event: resync       the page fell behind, or too much came at once: load the list anew

use super::auth::Viewer;
use super::error::{ApiError, Problem};
use super::queue::summary;
use super::wire::Summary;
use super::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Open streams at most: each holds a connection.
const STREAMS_MAX: usize = 48;
/// New inspections or reviews that are told one by one; beyond it pages load anew.
const ONE_BY_ONE_MAX: u64 = 50;
/// A sign of life, so that a dead connection is noticed.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// One thing that is new.
#[derive(Clone, Debug)]
pub enum Event {
    Inspection(Arc<Summary>),
    Review(Arc<Summary>),
    Resync,
}

/// Follows the store until it is gone.
pub async fn follow(app: Arc<App>) {
    let (mut commits, mut reviews) = (app.store.subscribe(), app.store.subscribe_reviews());
    let (mut seq, mut review) = (*commits.borrow_and_update(), *reviews.borrow_and_update());
    loop {
        let told = tokio::select! {
            Ok(()) = commits.changed() => {
                let (from, to) = (seq + 1, *commits.borrow_and_update());
                seq = to.max(seq);
                tell(&app, from, to, |app, n| Ok(summary(app, n)?.map(|s| Event::Inspection(Arc::new(s))))).await
            }
            Ok(()) = reviews.changed() => {
                let (from, to) = (review + 1, *reviews.borrow_and_update());
                review = to.max(review);
                tell(&app, from, to, |app, n| {
                    let Some(entry) = app.store.review_entry(n)? else { return Ok(None) };
                    Ok(summary(app, entry.inspection_seq)?.map(|s| Event::Review(Arc::new(s))))
                }).await
            }
            else => return,
        };
        if told.is_err() {
            let _ = app.events.send(Event::Resync);
        }
    }
}

async fn tell(
    app: &Arc<App>,
    from: u64,
    to: u64,
    read: impl Fn(&App, u64) -> Result<Option<Event>, ApiError> + Send + 'static,
) -> Result<(), ApiError> {
    if app.events.receiver_count() == 0 || to < from {
        return Ok(());
    }
    if to - from >= ONE_BY_ONE_MAX {
        let _ = app.events.send(Event::Resync);
        return Ok(());
    }
    super::accounts::blocking(app, move |app| {
        for n in from..=to {
            if let Some(event) = read(app, n)? {
                // Nobody listens any more: nobody needs to be told.
                let _ = app.events.send(event);
            }
        }
        Ok(())
    })
    .await
}

/// What is new, as it comes.
#[utoipa::path(get, path = "/api/v1/events", tag = "inspections", responses(
    (status = 200, description = "a stream of events", content_type = "text/event-stream", body = String),
    (status = 401, body = Problem), (status = 503, body = Problem)))]
pub async fn stream(
    State(app): State<Arc<App>>,
    _: Viewer,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    if app.events.receiver_count() >= STREAMS_MAX {
        let error = format!("{STREAMS_MAX} pages are open already");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "streams", error));
    }
    let receiver = app.events.subscribe();
    let hello = SseEvent::default().event("hello").data("{}");
    let rest = stream::unfold(receiver, |mut receiver| async move {
        let event = match receiver.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => Event::Resync,
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(to_sse(&event)), receiver))
    });
    let all = futures_util::StreamExt::chain(stream::iter([Ok(hello)]), rest);
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}

fn to_sse(event: &Event) -> SseEvent {
    let (name, summary) = match event {
        Event::Inspection(summary) => ("inspection", Some(summary)),
        Event::Review(summary) => ("review", Some(summary)),
        Event::Resync => ("resync", None),
    };
    let event = SseEvent::default().event(name);
    match summary {
        Some(summary) => event.json_data(summary.as_ref()).unwrap_or_default(),
        None => event.data("{}"),
    }
}
