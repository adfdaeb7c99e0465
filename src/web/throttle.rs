//! The throttle before passwords: how often one may be tried.
//!
//! ```text
//! attempt(account, home) counts as failed at once, so that attempts side by side count, too
//!    pair      this account from this home                         8 a minute
//!    home      any account from this home                         32 a minute
//!    account   this account from homes that never came in by it   64 a minute
//! succeeded    takes this attempt back and clears its pair, and nothing else: who has an account of
//!              his own does not lift the count of his guesses at others
//! ```
//!
//! The tables are bounded. A full one forgets the key with the fewest failures, of these the oldest:
//! nobody is refused because others fill it, and nobody loses his own count sooner than he would have
//! spent more attempts on filling it. The right password waits like a wrong one.

use super::error::ApiError;
use super::peer::Home;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PAIR_MAX: usize = 8;
const HOME_MAX: usize = 32;
const ACCOUNT_MAX: usize = 64;
/// For so long a failure counts.
const WINDOW: Duration = Duration::from_mins(1);
/// Keys that each table remembers.
const KEYS_MAX: usize = 1024;
/// Longer names are nobody's, and count as one.
const NAME_BYTES_MAX: usize = 160;

/// Failures by key.
struct Table<K> {
    max: usize,
    failures: HashMap<K, Vec<Instant>>,
}

impl<K: Eq + Hash + Clone> Table<K> {
    fn new(max: usize) -> Self {
        Self { max, failures: HashMap::new() }
    }

    fn is_open(&self, key: &K, now: Instant) -> bool {
        let failures = self.failures.get(key).map_or(&[][..], Vec::as_slice);
        failures.iter().filter(|&&at| counts(at, now)).count() < self.max
    }

    fn add(&mut self, key: K, now: Instant) {
        if self.failures.len() >= KEYS_MAX && !self.failures.contains_key(&key) {
            self.make_room(now);
        }
        let times = self.failures.entry(key).or_default();
        times.retain(|&at| counts(at, now));
        times.push(now);
    }

    fn make_room(&mut self, now: Instant) {
        self.failures.retain(|_, times| times.last().is_some_and(|&at| counts(at, now)));
        if self.failures.len() >= KEYS_MAX {
            let least = self.failures.iter().min_by_key(|(_, times)| (times.len(), times.last().copied()));
            if let Some(key) = least.map(|(key, _)| key.clone()) {
                self.failures.remove(&key);
            }
        }
    }

    fn take_back(&mut self, key: &K, attempt: Instant) {
        if let Some(times) = self.failures.get_mut(key) {
            if let Some(i) = times.iter().position(|&at| at == attempt) {
                times.remove(i);
            }
            if times.is_empty() {
                self.failures.remove(key);
            }
        }
    }
}

fn counts(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < WINDOW
}

/// An attempt that counts as failed until it has succeeded.
#[derive(Debug)]
pub(super) struct Attempt {
    account: String,
    home: Home,
    at: Instant,
}

struct Tables {
    pairs: Table<(String, Home)>,
    homes: Table<Home>,
    accounts: Table<String>,
    /// Where an account came in from, and when last. Only who knows the password gets in here.
    known: HashMap<(String, Home), Instant>,
}

/// Counts attempts.
pub(super) struct LoginThrottle(Mutex<Tables>);

impl Default for LoginThrottle {
    fn default() -> Self {
        Self(Mutex::new(Tables {
            pairs: Table::new(PAIR_MAX),
            homes: Table::new(HOME_MAX),
            accounts: Table::new(ACCOUNT_MAX),
            known: HashMap::new(),
        }))
    }
}

impl LoginThrottle {
    /// Lets an attempt at an account pass, and counts it as failed.
    ///
    /// # Errors
    /// `too_many`: this account, or this home, has failed too often in the last minute.
    pub(super) fn attempt(&self, account: &str, home: Home) -> Result<Attempt, ApiError> {
        self.attempt_at(account, home, Instant::now())
    }

    fn attempt_at(&self, account: &str, home: Home, now: Instant) -> Result<Attempt, ApiError> {
        let account = if account.len() > NAME_BYTES_MAX { String::new() } else { account.to_owned() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (account.clone(), home);
        let known = all.known.contains_key(&pair);
        let open = all.pairs.is_open(&pair, now)
            && all.homes.is_open(&home, now)
            && (known || all.accounts.is_open(&account, now));
        if !open {
            let error = "too many attempts; wait a minute";
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many", error));
        }
        all.pairs.add(pair, now);
        all.homes.add(home, now);
        if !known {
            all.accounts.add(account.clone(), now);
        }
        Ok(Attempt { account, home, at: now })
    }

    /// The attempt was honest.
    pub(super) fn succeeded(&self, attempt: Attempt) {
        let Attempt { account, home, at } = attempt;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.homes.take_back(&home, at);
        all.accounts.take_back(&account, at);
        let pair = (account, home);
        all.pairs.failures.remove(&pair);
        if all.known.len() >= KEYS_MAX {
            let oldest = all.known.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            oldest.and_then(|key| all.known.remove(&key));
        }
        all.known.insert(pair, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn home(n: u32) -> Home {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes()).into()
    }

    /// How many attempts of those are let pass.
    fn let_pass(
        throttle: &LoginThrottle,
        account: &str,
        homes: impl Iterator<Item = u32>,
        now: Instant,
    ) -> usize {
        homes.filter(|&n| throttle.attempt_at(account, home(n), now).is_ok()).count()
    }

    #[test]
    fn who_fails_waits_and_others_do_not() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        assert_eq!(let_pass(&throttle, "anna", [1; 20].into_iter(), now), PAIR_MAX);
        throttle.attempt_at("anna", home(2), now).unwrap();
        let bert = throttle.attempt_at("bert", home(1), now).unwrap();
        throttle.succeeded(bert);
        // The right password of another account lifts nothing.
        assert_eq!(let_pass(&throttle, "anna", [1; 20].into_iter(), now), 0);
        assert_eq!(let_pass(&throttle, "anna", [1; 20].into_iter(), now + WINDOW), PAIR_MAX);
    }

    #[test]
    fn one_home_does_not_try_all_accounts_even_with_one_of_its_own() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        let mut guesses = 0;
        for n in 0..1000 {
            if let Ok(own) = throttle.attempt_at("mallory", home(1), now) {
                throttle.succeeded(own);
            }
            guesses += let_pass(&throttle, &format!("a{n}"), [1].into_iter(), now);
        }
        assert_eq!(guesses, HOME_MAX);
    }

    #[test]
    fn many_homes_together_do_not_try_one_account_but_its_owner_comes_in() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        let own = throttle.attempt_at("anna", home(7), now).unwrap();
        throttle.succeeded(own);
        assert_eq!(let_pass(&throttle, "anna", 100..1000, now), ACCOUNT_MAX);
        let own = throttle.attempt_at("anna", home(7), now).expect("from where she came in before");
        throttle.succeeded(own);
        assert_eq!(let_pass(&throttle, "bert", 100..110, now), 10, "other accounts are not meant");
    }

    #[test]
    fn a_full_table_locks_nobody_out_and_forgives_nobody() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        assert_eq!(let_pass(&throttle, "anna", [1; 20].into_iter(), now), PAIR_MAX);
        for n in 0..3 * KEYS_MAX as u32 {
            throttle.attempt_at(&format!("a{n}"), home(1000 + n), now).expect("there is room for everybody");
        }
        assert_eq!(let_pass(&throttle, "anna", [1].into_iter(), now), 0, "still counted");
        let all = throttle.0.lock().unwrap();
        assert!(all.pairs.failures.len() <= KEYS_MAX && all.homes.failures.len() <= KEYS_MAX);
    }

    #[test]
    fn many_who_come_in_from_one_home_wait_for_nobody() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..500 {
            let attempt = throttle.attempt_at(&format!("person{n}"), home(1), now).unwrap();
            throttle.succeeded(attempt);
        }
    }
}
