//! Figures at 100,000 stored inspections, with the line running beside: answer times of the API, and
//! the page's first list in Chromium.
//!
//! ```text
//! cargo test --release --test web -- --ignored --nocapture hundred_thousand
//! ```

use super::browser::Browser;
use super::http::ask;
use super::inspections::id;
use super::server::{PASSWORD, commit, part};
use inspectd::store::{Store, StoreOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const INSPECTIONS: u64 = 100_000;
const COMMITTERS: u64 = 16;

fn fill(dir: &Path) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    commit(&store, &part(INSPECTIONS + 1));
    std::thread::scope(|scope| {
        for committer in 0..COMMITTERS {
            let store = &store;
            scope.spawn(move || {
                for n in (1..=INSPECTIONS).filter(|n| n % COMMITTERS == committer) {
                    store.commit(&part(n), None).unwrap();
                }
            });
        }
    });
    let owed: Vec<u64> = (1..=INSPECTIONS + 1).collect();
    store.ack(&owed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn hundred_thousand() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = dir.path().join("store");
    fill(&store);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root = env!("CARGO_MANIFEST_DIR");
    let demo = std::fs::read_to_string(Path::new(root).join("config/demo.toml")).unwrap();
    let demo = demo
        .replace("var/demo", &store.display().to_string())
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    std::fs::write(dir.path().join("demo.toml"), demo).unwrap();
    let log = dir.path().join("log");
    let started = Instant::now();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_inspectd"))
        .args(["run", "--config"])
        .arg(dir.path().join("demo.toml"))
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let to = ([127, 0, 0, 1], port).into();
    let code = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if let Some((_, rest)) = text.split_once("setup code     ") {
            break rest.split_whitespace().next().unwrap().to_owned();
        }
        assert!(started.elapsed() < Duration::from_mins(2), "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let body = format!("{{\"code\":\"{code}\",\"name\":\"anna\",\"password\":\"{PASSWORD}\"}}");
    let made = ask(to, "POST", "/api/v1/setup", &[], &body);
    let cookie = format!("Cookie: {}", made.header("set-cookie").unwrap().split(';').next().unwrap());
    let get = |path: &str| ask(to, "GET", path, &[&cookie], "");
    while get("/api/v1/inspections?limit=1").json()["complete"] == false {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("all inspections are listed {:.1} s after the start", started.elapsed().as_secs_f64());
    // The line is warm before anything is measured.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let paths: Vec<(&str, Vec<String>)> = vec![
        ("queue, first page", vec!["/api/v1/inspections".into()]),
        (
            "queue, filtered",
            vec![
                "/api/v1/inspections?verdict=review&reviewed=false".into(),
                "/api/v1/inspections?label=pit&verdict=review".into(),
                "/api/v1/inspections?part=P99&verdict=fail".into(),
                "/api/v1/inspections?camera=cam1&pipeline=machined-plate&grade=reject".into(),
            ],
        ),
        (
            "queue, deep in the list",
            (1..40).map(|n| format!("/api/v1/inspections?skip={}", n * 2500)).collect(),
        ),
        ("one inspection", (1..200).map(|n| format!("/api/v1/inspections/{}", id(n * 499))).collect()),
        ("facets", vec!["/api/v1/facets".into()]),
        ("charts", vec!["/api/v1/charts".into()]),
    ];
    for (what, paths) in paths {
        let mut times: Vec<Duration> = (0..200)
            .map(|i| {
                let start = Instant::now();
                let answer = get(&paths[i % paths.len()]);
                assert_eq!(answer.status, 200, "{}: {}", paths[i % paths.len()], answer.head);
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{what}: p50 {:.1} ms, p95 {:.1} ms", ms(times[100]), ms(times[190]));
    }
    let browser = Browser::start(1440, 900).await;
    let url = format!("http://127.0.0.1:{port}/");
    browser.page.goto(&format!("{url}healthz")).await;
    let login = format!("{{\"name\":\"anna\",\"password\":\"{PASSWORD}\"}}");
    let script = format!(
        "return fetch('/api/v1/login', {{method: 'POST', headers: {{'content-type': 'application/json'}}, body: '{login}'}}).then(r => r.status)"
    );
    assert_eq!(browser.page.execute(&script).await.unwrap(), 200);
    for visit in 1..=5 {
        browser.page.goto(&url).await;
        browser.until("performance.getEntriesByName('list-painted').length && document.querySelectorAll('.row').length > 5").await;
        let painted = browser.value("performance.getEntriesByName('list-painted')[0].startTime").await;
        println!("visit {visit}: the list is there {:.0} ms after the click", painted.as_f64().unwrap());
    }
    browser.end().await;
    let inspected = std::fs::read_to_string(&log).unwrap().matches(" inspected ").count();
    println!("the line inspected {inspected} parts meanwhile");
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(daemon.id() as i32, libc::SIGTERM) };
    daemon.wait().unwrap();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
