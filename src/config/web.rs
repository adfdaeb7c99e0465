//! The `[web]` keys.

use super::Web;
use crate::document::{Origin, PATH_CHARS_MAX, Section};
use std::ops::RangeInclusive;
use std::path::Path;

const URL_CHARS_MAX: usize = 300;
/// Pixels of a guest's picture: from Qwen's own least to its own most.
const MODEL_PIXELS: RangeInclusive<u32> = 65_536..=16_777_216;
/// What the vision tower takes in one step: a part that comes meanwhile waits no longer than after one of its own.
const MODEL_PIXELS_DEFAULT: u32 = 262_144;

/// Reads the section; `None` where there is none, and so no page.
pub(super) fn read(origin: &Origin, section: Section<'_>) -> Option<Web> {
    if !section.is_present() {
        return None;
    }
    let default = ([127, 0, 0, 1], 8080).into();
    let listen = section.get::<String>("listen").map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            section.problem("listen", "must be an IP address and a port, as in 127.0.0.1:8080");
            default
        })
    });
    let hosts = section.strings("hosts").unwrap_or_default();
    let is_name =
        |h: &String| !h.is_empty() && h.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if let Some(bad) = hosts.iter().find(|h| !is_name(h)) {
        section.problem("hosts", format!("{bad:?} is no host name; write it without port"));
    }
    let file = |key: &'static str| {
        let path = section.text(key, PATH_CHARS_MAX).map(|text| origin.input(Path::new(&text)));
        path.inspect(|path| origin.must_be_file(&section, key, path))
    };
    let certificate = section.certificate_and_key(file);
    let web = Web {
        listen,
        hosts,
        public_url: public_url(&section),
        certificate,
        session_hours: section.ranged("session_hours", 1..=8760).unwrap_or(12),
        open_metrics: section.get("open_metrics").unwrap_or(false),
        model_api: section.get("model_api").unwrap_or(false),
        model_api_max_pixels: section
            .ranged("model_api_max_pixels", MODEL_PIXELS)
            .unwrap_or(MODEL_PIXELS_DEFAULT),
    };
    section.finish();
    Some(web)
}

/// The outer URL, as browsers write an origin: in small letters, without the scheme's own port.
fn public_url(section: &Section<'_>) -> Option<String> {
    let text = section.text("public_url", URL_CHARS_MAX)?.to_ascii_lowercase();
    let url = text.strip_suffix('/').unwrap_or(&text);
    let parts = [("https://", ":443"), ("http://", ":80")];
    let split = parts.into_iter().find_map(|(scheme, port)| Some((scheme, port, url.strip_prefix(scheme)?)));
    if let Some((scheme, port, authority)) = split {
        let authority = authority.strip_suffix(port).unwrap_or(authority);
        let (host, number) = authority.rsplit_once(':').unwrap_or((authority, "1"));
        let is_name =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if is_name && number.parse::<u16>().is_ok_and(|n| n > 0) {
            return Some(format!("{scheme}{authority}"));
        }
    }
    section.problem("public_url", "must be https:// or http://, a host and perhaps a port, as in https://box.example; the page needs a host of its own, so it has no path");
    None
}
