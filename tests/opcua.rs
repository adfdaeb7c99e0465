//! OPC UA: the real binary, asked by asyncua, which is no code of ours.
//!
//! ```text
//! opcua_client.py COMMAND --opc.tcp--> inspectd run (simulated cameras, the shipped model) --> one line of JSON
//! ```

#[path = "common/broker.rs"]
#[allow(dead_code, reason = "no broker answers here")]
mod broker;
#[path = "common/config.rs"]
mod config;
#[path = "common/node.rs"]
mod node;
#[path = "common/peers.rs"]
mod peers;
#[path = "common/station.rs"]
#[allow(dead_code, reason = "nothing is published here")]
mod station;

use broker::until;
use serde_json::{Value, json};
use station::{Station, signal, wait};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};

/// Parts of the test of jobs.
const PARTS: usize = 20;
/// Resident memory that a daemon may grow by while a client subscribes and never reads.
const GROWTH_KB: u64 = 64 * 1024;

const USERS: &str = "operator scada the password\nviewer hmi only reads\n";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A station with a camera that takes triggers, one that runs by itself, and the server with these keys.
fn station(keys: &str) -> (Station, u16) {
    let port = free_port();
    let camera = |id: &str, trigger: &str| {
        format!(
            "[[camera]]\nid = \"{id}\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\nwidth_px = 256\n\
             height_px = 256\ntrigger = {{ {trigger} }}\n"
        )
    };
    let cameras = camera("cam1", "on = \"command\"") + &camera("free", "interval_ms = 600000");
    // No broker answers: what is owed to it waits in the outbox.
    let station =
        Station::new(free_port(), &format!("{cameras}[opcua]\nlisten = \"127.0.0.1:{port}\"\n{keys}"));
    (station, port)
}

const ANYBODY: &str = "anonymous = \"operator\"\n";

fn client(command: &str, port: u16, arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/opcua_client.py");
    let mut client = Command::new(peers::python());
    client.arg(script).arg(command).arg(format!("opc.tcp://127.0.0.1:{port}/")).args(arguments);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    client
}

/// What a client says at its end.
async fn ask(command: &str, port: u16, arguments: &[&str]) -> Value {
    let said = client(command, port, arguments).output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{command}: {text}");
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// A client that goes on, and the first line that it says.
async fn begin(command: &str, port: u16, arguments: &[&str]) -> (Child, Value) {
    let mut child = client(command, port, arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("it says something");
    (child, serde_json::from_str(&line).unwrap())
}

async fn listening(port: u16) {
    until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_is_a_vision_system_that_anybody_can_browse() {
    let (station, port) = station(ANYBODY);
    let _daemon = station.start();
    listening(port).await;
    let said = ask("browse", port, &[]).await;
    for camera in ["cam1", "free"] {
        let found = &said["found"][camera];
        assert_eq!(found[0], "VisionSystemType", "{said}");
        let children =
            ["Alarms", "RecipeManagement", "ResultManagement", "SystemState", "VisionStateMachine"];
        assert_eq!(found[1], json!(children), "{said}");
    }
    assert_eq!(said["numbers"], json!([4, 6]), "Operational and Ready, by the standard's numbers");
    assert_eq!(said["recipe"], "examples-defects");
    assert_eq!(said["type"], "VisionSystemType", "the types can be browsed, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_has_the_result_of_its_own_part() {
    let (station, port) = station(ANYBODY);
    let _daemon = station.start();
    listening(port).await;
    let said = ask("jobs", port, &[&PARTS.to_string()]).await;
    let of = |key: &str| serde_json::from_value::<BTreeMap<String, String>>(said[key].clone()).unwrap();
    let started = of("started");
    assert_eq!(started.len(), PARTS);
    assert_eq!(of("by_event"), started, "ResultReady of each part has the id of its job");
    assert_eq!(of("by_record"), started, "and so has its record");
    assert!(of("meas").iter().all(|(part, meas)| *meas == format!("meas {part}")), "{said}");
    for content in said["contents"].as_array().unwrap() {
        let verdict = content[0].as_str().unwrap();
        assert!(["pass", "fail", "review"].contains(&verdict), "{content}");
        let findings: Value = serde_json::from_str(content[3].as_str().unwrap()).unwrap();
        assert!(findings.is_array(), "{content}");
    }
    assert_eq!(said["newest"][0], format!("part {}", PARTS - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_walk_through_the_states_of_the_standard() {
    let (station, port) = station(ANYBODY);
    let _daemon = station.start();
    listening(port).await;
    let said = ask("machine", port, &[]).await;
    for (key, expected) in [
        ("halt", json!(0)),
        ("halted", json!("Halted")),
        ("halt again", json!("BadInvalidState")),
        ("job while halted", json!("BadInvalidState")),
        ("reset", json!(0)),
        ("prepared", json!(["photo", true, 0])),
        ("active", json!("photo")),
        ("no recipe", json!("BadNotFound")),
        ("stop", json!("BadInvalidState")),
        ("free running", json!("ContinuousExecution")),
        ("job while free running", json!("BadInvalidState")),
    ] {
        assert_eq!(said[key], expected, "{key}: {said}");
    }
    let walk = [
        "OperationalToHalted",
        "HaltedToPreoperational",
        "PreoperationalToInitializedAuto",
        "InitializedToReadyAuto",
    ];
    assert_eq!(said["walk"], json!(walk), "{said}");
}

/// The same of a second client, which shares no code with the first.
#[ignore = "needs Node.js: make test-node"]
#[tokio::test(flavor = "multi_thread")]
async fn node_opcua_has_the_result_of_each_of_its_jobs() {
    let (station, port) = station(ANYBODY);
    let _daemon = station.start();
    listening(port).await;
    let said = node::ask("opcua", &[&format!("opc.tcp://127.0.0.1:{port}/"), "5"]).await;
    assert_eq!(said["started"].as_object().unwrap().len(), 5, "{said}");
    assert_eq!(said["heard"], said["started"], "each event has the job of its part");
    assert_eq!(said["state"], "Operational");
    let verdicts = said["verdicts"].as_array().unwrap();
    assert!(verdicts.iter().all(|v| ["pass", "fail", "review"].contains(&v.as_str().unwrap())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_in_the_order_in_which_it_happens() {
    let (station, port) = station(ANYBODY);
    let _daemon = station.start();
    listening(port).await;
    let said = ask("sequence", port, &["5"]).await;
    let said = said.as_object().unwrap();
    assert_eq!(said.len(), 5);
    for (part, events) in said {
        assert_eq!(*events, json!(["JobStarted", "AcquisitionDone", "ResultReady", "Ready"]), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_is_given_the_alarms_that_stand() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("triggers");
    std::fs::create_dir(&folder).unwrap();
    let (station, port) = station(&format!("{ANYBODY}[trigger]\ndir = \"{}\"\n", folder.display()));
    let _daemon = station.start();
    listening(port).await;
    let said = ask("conditions", port, &[&folder.display().to_string()]).await;
    let condition = json!(["Condition", "trigger_folder", true, true]);
    let around = |kind: &str| json!([kind, null, null, null]);
    assert_eq!(said["refreshed"], json!([around("RefreshStart"), condition, around("RefreshEnd")]), "{said}");
    let one = json!([["RefreshStart", null], ["Condition", "trigger_folder"], ["RefreshEnd", null]]);
    assert_eq!(said["one"], one, "{said}");
    assert_eq!(said["no subscription"], "BadSubscriptionIdInvalid", "{said}");
    assert_eq!(said["no item"], "BadMonitoredItemIdInvalid", "{said}");
    assert_eq!(said["over"], json!(["Condition", "trigger_folder", false, false]), "{said}");
    let id = "cam1.Alarms.trigger_folder";
    assert_eq!(said["ids"], json!([id, id]), "its end has the id of its beginning");
}

/// The certificate that the server has refused.
fn refused(rejected: &Path) -> Option<PathBuf> {
    std::fs::read_dir(rejected).ok()?.next()?.ok().map(|entry| entry.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_stays_out_and_a_viewer_commands_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, USERS).unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (station, port) = station(&format!("users_file = \"{}\"\n", users.display()));
    let _daemon = station.start();
    listening(port).await;
    let pki = dir.path().join("client");
    std::fs::create_dir(&pki).unwrap();
    let pki = pki.display().to_string();
    let enter = |policy: &'static str, mode: &'static str, user: &'static str, password: &'static str| {
        let pki = pki.clone();
        async move { ask("secure", port, &[pki.as_str(), policy, mode, user, password]).await }
    };
    let operator = ("scada", "the password");
    let stranger = enter("basic", "SignAndEncrypt", operator.0, operator.1).await;
    assert!(stranger["refused"].is_string(), "its certificate is not known: {stranger}");
    let ground = station.dir.path().join("store/opcua");
    let certificate = refused(&ground.join("rejected")).expect("it is kept, for somebody to trust");
    let name = certificate.file_name().unwrap();
    std::fs::rename(&certificate, ground.join("trusted").join(name)).unwrap();
    for (policy, mode) in [("basic", "SignAndEncrypt"), ("basic", "Sign"), ("pss", "SignAndEncrypt")] {
        let known = enter(policy, mode, operator.0, operator.1).await;
        assert_eq!(known, json!({"reads": "Ready", "halts": "Good"}), "{policy} {mode}");
    }
    let viewer = enter("basic", "SignAndEncrypt", "hmi", "only reads").await;
    assert_eq!(viewer, json!({"reads": "Ready", "halts": "BadUserAccessDenied"}));
    let wrong = enter("basic", "SignAndEncrypt", "scada", "a guess").await;
    assert_eq!(wrong, json!({"refused": "BadUserAccessDenied"}));
    let nobody = client("browse", port, &[]).stderr(Stdio::null()).output().await.unwrap();
    assert!(!nobody.status.success(), "without a certificate nobody comes in");
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_or_never_read_leave_a_server_that_serves() {
    let (station, port) =
        station(&format!("{ANYBODY}sessions = 3\nsubscriptions = 2\nmonitored_items = 50\n"));
    let daemon = station.start();
    listening(port).await;
    ask("browse", port, &[]).await;
    let before = resident_kb(daemon.id());
    let said = ask("hang", port, &["51"]).await;
    assert_eq!(said["refused"], "BadTooManyMonitoredItems", "a subscription has so many as the config says");
    let (hanging, said) = begin("hang", port, &["50"]).await;
    assert_eq!(said["items"], 50);
    let (mut vanishing, _) = begin("hang", port, &["50"]).await;
    vanishing.kill().await.unwrap();
    let said = ask("jobs", port, &["5"]).await;
    assert_eq!(said["started"], said["by_event"], "others are served as before");
    let grown = resident_kb(daemon.id()).saturating_sub(before);
    assert!(grown < GROWTH_KB, "{grown} KB more than before");
    drop(hanging);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_what_they_leave_behind_have_a_limit() {
    let (station, port) = station(&format!("{ANYBODY}sessions = 3\nsubscriptions = 2\n"));
    let _daemon = station.start();
    listening(port).await;
    let said = ask("sessions", port, &["5"]).await;
    assert_eq!(said, json!({"let in": 3, "refused": "BadTooManySessions"}));
    let said = ask("leave", port, &["20"]).await;
    assert_eq!(
        said,
        json!({"left": 6, "refused": "BadTooManySubscriptions"}),
        "sessions times subscriptions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_have_a_limit_before_anybody_says_a_word() {
    let keys = format!("{ANYBODY}sessions = 3\nconnections = 20\nconnections_per_address = 3\n");
    let (station, port) = station(&keys);
    let _daemon = station.start();
    listening(port).await;
    let connect = |last: u8| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap()
    };
    // The server closes who says nothing, so there are always new ones.
    let mut held = Vec::new();
    while !station.log().contains("connections_per_address from there already") {
        assert!(held.len() < 1000, "nobody was turned away");
        held.push(connect(2).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut refused = held.pop().unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is closed");
    // Whoever comes from elsewhere has a place.
    let said = ask("sessions", port, &["3"]).await;
    assert_eq!(said, json!({"let in": 3, "refused": null}));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_kill_9_and_its_client_finds_it_again() {
    let (station, port) = station(ANYBODY);
    let mut daemon = station.start();
    listening(port).await;
    let (_client, said) = begin("follow", port, &["1"]).await;
    let job = said["job"].as_str().unwrap().to_owned();
    signal(daemon.id(), libc::SIGKILL);
    wait(&mut daemon, "it is dead").await;
    let mut daemon = station.start();
    let said = ask("found", port, &[&job]).await;
    assert_eq!(said["parts"], json!(["the last"]), "one result, of its own part");
    assert_eq!(said["meas"], json!(["meas the last"]), "under the name that the client gave it");
    // A measurement that nobody named has the number of its record, which goes on.
    let said = ask("goes_on", port, &["second", "meas the last"]).await;
    let second = record(&said);
    assert!(said["found"] == json!(["the last"]) && second > 1, "{said}");
    let said = ask("goes_on", port, &["third", &format!("record {second}")]).await;
    assert!(said["found"] == json!(["second"]) && record(&said) > second, "{said}");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "it has ended").await.success(), "{}", station.log());
}

/// The number in the name of a job's only measurement.
fn record(said: &Value) -> u64 {
    assert_eq!(said["meas"].as_array().map(Vec::len), Some(1), "{said}");
    said["meas"][0].as_str().unwrap().strip_prefix("record ").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_section_is_named_before_the_start() {
    let check = |station: &Station| {
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_inspectd"));
        let said = check.arg("check").arg("--config").arg(station.config()).output().unwrap();
        assert!(!said.status.success());
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
    };
    let (taken, port) = station(ANYBODY);
    let _other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let said = check(&taken);
    assert!(said.contains("opcua.listen") && said.contains("is taken"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, USERS).unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (open, _) = station(&format!("users_file = \"{}\"\n", users.display()));
    let said = check(&open);
    assert!(said.contains("opcua.users_file") && said.contains("is open to everybody"), "{said}");
    let (broken, _) = station(ANYBODY);
    let own = broken.dir.path().join("store/opcua/own");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("cert.der"), "none").unwrap();
    let said = check(&broken);
    assert!(said.contains("cert.der"), "{said}");
}
