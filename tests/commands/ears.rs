//! A station that cannot hear commands says so: a broker that refuses the subscription, and a second client under
//! the same id.

use super::{Plc, SIMULATOR, camera, http};
use crate::broker::{Broker, until};
use crate::station::{PREFIX, Station};
use inspectd::publish::StationEvent;
use inspectd::publish::mqtt::command::{ALARM_REFUSED, ALARM_TAKEN, ALARM_TWIN, listen};
use inspectd::publish::mqtt::dialect::Spoken;
use inspectd::publish::mqtt::{MqttOptions, Protocol};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as Port};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Messages that a broker has got.
type Got = Arc<Mutex<Vec<String>>>;

/// A broker that takes everything and lets nobody subscribe.
async fn deaf_broker() -> (u16, Got) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Got::default();
    let list = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&list)));
        }
    });
    (port, got)
}

/// Speaks as much MQTT (3.1.1 or 5, as the client does) as a station needs; ends with the connection.
async fn serve(mut stream: TcpStream, got: Got) -> std::io::Result<()> {
    let mut v5 = false;
    loop {
        let kind = stream.read_u8().await?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let answer: Vec<u8> = match kind >> 4 {
            1 => {
                v5 = body[6] == 5;
                if v5 { vec![0x20, 3, 0, 0, 0] } else { vec![0x20, 2, 0, 0] }
            }
            3 if kind & 0b110 == 0 => vec![],
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                got.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
                vec![0x40, 2, body[2 + topic], body[3 + topic]]
            }
            8 => subscribed(&body, v5),
            12 => vec![0xd0, 0],
            _ => vec![],
        };
        stream.write_all(&answer).await?;
    }
}

/// SUBACK: each filter is refused.
fn subscribed(subscribe: &[u8], v5: bool) -> Vec<u8> {
    // The packet's number and, in MQTT 5, the length of properties that nobody sends.
    let head = 2 + usize::from(v5);
    let (mut rest, mut codes) = (&subscribe[head..], vec![]);
    while let [high, low, after @ ..] = rest {
        rest = &after[usize::from(u16::from_be_bytes([*high, *low])) + 1..];
        codes.push(if v5 { 0x87 } else { 0x80 });
    }
    [&[0x90, (head + codes.len()) as u8], &subscribe[..head], &codes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_whose_subscription_is_refused_raises_an_alarm_and_is_not_ready() {
    for protocol in [5, 4] {
        let (port, got) = deaf_broker().await;
        let page = Port::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sections = format!("{}[web]\nlisten = \"{page}\"\n", camera("cam1", SIMULATOR));
        let station = Station::new(port, &sections);
        station.edit("[mqtt]", &format!("[mqtt]\nprotocol = {protocol}"));
        let _daemon = station.start();
        let raised = |m: &String| m.contains("alarm/commands_refused") && m.contains("\"raised\"");
        until("the alarm is raised", || got.lock().unwrap().iter().any(raised)).await;
        let message = got.lock().unwrap().iter().find(|m| raised(m)).cloned().unwrap();
        assert!(message.contains("cmd/trigger") && message.contains("cmd/pause"), "{message}");
        let ready = ready(page).await;
        assert!(ready.0 == 503 && ready.1.contains("subscription to commands"), "{ready:?}");
    }
}

async fn ready(page: SocketAddr) -> (u16, String) {
    let asked = tokio::task::spawn_blocking(move || http::ask(page, "GET", "/readyz", &[], ""));
    let answer = asked.await.unwrap();
    (answer.status, answer.json().to_string())
}

/// Alarms by their codes, as they are now.
type Alarms = Arc<Mutex<BTreeMap<String, String>>>;

/// A station's listener under an id of its own or of somebody else, and its alarms.
fn ears(
    port: u16,
    protocol: Protocol,
    client_id: &str,
) -> (inspectd::publish::mqtt::command::Listening, Alarms) {
    let options = MqttOptions {
        sink: "mqtt".into(),
        dialect: Spoken::Json,
        host: "127.0.0.1".into(),
        port,
        protocol,
        client_id: client_id.into(),
        username: None,
        password: None,
        tls: None,
        prefix: "inspectd/test/body/line1/st10".into(),
        keep_alive: Duration::from_secs(5),
        images_px: None,
    };
    let alarms = Alarms::default();
    let now = Arc::clone(&alarms);
    let tell = move |event| {
        if let StationEvent::Alarm { code, message, .. } = event {
            now.lock().unwrap().insert(code, message);
        }
    };
    (listen(options, Arc::new(|_, _| Ok(None)), Box::new(tell)), alarms)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stations_under_one_client_id_say_so() {
    let broker = Broker::start("", "").await;
    for protocol in [Protocol::V5, Protocol::V311] {
        let id = format!("station-{protocol:?}");
        let [(_one, alarms), (_two, others)] =
            [ears(broker.port, protocol, &id), ears(broker.port, protocol, &id)];
        let (_alone, fine) = ears(broker.port, protocol, &format!("alone-{protocol:?}"));
        let text = |alarms: &Alarms| alarms.lock().unwrap().get(ALARM_TAKEN).cloned().unwrap_or_default();
        // A broker of MQTT 5 may say it in a DISCONNECT of one byte, which rumqttc 0.25 does not read.
        let is_suspected = |alarms: &Alarms| {
            ["taken over", "perhaps a second station"].iter().any(|words| text(alarms).contains(words))
        };
        until("both raise the alarm", || is_suspected(&alarms) && is_suspected(&others)).await;
        assert!(text(&alarms).contains(&format!("{id}-cmd")), "{}", text(&alarms));
        assert_eq!(
            (text(&fine), fine.lock().unwrap()[ALARM_REFUSED].clone()),
            (String::new(), String::new())
        );
    }
}

/// What two stations of one path and of two client ids say on `status` is all that tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn another_station_of_the_same_path_is_noticed_and_hears_of_us() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let broker = Broker::start("", "").await;
        let plc = Plc::new(broker.port).await;
        let (_ears, alarms) = ears(broker.port, protocol, "one");
        let text = || alarms.lock().unwrap().get(ALARM_TWIN).cloned().unwrap_or_default();
        let topic = format!("{PREFIX}/status");
        let mut said = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        // Again and again: what is said before the subscription is not heard.
        let mut say = |state: &str| {
            if said.elapsed() > Duration::from_millis(200) {
                said = Instant::now();
                let status = json!({ "schema": 1, "state": state, "instance": "B" }).to_string();
                let _ = plc.client.try_publish(&topic, QoS::AtLeastOnce, false, status);
            }
        };
        until("the other is noticed", || {
            say("online");
            text().contains("(instance B)")
        })
        .await;
        let is_ours = |status: serde_json::Value| {
            status["state"] == "online" && status["instance"] == inspectd::publish::instance()
        };
        until("the other hears of us", || plc.heard.on("/status").iter().any(|m| is_ours(m.json()))).await;
        until("the other has gone", || {
            say("offline");
            text().is_empty()
        })
        .await;
    }
}
