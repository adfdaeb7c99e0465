//! A listener to Sparkplug that holds an edge node to the rules, and a host that speaks to it.
//!
//! ```text
//! edge node --spBv1.0/#--> Listener --check--> births, deaths, values by their names
//! Host --STATE, NCMD, DCMD--> edge node
//! ```

use crate::broker::{Message, Subscriber};
use inspectd::publish::mqtt::sparkplug::metrics::{BD_SEQ, REBIRTH};
use inspectd::publish::mqtt::sparkplug::payload::{self, DataType, Metric, Payload, Wire};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;

pub(crate) const NAMESPACE: &str = "spBv1.0";

/// One message of an edge node, its metrics by their names.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// NBIRTH and its like.
    pub kind: String,
    /// Of a message about a device.
    pub device: Option<String>,
    pub seq: Option<u64>,
    pub values: BTreeMap<String, Option<Wire>>,
    pub historical: bool,
}

impl Said {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name)?.as_ref()? {
            Wire::String(text) => Some(text),
            other => panic!("{name} is {other:?}"),
        }
    }

    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        match self.values.get(name)?.as_ref()? {
            Wire::Long(count) => Some(*count),
            other => panic!("{name} is {other:?}"),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.values.get(name)?.as_ref()? {
            Wire::Boolean(flag) => Some(*flag),
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// What is known of an edge node while its messages are read.
#[derive(Default)]
struct Node {
    bd_seq: Option<u64>,
    alive: bool,
    seq: u64,
    /// By alias, of all who are born: whose it is, its name and type.
    aliases: BTreeMap<u64, (Option<String>, String, u32)>,
    devices: BTreeMap<String, bool>,
}

/// What was read so far.
#[derive(Default)]
struct Read {
    node: Node,
    said: Vec<Said>,
}

/// Hears everything of one edge node.
pub(crate) struct Listener {
    heard: Subscriber,
    read: Mutex<Read>,
    group: String,
    node: String,
}

impl Listener {
    pub(crate) async fn new(port: u16, group: &str, node: &str) -> Self {
        let heard = Subscriber::new(port, NAMESPACE).await;
        Self { heard, read: Mutex::default(), group: group.to_owned(), node: node.to_owned() }
    }

    pub(crate) async fn subscribed(&self, times: u32) {
        self.heard.subscribed(times).await;
    }

    /// The broker was lost without a word, and this listener is subscribed again: whoever was alive is not known to be
    /// so, as a host whose connection ends knows nothing of any node until its next birth.
    #[allow(dead_code, reason = "for who kills a broker")]
    pub(crate) fn broker_was_lost(&self) {
        self.look(|_| ());
        let node = &mut self.read.lock().unwrap().node;
        node.alive = false;
        node.devices.clear();
    }

    /// Reads what is new, and looks at all that was said.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Vec<Said>) -> T) -> T {
        let mut read = self.read.lock().unwrap();
        for message in self.heard.take() {
            let said = self.read(&message, &mut read.node);
            read.said.extend(said);
        }
        look(&mut read.said)
    }

    /// All that was heard, checked.
    pub(crate) fn said(&self) -> Vec<Said> {
        self.look(|said| said.clone())
    }

    pub(crate) fn of(&self, kind: &str) -> Vec<Said> {
        self.look(|said| said.iter().filter(|said| said.kind == kind).cloned().collect())
    }

    /// The results, in the order of their coming: their numbers, and whether they are historical.
    pub(crate) fn results(&self) -> Vec<(u64, bool)> {
        let result = |said: &Said| Some((said.count("Result/seq")?, said.historical));
        self.look(|said| said.iter().filter(|said| said.kind == "DDATA").filter_map(result).collect())
    }

    fn read(&self, message: &Message, node: &mut Node) -> Option<Said> {
        let levels: Vec<&str> = message.topic.split('/').collect();
        let (kind, device) = match levels.as_slice() {
            [NAMESPACE, group, kind, of] if *group == self.group && *of == self.node => (*kind, None),
            [NAMESPACE, group, kind, of, device] if *group == self.group && *of == self.node => {
                (*kind, Some((*device).to_owned()))
            }
            _ => return None,
        };
        // Commands are a host's.
        if kind.ends_with("CMD") {
            return None;
        }
        assert!(!message.retained, "{}: nothing of an edge node is retained", message.topic);
        let payload = payload::decode(&message.payload).unwrap();
        assert!(payload.timestamp.is_some(), "{}: the time of sending", message.topic);
        if kind != "NDEATH" {
            assert_eq!(message.qos, 0, "{}", message.topic);
        }
        node.check_seq(kind, &payload);
        let values = match kind {
            "NBIRTH" => node.born(&payload),
            "NDEATH" => node.died(&payload)?,
            "DBIRTH" => node.device_born(device.as_ref().expect("a device"), &payload),
            "DDEATH" => node.device_died(device.as_ref().expect("a device"), &payload),
            "NDATA" | "DDATA" => node.data(kind, device.as_ref(), &payload),
            other => panic!("no message of an edge node: {other}"),
        };
        let historical = payload.metrics.iter().any(|metric| metric.is_historical == Some(true));
        Some(Said { kind: kind.to_owned(), device, seq: payload.seq, values, historical })
    }
}

impl Node {
    /// One more than before, from 0 of NBIRTH; NDEATH has none.
    fn check_seq(&mut self, kind: &str, payload: &Payload) {
        match kind {
            "NDEATH" => assert_eq!(payload.seq, None),
            "NBIRTH" => {
                assert_eq!(payload.seq, Some(0));
                self.seq = 0;
            }
            _ => {
                assert!(self.alive, "{kind} before NBIRTH");
                assert_eq!(payload.seq, Some((self.seq + 1) % 256), "{kind}");
                self.seq = (self.seq + 1) % 256;
            }
        }
    }

    fn born(&mut self, payload: &Payload) -> BTreeMap<String, Option<Wire>> {
        self.aliases.clear();
        self.devices.clear();
        let values = self.birth(None, payload);
        let Some(Wire::Long(bd_seq)) = values[BD_SEQ] else { panic!("bdSeq is {:?}", values[BD_SEQ]) };
        let typed = payload.metrics.iter().find(|metric| metric.name.as_deref() == Some(BD_SEQ));
        assert_eq!(typed.and_then(|metric| metric.datatype), Some(DataType::Int64 as u32));
        assert_eq!(values[REBIRTH], Some(Wire::Boolean(false)));
        if self.alive {
            assert_eq!(self.bd_seq, Some(bd_seq), "a rebirth has the number of its connection");
        } else {
            assert_ne!(self.bd_seq, Some(bd_seq), "a connection has a number of its own");
        }
        (self.bd_seq, self.alive) = (Some(bd_seq), true);
        values
    }

    fn died(&mut self, payload: &Payload) -> Option<BTreeMap<String, Option<Wire>>> {
        let [metric] = payload.metrics.as_slice() else { panic!("NDEATH has bdSeq alone: {payload:?}") };
        assert_eq!(metric.name.as_deref(), Some(BD_SEQ));
        let Some(Wire::Long(bd_seq)) = metric.value else { panic!("{metric:?}") };
        if !self.alive || self.bd_seq != Some(bd_seq) {
            // Of a connection that is over, or never had a birth.
            return None;
        }
        self.alive = false;
        self.devices.clear();
        Some(BTreeMap::from([(BD_SEQ.to_owned(), metric.value.clone())]))
    }

    fn device_born(&mut self, device: &str, payload: &Payload) -> BTreeMap<String, Option<Wire>> {
        assert_eq!(self.devices.insert(device.to_owned(), true), None, "{device} is born once");
        self.birth(Some(device), payload)
    }

    fn device_died(&mut self, device: &str, payload: &Payload) -> BTreeMap<String, Option<Wire>> {
        assert!(payload.metrics.is_empty());
        assert_eq!(self.devices.remove(device), Some(true), "{device} dies once");
        self.aliases.retain(|_, (of, ..)| of.as_deref() != Some(device));
        BTreeMap::new()
    }

    fn birth(&mut self, device: Option<&str>, payload: &Payload) -> BTreeMap<String, Option<Wire>> {
        let mut values = BTreeMap::new();
        for metric in &payload.metrics {
            let name = metric.name.clone().expect("a birth names its metrics");
            let datatype = metric.datatype.expect("a birth types its metrics");
            check_value(&name, datatype, metric);
            assert!(metric.is_historical.is_none());
            match metric.alias {
                Some(alias) => {
                    let one = (device.map(str::to_owned), name.clone(), datatype);
                    assert!(
                        self.aliases.insert(alias, one).is_none(),
                        "the alias {alias} of {name} is another's"
                    );
                }
                None => assert_eq!(name, REBIRTH),
            }
            assert!(values.insert(name, metric.value.clone()).is_none());
        }
        values
    }

    fn data(
        &mut self,
        kind: &str,
        device: Option<&String>,
        payload: &Payload,
    ) -> BTreeMap<String, Option<Wire>> {
        if let Some(device) = device {
            assert!(self.devices.contains_key(device), "{kind} of {device} before its birth");
        }
        assert!(!payload.metrics.is_empty(), "{kind} says something");
        let mut values = BTreeMap::new();
        for metric in &payload.metrics {
            assert_eq!((&metric.name, metric.datatype), (&None, None), "the alias alone says which");
            let alias = metric.alias.expect("an alias");
            let (of, name, datatype) = self.aliases.get(&alias).expect("a birth has every metric");
            assert_eq!(of.as_ref(), device, "{name}");
            check_value(name, *datatype, metric);
            assert!(values.insert(name.clone(), metric.value.clone()).is_none(), "{name} twice");
        }
        values
    }
}

/// A value of the type of its birth, or none; and its time.
fn check_value(name: &str, datatype: u32, metric: &Metric) {
    assert!(metric.timestamp.is_some(), "{name}: when the value was taken");
    let fits = match &metric.value {
        None => metric.is_null == Some(true),
        Some(Wire::Long(_)) => [4, 8, 13].contains(&datatype),
        Some(Wire::Double(_)) => datatype == 10,
        Some(Wire::Boolean(_)) => datatype == 11,
        Some(Wire::String(_)) => datatype == 12,
        Some(_) => false,
    };
    assert!(fits && (metric.value.is_none() || metric.is_null.is_none()), "{name} {datatype}: {metric:?}");
}

/// A host: says how it is, and commands.
pub(crate) struct Host {
    client: AsyncClient,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    pub(crate) fn new(port: u16) -> Self {
        let mut options = MqttOptions::new(format!("host-{}", rand::random::<u64>()), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut eventloop) = AsyncClient::new(options, 64);
        let task = tokio::spawn(async move {
            loop {
                if eventloop.poll().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self { client, task }
    }

    /// Says, retained, whether the host is online.
    pub(crate) fn state(&self, host: &str, online: bool, timestamp: i64) {
        let topic = format!("{NAMESPACE}/STATE/{host}");
        let words = format!("{{\"online\":{online},\"timestamp\":{timestamp}}}");
        self.client.try_publish(topic, QoS::AtLeastOnce, true, words).unwrap();
    }

    /// Writes to metrics by their names; the bytes of it come back.
    pub(crate) fn write(&self, topic: &str, metrics: &[(&str, Wire)]) -> Vec<u8> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let metric = |(name, value): &(&str, Wire)| Metric {
            name: Some((*name).to_owned()),
            value: Some(value.clone()),
            ..Metric::default()
        };
        let payload = Payload {
            timestamp: Some(u64::try_from(now.as_millis()).unwrap()),
            metrics: metrics.iter().map(metric).collect(),
            ..Payload::default()
        };
        let bytes = payload::encode(&payload);
        self.repeat(topic, &bytes);
        bytes
    }

    /// Sends bytes.
    pub(crate) fn repeat(&self, topic: &str, bytes: &[u8]) {
        let topic = format!("{NAMESPACE}/{topic}");
        self.client.try_publish(topic, QoS::AtMostOnce, false, bytes.to_vec()).unwrap();
    }

    /// Asks an edge node for its births.
    pub(crate) fn ask_for_births(&self, group: &str, node: &str) {
        self.write(&format!("{group}/NCMD/{node}"), &[(REBIRTH, Wire::Boolean(true))]);
    }
}
