//! The model for programs of others: OpenAI's own client, and what the line notices of them.
//!
//! ```text
//! openai_client.py --/v1--> inspectd run (the shipped model) --> one line of JSON
//! hundreds of questions --/v1--> the same <--triggers-- a PLC: every part has its verdict in time
//! ```

use super::{Plc, SIMULATOR, camera, http, peers};
use crate::broker::{Broker, until};
use crate::station::{Daemon, Station};
use crate::tokens::{self, bearer, token};
use inspectd::web::auth::Role;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A station that answers guests, with a token of each role.
async fn serving(broker: &Broker) -> (Station, Daemon, SocketAddr) {
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sections = format!("{}[web]\nlisten = \"{page}\"\nmodel_api = true\n", camera("cam1", SIMULATOR));
    let station = Station::new(broker.port, &sections);
    let store = station.store();
    Role::ALL.into_iter().for_each(|role| tokens::put(&store, role));
    drop(store);
    let daemon = station.start();
    until("the page answers", || TcpStream::connect(page).is_ok()).await;
    let models = || http::ask(page, "GET", "/v1/models", &[&bearer(Role::Model)], "");
    until("the model is served", || models().json()["data"][0]["id"].is_string()).await;
    (station, daemon, page)
}

fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model/examples/images/defect-256x256-00.png")
}

/// What a client of another maker says at its end.
fn client(mut command: Command, page: SocketAddr) -> Value {
    let (url, picture) = (format!("http://{page}/v1"), picture().display().to_string());
    command.args([url, token(Role::Model), token(Role::Operator), picture]).stdin(Stdio::null());
    let said = command.output().expect("the client runs");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{out}\n{err}");
    let last = out.lines().rfind(|line| line.starts_with('{'));
    serde_json::from_str(last.unwrap_or_else(|| panic!("{out}\n{err}"))).expect("JSON")
}

fn metric(page: SocketAddr, line: &str) -> f64 {
    let text = http::ask(page, "GET", "/metrics", &[&bearer(Role::Viewer)], "").body;
    let text = String::from_utf8(text).unwrap();
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line}: {text}")).parse().unwrap()
}

fn of<'a>(heard: &'a Value, path: &str) -> &'a Value {
    heard.pointer(path).unwrap_or_else(|| panic!("no {path}: {heard}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_python_client_is_answered_as_it_expects() {
    let broker = Broker::start("", "").await;
    let (_station, _daemon, page) = serving(&broker).await;
    let mut python = Command::new(peers::python());
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/openai_client.py"));
    let heard = tokio::task::spawn_blocking(move || client(python, page)).await.unwrap();

    assert_eq!(heard["model"], heard["retrieved"]);
    assert_eq!(heard["whole"], heard["streamed"], "greedy, both");
    assert_eq!(heard["whole"], heard["accumulated"]);
    assert_eq!(heard["whole"], heard["tokens"], "the tokens are the text");
    assert_eq!((&heard["usage"], &heard["finish"]), (&heard["stream_usage"], &heard["stream_finish"]));
    let tokens = |path: &str| of(&heard, path).as_u64().unwrap();
    assert_eq!(heard["logprobs"].as_array().unwrap().len() as u64, tokens("/usage/completion_tokens"));
    assert!(heard["logprobs"].as_array().unwrap().iter().all(|logprob| logprob.as_f64().unwrap() <= 0.0));
    // A picture of low detail has 256 x 256 pixels: 64 rows, beside the words around it.
    assert!((64..200).contains(&tokens("/usage/prompt_tokens")), "{heard}");
    assert!(tokens("/again_usage") > tokens("/usage/prompt_tokens"));
    assert!(tokens("/video_usage") > tokens("/usage/prompt_tokens") + 64, "two frames: {heard}");

    assert!(heard["parsed"]["sure"].is_boolean() && heard["parsed"]["verdict"].is_string(), "{heard}");
    let is_whole = heard["object_finish"] == "stop";
    let object = serde_json::from_str::<Value>(heard["object"].as_str().unwrap());
    assert!(heard["object"].as_str().unwrap().starts_with('{'), "{heard}");
    assert!(!is_whole || object.is_ok_and(|value| value.is_object()), "{heard}");
    assert!(heard["bare"]["n"].as_u64().is_some_and(|n| n <= 9), "{heard}");
    assert_eq!((&heard["cut"], &heard["stopped"]), (&json!("length"), &json!("")));
    assert_eq!(heard["sampled"][0], heard["sampled"][1], "the same seed");

    let refused = |name: &str| heard["refused"][name].clone();
    let url = |i: u8| format!("messages[0].content[{i}].image_url.url");
    assert_eq!(refused("n"), json!(["BadRequestError", 400, "unsupported_value", "n"]));
    assert_eq!(refused("broken"), json!(["BadRequestError", 400, "invalid_image", url(0)]));
    assert_eq!(refused("far"), json!(["BadRequestError", 400, "invalid_image_url", url(0)]));
    assert_eq!(refused("model"), json!(["NotFoundError", 404, "model_not_found", "model"]));
    assert_eq!(refused("schema"), json!(["BadRequestError", 400, "invalid_value", "response_format"]));
    assert_eq!(refused("long"), json!(["BadRequestError", 400, "context_length_exceeded", "messages"]));
    assert_eq!(refused("large"), json!(["APIStatusError", 413, "request_too_large", null]));
    assert_eq!(refused("key"), json!(["AuthenticationError", 401, "invalid_api_key", null]));
    assert_eq!(refused("role"), json!(["PermissionDeniedError", 403, "role", null]));
    let flood = heard["flood"].as_object().unwrap();
    let of_flood = |kind: &str| flood.get(kind).and_then(Value::as_u64).unwrap_or(0);
    assert!(of_flood("nothing") > 0 && of_flood("RateLimitError") > 0 && flood.len() == 2, "{heard}");

    // The stream that it has closed has not been answered to its end.
    let left = || metric(page, "inspectd_model_api_requests_total{outcome=\"left\"}");
    until("the stream that was closed is stopped", || left() == 1.0).await;
    assert_eq!(metric(page, "inspectd_model_api_open_requests"), 0.0);
    assert!(metric(page, "inspectd_model_api_tokens_total{kind=\"prompt\"}") > 64.0);
}

/// What `.ci/peers-clients` has installed.
fn clients() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let mut candidates = test.ancestors().map(|folder| folder.join("peers-clients"));
    let found = candidates.find(|folder| folder.join("installed.txt").exists());
    found.expect("no clients beside the build: run .ci/peers-clients")
}

#[ignore = "needs Node.js and Dify's code: make test-clients"]
#[tokio::test(flavor = "multi_thread")]
async fn clients_openai_for_node_is_answered_as_it_expects() {
    let broker = Broker::start("", "").await;
    let (_station, _daemon, page) = serving(&broker).await;
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/openai.js"));
    node.env("NODE_PATH", clients().join("node_modules"));
    let heard = tokio::task::spawn_blocking(move || client(node, page)).await.unwrap();
    assert_eq!((&heard["whole"], &heard["whole"]), (&heard["streamed"], &heard["accumulated"]));
    assert_eq!(heard["usage"], heard["stream_usage"]);
    assert!(
        of(&heard, "/usage/prompt_tokens").as_u64().unwrap() > 64 && heard["parsed"]["sure"].is_boolean()
    );
    let refused = |name: &str| heard["refused"][name].clone();
    assert_eq!(refused("n"), json!(["BadRequestError", 400, "unsupported_value", "n"]));
    assert_eq!(refused("model"), json!(["NotFoundError", 404, "model_not_found", "model"]));
    assert_eq!(refused("role"), json!(["PermissionDeniedError", 403, "role", null]));
    assert_eq!(refused("key"), json!(["AuthenticationError", 401, "invalid_api_key", null]));
    let left = || metric(page, "inspectd_model_api_requests_total{outcome=\"left\"}");
    until("the stream that it left is stopped", || left() == 1.0).await;
}

#[ignore = "needs Node.js and Dify's code: make test-clients"]
#[tokio::test(flavor = "multi_thread")]
async fn clients_dify_asks_the_box_by_its_own_code() {
    let broker = Broker::start("", "").await;
    let (_station, _daemon, page) = serving(&broker).await;
    let mut dify = Command::new(clients().join("dify/bin/python"));
    dify.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/dify_client.py"));
    let heard = tokio::task::spawn_blocking(move || client(dify, page)).await.unwrap();
    assert_eq!(heard["whole"], heard["streamed"]);
    assert!(matches!(heard["finish"].as_str(), Some("stop" | "length")), "{heard}");
    assert_eq!(heard["usage"], heard["stream_usage"], "the engine's counts, not Dify's");
    let tokens = of(&heard, "/usage/0").as_u64().unwrap();
    assert!((64..200).contains(&tokens) && of(&heard, "/again").as_u64().unwrap() > tokens, "{heard}");
    assert!(heard["held"]["sure"].is_boolean(), "{heard}");
    for (name, words) in [
        ("endpoint", "404"),
        ("name", "model_not_found"),
        ("role", "needs a token of the role model"),
        ("penalty", "presence_penalty"),
    ] {
        assert!(heard["refused"][name].as_str().unwrap().contains(words), "{name}: {heard}");
    }
}

/// Clients that ask one question again and again, each on a thread of its own.
struct Guests {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Guests {
    /// So many, who ask until they are sent away.
    fn start(count: usize, page: SocketAddr) -> Self {
        let model =
            http::ask(page, "GET", "/v1/models", &[&bearer(Role::Model)], "").json()["data"][0]["id"].clone();
        let number = json!({ "type": "integer", "minimum": 1000, "maximum": 9999 });
        let schema = json!({ "type": "array", "items": number, "minItems": 12 });
        let question = json!({
            "model": model, "max_tokens": 64, "messages": [{ "role": "user", "content": "Say numbers." }],
            "response_format": { "type": "json_schema", "json_schema": { "name": "numbers", "schema": schema } },
        });
        let question = Arc::new(question.to_string());
        let (over, asked, answered) = (Arc::default(), Arc::default(), Arc::default());
        let mut guests = Self { over, asked, answered, threads: vec![] };
        for _ in 0..count {
            let (over, asked) = (Arc::clone(&guests.over), Arc::clone(&guests.asked));
            let (answered, question) = (Arc::clone(&guests.answered), Arc::clone(&question));
            guests.threads.push(std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let token = bearer(Role::Model);
                    let answer = http::ask(page, "POST", "/v1/chat/completions", &[&token], &question);
                    assert!(matches!(answer.status, 200 | 429), "{}", answer.head);
                    asked.fetch_add(1, Ordering::Relaxed);
                    answered.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
            }));
        }
        guests
    }

    /// Questions so far, and answers.
    fn counts(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed))
    }

    /// Sends them away; questions and answers when the last one has gone.
    async fn end(mut self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(|| threads.into_iter().try_for_each(JoinHandle::join)).await;
        assert!(ended.unwrap().is_ok(), "an asker was not answered");
        self.counts()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_questions_make_no_part_late() {
    const QUESTIONS: usize = 300;
    const PARTS: usize = 12;
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (station, _daemon, page) = serving(&broker).await;
    plc.until_listening().await;
    let guests = Guests::start(20, page);
    until("guests are answered", || guests.counts().1 > 0).await;
    for n in 0..PARTS {
        let part = format!("P{n}");
        let ack = plc.command("trigger", json!({ "part_id": part })).await;
        assert_eq!(ack["accepted"], true, "{ack}");
        let result = plc.result(&part).await;
        assert_eq!(result["tiles"], json!({ "planned": 1, "inspected": 1 }), "{result}\n{}", station.log());
    }
    until("hundreds have been asked", || guests.counts().0 >= QUESTIONS).await;
    let (asked, answered) = guests.end().await;
    let late = "inspectd_late_inspections_total{camera=\"cam1\",recipe=\"examples-defects\"}";
    assert_eq!(metric(page, late), 0.0);
    assert!(answered < asked, "{answered} of {asked}");
    let requests =
        |outcome: &str| metric(page, &format!("inspectd_model_api_requests_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((requests("answered"), requests("full")), (answered as f64, (asked - answered) as f64));
}

/// Two kB of schema that no memory holds: the line goes on, and so do other guests.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_would_take_the_box_is_refused_and_the_line_goes_on() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (station, _daemon, page) = serving(&broker).await;
    plc.until_listening().await;
    let next = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
    let mut doubled: serde_json::Map<_, _> =
        (0..30).map(|i| (format!("d{i}"), json!({ "allOf": [next(i), next(i)] }))).collect();
    doubled.insert("d30".into(), json!({ "type": "string", "pattern": "a.*b" }));
    let costly = json!({ "$ref": "#/$defs/d0", "$defs": doubled });
    let model =
        http::ask(page, "GET", "/v1/models", &[&bearer(Role::Model)], "").json()["data"][0]["id"].clone();
    let ask = move |schema: Value| {
        let question = json!({
            "model": model, "max_tokens": 8, "messages": [{ "role": "user", "content": "Say it." }],
            "response_format": { "type": "json_schema", "json_schema": { "name": "it", "schema": schema } },
        });
        http::ask(page, "POST", "/v1/chat/completions", &[&bearer(Role::Model)], &question.to_string())
    };
    let asked = tokio::task::spawn_blocking(move || [ask(costly), ask(json!({ "enum": ["pit", "stain"] }))]);
    for part in ["P1", "P2", "P3"] {
        plc.command("trigger", json!({ "part_id": part })).await;
        let result = plc.result(part).await;
        assert_eq!(result["tiles"], json!({ "planned": 1, "inspected": 1 }), "{result}\n{}", station.log());
    }
    let [refused, answered] = asked.await.unwrap();
    let error = refused.json()["error"].clone();
    assert_eq!((refused.status, &error["param"]), (400, &json!("response_format")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("takes more than"), "{error}");
    let said = answered.json()["choices"][0]["message"]["content"].clone();
    assert!(said == json!("\"pit\"") || said == json!("\"stain\""), "{said}");
    assert_eq!(metric(page, "inspectd_engine_restarts_total"), 0.0, "{}", station.log());
}

/// What a thousand questions cost the line: times of parts without guests and with them, in turn, stage by stage. It
/// measures, and holds only that no part is late.
#[ignore = "minutes, and a quiet machine: make bench-guests"]
#[tokio::test(flavor = "multi_thread")]
async fn bench_guests_a_thousand_questions_beside_the_line() {
    const PARTS: usize = 100;
    const QUESTIONS: usize = 1000;
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let (_station, _daemon, page) = serving(&broker).await;
    plc.until_listening().await;
    let mut number = 0;
    let (mut alone, mut beside, mut answers): (Vec<Value>, Vec<Value>, _) = (vec![], vec![], 0);
    while answers < QUESTIONS {
        for (guests, times) in [(0, &mut alone), (8, &mut beside)] {
            let guests = Guests::start(guests, page);
            for _ in 0..PARTS {
                number += 1;
                let part = format!("P{number}");
                let ack = plc.command("trigger", json!({ "part_id": part })).await;
                assert_eq!(ack["accepted"], true, "{ack}");
                times.push(plc.result(&part).await["latency_ms"].clone());
            }
            answers += guests.end().await.1;
        }
    }
    assert_eq!(
        metric(page, "inspectd_late_inspections_total{camera=\"cam1\",recipe=\"examples-defects\"}"),
        0.0
    );
    println!("{answers} answers beside {} parts; ms without guests and with them:", beside.len());
    for stage in ["total", "queue", "preprocess", "vision", "prefill", "decode"] {
        let of = |times: &[Value], share: f64| {
            let mut times: Vec<f64> = times.iter().map(|of| of[stage].as_f64().unwrap()).collect();
            times.sort_by(f64::total_cmp);
            times[((times.len() - 1) as f64 * share) as usize]
        };
        let [half, most] = [0.5, 0.99].map(|share| (of(&alone, share), of(&beside, share)));
        println!("{stage}: median {:.1} and {:.1}, p99 {:.1} and {:.1}", half.0, half.1, most.0, most.1);
    }
}
