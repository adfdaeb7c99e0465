//! Backups beside the running daemon, and runs that are killed at any moment.

use super::broker::until;
use super::control::{filled, inspectd, json};
use super::station::{Station, signal, wait};
use inspectd::store::{Store, StoreOptions};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn run(args: &[&str], dirs: &[(&str, &Path)]) -> Output {
    let mut all: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    for (flag, dir) in dirs {
        all.extend([(*flag).to_owned(), dir.display().to_string()]);
    }
    inspectd(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_taken_while_the_line_runs_and_becomes_a_store() {
    let station = Station::new(
        1,
        "[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\nwidth_px = 1224\nheight_px = 1024\n",
    );
    let config = station.config();
    let top = tempfile::tempdir().unwrap();
    let [to, new] = ["backup", "new"].map(|name| top.path().join(name));
    let mut daemon = station.start();
    until("the daemon has opened its door", || station.dir.path().join("store/control").exists()).await;
    let take = || {
        let out = run(&["backup", "--json"], &[("--config", &config), ("--to", &to)]);
        assert!(out.status.success(), "{out:?} {}", station.log());
        json(&out)
    };
    let mut held = 0;
    let mut runs = Vec::new();
    until("backups have grown three times", || {
        let report = take();
        held += report["inspections"].as_u64().unwrap();
        assert_eq!(report["through"].as_u64(), Some(held), "each holds only what is new");
        if report["inspections"] != 0 {
            runs.push(report);
        }
        runs.len() >= 3
    })
    .await;
    assert!(daemon.try_wait().unwrap().is_none(), "the line runs");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "it drains").await.success());
    held += take()["inspections"].as_u64().unwrap();
    let out = run(&["restore", "--json"], &[("--from", &to), ("--to", &new)]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!((json(&out)["inspections"].as_u64(), json(&out)["owed"].as_u64()), (Some(held), Some(held)));
    let found = |dir: &Path| {
        let out = run(&["verify", "--json"], &[("--store", dir)]);
        assert!(out.status.success(), "{out:?}");
        let mut found = json(&out);
        found["pictures"]["resumable_after"] = Value::Null;
        found
    };
    assert_eq!(found(&new), found(&station.dir.path().join("store")));
}

/// Kills a command after longer and longer moments, until it has ended by itself.
fn kill_at_moments(args: &[&str], dirs: &[(&str, &Path)], mut after: impl FnMut(bool)) {
    for moment in 0.. {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        for (flag, dir) in dirs {
            command.arg(flag).arg(dir);
        }
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4 * moment));
        let ended = child.try_wait().unwrap().is_some_and(|status| status.success());
        let _ = child.kill();
        child.wait().unwrap();
        after(ended);
        if ended {
            return;
        }
    }
}

#[test]
fn a_killed_backup_leaves_the_store_whole_and_is_recognisably_unfinished() {
    let top = tempfile::tempdir().unwrap();
    let [store, to] = ["store", "backup"].map(|name| top.path().join(name));
    filled(&store, 60);
    let mut unfinished = 0;
    let mut tries = 0;
    kill_at_moments(&["backup"], &[("--store", &store), ("--to", &to)], |_| {
        assert!(run(&["verify"], &[("--store", &store)]).status.success(), "the store is whole");
        tries += 1;
        let new = top.path().join(format!("new{tries}"));
        let out = run(&["restore"], &[("--from", &to), ("--to", &new)]);
        if to.join("backup.json").exists() {
            // What was finished is whole; the marker goes last.
            assert!(out.status.success(), "{out:?}");
        } else {
            unfinished += 1;
            assert!(!out.status.success() && !new.exists(), "{out:?}");
        }
    });
    assert!(unfinished > 0, "at the first moments nothing is finished");
    assert!(!to.join("unfinished").exists());
}

#[test]
fn a_killed_restore_is_never_taken_for_a_store() {
    let top = tempfile::tempdir().unwrap();
    let [store, to] = ["store", "backup"].map(|name| top.path().join(name));
    filled(&store, 60);
    assert!(run(&["backup"], &[("--store", &store), ("--to", &to)]).status.success());
    let new = top.path().join("new");
    kill_at_moments(&["restore"], &[("--from", &to), ("--to", &new)], |ended| {
        if new.join("ledger").exists() {
            match Store::open(&new, StoreOptions::default()) {
                Ok(store) => assert_eq!(store.verify().unwrap().inspections, 60),
                Err(error) => assert!(error.to_string().contains("not finished"), "{error}"),
            }
        }
        if !ended && new.exists() {
            std::fs::remove_dir_all(&new).unwrap();
        }
    });
    let store = Store::open(&new, StoreOptions::default()).unwrap();
    assert_eq!((store.verify().unwrap().inspections, store.verify().unwrap().broken_at), (60, None));
}

#[test]
fn a_salvage_makes_a_store_of_what_is_left() {
    let top = tempfile::tempdir().unwrap();
    let [store, new] = ["store", "new"].map(|name| top.path().join(name));
    filled(&store, 40);
    // A stretch in the middle of the database is lost.
    let db = store.join("ledger/db");
    let mut bytes = std::fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[used / 3..used / 3 + 512].fill(0x5a);
    std::fs::write(&db, bytes).unwrap();
    let out = run(&["salvage", "--json"], &[("--from", &store), ("--to", &new)]);
    let report = json(&out);
    assert_eq!(report["last_seq"], 40, "{report}");
    let lost: u64 = report["lost"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap() + 1)
        .sum();
    assert_eq!(report["inspections"].as_u64().unwrap() + lost, 40, "each number is saved or named: {report}");
    let verified = json(&run(&["verify", "--json"], &[("--store", &new)]));
    assert_eq!((verified["gaps"].as_u64(), &verified["broken_at"]), (Some(lost), &Value::Null), "{verified}");
    assert_eq!(out.status.success(), lost == 0 && report["damaged"] == serde_json::json!({}));
}
