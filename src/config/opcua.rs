//! The `[opcua]` keys.

use crate::document::{Origin, PATH_CHARS_MAX, Section};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const HOST_CHARS_MAX: usize = 253;
const ANONYMOUS: &[&str] = &["viewer", "operator"];

/// The OPC UA server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opcua {
    /// Beyond loopback every connection is signed.
    pub listen: SocketAddr,
    /// The name by which clients reach it; `None`: the address, or this machine's own name where it listens on all.
    pub host: Option<String>,
    /// Names and passwords.
    pub users_file: Option<PathBuf>,
    /// What somebody without a name may do, on loopback.
    pub anonymous: Option<Anonymous>,
    /// Connections at once.
    pub connections: u32,
    /// Of these, from one address.
    pub connections_per_address: u32,
    /// Sessions at once.
    pub sessions: u32,
    /// Subscriptions of a session.
    pub subscriptions: u32,
    /// Items of a subscription.
    pub monitored_items: u32,
    /// Nodes of a call.
    pub nodes_per_call: u32,
    /// A message.
    pub message_kb: u32,
    /// Values or events of an item that wait.
    pub queue: u32,
    /// A session without a word from its client ends.
    pub session_timeout_s: u32,
}

/// What somebody without a name may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anonymous {
    Viewer,
    Operator,
}

impl Anonymous {
    /// The word of the config.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator].into_iter().find(|one| one.as_str() == word)
    }
}

#[cfg(feature = "opcua")]
impl Opcua {
    /// The name by which clients reach the server.
    pub(crate) fn host(&self) -> String {
        if let Some(host) = &self.host {
            return host.clone();
        }
        match self.listen.ip() {
            ip if ip.is_unspecified() => machine(),
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        }
    }
}

/// This machine's own name.
#[cfg(feature = "opcua")]
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into())
}

/// Reads the section; `None` where there is none, and so no server.
pub(super) fn read(origin: &Origin, section: Section<'_>) -> Option<Opcua> {
    if !section.is_present() {
        return None;
    }
    let default: SocketAddr = ([127, 0, 0, 1], 4840).into();
    let listen = section.get::<String>("listen").map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            section.problem("listen", "must be an IP address and a port, as in 127.0.0.1:4840");
            default
        })
    });
    let host = section.text("host", HOST_CHARS_MAX);
    let is_name = |h: &String| h.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if let Some(bad) = host.as_ref().filter(|host| !is_name(host)) {
        section.problem("host", format!("{bad:?} is no host name; write it without port"));
    }
    let users_file = section.text("users_file", PATH_CHARS_MAX).map(|text| origin.input(Path::new(&text)));
    if let Some(path) = &users_file {
        origin.must_be_file(&section, "users_file", path);
    }
    let anonymous = section.word("anonymous", Anonymous::parse, ANONYMOUS);
    if anonymous.is_some() && !listen.ip().is_loopback() {
        section.problem("anonymous", "goes on loopback only: give names and passwords in users_file");
    }
    if users_file.is_none() && anonymous.is_none() && section.are_fine(&["users_file", "anonymous"]) {
        section.problem_here("nobody may come in: it needs users_file or, on loopback, anonymous");
    }
    let sessions = section.ranged("sessions", 1..=100).unwrap_or(10);
    let connections = section.ranged("connections", 1..=1000).unwrap_or(4 * sessions);
    if connections < sessions && section.are_fine(&["connections", "sessions"]) {
        section.problem("connections", format!("are fewer than sessions ({sessions}), and each needs one"));
    }
    let opcua = Opcua {
        listen,
        host,
        users_file,
        anonymous,
        connections,
        connections_per_address: section.ranged("connections_per_address", 1..=1000).unwrap_or(2 * sessions),
        sessions,
        subscriptions: section.ranged("subscriptions", 1..=100).unwrap_or(10),
        monitored_items: section.ranged("monitored_items", 1..=100_000).unwrap_or(1000),
        nodes_per_call: section.ranged("nodes_per_call", 10..=10_000).unwrap_or(1000),
        message_kb: section.ranged("message_kb", 64..=65_536).unwrap_or(4096),
        queue: section.ranged("queue", 1..=1000).unwrap_or(100),
        session_timeout_s: section.ranged("session_timeout_s", 10..=3600).unwrap_or(60),
    };
    if !cfg!(feature = "opcua") {
        section.problem_here(
            "this build has no OPC UA server: the Debian package has it, and a build with --features opcua",
        );
    }
    section.finish();
    Some(opcua)
}
