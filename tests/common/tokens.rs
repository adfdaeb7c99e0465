//! Tokens of programs, one of each role.

use inspectd::store::Store;
use inspectd::store::accounts::Token;
use inspectd::store::images::sha256;
use inspectd::web::auth::Role;

/// The token of a role.
pub(crate) fn token(role: Role) -> String {
    format!("ispd_test_{}", role.as_str())
}

/// The header that sends it.
pub(crate) fn bearer(role: Role) -> String {
    format!("Authorization: Bearer {}", token(role))
}

/// Keeps it in a store, as its engineer would have made it.
pub(crate) fn put(store: &Store, role: Role) {
    let (name, role_name) = (role.as_str().to_owned(), role.as_str().to_owned());
    let (created_at, created_by) = ("2026-01-01T00:00:00.000Z".into(), "test".into());
    let kept = Token { name, role: role_name, created_at, created_by };
    store.put_token(&sha256(token(role).as_bytes()), &kept).unwrap();
}
