//! TLS to the broker: who may vouch for it, and who we are to it.
//!
//! rumqttc is given a finished config of rustls and verifies nothing itself: that its 0.25 still names an
//! old rustls-webpki (tests/tidy.rs) means an unused type of error, and no certificate that it reads.

use super::MqttError;
use rumqttc::{TlsConfiguration, Transport};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What every connection uses; the files are read once.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// `ca`: PEM file of the authorities of which one must have signed the broker's certificate. `identity`: PEM
    /// files of our certificate, with those that lead to its authority, and of its key.
    ///
    /// # Errors
    /// [`MqttError::Tls`], with the file that cannot be read or says nothing of use.
    pub fn new(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, MqttError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|e| bad(ca, e))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(ca, e))?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e))?;
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, private).map_err(|e| bad(certificate, e))?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// For a connection that is made to be looked at.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    pub(super) fn transport(&self) -> Transport {
        Transport::Tls(TlsConfiguration::Rustls(Arc::clone(&self.0)))
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tls {}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|e| bad(path, e))?;
    if found.is_empty() { Err(bad(path, "it holds no certificate")) } else { Ok(found) }
}

fn bad(path: &Path, reason: impl ToString) -> MqttError {
    MqttError::Tls { path: path.to_owned(), reason: reason.to_string() }
}
