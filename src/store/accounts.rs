//! Who may come in: people with a password, machines with a token, and the sessions of people.
//!
//! ```text
//! accounts   name -> role, argon2 hash          (the hash is made and checked by `web`)
//! tokens     sha256 of the token -> name, role  (the token itself is shown once and never kept)
//! sessions   sha256 of the cookie -> account, end
//! ```
//!
//! A session lasts by the time since boot, which no step of the time of day shortens or lengthens, over restarts of the
//! process, too. In another boot it has left what the time of day says then; one that begins after that time is over.
//!
//! Changes of accounts and tokens, and the ends of sessions, are on the disk before they are answered;
//! new sessions need not be.

use super::error::StoreError;
use super::high_water::HighWaterMark;
use super::kv::{self, Db, Tree};
use super::query::unix_ms;
use super::{Store, value};
use crate::clock::Reading;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::watch;

/// Accounts and tokens that a box has at most.
pub const ACCOUNTS_MAX: usize = 500;
/// Sessions that are open at most; beyond it the one that ends first goes.
const SESSIONS_MAX: usize = 2000;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// With it somebody logs in; no other account has it.
    pub name: String,
    /// viewer, operator or engineer.
    pub role: String,
    /// argon2 in PHC form.
    pub password_hash: String,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// A machine's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// By it people know the token, and remove it.
    pub name: String,
    /// viewer, operator or engineer.
    pub role: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
}

impl Token {
    /// What stands in `created_by` of the tokens that were made with this one.
    pub fn maker(&self) -> String {
        format!("token:{}", self.name)
    }
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub(crate) account: String,
    /// From and to, by the time of day, in milliseconds since 1970: what counts in another boot.
    #[serde(default)]
    opened_ms: i64,
    ends_ms: i64,
    /// The boot that counts; empty in what older versions wrote.
    #[serde(default)]
    boot: String,
    /// The end, in milliseconds since that boot.
    #[serde(default)]
    ends_boot_ms: i64,
}

fn whole_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Session {
    /// One that is opened now and lasts so long.
    pub(crate) fn new(account: String, lasts: Duration, now: &Reading) -> Self {
        let (opened_ms, lasts_ms) = (unix_ms(now.wall), whole_ms(lasts));
        Self {
            account,
            opened_ms,
            ends_ms: opened_ms.saturating_add(lasts_ms),
            boot: now.boot.clone(),
            ends_boot_ms: whole_ms(now.since_boot).saturating_add(lasts_ms),
        }
    }

    /// True until it ends; one of another boot is to be taken over first.
    pub(crate) fn is_open(&self, now: &Reading) -> bool {
        self.boot == now.boot && whole_ms(now.since_boot) < self.ends_boot_ms
    }

    /// The same in this boot; `None`: it has ended.
    fn taken_over(mut self, now: &Reading) -> Option<Self> {
        let wall_ms = unix_ms(now.wall);
        if self.boot != now.boot && (self.opened_ms..self.ends_ms).contains(&wall_ms) {
            self.ends_boot_ms = whole_ms(now.since_boot).saturating_add(self.ends_ms - wall_ms);
            self.boot.clone_from(&now.boot);
        }
        self.is_open(now).then_some(self)
    }
}

pub(super) struct AccountTrees {
    accounts: Tree,
    tokens: Tree,
    sessions: Tree,
    /// Somebody's access has changed.
    changed: watch::Sender<()>,
}

impl AccountTrees {
    pub(super) fn open(db: &Db) -> Result<Self, StoreError> {
        let tree = |name: &str| db.tree(name).map_err(|e| StoreError::kv("open a tree", e));
        let (accounts, tokens, sessions) = (tree("accounts")?, tree("tokens")?, tree("sessions")?);
        Ok(Self { accounts, tokens, sessions, changed: watch::Sender::new(()) })
    }
}

fn seal<T: Serialize>(wire: &T) -> Vec<u8> {
    value::seal(1, &serde_json::to_vec(wire).expect("strings always serialise"))
}

fn open<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, StoreError> {
    let bad = |reason: String| StoreError::BadMeta { reason: format!("accounts: {reason}") };
    let (_, body) = value::open(bytes).map_err(|r| bad(r.to_owned()))?;
    serde_json::from_slice(body).map_err(|e| bad(e.to_string()))
}

fn failed(error: kv::Error) -> StoreError {
    StoreError::kv("read or write the accounts", error)
}

fn get<T: for<'a> Deserialize<'a>>(tree: &Tree, key: &[u8]) -> Result<Option<T>, StoreError> {
    tree.get(key).map_err(failed)?.map(|v| open(&v)).transpose()
}

fn all<T: for<'a> Deserialize<'a>>(tree: &Tree) -> Result<Vec<T>, StoreError> {
    tree.iter().map(|row| open(&row.map_err(failed)?.1)).collect()
}

impl Store {
    /// The account with this name.
    ///
    /// # Errors
    /// [`StoreError`]; so for all of these.
    pub fn account(&self, name: &str) -> Result<Option<Account>, StoreError> {
        get(&self.trees.accounts.accounts, name.as_bytes())
    }

    /// All accounts that can be read, by name; `damaged_accounts` names the others.
    pub fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let rows = self.trees.accounts.accounts.iter().map(|row| Ok(open(&row.map_err(failed)?.1).ok()));
        rows.filter_map(Result::transpose).collect()
    }

    /// Names of the accounts that cannot be read: nobody comes in by them until they are made again or removed.
    pub fn damaged_accounts(&self) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for row in &self.trees.accounts.accounts {
            let (name, value) = row.map_err(failed)?;
            if open::<Account>(&value).is_err() {
                names.push(String::from_utf8_lossy(&name).into_owned());
            }
        }
        Ok(names)
    }

    /// Damages what is stored of an account.
    #[cfg(test)]
    pub(crate) fn damage_account(&self, name: &str) {
        self.trees.accounts.accounts.insert(name.as_bytes(), b"no account".to_vec()).unwrap();
    }

    /// Whether there is one, whatever it says.
    pub(crate) fn has_accounts(&self) -> Result<bool, StoreError> {
        Ok(self.trees.accounts.accounts.last().map_err(failed)?.is_some())
    }

    /// Adds or replaces an account.
    pub fn put_account(&self, account: &Account) -> Result<(), StoreError> {
        self.trees.accounts.accounts.insert(account.name.as_bytes(), seal(account)).map_err(failed)?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Hears of every change of somebody's access.
    pub(crate) fn access_changes(&self) -> watch::Receiver<()> {
        self.trees.accounts.changed.subscribe()
    }

    /// Somebody's access has changed.
    pub(crate) fn publish_access_change(&self) {
        self.trees.accounts.changed.send_replace(());
    }

    /// Gives an account another password; its sessions end, and open streams hear of it. `role`: from now on it has
    /// this one, and where there is no such account, one is made. `None`: there is none.
    pub(crate) fn reset_password(
        &self,
        name: &str,
        password_hash: String,
        role: Option<&str>,
        now: &str,
    ) -> Result<Option<Account>, StoreError> {
        let old = match self.account(name) {
            // One that cannot be read is replaced: this is the way out of it.
            Err(StoreError::BadMeta { .. }) if role.is_some() => None,
            old => old?,
        };
        let (was, created_at) = old.map(|a| (a.role, a.created_at)).unzip();
        let Some(role) = role.map(str::to_owned).or(was) else { return Ok(None) };
        let created_at = created_at.unwrap_or_else(|| now.to_owned());
        let account = Account { name: name.to_owned(), role, password_hash, created_at };
        self.put_account(&account)?;
        self.end_sessions_of(name, None)?;
        self.publish_access_change();
        Ok(Some(account))
    }

    /// Removes an account and its sessions; false when there is none.
    pub fn remove_account(&self, name: &str) -> Result<bool, StoreError> {
        let there = self.trees.accounts.accounts.remove(name.as_bytes()).map_err(failed)?.is_some();
        self.end_sessions_of(name, None)?;
        Ok(there)
    }

    /// Ends the sessions of an account, all but the one with the hash `but`. They stay ended after a loss
    /// of power.
    pub fn end_sessions_of(&self, name: &str, but: Option<&[u8; 32]>) -> Result<(), StoreError> {
        for row in &self.trees.accounts.sessions {
            let (key, value) = row.map_err(failed)?;
            let stays = but.is_some_and(|but| *key == *but);
            if !stays && open::<Session>(&value)?.account == name {
                self.trees.accounts.sessions.remove(key).map_err(failed)?;
            }
        }
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Removes the tokens that somebody made, and those that were made by these. Gives their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_tokens_made_by(&self, maker: &str) -> Result<Vec<String>, StoreError> {
        let mut makers = vec![maker.to_owned()];
        let mut removed = Vec::new();
        while let Some(maker) = makers.pop() {
            for row in &self.trees.accounts.tokens {
                let (key, value) = row.map_err(failed)?;
                let token = open::<Token>(&value)?;
                if token.created_by == maker {
                    self.trees.accounts.tokens.remove(key).map_err(failed)?;
                    makers.push(token.maker());
                    removed.push(token.name);
                }
            }
        }
        self.sync.wait(self.sync.request(HighWaterMark::default()))?;
        Ok(removed)
    }

    /// The token with this hash.
    pub fn token(&self, sha256: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        get(&self.trees.accounts.tokens, sha256)
    }

    /// All tokens.
    pub fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        all(&self.trees.accounts.tokens)
    }

    /// Keeps a token under its hash.
    pub fn put_token(&self, sha256: &[u8; 32], token: &Token) -> Result<(), StoreError> {
        self.trees.accounts.tokens.insert(sha256, seal(token)).map_err(failed)?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }

    /// Removes the token with this name; false when there is none.
    pub fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let mut there = false;
        for row in &self.trees.accounts.tokens {
            let (key, value) = row.map_err(failed)?;
            if open::<Token>(&value)?.name == name {
                self.trees.accounts.tokens.remove(key).map_err(failed)?;
                there = true;
            }
        }
        self.sync.wait(self.sync.request(HighWaterMark::default()))?;
        Ok(there)
    }

    /// Takes the sessions of a former process over; those that have ended go. To be called before they are looked at.
    pub fn take_over_sessions(&self, now: &Reading) -> Result<(), StoreError> {
        let tree = &self.trees.accounts.sessions;
        for row in tree {
            let (key, value) = row.map_err(failed)?;
            let former = open::<Session>(&value);
            if let Err(error) = &former {
                // Whoever it was logs in again.
                tracing::warn!(%error, "a session that cannot be read is over");
            }
            match former.ok().and_then(|session| session.taken_over(now)) {
                Some(session) => tree.insert(key, seal(&session)).map_err(failed)?,
                None => tree.remove(key).map_err(failed)?,
            };
        }
        Ok(())
    }

    /// The session with this hash, whether it has ended or not.
    pub fn session(&self, sha256: &[u8; 32]) -> Result<Option<Session>, StoreError> {
        get(&self.trees.accounts.sessions, sha256)
    }

    /// Opens a session; those that have ended go.
    pub fn put_session(&self, sha256: &[u8; 32], session: &Session, now: &Reading) -> Result<(), StoreError> {
        let tree = &self.trees.accounts.sessions;
        let mut open_ones = Vec::new();
        for row in tree {
            let (key, value) = row.map_err(failed)?;
            let session = open::<Session>(&value)?;
            if session.is_open(now) {
                open_ones.push((session.ends_boot_ms, key));
            } else {
                tree.remove(key).map_err(failed)?;
            }
        }
        open_ones.sort();
        let surplus = open_ones.len().saturating_sub(SESSIONS_MAX - 1);
        for (_, key) in open_ones.into_iter().take(surplus) {
            tree.remove(key).map_err(failed)?;
        }
        tree.insert(sha256, seal(session)).map(|_| ()).map_err(failed)
    }

    /// Ends a session; it stays ended after a loss of power.
    pub fn remove_session(&self, sha256: &[u8; 32]) -> Result<(), StoreError> {
        self.trees.accounts.sessions.remove(sha256).map_err(failed)?;
        self.sync.wait(self.sync.request(HighWaterMark::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    const HOUR: Duration = Duration::from_hours(1);

    fn reading(boot: &str, since_boot: Duration, wall_h: u32) -> Reading {
        let wall = SystemTime::UNIX_EPOCH + HOUR * wall_h;
        Reading { wall, since_boot, boot: boot.into(), synchronised: true }
    }

    #[test]
    fn a_session_of_another_boot_has_left_what_the_time_of_day_says() {
        let opened = reading("first", HOUR, 1000);
        let session = || Session::new("anna".into(), HOUR * 12, &opened);
        let ends = |now: &Reading| session().taken_over(now).map(|s| s.ends_boot_ms);
        assert_eq!(ends(&reading("first", HOUR * 2, 3000)), Some(whole_ms(HOUR * 13)), "as it was");
        assert_eq!(ends(&reading("first", HOUR * 13, 1000)), None);
        assert_eq!(ends(&reading("second", Duration::ZERO, 1004)), Some(whole_ms(HOUR * 8)));
        assert_eq!(ends(&reading("second", Duration::ZERO, 1012)), None);
        assert_eq!(ends(&reading("second", Duration::ZERO, 999)), None, "a clock that went back");
        assert!(!session().is_open(&reading("second", Duration::ZERO, 1004)), "not before it is taken over");
    }

    #[test]
    fn one_damaged_account_hides_no_other_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), crate::store::StoreOptions::default()).unwrap();
        let account = |name: &str| Account {
            name: name.into(),
            role: "engineer".into(),
            password_hash: "hash".into(),
            created_at: "2026-01-01T00:00:00.000Z".into(),
        };
        for name in ["anna", "ben", "carla"] {
            store.put_account(&account(name)).unwrap();
        }
        assert_eq!(store.damaged_accounts().unwrap(), [""; 0]);
        store.damage_account("ben");
        let listed: Vec<String> = store.accounts().unwrap().into_iter().map(|a| a.name).collect();
        assert_eq!(listed, ["anna", "carla"]);
        assert_eq!(store.damaged_accounts().unwrap(), ["ben"]);
        assert!(store.account("ben").is_err(), "it is no silent absence");
        assert!(store.remove_account("ben").unwrap());
        assert_eq!(store.damaged_accounts().unwrap(), [""; 0]);
    }

    /// As the versions wrote it that looked at the time of day alone.
    #[test]
    fn an_old_session_is_taken_over() {
        let ends_ms = whole_ms(HOUR * 1012);
        let old = seal(&serde_json::json!({ "account": "anna", "ends_ms": ends_ms }));
        let now = reading("first", HOUR, 1004);
        let session = open::<Session>(&old).unwrap().taken_over(&now).unwrap();
        assert_eq!((session.account.as_str(), session.ends_boot_ms), ("anna", whole_ms(HOUR * 9)));
        assert!(session.is_open(&now));
    }
}
