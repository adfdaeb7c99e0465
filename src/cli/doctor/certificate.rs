//! When certificates end: those of the config's files, and the page's own.
//!
//! ```text
//! Certificate { tbsCertificate { [0] version?, serial, algorithm, issuer, validity { from, to }, … }, … }    (RFC 5280)
//! ```

use super::Line;
use crate::config::Config;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// So long before its end a certificate is to be renewed.
const SOON_DAYS: i64 = 30;
/// A file with more is a bundle of authorities, of which some have always ended.
const BUNDLE: usize = 8;

/// What was found of each certificate that the config names or the station has made.
pub(super) fn lines(config: &Config) -> Vec<Line> {
    let brokers = std::iter::once(&config.mqtt).chain(config.sinks.iter().map(|sink| &sink.broker));
    let mut files: Vec<PathBuf> = Vec::new();
    for tls in brokers.filter_map(|broker| broker.tls.as_ref()) {
        files.push(tls.ca.clone());
        files.extend(tls.certificate.iter().map(|(certificate, _)| certificate.clone()));
    }
    if let Some(web) = &config.web {
        let own = config.store.dir.join("web-cert.pem");
        let named = web.certificate.as_ref().map(|(certificate, _)| certificate.clone());
        files.extend(named.or_else(|| own.is_file().then_some(own)));
    }
    files.sort();
    files.dedup();
    files.iter().filter_map(|file| of_file(file, Timestamp::now())).collect()
}

fn of_file(file: &Path, now: Timestamp) -> Option<Line> {
    let shown = file.display().to_string();
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = match read {
        Ok(all) if all.len() > BUNDLE => return None,
        Ok(all) => all,
        Err(error) => {
            return Some(Line::fail("certificate", format!("{shown}: {error}"), "put a PEM file there"));
        }
    };
    let first = all.iter().filter_map(|certificate| end(certificate)).min();
    Some(match first {
        Some(end) => until(&shown, end, now),
        None => Line::warn(
            "certificate",
            format!("{shown}: its end cannot be read"),
            "openssl x509 -enddate -noout",
        ),
    })
}

/// What the end of a certificate means now.
pub(super) fn until(whose: &str, end: Timestamp, now: Timestamp) -> Line {
    let days = (end.as_second() - now.as_second()) / 86_400;
    let found = format!("{whose}: until {}", end.strftime("%Y-%m-%d"));
    let todo = "renew it, and start the station again";
    if end <= now {
        Line::fail("certificate", format!("{found}, which is over"), todo)
    } else if days <= SOON_DAYS {
        Line::warn("certificate", format!("{found}, in {days} days"), todo)
    } else {
        Line::ok("certificate", found)
    }
}

/// The last moment of a certificate (DER).
pub(super) fn end(certificate: &[u8]) -> Option<Timestamp> {
    let (_, whole, _) = element(certificate)?;
    let (_, signed, _) = element(whole)?;
    let (tag, _, after) = element(signed)?;
    // The version, which the oldest leave out.
    let mut rest = if tag == 0xa0 { after } else { signed };
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, to) = element(validity)?;
    let (tag, text, _) = element(to)?;
    moment(tag, std::str::from_utf8(text).ok()?)
}

/// `UTCTime`, whose years are from 1950 to 2049, or `GeneralizedTime`.
fn moment(tag: u8, text: &str) -> Option<Timestamp> {
    let text = match tag {
        0x17 if text.get(..2)?.parse::<u8>().ok()? >= 50 => format!("19{text}"),
        0x17 => format!("20{text}"),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
}

/// Tag, content and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    fn certificate(year: i32) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        let mut params = rcgen::CertificateParams::new(vec!["box".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&signing_key).expect("a certificate");
        rcgen::CertifiedKey { cert, signing_key }
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        // The years on both sides of where the form of the time changes.
        for year in [2031, 2049, 2050, 2120] {
            let made = certificate(year);
            let expected: Timestamp = format!("{year}-03-04T00:00:00Z").parse().expect("a time");
            assert_eq!(end(made.cert.der()), Some(expected), "{year}");
            for cut in 0..40 {
                assert_eq!(end(&made.cert.der()[..cut]), None);
            }
        }
    }

    #[test]
    fn a_certificate_that_has_ended_fails_and_one_that_ends_soon_warns() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().expect("a time");
        let at = |text: &str| until("c.pem", text.parse().expect("a time"), now).state;
        assert_eq!(at("2026-05-31T23:59:59Z"), State::Fail);
        assert_eq!(at("2026-06-20T00:00:00Z"), State::Warn);
        assert_eq!(at("2027-06-01T00:00:00Z"), State::Ok);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("c.pem");
        std::fs::write(&file, certificate(2026).cert.pem()).expect("a file");
        let line = of_file(&file, now).expect("a line");
        assert_eq!(line.state, State::Fail, "{line:?}");
        assert!(line.found.ends_with("c.pem: until 2026-03-04, which is over"), "{line:?}");
    }
}
