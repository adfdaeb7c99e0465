//! How many questions of others are under way, and whose: the line's box does not become theirs.
//!
//! ```text
//! enter --all ASKED_MAX, or OF_TOKEN_MAX of this token, are in--> 429
//!       '--in--> body read --turn: one of AT_ONCE_MAX, in the order of coming--> pictures decoded, asked, answered
//! ```
//!
//! A place is taken before the body is read: it bounds the memory of bodies, too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that are in at the same time, whether they wait or are answered.
pub const ASKED_MAX: usize = 16;
/// Of one token.
pub const OF_TOKEN_MAX: usize = 8;
/// Questions that the engine has at the same time.
pub const AT_ONCE_MAX: usize = 4;

/// The places.
#[derive(Clone)]
pub(super) struct Share {
    /// Questions that are in, by token.
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    turns: Arc<Semaphore>,
}

impl Default for Share {
    fn default() -> Self {
        Self { asked: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE_MAX)) }
    }
}

/// A place; dropping it leaves.
pub(super) struct Place {
    token: String,
    share: Share,
    turn: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes a place for a question of this token; `None`: there is none.
    pub(super) fn enter(&self, token: &str) -> Option<Place> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (asked.values().sum::<usize>(), asked.get(token).copied().unwrap_or(0));
        if all >= ASKED_MAX || own >= OF_TOKEN_MAX {
            return None;
        }
        asked.insert(token.to_owned(), own + 1);
        Some(Place { token: token.to_owned(), share: self.clone(), turn: None })
    }

    /// Questions that are in.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Place {
    /// Waits for its turn, which it has until it is dropped.
    pub(super) async fn turn(&mut self) {
        // The semaphore is never closed.
        self.turn = Arc::clone(&self.share.turns).acquire_owned().await.ok();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut asked = self.share.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = asked.get_mut(&self.token) {
            *own -= 1;
            if *own == 0 {
                asked.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn one_token_has_its_share_and_all_together_have_theirs() {
        let share = Share::default();
        let of =
            |token: &str, n: usize| -> Vec<Place> { (0..n).filter_map(|_| share.enter(token)).collect() };
        let first = of("first", 100);
        assert_eq!(first.len(), OF_TOKEN_MAX);
        let second = of("second", 100);
        assert_eq!(first.len() + second.len(), ASKED_MAX);
        assert!(share.enter("third").is_none());
        drop(second);
        assert!(share.enter("third").is_some() && share.enter("first").is_none());
        assert_eq!(share.count(), OF_TOKEN_MAX);
        drop(first);
        assert_eq!(share.count(), 0);
    }

    #[test]
    fn turns_are_given_in_the_order_of_coming() {
        let share = Share::default();
        let mut places: Vec<Place> = (0..AT_ONCE_MAX).filter_map(|_| share.enter("a")).collect();
        for place in &mut places {
            assert!(place.turn().now_or_never().is_some());
        }
        let (mut next, mut last) = (share.enter("a").expect("a place"), share.enter("a").expect("a place"));
        let (mut next_turn, mut last_turn) = (Box::pin(next.turn()), Box::pin(last.turn()));
        assert!(next_turn.as_mut().now_or_never().is_none() && last_turn.as_mut().now_or_never().is_none());
        places.pop();
        assert!(last_turn.as_mut().now_or_never().is_none(), "the one before goes first");
        assert!(next_turn.as_mut().now_or_never().is_some());
        places.pop();
        assert!(last_turn.as_mut().now_or_never().is_some());
    }
}
