//! Servers in the place of the engine's process: what they answer becomes a verdict, and whatever goes wrong with them a
//! review or another server's verdict, never a pass. The servers are scripted (`common/scripted.rs`); a real one is in
//! `cluster/llama.rs`.

#[path = "common/broker.rs"]
#[allow(dead_code, reason = "no broker is killed here")]
mod broker;
#[path = "common/config.rs"]
mod config;
#[path = "cluster/daemon.rs"]
mod daemon;
#[path = "common/desk.rs"]
#[allow(dead_code, reason = "no truth is changed here")]
mod desk;
#[path = "web/http.rs"]
#[allow(dead_code, reason = "no refusal is read here")]
mod http;
#[path = "cluster/llama.rs"]
mod llama;
#[path = "cluster/mixed.rs"]
mod mixed;
#[path = "common/scripted.rs"]
mod scripted;
#[path = "common/station.rs"]
#[allow(dead_code, reason = "there is no engine's process here")]
mod station;
#[path = "common/tokens.rs"]
mod tokens;

use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::grade::{Reason, Verdict};
use inspectd::domain::inspection::Inspection;
use inspectd::domain::pipeline::Pipeline;
use inspectd::engine::cluster::{Cluster, Options, Url, authorities};
use inspectd::engine::{Backend as _, Class, Engine, EngineError, Event, Order, Readiness};
use inspectd::inspect::proof::{ByNamedProof, ByProof};
use inspectd::inspect::under_way;
use inspectd::recipe::pipeline_from_str;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use scripted::{Act, Script, Server};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use vlm::{Ask, Form, Job, Shown, Vlm, VlmError};

const PIT: &str = r#"[{"bbox_2d":[100,100,300,300],"label":"pit","severity":"major"}]"#;
/// The longest wait for anything; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

fn options(servers: &[&Server]) -> Options {
    options_of(servers.iter().map(|server| Url::parse(&server.url()).unwrap()).collect())
}

fn options_of(servers: Vec<Url>) -> Options {
    Options {
        servers,
        kind: None,
        model: None,
        labels: vec![],
        key: None,
        tls: None,
        timeout: Duration::from_secs(20),
        requests_max: 4,
        min_pixels: 65_536,
        admission: Arc::new(ByProof(Arc::new(ByNamedProof))),
    }
}

fn loaded(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options).unwrap();
    cluster.load(&|| {}, &|| true).unwrap();
    cluster
}

fn room(options: Options) -> Engine {
    Engine::start(Box::new(loaded(options)), Box::new(|| {})).unwrap()
}

fn recipe() -> Pipeline {
    pipeline_from_str("scripted.toml", include_str!("common/scripted.toml")).unwrap()
}

/// One tile.
fn frame() -> Frame {
    Frame {
        camera: "cam1".into(),
        pixels: Arc::new(image::RgbImage::from_fn(100, 100, |x, y| image::Rgb([x as u8, y as u8, 9]))),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: "test".into(),
        replayed: false,
    }
}

fn inspected(engine: &Engine) -> Inspection {
    under_way::inspect(engine, Class::Line, frame(), Arc::new(recipe()), &|| true).unwrap()
}

fn verdict(engine: &Engine) -> Verdict {
    inspected(engine).verdict
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Review(Reason::Engine { message }) => message,
        Verdict::Review(reason) => format!("{reason:?}"),
        other => panic!("{other:?}"),
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_servers_of_every_kind_answer_becomes_a_verdict() {
    for kind in ["vllm", "llama-server", "openai"] {
        let server = Server::start(Script { kind, ..Script::says("[]", 0.99) });
        let engine = room(options(&[&server]));
        let good = inspected(&engine);
        assert_eq!(good.verdict, Verdict::Pass, "{kind}");
        let model = &good.model;
        assert!(
            model.name.starts_with("qwen (remote, ") && model.name.contains(&server.port.to_string()),
            "{}",
            model.name
        );
        assert!([&model.text_sha256, &model.mmproj_sha256].iter().all(|hash| hash.len() == 64), "{model:?}");
        server.tell(|script| script.act = Act::Says(PIT, 0.99));
        let bad = inspected(&engine);
        assert!(matches!(bad.verdict, Verdict::Fail(_)), "{kind}: {:?}", bad.verdict);
        assert_eq!((bad.findings.len(), bad.findings[0].label.as_str()), (1, "pit"));
        server.tell(|script| script.act = Act::Says("[]", 0.3));
        assert!(matches!(verdict(&engine), Verdict::Review(_)), "{kind}: it is not sure");
    }
}

/// What one answer can be, and a word of the reason.
fn faults() -> Vec<(Act, &'static str)> {
    let answer = |text: &'static str| Act::Says(text, 0.99);
    vec![
        (Act::Dies, "connection"),
        (Act::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_vec()), "what is no answer"),
        (Act::Raw(b"\x00\xff garbage".to_vec()), "127.0.0.1"),
        (Act::Raw(vec![]), "connection"),
        (Act::Status("500 Internal Server Error"), "status 500: as told"),
        (Act::Status("400 Bad Request"), "status 400: as told"),
        (Act::Status("401 Unauthorized"), "refuses the key"),
        (Act::Blind, "does not see the picture"),
        (Act::Bare, "without probabilities"),
        (Act::CutOff, "Unparsable"),
        (answer("no defects"), "leaves its form"),
        (answer(r#"[{"bbox_2d":[0,0,9,9],"label":"rust","severity":"minor"}]"#), "leaves its form"),
        (answer("[{"), "ends before its form"),
    ]
}

#[test]
fn whatever_a_server_does_wrong_is_a_review_with_its_reason() {
    for (act, word) in faults() {
        let server = Server::start(Script { act: act.clone(), ..Script::says("", 1.0) });
        let why = reason(verdict(&room(options(&[&server]))));
        assert!(why.contains(word), "{act:?}: {why}");
    }
}

#[test]
fn what_one_server_does_wrong_another_one_does_right() {
    let lost = faults().into_iter().map(|(act, _)| act).filter(|act| {
        matches!(act, Act::Dies | Act::Raw(_) | Act::Blind)
            || matches!(act, Act::Status(status) if !status.starts_with("400"))
    });
    for act in lost.chain([Act::Status("429 Too Many Requests")]) {
        let (bad, good) = (
            Server::start(Script { act: act.clone(), is_once: true, ..Script::says("", 1.0) }),
            Server::start(Script::says("[]", 0.99)),
        );
        let engine = room(options(&[&bad, &good]));
        assert_eq!(verdict(&engine), Verdict::Pass, "{act:?}");
        assert_eq!(
            (bad.asked(), good.asked()),
            (1, 1),
            "{act:?}: the first is asked, then the other one, once"
        );
        let busy = matches!(act, Act::Status(status) if status.starts_with("429"));
        assert_eq!(engine.health().losses, 0, "{act:?}: a server was always there");
        if !busy {
            until("the lost server is named", || {
                let fault = engine.health().fault;
                fault.is_some_and(|fault| fault.contains(&bad.port.to_string()))
            });
        }
    }
}

#[test]
fn a_server_that_is_late_is_lost_and_its_question_asked_elsewhere() {
    let stalls = Server::start(Script { act: Act::Stalls, ..Script::says("", 1.0) });
    let right = Server::start(Script::says("[]", 0.99));
    let short = |servers: &[&Server]| Options { timeout: Duration::from_secs(2), ..options(servers) };
    assert_eq!(verdict(&room(short(&[&stalls, &right]))), Verdict::Pass);
    let why = reason(verdict(&room(short(&[&stalls]))));
    assert!(why.contains("no answer for 2 s"), "{why}");
}

#[test]
fn a_part_whose_servers_stall_beyond_its_deadline_is_a_review() {
    let server = Server::start(Script { act: Act::Stalls, ..Script::says("", 1.0) });
    let engine = room(options(&[&server]));
    let mut recipe = recipe();
    recipe.verdict.deadline = Duration::from_millis(300);
    let inspection = under_way::inspect(&engine, Class::Line, frame(), Arc::new(recipe), &|| true).unwrap();
    assert!(matches!(inspection.verdict, Verdict::Review(_)), "{:?}", inspection.verdict);
}

#[test]
fn a_busy_server_is_asked_again() {
    for status in ["429 Too Many Requests", "503 Service Unavailable\r\nretry-after: 1"] {
        let act = Act::After(2, status, Box::new(Act::Says("[]", 0.99)));
        let server = Server::start(Script { act, ..Script::says("", 1.0) });
        let engine = room(options(&[&server]));
        assert_eq!(verdict(&engine), Verdict::Pass, "{status}");
        assert_eq!((server.asked(), engine.failures()), (3, 0), "{status}");
    }
}

fn refused(options: Options) -> String {
    match Cluster::new(options).unwrap().load(&|| {}, &|| true) {
        Err(EngineError::NotProven { why }) => why,
        Err(other) => panic!("{other}"),
        Ok(info) => panic!("{info:?}"),
    }
}

#[test]
fn a_server_that_counts_otherwise_is_refused_with_both_numbers() {
    for kind in ["vllm", "llama-server", "openai"] {
        let server = Server::start(Script { kind, miscounts: 7, ..Script::says("[]", 0.99) });
        let why = refused(options(&[&server]));
        // 8 of the turns, 10 digits, 64 rows and two around them.
        assert!(why.contains("counts 91 tokens") && why.contains("we count 84"), "{why}");
        assert!(why.contains(&format!("127.0.0.1:{}", server.port)), "{why}");
        assert_eq!(server.asked(), 0);
    }
}

#[test]
fn which_model_it_is_must_be_clear() {
    let named = |models: &[&'static str], model: Option<&str>| {
        let server = Server::start(Script { models: models.to_vec(), ..Script::says("[]", 0.99) });
        let options = Options { model: model.map(str::to_owned), ..options(&[&server]) };
        Cluster::new(options)
            .unwrap()
            .load(&|| {}, &|| true)
            .map(|info| info.name.clone())
            .map_err(|e| e.to_string())
    };
    assert!(named(&[], None).unwrap_err().contains("it has no model"));
    assert!(named(&["a", "b"], None).unwrap_err().contains("several models: name one by remote_model; a, b"));
    assert!(named(&["a", "b"], Some("c")).unwrap_err().contains("it has no model \"c\"; it has a, b"));
    assert!(named(&["a", "b"], Some("b")).unwrap().starts_with("b (remote, vllm 0.15.0 at 127.0.0.1:"));
}

#[test]
fn a_server_with_another_model_is_kept_out() {
    let own = Server::start(Script::says("[]", 0.99));
    let other = Server::start(Script { size: 2, ..Script::says("[]", 0.99) });
    let engine = room(options(&[&own, &other]));
    for _ in 0..4 {
        assert_eq!(verdict(&engine), Verdict::Pass);
    }
    let asked = [own.asked(), other.asked()];
    assert!(asked.contains(&4) && asked.contains(&0), "the first that was let in: {asked:?}");
    assert!(engine.health().fault.unwrap().contains("another model"));
}

#[test]
fn a_key_opens_what_is_closed_without_it() {
    let server = Server::start(Script { key: Some("hunter2"), ..Script::says("[]", 0.99) });
    let with = |key: Option<&str>| Options { key: key.map(str::to_owned), ..options(&[&server]) };
    let why = refused(with(None));
    assert!(why.contains("401"), "{why}");
    let why = refused(with(Some("wrong")));
    assert!(why.contains("401") && !why.contains("wrong"), "{why}");
    assert_eq!(verdict(&room(with(Some("hunter2")))), Verdict::Pass);
}

#[test]
fn https_is_trusted_by_its_authority_alone() {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    let certificate = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (own, other) = (certificate(), certificate());
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let server = Server::with(Script::says("[]", 0.99), Some(Arc::new(tls).into()));
    let trusting = |pem: String| {
        let tls = authorities(&file("ca.pem", pem)).unwrap();
        Options { tls: Some(tls), ..options(&[&server]) }
    };
    assert_eq!(verdict(&room(trusting(own.cert.pem()))), Verdict::Pass);
    let why = refused(trusting(other.cert.pem()));
    assert!(why.contains("TLS"), "{why}");
    assert!(authorities(&file("none.pem", "no certificate".into())).is_err());
}

fn order(reply: &Arc<dyn Fn(Event) + Send + Sync>) -> Order {
    let labels = Arc::from(["pit".to_owned()]);
    let shown = Shown::Images(vec![frame().pixels]);
    let ask = || Ask::new("Find pit.", Form::Defects { labels: Arc::clone(&labels) }, 64);
    let job = Job { shown, min_pixels: 4096, max_pixels: 65_536, asks: vec![ask(), ask()], adapter: None };
    Order { class: Class::Line, deadline: Instant::now() + PATIENCE, job, reply: Arc::clone(reply) }
}

/// Both servers work, one is killed while it has questions, and nothing is answered twice or not at all.
#[test]
fn a_server_that_is_killed_loses_no_question_of_a_cluster() {
    let (mut first, second) =
        (Server::start(Script::says("[]", 0.99)), Server::start(Script::says("[]", 0.99)));
    let engine = room(options(&[&first, &second]));
    let heard: Arc<Mutex<BTreeMap<u64, Vec<usize>>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let reply: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(move |event| {
        if let Event::Answer(answer) = event {
            let right = answer.answers.iter().filter(|answer| answer.is_ok()).count();
            hears.lock().unwrap().entry(answer.id).or_default().push(right);
        }
    });
    let count = || heard.lock().unwrap().len();
    let mut given = 0;
    let mut give = |more: usize| {
        (0..more).for_each(|_| _ = engine.submit(order(&reply)).unwrap());
        given += more;
        given
    };
    let all = give(40);
    until("all are answered", || count() == all);
    assert!(first.asked() > 0 && second.asked() > 0, "{} {}", first.asked(), second.asked());
    first.tell(|script| script.act = Act::Stalls);
    let before = first.asked();
    let all = give(40);
    until("it has questions that it does not answer", || first.asked() > before);
    first.kill();
    until("all are answered", || count() == all);
    for answers in heard.lock().unwrap().values() {
        assert_eq!(answers, &[2], "one answer, of two right questions");
    }
    assert_eq!(engine.health().losses, 0);
    let fault = engine.health().fault.unwrap();
    assert!(fault.contains(&first.port.to_string()) && fault.contains("1 of 2 servers answer"), "{fault}");
    first.tell(|script| script.act = Act::Says("[]", 0.99));
    first.restart();
    until("it is let in again", || engine.health().fault.is_none());
}

#[test]
fn without_any_server_the_line_has_reviews_until_one_is_back() {
    let mut server = Server::start(Script::says("[]", 0.99));
    let engine = room(options(&[&server]));
    assert_eq!(verdict(&engine), Verdict::Pass);
    server.kill();
    let why = reason(verdict(&engine));
    assert!(why.contains(&server.port.to_string()), "{why}");
    until("its loss is counted", || engine.health().losses == 1);
    server.restart();
    until("it is let in again", || engine.readiness() == Readiness::Ready);
    assert_eq!(verdict(&engine), Verdict::Pass);
}

#[test]
fn what_no_server_can_do_is_said_and_asked_of_none() {
    let server = Server::start(Script::says("[]", 0.99));
    let mut cluster = loaded(options(&[&server]));
    let lark = Ask::new("?", Form::Lark("start: \"a\"".into()), 9);
    let shown = Shown::Images(vec![frame().pixels]);
    let small = Ask::new("?", Form::Lines, 9);
    let job = |ask, max_pixels| Job {
        shown: shown.clone(),
        min_pixels: 1,
        max_pixels,
        asks: vec![ask],
        adapter: None,
    };
    let answers = cluster.answer(&[job(lark, 65_536), job(small, 1024)], &|| true).jobs;
    for (answer, word) in answers.iter().zip(["a grammar", "max_pixels = 1024"]) {
        let Err(VlmError::Unable { why }) = &answer[0] else { panic!("{answer:?}") };
        assert!(why.contains(word), "{why}");
    }
    assert_eq!((server.asked(), cluster.failures()), (0, 0));
}

/// Whatever bytes a server sends in the place of an answer: no panic, and no pass.
#[test]
fn any_bytes_are_a_review() {
    let server = Server::start(Script::says("[]", 0.99));
    let heads = [
        "",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n",
        "HTTP/1.1 204 No\r\n\r\n",
    ];
    let bytes = (prop::sample::select(heads.to_vec()), prop::collection::vec(any::<u8>(), 0..200));
    let mut runner = TestRunner::new(Runs { cases: 48, failure_persistence: None, ..Runs::default() });
    let outcome = runner.run(&bytes, |(head, bytes)| {
        server.tell(|script| script.act = Act::Raw([head.as_bytes(), &bytes].concat()));
        // An answer that never ends is late.
        let engine = room(Options { timeout: Duration::from_secs(2), ..options(&[&server]) });
        let verdict = verdict(&engine);
        prop_assert!(matches!(verdict, Verdict::Review(_)), "{:?}", verdict);
        Ok(())
    });
    outcome.unwrap();
}

/// The figures of `src/guide/cluster.md`, counted by a server that is asked about one frame.
#[test]
fn the_guide_says_how_many_tokens_a_frame_is() {
    let guide = include_str!("../src/guide/cluster.md");
    for max_pixels in [65_536, 262_144] {
        let server = Server::start(Script::says("[]", 0.99));
        let engine = room(options(&[&server]));
        let mut recipe = recipe();
        (recipe.tiling.tile_px, recipe.tiling.overlap_px, recipe.tiling.max_tiles) = (512, 64, 64);
        recipe.prompts[0].budget.max_pixels = max_pixels;
        let part = Frame { pixels: Arc::new(image::RgbImage::new(2448, 2048)), ..frame() };
        let inspection = under_way::inspect(&engine, Class::Line, part, Arc::new(recipe), &|| true).unwrap();
        assert_eq!((inspection.verdict, inspection.tiles.planned), (Verdict::Pass, 30));
        let (asked, tokens) = (server.asked(), server.picture_tokens());
        let row = format!("| `max_pixels = {max_pixels}` | {} | {tokens} |", tokens / asked);
        assert!(asked == 30 && guide.contains(&row), "{row}");
    }
}
