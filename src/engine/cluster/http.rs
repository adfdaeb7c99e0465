//! One request to a server over HTTP/1.1, with or without TLS, on a connection of its own.
//!
//! ```text
//! connect (5 s) --TLS, where the URL says https--> request --> status, headers, body (16 MiB at most)
//! ```
//!
//! A connection for each request costs a millisecond in a plant's network beside an answer's hundreds, and its end is the
//! request's: whoever drops the request has it stopped at the server, and no kept connection can turn out to be dead.

use super::wire::readable;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A server that takes no connection for so long is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest answer: twenty rivals of eight thousand tokens.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Longest rest that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// The address of a server's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    tls: bool,
    host: String,
    port: u16,
    /// Begins with a slash, and ends without one.
    path: String,
}

impl Url {
    /// `http[s]://host[:port]/path`; ports are 80 and, with TLS, 443 by default.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("must start with http:// or https://".to_owned()),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if place.contains('@') {
            return Err("must not hold a user or a password; a key stands in remote_key_file".to_owned());
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or("the [ of an IPv6 address is never closed")?;
                host.parse::<Ipv6Addr>().map_err(|_| "what stands in [ ] is no IPv6 address")?;
                (host, port)
            }
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or("the port must be from 1 to 65535")?
            }
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err("after the ] only a port may follow".to_owned()),
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(fits) {
            return Err("must name a host, as in http://10.0.0.7:8000/v1".to_owned());
        }
        let path = path.trim_end_matches('/');
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
        if path.is_empty() || !path.bytes().all(fits) {
            return Err("must end in the path of the API, as in http://10.0.0.7:8000/v1".to_owned());
        }
        Ok(Self { tls, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Host and port, as messages and records name the server.
    pub fn place(&self) -> String {
        let v6 = self.host.contains(':');
        let (open, close) = if v6 { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }

    /// True when anybody on the way can read what is said.
    pub fn is_open(&self) -> bool {
        let is_local = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        !self.tls && !is_local
    }

    /// True for `https://`.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// The path of what stands beside the API: `/props`, `/version`.
    fn beside(&self, name: &str) -> String {
        format!("{}{name}", self.path.strip_suffix("/v1").unwrap_or(&self.path))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.place(), self.path)
    }
}

/// The certificates by which servers are trusted: a PEM file of authorities.
///
/// # Errors
/// In words: the file cannot be read, or holds no certificate.
pub fn authorities(ca: &Path) -> Result<Arc<ClientConfig>, String> {
    let bad = |why: String| format!("{}: {why}", ca.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(ca)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("it holds no certificate".into()));
    }
    let mut roots = RootCertStore::empty();
    for authority in found {
        roots.add(authority).map_err(|error| bad(error.to_string()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// How a server is reached.
#[derive(Clone)]
pub(super) struct Way {
    pub url: Url,
    pub tls: Option<Arc<ClientConfig>>,
    /// `Bearer …`.
    pub key: Option<HeaderValue>,
    /// From the first byte of a request to the last of its answer.
    pub timeout: Duration,
}

/// What a server answered, whatever it is.
pub(super) struct Response {
    pub status: StatusCode,
    /// How long it wants to be left alone.
    pub retry_after: Option<Duration>,
    pub body: Bytes,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) enum To {
    /// Below the API's path.
    Api(&'static str),
    /// Beside it.
    Beside(&'static str),
}

impl Way {
    /// Asks; a body makes it a POST.
    ///
    /// # Errors
    /// In words: no connection, no answer in time, or half of one.
    pub(super) async fn ask(&self, to: To, body: Option<Vec<u8>>) -> Result<Response, String> {
        let whole = tokio::time::timeout(self.timeout, self.exchange(to, body)).await;
        whole.unwrap_or_else(|_| Err(format!("no answer for {} s", self.timeout.as_secs_f64())))
    }

    async fn exchange(&self, to: To, body: Option<Vec<u8>>) -> Result<Response, String> {
        let target = (self.url.host.as_str(), self.url.port);
        let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target))
            .await
            .map_err(|_| format!("no connection for {} s", CONNECT_MAX.as_secs()))?
            .map_err(|error| format!("no connection: {error}"))?;
        // A request is one write; whether the system waits for more of it is of no weight.
        let _ = stream.set_nodelay(true);
        if !self.url.tls {
            return self.speak(stream, to, body).await;
        }
        let config = self.tls.clone().ok_or("https without certificates of authorities")?;
        let name = ServerName::try_from(self.url.host.clone()).map_err(|error| error.to_string())?;
        let tls = tokio::time::timeout(CONNECT_MAX, TlsConnector::from(config).connect(name, stream))
            .await
            .map_err(|_| format!("no TLS for {} s", CONNECT_MAX.as_secs()))?
            .map_err(|error| format!("TLS: {error}"))?;
        self.speak(tls, to, body).await
    }

    async fn speak<S>(&self, stream: S, to: To, body: Option<Vec<u8>>) -> Result<Response, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
        // What it ends with is the request's error, too.
        let _ends = Ends(tokio::spawn(async move { _ = connection.await }));
        let response = sender.send_request(self.request(to, body)?).await.map_err(|error| words(&error))?;
        let (head, body) = response.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| words(&*error))?;
        Ok(Response { status: head.status, retry_after, body: body.to_bytes() })
    }

    fn request(&self, to: To, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, String> {
        let path = match to {
            To::Api(name) => format!("{}{name}", self.url.path),
            To::Beside(name) => self.url.beside(name),
        };
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.url.place());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        request.body(body).map_err(|error| error.to_string())
    }
}

/// A key as a header, which no log shows.
///
/// # Errors
/// It holds what no header may.
pub(super) fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}"))
        .map_err(|_| "the key holds characters that no key has".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Ends a task with its owner.
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An error and what caused it, on one line.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.downcast_ref::<io::Error>().map_or_else(|| cause.to_string(), ToString::to_string);
        if !out.contains(&said) {
            out.push_str(": ");
            out.push_str(&said);
        }
        source = cause.source();
    }
    readable(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_path() {
        let url = |text| Url::parse(text).expect("a url");
        let plain = url("http://gpu1:8000/v1/");
        assert_eq!((plain.to_string(), plain.place()), ("http://gpu1:8000/v1".into(), "gpu1:8000".into()));
        assert_eq!((plain.beside("/props"), plain.is_open()), ("/props".into(), true));
        assert_eq!(url("https://[fd00::1]/vllm/v1").place(), "[fd00::1]:443");
        assert_eq!(url("https://gate/vllm/v1").beside("/version"), "/vllm/version");
        assert_eq!(url("http://localhost/v1").place(), "localhost:80");
        assert!(!url("http://127.0.0.1/v1").is_open() && !url("https://gpu1/v1").is_open());
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for text in [
            "",
            "gpu1:8000/v1",
            "ftp://gpu1/v1",
            "http://",
            "http:///v1",
            "http://gpu1",
            "http://gpu1/",
            "http://gpu1:0/v1",
            "http://gpu1:x/v1",
            "http://me:hunter2@gpu1/v1",
            "http://gpu1/v1?key=hunter2",
            "http://gpu1/v1#hunter2",
            "http://[::1/v1",
            "http://[zz]/v1",
            "http://[::1]8000/v1",
        ] {
            let message = Url::parse(text).expect_err(text);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_key_is_shown_by_no_log() {
        assert!(!format!("{:?}", bearer("hunter2").expect("a key")).contains("hunter2"));
        assert!(bearer("two\nlines").is_err());
    }
}
