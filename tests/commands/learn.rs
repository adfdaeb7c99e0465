//! Learning on the running station, from outside: from confirmed parts to a version that judges by them, over HTTP and
//! on the page; and what is left when it is cancelled, refused or killed.

#[path = "product.rs"]
mod product;

use super::browser::Browser;
use super::{PIPELINE, Plc, engine, http};
use crate::broker::{Broker, until};
use crate::station::{Daemon, Station, signal, wait};
use crate::tokens::{self, bearer};
use image::{Rgb, RgbImage};
use inspectd::domain::review::{Decided, Decision};
use inspectd::simulator::{Mix, tile};
use inspectd::store::Store;
use inspectd::store::accounts::Account;
use inspectd::store::recipes::{Entry, Step};
use inspectd::web::auth::{self, Role};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "examples-defects";
const PASSWORD: &str = "correct horse";
const AT: &str = "2026-01-01T00:00:00.000Z";
const LEARN: &str = r#"{"what":"references","features":"backbone"}"#;
const HEAD: &str = r#"{"what":"head","features":"backbone"}"#;

/// A station with a folder of recipes that it cannot write to, confirmed parts in its store, and a watched folder.
struct Bench {
    station: Station,
    recipe: PathBuf,
    sound: String,
    pictures: tempfile::TempDir,
    page: SocketAddr,
}

impl Bench {
    /// With this many confirmed parts, and `more` after the recipe's text.
    async fn new(broker: &Broker, good: u32, bad: u32, more: &str) -> Self {
        let (first, pictures) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for n in 0..good {
            part(n, false).save(first.path().join(format!("good-{n}.png"))).unwrap();
        }
        for n in 0..bad {
            part(1_000 + n, true).save(first.path().join(format!("bad-{n}.png"))).unwrap();
        }
        let source = format!("source = \"folder\"\nwatch = false\npath = \"{}\"\n", first.path().display());
        let camera = format!("[[camera]]\nid = \"cam1\"\n{PIPELINE}{source}");
        let station = Station::new(broker.port, &camera);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let own = station.dir.path().join("pipelines");
        std::fs::create_dir(&own).unwrap();
        station.edit(&format!("\"{}\"", shipped.display()), &format!("\"{}\"", own.display()));
        let text = std::fs::read_to_string(shipped.join(format!("{NAME}.toml"))).unwrap();
        let (recipe, sound) = (own.join(format!("{NAME}.toml")), format!("{text}{more}"));
        std::fs::write(&recipe, &sound).unwrap();
        assert!(wait(&mut station.start(), "the folder is done").await.success(), "{}", station.log());
        let store = station.store();
        decide(&store);
        accounts(&store);
        drop(store);
        station.edit(&source, &format!("source = \"folder\"\npath = \"{}\"\n", pictures.path().display()));
        let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        station.edit("[store]", &format!("[web]\nlisten = \"{page}\"\n[store]"));
        Self { station, recipe, sound, pictures, page }
    }

    async fn start(&self, plc: &Plc) -> Daemon {
        let daemon = self.station.start();
        plc.until_listening().await;
        daemon
    }

    fn ask(&self, method: &str, path: &str, role: Role, body: &str) -> http::Answer {
        tokio::task::block_in_place(|| http::ask(self.page, method, path, &[&bearer(role)], body))
    }

    fn learn(&self, method: &str, role: Role, body: &str) -> http::Answer {
        self.ask(method, &format!("/api/v1/learn/{NAME}"), role, body)
    }

    /// What the page shows of the pipeline.
    fn shown(&self) -> Value {
        let all = self.ask("GET", "/api/v1/learn", Role::Viewer, "").json();
        all.as_array().unwrap().iter().find(|one| one["pipeline"] == NAME).expect("it is there").clone()
    }

    /// Waits until the job is over, and gives what came of it.
    async fn ended(&self) -> Value {
        let mut shown = Value::Null;
        until("the job is over", || {
            shown = self.shown();
            shown["job"].is_null() && !shown["last"].is_null()
        })
        .await;
        shown["last"].clone()
    }

    /// Puts a part before the camera, and gives its inspection.
    async fn inspected(&self, n: u32, is_bad: bool) -> Value {
        let name = format!("new-{n}.png");
        part(n, is_bad).save(self.pictures.path().join(".new.png")).unwrap();
        std::fs::rename(self.pictures.path().join(".new.png"), self.pictures.path().join(&name)).unwrap();
        let mut found = Value::Null;
        until(&format!("{name} is inspected"), || {
            let list = self.ask("GET", "/api/v1/inspections?limit=3", Role::Viewer, "").json();
            let ids = list["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
            let mut all =
                ids.map(|id| self.ask("GET", &format!("/api/v1/inspections/{id}"), Role::Viewer, ""));
            let its =
                all.find_map(|one| Some(one.json()).filter(|i| i["origin"].to_string().contains(&name)));
            found = its.unwrap_or_default();
            !found.is_null()
        })
        .await;
        found
    }

    fn active(&self) -> String {
        self.station.store().recipe_book(NAME).unwrap().unwrap().active
    }
}

/// A part of the product: the same surface under another noise; a defective one has a mark.
fn part(n: u32, is_bad: bool) -> RgbImage {
    let clean = (1..).map(|seed| tile(970_000, seed, 256, 256, Mix::Defect));
    let (rgb, _) = clean.into_iter().find(|(_, truth)| truth.defects.is_empty()).unwrap();
    let mut picture = RgbImage::from_raw(256, 256, rgb).unwrap();
    let mut state = u64::from(n) * 2 + 1;
    for value in picture.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *value = value.saturating_add((state >> 60) as u8).saturating_sub(8);
    }
    if is_bad {
        let (x0, y0) = (60 + n % 5 * 20, 60 + n % 7 * 12);
        for (x, y) in (0..48).flat_map(|x| (0..48).map(move |y| (x, y))) {
            let shade = if (x / 6 + y / 6) % 2 == 0 { 250 } else { 5 };
            picture.put_pixel(x0 + x, y0 + y, Rgb([shade; 3]));
        }
    }
    picture
}

fn decide(store: &Store) {
    for stored in store.newest_first() {
        let inspection = stored.unwrap().inspection;
        let verdict = if inspection.origin.contains("bad-") { Decided::Fail } else { Decided::Pass };
        let (reason, note) = ("as rendered".to_owned(), String::new());
        let decision = Decision { verdict, reason, note, findings: None, texts: None };
        store.review(&inspection.id, "anna", decision, None).unwrap();
    }
}

/// An account and a token a role.
fn accounts(store: &Store) {
    for role in [Role::Viewer, Role::Operator, Role::Engineer] {
        let (name, password_hash) = (role.as_str().to_owned(), auth::hash(PASSWORD).unwrap());
        let account = Account { name: name.clone(), role: name, password_hash, created_at: AT.into() };
        store.put_account(&account).unwrap();
        tokens::put(store, role);
    }
}

/// What happened to one version, in order, and on whose word.
fn steps(store: &Store, version: &str) -> Vec<(Step, String)> {
    let mut entries: Vec<Entry> = store.recipe_entries(Some(NAME), 1_000).unwrap();
    entries.reverse();
    entries.into_iter().filter(|entry| entry.version == version).map(|entry| (entry.step, entry.by)).collect()
}

fn text(answer: &http::Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// An engineer before the page about learning.
async fn engineer(bench: &Bench) -> Browser {
    let browser = Browser::start(1280, 900).await;
    browser.page.goto(&format!("http://{}/", bench.page)).await;
    browser.fill("input[name=name]", "engineer").await;
    browser.fill("input[name=password]", PASSWORD).await;
    browser.click("button[type=submit]").await;
    browser.click("button.tab[data-view=learn]").await;
    browser
}

async fn stop(bench: &Bench, mut daemon: Daemon) {
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", bench.station.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_good_parts_become_a_check_that_finds_a_defective_one_and_stays_over_a_restart() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 20, 3, "").await;
    let daemon = bench.start(&plc).await;
    let before = bench.shown();
    assert_eq!(
        (&before["good"], &before["bad"], &before["is_enough"]),
        (&json!(20), &json!(3), &json!(true))
    );
    assert_eq!(
        (&before["banks"], &before["is_gated"], &before["last"]),
        (&json!([]), &json!(false), &json!(null))
    );
    assert!(bench.inspected(2_000, true).await["learned"].as_array().unwrap().is_empty());

    for body in ["{}", r#"{"what":"heads"}"#, r#"{"what":"references","features":"eyes"}"#] {
        let answer = bench.learn("POST", Role::Engineer, body);
        assert!([400, 422].contains(&answer.status), "{body}: {}", answer.head);
    }
    let few = bench.learn("POST", Role::Engineer, HEAD);
    assert_eq!((few.status, few.code().as_str()), (409, "too_little"), "{}", few.head);
    assert!(
        text(&few).contains("20 good and 3 defective parts: at least 10 of each are needed"),
        "{}",
        text(&few)
    );
    assert_eq!(
        bench.learn("POST", Role::Engineer, r#"{"what":"references","prompt":"none"}"#).code(),
        "unfit"
    );
    assert_eq!(bench.ask("POST", "/api/v1/learn/nothing", Role::Engineer, LEARN).code(), "no_pipeline");
    for role in [Role::Viewer, Role::Operator] {
        assert_eq!(bench.learn("POST", role, LEARN).status, 403);
        assert_eq!(bench.learn("DELETE", role, "").status, 403);
    }
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
    let last = bench.ended().await;
    assert_eq!((&last["end"], &last["reason"]), (&json!("active"), &json!("")), "{last}");
    assert_eq!((&last["figures"]["good"], &last["figures"]["bad"]), (&json!(20), &json!(3)), "{last}");
    assert!(last["figures"]["auroc"].as_f64().unwrap() > 0.95 && last["left_out_count"] == 0, "{last}");
    let version = last["version"].as_str().unwrap().to_owned();
    let after = bench.shown();
    let bank = &after["banks"][0];
    assert_eq!((&after["active"], &bank["good"]), (&json!(version), &json!(20)), "{after}");
    assert_eq!(
        (&bank["prompt"], &bank["features"]),
        (&json!("like-good-parts"), &json!("backbone")),
        "{after}"
    );

    let found = bench.inspected(2_001, true).await;
    assert_eq!(found["pipeline_version"], version.as_str(), "{found}");
    assert_eq!(found["learned"][0]["sha256"], bank["sha256"], "{found}");
    assert!(found["heat"]["places"].as_array().is_some_and(|p| p.iter().any(|v| v.as_u64() > Some(127))));
    let has_anomaly = |of: &Value| of["labels"].as_array().unwrap().contains(&json!("anomaly"));
    assert!(has_anomaly(&found), "{found}");
    // The file is older than what was learned, whoever asks for a look at it.
    assert_eq!(bench.ask("POST", "/api/v1/commands/reload", Role::Engineer, "").status, 202);
    assert!(has_anomaly(&bench.inspected(2_002, true).await));
    stop(&bench, daemon).await;
    let replayed = [Step::Found, Step::Checked, Step::Replayed, Step::Active];
    let by = "http:token:engineer, learned".to_owned();
    assert_eq!(steps(&bench.station.store(), &version), replayed.map(|step| (step, by.clone())));
    let entries = bench.station.store().recipe_entries(Some(NAME), 9).unwrap();
    let replay =
        entries.iter().find_map(|entry| entry.replay.as_ref()).expect("before and after, without a gate");
    assert_eq!((replay.parts, replay.failed.len()), (23, 0));

    // After a start it is active still, and learned once more it keeps its text.
    let daemon = bench.start(&plc).await;
    assert_eq!(bench.shown()["active"], version.as_str());
    assert_eq!(bench.inspected(2_003, true).await["pipeline_version"], version.as_str());
    let text = bench.ask("GET", &format!("/api/v1/recipes/{NAME}/versions/{version}"), Role::Viewer, "").body;
    assert_eq!(bench.learn("POST", Role::Engineer, r#"{"what":"references"}"#).status, 202);
    let again = bench.ended().await;
    let second = again["version"].as_str().unwrap();
    assert!(again["end"] == "active" && second != version, "{again}");
    let path = format!("/api/v1/recipes/{NAME}/versions/{second}");
    assert_eq!(bench.ask("GET", &path, Role::Viewer, "").body, text, "its bank is another one");

    // An edited file is a newer word.
    std::fs::write(&bench.recipe, format!("{}# edited\n", bench.sound)).unwrap();
    until("the edited file is active", || bench.shown()["banks"] == json!([])).await;
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_or_killed_leaves_the_line_as_it_was() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 12, 0, "").await;
    let sound = bench.active();
    // With the engine stopped, the job waits for its first picture.
    let mut daemon = bench.start(&plc).await;
    let stopped = engine(daemon.id()).expect("the engine is a process of its own");
    signal(stopped, libc::SIGSTOP);
    assert_eq!(bench.learn("DELETE", Role::Engineer, "").code(), "not_under_way");
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).code(), "busy");
    let job = bench.shown()["job"].clone();
    assert_eq!((&job["step"], &job["by"]), (&json!("looking"), &json!("http:token:engineer")), "{job}");
    assert_eq!(bench.learn("DELETE", Role::Engineer, "").status, 204);
    let last = bench.ended().await;
    assert_eq!(
        (&last["end"], &last["reason"]),
        (&json!("cancelled"), &json!("http:token:engineer")),
        "{last}"
    );
    assert_eq!(last["version"], json!(null), "nothing was kept");
    signal(stopped, libc::SIGCONT);

    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
    signal(daemon.id(), libc::SIGKILL);
    wait(&mut daemon, "it is killed").await;
    assert_eq!(bench.active(), sound);
    // From the first picture to after the version is active, however long that takes here.
    for after_ms in [100, 300, 700, 1_500, 3_000].map(Some).into_iter().chain([None]) {
        let mut daemon = bench.start(&plc).await;
        assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
        match after_ms {
            Some(after_ms) => tokio::time::sleep(Duration::from_millis(after_ms)).await,
            None => assert_eq!(bench.ended().await["end"], "active"),
        }
        signal(daemon.id(), libc::SIGKILL);
        wait(&mut daemon, "it is killed").await;
        let store = bench.station.store();
        let active = store.recipe_book(NAME).unwrap().unwrap().active;
        let is_active = |(step, by): &(Step, String)| *step == Step::Active && by.ends_with("learned");
        let is_learned = steps(&store, &active).iter().any(is_active);
        assert!(
            if is_learned { active != sound } else { active == sound },
            "after {after_ms:?} ms: {active}"
        );
        drop(store);
        let daemon = bench.start(&plc).await;
        assert_eq!(bench.shown()["active"], active.as_str(), "after {after_ms:?} ms");
        let part = bench.inspected(3_000 + after_ms.unwrap_or_default() as u32, true).await;
        assert_eq!(part["pipeline_version"], active.as_str(), "the line goes on after {after_ms:?} ms");
        assert_eq!(part["learned"].as_array().unwrap().len(), usize::from(is_learned), "{part}");
        stop(&bench, daemon).await;
        if is_learned {
            return;
        }
    }
    panic!("a version that is active is not active after a start: {}", bench.station.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_refuses_is_not_active_and_the_file_is_still_looked_at() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    // Nothing reaches it.
    let gate = "\n[gate]\nparts_max = 8\nrequire = [\"image.recall >= 1.01\"]\n";
    let bench = Bench::new(&broker, 6, 2, gate).await;
    let sound = bench.active();
    let daemon = bench.start(&plc).await;
    assert_eq!(bench.shown()["is_gated"], true);
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
    let last = bench.ended().await;
    assert_eq!(last["end"], "refused", "{last}");
    assert!(last["reason"].as_str().unwrap().contains("image.recall"), "{last}");
    assert!(last["figures"]["notes"][0].as_str().unwrap().contains("few"), "{last}");
    assert_eq!(bench.shown()["active"], sound.as_str());
    let alarm = plc.heard.newest(&format!("alarm/recipe_{NAME}"));
    assert_ne!(alarm.map(|alarm| alarm["state"].clone()), Some(json!("raised")), "no file is refused");
    let version = last["version"].as_str().unwrap();
    let path = format!("/api/v1/recipes/{NAME}/active");
    let words = json!({ "version": version, "reason": "it is good enough" }).to_string();
    assert_eq!(bench.ask("POST", &path, Role::Engineer, &words).status, 200, "an engineer may");
    assert_eq!(bench.inspected(4_000, true).await["pipeline_version"], version);
    stop(&bench, daemon).await;
    assert_eq!(bench.active(), version);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engineer_walks_the_page_from_good_parts_to_an_active_bank_and_back() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 20, 0, "").await;
    let daemon = bench.start(&plc).await;
    let browser = engineer(&bench).await;
    let card = format!("document.querySelector('[data-learn={NAME}]')");
    browser.until(&format!("{card}.querySelector('.have').innerText.includes('20 good')")).await;
    browser.until(&format!("{card}.querySelector('.ungated')")).await;
    browser.click("button.start").await;
    browser.until(&format!("{card}.querySelector('.came[data-end=active] .well')")).await;
    let bank = browser.value(&format!("{card}.querySelector('.bank').dataset.bank")).await;
    assert_eq!(bench.shown()["banks"][0]["sha256"], bank);
    // Its steps, with before and after.
    browser.click(".came button.details").await;
    browser.until("document.querySelector('dialog [data-step=replayed] .replay')").await;
    browser.until("document.querySelector('dialog [data-step=active]')").await;
    browser.click("dialog header button").await;
    browser.click("button.rollback").await;
    browser.fill("dialog input[name=reason]", "only to see").await;
    browser.click("dialog button[type=submit]").await;
    browser.until(&format!("!{card}.querySelector('.bank') && {card}.querySelector('button.start')")).await;
    assert_eq!(bench.shown()["banks"], json!([]));
    browser.end().await;
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_both_kinds_become_a_head_and_a_bank_is_learned_beside_it() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 12, 12, "").await;
    let daemon = bench.start(&plc).await;
    let before = bench.shown();
    assert_eq!((&before["kind_min"], &before["is_enough_for_head"]), (&json!(10), &json!(true)), "{before}");
    for role in [Role::Viewer, Role::Operator] {
        assert_eq!(bench.learn("POST", role, HEAD).status, 403);
    }
    let unknown = bench.learn("POST", Role::Engineer, r#"{"what":"head","prompt":"none"}"#);
    assert_eq!((unknown.status, unknown.code().as_str()), (409, "unfit"));
    assert!(text(&unknown).contains("no prompt none of kind head"), "{}", text(&unknown));

    assert_eq!(bench.learn("POST", Role::Engineer, HEAD).status, 202);
    let last = bench.ended().await;
    assert_eq!(
        (&last["end"], &last["what"], &last["reason"]),
        (&json!("active"), &json!("head"), &json!(""))
    );
    let figures = &last["figures"];
    assert_eq!((&figures["good"], &figures["bad"], &figures["folds"]), (&json!(12), &json!(12), &json!(5)));
    assert!(figures["auroc"].as_f64() > Some(0.8) && figures["found"].as_u64() >= Some(8), "{figures}");
    let on = figures["measured_on"].as_str().unwrap();
    assert!(on.contains("kept back in 5 folds, those of one lot together"), "{on}");
    assert!(figures["notes"].to_string().contains("no part names its lot"), "{figures}");
    let version = last["version"].as_str().unwrap();
    let shown = bench.shown();
    let head = shown["heads"][0].clone();
    assert_eq!((&shown["active"], &shown["banks"]), (&json!(version), &json!([])), "{shown}");
    assert_eq!(
        (&head["prompt"], &head["good"], &head["bad"]),
        (&json!("unlike-bad-parts"), &json!(12), &json!(12))
    );
    // In the ledger, too, and it says that the replay is no proof by itself.
    let ledger =
        bench.ask("GET", &format!("/api/v1/recipes/{NAME}/ledger?limit=50"), Role::Viewer, "").json();
    let is_first = |entry: &&Value| entry["version"] == version && entry["step"] == "found";
    let first = ledger.as_array().unwrap().iter().find(is_first).expect("its first step");
    let words = first["reason"].as_str().unwrap();
    assert!(words.starts_with("a head of the backbone from 12 good and 12 defective parts"), "{words}");
    assert!(words.contains(on) && words.contains("those that it was learned from are among them"), "{words}");

    let found = bench.inspected(2_001, true).await;
    assert_eq!(
        (&found["pipeline_version"], &found["learned"][0]["sha256"]),
        (&json!(version), &head["sha256"])
    );
    assert!(found["heat"]["places"].as_array().is_some_and(|p| p.iter().any(|v| v.as_u64() > Some(127))));

    // A bank beside it leaves it as it is.
    assert_eq!(bench.learn("POST", Role::Engineer, LEARN).status, 202);
    let last = bench.ended().await;
    assert_eq!((&last["end"], &last["what"]), (&json!("active"), &json!("references")), "{last}");
    let both = bench.shown();
    assert_eq!((&both["heads"], both["banks"].as_array().unwrap().len()), (&json!([head]), 1), "{both}");
    assert_eq!(bench.inspected(2_002, true).await["learned"].as_array().unwrap().len(), 2);
    stop(&bench, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engineer_walks_the_page_to_an_active_head_and_reads_what_it_was_measured_on() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let bench = Bench::new(&broker, 12, 12, "").await;
    let daemon = bench.start(&plc).await;
    let browser = engineer(&bench).await;
    let card = format!("document.querySelector('[data-learn={NAME}]')");
    browser.until(&format!("{card}.querySelector('.have').innerText.includes('12 defective')")).await;
    browser.click("[data-what=head] button.start").await;
    browser
        .until(&format!("{card}.querySelector('.came[data-end=active][data-of=head] [data-on=l_on_head]')"))
        .await;
    let head = browser.value(&format!("{card}.querySelector('[data-head]').dataset.head")).await;
    assert_eq!(bench.shown()["heads"][0]["sha256"], head);
    browser.click(".came button.details").await;
    let said = "document.querySelector('dialog [data-step=found] .reason').innerText";
    browser.until(&format!("{said}.includes('kept back in 5 folds')")).await;
    browser.until("document.querySelector('dialog [data-step=replayed] .replay')").await;
    browser.end().await;
    stop(&bench, daemon).await;
}
