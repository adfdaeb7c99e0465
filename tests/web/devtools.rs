//! What the browser's own protocol can do beside the driver's: held keys, held and blocked requests, paper.

use super::browser::Browser;
use serde_json::json;

impl Browser {
    /// A command of the browser's own protocol, which the driver has no word for: held keys, held requests.
    pub(crate) async fn devtools(&self, command: &str, parameters: serde_json::Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.page.command("goog/cdp/execute", body).await.unwrap();
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
