//! Who may come in, and what he may do: names and passwords of a file, and, on loopback alone, nobody's name.
//!
//! ```text
//! users_file: one a line, `operator NAME PASSWORD` or `viewer NAME PASSWORD`; `#` begins a comment
//! viewer      reads, subscribes, asks for recipes and results
//! operator    and calls every method
//! ```
//!
//! Invariants:
//! - A password is never sent in the clear: it is taken on endpoints with encryption only.
//! - A wrong password takes [`FAILED_PAUSE`], one after the other, so that nobody guesses many.
//! - The file is read when the server starts, and belongs to nobody but the service.

use async_trait::async_trait;
use opcua::server::authenticator::{
    AuthManager, Password, UserToken, user_pass_security_policy_id, user_pass_security_policy_uri,
};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, ServerEndpoint};
use opcua::types::{Error, NodeId, StatusCode, UAString, UserTokenPolicy, UserTokenType};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Users of one file.
const USERS_MAX: usize = 64;
/// The longest users file.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// How long a wrong password takes; the next one waits for it.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// The id of the policy by which a client comes without a name.
const ANONYMOUS: &str = "anonymous";

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Viewer,
    /// And calls every method.
    Operator,
}

impl Role {
    /// The role of a word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "viewer" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct User {
    role: Role,
    /// sha256 of the password: texts of one length are compared, whatever the password's.
    password: [u8; 32],
}

/// The users of a file.
#[derive(Clone, Debug, Default)]
pub struct Users(BTreeMap<String, User>);

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    /// In words: it cannot be read, others may read it, or a line is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let about = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
        if about.permissions().mode() & 0o007 != 0 {
            return Err(format!("{shown} is open to everybody: chmod 640 {shown}"));
        }
        if about.len() > FILE_BYTES_MAX {
            return Err(format!("{shown}: {} bytes; at most {FILE_BYTES_MAX} are taken", about.len()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::parse(&text).map_err(|why| format!("{shown}: {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, char::is_whitespace);
            let (role, name, password) = (words.next(), words.next(), words.next().map(str::trim));
            let role = role.and_then(Role::parse);
            let (Some(role), Some(name), Some(password)) =
                (role, name.filter(|n| !n.is_empty()), password.filter(|p| !p.is_empty()))
            else {
                return Err(format!(
                    "line {number} is not `operator NAME PASSWORD` or `viewer NAME PASSWORD`"
                ));
            };
            let user = User { role, password: Sha256::digest(password).into() };
            if name == ANONYMOUS_USER_TOKEN_ID || users.insert(name.to_owned(), user).is_some() {
                return Err(format!("line {number}: the name {name} is taken"));
            }
        }
        if users.len() > USERS_MAX {
            return Err(format!("{} users; at most {USERS_MAX} are taken", users.len()));
        }
        Ok(Self(users))
    }

    fn role_of(&self, name: &str, password: &str) -> Option<Role> {
        let given: [u8; 32] = Sha256::digest(password).into();
        self.0.get(name).filter(|user| user.password == given).map(|user| user.role)
    }
}

/// Says whether one more session may have subscriptions; asked before a client comes in.
pub(super) type Room = Arc<dyn Fn() -> bool + Send + Sync>;

/// Decides who comes in.
pub(super) struct Doorman {
    pub users: Users,
    /// What somebody without a name may do, where he may come at all.
    pub anonymous: Option<Role>,
    pub room: Room,
    /// Held while a wrong password is paid for.
    pub paying: Mutex<()>,
}

impl Doorman {
    /// # Errors
    /// `BadTooManySubscriptions`: former sessions have left more behind than there may be.
    fn has_room(&self) -> Result<(), Error> {
        if (self.room)() {
            return Ok(());
        }
        let words = "sessions that are gone have left subscriptions behind, which must expire first";
        tracing::warn!("an OPC UA client is refused: {words}");
        Err(Error::new(StatusCode::BadTooManySubscriptions, words))
    }

    /// Methods that only read.
    fn is_reading(method: &NodeId) -> bool {
        let path = method.identifier.to_string();
        path.rsplit('.').next().is_some_and(|name| name.starts_with("Get"))
    }
}

#[async_trait]
impl AuthManager for Doorman {
    async fn authenticate_anonymous_token(&self, endpoint: &ServerEndpoint) -> Result<(), Error> {
        if self.anonymous.is_none() || !endpoint.user_token_ids.contains(ANONYMOUS_USER_TOKEN_ID) {
            return Err(Error::new(StatusCode::BadIdentityTokenRejected, "a name and a password are needed"));
        }
        self.has_room()
    }

    async fn authenticate_username_identity_token(
        &self,
        endpoint: &ServerEndpoint,
        username: &str,
        password: &Password,
    ) -> Result<UserToken, Error> {
        let is_encrypted = endpoint.security_policy() != opcua::crypto::SecurityPolicy::None;
        if is_encrypted && self.users.role_of(username, password.get()).is_some() {
            self.has_room()?;
            return Ok(UserToken(username.to_owned()));
        }
        let _one_at_a_time = self.paying.lock().await;
        tokio::time::sleep(FAILED_PAUSE).await;
        let shown: String = username.chars().filter(|c| !c.is_control()).take(64).collect();
        tracing::warn!(user = shown, "an OPC UA client is refused: wrong name or password");
        Err(Error::new(StatusCode::BadUserAccessDenied, "wrong name or password"))
    }

    fn is_user_executable(&self, token: &UserToken, method_id: &NodeId) -> bool {
        let role = if token.is_anonymous() {
            self.anonymous
        } else {
            self.users.0.get(&token.0).map(|user| user.role)
        };
        role == Some(Role::Operator) || (role.is_some() && Self::is_reading(method_id))
    }

    fn user_token_policies(&self, endpoint: &ServerEndpoint) -> Vec<UserTokenPolicy> {
        let policy = |policy_id: UAString, token_type, uri| UserTokenPolicy {
            policy_id,
            token_type,
            issued_token_type: UAString::null(),
            issuer_endpoint_url: UAString::null(),
            security_policy_uri: uri,
        };
        if endpoint.user_token_ids.contains(ANONYMOUS_USER_TOKEN_ID) {
            return vec![policy(ANONYMOUS.into(), UserTokenType::Anonymous, UAString::null())];
        }
        let id = user_pass_security_policy_id(endpoint);
        vec![policy(id, UserTokenType::UserName, user_pass_security_policy_uri(endpoint))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_role_a_name_and_a_password() {
        let users = Users::parse("# SCADA\noperator scada two words \n\nviewer  hmi\n");
        let Err(why) = users else { panic!("two spaces before a name are no name") };
        assert!(why.contains("line 4"), "{why}");
        let users = Users::parse("# SCADA\noperator scada two words \nviewer hmi pw\n").unwrap();
        assert_eq!(users.role_of("scada", "two words"), Some(Role::Operator));
        assert_eq!(users.role_of("hmi", "pw"), Some(Role::Viewer));
        for (name, password) in [("hmi", "PW"), ("hmi", ""), ("nobody", "pw"), ("scada", "two")] {
            assert_eq!(users.role_of(name, password), None, "{name} {password}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        for (text, words) in [
            ("admin a b", "line 1 is not"),
            ("viewer a", "line 1 is not"),
            ("viewer a b\noperator a c", "line 2: the name a is taken"),
        ] {
            let why = Users::parse(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, "operator a b\n").unwrap();
        for (mode, is_fine) in [(0o644, false), (0o640, true), (0o600, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Users::read(&path).is_ok(), is_fine, "{mode:o}");
        }
        assert!(Users::read(&dir.path().join("none")).is_err());
    }

    #[test]
    fn methods_that_read_are_those_that_get() {
        let id = |path: &str| NodeId::new(3, path.to_owned());
        assert!(Doorman::is_reading(&id("cam1.ResultManagement.GetResultById")));
        assert!(!Doorman::is_reading(&id("Get.VisionStateMachine.Halt")));
    }
}
