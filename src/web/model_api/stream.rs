//! Streamed answers, as OpenAI sends them and Dify reads them.
//!
//! ```text
//! data: {"choices":[{"delta":{"role":"assistant","content":""}}]}
//! data: {"choices":[{"delta":{"content":"…"}}]}                      for each piece
//! :                                                                  while nothing is said: a proxy sees life
//! data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{…}}
//! data: {"choices":[],"usage":{…}}                                   where it was asked for, and not in the one before
//! data: [DONE]
//! ```
//!
//! Dify does not ask for the counts, and takes them from any piece: without them it would count by another model's tokens.
//!
//! An answer that fails after its beginning ends with `data: {"error": …}` and without `[DONE]`.

use super::Waiting;
use super::answer::{Chunk, Counted, Delta, Head, finish, usage};
use super::asked::Heard;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// How often a stream shows life.
const ALIVE: Duration = Duration::from_secs(5);

/// What is still to be sent.
struct Telling {
    waiting: Waiting,
    head: Head,
    with_usage: bool,
    events: VecDeque<Event>,
    is_over: bool,
}

/// An answer as it is made; `first`: what was heard of it already.
pub(super) fn answer(waiting: Waiting, head: Head, with_usage: bool, first: Option<Heard>) -> Response {
    let mut telling = Telling { waiting, head, with_usage, events: VecDeque::new(), is_over: false };
    telling.say(Delta { role: Some("assistant"), content: Some(String::new()) });
    first.into_iter().for_each(|heard| telling.hear(heard));
    let events = stream::unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((Ok::<_, Infallible>(event), telling))
    });
    let mut answer = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response();
    // Proxies of the kind of nginx would keep pieces back.
    let headers = answer.headers_mut();
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

impl Telling {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let heard = self.waiting.hear().await;
            self.hear(heard);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Text(text) => self.say(Delta { role: None, content: Some(text) }),
            Heard::End(Ok(answer)) => {
                self.is_over = true;
                self.waiting.ticket.answered(&answer);
                let counts = Counted::Whole(usage(&answer));
                let in_last = if self.with_usage { Counted::NotYet } else { counts };
                let last = self.head.chunk(Some((Delta::default(), Some(finish(&answer)))), Some(in_last));
                self.push(&last);
                if self.with_usage {
                    let counted = self.head.chunk(None, Some(counts));
                    self.push(&counted);
                }
                self.events.push_back(Event::default().data("[DONE]"));
            }
            Heard::End(Err(refusal)) => {
                self.is_over = true;
                let body = self.waiting.ticket.refused(refusal).body();
                self.events.extend(Event::default().json_data(body));
            }
        }
    }

    fn say(&mut self, delta: Delta) {
        let chunk = self.head.chunk(Some((delta, None)), self.no_usage());
        self.push(&chunk);
    }

    fn push(&mut self, chunk: &Chunk) {
        // Strings and numbers always serialise, without a line's end.
        self.events.extend(Event::default().json_data(chunk));
    }

    /// Chunks before the last have none, and say so where it was asked for.
    fn no_usage(&self) -> Option<Counted> {
        self.with_usage.then_some(Counted::NotYet)
    }
}
