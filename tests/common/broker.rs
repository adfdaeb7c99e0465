//! A real mosquitto, a proxy in front of it, and a subscriber, for tests of MQTT.
//!
//! ```text
//! daemon's client --> Proxy (open, cut) --> mosquitto <-- Subscriber
//! ```

use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest wait for anything; only a failure takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A mosquitto process with a configuration of its own, without memory across restarts.
pub(crate) struct Broker {
    child: Option<Child>,
    dir: tempfile::TempDir,
    pub port: u16,
}

impl Broker {
    /// `extra` are lines of mosquitto.conf; `ACL` in it becomes the path of a file with `acl`.
    pub(crate) async fn start(extra: &str, acl: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let broker = Self { child: None, dir, port };
        broker.write_acl(acl);
        broker.configure(extra);
        let mut broker = broker;
        broker.restart().await;
        broker
    }

    /// Writes the configuration, which counts from the next start on.
    pub(crate) fn configure(&self, extra: &str) {
        let extra = extra.replace("ACL", &self.dir.path().join("acl").display().to_string());
        let port = self.port;
        // Enough room that no QoS 1 message for a slow subscriber is dropped by the broker itself.
        // As root it would change to a user of its own, who may not read this directory.
        let conf = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n{extra}\n"
        );
        std::fs::write(self.dir.path().join("mosquitto.conf"), conf).unwrap();
    }

    pub(crate) fn write_acl(&self, acl: &str) {
        let path = self.dir.path().join("acl");
        std::fs::write(&path, acl).unwrap();
        // mosquitto refuses files that others may read.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again) on the same port and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|p| Path::new(p).exists())
            .expect("mosquitto is needed for this test: apt-get install mosquitto");
        let conf = self.dir.path().join("mosquitto.conf");
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(conf).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let port = self.port;
        until("mosquitto answers", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One message as a subscriber sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub topic: String,
    pub qos: u8,
    /// Set only on what the broker had kept from before the subscription.
    pub retained: bool,
    pub payload: Vec<u8>,
}

impl Message {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// Subscribes to everything under a prefix, again after every reconnect.
pub(crate) struct Subscriber {
    heard: Arc<Mutex<Vec<Message>>>,
    subscriptions: watch::Receiver<u32>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Returns when the broker has confirmed the subscription.
    pub(crate) async fn new(port: u16, prefix: &str) -> Self {
        let id = format!("test-{}", rand::random::<u64>());
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut eventloop) = AsyncClient::new(options, 10);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (confirmed, subscriptions) = watch::channel(0);
        let list = Arc::clone(&heard);
        let filter = format!("{prefix}/#");
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        client.try_subscribe(&filter, QoS::AtLeastOnce).unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => confirmed.send_modify(|n| *n += 1),
                    Ok(Event::Incoming(Packet::Publish(p))) => list.lock().unwrap().push(Message {
                        topic: String::from_utf8(p.topic.to_vec()).unwrap(),
                        qos: p.qos as u8,
                        retained: p.retain,
                        payload: p.payload.to_vec(),
                    }),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let subscriber = Self { heard, subscriptions, task };
        subscriber.subscribed(1).await;
        subscriber
    }

    /// Waits until the subscription was confirmed so many times in all.
    pub(crate) async fn subscribed(&self, times: u32) {
        let confirmed = self.subscriptions.clone();
        until("the subscription is confirmed", || *confirmed.borrow() >= times).await;
    }

    pub(crate) fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap().clone()
    }

    /// What was heard since the last time; it is forgotten here.
    #[allow(dead_code, reason = "for who reads many messages once")]
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    /// All messages whose topic ends so.
    pub(crate) fn on(&self, topic: &str) -> Vec<Message> {
        self.heard().into_iter().filter(|m| m.topic.ends_with(topic)).collect()
    }

    /// The newest message on a topic.
    pub(crate) fn newest(&self, topic: &str) -> Option<serde_json::Value> {
        self.on(topic).last().map(Message::json)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}
