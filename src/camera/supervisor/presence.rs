//! Whether a device that failed is there again, found out without opening it.

use crate::camera::device::Kind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

/// How long a device may take to answer a look.
const ANSWER: Duration = Duration::from_millis(200);
/// Where GigE Vision cameras listen.
const GVCP_PORT: u16 = 3956;
const RTSP_PORT: u16 = 554;
/// The discovery command of GigE Vision: key, acknowledge, DISCOVERY_CMD, no payload, id 1.
const GVCP_DISCOVERY: [u8; 8] = [0x42, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01];
/// Its answer's second word begins with DISCOVERY_ACK.
const GVCP_DISCOVERY_ACK: [u8; 2] = [0x00, 0x03];

/// How a device is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A node or a file.
    Path(PathBuf),
    /// A server: something accepts connections.
    Tcp(String),
    /// A GigE Vision camera at a known address: it answers a discovery.
    Gvcp(IpAddr),
    /// There is no cheap way; waits run their course.
    Unknown,
}

impl Presence {
    /// The way for these settings.
    pub fn of(kind: &Kind) -> Self {
        match kind {
            Kind::V4l2 { device, .. } => Self::Path(device.clone()),
            Kind::OpenCv { url, .. } => match url.split_once("://") {
                Some(("rtsp" | "http", rest)) => Self::Tcp(host_and_port(rest, url)),
                None if !url.contains('!') => Self::Path(url.into()),
                _ => Self::Unknown,
            },
            Kind::Genicam { name, .. } => name.parse().map_or(Self::Unknown, Self::Gvcp),
        }
    }

    /// Looks; `None` when there is no way to tell.
    pub fn look(&self) -> Option<bool> {
        match self {
            Self::Path(path) => Some(path.exists()),
            Self::Tcp(address) => {
                let resolved: Vec<SocketAddr> = address.to_socket_addrs().ok()?.collect();
                Some(resolved.iter().any(|a| TcpStream::connect_timeout(a, ANSWER).is_ok()))
            }
            Self::Gvcp(address) => Some(answers_discovery(*address).unwrap_or(false)),
            Self::Unknown => None,
        }
    }
}

/// `host:port` of the rest of a URL; the scheme's port where none is written.
fn host_and_port(rest: &str, url: &str) -> String {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, url.starts_with("rtsp")) {
        (true, _) => host.to_owned(),
        (false, true) => format!("{host}:{RTSP_PORT}"),
        (false, false) => format!("{host}:80"),
    }
}

fn answers_discovery(address: IpAddr) -> std::io::Result<bool> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.connect((address, GVCP_PORT))?;
    socket.send(&GVCP_DISCOVERY)?;
    let mut answer = [0; 1024];
    let bytes = socket.recv(&mut answer)?;
    Ok(bytes >= 8 && answer[2..4] == GVCP_DISCOVERY_ACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_url() {
        let of = |url: &str| host_and_port(url.split_once("://").unwrap().1, url);
        assert_eq!(of("rtsp://me:pw@10.0.0.7/live"), "10.0.0.7:554");
        assert_eq!(of("rtsp://10.0.0.7:8554/live?x=1"), "10.0.0.7:8554");
        assert_eq!(of("http://cam/mjpg"), "cam:80");
    }

    #[test]
    fn a_server_and_a_file_are_seen_to_come_and_go() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = Presence::Tcp(listener.local_addr().unwrap().to_string());
        assert_eq!(there.look(), Some(true));
        drop(listener);
        assert_eq!(there.look(), Some(false));
        let file = tempfile::NamedTempFile::new().unwrap();
        let there = Presence::Path(file.path().into());
        assert_eq!(there.look(), Some(true));
        file.close().unwrap();
        assert_eq!(there.look(), Some(false));
    }
}
