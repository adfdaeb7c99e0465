//! Many commands at once: each has its answer, and exactly one, by both versions of MQTT.

use super::{Plc, SIMULATOR, camera};
use crate::broker::{Broker, until};
use crate::station::{PREFIX, Station};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// Lines about refused commands that a minute may have.
const LINES_PER_MINUTE: usize = 20;

async fn every_command_of_a_burst_has_one_answer(protocol: &str) {
    let began = Instant::now();
    let broker = Broker::start("", "").await;
    let plc = Plc::new(broker.port).await;
    let station = Station::new(broker.port, &camera("cam1", SIMULATOR));
    station.edit("[mqtt]", &format!("[mqtt]\n{protocol}"));
    let _daemon = station.start();
    plc.until_listening().await;
    for count in [100, 1_000] {
        let before = plc.heard.on("/cmd/ack").len();
        for n in 0..count {
            let words = json!({"correlation_id": format!("b{count}-{n}"), "part_id": n.to_string()});
            let topic = format!("{PREFIX}/cmd/trigger");
            plc.client.publish(topic, QoS::AtLeastOnce, false, words.to_string()).await.unwrap();
        }
        until(&format!("{count} commands are answered"), || plc.heard.on("/cmd/ack").len() >= before + count)
            .await;
        // Commands are answered in their order, so that nothing of the burst comes after this.
        plc.command("pause", json!({"camera": "cam1"})).await;
        plc.command("resume", json!({"camera": "cam1"})).await;
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        for answer in plc.heard.on("/cmd/ack") {
            *answers.entry(answer.json()["correlation_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let of_burst: Vec<_> =
            answers.iter().filter(|(id, _)| id.starts_with(&format!("b{count}-"))).collect();
        assert_eq!(of_burst.len(), count);
        assert!(of_burst.iter().all(|(_, n)| **n == 1), "{of_burst:?}");
        let all = plc.heard.on("/cmd/ack");
        let refused = all.iter().filter(|m| m.json()["code"] == "full").count();
        assert!(refused > 0, "the burst was larger than the dispatcher");
    }
    let lines = station.log().matches("a command is refused").count();
    let minutes = 1 + began.elapsed().as_secs() as usize / 60;
    assert!((1..=LINES_PER_MINUTE * (minutes + 1)).contains(&lines), "{lines} lines in {minutes} minutes");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_a_burst_has_one_answer_by_mqtt_5() {
    every_command_of_a_burst_has_one_answer("protocol = 5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_a_burst_has_one_answer_by_mqtt_3_1_1() {
    every_command_of_a_burst_has_one_answer("protocol = 4").await;
}
