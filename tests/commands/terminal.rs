//! What people do and see at the terminal of the box: a lost password, the doctor, the log when the broker goes away,
//! folders that nobody has made.

use super::{Plc, SIMULATOR, camera};
use crate::broker::{Broker, until};
use crate::http;
use crate::station::{Station, signal, wait};
use inspectd::store::accounts::Account;
use inspectd::web::auth;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const FIRST: &str = "correct horse";

/// A command on a station's config, with a line on its standard input.
fn on(station: &Station, words: &[&str], line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(words).arg("--config").arg(station.config());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that is refused reads nothing.
    let _ = writeln!(stdin, "{line}");
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn log_in(page: SocketAddr, name: &str, password: &str) -> http::Answer {
    let body = json!({ "name": name, "password": password }).to_string();
    http::ask(page, "POST", "/api/v1/login", &[], &body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_password_is_reset_at_the_terminal_beside_the_daemon_and_without_it() {
    let broker = Broker::start("", "").await;
    let page = free_address();
    let sections = format!("{}[web]\nlisten = \"{page}\"\n", camera("cam1", SIMULATOR));
    let station = Station::new(broker.port, &sections);
    let account = Account {
        name: "anna".into(),
        role: "engineer".into(),
        password_hash: auth::hash(FIRST).unwrap_or_else(|_| panic!("it is hashed")),
        created_at: "2026-01-01T00:00:00.000Z".into(),
    };
    station.store().put_account(&account).unwrap();
    let mut daemon = station.start();
    until("the page answers", || TcpStream::connect(page).is_ok()).await;
    let before = log_in(page, "anna", FIRST);
    assert_eq!(before.status, 200);
    let cookie = format!("Cookie: {}", before.header("set-cookie").unwrap().split(';').next().unwrap());
    let is_in = || http::ask(page, "GET", "/api/v1/accounts", &[&cookie], "").status == 200;
    assert!(is_in());

    let unknown = on(&station, &["account", "reset", "bert"], "the second one");
    assert!(!unknown.status.success());
    assert!(
        text(&unknown.stderr).contains("there is no account bert; there are anna"),
        "{}",
        text(&unknown.stderr)
    );
    let short = on(&station, &["account", "reset", "anna"], "short");
    assert!(text(&short.stderr).contains("8 to 200 characters"), "{}", text(&short.stderr));
    assert!(is_in(), "what is refused changes nothing");

    let done = on(&station, &["account", "reset", "anna"], "the second one");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("anna (engineer) has a new password"), "{}", text(&done.stdout));
    assert!(!is_in(), "the sessions have ended");
    assert_eq!(
        (log_in(page, "anna", FIRST).status, log_in(page, "anna", "the second one").status),
        (401, 200)
    );
    let said = |line: &str| line.contains("WARN") && line.contains("a password was reset at the terminal");
    assert!(station.log().lines().any(said), "{}", station.log());

    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let made = on(&station, &["account", "reset", "carl", "--engineer", "--generate"], "");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let printed = text(&made.stdout);
    let code = printed.lines().last().unwrap();
    let _daemon = station.start();
    until("the page answers again", || TcpStream::connect(page).is_ok()).await;
    assert_eq!(log_in(page, "carl", code).status, 200, "{printed}");
}

fn doctor(station: &Station) -> (Option<i32>, Value) {
    let out = on(station, &["doctor", "--json"], "");
    let json = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)));
    (out.status.code(), json)
}

/// The lines about one thing.
fn about<'a>(found: &'a Value, what: &str) -> Vec<&'a Value> {
    found["lines"].as_array().unwrap().iter().filter(|line| line["what"] == what).collect()
}

/// A broker that answers one CONNECT with these bytes.
fn answers_once(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut packet = [0; 1024];
        assert!(stream.read(&mut packet).unwrap() > 0);
        stream.write_all(bytes).unwrap();
        // Until the other side has gone.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_of_each_thing_how_it_is_and_what_to_do() {
    let mut broker = Broker::start("", "").await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let (code, well) = doctor(&station);
    assert_eq!((code, &well["ok"]), (Some(0), &json!(true)), "{well}");
    for what in [
        "cpu",
        "config",
        "memory",
        "disk",
        "disk speed",
        "clock",
        "model",
        "store",
        "daemon",
        "camera",
        "page",
        "secrets",
    ] {
        assert!(!about(&well, what).is_empty(), "{what}: {well}");
    }
    let of_broker = about(&well, "broker")[0];
    assert!(
        of_broker["state"] == "ok" && of_broker["found"].as_str().unwrap().contains("lets us in"),
        "{well}"
    );
    for line in well["lines"].as_array().unwrap() {
        assert_eq!(line["state"] == "ok", line["todo"] == "", "what is not well says what to do: {line}");
    }

    broker.kill();
    let (code, away) = doctor(&station);
    let of_broker = about(&away, "broker")[0];
    assert_eq!((code, &away["ok"], &of_broker["state"]), (Some(1), &json!(false), &json!("fail")), "{away}");
    assert!(of_broker["found"].as_str().unwrap().contains("does not answer"), "{away}");

    // CONNACK of MQTT 5: not authorized, no properties.
    let port = answers_once(&[0x20, 3, 0, 0x87, 0]);
    station.edit(&format!(":{}\"", broker.port), &format!(":{port}\""));
    let (_, refused) = doctor(&station);
    let of_broker = about(&refused, "broker")[0];
    assert!(of_broker["found"].as_str().unwrap().contains("we are not allowed (code 135)"), "{refused}");

    station.edit("[store]", "[stor]");
    let (code, broken) = doctor(&station);
    let config = about(&broken, "config")[0];
    assert_eq!((code, &config["state"]), (Some(1), &json!("fail")), "{broken}");
    assert!(config["todo"].as_str().unwrap().contains("inspectd check --config"), "{broken}");
}

/// A process that does not outlive its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a log in JSON.
fn lines(log: &Path) -> Vec<Value> {
    let log = std::fs::read_to_string(log).unwrap();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_json_says_that_the_broker_is_away_with_what_is_kept_and_that_it_is_back() {
    let mut broker = Broker::start("", "").await;
    let simulated = format!(
        "[[camera]]\nid = \"cam1\"\n{}{SIMULATOR}trigger = {{ interval_ms = 50 }}\n",
        super::PIPELINE
    );
    let station = Station::new(broker.port, &simulated);
    let log = station.dir.path().join("log");
    let mut command = station.command();
    command.env("INSPECTD_LOG_FORMAT", "json").stderr(std::fs::File::create(&log).unwrap());
    let _daemon = Ends(command.spawn().unwrap());
    let says = |level: &str, begins: &str, ends: &str| {
        lines(&log).into_iter().find(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == level && message.starts_with(begins) && message.ends_with(ends)
        })
    };
    until("the broker is there", || says("INFO", "connected to the broker", "").is_some()).await;
    broker.kill();
    until("its loss is a warning", || says("WARN", "broker away, ", " results kept").is_some()).await;
    until("results are kept", || {
        let out = on(&station, &["outbox", "list", "--json"], "");
        let owed: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        owed["owed"]["result"].as_u64().is_some_and(|results| results > 0)
    })
    .await;
    broker.restart().await;
    until("its return is said", || says("INFO", "broker back, ", " results to deliver").is_some()).await;
    let back = says("INFO", "broker back, ", " results to deliver").unwrap();
    let words: Vec<&str> = back["message"].as_str().unwrap().split(' ').collect();
    assert!(words[2].parse::<u64>().unwrap() > 0, "{back}");
    assert_eq!(back["sink"], "mqtt", "{back}");
    let warnings = lines(&log)
        .iter()
        .filter(|line| line["message"].as_str().unwrap_or_default().starts_with("broker away"))
        .count();
    assert_eq!(warnings, 1, "not with every attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_below_the_store_is_made_by_the_start_and_its_pictures_are_inspected() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let folder =
        format!("[[camera]]\nid = \"cam1\"\n{}source = \"folder\"\npath = \"INBOX\"\n", super::PIPELINE);
    let station = Station::new(broker.port, &folder);
    let inbox = station.dir.path().join("store/inbox");
    station.edit("INBOX", inbox.to_str().unwrap());
    let _daemon = station.start();
    until("the folder is made", || inbox.is_dir()).await;
    let tile =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png");
    let new = station.dir.path().join("new.png");
    std::fs::copy(tile, &new).unwrap();
    std::fs::rename(&new, inbox.join("part.png")).unwrap();
    until("the picture has its result", || plc.results().len() == 1).await;
    assert_eq!(plc.results()[0]["tiles"], json!({"planned": 1, "inspected": 1}), "{}", station.log());
}
