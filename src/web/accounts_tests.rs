//! Tests of accounts that cannot be read.

use super::*;
use crate::clock::Clock;
use crate::store::StoreOptions;
use std::path::Path;

fn over(store: &Arc<Store>, dir: &Path) -> Accounts {
    let options = WebOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        hosts: vec![],
        public_url: None,
        certificate: None,
        state_dir: dir.to_owned(),
        session: Duration::from_hours(1),
        open_metrics: false,
        model_api: false,
    };
    let sessions = Sessions::new(Arc::clone(store), Clock::system()).expect("sessions");
    Accounts::new(Arc::clone(store), Arc::new(sessions), &options).expect("accounts")
}

#[test]
fn a_damaged_account_is_there_and_nobody_comes_in_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap());
    for name in ["anna", "ben"] {
        let (name, role) = (name.to_owned(), Role::Engineer.as_str().to_owned());
        let account = Account { name, role, password_hash: "hash".into(), created_at: String::new() };
        store.put_account(&account).unwrap();
    }
    let accounts = over(&store, dir.path());
    assert!(keep_an_engineer(&accounts, "anna", false).is_ok(), "ben is left");
    store.damage_account("ben");
    assert!(matches!(Kept::find(&store, "anna").unwrap(), Kept::Account(_)));
    assert!(matches!(Kept::find(&store, "ben").unwrap(), Kept::Damaged));
    assert!(matches!(Kept::find(&store, "carla").unwrap(), Kept::Nothing));
    // Nobody could come in any more to make another.
    assert!(keep_an_engineer(&accounts, "anna", false).is_err());
    assert!(keep_an_engineer(&accounts, "ben", false).is_ok(), "it may go");
}
