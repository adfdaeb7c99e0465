//! A headless Chromium, driven over chromedriver; both end with the value.

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for anything on the page; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Browser {
    pub page: Client,
    driver: Child,
    /// Of the driver.
    port: u16,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `width` and `height` of the window in pixels.
    pub(crate) async fn start(width: u32, height: u32) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium and chromedriver are needed for this test: .ci/install-deps");
        let profile = tempfile::tempdir().unwrap();
        let data = format!("--user-data-dir={}", profile.path().display());
        let window = format!("--window-size={width},{height}");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--lang=en-US",
            "--disable-dev-shm-usage",
            &data,
            &window,
        ];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let url = format!("http://127.0.0.1:{port}");
        let start = Instant::now();
        let page = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(options.as_object().unwrap().clone());
            match builder.connect(&url).await {
                Ok(page) => break page,
                Err(error) => assert!(start.elapsed() < PATIENCE, "chromedriver: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Self { page, driver, port, _profile: profile }
    }

    /// Waits until a script's expression holds.
    pub(crate) async fn until(&self, what: &str) {
        let start = Instant::now();
        loop {
            let script = format!("try {{ return Boolean({what}); }} catch (e) {{ return false; }}");
            // While a page gives way to the next one there is nobody to ask.
            if self.page.execute(&script, vec![]).await.unwrap_or_default() == json!(true) {
                return;
            }
            if start.elapsed() > PATIENCE {
                let text = self.page.execute("return document.body.innerText", vec![]).await.unwrap();
                panic!("waited in vain until {what}; the page says {text}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn value(&self, what: &str) -> serde_json::Value {
        self.page.execute(&format!("return {what};"), vec![]).await.unwrap()
    }

    pub(crate) async fn click(&self, css: &str) {
        self.until(&format!("document.querySelector({css:?})")).await;
        self.page.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        self.until(&format!("document.querySelector({css:?})")).await;
        self.page.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    /// Presses keys one by one, wherever the focus is.
    pub(crate) async fn keys(&self, keys: &str) {
        use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
        for key in keys.chars() {
            let press = KeyActions::new("keys".into())
                .then(KeyAction::Down { value: key })
                .then(KeyAction::Up { value: key });
            self.page.perform_actions(press).await.unwrap();
        }
    }

    /// A command of the browser's own protocol, which WebDriver has no word for: held keys, held requests.
    pub(crate) async fn devtools(&self, command: &str, parameters: serde_json::Value) {
        let session = self.page.session_id().await.unwrap().expect("a session");
        let body = json!({"cmd": command, "params": parameters}).to_string();
        let mut driver = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
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

    /// Drags from one place of the window to another.
    pub(crate) async fn drag(&self, from: (i64, i64), to: (i64, i64)) {
        use fantoccini::actions::{InputSource as _, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
        let at = |(x, y): (i64, i64)| PointerAction::MoveTo {
            duration: Some(Duration::from_millis(60)),
            x: x as f64,
            y: y as f64,
        };
        let middle = (i64::midpoint(from.0, to.0), i64::midpoint(from.1, to.1));
        let drag = MouseActions::new("mouse".into())
            .then(at(from))
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(at(middle))
            .then(at(to))
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        self.page.perform_actions(drag).await.unwrap();
    }

    pub(crate) async fn end(mut self) {
        let _ = self.page.clone().close().await;
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a failed test the browser ends with its driver's session.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
