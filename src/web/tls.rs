//! TLS: the plant's certificate, or one that is made at the first start and kept.

use super::error::WebError;
use super::options::WebOptions;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What accepts TLS connections.
///
/// # Errors
/// The certificate or key cannot be read, or they do not fit each other.
pub(super) fn acceptor(options: &WebOptions) -> Result<TlsAcceptor, WebError> {
    let (certificate, key) = match &options.certificate {
        Some(pair) => pair.clone(),
        None => generated(options)?,
    };
    Ok(TlsAcceptor::from(Arc::new(server_config(&certificate, &key)?)))
}

/// What a certificate and its key make; an error names the file.
pub(super) fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, WebError> {
    let bad = |path: &Path, reason: String| WebError::Certificate {
        reason: format!("{}: {reason}", path.display()),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad(certificate, e.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e.to_string()))?;
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| bad(certificate, e.to_string()))
}

/// Certificate and key in the state directory, made when they are not there.
fn generated(options: &WebOptions) -> Result<(PathBuf, PathBuf), WebError> {
    let (certificate, key) = (options.state_dir.join("web-cert.pem"), options.state_dir.join("web-key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let failed = |reason: String| WebError::Certificate { reason };
    let mut names = vec!["localhost".to_owned(), options.listen.ip().to_string()];
    names.extend(options.hosts.iter().cloned());
    let pair = rcgen::generate_simple_self_signed(names).map_err(|e| failed(e.to_string()))?;
    let write = |path: &Path, text: String| {
        let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            .map_err(|e| failed(format!("{}: {e}", path.display())))
    };
    write(&key, pair.signing_key.serialize_pem())?;
    write(&certificate, pair.cert.pem())?;
    tracing::warn!(file = %certificate.display(), "a certificate was generated: browsers will ask whether to trust it");
    Ok((certificate, key))
}
