//! What is new, told to every open page at once (server-sent events).
//!
//!     commit, review --> follow --> broadcast --> one stream a page
//!
//!     event: inspection   data: Summary             event: review   data: Summary, as it stands now
//!     event: resync       the page fell behind, or too much came at once: load the list anew
//!     event: end          data: {"reason": "access"}: logged out, or may something else now
//!                         data: {"reason": "replaced"}: newer streams of the same account or address
//!
//! A stream lives as long as the access it was opened with: that is looked at again whenever somebody's
//! access changes, and at every sign of life, since a session also ends by its time.

use super::App;
use super::auth::{self, Credential, Viewer, Who};
use super::error::{ApiError, Problem};
use super::peer::Peer;
use super::queue::summary;
use super::streams::{self, STREAMS_MAX};
use super::wire::Summary;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

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
    Viewer(who): Viewer,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    let nobody = || ApiError::new(StatusCode::UNAUTHORIZED, "login", "log in first");
    let credential = auth::credential(&headers).ok_or_else(nobody)?;
    let open = app.streams.open(&who.name, peer.home(&app, &headers)).ok_or_else(|| {
        let error = format!("{STREAMS_MAX} pages are open already");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "streams", error)
    })?;
    let (events, access) = (app.events.subscribe(), app.access.subscribe());
    let follower = Follower { app, who, credential, open, events, access };
    let hello = SseEvent::default().event("hello").data("{}");
    let rest = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(event) => Some((Ok(to_sse(&event)), Some(follower))),
            Err(reason) => {
                let data = format!("{{\"reason\":\"{reason}\"}}");
                Some((Ok(SseEvent::default().event("end").data(data)), None))
            }
        }
    });
    let all = futures_util::StreamExt::chain(stream::iter([Ok(hello)]), rest);
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}

/// What one stream waits for.
struct Follower {
    app: Arc<App>,
    who: Who,
    credential: Credential,
    open: streams::Stream,
    events: broadcast::Receiver<Event>,
    access: watch::Receiver<()>,
}

impl Follower {
    /// The next event, or why there are no more.
    async fn next(&mut self) -> Result<Event, &'static str> {
        loop {
            let event = tokio::select! {
                biased;
                () = self.open.ended() => return Err("replaced"),
                _ = self.access.changed() => None,
                event = self.events.recv() => Some(event),
                () = tokio::time::sleep(ALIVE_EVERY) => None,
            };
            if !self.has_access() {
                return Err("access");
            }
            match event {
                Some(Ok(event)) => return Ok(event),
                Some(Err(RecvError::Lagged(_))) => return Ok(Event::Resync),
                Some(Err(RecvError::Closed)) => return Err("stopping"),
                None => {}
            }
        }
    }

    /// A store that cannot be read ends the stream, too: nobody sees more than is sure.
    fn has_access(&self) -> bool {
        matches!(auth::who_shows(&self.app, &self.credential), Ok(Some(who)) if who == self.who)
    }
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
