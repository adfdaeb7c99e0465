//! The local door: commands beside a running daemon, and commands of root on a service's store.

use super::broker::{Broker, Subscriber, until};
use super::inspections::inspection;
use super::station::{PREFIX, Station, signal, wait};
use inspectd::store::{Store, StoreOptions};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Nobody's and nothing's.
const UID: u32 = 54_321;

pub(crate) fn inspectd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inspectd")).args(args).output().unwrap()
}

pub(crate) fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

/// All files and folders below a folder, and itself.
fn all(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all(&path));
        } else {
            found.push(path);
        }
    }
    found
}

pub(crate) fn filled(dir: &Path, parts: u64) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let bytes = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png"),
    );
    let bytes = bytes.unwrap();
    for n in 1..=parts {
        let image = store.put_image(&bytes, "png").unwrap();
        store.commit(&inspection(n), Some(image)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_export_work_beside_a_running_daemon() {
    let station = Station::new(
        1,
        "[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\nwidth_px = 1224\nheight_px = 1024\n",
    );
    let config = station.config().display().to_string();
    let mut daemon = station.start();
    until("the daemon has opened its door", || station.dir.path().join("store/control").exists()).await;
    let verify = || {
        let out = inspectd(&["verify", "--config", &config, "--json"]);
        assert!(out.status.success(), "{out:?} {}", station.log());
        json(&out)
    };
    let mut found = verify();
    until("two parts are inspected", || {
        found = verify();
        found["inspections"].as_u64().unwrap() >= 2
    })
    .await;
    assert_eq!((found["gaps"].as_u64(), &found["broken_at"]), (Some(0), &Value::Null));
    assert!(found["pictures"]["files"].as_u64().unwrap() >= 2, "{found}");
    let out_dir = station.dir.path().join("out");
    let out = inspectd(&[
        "export",
        "--config",
        &config,
        "--all",
        "--out",
        &out_dir.display().to_string(),
        "--json",
    ]);
    assert!(out.status.success(), "{out:?}");
    let summary = json(&out);
    assert!(summary["written"].as_u64().unwrap() >= 2 && summary["written"] == summary["total"], "{summary}");
    let truth = std::fs::read_to_string(out_dir.join("truth.jsonl")).unwrap();
    for line in truth.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(out_dir.join(line["file"].as_str().unwrap()).exists(), "{line}");
    }
    let categories = |name: &str| {
        let out_dir = station.dir.path().join(name);
        let out = inspectd(&[
            "export",
            "--config",
            &config,
            "--all",
            "--format",
            "coco",
            "--pipeline",
            "examples-defects",
            "--out",
            &out_dir.display().to_string(),
        ]);
        assert!(out.status.success(), "{out:?}");
        let coco: Value = serde_json::from_slice(&std::fs::read(out_dir.join("coco.json")).unwrap()).unwrap();
        let of = |c: &Value| (c["id"].as_u64().unwrap(), c["name"].as_str().unwrap().to_owned());
        coco["categories"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    // As the recipe's file has them, whatever was found.
    let labels = ["scratch", "dent", "crack", "pit", "stain", "chip", "misprint", "missing_screw"];
    let of_recipe: Vec<(u64, String)> = (1..).zip(labels.map(str::to_owned)).collect();
    assert_eq!(categories("coco-beside"), of_recipe);
    assert!(daemon.try_wait().unwrap().is_none(), "the daemon still runs");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "it drains").await.success());
    assert!(!station.dir.path().join("store/control").exists());
    assert!(verify()["inspections"].as_u64() >= found["inspections"].as_u64(), "and without it, too");
    assert_eq!(categories("coco-without"), of_recipe);
}

#[test]
fn root_leaves_no_file_of_its_own_in_the_store_of_a_service() {
    // SAFETY: it cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("not run: only root can give files away");
        return;
    }
    // Its parent lets nobody else pass, as /var/lib/private does.
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("store");
    filled(&dir, 3);
    for path in all(&dir) {
        chown(path, Some(UID), Some(UID)).unwrap();
    }
    let store = dir.display().to_string();
    let out = inspectd(&["verify", "--store", &store, "--json"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(json(&out)["inspections"], 3);
    let out_dir = top.path().join("out");
    let out = inspectd(&["export", "--store", &store, "--all", "--out", &out_dir.display().to_string()]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(std::fs::read_to_string(out_dir.join("truth.jsonl")).unwrap().lines().count(), 3);
    for path in all(&dir) {
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), UID, "{}", path.display());
    }
    // A user who is neither: refused, and told how.
    let binary = top.path().join("inspectd");
    std::fs::copy(env!("CARGO_BIN_EXE_inspectd"), &binary).unwrap();
    for open in [top.path(), &dir] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let other = Command::new(&binary).uid(UID + 1).args(["verify", "--store", &store]).output().unwrap();
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("sudo -u"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_an_alarm_and_an_exit_code_of_its_own() {
    let broker = Broker::start("", "").await;
    let station = Station::new(
        broker.port,
        "[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\ncount = 2\nwidth_px = 1224\nheight_px = 1024\n",
    );
    assert!(wait(&mut station.start(), "two parts are inspected").await.success(), "{}", station.log());
    // What lies in the middle of the database's file is lost; its end says that more was there.
    let ledger = station.dir.path().join("store/ledger");
    let db = std::fs::read(ledger.join("db")).unwrap();
    for entry in std::fs::read_dir(&ledger).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap")) {
            std::fs::write(path, b"nothing that sled has written").unwrap();
        }
    }
    std::fs::write(ledger.join("db"), vec![0xa5; db.len()]).unwrap();
    let subscriber = Subscriber::new(broker.port, PREFIX).await;
    let status = wait(&mut station.start(), "it gives up").await;
    assert_eq!(status.code(), Some(65), "{}", station.log());
    until("the plant was told", || {
        let alarm = subscriber.newest("st10/alarm/store_damaged");
        let camera = subscriber.newest("st10/camera/cam1/status");
        alarm.is_some_and(|a| {
            a["state"] == "raised" && a["message"].as_str().unwrap().contains("inspectd salvage")
        }) && camera.is_some_and(|c| c["state"] == "fault")
    })
    .await;
    // Whoever subscribes later learns of it, too.
    let late = Subscriber::new(broker.port, PREFIX).await;
    until("it is retained", || late.newest("st10/alarm/store_damaged").is_some()).await;
    let unit = include_str!("../../systemd/inspectd.service");
    assert!(unit.contains("\nRestartPreventExitStatus=78 65\n"), "systemd does not restart it");
    // With another store the alarm goes.
    std::fs::remove_dir_all(station.dir.path().join("store")).unwrap();
    assert!(wait(&mut station.start(), "it inspects again").await.success(), "{}", station.log());
    until("the alarm is cleared", || {
        subscriber.newest("st10/alarm/store_damaged").is_some_and(|a| a["state"] == "cleared")
    })
    .await;
}
