//! How the line stands: one answer for machines, a beat a second, and the line view of the page.

use super::browser::Browser;
use super::inspections::id;
use super::page::log_in;
use super::server::{Server, commit, part, picture};
use super::tokens::token;
use inspectd::domain::alarm::Alarm;
use inspectd::domain::camera::CameraLoad;
use inspectd::domain::trigger::Command;
use inspectd::store::images::{hex, sha256};
use inspectd::web::auth::Role;
use inspectd::web::cameras::Warning;
use inspectd::web::line::{EngineNow, EngineState, LineNow, Pulse};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// The longest wait; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

fn alarm(code: &str, message: &str) -> Alarm {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Alarm { code: code.into(), message: message.into(), since }
}

/// Gives a server a line of two cameras, of which the second has none of the daemon's figures, and a pulse to change.
/// The camera `nowhere` refuses to be paused.
fn with_line(server: &Server) -> Arc<Mutex<Pulse>> {
    server.run_recipes(&[("cam1", "machined-plate"), ("nowhere", "sound")]);
    let pulse = Arc::new(Mutex::new(Pulse { alive: true, alarms: vec![] }));
    let shown = Arc::clone(&pulse);
    server.web.show_pulse(Box::new(move || shown.lock().unwrap().clone()));
    let load = CameraLoad {
        is_triggered: true,
        is_taking: false,
        triggers: 2,
        frames: 1,
        frames_max: 4,
        deadline: Duration::from_secs(8),
    };
    let engine = EngineNow { state: EngineState::Ready, why: String::new(), losses: 0, model: "tiny".into() };
    server.web.show_line(Box::new(move || LineNow {
        loads: vec![("cam1".to_owned(), load)],
        engine: Some(engine.clone()),
        parts: vec![("housing".to_owned(), vec!["cam1".to_owned(), "nowhere".to_owned()])],
    }));
    pulse
}

/// How the line stands once this holds: an answer is given again for a moment.
fn line(server: &Server, holds: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let line = server.get("/api/v1/line", Role::Viewer).json();
        if holds(&line) {
            return line;
        }
        assert!(start.elapsed() < PATIENCE, "{line}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn one_answer_says_how_the_line_stands() {
    let server = Server::start(3);
    let before = server.get("/api/v1/line", Role::Viewer).json();
    assert_eq!((&before["cameras"], &before["engine"]), (&json!([]), &json!(null)), "none is open yet");
    assert_eq!((&before["alive"], &before["alarms"]), (&json!(true), &json!([])));
    assert_eq!(before["parts"], json!([]));

    let pulse = with_line(&server);
    pulse.lock().unwrap().alarms =
        vec![alarm("image_cam1", "dark"), alarm("new", "?"), alarm("result_held_plant", "too long")];
    let shown = line(&server, |line| line["cameras"] != json!([]));
    let (camera, quiet) = (&shown["cameras"][0], &shown["cameras"][1]);
    for (key, value) in [
        ("id", json!("cam1")),
        ("state", json!("ready")),
        ("pipeline", json!("machined-plate")),
        ("paused", json!(false)),
        ("triggered", json!(true)),
        ("triggers_waiting", json!(2)),
        ("frames_waiting", json!(1)),
        ("frames_max", json!(4)),
        ("deadline_ms", json!(8000)),
        ("picture", json!(hex(&sha256(&picture())))),
    ] {
        assert_eq!(camera[key], value, "{key}");
    }
    let times = json!({"parts": 3, "last_ms": 900.0, "median_ms": 900.0, "worst_ms": 900.0, "late": 0});
    assert_eq!(camera["times"], times);
    assert_eq!((&camera["last"]["id"], &camera["last"]["verdict"]), (&json!(id(3)), &json!("pass")));
    let small = format!("/api/v1/thumbs/{}", camera["picture"].as_str().unwrap());
    assert_eq!(server.get(&small, Role::Viewer).status, 200);
    assert_eq!(
        (&quiet["id"], &quiet["last"], &quiet["picture"]),
        (&json!("nowhere"), &json!(null), &json!(null))
    );
    assert_eq!((&quiet["triggered"], &quiet["deadline_ms"]), (&json!(false), &json!(null)));

    let since = "2023-11-14T22:13:20.000Z";
    let alarms = json!([
        {"code": "image_cam1", "kind": "image", "about": "cam1", "message": "dark", "since": since},
        {"code": "new", "kind": "", "about": "", "message": "?", "since": since},
        {"code": "result_held_plant", "kind": "result_held", "about": "plant", "message": "too long",
            "since": since},
    ]);
    assert_eq!(shown["alarms"], alarms);
    assert_eq!(shown["parts"], json!([{"name": "housing", "cameras": ["cam1", "nowhere"]}]));
    assert_eq!(shown["engine"], json!({"state": "ready", "why": "", "losses": 0, "model": "tiny"}));
    assert_eq!(shown["sinks"], json!([{"name": "mqtt", "connected": false, "owed": 3}]));
    assert!(shown["disk"]["free_bytes"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!(shown["disk"]["refuses"], "");
    assert!(shown["at"].is_string() && shown["synchronised"].is_boolean(), "{shown}");

    commit(&server.store, &part(4));
    let next = line(&server, |line| line["cameras"][0]["last"]["id"] == id(4));
    assert_eq!(next["cameras"][0]["times"]["parts"], 4);
}

#[test]
fn every_open_page_hears_each_second_whether_the_station_lives_and_how_many_alarms_stand() {
    let server = Server::start(0);
    let pulse = with_line(&server);
    let mut stream = TcpStream::connect(server.web.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        token(Role::Viewer)
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut hears = |what: &str| {
        let (mut heard, mut piece) = (String::new(), [0; 4096]);
        let start = Instant::now();
        while !heard.contains(what) {
            assert!(start.elapsed() < PATIENCE, "{what}: {heard}");
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the stream ended without {what}: {heard}");
            heard += &String::from_utf8_lossy(&piece[..n]);
        }
    };
    hears("event: beat\ndata: {\"alive\":true,\"alarms\":0}\n");
    pulse.lock().unwrap().alarms = vec![alarm("engine", "lost"), alarm("store_full", "10 MB left")];
    hears("{\"alive\":true,\"alarms\":2}");
    hears("{\"alive\":true,\"alarms\":2}");
    *pulse.lock().unwrap() = Pulse { alive: false, alarms: vec![] };
    hears("{\"alive\":false,\"alarms\":0}");
}

/// A camera's card, as a script finds it.
fn card(id: &str) -> String {
    format!("document.querySelector('.cam[data-id={id}]')")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_sees_the_alarms_in_every_view_and_what_to_do_about_them_in_the_line_s() {
    let server = Server::start(4);
    let pulse = with_line(&server);
    pulse.lock().unwrap().alarms = vec![alarm("image_cam1", "dark: mean grey value 3")];
    let browser = Browser::start(1024, 768).await;
    log_in(&browser, &server, "viewer").await;
    for view in ["queue", "charts", "recipes", "learn"] {
        browser.page.goto(&format!("{}?view={view}", server.web.url)).await;
        browser
            .until("(a => a.offsetParent && a.innerText.trim() === '1')(document.querySelector('#alarms'))")
            .await;
    }
    browser.click("#alarms").await;
    browser.until(&format!("{}.querySelector('img').naturalWidth > 0", card("cam1"))).await;
    let listed = "document.querySelector('#line-alarms li').innerText";
    for words in ["cam1: The pictures are dark", "Look at the light", "mean grey value 3", "image_cam1"] {
        browser.until(&format!("{listed}.includes({words:?})")).await;
    }
    let said = browser.value(&format!("{}.innerText", card("cam1"))).await;
    for words in [
        "ready",
        "machined-plate",
        "triggers 2",
        "pictures 1 / 4",
        "900 ms",
        "deadline 8,000 ms",
        "mean grey",
    ] {
        assert!(said.as_str().unwrap().contains(words), "{words} in {said}");
    }
    assert_eq!(browser.value("document.querySelector('[data-tile=engine] strong').innerText").await, "ready");
    assert_eq!(browser.value("document.querySelector('[data-tile=broker] strong').innerText").await, "away");
    assert_eq!(browser.value("document.querySelectorAll('#main button').length").await, 0, "he only looks");
    let wide = browser.value("document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(wide, true, "nothing leaves the screen");

    // An inspector that hangs is told across every view, and so is that it goes on.
    pulse.lock().unwrap().alive = false;
    browser.until("document.querySelector('#frozen').innerText.includes('nothing is inspected')").await;
    *pulse.lock().unwrap() = Pulse { alive: true, alarms: vec![] };
    browser
        .until("document.querySelector('#frozen').hidden && document.querySelector('#alarms').hidden")
        .await;
    browser.until("document.querySelector('#line-alarms').innerText.includes('No alarm stands.')").await;

    browser.value("localStorage.setItem('lang', 'zh')").await;
    pulse.lock().unwrap().alarms = vec![alarm("image_cam1", "dark")];
    browser.page.goto(&format!("{}?view=line", server.web.url)).await;
    browser.until(&format!("{listed}.includes('请检查光源')")).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_commands_a_camera_with_keys_on_a_phone_and_reads_why_not() {
    let server = Server::start(4);
    with_line(&server);
    let browser = Browser::start(500, 840).await;
    log_in(&browser, &server, "operator").await;
    browser.click("button.tab[data-view=line]").await;
    browser.until(&format!("{}.querySelector('.badge.fail')", card("cam1"))).await;
    let small = "[...document.querySelectorAll('button, a.button, input, select')].filter(e => e.offsetParent && \
        (e.getBoundingClientRect().height < 44 || e.getBoundingClientRect().width < 44)).map(e => e.outerHTML.slice(0, 120))";
    assert_eq!(browser.value(small).await, json!([]));
    let wide = browser.value("document.documentElement.scrollWidth <= innerWidth").await;
    assert_eq!(wide, true, "nothing leaves the screen");
    let hidden = format!("{}.querySelector('[data-command=trigger]').hidden", card("nowhere"));
    assert_eq!(browser.value(&hidden).await, true, "it takes no triggers");

    browser.value(&format!("{}.querySelector('[data-command=trigger]').focus()", card("cam1"))).await;
    browser.keys("\u{E007}").await;
    browser.until("document.querySelector('.toast')?.innerText.includes('cam1 · triggered')").await;
    {
        let commanded = server.commanded.lock().unwrap();
        let [Command::Trigger(request)] = commanded.as_slice() else { panic!("{commanded:?}") };
        assert_eq!(request.camera.as_deref(), Some("cam1"));
    }
    // What is new changes the card, and nobody loses his place.
    commit(&server.store, &part(5));
    browser.until(&format!("{}.querySelector('.badge.review')", card("cam1"))).await;
    assert_eq!(browser.value("document.activeElement.dataset.command").await, "trigger");

    // What is said below would lie over the button.
    browser.until("!document.querySelector('.toast')").await;
    browser.click(".cam[data-id=nowhere] [data-command=pause]").await;
    let error = format!("{}.querySelector('.error').innerText", card("nowhere"));
    browser.until(&format!("{error}.includes('there is no camera')")).await;
    assert_eq!(server.commanded.lock().unwrap().len(), 1, "it was refused");
    browser.click(".press.all [data-command=pause]").await;
    browser
        .until("[...document.querySelectorAll('.toast')].some(toast => toast.innerText.includes('paused'))")
        .await;
    assert_eq!(server.commanded.lock().unwrap().last(), Some(&Command::Pause { camera: None }));

    // All views of a part at once, by the name of the part.
    browser.until("!document.querySelector('.toast')").await;
    browser.click("#line-parts [data-part=housing]").await;
    browser.until("document.querySelector('.toast')?.innerText.includes('housing · triggered')").await;
    {
        let commanded = server.commanded.lock().unwrap();
        let Some(Command::Trigger(request)) = commanded.last() else { panic!("{commanded:?}") };
        assert_eq!((request.part.as_deref(), request.camera.as_deref()), (Some("housing"), None));
    }
    browser.end().await;
}

/// A request that fails is no end: the view says that it has no connection, and goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_view_that_asks_again_goes_on_after_requests_that_failed() {
    let server = Server::start(2);
    // Nothing was inspected of this camera, so that the view of a new product asks on.
    server.run_recipes(&[("side", "sound")]);
    let browser = Browser::start(1280, 800).await;
    log_in(&browser, &server, "engineer").await;
    let sign = "document.querySelector('#no-connection')";
    for view in ["line", "recipes", "learn", "product"] {
        browser.page.goto(&format!("{}?view={view}", server.web.url)).await;
        browser.until(&format!("{sign}?.hidden")).await;
        let fails =
            "(window.kept = window.fetch, window.fetch = () => Promise.reject(new TypeError('away')), true)";
        browser.value(fails).await;
        browser.until(&format!("!{sign}.hidden && {sign}.innerText.includes('No connection')")).await;
        browser.value("(window.fetch = window.kept, true)").await;
        browser.until(&format!("{sign}.hidden")).await;
    }
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warnings_about_the_config_stand_in_the_line_view_for_engineers() {
    let server = Server::start(1);
    server.run_recipes(&[("top", "blind")]);
    let path = "/api/v1/config/warnings";
    assert_eq!(server.get(path, Role::Engineer).json(), json!([]), "before anything is known");
    let warning = Warning {
        file: "inspectd.toml".into(),
        line: 30,
        key: "mqtt.url".into(),
        value: "\"mqtt://plc\"".into(),
        message: "the password goes in clear text".into(),
    };
    server.web.show_config_warnings(vec![warning]);
    assert_eq!(server.get(path, Role::Operator).status, 403);
    assert_eq!(server.get(path, Role::Engineer).json()[0]["key"], "mqtt.url");
    let own = "document.querySelector('#risks [data-config]')";
    let of_recipe = "document.querySelector('#risks [data-recipe=blind]')";
    for (name, is_shown) in [("engineer", true), ("operator", false)] {
        let browser = Browser::start(1280, 800).await;
        log_in(&browser, &server, name).await;
        browser.until(&format!("{of_recipe} && !{own}")).await;
        browser.click("button.tab[data-view=line]").await;
        browser.until(&format!("{of_recipe} && Boolean({own}) === {is_shown}")).await;
        if is_shown {
            let said = browser.value(&format!("{own}.innerText")).await;
            for words in ["The config", "inspectd.toml:30", "mqtt.url", "in clear text"] {
                assert!(said.as_str().unwrap().contains(words), "{words} in {said}");
            }
        }
        browser.end().await;
    }
}
