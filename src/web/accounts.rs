//! Coming in and going out, and who may.
//!
//!     password, role or account changes --> its sessions end, all but the one that asks
//!     account removed, or its role lowered --> the tokens that it made end, and those made with them
//!     each of these, and a logout --> open event streams look whether they may go on (`events`)

use super::App;
use super::auth::{self, Credential, Engineer, Role, Viewer, Who};
use super::error::{ApiError, Problem};
use super::peer::Peer;
use crate::store::accounts::{ACCOUNTS_MAX, Account, Session, Token};
use crate::store::images::sha256;
use crate::store::record::rfc3339;
use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;
use utoipa::ToSchema;

const PASSWORD_CHARS_MIN: usize = 8;
const PASSWORD_CHARS_MAX: usize = 200;
const NAME_CHARS_MAX: usize = 40;

/// A hash that no password fits: an unknown name takes as long as a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[derive(Deserialize, ToSchema)]
pub struct Login {
    pub name: String,
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
pub struct Setup {
    /// The one-time code that the first start prints.
    pub code: String,
    pub name: String,
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
pub struct NewAccount {
    /// 1 to 40 letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// 8 to 200 characters. Left out for an account that exists: its password stays.
    pub password: Option<String>,
    pub role: Role,
}

#[derive(Deserialize, ToSchema)]
pub struct NewToken {
    pub name: String,
    /// What the token may do.
    pub role: Role,
}

#[derive(Serialize, ToSchema)]
pub struct Me {
    /// Null when nobody is logged in.
    pub name: Option<String>,
    pub role: Option<Role>,
    /// True while the first account is still to be made.
    pub setup: bool,
    pub version: &'static str,
}

#[derive(Serialize, ToSchema)]
pub struct AccountView {
    pub name: String,
    pub role: String,
    pub created_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct TokenView {
    pub name: String,
    pub role: String,
    pub created_at: String,
    pub created_by: String,
}

#[derive(Serialize, ToSchema)]
pub struct MadeToken {
    pub name: String,
    /// Shown this once.
    pub token: String,
}

/// Who is asking, and whether the box is new.
#[utoipa::path(get, path = "/api/v1/me", tag = "accounts", security(()), responses((status = 200, body = Me)))]
pub async fn me(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Json<Me>, ApiError> {
    let who = auth::who(&app, &headers)?;
    let setup = app.setup_code().is_some();
    let (name, role) = who.map_or((None, None), |w| (Some(w.name), Some(w.role)));
    Ok(Json(Me { name, role, setup, version: env!("CARGO_PKG_VERSION") }))
}

/// A person's own new password.
#[derive(Deserialize, ToSchema)]
pub struct NewPassword {
    /// The one until now.
    pub old: String,
    /// 8 to 200 characters.
    pub new: String,
}

/// Makes the first account, an engineer, with the code of the first start.
#[utoipa::path(post, path = "/api/v1/setup", tag = "accounts", security(()), request_body = Setup, responses(
    (status = 200, body = Me), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem)))]
pub async fn setup(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(body): Json<Setup>,
) -> Result<Response, ApiError> {
    // The code is no account's.
    let attempt = app.gate.attempt("", peer.home(&app, &headers))?;
    check_name(&body.name)?;
    check_password(&body.password)?;
    let wrong =
        || ApiError::new(StatusCode::FORBIDDEN, "code", "this is not the code that the start printed");
    let given = body.code.trim().to_uppercase();
    if app.setup_code().is_none_or(|code| code != given) {
        return Err(wrong());
    }
    let password_hash = hash(&app, body.password).await?;
    // Taken out only now, and only by one: a second request with the same code comes too late.
    let taken = app.setup_code.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.ok_or_else(wrong)?;
    put(&app, body.name.clone(), Role::Engineer, password_hash).await?;
    app.gate.succeeded(attempt);
    tracing::info!(name = %body.name, "the first account was made");
    Ok(open(&app, body.name, Role::Engineer)?.0)
}

/// Opens a session; the cookie is the answer's.
#[utoipa::path(post, path = "/api/v1/login", tag = "accounts", security(()), request_body = Login, responses(
    (status = 200, body = Me), (status = 401, body = Problem), (status = 429, body = Problem)))]
pub async fn login(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(body): Json<Login>,
) -> Result<Response, ApiError> {
    let attempt = app.gate.attempt(&body.name, peer.home(&app, &headers))?;
    let account = app.store.account(&body.name)?;
    let known = account.as_ref().map_or_else(|| NOBODY.to_owned(), |a| a.password_hash.clone());
    let wrong = || {
        tracing::warn!(peer = %peer.0, "a login failed");
        ApiError::new(StatusCode::UNAUTHORIZED, "wrong", "name or password is wrong")
    };
    let fits = is_password(&app, body.password, known).await?;
    let account = account.filter(|_| fits).ok_or_else(wrong)?;
    let role = Role::parse(&account.role).ok_or_else(wrong)?;
    let (answer, session) = open(&app, body.name, role)?;
    // The account may have changed while its password was checked: then what ended its sessions came before
    // this one was there.
    if app.store.account(&account.name)?.as_ref() != Some(&account) {
        app.store.remove_session(&session)?;
        return Err(wrong());
    }
    app.gate.succeeded(attempt);
    tracing::info!(name = %account.name, peer = %peer.0, "logged in");
    Ok(answer)
}

/// Changes one's own password; one's other sessions end.
#[utoipa::path(post, path = "/api/v1/password", tag = "accounts", request_body = NewPassword, responses(
    (status = 204, description = "changed"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem), (status = 429, body = Problem)))]
pub async fn password(
    State(app): State<Arc<App>>,
    Viewer(who): Viewer,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(body): Json<NewPassword>,
) -> Result<StatusCode, ApiError> {
    let Some(Credential::Session(session)) = auth::credential(&headers) else {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "person", "a token has no password"));
    };
    check_password(&body.new)?;
    let attempt = app.gate.attempt(&who.name, peer.home(&app, &headers))?;
    let gone = || ApiError::new(StatusCode::CONFLICT, "changed", "the account was changed meanwhile");
    let account = app.store.account(&who.name)?.ok_or_else(gone)?;
    if !is_password(&app, body.old, account.password_hash.clone()).await? {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "wrong", "the old password is wrong"));
    }
    app.gate.succeeded(attempt);
    let password_hash = hash(&app, body.new).await?;
    if app.store.account(&who.name)?.as_ref() != Some(&account) {
        return Err(gone());
    }
    tracing::info!(name = %who.name, "password changed");
    let changed = Account { password_hash, ..account };
    blocking(&app, move |app| {
        app.store.put_account(&changed)?;
        Ok(app.store.end_sessions_of(&changed.name, Some(&session))?)
    })
    .await?;
    app.access.send_replace(());
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the session.
#[utoipa::path(post, path = "/api/v1/logout", tag = "accounts", responses(
    (status = 204, description = "ended"), (status = 401, body = Problem)))]
pub async fn logout(
    State(app): State<Arc<App>>,
    _: Viewer,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(Credential::Session(session)) = auth::credential(&headers) {
        blocking(&app, move |app| Ok(app.store.remove_session(&session)?)).await?;
        app.access.send_replace(());
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(&app, "", 0))]).into_response())
}

/// All accounts.
#[utoipa::path(get, path = "/api/v1/accounts", tag = "accounts", responses(
    (status = 200, body = [AccountView]), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub async fn accounts(State(app): State<Arc<App>>, _: Engineer) -> Result<Json<Vec<AccountView>>, ApiError> {
    let view = |a: Account| AccountView { name: a.name, role: a.role, created_at: a.created_at };
    Ok(Json(app.store.accounts()?.into_iter().map(view).collect()))
}

/// Makes an account, or changes its role or password; its sessions end, all but the one that asks. Where the
/// role is lowered, the tokens that it made end.
#[utoipa::path(post, path = "/api/v1/accounts", tag = "accounts", request_body = NewAccount, responses(
    (status = 204, description = "made"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn put_account(
    State(app): State<Arc<App>>,
    Engineer(who): Engineer,
    headers: HeaderMap,
    Json(body): Json<NewAccount>,
) -> Result<StatusCode, ApiError> {
    check_name(&body.name)?;
    let old = app.store.account(&body.name)?;
    if old.is_none() && app.store.accounts()?.len() >= ACCOUNTS_MAX {
        return Err(ApiError::bad(format!("a box has at most {ACCOUNTS_MAX} accounts")));
    }
    keep_an_engineer(&app, &body.name, body.role == Role::Engineer)?;
    let password_hash = match (body.password, &old) {
        (Some(password), _) => {
            check_password(&password)?;
            hash(&app, password).await?
        }
        (None, Some(old)) => old.password_hash.clone(),
        (None, None) => return Err(ApiError::bad("a new account needs a password")),
    };
    let lowered = old.as_ref().and_then(|a| Role::parse(&a.role)).is_some_and(|role| body.role < role);
    tracing::info!(by = %who.name, name = %body.name, role = body.role.as_str(), "account changed");
    let name = body.name.clone();
    put(&app, body.name, body.role, password_hash).await?;
    // After the change, so that nobody comes in by what it was before.
    let asks = match auth::credential(&headers) {
        Some(Credential::Session(session)) => Some(session),
        _ => None,
    };
    end_access(&app, who, name, asks, lowered).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the sessions of an account but the one that asks and, where it makes none any more, its tokens.
async fn end_access(
    app: &Arc<App>,
    by: Who,
    name: String,
    asks: Option<[u8; 32]>,
    tokens: bool,
) -> Result<(), ApiError> {
    blocking(app, move |app| {
        app.store.end_sessions_of(&name, asks.as_ref())?;
        if tokens {
            let ended = app.store.remove_tokens_made_by(&name)?;
            tracing::info!(by = %by.name, name, ?ended, "the tokens that this account made ended with it");
        }
        Ok(())
    })
    .await?;
    app.access.send_replace(());
    Ok(())
}

/// Removes an account and the tokens that it made; its decisions stay in the ledger.
#[utoipa::path(delete, path = "/api/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)), responses(
    (status = 204, description = "removed"), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove_account(
    State(app): State<Arc<App>>,
    Engineer(who): Engineer,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    if app.store.account(&name)?.is_none() {
        return Err(ApiError::not_found("there is no such account"));
    }
    keep_an_engineer(&app, &name, false)?;
    tracing::info!(by = %who.name, name, "account removed");
    let removed = name.clone();
    blocking(&app, move |app| Ok(app.store.remove_account(&removed)?)).await?;
    end_access(&app, who, name, None, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "accounts", responses(
    (status = 200, body = [TokenView]), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub async fn tokens(State(app): State<Arc<App>>, _: Engineer) -> Result<Json<Vec<TokenView>>, ApiError> {
    let view = |t: Token| TokenView {
        name: t.name,
        role: t.role,
        created_at: t.created_at,
        created_by: t.created_by,
    };
    Ok(Json(app.store.tokens()?.into_iter().map(view).collect()))
}

/// Makes a token for a machine.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "accounts", request_body = NewToken, responses(
    (status = 200, body = MadeToken), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn put_token(
    State(app): State<Arc<App>>,
    Engineer(who): Engineer,
    Json(body): Json<NewToken>,
) -> Result<Json<MadeToken>, ApiError> {
    check_name(&body.name)?;
    let tokens = app.store.tokens()?;
    if tokens.iter().any(|t| t.name == body.name) {
        return Err(ApiError::new(StatusCode::CONFLICT, "exists", "there is a token with this name"));
    }
    if tokens.len() >= ACCOUNTS_MAX {
        return Err(ApiError::bad(format!("a box has at most {ACCOUNTS_MAX} tokens")));
    }
    let token = format!("{}{}", auth::TOKEN_PREFIX, auth::secret());
    let kept = Token {
        name: body.name.clone(),
        role: body.role.as_str().to_owned(),
        created_at: rfc3339(SystemTime::now()),
        created_by: who.name,
    };
    let digest = sha256(token.as_bytes());
    blocking(&app, move |app| Ok(app.store.put_token(&digest, &kept)?)).await?;
    Ok(Json(MadeToken { name: body.name, token }))
}

/// Removes a token, and those that were made with it.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "accounts", params(("name" = String, Path)), responses(
    (status = 204, description = "removed"), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem)))]
pub async fn remove_token(
    State(app): State<Arc<App>>,
    Engineer(who): Engineer,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let there = blocking(&app, move |app| {
        let there = app.store.remove_token(&name)?;
        let ended = app.store.remove_tokens_made_by(&format!("token:{name}"))?;
        tracing::info!(by = %who.name, name, ?ended, "token removed, with those that it made");
        Ok(there)
    });
    if there.await? {
        app.access.send_replace(());
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("there is no such token"))
    }
}

/// Runs what waits for the disk or computes long, away from the threads that answer.
pub async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || work(&app)).await.map_err(ApiError::internal)?
}

/// One at a time.
async fn on_hasher<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let _turn = app.hashing.acquire().await.map_err(ApiError::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

async fn is_password(app: &Arc<App>, password: String, hash: String) -> Result<bool, ApiError> {
    on_hasher(app, move || Ok(password.len() <= 4 * PASSWORD_CHARS_MAX && auth::fits(&password, &hash))).await
}

async fn hash(app: &Arc<App>, password: String) -> Result<String, ApiError> {
    on_hasher(app, move || auth::hash(&password)).await
}

async fn put(app: &Arc<App>, name: String, role: Role, password_hash: String) -> Result<(), ApiError> {
    let created_at = rfc3339(SystemTime::now());
    let account = Account { name, role: role.as_str().to_owned(), password_hash, created_at };
    blocking(app, move |app| Ok(app.store.put_account(&account)?)).await
}

/// Opens a session: the answer that brings its cookie, and its hash.
fn open(app: &App, name: String, role: Role) -> Result<(Response, [u8; 32]), ApiError> {
    let secret = auth::secret();
    let now_ms = auth::now_ms();
    let lasts_s = app.options.session.as_secs();
    let ends_ms = now_ms.saturating_add(i64::try_from(lasts_s * 1000).unwrap_or(i64::MAX));
    let session = Session { account: name.clone(), ends_ms };
    let digest = sha256(secret.as_bytes());
    app.store.put_session(&digest, &session, now_ms)?;
    let me = Me { name: Some(name), role: Some(role), setup: false, version: env!("CARGO_PKG_VERSION") };
    Ok((([(header::SET_COOKIE, set_cookie(app, &secret, lasts_s))], Json(me)).into_response(), digest))
}

fn set_cookie(app: &App, value: &str, lasts_s: u64) -> String {
    let secure = if app.options.seen_by_tls() { "; Secure" } else { "" };
    format!("{}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}", auth::COOKIE)
}

/// Nobody could come in any more to make another.
fn keep_an_engineer(app: &App, name: &str, stays: bool) -> Result<(), ApiError> {
    let others = app.store.accounts()?.iter().any(|a| a.name != name && a.role == Role::Engineer.as_str());
    let was = app.store.account(name)?.is_some_and(|a| a.role == Role::Engineer.as_str());
    if was && !stays && !others {
        return Err(ApiError::new(StatusCode::CONFLICT, "last_engineer", "the last engineer must stay one"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.chars().all(fine) {
        return Ok(());
    }
    Err(ApiError::bad(format!("a name has 1 to {NAME_CHARS_MAX} letters, digits, dots, dashes, underscores")))
}

fn check_password(password: &str) -> Result<(), ApiError> {
    if (PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&password.chars().count()) {
        return Ok(());
    }
    Err(ApiError::bad(format!("a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")))
}
