//! Who asks: a person by a cookie, a machine by a token; and what each role may do.
//!
//!     first start --code on the terminal--> setup --> first account, an engineer
//!     login --argon2, one at a time--> session: a random cookie, kept as its sha256
//!     Authorization: Bearer TOKEN ----> token: kept as its sha256, its scope is a role
//!
//!     viewer < operator < engineer     look    decide, export    accounts and tokens
//!
//! A route names its role as an argument; without a sufficient one it is never entered.

use super::App;
use super::error::ApiError;
use crate::store::images::sha256;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use rand::RngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;
use utoipa::ToSchema;

pub const COOKIE: &str = "inspectd_session";
/// What tokens begin with, so that a leaked one is recognised by scanners.
pub const TOKEN_PREFIX: &str = "ispd_";

/// What somebody may do; each may do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Operator,
    Engineer,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Engineer];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Engineer => "engineer",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == word)
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Name of the account, or `token:` and the token's name.
    pub name: String,
    pub role: Role,
}

/// May look.
pub struct Viewer(pub Who);
/// May decide.
pub struct Operator(pub Who);
/// May change who comes in.
pub struct Engineer(pub Who);

macro_rules! extract {
    ($name:ident, $role:expr) => {
        impl FromRequestParts<Arc<App>> for $name {
            type Rejection = ApiError;
            async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
                at_least(app, &parts.headers, $role).map(Self)
            }
        }
    };
}
extract!(Viewer, Role::Viewer);
extract!(Operator, Role::Operator);
extract!(Engineer, Role::Engineer);

fn at_least(app: &App, headers: &HeaderMap, role: Role) -> Result<Who, ApiError> {
    let who = who(app, headers)?.ok_or_else(|| {
        ApiError::new(StatusCode::UNAUTHORIZED, "login", "log in first, or send Authorization: Bearer TOKEN")
    })?;
    if who.role < role {
        let error = format!("this needs the role {}, {} is {}", role.as_str(), who.name, who.role.as_str());
        return Err(ApiError::new(StatusCode::FORBIDDEN, "role", error));
    }
    Ok(who)
}

/// What somebody shows: the sha256 of a token or of a session's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    Token([u8; 32]),
    Session([u8; 32]),
}

/// What the request shows, if it shows anything.
pub fn credential(headers: &HeaderMap) -> Option<Credential> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if let Some(token) = authorization.and_then(|v| v.strip_prefix("Bearer ")) {
        return Some(Credential::Token(sha256(token.trim().as_bytes())));
    }
    cookie(headers).map(|cookie| Credential::Session(sha256(cookie.as_bytes())))
}

/// Who asks, if it is anybody.
pub fn who(app: &App, headers: &HeaderMap) -> Result<Option<Who>, ApiError> {
    credential(headers).map_or(Ok(None), |credential| who_shows(app, &credential))
}

/// Whose credential that is, as things stand now.
pub fn who_shows(app: &App, credential: &Credential) -> Result<Option<Who>, ApiError> {
    let session = match credential {
        Credential::Token(digest) => {
            let token = app.store.token(digest)?;
            return Ok(token
                .and_then(|t| Some(Who { role: Role::parse(&t.role)?, name: format!("token:{}", t.name) })));
        }
        Credential::Session(digest) => app.store.session(digest)?,
    };
    let Some(session) = session.filter(|session| session.ends_ms >= now_ms()) else { return Ok(None) };
    let account = app.store.account(&session.account)?;
    Ok(account.and_then(|a| Some(Who { role: Role::parse(&a.role)?, name: a.name })))
}

/// The value of our cookie.
pub fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

pub fn now_ms() -> i64 {
    crate::store::query::unix_ms(std::time::SystemTime::now())
}

/// 32 random bytes in hex digits.
pub fn secret() -> String {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string never fails");
        text
    })
}

/// A code that is typed off a terminal: twelve of 32 signs that are hard to confuse, 60 bits.
pub fn setup_code() -> String {
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
pub fn fits(password: &str, hash: &str) -> bool {
    use argon2::password_hash::PasswordVerifier as _;
    argon2::PasswordHash::new(hash)
        .is_ok_and(|hash| argon2::Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

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
