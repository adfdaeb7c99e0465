//! Who asks: a person by a cookie, a machine by a token; and what each role may do.
//!
//! ```text
//! first start --code on the terminal--> setup --> first account, an engineer
//! login --argon2, one at a time--> session: a random cookie, kept as its sha256; it lasts by the time since boot
//! Authorization: Bearer TOKEN ----> token: kept as its sha256, its scope is a role
//!
//! viewer < operator < engineer     look    decide, export    accounts and tokens
//! model                            asks the model by `/v1`, of which the others may do nothing (`model_api`)
//! ```
//!
//! A route names its role as an argument; without a sufficient one it is never entered. Open streams hear when
//! somebody's access has changed, and look whether it was theirs.

use super::error::ApiError;
use crate::clock::{Clock, Reading};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::images::sha256;
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use rand::RngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::ToSchema;

pub(crate) const COOKIE: &str = "inspectd_session";
/// What tokens begin with, so that a leaked one is recognised by scanners.
pub(crate) const TOKEN_PREFIX: &str = "ispd_";

/// Fewest and most characters of a password.
pub(crate) const PASSWORD_CHARS_MIN: usize = 8;
pub(crate) const PASSWORD_CHARS_MAX: usize = 200;
/// Most characters of an account's name.
const NAME_CHARS_MAX: usize = 40;

/// Why nobody may be called so; `Ok`: somebody may.
///
/// # Errors
/// What a name is made of.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.chars().all(fine) {
        return Ok(());
    }
    Err(format!("a name has 1 to {NAME_CHARS_MAX} letters, digits, dots, dashes, underscores"))
}

/// Why this is no password; `Ok`: it is one.
///
/// # Errors
/// How long one is.
pub(crate) fn check_password(password: &str) -> Result<(), String> {
    if (PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&password.chars().count()) {
        return Ok(());
    }
    Err(format!("a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters"))
}

/// What somebody may do; from `Viewer` on each may do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Asks the model, and does nothing else. Tokens alone have it.
    Model,
    /// Looks.
    Viewer,
    /// Decides about parts, exports what was decided, and commands cameras.
    Operator,
    /// Manages accounts and tokens, and activates recipes.
    Engineer,
}

impl Role {
    /// The least first.
    pub const ALL: [Self; 4] = [Self::Model, Self::Viewer, Self::Operator, Self::Engineer];

    /// The word in accounts, tokens and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Engineer => "engineer",
        }
    }

    /// The role of a word, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == word)
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Name of the account, or `token:` and the token's name.
    pub name: String,
    pub role: Role,
}

/// May look.
pub(crate) struct Viewer(pub Principal);
/// May decide.
pub(crate) struct Operator(pub Principal);
/// May change who comes in.
pub(crate) struct Engineer(pub Principal);

macro_rules! extract {
    ($name:ident, $role:expr) => {
        impl<S> FromRequestParts<S> for $name
        where
            S: Send + Sync,
            Arc<Sessions>: FromRef<S>,
        {
            type Rejection = ApiError;
            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
                Arc::<Sessions>::from_ref(state).at_least(&parts.headers, $role).map(Self)
            }
        }
    };
}
extract!(Viewer, Role::Viewer);
extract!(Operator, Role::Operator);
extract!(Engineer, Role::Engineer);

/// Who may come in, as things stand now.
pub(crate) struct Sessions {
    store: Arc<Store>,
    clock: Clock,
}

impl Sessions {
    /// The sessions and tokens of a store; those of a former process go on.
    ///
    /// # Errors
    /// The sessions cannot be read or written.
    pub(crate) fn new(store: Arc<Store>, clock: Clock) -> Result<Self, StoreError> {
        store.take_over_sessions(&clock.read())?;
        Ok(Self { store, clock })
    }

    /// The time by which sessions last.
    pub(crate) fn now(&self) -> Reading {
        self.clock.read()
    }

    /// Who asks, if it is anybody.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Result<Option<Principal>, ApiError> {
        credential(headers).map_or(Ok(None), |credential| self.owner(&credential))
    }

    /// Whose credential that is.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn owner(&self, credential: &Credential) -> Result<Option<Principal>, ApiError> {
        let session = match credential {
            Credential::Token(digest) => {
                let token = self.store.token(digest)?;
                return Ok(token.and_then(|t| {
                    Some(Principal { role: Role::parse(&t.role)?, name: format!("token:{}", t.name) })
                }));
            }
            Credential::Session(digest) => self.store.session(digest)?,
        };
        let Some(session) = session.filter(|session| session.is_open(&self.now())) else { return Ok(None) };
        let account = self.store.account(&session.account)?;
        Ok(account.and_then(|a| Some(Principal { role: Role::parse(&a.role)?, name: a.name })))
    }

    /// Hears of every change of somebody's access.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.store.access_changes()
    }

    /// Somebody's access has changed.
    pub(crate) fn publish_change(&self) {
        self.store.publish_access_change();
    }

    fn at_least(&self, headers: &HeaderMap, role: Role) -> Result<Principal, ApiError> {
        let principal = self.principal(headers)?.ok_or_else(|| {
            let error = "log in first, or send Authorization: Bearer TOKEN";
            ApiError::new(StatusCode::UNAUTHORIZED, "login", error)
        })?;
        if principal.role < role {
            let (name, is) = (&principal.name, principal.role.as_str());
            let error = format!("this needs the role {}, {name} is {is}", role.as_str());
            return Err(ApiError::new(StatusCode::FORBIDDEN, "role", error));
        }
        Ok(principal)
    }
}

/// What somebody shows: the sha256 of a token or of a session's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    Token([u8; 32]),
    Session([u8; 32]),
}

/// What the request shows, if it shows anything.
pub(crate) fn credential(headers: &HeaderMap) -> Option<Credential> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if let Some(token) = authorization.and_then(|v| v.strip_prefix("Bearer ")) {
        return Some(Credential::Token(sha256(token.trim().as_bytes())));
    }
    cookie(headers).map(|cookie| Credential::Session(sha256(cookie.as_bytes())))
}

/// The value of our cookie.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// 32 random bytes in hex digits.
pub(crate) fn secret() -> String {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string never fails");
        text
    })
}

/// A code that is typed off a terminal: twelve of 32 signs that are hard to confuse, 60 bits.
pub(crate) fn setup_code() -> String {
    const SIGNS: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    let mut bytes = [0; 12];
    OsRng.fill_bytes(&mut bytes);
    let signs: Vec<char> = bytes.iter().map(|b| char::from(SIGNS[usize::from(b % 32)])).collect();
    signs.chunks(4).map(String::from_iter).collect::<Vec<_>>().join("-")
}

/// argon2id of a password, in PHC form. Takes a while and 19 MiB: run it where waiting is allowed.
pub fn hash(password: &str) -> Result<String, ApiError> {
    use argon2::password_hash::PasswordHasher as _;
    let mut salt = [0; 16];
    OsRng.fill_bytes(&mut salt);
    let hash = argon2::Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|h| h.to_string()).map_err(ApiError::internal)
}

/// Whether the password fits the hash.
pub(crate) fn fits(password: &str, hash: &str) -> bool {
    use argon2::password_hash::PasswordVerifier as _;
    argon2::PasswordHash::new(hash)
        .is_ok_and(|hash| argon2::Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;
    use crate::store::accounts::{Account, Session};
    use std::time::{Duration, SystemTime};

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_session_lasts_as_long_as_promised_whatever_the_time_of_day_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let account = Account {
            name: "anna".into(),
            role: "operator".into(),
            password_hash: String::new(),
            created_at: String::new(),
        };
        store.put_account(&account).unwrap();
        let (clock, hands) = Clock::turned(Reading {
            wall: SystemTime::UNIX_EPOCH + HOUR * 400_000,
            since_boot: HOUR,
            boot: "first".into(),
            synchronised: true,
        });
        let mine = [7; 32];
        let session = Session::new("anna".into(), HOUR * 12, &clock.read());
        store.put_session(&mine, &session, &clock.read()).unwrap();
        let start = || Sessions::new(Arc::clone(&store), clock.clone()).unwrap();
        let is_open = |s: &Sessions| s.owner(&Credential::Session(mine)).unwrap().is_some();
        let sessions = start();
        assert!(is_open(&sessions));
        hands.turn(|shown| shown.wall += HOUR * 24);
        assert!(is_open(&sessions), "nobody is logged out by a clock that jumps ahead");
        assert!(is_open(&start()), "nor by a restart after it");
        hands.turn(|shown| shown.wall -= HOUR * 48);
        hands.pass(HOUR * 11);
        assert!(is_open(&sessions));
        // Another login leaves it alone.
        store.put_session(&[8; 32], &session, &clock.read()).unwrap();
        assert!(is_open(&sessions));
        hands.pass(HOUR);
        assert!(!is_open(&sessions), "a clock that went back makes it no longer");
        assert!(!is_open(&start()));
    }

    #[test]
    fn passwords_fit_their_own_hash_only() {
        let hash = hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(fits("correct horse", &hash) && !fits("correct hors", &hash) && !fits("x", "no hash"));
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=b; inspectd_session=xyz; c=d".parse().unwrap());
        assert_eq!(cookie(&headers), Some("xyz"));
        headers.insert(header::COOKIE, "xinspectd_session=xyz".parse().unwrap());
        assert_eq!(cookie(&headers), None);
        assert_eq!(setup_code().len(), 14);
    }
}
