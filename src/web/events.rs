//! What is new, published to every open page at once (server-sent events).
//!
//! ```text
//! commit, review --> follow --> broadcast --> one stream a page
//!
//! event: beat         data: {"alive": true, "alarms": 0}, at once and every second: whether the inspector shows life,
//!                     and how many alarms stand. A page that hears nothing for longer shows that the station is frozen
//! event: inspection   data: Summary             event: review   data: Summary, as it stands now
//! event: resync       the page fell behind, or too much came at once: load the list anew
//! event: end          data: {"reason": "access"}: logged out, or may something else now
//!                     data: {"reason": "replaced"}: newer streams of the same account or address
//! ```
//!
//! A stream lives as long as the access it was opened with: that is looked at again whenever somebody's
//! access changes, and at every beat, since a session also ends by its time.

use super::auth::{self, Credential, Principal, Sessions, Viewer};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::line::Overview;
use super::peer::Home;
use super::queue::summary;
use super::streams::{self, STREAMS_MAX, Streams};
use super::wire::Summary;
use crate::store::Store;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, Sse};
use futures_util::stream::{self, Stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Events that a slow page may lag behind; beyond it the page is asked to load anew.
const EVENTS_MAX: usize = 256;
/// New inspections or reviews that are published one by one; beyond it pages load anew.
const ONE_BY_ONE_MAX: u64 = 50;
/// A sign of life, so that a frozen station and a dead connection are noticed.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// One thing that is new.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Inspection(Arc<Summary>),
    Review(Arc<Summary>),
    Resync,
    Beat { alive: bool, alarms: usize },
}

/// Who listens, and what is published to them.
pub struct Events {
    store: Arc<Store>,
    sender: broadcast::Sender<Event>,
    streams: Streams,
}

impl Events {
    /// Nobody listens yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, sender: broadcast::channel(EVENTS_MAX).0, streams: Streams::default() }
    }

    /// Follows the store until it is gone.
    pub async fn follow(self: Arc<Self>) {
        let (mut commits, mut reviews) = (self.store.subscribe(), self.store.subscribe_reviews());
        let (mut seq, mut review) = (*commits.borrow_and_update(), *reviews.borrow_and_update());
        loop {
            let published = tokio::select! {
                Ok(()) = commits.changed() => {
                    let (from, to) = (seq + 1, *commits.borrow_and_update());
                    seq = to.max(seq);
                    self.publish(from, to, inspected).await
                }
                Ok(()) = reviews.changed() => {
                    let (from, to) = (review + 1, *reviews.borrow_and_update());
                    review = to.max(review);
                    self.publish(from, to, reviewed).await
                }
                else => return,
            };
            if published.is_err() {
                let _ = self.sender.send(Event::Resync);
            }
        }
    }

    /// Publishes the events `from..=to`, each as `read` finds it.
    async fn publish(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        read: fn(&Store, u64) -> Result<Option<Event>, ApiError>,
    ) -> Result<(), ApiError> {
        if self.sender.receiver_count() == 0 || to < from {
            return Ok(());
        }
        if to - from >= ONE_BY_ONE_MAX {
            let _ = self.sender.send(Event::Resync);
            return Ok(());
        }
        blocking(self, move |events| {
            for n in from..=to {
                if let Some(event) = read(&events.store, n)? {
                    // An error means that nobody listens any more.
                    let _ = events.sender.send(event);
                }
            }
            Ok(())
        })
        .await
    }
}

/// The event of a new inspection; `None` when retention has just removed it.
fn inspected(store: &Store, seq: u64) -> Result<Option<Event>, ApiError> {
    Ok(summary(store, seq)?.map(|s| Event::Inspection(Arc::new(s))))
}

/// The event of a new entry in the ledger of reviews.
fn reviewed(store: &Store, entry: u64) -> Result<Option<Event>, ApiError> {
    let Some(entry) = store.review_entry(entry)? else { return Ok(None) };
    Ok(summary(store, entry.inspection_seq)?.map(|s| Event::Review(Arc::new(s))))
}

/// What is new, as it comes.
#[utoipa::path(get, path = "/api/v1/events", tag = "inspections", responses(
    (status = 200, description = "a stream of events", content_type = "text/event-stream", body = String),
    (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn stream(
    State(events): State<Arc<Events>>,
    State(sessions): State<Arc<Sessions>>,
    State(overview): State<Arc<Overview>>,
    Viewer(principal): Viewer,
    Extension(home): Extension<Home>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    let nobody = || ApiError::new(StatusCode::UNAUTHORIZED, "login", "log in first");
    let credential = auth::credential(&headers).ok_or_else(nobody)?;
    let open = events.streams.open(&principal.name, home).ok_or_else(|| {
        let error = format!("{STREAMS_MAX} pages are open already");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "streams", error)
    })?;
    let (events, changes) = (events.sender.subscribe(), sessions.changes());
    let mut beat = interval(BEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower { sessions, overview, principal, credential, open, events, changes, beat };
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
    Ok(Sse::new(all))
}

/// What one stream waits for.
struct Follower {
    sessions: Arc<Sessions>,
    overview: Arc<Overview>,
    principal: Principal,
    credential: Credential,
    open: streams::Stream,
    events: broadcast::Receiver<Event>,
    changes: watch::Receiver<()>,
    beat: Interval,
}

impl Follower {
    /// The next event, or why there are no more.
    async fn next(&mut self) -> Result<Event, &'static str> {
        loop {
            let event = tokio::select! {
                biased;
                () = self.open.ended() => return Err("replaced"),
                _ = self.changes.changed() => None,
                event = self.events.recv() => Some(event),
                _ = self.beat.tick() => Some(Ok(self.overview.beat())),
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
        matches!(self.sessions.owner(&self.credential), Ok(Some(owner)) if owner == self.principal)
    }
}

fn to_sse(event: &Event) -> SseEvent {
    let of = |name: &str| SseEvent::default().event(name);
    let about = |name: &str, summary: &Summary| of(name).json_data(summary).unwrap_or_default();
    match event {
        Event::Inspection(summary) => about("inspection", summary),
        Event::Review(summary) => about("review", summary),
        Event::Resync => of("resync").data("{}"),
        Event::Beat { alive, alarms } => {
            of("beat").data(format!("{{\"alive\":{alive},\"alarms\":{alarms}}}"))
        }
    }
}
