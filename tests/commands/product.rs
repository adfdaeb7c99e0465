//! A new product on the running station: good parts that an engineer names become a recipe that a camera can be
//! switched to, without any file.

use super::*;
use inspectd::store::images::{hex, sha256};

const NUT: &str = "nut";

impl Bench {
    /// The ids of the newest inspections; after a start they are looked up in the background.
    async fn newest(&self, count: usize) -> Vec<String> {
        let path = format!("/api/v1/inspections?camera=cam1&limit={count}");
        let mut ids = vec![];
        until("the inspections are listed", || {
            let list = self.ask("GET", &path, Role::Viewer, "").json();
            let items = list["items"].as_array().unwrap().iter();
            ids = items.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
            ids.len() == count
        })
        .await;
        ids
    }

    fn make(&self, role: Role, body: &Value) -> http::Answer {
        self.ask("POST", "/api/v1/products", role, &body.to_string())
    }

    /// What the page shows of the product.
    fn product(&self) -> Value {
        let all = self.ask("GET", "/api/v1/learn", Role::Viewer, "").json();
        all.as_array().unwrap().iter().find(|one| one["pipeline"] == NUT).cloned().unwrap_or_default()
    }

    /// Waits until its job is over, and gives what came of it.
    async fn made(&self) -> Value {
        let mut shown = Value::Null;
        until("the product is made", || {
            shown = self.product();
            shown["job"].is_null() && !shown["last"].is_null()
        })
        .await;
        shown["last"].clone()
    }

    /// The version of the product's recipe that is active.
    fn active_product(&self) -> Option<String> {
        let all = self.ask("GET", "/api/v1/recipes", Role::Viewer, "").json();
        let its = all.as_array().unwrap().iter().find(|one| one["pipeline"] == NUT)?;
        its["active"].as_str().map(str::to_owned)
    }

    /// The pipeline that the camera runs.
    fn runs(&self) -> Value {
        self.ask("GET", "/api/v1/cameras", Role::Viewer, "").json()[0]["pipeline"].clone()
    }
}

fn body(ids: &[String]) -> Value {
    json!({ "name": NUT, "camera": "cam1", "inspections": ids, "mm_per_px": 0.1, "roi": [0, 0, 256, 240] })
}

/// The body with another value of one field.
fn with(ids: &[String], key: &str, value: Value) -> Value {
    let mut body = body(ids);
    body[key] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_product_is_refused_with_the_field_and_its_value() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 6, 0, "").await;
    let daemon = bench.start(&plc).await;
    let ids = bench.newest(6).await;
    for role in [Role::Viewer, Role::Operator] {
        assert_eq!(bench.make(role, &body(&ids)).status, 403);
    }
    let twice = [&ids[..], &ids[..1]].concat();
    let unknown = [&ids[..5], &["none".to_owned()]].concat();
    for (key, value, words) in [
        ("name", json!("../nut"), "name = \"../nut\": letters"),
        ("name", json!(""), "name = \"\": letters"),
        ("name", json!("x".repeat(65)), "at most 64"),
        ("mm_per_px", json!(0.0), "mm_per_px = 0: must be from"),
        ("roi", json!([0, 0, 300, 40]), "roi = [0, 0, 300, 40]: the region lies outside"),
        ("features", json!("eyes"), "features = \"eyes\": must be"),
        ("inspections", json!(ids[..4]), "inspections = 4 ids: 5 to 200"),
        ("inspections", json!(twice), "stands there twice"),
        ("inspections", json!(unknown), "inspections[5] = \"none\": there is no such inspection"),
        ("camera", json!("cam9"), "is of the camera \"cam1\", not of \"cam9\""),
    ] {
        let answer = bench.make(Role::Engineer, &with(&ids, key, value));
        assert_eq!((answer.status, answer.code().as_str()), (400, "field"), "{key}: {}", answer.head);
        let error = answer.json()["error"].clone();
        assert!(error.as_str().unwrap().contains(words), "{words} in {error}");
    }
    let taken = bench.make(Role::Engineer, &with(&ids, "name", json!(NAME)));
    assert_eq!((taken.status, taken.code().as_str()), (409, "exists"), "{}", taken.head);
    // A file that does not read is somebody's recipe all the same.
    std::fs::write(bench.recipe.with_file_name("bolt.toml"), "schema = ").unwrap();
    assert_eq!(bench.make(Role::Engineer, &with(&ids, "name", json!("bolt"))).code(), "exists");
    assert_eq!(bench.product(), Value::Null, "no job has begun");
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn good_parts_become_a_recipe_that_a_camera_is_switched_to_and_that_a_restart_knows() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 12, 0, "").await;
    let daemon = bench.start(&plc).await;
    let ids = bench.newest(12).await;
    assert_eq!(bench.make(Role::Engineer, &body(&ids)).status, 202);
    let last = bench.made().await;
    assert_eq!((&last["end"], &last["reason"]), (&json!("active"), &json!("")), "{last}");
    assert_eq!((&last["figures"]["good"], &last["left_out_count"]), (&json!(12), &json!(0)), "{last}");
    let version = last["version"].as_str().unwrap().to_owned();
    assert_eq!(bench.active_product().as_deref(), Some(version.as_str()));
    assert_eq!(bench.make(Role::Engineer, &body(&ids)).code(), "exists");
    assert!(!bench.recipe.with_file_name("nut.toml").exists(), "no file is written");

    // The ledger: on whose word, and which pictures.
    let ledger = bench.ask("GET", &format!("/api/v1/recipes/{NUT}/ledger"), Role::Viewer, "").json();
    let mut entries = ledger.as_array().unwrap().clone();
    entries.reverse();
    let steps: Vec<_> = entries.iter().map(|entry| entry["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["found", "checked", "active"], "{ledger}");
    assert_eq!(entries[0]["by"], "http:token:engineer, new product");
    let made_of = entries[0]["made_of"].as_array().unwrap();
    assert_eq!(made_of.iter().map(|part| part["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    let detail = bench.ask("GET", &format!("/api/v1/inspections/{}", ids[3]), Role::Viewer, "").json();
    assert_eq!(made_of[3]["sha256"], detail["image"], "{detail}");

    // What it judges by can be had, to go on in a file.
    let path = format!("/api/v1/recipes/{NUT}/versions/{version}/files");
    let bank = bench.ask("GET", &format!("{path}/{NUT}.bank"), Role::Viewer, "").body;
    assert_eq!(bench.product()["banks"][0]["sha256"], hex(&sha256(&bank)));
    assert_eq!(bench.ask("GET", &format!("{path}/other.bank"), Role::Viewer, "").status, 404);

    let ack = plc.command("pipeline", json!({ "camera": "cam1", "pipeline": NUT })).await;
    assert_eq!(ack["accepted"], true, "{ack}");
    let mut good = vec![];
    for n in 0..3 {
        good.push(bench.inspected(5_000 + n, false).await);
    }
    assert!(good.iter().all(|part| part["pipeline_version"] == version.as_str()), "{good:?}");
    assert!(good.iter().any(|part| part["verdict"] == "pass"), "{good:?}");
    let bad = bench.inspected(5_010, true).await;
    assert!(bad["pipeline"] == NUT && bad["verdict"] != "pass", "{bad}");
    stop(&bench, daemon).await;

    let daemon = bench.start(&plc).await;
    assert_eq!(bench.active_product().as_deref(), Some(version.as_str()));
    assert_eq!(bench.runs(), NUT, "as it was commanded");
    let bad = bench.inspected(5_020, true).await;
    assert!(bad["pipeline_version"] == version.as_str() && bad["verdict"] != "pass", "{bad}");

    // A file of its name is a newer word, and once that file is gone the station still knows what it judges by.
    let text = bench.sound.replace(&format!("name = \"{NAME}\""), &format!("name = \"{NUT}\""));
    let file = bench.recipe.with_file_name("nut.toml");
    std::fs::write(&file, &text).unwrap();
    let of_file = inspectd::recipe::beside::version_of(&text, &inspectd::recipe::beside::Files::default());
    until("the file's version is active", || bench.active_product().as_deref() == Some(of_file.as_str()))
        .await;
    assert_eq!(bench.inspected(5_030, true).await["pipeline_version"], of_file.as_str());
    stop(&bench, daemon).await;
    std::fs::remove_file(&file).unwrap();
    let daemon = bench.start(&plc).await;
    assert_eq!(bench.runs(), NUT);
    assert_eq!(bench.inspected(5_040, true).await["pipeline_version"], of_file.as_str());
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_is_cancelled_or_killed_leaves_the_line_as_it_was_and_its_name_free() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 6, 0, "").await;
    let mut daemon = bench.start(&plc).await;
    let ids = bench.newest(6).await;
    // With the engine stopped, the job waits for its first picture.
    let stopped = engine(daemon.id()).expect("the engine is a process of its own");
    signal(stopped, libc::SIGSTOP);
    assert_eq!(bench.make(Role::Engineer, &body(&ids)).status, 202);
    assert_eq!(bench.make(Role::Engineer, &with(&ids, "name", json!("other"))).code(), "busy");
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).code(), "busy", "one job of any kind");
    assert_eq!(bench.product()["job"]["by"], "http:token:engineer");
    assert_eq!(bench.ask("DELETE", "/api/v1/learn/nut", Role::Engineer, "").status, 204);
    assert_eq!(bench.made().await["end"], "cancelled");
    assert_eq!((bench.active_product(), bench.product()["active"].clone()), (None, json!("")));
    signal(stopped, libc::SIGCONT);

    // From before the first picture to after the version is active, however long that takes here.
    for after_ms in [0, 200, 600, 1_500].map(Some).into_iter().chain([None]) {
        assert_eq!(bench.make(Role::Engineer, &body(&ids)).status, 202);
        match after_ms {
            Some(after_ms) => tokio::time::sleep(Duration::from_millis(after_ms)).await,
            None => assert_eq!(bench.made().await["end"], "active"),
        }
        signal(daemon.id(), libc::SIGKILL);
        wait(&mut daemon, "it is killed").await;
        let store = bench.station.store();
        let kept = store.recipe_book(NUT).unwrap().map(|book| book.active);
        drop(store);
        daemon = bench.start(&plc).await;
        assert_eq!(bench.active_product(), kept, "after {after_ms:?} ms");
        let ack = plc.command("pipeline", json!({ "camera": "cam1", "pipeline": NUT })).await;
        assert_eq!(ack["accepted"], kept.is_some(), "after {after_ms:?} ms: {ack}");
        let n = 6_000 + after_ms.unwrap_or(9_000) as u32;
        let part = bench.inspected(n, true).await;
        assert_eq!(part["pipeline"], if kept.is_some() { NUT } else { NAME }, "after {after_ms:?} ms");
        if kept.is_some() {
            stop(&bench, daemon).await;
            return;
        }
    }
    panic!("a product that is made is not there after a start: {}", bench.station.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_does_not_take_a_camera_from_a_running_daemon_and_names_its_page() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 1, 0, "").await;
    let daemon = bench.start(&plc).await;
    let out = bench.station.dir.path().join("out");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(["new-product", NUT, "--camera", "cam1", "--mm-per-px", "0.1", "--config"]);
    let refused = command.arg(bench.station.config()).arg("--out").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--camera cam1: the daemon of the store"), "{said}");
    assert!(said.contains(&bench.page.to_string()) && said.contains("New product"), "{said}");
    assert!(!out.exists(), "nothing is written");
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engineer_makes_a_product_on_the_page_and_switches_the_camera_to_it() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 12, 0, "").await;
    let daemon = bench.start(&plc).await;
    let browser = Browser::start(1280, 900).await;
    browser.page.goto(&format!("http://{}/", bench.page)).await;
    browser.fill("input[name=name]", "engineer").await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button[type=submit]").await;
    browser.click("button.tab[data-view=learn]").await;
    browser.click("a.new-product").await;
    browser.until("document.querySelectorAll('.thumb').length === 12").await;
    browser.until("document.querySelector('input[name=mm]').value === '0.1'").await;
    // From now on: what came before is not among them.
    browser.click("button.take").await;
    browser.until("document.querySelectorAll('.thumb').length === 0").await;
    bench.inspected(7_000, false).await;
    browser.until("document.querySelectorAll('.thumb').length === 1").await;
    browser.page.goto(&format!("http://{}/?view=product", bench.page)).await;
    browser.until("document.querySelectorAll('.thumb').length === 13").await;
    browser.until("document.querySelector('input[name=mm]').value === '0.1'").await;
    browser.click(".thumb:last-child").await;
    browser.until("document.querySelector('.count').innerText.includes('12')").await;
    // The region, drawn on the newest picture.
    browser.until("document.querySelector('.stage img').naturalWidth === 256").await;
    browser.value("document.querySelector('.stage').scrollIntoView()").await;
    let stage = browser
        .value("(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('.stage img').getBoundingClientRect())")
        .await;
    let (x, y) = (stage[0].as_f64().unwrap() as i64, stage[1].as_f64().unwrap() as i64);
    browser.drag((x - 150, y - 140), (x + 140, y + 150)).await;
    browser.until("document.querySelector('output.region').innerText.split(', ').length === 4").await;
    browser.fill("input[name=product]", NUT).await;
    browser.click("button.make").await;
    browser.until("document.querySelector('.came[data-end=active] .well')").await;
    browser.click("button.use").await;
    until("the camera runs it", || bench.runs() == NUT).await;
    let last = bench.product()["last"].clone();
    assert_eq!(last["figures"]["good"], 12, "{last}");
    let path = format!("/api/v1/recipes/{NUT}/versions/{}", last["version"].as_str().unwrap());
    let text = String::from_utf8(bench.ask("GET", &path, Role::Viewer, "").body).unwrap();
    let region = browser.value("document.querySelector('output.region').innerText").await;
    assert!(text.contains(&format!("roi = [{}]", region.as_str().unwrap())), "{region} in {text}");
    browser.end().await;
    stop(&bench, daemon).await;
}
