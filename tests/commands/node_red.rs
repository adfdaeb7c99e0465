//! The guide's flow for Node-RED, run by Node-RED beside a real station.
//!
//! ```text
//! POST /inject/i1 --> flow --cmd/trigger--> mosquitto --> station
//!            log <-- debug <--cmd/ack, result--'  ^----------'
//! ```

use crate::broker::{Broker, until};
use crate::station::{PREFIX, Station, signal, wait};
use crate::{Plc, SIMULATOR, camera, http, node};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The flow as the guide has it, for the station and the broker of this test.
fn flow(broker: u16) -> Value {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/mqtt.md");
    let guide = fs::read_to_string(guide).unwrap();
    let text = guide.split_once("\n```json node-red\n").expect("the guide has a flow").1;
    let text = text.split_once("\n```\n").expect("the flow has an end").0;
    let mut flow: Value =
        serde_json::from_str(&text.replace("inspectd/plant1/body/line1/st10", PREFIX)).unwrap();
    let nodes = flow.as_array_mut().unwrap();
    let to = nodes.iter_mut().find(|node| node["type"] == "mqtt-broker").expect("a broker");
    to["port"] = broker.to_string().into();
    flow
}

/// Node-RED with a user directory of its own.
struct NodeRed {
    dir: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl NodeRed {
    fn new(flow: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = json!({
            "uiHost": "127.0.0.1", "uiPort": address.port(), "flowFile": "flows.json", "lang": "en-US",
            "credentialSecret": false, "telemetry": { "enabled": false, "updateNotification": false },
        });
        fs::write(dir.path().join("settings.js"), format!("module.exports = {settings};\n")).unwrap();
        fs::write(dir.path().join("flows.json"), flow.to_string()).unwrap();
        Self { dir, address, process: None }
    }

    /// Until its flow is connected. Its log is a new one.
    async fn start(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("node");
        command.arg(node::modules().join("node-red/red.js")).arg("--userDir").arg(self.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().expect("Node.js is installed"));
        until("the flow is connected", || self.log().contains("Connected to broker")).await;
    }

    async fn stop(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        signal(process.id(), libc::SIGTERM);
        let status = wait(process, "Node-RED stops").await;
        assert!(status.success(), "{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What the flow's debug node has shown.
    fn shown(&self) -> Vec<String> {
        let log = self.log();
        log.lines().filter_map(|line| Some(line.split_once("[debug:line] ")?.1.to_owned())).collect()
    }

    async fn shows(&self, what: &str) {
        until(&format!("Node-RED shows {what:?}"), || self.shown().iter().any(|line| line.contains(what)))
            .await;
    }

    /// Presses the button of the flow's inject node.
    fn inject(&self) {
        assert_eq!(http::ask(self.address, "POST", "/inject/i1", &[], "{}").status, 200, "{}", self.log());
    }
}

impl Drop for NodeRed {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

/// As the flow shows a result.
fn line(result: &Value) -> String {
    let word = |key: &str| result[key].as_str().unwrap_or_default();
    let correlation = result["correlation_id"].as_str().unwrap_or("null");
    format!("{} {} {} ({correlation})", word("part_id"), word("verdict"), word("reason"))
}

#[ignore = "needs Node.js: make test-node"]
#[tokio::test(flavor = "multi_thread")]
async fn node_red_runs_the_flow_of_the_guide() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let _daemon = station.start();
    plc.until_listening().await;
    let mut red = NodeRed::new(&flow(broker.port));
    red.start().await;

    // It triggers a part, and shows the answer and the result.
    red.inject();
    let first = plc.result("P1").await;
    assert_eq!(first["lot"], "L7", "{first}");
    let (id, trigger) = (first["correlation_id"].as_str().unwrap(), first["trigger_id"].as_str().unwrap());
    assert!(id.starts_with("red-"), "{first}");
    red.shows(&format!("{id}: {trigger}")).await;
    red.shows(&line(&first)).await;

    // A refusal is shown with its reason.
    assert_eq!(plc.command("pause", json!({})).await["accepted"], true);
    red.inject();
    red.shows("paused: ").await;
    assert_eq!(plc.command("resume", json!({})).await["accepted"], true);

    // A result that comes again is not shown again.
    let again = plc.heard.on("/result").remove(0).payload;
    plc.client.try_publish(format!("{PREFIX}/result"), QoS::AtLeastOnce, false, again).unwrap();
    plc.command("trigger", json!({ "part_id": "P2" })).await;
    red.shows(&line(&plc.result("P2").await)).await;
    let parts: Vec<_> = plc.results().iter().map(|result| result["part_id"].clone()).collect();
    assert_eq!(parts, ["P1", "P1", "P2"], "the first came twice");
    let shown = red.shown();
    assert_eq!(shown.iter().filter(|shown| **shown == line(&first)).count(), 1, "{shown:?}");

    // What comes while it is stopped it shows when it is there again.
    red.stop().await;
    plc.command("trigger", json!({ "part_id": "P3" })).await;
    let missed = plc.result("P3").await;
    red.start().await;
    red.shows(&line(&missed)).await;
}
