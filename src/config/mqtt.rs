//! The sections `[mqtt]` and `[sink.NAME]`: the brokers' addresses and who we are to them.
//!
//! Secrets never reach a log: [`Secret`] prints as `***`, and messages mask what looks like one.

use super::sparkplug::{self, Names, Node};
use crate::document::MASK;
use crate::document::Section;
use crate::store::outbox::MQTT;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A password file beyond this many bytes is not one.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// Results that wait, at most, where the config says nothing.
const OUTBOX_ENTRIES_MAX: u64 = 200_000;

/// Longer side of small pictures, where the config wants some and says nothing of their size.
const IMAGES_PX: u32 = 320;

/// Further brokers: each costs a connection, a task and its share of the outbox.
const SINKS_MAX: usize = 8;

/// Longest name of a sink: it stands in codes of alarms and names of figures.
const SINK_NAME_MAX: usize = 32;

/// How to reach the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mqtt {
    pub host: String,
    pub port: u16,
    /// `Some` exactly for `mqtts://`.
    pub tls: Option<BrokerTls>,
    pub protocol: Protocol,
    /// Unique at the broker: two clients of one id throw each other out.
    pub client_id: String,
    pub username: Option<Secret>,
    /// The password as the config or the url has it; see `read_password`.
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub keep_alive_s: u16,
    /// Longer side of the small pictures that are published behind the results; `None`: none are.
    pub images_px: Option<u32>,
    /// `None`: JSON.
    pub sparkplug: Option<Node>,
    /// Results that wait for a broker, at most; the outbox holds no more. One limit for all sinks, of `[mqtt]`.
    pub outbox_entries_max: u64,
}

/// A further broker, `[sink.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sink {
    pub name: String,
    /// False: it keeps its place in the outbox and holds nobody back.
    pub enabled: bool,
    /// Commands are taken from it, too.
    pub commands: bool,
    pub broker: Mqtt,
}

/// Files (PEM) of a connection by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerTls {
    /// The authorities of which one must have signed the broker's certificate.
    pub ca: PathBuf,
    /// Our certificate and its key, for a broker that asks for them.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Mqtt {
    /// The broker as a url, without secrets.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "mqtts" } else { "mqtt" };
        let brackets = self.host.contains(':');
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        format!("{scheme}://{open}{}{close}:{}", self.host, self.port)
    }

    /// Who the station is there, as words to be put behind the url; empty for a broker of JSON.
    pub(crate) fn node(&self) -> String {
        let words = |node: &Node| format!(", Sparkplug edge node {}/{}", node.group_id, node.edge_node_id);
        self.sparkplug.as_ref().map(words).unwrap_or_default()
    }

    /// What anybody on the way to the broker could read, in words, if there is anything.
    pub(crate) fn warning(&self) -> Option<String> {
        let is_local = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let has_password = self.password.is_some() || self.password_file.is_some();
        (self.tls.is_none() && has_password && !is_local).then(|| {
            let url = self.url();
            format!("the password goes to {url} in clear text; use mqtts:// with ca")
        })
    }

    /// The password, from `password_file` where one is given, without byte order mark and line end.
    ///
    /// # Errors
    /// The file cannot be read, or is too big to be a password.
    pub(crate) fn read_password(&self) -> io::Result<Option<Secret>> {
        let Some(path) = &self.password_file else {
            return Ok(self.password.clone());
        };
        let text = std::fs::read_to_string(path)?;
        if text.len() > PASSWORD_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{}: {} bytes are no password",
                path.display(),
                text.len()
            )));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
    }
}

/// The version of MQTT that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1: `protocol = 4`, the level that its CONNECT packet carries.
    V311,
    /// MQTT 5: `protocol = 5`.
    V5,
}

impl Protocol {
    /// The protocol level, as the config and the CONNECT packet have it.
    pub(crate) const fn level(self) -> u8 {
        match self {
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}

/// Text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Reads `[mqtt]`. `names` are the default ids; `input` finds a file that a path names.
pub(super) fn read(section: Section<'_>, names: &Names, input: impl Fn(&Path) -> PathBuf) -> Mqtt {
    let broker = read_broker(&section, names, input);
    let max = section.ranged("outbox_entries_max", 1_000..=10_000_000).unwrap_or(OUTBOX_ENTRIES_MAX);
    section.finish();
    Mqtt { outbox_entries_max: max, ..broker }
}

/// Reads all `[sink.NAME]`, in the order of their names; the client id gets the name behind it.
pub(super) fn read_sinks(root: &Section<'_>, names: &Names, input: impl Fn(&Path) -> PathBuf) -> Vec<Sink> {
    let mut sinks = Vec::new();
    for (name, section) in root.named("sink") {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if name.len() > SINK_NAME_MAX || !name.bytes().all(fits) {
            let what = "its name must be 1 to 32 of the characters a-z 0-9 _ -";
            section.problem_here(what);
        } else if name == MQTT {
            section.problem_here("this name is that of the section [mqtt]");
        }
        section.required_word("kind", |word| (word == "mqtt").then_some(()), &["mqtt"]);
        let enabled = section.get("enabled").unwrap_or(true);
        let commands = section.get("commands").unwrap_or(false);
        let names = Names { client_id: format!("{}-{name}", names.client_id), ..names.clone() };
        let broker = read_broker(&section, &names, &input);
        section.finish();
        sinks.push(Sink { name, enabled, commands, broker });
    }
    if sinks.len() > SINKS_MAX {
        root.problem("sink", format!("there are {}; at most {SINKS_MAX} are served", sinks.len()));
    }
    sinks
}

/// The keys that both sections have.
fn read_broker(section: &Section<'_>, names: &Names, input: impl Fn(&Path) -> PathBuf) -> Mqtt {
    let url: String = section.required("url");
    let address = parse_url(&url).unwrap_or_else(|message| {
        if !url.is_empty() {
            section.problem("url", message);
        }
        Address::default()
    });
    let tls = read_tls(section, address.tls, &input);
    let protocol = match section.get::<u8>("protocol") {
        None | Some(5) => Protocol::V5,
        Some(4) => Protocol::V311,
        Some(_) => {
            section.problem("protocol", "must be 5 (MQTT 5) or 4 (MQTT 3.1.1)");
            Protocol::V5
        }
    };
    let username = section.text("username", 1024);
    let password = section.text("password", 4096);
    let password_file = section.text("password_file", 4096).map(|path| input(Path::new(&path)));
    if username.is_some() && address.username.is_some() {
        section.problem("username", "is also in the url: give it once");
    }
    let ways = [password.is_some(), password_file.is_some(), address.password.is_some()];
    if ways.into_iter().filter(|given| *given).count() > 1 {
        let key = if password_file.is_some() { "password_file" } else { "password" };
        section.problem(key, "the password is given twice: use one of the url, password and password_file");
    }
    let username = username.or(address.username);
    if username.is_none() && (password.is_some() || password_file.is_some()) {
        let key = if password_file.is_some() { "password_file" } else { "password" };
        section.problem(key, "a password needs a username");
    }
    let (images, images_px) = (section.get::<bool>("images"), section.ranged::<u32>("images_px", 64..=1024));
    if images.is_none() && images_px.is_some() {
        section.problem("images_px", "is the size of what images = true publishes, and images is not there");
    }
    Mqtt {
        host: address.host,
        port: address.port,
        tls,
        protocol,
        client_id: section.text("client_id", 128).unwrap_or_else(|| names.client_id.clone()),
        username: username.map(Secret),
        password: password.or(address.password).map(Secret),
        password_file,
        keep_alive_s: section.ranged("keep_alive_s", 5..=3600).unwrap_or(30),
        images_px: (images == Some(true)).then(|| images_px.unwrap_or(IMAGES_PX)),
        sparkplug: sparkplug::read(section, names),
        outbox_entries_max: OUTBOX_ENTRIES_MAX,
    }
}

/// The keys of TLS, which only `mqtts://` has.
fn read_tls(section: &Section<'_>, wanted: bool, input: impl Fn(&Path) -> PathBuf) -> Option<BrokerTls> {
    let file = |key: &'static str| section.text(key, 4096).map(|path| input(Path::new(&path)));
    let (ca, certificate) = (file("ca"), section.certificate_and_key(file));
    if !wanted {
        let given = [("ca", ca.is_some()), ("certificate", certificate.is_some())];
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            section.problem(key, "is only for mqtts://, and the url says mqtt://");
        }
        return None;
    }
    if ca.is_none() {
        let why = "is missing: mqtts:// needs a PEM file of the authorities that may vouch for the broker; \
                   Debian's own are in /etc/ssl/certs/ca-certificates.crt";
        section.problem("ca", why);
    }
    Some(BrokerTls { ca: ca.unwrap_or_default(), certificate })
}

/// The parts of a broker's url.
#[derive(Debug, Default, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
}

/// `mqtt[s]://[user[:password]@]host[:port][/]`; ports are 1883 and, with TLS, 8883 by default.
/// Messages never repeat the url: it may hold a password.
fn parse_url(url: &str) -> Result<Address, String> {
    let (tls, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err("must start with mqtt:// or mqtts://".to_owned()),
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or("the [ of an IPv6 address is never closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "what stands in [ ] is no IPv6 address")?;
            (host, port)
        }
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("the port must be from 1 to 65535")?,
        None if port.is_empty() => {
            if tls {
                8883
            } else {
                1883
            }
        }
        None => return Err("after the ] only a port may follow".to_owned()),
    };
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(fits) {
        return Err("must name a host, as in mqtt://127.0.0.1:1883".to_owned());
    }
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        Some((user, password)) => (Some(user), Some(password).filter(|p| !p.is_empty())),
        None => (None, None),
    };
    let decode = |text: Option<&str>| text.map(percent_decode).transpose();
    Ok(Address { host: host.to_owned(), port, tls, username: decode(username)?, password: decode(password)? })
}

/// `p@ss` from `p%40ss`.
fn percent_decode(text: &str) -> Result<String, String> {
    let bad = "a % in the user part must be followed by two hex digits, and give UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit)).ok_or(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad)?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_user() {
        let plain = parse_url("mqtt://broker.plant").expect("a url");
        assert_eq!((plain.host.as_str(), plain.port, plain.tls), ("broker.plant", 1883, false));
        let full = parse_url("mqtts://cell%207:p%40s:s@[fd00::1]:9/").expect("a url");
        assert_eq!((full.host.as_str(), full.port, full.tls), ("fd00::1", 9, true));
        assert_eq!(full.username.as_deref(), Some("cell 7"));
        assert_eq!(full.password.as_deref(), Some("p@s:s"));
        assert_eq!(parse_url("mqtts://h").expect("a url").port, 8883);
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for url in [
            "",
            "127.0.0.1:1883",
            "tcp://h",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://h:0",
            "mqtt://h:65536",
            "mqtt://h:x",
            "mqtt://[::1",
            "mqtt://[zz]:1",
            "mqtt://[::1]1883",
            "mqtt://h/topic",
            "mqtt://u:hunter2@h:x",
            "mqtt://u:%4@h",
            "mqtt://u:%ff@h",
            "mqtt://u:%+1@h",
        ] {
            let message = parse_url(url).expect_err(url);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(***)");
    }
}
