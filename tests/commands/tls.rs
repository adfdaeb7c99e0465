//! The real binary and a real mosquitto by TLS: certificates of an authority of the test's own, which the broker
//! asks for, too; what is not vouched for is not spoken to.

use crate::broker::{Broker, Subscriber, until};
use crate::station::{self, PREFIX, Station, results};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

const CAMERA: &str = "[[camera]]\nid = \"cam1\"\npipeline = \"examples-defects\"\nsource = \"simulator\"\n\
                      width_px = 256\nheight_px = 256\ntrigger = { on = \"command\" }\n";

/// An authority, and a certificate and key of the broker's and the station's that it has signed.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the name of who it signs, it would look like one that signs itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        for name in ["broker", "station"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            std::fs::write(dir.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A broker with a second door, by TLS, for clients with a certificate; the port of that door.
async fn broker_with_tls(authority: &Authority) -> (Broker, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut extra = format!("listener {port} 127.0.0.1\nrequire_certificate true\n");
    for (key, file) in [("cafile", "ca.pem"), ("certfile", "broker.pem"), ("keyfile", "broker.key")] {
        writeln!(extra, "{key} {}", authority.file(file).display()).unwrap();
    }
    (Broker::start(&extra, "").await, port)
}

/// A station that is told to use the door by TLS.
fn station(broker: &Broker, port: u16, ca: &Path, identity: Option<(&Path, &Path)>, protocol: u8) -> Station {
    let station = Station::new(broker.port, CAMERA);
    let mut keys = format!("\"mqtts://127.0.0.1:{port}\"\nprotocol = {protocol}\nca = '{}'", ca.display());
    if let Some((certificate, key)) = identity {
        let (certificate, key) = (certificate.display(), key.display());
        write!(keys, "\ncertificate = '{certificate}'\nkey = '{key}'").unwrap();
    }
    station.edit(&format!("\"mqtt://127.0.0.1:{}\"", broker.port), &keys);
    station
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_commands_go_by_tls() {
    let authority = Authority::new();
    let (broker, port) = broker_with_tls(&authority).await;
    let heard = Subscriber::new(broker.port, PREFIX).await;
    let (certificate, key) = (authority.file("station.pem"), authority.file("station.key"));
    let (client, mut eventloop) = AsyncClient::new(MqttOptions::new("plc", "127.0.0.1", broker.port), 16);
    let plc = tokio::spawn(async move { while eventloop.poll().await.is_ok() {} });
    for protocol in [5, 4] {
        let station = station(&broker, port, &authority.file("ca.pem"), Some((&certificate, &key)), protocol);
        let mut daemon = station.start();
        let part = format!("P{protocol}");
        let mut asked = std::time::Instant::now();
        until("a trigger by MQTT has its result", || {
            if asked.elapsed().as_millis() > 300 {
                asked = std::time::Instant::now();
                let words = format!("{{\"part_id\":\"{part}\"}}");
                client.try_publish(format!("{PREFIX}/cmd/trigger"), QoS::AtLeastOnce, false, words).unwrap();
            }
            results(&heard.heard()).iter().any(|r| r["part_id"] == part.as_str())
        })
        .await;
        assert!(heard.on("/cmd/ack").iter().any(|m| m.json()["accepted"] == true));
        assert!(heard.on("st10/status").iter().any(|m| m.json()["state"] == "online"));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    plc.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_vouched_for_is_not_spoken_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (broker, port) = broker_with_tls(&authority).await;
    let heard = Subscriber::new(broker.port, PREFIX).await;
    let identity = (authority.file("station.pem"), authority.file("station.key"));
    let identity = Some((identity.0.as_path(), identity.1.as_path()));
    let cases = [
        ("a broker of another authority", other.file("ca.pem"), identity, "invalid peer certificate"),
        ("a station without a certificate", authority.file("ca.pem"), None, "CertificateRequired"),
    ];
    for (what, ca, identity, word) in cases {
        let station = station(&broker, port, &ca, identity, 5);
        let mut daemon = station.start();
        until(what, || station.log().contains(word)).await;
        assert!(daemon.try_wait().unwrap().is_none(), "{what}: the line goes on without a broker");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    assert!(heard.heard().is_empty(), "{:?}", heard.heard());

    // A file that is none is said at the start.
    let wrong = authority.file("broker.key");
    let station = station(&broker, port, &wrong, None, 5);
    let mut daemon = station.start();
    assert!(!station::wait(&mut daemon, "the start fails").await.success());
    assert!(
        station.log().contains(&format!("{}: it holds no certificate", wrong.display())),
        "{}",
        station.log()
    );
}
