//! The model API without an engine: who may ask, what is said to whom, and what becomes of questions whose askers leave.

use super::http::{Answer, ask};
use super::server::{Server, options, picture};
use super::tokens::{bearer, token};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inspectd::web::auth::Role;
use inspectd::web::model_api::BODY_BYTES_MAX;
use inspectd::web::model_api::asked::{
    Answer as Said, Answering, Asked, Hear, Heard, Question, Refusal, Served, Token,
};
use inspectd::web::model_api::picture::PICTURES_MAX;
use inspectd::web::model_api::share::{AT_ONCE_MAX, OF_TOKEN_MAX};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";

/// Answers by a script: what it answers `hold` it says when it is released.
#[derive(Default)]
struct Script {
    refuses: Mutex<Option<Refusal>>,
    held: Mutex<Vec<Hear>>,
    asked: AtomicUsize,
    stopped: Arc<AtomicUsize>,
}

fn end() -> Heard {
    let token = |text: &str| Token { bytes: text.as_bytes().to_vec(), logprob: -0.5 };
    let tokens = vec![token("po"), token("ng")];
    Heard::End(Ok(Said { text: "pong".into(), prompt_tokens: 21, tokens, is_cut: false }))
}

impl Answering for Script {
    fn served(&self) -> Option<Served> {
        Some(Served { name: "small".into(), fingerprint: "fp_1".into() })
    }

    fn ask(&self, question: Question, hear: Hear) -> Result<Asked, Refusal> {
        if let Some(refusal) = self.refuses.lock().unwrap().clone() {
            return Err(refusal);
        }
        if question.streams {
            hear.try_send(Heard::Text("po".into())).unwrap();
        }
        if format!("{:?}", question.turns).contains("hold") {
            self.held.lock().unwrap().push(hear);
        } else {
            if question.streams {
                hear.try_send(Heard::Text("ng".into())).unwrap();
            }
            hear.try_send(end()).unwrap();
        }
        // Last, so that whoever has seen the count finds what is held.
        self.asked.fetch_add(1, Ordering::SeqCst);
        let stopped = Arc::clone(&self.stopped);
        Ok(Asked::new(move || _ = stopped.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Script {
    fn release(&self) {
        for hear in self.held.lock().unwrap().drain(..) {
            // Whoever has left hears nothing.
            let _ = hear.try_send(end());
        }
    }
}

fn server() -> (Server, Arc<Script>) {
    let (server, script) = (Server::start(0), Arc::<Script>::default());
    server.web.answer_with(Arc::<Script>::clone(&script));
    (server, script)
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_mins(1), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn question(text: &str, more: Value) -> String {
    let mut body = json!({ "model": "small", "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn asks(server: &Server, body: &str) -> Answer {
    server.ask("POST", CHAT, Some(Role::Model), body)
}

/// Status and code of an answer that says no in OpenAI's form.
fn said_no(answer: &Answer) -> (u16, String) {
    let error = &answer.json()["error"];
    let error_keys = error.as_object().unwrap_or_else(|| panic!("{}", answer.head)).keys();
    let keys: BTreeSet<&str> = error_keys.map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["code", "message", "param", "type"]), "{}", answer.head);
    assert!(!error["message"].as_str().unwrap().is_empty());
    (answer.status, error["code"].as_str().unwrap().to_owned())
}

/// A request whose answer nobody reads yet.
fn send(to: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let (token, bytes) = (token(Role::Model), body.len());
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {bytes}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    stream
}

#[test]
fn only_tokens_of_the_role_model_may_ask() {
    let (server, script) = server();
    let body = question("ping", json!({}));
    for (method, path) in [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/small")] {
        let body = if method == "POST" { body.as_str() } else { "" };
        assert_eq!(said_no(&server.ask(method, path, None, body)), (401, "invalid_api_key".into()));
        for role in Role::ALL {
            let answer = server.ask(method, path, Some(role), body);
            match role {
                Role::Model => assert_eq!(answer.status, 200, "{path}"),
                _ => assert_eq!(said_no(&answer), (403, "role".into()), "{path}"),
            }
        }
    }
    // No page asks with somebody's cookie.
    let login = json!({ "name": "engineer", "password": super::server::PASSWORD }).to_string();
    let login = ask(server.web.address, "POST", "/api/v1/login", &[], &login);
    let cookie = format!("Cookie: {}", login.header("set-cookie").unwrap().split(';').next().unwrap());
    let answer = ask(server.web.address, "POST", CHAT, &[&cookie], &body);
    assert_eq!(said_no(&answer), (401, "invalid_api_key".into()));
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    // Nor is it a role of people.
    let account = json!({ "name": "new", "password": "long enough", "role": "model" });
    assert_eq!(server.post("/api/v1/accounts", Role::Engineer, &account).status, 400);
    let made = server.post("/api/v1/tokens", Role::Engineer, &json!({ "name": "dify", "role": "model" }));
    let header = format!("Authorization: Bearer {}", made.json()["token"].as_str().unwrap());
    assert_eq!(ask(server.web.address, "GET", "/v1/models", &[&header], "").status, 200);
}

#[test]
fn it_is_off_unless_the_config_says_otherwise() {
    let (store, dir) = Server::start(0).into_parts();
    let options = inspectd::web::options::WebOptions { model_api: false, ..options(dir.path()) };
    let server = Server::with(store, dir, options);
    for role in [None, Some(Role::Model), Some(Role::Engineer)] {
        let answer = server.ask("POST", CHAT, role, &question("ping", json!({})));
        assert_eq!(said_no(&answer), (404, "model_api_off".into()));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("model_api = true"));
    }
}

#[test]
fn every_answer_that_says_no_has_openais_form() {
    let (server, script) = server();
    let to = server.web.address;
    let bearer = bearer(Role::Model);
    for (answer, expected) in [
        (server.ask("GET", "/v1/nothing", None, ""), (404, "not_found")),
        (server.ask("GET", CHAT, Some(Role::Model), ""), (405, "method_not_allowed")),
        (ask(to, "GET", "/v1/models", &[&bearer, "Host: evil.example"], ""), (421, "host")),
        (ask(to, "POST", CHAT, &[&bearer, "Origin: http://evil.example"], "{}"), (403, "origin")),
        (asks(&server, "{"), (400, "invalid_json")),
        (asks(&server, &question("ping", json!({ "model": "gpt-4" }))), (404, "model_not_found")),
        (server.ask("GET", "/v1/models/gpt-4", Some(Role::Model), ""), (404, "model_not_found")),
        (asks(&server, &question("ping", json!({ "n": 3 }))), (400, "unsupported_value")),
    ] {
        assert_eq!(said_no(&answer), (expected.0, expected.1.to_owned()));
    }
    let other = asks(&server, &question("ping", json!({ "model": "gpt-4" }))).json();
    assert_eq!(other["error"]["param"], "model");
    assert!(other["error"]["message"].as_str().unwrap().contains("\"small\""), "{other}");
    let short = || Duration::from_millis(1200);
    for (refusal, expected, after) in [
        (
            Refusal::NotReady { why: "it is loading".into(), after: short() },
            (503, "model_not_ready"),
            Some("2"),
        ),
        (Refusal::Full, (429, "rate_limit_exceeded"), Some("2")),
        (Refusal::TooLong { why: "needs more".into() }, (400, "context_length_exceeded"), None),
        (Refusal::Picture { place: "messages[0]".into(), why: "cut".into() }, (400, "invalid_image"), None),
        (Refusal::Invalid { param: Some("stop"), why: "no".into() }, (400, "invalid_value"), None),
        (Refusal::Failed { why: "not finite".into() }, (500, "engine_failed"), None),
        (Refusal::Late, (504, "timeout"), None),
    ] {
        *script.refuses.lock().unwrap() = Some(refusal.clone());
        for stream in [false, true] {
            let answer = asks(&server, &question("ping", json!({ "stream": stream })));
            assert_eq!(said_no(&answer), (expected.0, expected.1.to_owned()), "{refusal}");
            assert_eq!(answer.header("retry-after"), after, "{refusal}");
            let is_final = answer.header("x-should-retry") == Some("false");
            assert_eq!(is_final, refusal == Refusal::Late);
        }
    }
}

/// The fields that clients read, each as OpenAI has it.
#[test]
fn a_whole_answer_is_one_of_openais() {
    let (server, _) = server();
    let answer = asks(&server, &question("ping", json!({ "logprobs": true }))).json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let token = |token: &str| json!({ "token": token, "logprob": -0.5, "bytes": token.as_bytes(), "top_logprobs": [] });
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": "pong", "refusal": null },
        "logprobs": { "content": [token("po"), token("ng")] },
        "finish_reason": "stop",
    });
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23 }));
    let rest = [&answer["object"], &answer["model"], &answer["system_fingerprint"]];
    assert_eq!(rest, ["chat.completion", "small", "fp_1"]);
    let plain = asks(&server, &question("ping", json!({}))).json();
    assert!(plain["choices"][0]["logprobs"].is_null());
    let models = server.get("/v1/models", Role::Model).json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("small")));
    assert_eq!(server.get("/v1/models/small", Role::Model).json(), models["data"][0]);
}

/// The events of a stream, as Dify cuts them.
fn events(answer: &Answer) -> Vec<String> {
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert!(!text.contains('\r') && text.ends_with("data: [DONE]\n\n"), "{text}");
    let said = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    said.map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event}")).to_owned()).collect()
}

#[test]
fn a_stream_is_one_of_openais_to_the_byte() {
    let (server, _) = server();
    let counted = json!({ "stream": true, "stream_options": { "include_usage": true } });
    for (more, is_counted) in [(json!({ "stream": true }), false), (counted, true)] {
        let answer = asks(&server, &question("ping", more));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        let mut events = events(&answer);
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["id"], chunks[0]["id"]);
            assert!(chunk["choices"].is_array(), "{chunk}");
        }
        let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"]).collect();
        let choice = |delta: Value, finish: Value| json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        let expected = [
            choice(json!({ "role": "assistant", "content": "" }), Value::Null),
            choice(json!({ "content": "po" }), Value::Null),
            choice(json!({ "content": "ng" }), Value::Null),
            choice(json!({}), "stop".into()),
        ];
        assert_eq!(choices[..4], expected.iter().collect::<Vec<_>>());
        let usage: Vec<Option<&Value>> = chunks.iter().map(|chunk| chunk.get("usage")).collect();
        let whole = json!({ "prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23 });
        if is_counted {
            let others = vec![Some(&Value::Null); 4];
            assert_eq!((choices[4..].to_vec(), usage[..4].to_vec()), (vec![&json!([])], others));
            assert_eq!(usage[4..], [Some(&whole)]);
        } else {
            assert_eq!(usage, [None, None, None, Some(&whole)]);
        }
    }
}

#[test]
fn a_token_has_its_share_and_the_rest_is_told_to_come_again() {
    let (server, script) = server();
    let to = server.web.address;
    let mut held: Vec<TcpStream> =
        (0..OF_TOKEN_MAX).map(|_| send(to, &question("hold", json!({})))).collect();
    until("as many are asked as may be at once", || script.held.lock().unwrap().len() == AT_ONCE_MAX);
    let metrics = || String::from_utf8(server.get("/metrics", Role::Viewer).body).unwrap();
    let all_in = format!("inspectd_model_api_open_requests {OF_TOKEN_MAX}\n");
    until("the others are in and wait", || metrics().contains(&all_in));
    let refused = || asks(&server, &question("ping", json!({})));
    assert_eq!(said_no(&refused()), (429, "rate_limit_exceeded".into()));
    assert_eq!(refused().header("retry-after"), Some("2"));
    assert_eq!(script.held.lock().unwrap().len(), AT_ONCE_MAX, "no more are asked");
    until("all were asked, one after the other", || {
        script.release();
        script.asked.load(Ordering::SeqCst) >= OF_TOKEN_MAX
    });
    script.release();
    for stream in &mut held {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(asks(&server, &question("ping", json!({}))).status, 200, "there is room again");
    let text = metrics();
    assert!(text.contains("inspectd_model_api_open_requests 0\n"), "{text}");
    assert!(text.contains("inspectd_model_api_requests_total{outcome=\"full\"} 2\n"), "{text}");
}

/// A client writes its whole body before it reads: it must not find the connection closed instead of the answer.
#[test]
fn a_large_body_is_taken_to_its_end_before_it_is_refused() {
    let (server, script) = server();
    let to = server.web.address;
    let large = question(&"x".repeat(12 << 20), json!({ "n": 2 }));
    assert_eq!(said_no(&ask(to, "POST", CHAT, &["Authorization: Bearer ispd_wrong"], &large)).0, 401);
    assert_eq!(said_no(&asks(&server, &large)).0, 400);
    let too_large = question(&"x".repeat(BODY_BYTES_MAX), json!({}));
    assert_eq!(said_no(&asks(&server, &too_large)), (413, "request_too_large".into()));
    assert_eq!(script.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_question_whose_asker_leaves_is_stopped() {
    let (server, script) = server();
    let to = server.web.address;
    for (n, stream) in [false, true].into_iter().enumerate() {
        let mut asker = send(to, &question("hold", json!({ "stream": stream })));
        until("it is asked", || script.held.lock().unwrap().len() == n + 1);
        if stream {
            // It has heard the beginning.
            let mut text = String::new();
            while !text.contains("\"content\":\"po\"") {
                let mut piece = [0; 256];
                let n = asker.read(&mut piece).unwrap();
                text += std::str::from_utf8(&piece[..n]).unwrap();
            }
        }
        assert_eq!(script.stopped.load(Ordering::Relaxed), n, "it goes on while somebody waits");
        drop(asker);
        until("it is stopped", || script.stopped.load(Ordering::Relaxed) == n + 1);
    }
    let left = || String::from_utf8(server.get("/metrics", Role::Viewer).body).unwrap();
    until("both are counted", || left().contains("inspectd_model_api_requests_total{outcome=\"left\"} 2\n"));
}

/// A stream that has begun can only say so in itself.
#[test]
fn an_answer_that_fails_in_the_middle_ends_with_the_error() {
    let (server, script) = server();
    let mut asker = send(server.web.address, &question("hold", json!({ "stream": true })));
    until("it is asked", || script.held.lock().unwrap().len() == 1);
    let lost = Refusal::NotReady { why: "it was lost".into(), after: Duration::from_secs(1) };
    script.held.lock().unwrap()[0].try_send(Heard::End(Err(lost))).unwrap();
    let mut text = String::new();
    asker.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"content\":\"po\""), "{text}");
    let last = text.split("data: ").last().unwrap();
    assert!(last.starts_with("{\"error\":{\"message\":") && last.contains("it was lost"), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
}

#[test]
fn more_pictures_than_a_request_may_have_are_refused_before_anybody_is_asked() {
    let (server, script) = server();
    let pixel = format!("data:image/png;base64,{}", STANDARD.encode(picture()));
    let image = json!({ "type": "image_url", "image_url": { "url": pixel } });
    let with = |count: usize| {
        let content = vec![image.clone(); count];
        json!({ "model": "small", "messages": [{ "role": "user", "content": content }] }).to_string()
    };
    assert_eq!(asks(&server, &with(PICTURES_MAX)).status, 200);
    assert_eq!(said_no(&asks(&server, &with(PICTURES_MAX + 1))), (400, "invalid_image".into()));
    assert_eq!(script.asked.load(Ordering::SeqCst), 1);
}
