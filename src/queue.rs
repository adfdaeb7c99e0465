//! A bounded queue between two threads of the line, with a named policy for when it is full.
//!
//! ```text
//! push --> [ oldest … newest ] --> pop          room: Queued
//!   full:  Wait         push blocks until there is room, or the queue is closed
//!          DropOldest   the oldest item comes back to the pusher, the new one goes in
//!          DropNewest   the new item comes back to the pusher
//! close    pushers get their item back; poppers empty the queue, then see Closed
//! ```
//!
//! Invariants:
//! - Nothing vanishes: every pushed item is popped, or handed back by `push` to somebody who must
//!   record it (a dropped frame becomes a review, `queue_full`). What is still inside when the queue
//!   itself is dropped was never promised to anybody.
//! - At most `capacity` items are inside.
//! - `pushed = popped + dropped_oldest + depth`, at every moment.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a full queue does with one more item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The pusher waits: nothing is dropped, the source slows down.
    Wait,
    /// The item that waited longest gives way: results stay fresh.
    DropOldest,
    /// The new item is refused: what was accepted is finished.
    DropNewest,
}

impl Policy {
    pub(crate) const ALL: [Self; 3] = [Self::Wait, Self::DropOldest, Self::DropNewest];

    /// The word used in the config.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
        }
    }

    /// The policy of a word, if it is one.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == word)
    }
}

/// What became of a pushed item.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a dropped item must be recorded, never forgotten"]
pub(crate) enum Pushed<T> {
    /// It is in the queue, and nothing had to give way.
    Queued,
    /// The queue was full. This item is out: under `DropOldest` another one than was pushed.
    Dropped(T),
    /// The queue is closed. This is the item that was pushed.
    Closed(T),
}

/// What a pop came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    Item(T),
    /// Nothing came in time.
    TimedOut,
    /// The queue is closed and empty: nothing will ever come.
    Closed,
}

/// What went through a queue since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Items that got in.
    pub pushed: u64,
    pub popped: u64,
    /// Items that were in and gave way to a newer one.
    pub dropped_oldest: u64,
    /// Items that never got in because the queue was full.
    pub dropped_newest: u64,
    /// Items inside now.
    pub depth: usize,
    /// The most items that were inside at once.
    pub depth_max: usize,
}

/// The queue. Share it in an `Arc`; any number of threads may push and pop.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    policy: Policy,
    capacity: usize,
    state: Mutex<State<T>>,
    came: Condvar,
    left: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    counters: Counters,
}

impl<T> Queue<T> {
    /// An empty queue for at most `capacity` items; a capacity of 0 counts as 1, because a queue
    /// without room would stop the line.
    pub(crate) fn new(policy: Policy, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let state =
            State { items: VecDeque::with_capacity(capacity), closed: false, counters: Counters::default() };
        Self { policy, capacity, state: Mutex::new(state), came: Condvar::new(), left: Condvar::new() }
    }

    /// Puts an item in, as the policy says. Blocks only under `Wait`, until there is room or the queue
    /// is closed.
    pub(crate) fn push(&self, item: T) -> Pushed<T> {
        let mut state = self.lock();
        while self.policy == Policy::Wait && state.items.len() >= self.capacity && !state.closed {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Pushed::Closed(item);
        }
        let full = state.items.len() >= self.capacity;
        if full && self.policy == Policy::DropNewest {
            state.counters.dropped_newest += 1;
            return Pushed::Dropped(item);
        }
        let oldest = if full { state.items.pop_front() } else { None };
        state.counters.dropped_oldest += u64::from(oldest.is_some());
        state.items.push_back(item);
        state.counters.pushed += 1;
        state.counters.depth_max = state.counters.depth_max.max(state.items.len());
        self.came.notify_one();
        oldest.map_or(Pushed::Queued, Pushed::Dropped)
    }

    /// Takes the oldest item out, waiting for one at most `timeout`, or for ever with `None`: until
    /// something comes or the queue is closed.
    pub(crate) fn pop(&self, timeout: Option<Duration>) -> Popped<T> {
        // A timeout beyond the clock's end is the same as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                state.counters.popped += 1;
                self.left.notify_one();
                return Popped::Item(item);
            }
            if state.closed {
                return Popped::Closed;
            }
            state = match deadline {
                None => self.came.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Popped::TimedOut;
                    }
                    self.came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Something about the oldest item, which stays inside.
    pub(crate) fn peek<R>(&self, about: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().items.front().map(about)
    }

    /// No more items go in; those inside can still be popped. Everybody who waits wakes up. Closing
    /// twice is the same as closing once.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
        self.left.notify_all();
    }

    /// True after `close`.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What went through so far.
    pub(crate) fn counters(&self) -> Counters {
        let state = self.lock();
        Counters { depth: state.items.len(), ..state.counters }
    }

    /// No code of ours panics while it holds the lock, and every change under it is complete before
    /// anything could: a poisoned state is still a good one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::thread;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn drop_oldest_hands_back_the_oldest() {
        let queue = Queue::new(Policy::DropOldest, 2);
        assert_eq!(queue.push(1), Pushed::Queued);
        assert_eq!(queue.push(2), Pushed::Queued);
        assert_eq!(queue.push(3), Pushed::Dropped(1));
        assert_eq!(queue.peek(|item| *item), Some(2));
        assert_eq!(queue.pop(None), Popped::Item(2));
        assert_eq!(queue.pop(None), Popped::Item(3));
        assert_eq!(queue.peek(|item| *item), None);
        let expected =
            Counters { pushed: 3, popped: 2, dropped_oldest: 1, depth_max: 2, ..Counters::default() };
        assert_eq!(queue.counters(), expected);
    }

    #[test]
    fn drop_newest_hands_back_what_was_pushed() {
        let queue = Queue::new(Policy::DropNewest, 1);
        assert_eq!(queue.push(1), Pushed::Queued);
        assert_eq!(queue.push(2), Pushed::Dropped(2));
        assert_eq!(queue.pop(None), Popped::Item(1));
        assert_eq!(queue.counters().dropped_newest, 1);
    }

    #[test]
    fn an_empty_queue_times_out_and_a_closed_one_says_so() {
        let queue = Queue::<u8>::new(Policy::Wait, 1);
        assert_eq!(queue.pop(SOON), Popped::TimedOut);
        queue.close();
        queue.close();
        assert_eq!(queue.pop(SOON), Popped::Closed);
        assert_eq!(queue.push(1), Pushed::Closed(1));
        assert!(queue.is_closed());
    }

    #[test]
    fn a_closed_queue_is_emptied_before_it_says_closed() {
        let queue = Queue::new(Policy::DropOldest, 4);
        assert_eq!(queue.push(7), Pushed::Queued);
        queue.close();
        assert_eq!(queue.pop(None), Popped::Item(7));
        assert_eq!(queue.pop(None), Popped::Closed);
    }

    #[test]
    fn close_wakes_a_waiting_pusher_and_gives_its_item_back() {
        let queue = Arc::new(Queue::new(Policy::Wait, 1));
        assert_eq!(queue.push(1), Pushed::Queued);
        let pusher = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(2)
        });
        queue.close();
        assert_eq!(pusher.join().expect("the pusher ends"), Pushed::Closed(2));
    }

    #[test]
    fn close_wakes_a_waiting_popper() {
        let queue = Arc::new(Queue::<u8>::new(Policy::Wait, 1));
        let popper = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.pop(None)
        });
        queue.close();
        assert_eq!(popper.join().expect("the popper ends"), Popped::Closed);
    }

    /// Under every policy, what many threads push is popped or handed back, each item exactly once.
    #[test]
    fn no_item_vanishes_between_threads() {
        const PUSHERS: u32 = 4;
        const ITEMS_EACH: u32 = 2_000;
        for policy in Policy::ALL {
            let queue = Arc::new(Queue::new(policy, 3));
            let poppers: Vec<_> = (0..2)
                .map(|_| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || {
                        let mut got = Vec::new();
                        while let Popped::Item(item) = queue.pop(None) {
                            got.push(item);
                        }
                        got
                    })
                })
                .collect();
            let pushers: Vec<_> = (0..PUSHERS)
                .map(|pusher| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || {
                        let items = pusher * ITEMS_EACH..(pusher + 1) * ITEMS_EACH;
                        let back = |item| match queue.push(item) {
                            Pushed::Queued => None,
                            Pushed::Dropped(item) | Pushed::Closed(item) => Some(item),
                        };
                        items.filter_map(back).collect::<Vec<_>>()
                    })
                })
                .collect();
            let mut dropped: Vec<u32> = Vec::new();
            for pusher in pushers {
                dropped.extend(pusher.join().expect("a pusher ends"));
            }
            queue.close();
            let mut all = dropped.clone();
            for popper in poppers {
                all.extend(popper.join().expect("a popper ends"));
            }
            all.sort_unstable();
            assert_eq!(all, (0..PUSHERS * ITEMS_EACH).collect::<Vec<_>>(), "{policy:?}");
            let counters = queue.counters();
            assert_eq!(counters.dropped_oldest + counters.dropped_newest, dropped.len() as u64);
            assert!(counters.depth_max <= 3);
            assert!(policy != Policy::Wait || dropped.is_empty());
        }
    }

    proptest! {
        /// Any sequence of pushes and pops gives what a plain list would give.
        #[test]
        fn behaves_as_a_list(drop_oldest: bool, capacity in 1usize..5, pushes: Vec<Option<u8>>) {
            let policy = if drop_oldest { Policy::DropOldest } else { Policy::DropNewest };
            let queue = Queue::new(policy, capacity);
            let mut list: Vec<u8> = Vec::new();
            for step in pushes {
                match step {
                    Some(item) if list.len() < capacity => {
                        list.push(item);
                        prop_assert_eq!(queue.push(item), Pushed::Queued);
                    }
                    Some(item) if drop_oldest => {
                        list.push(item);
                        prop_assert_eq!(queue.push(item), Pushed::Dropped(list.remove(0)));
                    }
                    Some(item) => prop_assert_eq!(queue.push(item), Pushed::Dropped(item)),
                    None if list.is_empty() => prop_assert_eq!(queue.pop(Some(Duration::ZERO)), Popped::TimedOut),
                    None => prop_assert_eq!(queue.pop(None), Popped::Item(list.remove(0))),
                }
                let c = queue.counters();
                prop_assert_eq!(c.depth, list.len());
                prop_assert_eq!(c.pushed, c.popped + c.dropped_oldest + c.depth as u64);
            }
        }
    }
}
