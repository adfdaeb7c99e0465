//! What the store owes beside results: reviews and verdicts of parts with several views.
//!
//!     store: reviews_owed, parts_owed --lowest first--> driver --publish--> PUBACK --> no longer owed

use super::message::{self, Topics};
use super::state::Owed;
use crate::store::error::StoreError;
use crate::store::Store;

/// Of each kind so many are given to the machine and not acknowledged yet.
const EACH_MAX: usize = 8;

/// Where it is published.
pub fn topic(topics: &Topics, owed: Owed) -> String {
    match owed {
        Owed::Review(_) => topics.review(),
        Owed::Part(_) => topics.part(),
    }
}

/// The messages that are owed next.
///
/// # Errors
/// `StoreError`.
pub fn read(store: &Store, payload_max: usize) -> Result<Vec<(Owed, Vec<u8>)>, StoreError> {
    let mut found = Vec::new();
    let reviews = store.reviews_owed(EACH_MAX)?.into_iter().map(Owed::Review);
    let parts = store.parts_owed(EACH_MAX)?.into_iter().map(Owed::Part);
    for owed in reviews.chain(parts) {
        match message_of(store, owed, payload_max) {
            Ok(Some(payload)) => found.push((owed, payload)),
            Ok(None) => tracing::error!(?owed, "what is owed is missing"),
            Err(error @ StoreError::BadRecord { .. }) => tracing::error!(%error, ?owed, "not published"),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn message_of(store: &Store, owed: Owed, payload_max: usize) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(match owed {
        Owed::Review(seq) => store.review_entry(seq)?.map(|review| {
            let whole = message::review(&review, true);
            if whole.len() <= payload_max {
                whole
            } else {
                message::review(&review, false)
            }
        }),
        Owed::Part(seq) => store.part(seq)?.map(|part| message::part::part(&part)),
    })
}

/// The broker has acknowledged it.
///
/// # Errors
/// `StoreError`.
pub fn ack(store: &Store, owed: Owed) -> Result<(), StoreError> {
    match owed {
        Owed::Review(seq) => store.ack_review(seq),
        Owed::Part(seq) => store.ack_part(seq),
    }
}
