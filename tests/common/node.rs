//! Clients that run under Node.js, which only `make test-node` has.

use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The packages that `.ci/peers-node` has installed.
pub(crate) fn modules() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let mut candidates = test.ancestors().map(|folder| folder.join("peers-node/node_modules"));
    candidates.find(|modules| modules.exists()).expect("no peers beside the build: run .ci/peers-node")
}

/// What the script `tests/node/NAME.js` says at its end.
pub(crate) async fn ask(name: &str, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(name).with_extension("js");
    let mut node = Command::new("node");
    node.arg(script).args(arguments).env("NODE_PATH", modules()).kill_on_drop(true);
    let said = node.output().await.expect("Node.js is installed");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{name}: {text}\n{}", String::from_utf8_lossy(&said.stderr));
    let last = text.lines().rfind(|line| line.starts_with('{'));
    serde_json::from_str(last.expect("it says something")).expect("JSON")
}
