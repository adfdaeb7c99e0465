//! What the browser's own protocol can do beside the driver's: held keys, held and blocked requests, paper.

use super::browser::Browser;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// The longest wait for the driver; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

impl Browser {
    /// A command of the browser's own protocol, which the driver has no word for: held keys, held requests.
    pub(crate) async fn devtools(&self, command: &str, parameters: serde_json::Value) {
        let session = self.page.session_id().await.unwrap().expect("a session");
        let body = json!({"cmd": command, "params": parameters}).to_string();
        let mut driver = TcpStream::connect(self.driver_at).unwrap();
        driver.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /session/{session}/goog/cdp/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        driver.write_all(format!("{head}{body}").as_bytes()).unwrap();
        // The driver keeps the connection open: its answer ends where the head says.
        let mut answer = BufReader::new(driver);
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        while answer.read_line(&mut line).unwrap() > 2 {
            if status.is_empty() {
                status.clone_from(&line);
            }
            if let Some(given) = line.to_lowercase().strip_prefix("content-length:") {
                length = given.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut text = vec![0; length];
        answer.read_exact(&mut text).unwrap();
        assert!(status.contains(" 200 "), "{command}: {status} {}", String::from_utf8_lossy(&text));
    }

    /// A key goes down: for the first time, or again because it is held.
    pub(crate) async fn key_down(&self, key: &str, is_held: bool) {
        let down = json!({"type": "keyDown", "key": key, "text": key, "autoRepeat": is_held});
        self.devtools("Input.dispatchKeyEvent", down).await;
    }

    pub(crate) async fn key_up(&self, key: &str) {
        self.devtools("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key})).await;
    }

    /// From now on requests of this kind wait, until `let_go`.
    pub(crate) async fn hold_requests(&self, pattern: &str) {
        self.devtools("Fetch.enable", json!({"patterns": [{"urlPattern": pattern}]})).await;
    }

    pub(crate) async fn let_go(&self) {
        self.devtools("Fetch.disable", json!({})).await;
    }
}
