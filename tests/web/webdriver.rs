//! What the tests ask of a browser's driver: `WebDriver` is JSON over HTTP, and this is the part of it that they need.
//!
//! A crate for it would bring thirty others, and with them features of the derives' own crates, by which `make build`
//! and `make test` compiled the whole tree twice.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// The longest wait for the driver; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// The name of an element's id in every answer (`WebDriver`, 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One session of a driver: its browser.
pub(crate) struct Session {
    driver: SocketAddr,
    id: String,
}

impl Session {
    /// A new browser; an error while the driver does not listen yet.
    pub(crate) async fn start(driver: SocketAddr, options: &Value) -> Result<Self, String> {
        let capabilities = json!({"capabilities": {"alwaysMatch": options}});
        let answer = ask(driver, "POST", "/session", Some(&capabilities)).await?;
        let id = answer["sessionId"].as_str().ok_or_else(|| format!("no session: {answer}"))?.to_owned();
        Ok(Self { driver, id })
    }

    /// The value of a command below the session; an error has the driver's word for it.
    pub(crate) async fn command(&self, path: &str, body: Value) -> Result<Value, String> {
        ask(self.driver, "POST", &format!("/session/{}/{path}", self.id), Some(&body)).await
    }

    pub(crate) async fn goto(&self, url: &str) {
        self.command("url", json!({"url": url})).await.unwrap();
    }

    pub(crate) async fn refresh(&self) {
        self.command("refresh", json!({})).await.unwrap();
    }

    /// What a function's body returns in the page.
    pub(crate) async fn execute(&self, body: &str) -> Result<Value, String> {
        self.command("execute/sync", json!({"script": body, "args": []})).await
    }

    /// An element's id.
    pub(crate) async fn find(&self, css: &str) -> String {
        let found = self.command("element", json!({"using": "css selector", "value": css})).await.unwrap();
        found[ELEMENT].as_str().expect("an element has an id").to_owned()
    }

    /// Does what input devices would do.
    pub(crate) async fn act(&self, device: Value) {
        self.command("actions", json!({"actions": [device]})).await.unwrap();
    }

    pub(crate) async fn close(&self) {
        // After a crash of the browser there is no session to close; its driver is killed then.
        ask(self.driver, "DELETE", &format!("/session/{}", self.id), None).await.ok();
    }
}

async fn ask(driver: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let answer = tokio::time::timeout(PATIENCE, exchange(driver, method, path, body)).await;
    let text = answer.map_err(|_| format!("{method} {path}: no answer"))?.map_err(|e| e.to_string())?;
    let mut answer: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    match answer["value"]["error"].as_str() {
        Some(error) => Err(format!("{method} {path}: {error}: {}", answer["value"]["message"])),
        None => Ok(answer["value"].take()),
    }
}

/// One request on a connection of its own. The driver keeps it open: its answer ends where the head says.
async fn exchange(
    driver: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<Vec<u8>> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = BufReader::new(TcpStream::connect(driver).await?);
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).await? > 2 {
        if let Some(given) = line.to_lowercase().strip_prefix("content-length:") {
            length = given.trim().parse().map_err(std::io::Error::other)?;
        }
        line.clear();
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(text)
}
