//! A server of chat completions that does what a test tells it to: answers, stalls, dies, lies.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What a server does with a question of a recipe. Who it is it always says, and it counts as `miscounts` says.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with this text, this sure that a list ends where it does.
    Says(&'static str, f64),
    /// As `Says`, after so many questions that were answered by this status.
    After(usize, &'static str, Box<Act>),
    /// Never answers.
    Stalls,
    /// Ends the connection within the answer.
    Dies,
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// A status, with headers, and no answer.
    Status(&'static str),
    /// Answers without probabilities.
    Bare,
    /// Answers as if it had been shown no picture.
    Blind,
    /// Ends for lack of room.
    CutOff,
}

/// What a test tells a server, and may tell it anew at any time.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub act: Act,
    /// `vllm`, `llama-server` or `openai`.
    pub kind: &'static str,
    pub models: Vec<&'static str>,
    pub size: u64,
    /// Added to the tokens of every prompt.
    pub miscounts: i64,
    pub key: Option<&'static str>,
    /// Once it was asked about a recipe it says no more who it is: whoever has lost it does not let it in again.
    pub is_once: bool,
}

impl Script {
    pub(crate) fn says(text: &'static str, sure: f64) -> Self {
        let act = Act::Says(text, sure);
        Self { act, kind: "vllm", models: vec!["qwen"], size: 1, miscounts: 0, key: None, is_once: false }
    }
}

/// What a server was asked about recipes so far.
#[derive(Default)]
struct Asked {
    questions: AtomicUsize,
    /// Tokens of their pictures, with those around them.
    picture_tokens: AtomicUsize,
}

/// A server on a port of its own, until it is killed or dropped.
pub(crate) struct Server {
    pub port: u16,
    script: Arc<Mutex<Script>>,
    asked: Arc<Asked>,
    runtime: Option<Runtime>,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub(crate) fn start(script: Script) -> Self {
        Self::with(script, None)
    }

    pub(crate) fn with(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let (script, asked) = (Arc::new(Mutex::new(script)), Arc::default());
        let mut server = Self { port: 0, script, asked, runtime: None, tls };
        server.restart();
        server
    }

    /// Starts it again, on its port.
    pub(crate) fn restart(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (script, asked, tls) = (Arc::clone(&self.script), Arc::clone(&self.asked), self.tls.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, asked, tls) = (Arc::clone(&script), Arc::clone(&asked), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &script, &asked).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &script, &asked).await;
                            }
                        }
                    }
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// Nobody answers there any more, and what was open is cut.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub(crate) fn tell(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// Questions of recipes so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.questions.load(Ordering::SeqCst)
    }

    /// Tokens of the pictures of these questions.
    pub(crate) fn picture_tokens(&self) -> usize {
        self.asked.picture_tokens.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/v1", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One request of one connection.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: &Mutex<Script>, asked: &Asked) {
    let Some((head, body)) = request(&mut stream).await else { return };
    let now = script.lock().unwrap().clone();
    if now.key.is_some_and(|key| !head.contains(&format!("authorization: Bearer {key}\r\n"))) {
        return send(&mut stream, "401 Unauthorized", &json!({ "error": { "message": "no key" } })).await;
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    let is_over = now.is_once && asked.questions.load(Ordering::SeqCst) > 0;
    if is_over && path != "/v1/chat/completions" {
        return;
    }
    let said = match (path, now.kind) {
        ("/version", "vllm") => json!({ "version": "0.15.0" }),
        ("/props", "llama-server") => json!({
            "total_slots": 4, "build_info": "b1-test", "model_path": "/models/qwen.gguf",
            "modalities": { "vision": true },
        }),
        ("/v1/models", _) => {
            let model = |id: &&str| json!({ "id": id, "created": rand::random::<u32>(), "meta": { "size": now.size } });
            json!({ "object": "list", "data": now.models.iter().map(model).collect::<Vec<_>>() })
        }
        ("/tokenize", "vllm" | "llama-server") => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let words = body["prompt"].as_str().or(body["content"].as_str()).unwrap();
            json!({ "tokens": vec![1; if words == "\n" { 1 } else { 2 }] })
        }
        ("/v1/chat/completions", _) => return chat(&mut stream, script, &now, asked, &body).await,
        _ => return send(&mut stream, "404 Not Found", &json!({ "detail": "Not Found" })).await,
    };
    send(&mut stream, "200 OK", &said).await;
}

async fn chat<S: AsyncWrite + AsyncRead + Unpin>(
    stream: &mut S,
    script: &Mutex<Script>,
    now: &Script,
    asked: &Asked,
    body: &[u8],
) {
    let body: Value = serde_json::from_slice(body).unwrap();
    let (pictures, words) = tokens(&body);
    let count = |pictures: usize| (8 + pictures + words) as i64 + now.miscounts;
    let constraint = match now.kind {
        "vllm" => &body["structured_outputs"]["regex"],
        "llama-server" => &body["grammar"],
        _ => &body["response_format"]["json_schema"]["schema"],
    };
    if constraint.is_null() {
        return send(stream, "200 OK", &answer("0", 0.5, count(pictures), "length")).await;
    }
    assert_eq!((&body["logprobs"], &body["top_logprobs"]), (&json!(true), &json!(20)));
    asked.questions.fetch_add(1, Ordering::SeqCst);
    asked.picture_tokens.fetch_add(pictures, Ordering::SeqCst);
    let mut act = now.act.clone();
    if let Act::After(left, status, then) = &act {
        let (left, status, then) = (*left, *status, then.clone());
        act = if left == 0 { *then } else { Act::Status(status) };
        if left > 0 {
            let mut script = script.lock().unwrap();
            if let Act::After(left, ..) = &mut script.act {
                *left = left.saturating_sub(1);
            }
        }
    }
    let whole = answer("[]", 0.99, count(pictures), "stop");
    match act {
        Act::Says(text, sure) => send(stream, "200 OK", &answer(text, sure, count(pictures), "stop")).await,
        Act::Stalls => std::future::pending().await,
        Act::Dies => {
            let text = whole.to_string();
            let half = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", text.len(), &text[..40]);
            let _ = stream.write_all(half.as_bytes()).await;
        }
        Act::Raw(bytes) => _ = stream.write_all(&bytes).await,
        Act::Status(status) => send(stream, status, &json!({ "error": { "message": "as told" } })).await,
        Act::Bare => {
            let mut bare = whole;
            bare["choices"][0]["logprobs"] = Value::Null;
            send(stream, "200 OK", &bare).await;
        }
        Act::Blind => send(stream, "200 OK", &answer("[]", 0.99, count(0), "stop")).await,
        Act::CutOff => send(stream, "200 OK", &answer("[", 0.99, count(pictures), "length")).await,
        Act::After(..) => unreachable!("it was looked into"),
    }
}

/// An answer of one token a character; the list might have gone on.
fn answer(text: &str, sure: f64, prompt_tokens: i64, finish: &str) -> Value {
    let entry = |c: char| {
        let rival = if c == ']' { "{" } else { "x" };
        let of =
            |token: &str, p: f64| json!({ "token": token, "logprob": p.ln(), "bytes": token.as_bytes() });
        let own = of(&c.to_string(), sure);
        let mut entry = own.clone();
        entry["top_logprobs"] = json!([own, of(rival, 1.0 - sure)]);
        entry
    };
    json!({
        "object": "chat.completion",
        "choices": [{
            "index": 0, "finish_reason": finish, "message": { "role": "assistant", "content": text },
            "logprobs": { "content": text.chars().map(entry).collect::<Vec<_>>() },
        }],
        "usage": { "prompt_tokens": prompt_tokens, "completion_tokens": text.len() },
    })
}

/// Tokens of the pictures of a request, with those around them, and of its words.
fn tokens(body: &Value) -> (usize, usize) {
    let (mut pictures, mut words) = (0, 0);
    for part in body["messages"][0]["content"].as_array().unwrap() {
        match part["text"].as_str() {
            Some(text) => words += if text == "0123456789" { 10 } else { text.len() / 4 + 1 },
            None => {
                let url = part["image_url"]["url"].as_str().unwrap();
                let png =
                    BASE64_STANDARD.decode(url.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
                let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
                let (width, height) = (side(16), side(20));
                assert_eq!((width % 32, height % 32), (0, 0), "a size that the server leaves as it is");
                pictures += (width / 32 * height / 32) as usize + 2;
            }
        }
    }
    (pictures, words)
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(String, Vec<u8>)> {
    let (mut read, mut chunk) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let end = read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if read.len() >= end + length.unwrap_or(0) {
                return Some((head, read.split_off(end)));
            }
        }
        match stream.read(&mut chunk).await {
            Ok(count @ 1..) => read.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, status: &str, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}
