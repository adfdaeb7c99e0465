//! What the config decides about the page.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the config decides.
#[derive(Clone, Debug)]
pub struct WebOptions {
    /// Address and port of the listener; port 0: any that is free.
    pub listen: SocketAddr,
    /// Names under which the page may be asked for, beside the address itself and this machine's.
    pub hosts: Vec<String>,
    /// Where browsers reach the page through a proxy that ends TLS: scheme, host and perhaps a port.
    pub public_url: Option<String>,
    /// Own certificate and key (PEM); without them a listener beyond loopback generates a pair.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where a generated certificate is kept.
    pub state_dir: PathBuf,
    /// A session ends so long after its login.
    pub session: Duration,
    /// `/metrics` asks for no login.
    pub open_metrics: bool,
    /// Tokens of the role `model` may ask the model.
    pub model_api: bool,
}

impl WebOptions {
    /// Beyond this machine only with TLS.
    pub fn uses_tls(&self) -> bool {
        !self.listen.ip().is_loopback() || self.certificate.is_some()
    }

    /// Whether browsers come by TLS, be it ours or that of a proxy before us.
    pub fn seen_by_tls(&self) -> bool {
        self.public_url.as_ref().map_or_else(|| self.uses_tls(), |url| url.starts_with("https://"))
    }

    /// The host in the outer URL, with its port if it has one of its own.
    pub fn public_host(&self) -> Option<&str> {
        self.public_url.as_deref().and_then(|url| url.split_once("://")).map(|(_, host)| host)
    }
}
