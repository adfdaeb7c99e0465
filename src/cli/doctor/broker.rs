//! The brokers: do they answer, by TLS, and do they let us in?
//!
//! ```text
//! address --> TCP --> TLS (mqtts://) --> CONNECT under an id of its own --> CONNACK --> DISCONNECT
//! ```
//!
//! The station's own id would throw the running station out.

use super::{Line, certificate};
use crate::cli::check::here::open_tls;
use crate::config::{Config, Mqtt};
use jiff::Timestamp;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

/// How long a broker may take for each step.
const ANSWER: Duration = Duration::from_secs(5);
/// What our id ends with.
const SUFFIX: &str = "-doctor";

/// Each broker of the config that is enabled.
pub(super) fn lines(config: &Config) -> Vec<Line> {
    let sinks =
        config.sinks.iter().filter(|sink| sink.enabled).map(|sink| (sink.name.as_str(), &sink.broker));
    std::iter::once(("mqtt", &config.mqtt))
        .chain(sinks)
        .flat_map(|(name, broker)| look(name, broker))
        .collect()
}

/// What a step gives: the next, or the line that says why there is none.
type Step<T> = Result<T, Line>;

fn look(name: &str, broker: &Mqtt) -> Vec<Line> {
    let start = Instant::now();
    let mut lines = Vec::new();
    let outcome = reach(name, broker).and_then(|stream| {
        if broker.tls.is_none() {
            return log_in(name, broker, stream);
        }
        let mut stream = secure(name, broker, stream)?;
        // The first byte that is read or written brings the other side's certificate.
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(|error| no_tls(name, broker, &error.to_string()))?;
        }
        let shown = stream.conn.peer_certificates().and_then(|all| certificate::end(all.first()?));
        lines.extend(shown.map(|end| certificate::until(&broker.url(), end, Timestamp::now())));
        log_in(name, broker, stream)
    });
    lines.insert(
        0,
        match outcome {
            Ok(()) => {
                let ms = start.elapsed().as_millis();
                Line::ok("broker", format!("{name}: {} lets us in, in {ms} ms", broker.url()))
            }
            Err(line) => line,
        },
    );
    lines
}

fn reach(name: &str, broker: &Mqtt) -> Step<TcpStream> {
    let url = broker.url();
    let unknown = |why: String| {
        let todo = "look at [mqtt] url and the name server (resolvectl query), or write the address";
        Line::fail("broker", format!("{name}: {url}: its name has no address: {why}"), todo)
    };
    let addresses: Vec<_> = (broker.host.as_str(), broker.port)
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?
        .collect();
    let mut why = "none".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, ANSWER) {
            Ok(stream) => {
                let set = stream
                    .set_read_timeout(Some(ANSWER))
                    .and_then(|()| stream.set_write_timeout(Some(ANSWER)));
                return set.map(|()| stream).map_err(|error| unknown(error.to_string()));
            }
            Err(error) => why = error.to_string(),
        }
    }
    let todo = "start the broker, look at cable, firewall and port; IPAddressAllow= of the unit lets only private networks through";
    Err(Line::fail("broker", format!("{name}: {url} does not answer: {why}"), todo))
}

fn no_tls(name: &str, broker: &Mqtt, why: &str) -> Line {
    let todo = "ca must be the authority of the broker's certificate, which must name its host; the port must be that of TLS; look at the clock";
    Line::fail("broker", format!("{name}: {}: no TLS: {why}", broker.url()), todo)
}

fn secure(name: &str, broker: &Mqtt, stream: TcpStream) -> Step<StreamOwned<ClientConnection, TcpStream>> {
    let refused = |why: String| no_tls(name, broker, &why);
    let files = broker.tls.as_ref().ok_or_else(|| refused("the config says nothing of it".to_owned()))?;
    let config = open_tls(files).map_err(|error| refused(error.to_string()))?.client_config();
    let host = ServerName::try_from(broker.host.clone()).map_err(|error| refused(error.to_string()))?;
    let connection = ClientConnection::new(config, host).map_err(|error| refused(error.to_string()))?;
    Ok(StreamOwned::new(connection, stream))
}

fn log_in(name: &str, broker: &Mqtt, mut stream: impl Read + Write) -> Step<()> {
    let url = broker.url();
    let password = broker.read_password().map_err(|error| {
        let found = format!("{name}: password_file cannot be read: {error}");
        Line::warn("broker", found, "inside the service it may be there; sudo inspectd doctor")
    })?;
    let username = broker.username.as_ref().map(|secret| secret.expose());
    let packet = connect(
        broker.protocol.level(),
        &format!("{}{SUFFIX}", broker.client_id),
        username,
        password.as_ref().map(|secret| secret.expose()),
    );
    let code = ask(&mut stream, &packet).map_err(|error| {
        let todo = "is it an MQTT broker, is the port that of plain MQTT or of TLS, as the url says, and does it ask for a certificate of ours?";
        Line::fail("broker", format!("{name}: {url} does not answer MQTT: {error}"), todo)
    })?;
    if code == 0 {
        return Ok(());
    }
    let (why, todo) = refusal(code);
    Err(Line::fail("broker", format!("{name}: {url} refuses us: {why}"), todo))
}

/// Sends a CONNECT and reads the code of the CONNACK; then says goodbye.
fn ask(stream: &mut (impl Read + Write), packet: &[u8]) -> io::Result<u8> {
    stream.write_all(packet)?;
    stream.flush()?;
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).map(|()| byte[0])
    };
    if byte()? != 0x20 {
        return Err(io::Error::other("it sends something else"));
    }
    // The length, whose last byte has no upper bit.
    while byte()? & 0x80 != 0 {}
    let _flags = byte()?;
    // In MQTT 5 properties follow.
    let code = byte()?;
    if code == 0 {
        // Whether it hears the goodbye does not matter.
        let _ = stream.write_all(&[0xe0, 0]).and_then(|()| stream.flush());
    }
    Ok(code)
}

/// The packet CONNECT of MQTT 3.1.1 (level 4) and 5.
fn connect(level: u8, client_id: &str, username: Option<&str>, password: Option<&str>) -> Vec<u8> {
    let text = |text: &str| {
        let bytes = text.as_bytes();
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], &bytes[..usize::from(length)]].concat()
    };
    let clean = 0x02;
    let flags = clean | if username.is_some() { 0x80 } else { 0 } | if password.is_some() { 0x40 } else { 0 };
    let mut body = text("MQTT");
    body.extend([level, flags, 0, 30]);
    if level == 5 {
        // No properties.
        body.push(0);
    }
    body.extend(text(client_id));
    body.extend(username.into_iter().chain(password).flat_map(text));
    let mut packet = vec![0x10];
    let mut length = body.len();
    loop {
        let more = if length >= 128 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// What a code of MQTT 3.1.1 or 5 means, and what to do.
fn refusal(code: u8) -> (String, String) {
    let (why, todo) = match code {
        1 | 0x84 => ("it does not speak this version", "set [mqtt] protocol = 4 (MQTT 3.1.1) or 5"),
        2 | 0x85 => (
            "it does not take our id",
            "it may tie ids to logins: this look uses the station's id and -doctor behind it",
        ),
        4 | 0x86 => ("name or password is wrong", "change [mqtt] username and password_file"),
        5 | 0x87 => (
            "we are not allowed",
            "give the broker's user of this station its rights, or set username and password_file",
        ),
        3 | 0x88 | 0x89 => ("it is busy or shutting down", "look at the broker"),
        _ => ("for a reason of its own", "look at the broker's log"),
    };
    (format!("{why} (code {code})"), todo.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_as_the_standard_says() {
        let packet = connect(4, "st10", Some("u"), Some("p"));
        let expected = b"\x10\x16\x00\x04MQTT\x04\xc2\x00\x1e\x00\x04st10\x00\x01u\x00\x01p";
        assert_eq!(packet, expected);
        let long = connect(5, &"x".repeat(200), None, None);
        assert_eq!(&long[..3], [0x10, 0xd5, 0x01], "213 bytes follow");
        assert_eq!(long.len(), 3 + 213);
        assert_eq!(long[10..14], [2, 0, 30, 0], "clean, keep-alive, no properties");
    }
}
