//! Certificates: the server's own, those of clients that are trusted, and those that came and are not.
//!
//! ```text
//! store/opcua/own/cert.der            the server's certificate, for clients to trust; made once
//! store/opcua/private/private.pem     its key
//! store/opcua/trusted/                certificates (DER) of clients that may come
//! store/opcua/rejected/               those that came and are not known: move one to trusted/ to let it in
//! ```
//!
//! Invariants:
//! - Nobody but the service reads the folder: it has the key.
//! - A certificate says the station's name; a station with another name gets a new one.
//! - At most [`REJECTED_MAX`] refused certificates are kept, the newest.

use opcua::crypto::{CertificateStore, X509, X509Data};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Refused certificates that are kept, so that strangers do not fill the disk.
const REJECTED_MAX: usize = 100;
const KEY_BITS: u32 = 2048;
/// Ten years: clients have to trust a new one by hand.
const DAYS: u32 = 3650;
const OWN: &str = "own/cert.der";
const KEY: &str = "private/private.pem";

/// Makes the folders, and the certificate where there is none for this application.
///
/// # Errors
/// In words, with the path.
pub(super) fn prepare(dir: &Path, application_uri: &str, host: &str) -> Result<X509, String> {
    for folder in ["", "own", "private", "trusted", "rejected"] {
        let path = dir.join(folder);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let (certificate, key) = (dir.join(OWN), dir.join(KEY));
    if certificate.exists() || key.exists() {
        let own = read(dir)?;
        if own.is_application_uri_valid(application_uri).is_ok() {
            return Ok(own);
        }
        tracing::warn!(
            "the station has another name now: a new OPC UA certificate is made, which clients must trust anew"
        );
    }
    let data = X509Data {
        key_size: KEY_BITS,
        common_name: application_uri.rsplit(':').next().unwrap_or("inspectd").to_owned(),
        organization: "inspectd".into(),
        organizational_unit: String::new(),
        country: String::new(),
        state: String::new(),
        alt_host_names: X509Data::alt_host_names(
            application_uri,
            Some(vec![host.to_owned()]),
            true,
            true,
            true,
        ),
        certificate_duration_days: DAYS,
    };
    let (made, _) = CertificateStore::create_certificate_and_key(&data, true, &certificate, &key)?;
    let closed = fs::set_permissions(&key, fs::Permissions::from_mode(0o600));
    closed.map_err(|error| format!("{}: {error}", key.display()))?;
    Ok(made)
}

/// The server's own certificate, which must have its key.
///
/// # Errors
/// In words, with the path: one of the two is missing or none.
pub fn read(dir: &Path) -> Result<X509, String> {
    let store = CertificateStore::new(dir);
    let both = store.read_own_cert().and_then(|own| store.read_own_pkey().map(|_| own));
    both.map_err(|why| {
        format!("{why}: remove {} and {} for a new pair", dir.join(OWN).display(), dir.join(KEY).display())
    })
}

/// The file for clients to trust.
pub(super) fn certificate_of(dir: &Path) -> PathBuf {
    dir.join(OWN)
}

/// Removes the oldest refused certificates beyond [`REJECTED_MAX`].
///
/// # Errors
/// The folder cannot be read.
pub(super) fn forget_rejected(dir: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("rejected"))? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort_unstable();
    for (_, path) in found.iter().rev().skip(REJECTED_MAX) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_once_for_a_name_and_only_the_service_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("opcua");
        let made = prepare(&pki, "urn:inspectd:a:b:c:st10", "box.example").unwrap();
        let again = prepare(&pki, "urn:inspectd:a:b:c:st10", "box.example").unwrap();
        assert_eq!(made.thumbprint().as_hex_string(), again.thumbprint().as_hex_string());
        assert!(made.is_hostname_valid("box.example").is_ok());
        let mode = |path: &str| fs::metadata(pki.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode(KEY)), (0o700, 0o600));
        let renamed = prepare(&pki, "urn:inspectd:a:b:c:st20", "box.example").unwrap();
        assert_ne!(renamed.thumbprint().as_hex_string(), made.thumbprint().as_hex_string());
        fs::write(pki.join(KEY), "none").unwrap();
        let why = prepare(&pki, "urn:inspectd:a:b:c:st20", "box.example").unwrap_err();
        assert!(why.contains("private.pem"), "{why}");
    }

    #[test]
    fn refused_certificates_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rejected")).unwrap();
        for n in 0..REJECTED_MAX + 7 {
            fs::write(dir.path().join(format!("rejected/{n:04}.der")), "x").unwrap();
        }
        forget_rejected(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("rejected")).unwrap().count(), REJECTED_MAX);
    }
}
