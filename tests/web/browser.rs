//! A headless Chromium, driven over chromedriver; both end with the value.

use super::webdriver::Session;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for anything on the page; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Browser {
    pub page: Session,
    driver: Child,
    /// Where the driver listens.
    driver_at: SocketAddr,
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
        let driver_at = SocketAddr::from(([127, 0, 0, 1], port));
        let start = Instant::now();
        let page = loop {
            match Session::start(driver_at, &options).await {
                Ok(page) => break page,
                Err(error) => assert!(start.elapsed() < PATIENCE, "chromedriver: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Self { page, driver, driver_at, _profile: profile }
    }

    /// Waits until a script's expression holds.
    pub(crate) async fn until(&self, what: &str) {
        let start = Instant::now();
        loop {
            let script = format!("try {{ return Boolean({what}); }} catch (e) {{ return false; }}");
            // While a page gives way to the next one there is nobody to ask.
            if self.page.execute(&script).await.unwrap_or_default() == json!(true) {
                return;
            }
            if start.elapsed() > PATIENCE {
                let text = self.page.execute("return document.body.innerText").await.unwrap();
                panic!(
                    "waited in vain until {what}; the driver is at {}, and the page says {text}",
                    self.driver_at
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn value(&self, what: &str) -> Value {
        self.page.execute(&format!("return {what};")).await.unwrap()
    }

    pub(crate) async fn click(&self, css: &str) {
        self.until(&format!("document.querySelector({css:?})")).await;
        let element = self.page.find(css).await;
        self.page.command(&format!("element/{element}/click"), json!({})).await.unwrap();
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        self.until(&format!("document.querySelector({css:?})")).await;
        let element = self.page.find(css).await;
        self.page.command(&format!("element/{element}/value"), json!({"text": text})).await.unwrap();
    }

    /// Presses keys one by one, wherever the focus is.
    pub(crate) async fn keys(&self, keys: &str) {
        for key in keys.chars() {
            let press = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
            self.page.act(json!({"type": "key", "id": "keys", "actions": press})).await;
        }
    }

    /// Drags from one place of the window to another.
    pub(crate) async fn drag(&self, from: (i64, i64), to: (i64, i64)) {
        let at = |(x, y): (i64, i64)| json!({"type": "pointerMove", "duration": 60, "x": x, "y": y, "origin": "viewport"});
        let button = |kind: &str| json!({"type": kind, "button": 0});
        let middle = (i64::midpoint(from.0, to.0), i64::midpoint(from.1, to.1));
        let drag = [at(from), button("pointerDown"), at(middle), at(to), button("pointerUp")];
        self.page.act(json!({"type": "pointer", "id": "mouse", "actions": drag})).await;
    }

    pub(crate) async fn end(mut self) {
        self.page.close().await;
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
