//! Commands to the real binary, over a real mosquitto, over HTTP and by file: what is accepted becomes a
//! result, whatever happens to it, and what is not is refused with its reason.

#[path = "commands/answers.rs"]
mod answers;
#[path = "common/broker.rs"]
mod broker;
#[path = "web/browser.rs"]
#[allow(dead_code, reason = "these tests press no keys")]
mod browser;
#[path = "commands/bursts.rs"]
mod bursts;
#[path = "common/clips.rs"]
mod clips;
#[path = "common/config.rs"]
mod config;
#[path = "commands/ears.rs"]
mod ears;
#[path = "commands/folder.rs"]
mod folder;
#[path = "commands/guests.rs"]
mod guests;
#[path = "commands/modbus.rs"]
mod handshake;
#[path = "web/http.rs"]
mod http;
#[path = "common/inspections.rs"]
mod inspections;
#[path = "commands/kept.rs"]
mod kept;
#[path = "commands/learn.rs"]
mod learn;
#[path = "commands/line.rs"]
mod line;
#[path = "common/modbus.rs"]
mod modbus;
#[path = "commands/model.rs"]
mod model;
#[path = "common/node.rs"]
mod node;
#[path = "commands/node_red.rs"]
mod node_red;
#[path = "commands/outbox.rs"]
mod outbox;
#[path = "common/peers.rs"]
mod peers;
#[path = "commands/recipes.rs"]
mod recipes;
#[path = "commands/risks.rs"]
mod risks;
#[path = "common/schemas.rs"]
mod schemas;
#[path = "common/shipped.rs"]
mod shipped;
#[path = "commands/sinks.rs"]
mod sinks;
#[path = "commands/sparkplug.rs"]
mod sparkplug;
#[path = "common/sparkplug.rs"]
#[allow(dead_code, reason = "no host of these tests goes away")]
mod sparkplug_rules;
#[path = "common/station.rs"]
mod station;
#[path = "commands/terminal.rs"]
mod terminal;
#[path = "commands/tls.rs"]
mod tls;
#[path = "common/tokens.rs"]
mod tokens;
#[path = "web/webdriver.rs"]
#[allow(dead_code, reason = "these tests press no keys")]
mod webdriver;

use broker::{Broker, Subscriber, until};
use clips::ask_about_clips;
use inspectd::publish::mqtt::dialect::json::message::PART_JSON_SCHEMA;
use inspectd::web::auth::Role;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::{Value, json};
use station::{PREFIX, Station, engine, results, signal, wait};
use std::net::TcpListener;
use std::time::Duration;

const SIMULATOR: &str = "source = \"simulator\"\nwidth_px = 256\nheight_px = 256\n";
/// One tile for a picture of any size, so that every picture reaches the model.
const PIPELINE: &str = "pipeline = \"examples-defects\"\n";

/// A camera that takes triggers.
fn camera(id: &str, source: &str) -> String {
    format!("[[camera]]\nid = \"{id}\"\n{PIPELINE}{source}trigger = {{ on = \"command\" }}\n")
}

/// What a PLC would be: sends commands and hears what comes of them.
struct Plc {
    client: AsyncClient,
    heard: Subscriber,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Plc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plc {
    async fn new(port: u16) -> Self {
        let heard = Subscriber::new(port, PREFIX).await;
        let mut options = MqttOptions::new(format!("plc-{}", rand::random::<u64>()), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut eventloop) = AsyncClient::new(options, 64);
        let (up, mut is_up) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => _ = up.send(true),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        is_up.wait_for(|up| *up).await.unwrap();
        Self { client, heard, task }
    }

    fn send(&self, verb: &str, payload: impl Into<String>) {
        let topic = format!("{PREFIX}/cmd/{verb}");
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.into()).unwrap();
    }

    /// Sends a command and waits for its acknowledgement.
    async fn command(&self, verb: &str, mut words: Value) -> Value {
        let id = format!("test-{}", rand::random::<u64>());
        words["correlation_id"] = id.as_str().into();
        self.send(verb, words.to_string());
        self.ack(|ack| ack["correlation_id"] == id.as_str(), verb).await
    }

    async fn ack(&self, is: impl Fn(&Value) -> bool, what: &str) -> Value {
        let mut found = None;
        until(&format!("{what} is acknowledged"), || {
            found = self.heard.on("/cmd/ack").iter().map(|m| m.json()).find(|ack| is(ack));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Until the station has subscribed to commands, nobody hears them.
    async fn until_listening(&self) {
        let before = self.heard.on("/cmd/ack").len();
        let mut asked = std::time::Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        until("the station listens to commands", || {
            if asked.elapsed() > Duration::from_millis(200) {
                asked = std::time::Instant::now();
                self.send("resume", "");
            }
            self.heard.on("/cmd/ack").len() > before
        })
        .await;
    }

    fn results(&self) -> Vec<Value> {
        results(&self.heard.heard())
    }

    async fn result(&self, part_id: &str) -> Value {
        let mut found = None;
        until(&format!("the result of {part_id} comes"), || {
            found = self.results().into_iter().find(|r| r["part_id"] == part_id);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The verdict about a part with several views, valid by its schema.
    async fn part(&self, part_id: &str) -> Value {
        let mut found = None;
        until(&format!("the verdict about {part_id} comes"), || {
            let parts = self.heard.on("st10/part");
            assert!(parts.iter().all(|m| (m.qos, m.retained) == (1, false)));
            found = parts.iter().map(|m| m.json()).find(|p| p["part_id"] == part_id);
            found.is_some()
        })
        .await;
        let part = found.unwrap();
        let schema = serde_json::from_str(PART_JSON_SCHEMA).unwrap();
        jsonschema::draft202012::new(&schema).unwrap().validate(&part).unwrap();
        part
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_acknowledged_and_triggers_have_results() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;

    let words = json!({"camera": "cam1", "part_id": "P1", "lot": "L1", "expected": {"serial": "SN9"}});
    let ack = plc.command("trigger", words).await;
    assert_eq!(
        (&ack["accepted"], &ack["command"], &ack["code"]),
        (&true.into(), &"trigger".into(), &"".into())
    );
    let result = plc.result("P1").await;
    assert_eq!((&result["lot"], &result["camera"]), (&"L1".into(), &"cam1".into()));
    assert_eq!(result["tiles"], json!({"planned": 1, "inspected": 1}), "the model has seen it");

    // No picture is taken, rendered, inspected and recorded in a millisecond.
    plc.command("trigger", json!({"part_id": "P2", "deadline_ms": 1})).await;
    let late = plc.result("P2").await;
    assert_eq!(late["verdict"], "review", "{late}");
    assert!(late["reason"].as_str().unwrap().starts_with("deadline"), "{late}");

    assert_eq!(plc.command("pause", json!({"camera": "cam1"})).await["accepted"], true);
    assert_eq!(plc.command("trigger", json!({"part_id": "P3"})).await["code"], "paused");
    assert_eq!(plc.command("resume", json!({})).await["accepted"], true);
    assert_eq!(plc.command("trigger", json!({"part_id": "P4"})).await["accepted"], true);
    plc.result("P4").await;

    let unknown = plc.command("trigger", json!({"camera": "cam7", "part_id": "P5"})).await;
    assert_eq!((&unknown["accepted"], &unknown["code"]), (&false.into(), &"no_camera".into()));
    assert!(unknown["reason"].as_str().unwrap().contains("\"cam7\"; there are cam1"), "{unknown}");
    assert_eq!(plc.command("pipeline", json!({"pipeline": "nowhere"})).await["code"], "no_pipeline");

    // MQTT 5: the answer goes where the sender says, with the sender's own data.
    let answers = format!("{PREFIX}/cmd/plc/answers");
    let properties = PublishProperties {
        response_topic: Some(answers),
        correlation_data: Some("d7".into()),
        ..PublishProperties::default()
    };
    let topic = format!("{PREFIX}/cmd/trigger");
    plc.client
        .try_publish_with_properties(topic, QoS::AtLeastOnce, false, "{\"bogus\":1}", properties)
        .unwrap();
    until("the answer comes on its own topic", || !plc.heard.on("/plc/answers").is_empty()).await;
    let refused = plc.heard.newest("/plc/answers").unwrap();
    assert_eq!((&refused["accepted"], &refused["code"]), (&false.into(), &"malformed".into()));
    assert!(refused["reason"].as_str().unwrap().contains("bogus"), "{refused}");

    // Never where it would be taken for something else, or outside: nothing is carried out then.
    for (elsewhere, part) in [("result", "P6"), ("status", "P7"), ("cmd/pause", "P8")] {
        let properties = PublishProperties {
            response_topic: Some(format!("{PREFIX}/{elsewhere}")),
            ..PublishProperties::default()
        };
        let (topic, words) = (format!("{PREFIX}/cmd/trigger"), json!({"part_id": part}).to_string());
        plc.client.try_publish_with_properties(topic, QoS::AtLeastOnce, false, words, properties).unwrap();
        let is = |ack: &Value| {
            ack["code"] == "response_topic" && ack["reason"].as_str().unwrap().contains(elsewhere)
        };
        plc.ack(is, elsewhere).await;
    }

    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let mut parts: Vec<_> = plc.results().iter().map(|r| r["part_id"].as_str().unwrap().to_owned()).collect();
    parts.sort();
    assert_eq!(parts, ["P1", "P2", "P4"], "what was refused has no result");
    let store = station.store();
    let first = store
        .newest_first()
        .map(Result::unwrap)
        .find(|s| s.inspection.trigger.part_id.as_deref() == Some("P1"));
    let trigger = first.unwrap().inspection.trigger;
    assert_eq!(trigger.expected["serial"], "SN9");
    assert!(trigger.correlation_id.unwrap().starts_with("test-"));
}

/// A camera that ends inside the second clip: its part is not lost, and what the first has is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_takes_a_clip_and_one_that_is_cut_short_is_a_review() {
    let broker = Broker::start("", "").await;
    let station = Station::new(broker.port, &camera("cam1", &format!("{SIMULATOR}count = 3\n")));
    ask_about_clips(&station, 2, 50);
    let plc = Plc::new(broker.port).await;
    let mut daemon = station.start();
    plc.until_listening().await;
    for part in ["P1", "P2"] {
        let ack = plc.command("trigger", json!({ "part_id": part })).await;
        assert_eq!(ack["accepted"], true, "{ack}");
        plc.result(part).await;
    }
    let [whole, short] = [plc.result("P1").await, plc.result("P2").await];
    assert_eq!(whole["tiles"], json!({ "planned": 1, "inspected": 1 }), "{whole}");
    let reason = "frame: the pipeline asks about a clip of 2 pictures, and this frame has 1";
    assert_eq!((&short["verdict"], &short["reason"]), (&json!("review"), &json!(reason)), "{short}");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let store = station.store();
    let before = |seq| store.get(seq).unwrap().unwrap().inspection.clip;
    assert!(before(1).len() == 1 && before(1)[0] >= Duration::from_millis(50), "{:?}", before(1));
    assert!(before(2).is_empty());
}

/// With the engine stopped, the inspector holds at most one frame of each camera, and each queue one.
#[tokio::test(flavor = "multi_thread")]
async fn each_queue_policy_drops_what_its_name_says_and_records_it() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let policies = ["wait", "drop_oldest", "drop_newest"];
    let one = |policy: &str| {
        let queue = format!("queue = {{ policy = \"{policy}\", frames = 1 }}\n");
        camera(policy, &format!("{SIMULATOR}{queue}"))
    };
    let station = Station::new(broker.port, &policies.map(one).concat());
    let daemon = station.start();
    plc.until_listening().await;
    let engine = engine(daemon.id()).expect("the engine is a process of its own");
    signal(engine, libc::SIGSTOP);
    for policy in policies {
        for n in 1..=4 {
            let words = json!({"camera": policy, "part_id": format!("{policy}-{n}"), "deadline_ms": 600_000});
            assert_eq!(plc.command("trigger", words).await["accepted"], true);
        }
    }
    let dropped = |part: &str| {
        let full =
            |r: &Value| r["part_id"] == part && r["reason"] == "queue_full" && r["verdict"] == "review";
        plc.results().iter().any(full)
    };
    // The second and third of the one, the third and fourth of the other: whether the inspector has taken
    // the first or not.
    for part in ["drop_oldest-2", "drop_oldest-3", "drop_newest-3", "drop_newest-4"] {
        until(&format!("{part} is recorded as dropped"), || dropped(part)).await;
    }
    signal(engine, libc::SIGCONT);
    until("every trigger has its result", || plc.results().len() == 12).await;
    for (part, kept) in [("drop_oldest-4", true), ("drop_newest-1", true), ("drop_oldest-3", false)] {
        assert_eq!(dropped(part), !kept, "{part}");
    }
    let full: Vec<_> = plc.results().into_iter().filter(|r| r["reason"] == "queue_full").collect();
    assert!(full.iter().all(|r| r["camera"] != "wait"), "{full:?}");
    let counted =
        || plc.heard.on("/stats").iter().map(|m| m.json()["dropped"].as_u64().unwrap()).sum::<u64>();
    until("the drops are counted", || counted() == full.len() as u64).await;
}

fn housing(side: &str) -> String {
    let part = "[[part]]\nname = \"housing\"\ncameras = [\"top\", \"side\"]\n";
    format!("{}{}{part}", camera("top", SIMULATOR), camera("side", side))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_two_views_has_two_results_and_one_verdict() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &housing(SIMULATOR));
    let mut daemon = station.start();
    plc.until_listening().await;
    for (part_id, words) in [
        ("P1", json!({"part": "housing", "part_id": "P1", "lot": "L1"})),
        ("P2", json!({"part_id": "P2"})),
        ("P3", json!({"part": "housing", "part_id": "P3", "deadline_ms": 1})),
    ] {
        let ack = plc.command("trigger", words).await;
        assert_eq!(ack["accepted"], true, "{ack}");
        let part = plc.part(part_id).await;
        assert_eq!((&part["part"], &part["correlation_id"]), (&"housing".into(), &ack["correlation_id"]));
        let views = part["views"].as_array().unwrap();
        assert_eq!(views.iter().map(|v| v["camera"].clone()).collect::<Vec<_>>(), ["top", "side"]);
        for view in views {
            let is_of = |r: &Value| r["inspection_id"] == view["inspection_id"];
            until("the view's own result comes", || plc.results().iter().any(is_of)).await;
            let result = plc.results().into_iter().find(is_of).unwrap();
            assert_eq!((&result["verdict"], &result["camera"]), (&view["verdict"], &view["camera"]));
            assert_eq!(result["part"], json!({"id": part["id"], "name": "housing"}));
            let late = result["reason"].as_str().is_some_and(|r| r.starts_with("deadline"));
            assert!(late || result["tiles"] == json!({"planned": 1, "inspected": 1}), "{result}");
        }
        let verdicts: Vec<_> = views.iter().map(|v| v["verdict"].as_str().unwrap()).collect();
        let worst = ["fail", "review", "pass"].into_iter().find(|v| verdicts.contains(v)).unwrap();
        assert_eq!(part["verdict"], worst);
    }
    let late = plc.part("P3").await;
    assert!(late["reason"].as_str().unwrap().starts_with("deadline"), "{late}");
    assert_eq!(plc.command("trigger", json!({"part": "lid"})).await["code"], "no_part");
    assert_eq!(plc.command("pause", json!({"camera": "side"})).await["accepted"], true);
    let seen = plc.results().len();
    assert_eq!(plc.command("trigger", json!({"part": "housing", "part_id": "P4"})).await["code"], "paused");
    assert_eq!(plc.command("trigger", json!({"camera": "top", "part_id": "P5"})).await["accepted"], true);
    assert_eq!(plc.result("P5").await["part"], Value::Null, "a named camera is no part");
    assert_eq!(plc.results().len(), seen + 1, "no camera has taken a view of what one has refused");
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    assert_eq!(plc.heard.on("st10/part").len(), 3);
}

/// The side's camera waits for a file that never comes, so only the top's view is stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_between_the_views_of_a_part_is_a_review_and_never_a_pass() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let inbox = tempfile::tempdir().unwrap();
    let side = format!("source = \"folder\"\npath = \"{}\"\n", inbox.path().display());
    let station = Station::new(broker.port, &housing(&side));
    let mut daemon = station.start();
    plc.until_listening().await;
    let view = |part: &Value, camera: usize| part["views"][camera].clone();
    let words = |id: &str| json!({"part": "housing", "part_id": id, "deadline_ms": 600_000});

    plc.command("trigger", words("P1")).await;
    let top = plc.result("P1").await;
    assert!(plc.heard.on("st10/part").is_empty(), "one view decides nothing");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut daemon = station.start();
    let killed = plc.part("P1").await;
    assert_eq!(view(&killed, 0)["inspection_id"], top["inspection_id"]);
    assert_eq!(view(&killed, 1)["reason"], "interrupted");
    let inspected = view(&killed, 1)["inspection_id"].clone();
    until("the view that the kill took has a record and a result", || {
        plc.results().iter().any(|r| r["inspection_id"] == inspected)
    })
    .await;
    assert!(
        killed["verdict"] == "review" || top["verdict"] == "fail" && killed["verdict"] == "fail",
        "{killed}"
    );

    // A stop that is told still records the view.
    plc.until_listening().await;
    plc.command("trigger", words("P2")).await;
    plc.result("P2").await;
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
    let _daemon = station.start();
    let stopped = plc.part("P2").await;
    assert!(stopped["verdict"] != "pass", "{stopped}");
    assert_eq!(view(&stopped, 1)["reason"], "interrupted");
    let inspected = view(&stopped, 1)["inspection_id"].clone();
    until("the view has a record and a result", || {
        plc.results().iter().any(|r| r["inspection_id"] == inspected)
    })
    .await;
}

/// Triggers that are accepted have one result each, whatever the process was about when it was killed: waiting for a
/// picture, or taking, inspecting and storing one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_has_one_result_even_when_the_daemon_is_killed() {
    const ROUNDS: u64 = 6;
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let inbox = tempfile::tempdir().unwrap();
    let never = format!("source = \"folder\"\npath = \"{}\"\n", inbox.path().display());
    let cameras = camera("quick", SIMULATOR) + &camera("never", &never);
    let station = Station::new(broker.port, &cameras);
    let mut accepted = Vec::new();
    for round in 0..ROUNDS {
        let mut daemon = station.start();
        plc.until_listening().await;
        for (i, camera) in ["quick", "never", "quick", "quick"].into_iter().enumerate() {
            let id = format!("R{round}-{i}");
            let words = json!({"camera": camera, "part_id": id, "deadline_ms": 600_000});
            let ack = plc.command("trigger", words).await;
            assert_eq!(ack["accepted"], true, "{ack}");
            accepted.push(id);
        }
        // In later rounds more of them are done.
        std::thread::sleep(Duration::from_millis(10 * round));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    let _daemon = station.start();
    for id in &accepted {
        let result = plc.result(id).await;
        let waited = id.ends_with("-1");
        assert!(!waited || result["reason"] == "interrupted", "{result}");
    }
    // A result may come twice, an inspection is one.
    let mut ids: Vec<_> =
        plc.results().iter().map(|r| (r["part_id"].clone(), r["inspection_id"].clone())).collect();
    ids.sort_by_key(|(part, id)| (part.to_string(), id.to_string()));
    ids.dedup();
    assert_eq!(ids.len(), accepted.len(), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_by_http_and_by_file_have_results_like_others() {
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let folder = tempfile::tempdir().unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sections = format!(
        "{}[trigger]\ndir = \"{}\"\n[web]\nlisten = \"{listen}\"\n",
        camera("cam1", SIMULATOR),
        folder.path().display()
    );
    let station = Station::new(broker.port, &sections);
    station.edit("[web]", "[web]\nsession_hours = 1");
    tokens::put(&station.store(), Role::Operator);
    // A file that came before the station is taken, too; its deadline counts from when it came.
    let put = |name: &str, words: Value| {
        let new = folder.path().join(".new");
        std::fs::write(&new, words.to_string()).unwrap();
        std::fs::rename(&new, folder.path().join(name)).unwrap();
    };
    put("early.json", json!({"part_id": "F1", "deadline_ms": 1}));
    let mut daemon = station.start();
    let early = plc.result("F1").await;
    assert_eq!(early["verdict"], "review", "{early}");
    assert!(early["reason"].as_str().unwrap().starts_with("deadline"), "{early}");

    put("good.json", json!({"part_id": "F2", "lot": "L2"}));
    assert_eq!(plc.result("F2").await["lot"], "L2");
    put("bad.json", json!({"camera": "cam7", "part_id": "F3"}));
    let outcome = |path: &str| std::fs::read_to_string(folder.path().join(path));
    until("the bad file is refused", || outcome("refused/bad.json").is_ok()).await;
    assert!(
        outcome("refused/bad.json.reason").unwrap().starts_with("no_camera: there is no camera \"cam7\"")
    );
    until("the good files are done", || {
        outcome("done/early.json").is_ok() && outcome("done/good.json").is_ok()
    })
    .await;

    let bearer = tokens::bearer(Role::Operator);
    let post =
        |words: Value| http::ask(listen, "POST", "/api/v1/commands/trigger", &[&bearer], &words.to_string());
    let answer = post(json!({"part_id": "H1", "correlation_id": "c1"}));
    let accepted = answer.json();
    assert_eq!(
        (answer.status, &accepted["command"], &accepted["correlation_id"]),
        (202, &json!("trigger"), &json!("c1"))
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let result = plc.result("H1").await;
    assert_eq!((&result["camera"], &result["trigger_id"]), (&json!("cam1"), &accepted["trigger_id"]));
    let refused = post(json!({"camera": "cam7"}));
    assert_eq!((refused.status, refused.code().as_str()), (404, "no_camera"));
    signal(daemon.id(), libc::SIGTERM);
    assert!(wait(&mut daemon, "SIGTERM is obeyed").await.success(), "{}", station.log());
}
