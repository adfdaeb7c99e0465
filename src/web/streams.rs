//! Open event streams: how many, whose, and which one ends when there are too many.
//!
//! ```text
//! open --account has 8, home has 24--> its oldest ends
//!      --48 in all--> the oldest of the account that has the most ends
//! ```

use super::peer::Home;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Open streams at most: each holds a connection.
pub(crate) const STREAMS_MAX: usize = 48;
/// Of one account or token.
pub const OF_ACCOUNT_MAX: usize = 8;
/// From one home.
pub(crate) const OF_HOME_MAX: usize = 24;

struct Open {
    account: String,
    home: Home,
    end: Arc<Notify>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// By number, so that the first is the oldest.
    open: BTreeMap<u64, Open>,
}

impl All {
    fn end_oldest(&mut self, is_one: impl Fn(&Open) -> bool) {
        let oldest = self.open.iter().find(|(_, open)| is_one(open)).map(|(id, _)| *id);
        if let Some(open) = oldest.and_then(|id| self.open.remove(&id)) {
            open.end.notify_one();
        }
    }

    fn count(&self, is_one: impl Fn(&Open) -> bool) -> usize {
        self.open.values().filter(|open| is_one(open)).count()
    }
}

/// The open streams.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<All>>);

/// One of them; dropping it closes it.
pub(crate) struct Stream {
    id: u64,
    end: Arc<Notify>,
    streams: Streams,
}

impl Streams {
    /// Opens a stream, and ends an older one where there are too many; `None` when there are too many and
    /// each account has only one.
    pub(crate) fn open(&self, account: &str, home: Home) -> Option<Stream> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.count(|open| open.account == account) >= OF_ACCOUNT_MAX {
            all.end_oldest(|open| open.account == account);
        }
        if all.count(|open| open.home == home) >= OF_HOME_MAX {
            all.end_oldest(|open| open.home == home);
        }
        if all.open.len() >= STREAMS_MAX {
            let mut of_account: HashMap<&str, usize> = HashMap::new();
            for open in all.open.values() {
                *of_account.entry(&open.account).or_default() += 1;
            }
            let (most, count) = of_account.into_iter().max_by_key(|(_, count)| *count)?;
            if count < 2 {
                return None;
            }
            let most = most.to_owned();
            all.end_oldest(|open| open.account == most);
        }
        all.next += 1;
        let (id, end) = (all.next, Arc::new(Notify::new()));
        all.open.insert(id, Open { account: account.to_owned(), home, end: Arc::clone(&end) });
        Some(Stream { id, end, streams: self.clone() })
    }
}

impl Stream {
    /// Waits until this stream has to end.
    pub(crate) async fn ended(&self) {
        self.end.notified().await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.0.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::net::IpAddr;

    fn home(last: u8) -> Home {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn ended(streams: &[Stream]) -> Vec<usize> {
        (0..streams.len()).filter(|&i| streams[i].ended().now_or_never().is_some()).collect()
    }

    #[test]
    fn one_account_has_its_share_and_its_oldest_goes() {
        let streams = Streams::default();
        let other = [streams.open("bert", home(1)).unwrap()];
        let open = |n: u8| streams.open("anna", home(n)).expect("an older one goes");
        let all: Vec<Stream> = (0..60).map(open).collect();
        assert_eq!(ended(&all), (0..60 - OF_ACCOUNT_MAX).collect::<Vec<_>>());
        assert!(ended(&other).is_empty());
    }

    #[test]
    fn one_home_has_its_share() {
        let streams = Streams::default();
        let open = |n: usize| streams.open(&format!("a{n}"), home(1)).expect("an older one goes");
        let all: Vec<Stream> = (0..OF_HOME_MAX + 2).map(open).collect();
        assert_eq!(ended(&all), [0, 1]);
    }

    #[test]
    fn when_all_are_taken_who_has_the_most_gives_one() {
        let streams = Streams::default();
        let mut all: Vec<Stream> = (0..3).map(|n| streams.open("anna", home(n)).unwrap()).collect();
        all.extend((3..STREAMS_MAX).map(|n| streams.open(&format!("a{n}"), home(n as u8)).unwrap()));
        all.push(streams.open("new", home(200)).expect("anna gives one"));
        all.push(streams.open("newer", home(201)).expect("anna gives one"));
        assert_eq!(ended(&all), [0, 1]);
        assert!(streams.open("late", home(202)).is_none(), "each has one only");
        drop(all);
        assert!(streams.open("late", home(202)).is_some());
    }
}
