//! Coming in and going out, and who may.
//!
//! ```text
//! password, role or account changes --> its sessions end, all but the one that asks
//! account removed, or its role lowered --> the tokens that it made end, and those made with them
//! each of these, and a logout --> open event streams look whether they may go on (`events`)
//! ```

use super::auth::{self, Credential, Engineer, PASSWORD_CHARS_MAX, Principal, Role, Sessions, Viewer};
use super::blocking::blocking;
use super::error::{ApiError, Problem};
use super::options::WebOptions;
use super::peer::{Home, Peer};
use super::throttle::LoginThrottle;
use crate::store::Store;
use crate::store::accounts::{ACCOUNTS_MAX, Account, Session, Token};
use crate::store::error::StoreError;
use crate::store::images::sha256;
use crate::store::record::rfc3339;
use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// A hash that no password fits: an unknown name takes as long as a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Who may come in, and what it takes.
pub(crate) struct Accounts {
    store: Arc<Store>,
    sessions: Arc<Sessions>,
    /// Lets the first account in; `None` once there is one.
    setup_code: Mutex<Option<String>>,
    throttle: LoginThrottle,
    /// One password is hashed at a time: a hash takes memory and a core, which the line needs.
    hashing: Semaphore,
    /// Who changes or removes an account has it: two engineers who do it to each other come one after the other.
    changing: tokio::sync::Mutex<()>,
    /// How long a login lasts.
    session: Duration,
    /// Browsers come by TLS, and send the cookie by nothing else.
    secure: bool,
}

impl Accounts {
    /// The accounts of a store; makes the setup code when there is none yet.
    ///
    /// # Errors
    /// The accounts cannot be read.
    pub(crate) fn new(
        store: Arc<Store>,
        sessions: Arc<Sessions>,
        options: &WebOptions,
    ) -> Result<Self, StoreError> {
        // One that cannot be read is an account all the same: nobody else may be the first.
        let code = (!store.has_accounts()?).then(auth::setup_code);
        Ok(Self {
            store,
            sessions,
            setup_code: Mutex::new(code),
            throttle: LoginThrottle::default(),
            hashing: Semaphore::new(1),
            changing: tokio::sync::Mutex::default(),
            session: options.session,
            secure: options.seen_by_tls(),
        })
    }

    /// The code that lets the first account in, while there is none.
    pub(crate) fn setup_code(&self) -> Option<String> {
        self.setup_code.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Login {
    pub name: String,
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Setup {
    /// The one-time code that the first start prints.
    pub code: String,
    pub name: String,
    pub password: String,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct NewAccount {
    /// 1 to 40 letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// 8 to 200 characters. Left out for an account that exists: its password stays.
    pub password: Option<String>,
    /// Any but `model`, which only tokens have.
    pub role: Role,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct NewToken {
    pub name: String,
    /// What the token may do.
    pub role: Role,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    /// Null when nobody is logged in.
    pub name: Option<String>,
    pub role: Option<Role>,
    /// True while the first account is still to be made.
    pub setup: bool,
    pub version: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AccountView {
    pub name: String,
    /// Empty where it cannot be read.
    pub role: String,
    /// As `role`.
    pub created_at: String,
    /// What is stored of it cannot be read: nobody comes in by it until it is made again or removed.
    pub damaged: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    pub name: String,
    pub role: String,
    pub created_at: String,
    pub created_by: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct MadeToken {
    pub name: String,
    /// Shown this once.
    pub token: String,
}

/// Who is asking, and whether the box is new.
#[utoipa::path(get, path = "/api/v1/me", tag = "accounts", security(()), responses((status = 200, body = Me)))]
pub(super) async fn me(
    State(accounts): State<Arc<Accounts>>,
    headers: HeaderMap,
) -> Result<Json<Me>, ApiError> {
    let principal = accounts.sessions.principal(&headers)?;
    let setup = accounts.setup_code().is_some();
    let (name, role) = principal.map_or((None, None), |p| (Some(p.name), Some(p.role)));
    Ok(Json(Me { name, role, setup, version: env!("CARGO_PKG_VERSION") }))
}

/// A person's own new password.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewPassword {
    /// The one until now.
    pub old: String,
    /// 8 to 200 characters.
    pub new: String,
}

/// Makes the first account, an engineer, with the code of the first start.
#[utoipa::path(post, path = "/api/v1/setup", tag = "accounts", security(()), request_body = Setup, responses(
    (status = 200, body = Me), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn setup(
    State(accounts): State<Arc<Accounts>>,
    Extension(home): Extension<Home>,
    Json(body): Json<Setup>,
) -> Result<Response, ApiError> {
    // The code is no account's.
    let attempt = accounts.throttle.attempt("", home)?;
    check_name(&body.name)?;
    check_password(&body.password)?;
    let wrong =
        || ApiError::new(StatusCode::FORBIDDEN, "code", "this is not the code that the start printed");
    let given = body.code.trim().to_uppercase();
    if accounts.setup_code().is_none_or(|code| code != given) {
        return Err(wrong());
    }
    let password_hash = hash(&accounts, body.password).await?;
    // Taken out only now, and only by one: a second request with the same code comes too late.
    let taken = accounts.setup_code.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.ok_or_else(wrong)?;
    put(&accounts, body.name.clone(), Role::Engineer, password_hash).await?;
    accounts.throttle.succeeded(attempt);
    tracing::info!(name = %body.name, "the first account was made");
    Ok(open(&accounts, body.name, Role::Engineer)?.0)
}

/// Opens a session; the cookie is the answer's.
#[utoipa::path(post, path = "/api/v1/login", tag = "accounts", security(()), request_body = Login, responses(
    (status = 200, body = Me), (status = 401, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn login(
    State(accounts): State<Arc<Accounts>>,
    Extension(peer): Extension<Peer>,
    Extension(home): Extension<Home>,
    Json(body): Json<Login>,
) -> Result<Response, ApiError> {
    let attempt = accounts.throttle.attempt(&body.name, home)?;
    let account = accounts.store.account(&body.name)?;
    let known = account.as_ref().map_or_else(|| NOBODY.to_owned(), |a| a.password_hash.clone());
    let wrong = || {
        tracing::warn!(peer = %peer.0, "a login failed");
        ApiError::new(StatusCode::UNAUTHORIZED, "wrong", "name or password is wrong")
    };
    let fits = is_password(&accounts, body.password, known).await?;
    let account = account.filter(|_| fits).ok_or_else(wrong)?;
    let role = Role::parse(&account.role).ok_or_else(wrong)?;
    let (answer, session) = open(&accounts, body.name, role)?;
    // The account may have changed while its password was checked: then what ended its sessions came before
    // this one was there.
    if accounts.store.account(&account.name)?.as_ref() != Some(&account) {
        accounts.store.remove_session(&session)?;
        return Err(wrong());
    }
    accounts.throttle.succeeded(attempt);
    tracing::info!(name = %account.name, peer = %peer.0, "logged in");
    Ok(answer)
}

/// Changes one's own password; one's other sessions end.
#[utoipa::path(post, path = "/api/v1/password", tag = "accounts", request_body = NewPassword, responses(
    (status = 204, description = "changed"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn password(
    State(accounts): State<Arc<Accounts>>,
    Viewer(principal): Viewer,
    Extension(home): Extension<Home>,
    headers: HeaderMap,
    Json(body): Json<NewPassword>,
) -> Result<StatusCode, ApiError> {
    let Some(Credential::Session(session)) = auth::credential(&headers) else {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "person", "a token has no password"));
    };
    check_password(&body.new)?;
    let attempt = accounts.throttle.attempt(&principal.name, home)?;
    let gone = || ApiError::new(StatusCode::CONFLICT, "changed", "the account was changed meanwhile");
    let account = accounts.store.account(&principal.name)?.ok_or_else(gone)?;
    if !is_password(&accounts, body.old, account.password_hash.clone()).await? {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "wrong", "the old password is wrong"));
    }
    accounts.throttle.succeeded(attempt);
    let password_hash = hash(&accounts, body.new).await?;
    if accounts.store.account(&principal.name)?.as_ref() != Some(&account) {
        return Err(gone());
    }
    tracing::info!(name = %principal.name, "password changed");
    let changed = Account { password_hash, ..account };
    blocking(&accounts, move |accounts| {
        accounts.store.put_account(&changed)?;
        Ok(accounts.store.end_sessions_of(&changed.name, Some(&session))?)
    })
    .await?;
    accounts.sessions.publish_change();
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the session.
#[utoipa::path(post, path = "/api/v1/logout", tag = "accounts", responses(
    (status = 204, description = "ended"), (status = 401, body = Problem)))]
pub(super) async fn logout(
    State(accounts): State<Arc<Accounts>>,
    _: Viewer,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(Credential::Session(session)) = auth::credential(&headers) {
        blocking(&accounts, move |accounts| Ok(accounts.store.remove_session(&session)?)).await?;
        accounts.sessions.publish_change();
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(&accounts, "", 0))]).into_response())
}

/// What is stored under the name of an account.
enum Kept {
    Nothing,
    /// What it may do is not known any more: it counts as an engineer where something ends with it, and as none where
    /// somebody must be left who can come in.
    Damaged,
    Account(Account),
}

impl Kept {
    fn find(store: &Store, name: &str) -> Result<Self, StoreError> {
        match store.account(name) {
            Err(StoreError::BadMeta { .. }) => Ok(Self::Damaged),
            found => Ok(found?.map_or(Self::Nothing, Self::Account)),
        }
    }
}

/// All accounts, those that cannot be read behind the others.
#[utoipa::path(get, path = "/api/v1/accounts", tag = "accounts", responses(
    (status = 200, body = [AccountView]), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn accounts(
    State(accounts): State<Arc<Accounts>>,
    _: Engineer,
) -> Result<Json<Vec<AccountView>>, ApiError> {
    let view =
        |a: Account| AccountView { name: a.name, role: a.role, created_at: a.created_at, damaged: false };
    let damaged = |name| AccountView { name, role: String::new(), created_at: String::new(), damaged: true };
    let readable = accounts.store.accounts()?.into_iter().map(view);
    Ok(Json(readable.chain(accounts.store.damaged_accounts()?.into_iter().map(damaged)).collect()))
}

/// Makes an account, or changes its role or password; its sessions end, all but the one that asks. Where the
/// role is lowered, the tokens that it made end.
#[utoipa::path(post, path = "/api/v1/accounts", tag = "accounts", request_body = NewAccount, responses(
    (status = 204, description = "made"), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn put_account(
    State(accounts): State<Arc<Accounts>>,
    Engineer(principal): Engineer,
    headers: HeaderMap,
    Json(body): Json<NewAccount>,
) -> Result<StatusCode, ApiError> {
    check_name(&body.name)?;
    if body.role == Role::Model {
        return Err(ApiError::bad("the role model is for tokens: no account has it"));
    }
    let _turn = accounts.changing.lock().await;
    still_engineer(&accounts, &principal)?;
    let old = Kept::find(&accounts.store, &body.name)?;
    let count =
        || Ok::<_, StoreError>(accounts.store.accounts()?.len() + accounts.store.damaged_accounts()?.len());
    if matches!(old, Kept::Nothing) && count()? >= ACCOUNTS_MAX {
        return Err(ApiError::bad(format!("a box has at most {ACCOUNTS_MAX} accounts")));
    }
    keep_an_engineer(&accounts, &body.name, body.role == Role::Engineer)?;
    let password_hash = match (body.password, &old) {
        (Some(password), _) => {
            check_password(&password)?;
            hash(&accounts, password).await?
        }
        (None, Kept::Account(old)) => old.password_hash.clone(),
        (None, Kept::Nothing) => return Err(ApiError::bad("a new account needs a password")),
        (None, Kept::Damaged) => {
            return Err(ApiError::bad("this account is damaged: made again, it needs a password"));
        }
    };
    let was = match &old {
        Kept::Nothing => None,
        Kept::Damaged => Some(Role::Engineer),
        Kept::Account(account) => Role::parse(&account.role),
    };
    let lowered = was.is_some_and(|role| body.role < role);
    tracing::info!(by = %principal.name, name = %body.name, role = body.role.as_str(), "account changed");
    let name = body.name.clone();
    put(&accounts, body.name, body.role, password_hash).await?;
    // After the change, so that nobody comes in by what it was before.
    let asks = match auth::credential(&headers) {
        Some(Credential::Session(session)) => Some(session),
        _ => None,
    };
    end_access(&accounts, principal, name, asks, lowered).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the sessions of an account but the one that asks and, where it makes none any more, its tokens.
async fn end_access(
    accounts: &Arc<Accounts>,
    by: Principal,
    name: String,
    asks: Option<[u8; 32]>,
    tokens: bool,
) -> Result<(), ApiError> {
    blocking(accounts, move |accounts| {
        accounts.store.end_sessions_of(&name, asks.as_ref())?;
        if tokens {
            let ended = accounts.store.remove_tokens_made_by(&name)?;
            let ended = ended.join(", ");
            tracing::info!(by = %by.name, name, ended, "the tokens that this account made ended with it");
        }
        Ok(())
    })
    .await?;
    accounts.sessions.publish_change();
    Ok(())
}

/// Removes an account and the tokens that it made; its decisions stay in the ledger.
#[utoipa::path(delete, path = "/api/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)), responses(
    (status = 204, description = "removed"), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove_account(
    State(accounts): State<Arc<Accounts>>,
    Engineer(principal): Engineer,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let _turn = accounts.changing.lock().await;
    still_engineer(&accounts, &principal)?;
    if matches!(Kept::find(&accounts.store, &name)?, Kept::Nothing) {
        return Err(ApiError::not_found("there is no such account"));
    }
    keep_an_engineer(&accounts, &name, false)?;
    tracing::info!(by = %principal.name, name, "account removed");
    let removed = name.clone();
    blocking(&accounts, move |accounts| Ok(accounts.store.remove_account(&removed)?)).await?;
    end_access(&accounts, principal, name, None, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "accounts", responses(
    (status = 200, body = [TokenView]), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn tokens(
    State(accounts): State<Arc<Accounts>>,
    _: Engineer,
) -> Result<Json<Vec<TokenView>>, ApiError> {
    let view = |t: Token| TokenView {
        name: t.name,
        role: t.role,
        created_at: t.created_at,
        created_by: t.created_by,
    };
    Ok(Json(accounts.store.tokens()?.into_iter().map(view).collect()))
}

/// Makes a token for a machine.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "accounts", request_body = NewToken, responses(
    (status = 200, body = MadeToken), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn put_token(
    State(accounts): State<Arc<Accounts>>,
    Engineer(principal): Engineer,
    Json(body): Json<NewToken>,
) -> Result<Json<MadeToken>, ApiError> {
    check_name(&body.name)?;
    let tokens = accounts.store.tokens()?;
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
        created_by: principal.name,
    };
    let digest = sha256(token.as_bytes());
    blocking(&accounts, move |accounts| Ok(accounts.store.put_token(&digest, &kept)?)).await?;
    Ok(Json(MadeToken { name: body.name, token }))
}

/// Removes a token, and those that were made with it.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "accounts", params(("name" = String, Path)), responses(
    (status = 204, description = "removed"), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem)))]
pub(super) async fn remove_token(
    State(accounts): State<Arc<Accounts>>,
    Engineer(principal): Engineer,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let there = blocking(&accounts, move |accounts| {
        let there = accounts.store.remove_token(&name)?;
        let ended = accounts.store.remove_tokens_made_by(&format!("token:{name}"))?;
        let ended = ended.join(", ");
        tracing::info!(by = %principal.name, name, ended, "token removed, with those that it made");
        Ok(there)
    });
    if there.await? {
        accounts.sessions.publish_change();
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("there is no such token"))
    }
}

/// One at a time.
async fn on_hasher<T: Send + 'static>(
    accounts: &Arc<Accounts>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let _turn = accounts.hashing.acquire().await.map_err(ApiError::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?
}

async fn is_password(accounts: &Arc<Accounts>, password: String, hash: String) -> Result<bool, ApiError> {
    on_hasher(accounts, move || Ok(password.len() <= 4 * PASSWORD_CHARS_MAX && auth::fits(&password, &hash)))
        .await
}

async fn hash(accounts: &Arc<Accounts>, password: String) -> Result<String, ApiError> {
    on_hasher(accounts, move || auth::hash(&password)).await
}

async fn put(
    accounts: &Arc<Accounts>,
    name: String,
    role: Role,
    password_hash: String,
) -> Result<(), ApiError> {
    let created_at = rfc3339(SystemTime::now());
    let account = Account { name, role: role.as_str().to_owned(), password_hash, created_at };
    blocking(accounts, move |accounts| Ok(accounts.store.put_account(&account)?)).await
}

/// Opens a session: the answer that brings its cookie, and its hash.
fn open(accounts: &Accounts, name: String, role: Role) -> Result<(Response, [u8; 32]), ApiError> {
    let secret = auth::secret();
    let (now, lasts_s) = (accounts.sessions.now(), accounts.session.as_secs());
    let session = Session::new(name.clone(), accounts.session, &now);
    let digest = sha256(secret.as_bytes());
    accounts.store.put_session(&digest, &session, &now)?;
    let me = Me { name: Some(name), role: Some(role), setup: false, version: env!("CARGO_PKG_VERSION") };
    Ok((([(header::SET_COOKIE, set_cookie(accounts, &secret, lasts_s))], Json(me)).into_response(), digest))
}

fn set_cookie(accounts: &Accounts, value: &str, lasts_s: u64) -> String {
    let secure = if accounts.secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}", auth::COOKIE)
}

/// Who waited for a turn may have been removed or demoted meanwhile. Tokens are no accounts.
fn still_engineer(accounts: &Accounts, principal: &Principal) -> Result<(), ApiError> {
    let name = &principal.name;
    let account = accounts.store.account(name)?;
    if name.starts_with("token:") || account.is_some_and(|a| a.role == Role::Engineer.as_str()) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "role", format!("{name} is no engineer any more")))
}

/// Nobody could come in any more to make another.
fn keep_an_engineer(accounts: &Accounts, name: &str, stays: bool) -> Result<(), ApiError> {
    let others =
        accounts.store.accounts()?.iter().any(|a| a.name != name && a.role == Role::Engineer.as_str());
    let kept = Kept::find(&accounts.store, name)?;
    let was = matches!(kept, Kept::Account(a) if a.role == Role::Engineer.as_str());
    if was && !stays && !others {
        return Err(ApiError::new(StatusCode::CONFLICT, "last_engineer", "the last engineer must stay one"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ApiError> {
    auth::check_name(name).map_err(ApiError::bad)
}

fn check_password(password: &str) -> Result<(), ApiError> {
    auth::check_password(password).map_err(ApiError::bad)
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
