//! Recipes that change under a running line: each part is judged by one version, and a version becomes active only
//! when it has shown on confirmed parts what its gate asks.

use super::model::{decide, render};
use super::{PIPELINE, Plc, SIMULATOR, camera, engine, http};
use crate::broker::{Broker, until};
use crate::shipped::{Pair, TEXT, VISION, blinded};
use crate::station::{Daemon, Station, signal, wait};
use crate::tokens::{self, bearer};
use inspectd::store::Store;
use inspectd::store::images::{hex, sha256};
use inspectd::store::recipes::{Entry, Step};
use inspectd::web::auth::Role;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const NAME: &str = "examples-defects";

/// A station with a folder of recipes of its own, which holds the one of the tests.
struct Kitchen {
    station: Station,
    file: PathBuf,
    sound: String,
}

impl Kitchen {
    fn new(port: u16, sections: &str) -> Self {
        let station = Station::new(port, sections);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let own = station.dir.path().join("pipelines");
        std::fs::create_dir(&own).unwrap();
        station.edit(&format!("\"{}\"", shipped.display()), &format!("\"{}\"", own.display()));
        let sound = std::fs::read_to_string(shipped.join(format!("{NAME}.toml"))).unwrap();
        let file = own.join(format!("{NAME}.toml"));
        std::fs::write(&file, &sound).unwrap();
        Self { station, file, sound }
    }

    /// Writes the recipe as editors do: another file, moved over it.
    fn write(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    /// The recipe with another key, in a version of its own.
    fn with(&self, from: &str, to: &str) -> String {
        assert!(self.sound.contains(from), "{from}");
        self.sound.replace(from, to)
    }
}

/// The version that camera cam1 is inspected by next.
fn active(plc: &Plc) -> Option<String> {
    let status = plc.heard.newest("camera/cam1/status")?;
    status["pipeline_version"].as_str().map(str::to_owned)
}

async fn becomes_active(plc: &Plc, version: &str) {
    until(&format!("version {version} is active"), || active(plc).as_deref() == Some(version)).await;
}

fn version_of(text: &str) -> String {
    inspectd::recipe::beside::version_of(text, &inspectd::recipe::beside::Files::default())
}

fn entries(store: &Store) -> Vec<Entry> {
    let mut entries = store.recipe_entries(Some(NAME), 1_000).unwrap();
    entries.reverse();
    entries
}

/// What happened to one version, in order.
fn steps(entries: &[Entry], version: &str) -> Vec<Step> {
    entries.iter().filter(|e| e.version == version).map(|e| e.step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_changes_ten_times_judges_every_part_by_one_version() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let cameras = camera("cam1", SIMULATOR) + &camera("cam2", SIMULATOR);
    let kitchen = Kitchen::new(broker.port, &cameras);
    let mut daemon = kitchen.station.start();
    plc.until_listening().await;

    let scale = |n: usize| 0.1 * (n + 1) as f64;
    let mut scales = vec![(version_of(&kitchen.sound), 0.1)];
    for n in 1..=10 {
        // Parts of the second camera are on their way whatever happens.
        for k in 0..3 {
            plc.send(
                "trigger",
                json!({ "camera": "cam2", "part_id": format!("on-its-way-{n}-{k}") }).to_string(),
            );
        }
        let text = kitchen.with("mm_per_px = 0.1", &format!("mm_per_px = {:.1}", scale(n)));
        let version = version_of(&text);
        scales.push((version.clone(), scale(n)));
        kitchen.write(&text);
        if n % 2 == 0 {
            assert_eq!(plc.command("reload", json!({})).await["accepted"], true);
        } else if n % 3 == 0 {
            signal(daemon.id(), libc::SIGHUP);
        }
        // Every third time nobody says a word, and the folder is looked at all the same.
        becomes_active(&plc, &version).await;
        let part = format!("after-{n}");
        let ack = plc.command("trigger", json!({ "camera": "cam1", "part_id": part })).await;
        assert_eq!(ack["accepted"], true, "{ack}");
        assert_eq!(plc.result(&part).await["pipeline"], format!("{NAME}@{version}"));
    }
    // A camera whose queue is full says so; what was accepted has a result.
    let answers = || {
        plc.heard
            .on("/cmd/ack")
            .iter()
            .map(|m| m.json())
            .filter(|a| a["command"] == "trigger")
            .collect::<Vec<_>>()
    };
    until("all triggers are answered", || answers().len() == 40).await;
    let accepted = answers().iter().filter(|answer| answer["accepted"] == true).count();
    until("all parts have results", || plc.results().len() >= accepted).await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());

    let mut findings = 0;
    for result in plc.results() {
        let (_, version) = result["pipeline"].as_str().unwrap().split_once('@').unwrap();
        let (_, mm_per_px) =
            scales.iter().find(|(known, _)| known == version).expect("a version of the file");
        for finding in result["findings"].as_array().unwrap() {
            let px: Vec<f64> =
                finding["bbox_px"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            let longest = (px[2] - px[0]).max(px[3] - px[1]) * mm_per_px;
            let said = finding["longest_mm"].as_f64().unwrap();
            assert!(
                (said - longest).abs() <= 0.01 + longest * 0.01,
                "{version}: {said} mm, and {longest} by its scale"
            );
            findings += 1;
        }
    }
    assert!(findings > 0, "some part shows something");
    let entries = entries(&kitchen.station.store());
    for (version, _) in &scales[1..] {
        assert_eq!(steps(&entries, version), [Step::Found, Step::Checked, Step::Active], "{version}");
    }
}

/// With the engine stopped, the inspector holds one frame of each camera, and the queue of one camera one more: its
/// later pictures are taken when the engine goes on, after the change; the other camera's are there before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_views_are_taken_on_both_sides_of_a_change_is_judged_by_one_version() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let view = |id: &str, frames: usize| {
        camera(id, &format!("{SIMULATOR}queue = {{ policy = \"wait\", frames = {frames} }}\n"))
    };
    let part = "[[part]]\nname = \"housing\"\ncameras = [\"top\", \"side\"]\n";
    let kitchen = Kitchen::new(broker.port, &(view("top", 8) + &view("side", 1) + part));
    let mut daemon = kitchen.station.start();
    plc.until_listening().await;
    let engine = engine(daemon.id()).expect("the engine is a process of its own");
    signal(engine, libc::SIGSTOP);
    let words = |part: &str| json!({"part": "housing", "part_id": part, "deadline_ms": 600_000});
    let early: Vec<_> = (1..=5).map(|n| format!("early-{n}")).collect();
    for part in &early {
        assert_eq!(plc.command("trigger", words(part)).await["accepted"], true);
    }
    until("one camera has taken its pictures", || {
        let log = kitchen.station.log();
        let taken = |line: &&str| line.contains("a picture is taken") && line.contains("top");
        log.lines().filter(taken).count() == early.len()
    })
    .await;
    let edited = kitchen.with("mm_per_px = 0.1", "mm_per_px = 0.2");
    let versions = [version_of(&kitchen.sound), version_of(&edited)];
    kitchen.write(&edited);
    assert_eq!(plc.command("reload", json!({})).await["accepted"], true);
    until("the version is active", || {
        let status = plc.heard.newest("camera/side/status");
        status.is_some_and(|status| status["pipeline_version"] == versions[1].as_str())
    })
    .await;
    let changed = SystemTime::now();
    assert_eq!(plc.command("trigger", words("late")).await["accepted"], true);
    signal(engine, libc::SIGCONT);
    for part in early.iter().map(String::as_str).chain(["late"]) {
        plc.part(part).await;
    }
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());

    let store = kitchen.station.store();
    let records: Vec<_> = store.newest_first().map(|stored| stored.unwrap().inspection).collect();
    assert_eq!(records.len(), 2 * (early.len() + 1));
    let mut on_both_sides = 0;
    for part in early.iter().map(String::as_str).chain(["late"]) {
        let views: Vec<_> =
            records.iter().filter(|record| record.trigger.part_id.as_deref() == Some(part)).collect();
        let version = &versions[usize::from(part == "late")];
        assert!(views.iter().all(|view| view.pipeline_version == *version), "{part}: {views:?}");
        let after = views.iter().filter(|view| view.captured_at > changed).count();
        on_both_sides += usize::from(after == 1);
    }
    assert!(on_both_sides > 0, "some part has a picture before the change and one after it");
}

/// A station whose archive holds confirmed parts, good and bad, and a recipe with a gate that is active.
async fn with_archive(broker: &Broker) -> (Kitchen, String, tempfile::TempDir) {
    with_archive_of(broker, None).await
}

/// The same by a model of its own.
async fn with_archive_of(broker: &Broker, pair: Option<&Pair>) -> (Kitchen, String, tempfile::TempDir) {
    let pictures = tempfile::tempdir().unwrap();
    render(pictures.path());
    let folder = format!(
        "[[camera]]\nid = \"cam1\"\n{PIPELINE}source = \"folder\"\nwatch = false\npath = \"{}\"\n",
        pictures.path().display()
    );
    let kitchen = Kitchen::new(broker.port, &folder);
    if let Some(pair) = pair {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model");
        kitchen.station.edit(&format!("{}/", shipped.display()), &pair.path("").display().to_string());
    }
    let gated = format!("{}\n[gate]\nparts_max = 20\nrequire = [\"image.recall >= 0.5\"]\n", kitchen.sound);
    kitchen.write(&gated);
    let status = wait(&mut kitchen.station.start(), "the folder is done").await;
    assert!(status.success(), "{}", kitchen.station.log());
    decide(&kitchen.station.store());
    kitchen.station.edit(
        &format!("source = \"folder\"\nwatch = false\npath = \"{}\"\n", pictures.path().display()),
        &format!("{SIMULATOR}trigger = {{ on = \"command\" }}\n"),
    );
    (kitchen, gated, pictures)
}

/// A recipe that drops nearly everything that the model finds.
fn blind(gated: &str) -> String {
    gated.replace(
        "review_below_confidence = 0.0",
        "review_below_confidence = 0.0\nignore_below_confidence = 1.0",
    )
}

fn alarm(plc: &Plc) -> Option<Value> {
    plc.heard.newest(&format!("alarm/recipe_{NAME}"))
}

async fn started(kitchen: &Kitchen, plc: &Plc) -> Daemon {
    let daemon = kitchen.station.start();
    plc.until_listening().await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worse_recipe_is_refused_with_the_parts_that_it_loses_and_a_better_one_becomes_active() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (kitchen, gated, _pictures) = with_archive(&broker).await;
    let mut daemon = started(&kitchen, &plc).await;
    let (sound, worse) = (version_of(&gated), blind(&gated));
    assert_eq!(active(&plc).as_deref(), Some(sound.as_str()));

    let recipe = || plc.heard.newest(&format!("recipe/{NAME}"));
    until("the station says which version is active", || {
        recipe().is_some_and(|r| r["active"] == sound.as_str())
    })
    .await;

    // The gate cannot be edited away together with what it guards.
    let without_gate = worse.split("[gate]").next().unwrap().to_owned();
    for text in [&worse, &without_gate] {
        kitchen.write(text);
        plc.command("reload", json!({})).await;
        let version = version_of(text);
        until("the refusal is an alarm", || {
            alarm(&plc).is_some_and(|a| a["state"] == "raised" && a["message"].to_string().contains(&version))
        })
        .await;
        assert_eq!(active(&plc).as_deref(), Some(sound.as_str()), "the line goes on as before");
        until("the refusal is published", || recipe().is_some_and(|r| r["step"] == "refused")).await;
        let said = recipe().unwrap();
        assert_eq!((&said["active"], &said["version"]), (&json!(sound), &json!(version)));
        assert_eq!((&said["replay_done"], &said["replay_total"]), (&json!(20), &json!(20)));
        assert!(said["replay_lost"].as_u64().is_some_and(|lost| lost > 0), "{said}");
    }
    // What nobody can read is refused as well, and says where.
    kitchen.write(&gated.replace("mm_per_px = 0.1", "mm_per_px = -1"));
    plc.command("reload", json!({})).await;
    until("the refusal names the key", || {
        alarm(&plc).is_some_and(|a| a["message"].to_string().contains("mm_per_px = -1"))
    })
    .await;

    // Another size: nothing that people have confirmed says anything about such frames.
    let resized = format!("{gated}\n[frame]\nsize = [320, 240]\n");
    kitchen.write(&resized);
    plc.command("reload", json!({})).await;
    until("the refusal counts the parts of another size", || {
        alarm(&plc).is_some_and(|a| a["message"].to_string().contains("of another size were left out"))
    })
    .await;

    let better = format!("{gated}\n# Looked at again.\n");
    kitchen.write(&better);
    becomes_active(&plc, &version_of(&better)).await;
    until("the alarm is cleared", || alarm(&plc).is_some_and(|a| a["state"] == "cleared")).await;
    let ack = plc.command("trigger", json!({ "part_id": "P" })).await;
    assert_eq!(ack["accepted"], true, "{ack}");
    assert_eq!(plc.result("P").await["pipeline"], format!("{NAME}@{}", version_of(&better)));
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());

    let store = kitchen.station.store();
    let entries = entries(&store);
    for text in [&worse, &without_gate] {
        let version = version_of(text);
        assert_eq!(steps(&entries, &version), [Step::Found, Step::Checked, Step::Refused]);
        let refused = entries.iter().find(|e| e.version == version && e.step == Step::Refused).unwrap();
        let replay = refused.replay.as_ref().expect("its replay stands there");
        assert_eq!((replay.parts, replay.left_out), (20, 0));
        assert!(!replay.lost.is_empty() && refused.reason.contains("pass now"), "{}", refused.reason);
        for part in &replay.lost {
            assert!(part.decided == "fail" && part.was.starts_with("fail") && part.now == "pass", "{part:?}");
            assert!(store.get_by_id(&part.id).unwrap().is_some(), "it can be looked at");
        }
    }
    let refused = entries.iter().find(|e| e.version == version_of(&resized) && e.step == Step::Refused);
    let replay = refused.and_then(|e| e.replay.as_ref()).expect("its replay stands there");
    assert_eq!((replay.parts, replay.other_size), (0, replay.left_out));
    assert!(replay.other_size >= 20, "all confirmed parts: {}", replay.other_size);
    assert_eq!(
        steps(&entries, &version_of(&better)),
        [Step::Found, Step::Checked, Step::Replayed, Step::Active]
    );
    let book = store.recipe_book(NAME).unwrap().unwrap();
    assert_eq!(book.active, version_of(&better));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_at_any_step_has_one_active_version_and_goes_on_with_the_other() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (kitchen, gated, _pictures) = with_archive(&broker).await;
    let (sound, worse) = (version_of(&gated), blind(&gated));
    // From before the version is found to after it is refused.
    for (n, after_ms) in [0, 150, 600, 1_500, 4_000].into_iter().enumerate() {
        let text = format!("{worse}# {n}\n");
        let mut daemon = started(&kitchen, &plc).await;
        kitchen.write(&text);
        plc.send("reload", "");
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        signal(daemon.id(), libc::SIGKILL);
        wait(&mut daemon, "it is killed").await;
        let book = kitchen.station.store().recipe_book(NAME).unwrap().unwrap();
        assert_eq!(book.active, sound, "after {after_ms} ms");

        let mut daemon = started(&kitchen, &plc).await;
        assert_eq!(active(&plc).as_deref(), Some(sound.as_str()), "after {after_ms} ms");
        until("it is decided about", || {
            let log = kitchen.station.log();
            log.contains("this version of the recipe is refused")
                || alarm(&plc).is_some_and(|a| a["message"].to_string().contains(&version_of(&text)))
        })
        .await;
        signal(daemon.id(), libc::SIGTERM);
        assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());
        let entries = entries(&kitchen.station.store());
        assert_eq!(steps(&entries, &version_of(&text)).last(), Some(&Step::Refused));
        assert!(!steps(&entries, &version_of(&text)).contains(&Step::Active));
    }

    // A file that nobody can read does not keep the line from starting: the active version is known.
    kitchen.write("schema = 1\nname = ");
    let mut daemon = started(&kitchen, &plc).await;
    assert_eq!(active(&plc).as_deref(), Some(sound.as_str()));
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());
}

/// Asks the page with the token of a role.
fn ask(page: SocketAddr, method: &str, path: &str, role: Role, body: &str) -> http::Answer {
    tokio::task::block_in_place(|| http::ask(page, method, path, &[&bearer(role)], body))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engineer_may_override_a_refusal_and_go_back_and_the_ledger_keeps_why() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (kitchen, gated, _pictures) = with_archive(&broker).await;
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    kitchen.station.edit("[store]", &format!("[web]\nlisten = \"{page}\"\n[store]"));
    for role in [Role::Operator, Role::Engineer] {
        tokens::put(&kitchen.station.store(), role);
    }
    let mut daemon = started(&kitchen, &plc).await;
    let (sound, worse) = (version_of(&gated), version_of(&blind(&gated)));
    kitchen.write(&blind(&gated));
    assert_eq!(ask(page, "POST", "/api/v1/commands/reload", Role::Operator, "").status, 403);
    assert_eq!(ask(page, "POST", "/api/v1/commands/reload", Role::Engineer, "").status, 202);
    let recipes = || ask(page, "GET", "/api/v1/recipes", Role::Operator, "").json();
    let newest = || recipes().as_array().unwrap().iter().find(|r| r["pipeline"] == NAME).cloned().unwrap();
    until("the worse one is refused", || {
        let newest = newest();
        newest["versions"][0]["version"] == worse.as_str() && newest["versions"][0]["step"] == "refused"
    })
    .await;
    assert_eq!(newest()["active"], sound.as_str());
    let ledger =
        ask(page, "GET", &format!("/api/v1/recipes/{NAME}/ledger?limit=1"), Role::Operator, "").json();
    let lost = ledger[0]["replay"]["lost"].as_array().unwrap();
    assert!(!lost.is_empty() && ledger[0]["replay"]["figures"]["image"]["recall"].is_number(), "{ledger}");
    let part = ask(
        page,
        "GET",
        &format!("/api/v1/inspections/{}", lost[0]["id"].as_str().unwrap()),
        Role::Operator,
        "",
    );
    assert_eq!(part.status, 200, "the part that is lost can be looked at");
    let text = ask(page, "GET", &format!("/api/v1/recipes/{NAME}/versions/{worse}"), Role::Operator, "");
    assert_eq!(String::from_utf8(text.body).unwrap(), blind(&gated));

    let path = format!("/api/v1/recipes/{NAME}/active");
    let words = |version: &str, reason: &str| json!({ "version": version, "reason": reason }).to_string();
    assert_eq!(ask(page, "POST", &path, Role::Operator, &words(&worse, "I want it")).status, 403);
    assert_eq!(ask(page, "POST", &path, Role::Engineer, &words(&worse, "  ")).status, 400);
    assert_eq!(ask(page, "POST", &path, Role::Engineer, &words("none", "why not")).status, 404);
    let taken = ask(page, "POST", &path, Role::Engineer, &words(&worse, "the customer accepts them")).json();
    assert_eq!((&taken["step"], &taken["is_override"]), (&json!("active"), &json!(true)), "{taken}");
    becomes_active(&plc, &worse).await;
    let back = ask(page, "POST", &path, Role::Engineer, &words(&sound, "he does not")).json();
    assert_eq!((&back["step"], &back["is_override"]), (&json!("active"), &json!(false)), "{back}");
    becomes_active(&plc, &sound).await;
    // A file that is there when an engineer speaks is older than his word, whether it was looked at yet or not.
    let newer = format!("{}# of the same minute\n", blind(&gated));
    kitchen.write(&newer);
    assert_eq!(ask(page, "POST", &path, Role::Engineer, &words(&sound, "not that one, either")).status, 200);
    signal(daemon.id(), libc::SIGKILL);
    wait(&mut daemon, "it is killed").await;
    let book = kitchen.station.store().recipe_book(NAME).unwrap().unwrap();
    assert_eq!((book.active, book.decided), (sound.clone(), version_of(&newer)), "it is not looked at again");

    let mut daemon = started(&kitchen, &plc).await;
    assert_eq!(active(&plc).as_deref(), Some(sound.as_str()), "the file still has the other one");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());
    let entries = entries(&kitchen.station.store());
    let is_word = |e: &&Entry| e.by == "http:token:engineer" && e.step == Step::Active;
    let reasons = entries.iter().filter(is_word).map(|e| e.reason.as_str());
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons, ["the customer accepts them", "he does not", "not that one, either"]);
}

/// `inspectd model accept` beside the daemon.
fn accept(kitchen: &Kitchen, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(["model", "accept", "--config"]).arg(kitchen.station.config()).args(more);
    tokio::task::block_in_place(|| command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_loses_confirmed_parts_is_not_accepted_while_the_line_goes_on_with_the_other() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let pair = Pair::new();
    // The model names no proof that this program knows: what speaks for it are the confirmed parts alone.
    let (mut text, key) = (pair.bytes(TEXT), b"inspectd.proof");
    let at = text.windows(key.len()).position(|bytes| bytes == key).expect("it names its proof");
    text[at..at + key.len()].copy_from_slice(b"inspectd.prxxf");
    pair.exchange(TEXT, &text);
    let (kitchen, _, _pictures) = with_archive_of(&broker, Some(&pair)).await;
    let mut daemon = started(&kitchen, &plc).await;
    let pin = |store: &Store| store.model_pin().unwrap().unwrap().mmproj_sha256;

    let sound = pair.bytes(VISION);
    pair.exchange(VISION, &blinded(&sound));
    let refused = accept(&kitchen, &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("pass now") && said.contains("lost: 01"), "{said}");
    let ack = plc.command("trigger", json!({ "part_id": "P" })).await;
    assert_eq!(ack["accepted"], true, "{ack}");
    assert_eq!(plc.result("P").await["tiles"], json!({"planned": 1, "inspected": 1}), "the line goes on");
    let taken = accept(&kitchen, &["--reason", "it is the only one left"]);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", kitchen.station.log());

    let store = kitchen.station.store();
    assert_eq!(pin(&store), hex(&sha256(&blinded(&sound))));
    let entries = entries(&store);
    let of_models: Vec<_> = entries.iter().filter(|e| e.replay.is_some() || e.is_override).collect();
    let [refused, taken] = of_models.as_slice() else { panic!("{of_models:#?}") };
    assert_eq!((refused.step, refused.is_override), (Step::ModelRefused, false));
    assert!(refused.replay.as_ref().is_some_and(|replay| !replay.lost.is_empty() && replay.parts == 20));
    assert_eq!((taken.step, taken.reason.as_str()), (Step::ModelHeld, "it is the only one left"));
    drop(store);

    // Without a daemon nobody can replay, and nothing is accepted on the quiet.
    pair.exchange(VISION, &sound);
    let alone = accept(&kitchen, &[]);
    assert!(!alone.status.success() && String::from_utf8_lossy(&alone.stderr).contains("has a [gate]"));
}
