//! Streams and recordings: whatever has a URL, and GStreamer pipelines. Its word in a config is `opencv`.
//!
//! ```text
//! url --backend = "ffmpeg"-----> `ffmpeg`      RTSP and other streams, video files    feature ffmpeg
//!  '---backend = "gstreamer"--> `gstreamer`   pipelines that end in `appsink`        feature opencv
//! ```

#[cfg(feature = "ffmpeg")]
mod ffmpeg;
#[cfg(feature = "opencv")]
mod gstreamer;

use super::common::{ANSWER, DeviceKind, TEXT_CHARS_MAX, Usual, not_built};
use crate::address::shown;
use crate::camera::device::{Device, DeviceError};
use crate::camera::window::{Rule, Stamps};
use crate::document::{Section, Text, quoted};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

const RTSP_PORT: u16 = 554;
/// What FFmpeg's libraries read of cameras, servers and files.
const SCHEMES: [&str; 12] =
    ["rtsp", "rtsps", "rtp", "srtp", "udp", "tcp", "tls", "http", "https", "srt", "rtmp", "file"];
/// How old a stream's picture is when it is decoded.
const STREAM_MS: u32 = 250;
/// Room that a timeout of the library gets before the supervisor gives up on the opening.
const OPEN_EXTRA: Duration = Duration::from_secs(1);

/// Which stream, and how it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// A URL, a file, or a GStreamer pipeline that ends in `appsink`.
    pub url: String,
    /// The library that reads the stream.
    pub backend: Backend,
    /// Pictures come by themselves. Otherwise it is a recording: none is skipped, and it ends.
    pub live: bool,
    /// Longest time until the stream is open, in milliseconds.
    pub open_timeout_ms: u32,
    /// Longest time that one read may take, in milliseconds.
    pub read_timeout_ms: u32,
}

/// Which library reads a stream: it is named because only a named one keeps its timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// URLs and files, by FFmpeg's own libraries.
    Ffmpeg,
    /// Pipelines, by OpenCV's video input.
    Gstreamer,
}

impl Backend {
    /// In the order in which messages name them.
    pub const ALL: [Self; 2] = [Self::Ffmpeg, Self::Gstreamer];

    /// The word used in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ffmpeg => "ffmpeg",
            Self::Gstreamer => "gstreamer",
        }
    }

    /// The cargo feature that brings it, and whether this build has it.
    const fn feature(self) -> (&'static str, bool) {
        match self {
            Self::Ffmpeg => ("ffmpeg", cfg!(feature = "ffmpeg")),
            Self::Gstreamer => ("opencv", cfg!(feature = "opencv")),
        }
    }
}

impl Settings {
    /// Reads its keys.
    pub(super) fn read(section: &Section<'_>) -> Self {
        let words = Backend::ALL.map(Backend::as_str);
        let parse = |word: &str| Backend::ALL.into_iter().find(|b| b.as_str() == word);
        let url = section.required_text("url", TEXT_CHARS_MAX);
        if let Some(scheme) = unknown_scheme(&url) {
            let known = SCHEMES.join(", ");
            section.problem("url", format!("there is no scheme {scheme}://; there are {known}"));
        }
        let live = url.contains("://") || url.contains('!');
        let usual = if url.contains('!') { Backend::Gstreamer } else { Backend::Ffmpeg };
        let backend = section.word("backend", parse, &words).unwrap_or(usual);
        if let (feature, false) = backend.feature() {
            section.problem("backend", not_built(backend.as_str(), feature));
        }
        Self {
            backend,
            live: section.get("live").unwrap_or(live),
            url,
            open_timeout_ms: section.ranged("open_timeout_ms", 100..=60_000).unwrap_or(4_000),
            read_timeout_ms: section.ranged("read_timeout_ms", 100..=60_000).unwrap_or(3_000),
        }
    }

    /// Those of a video file, which is a recording.
    pub(super) fn film(path: &Path) -> Self {
        let url = path.display().to_string();
        Self { url, backend: Backend::Ffmpeg, live: false, open_timeout_ms: 60_000, read_timeout_ms: 60_000 }
    }
}

impl DeviceKind for Settings {
    fn write(&self, out: &mut Text) {
        let Self { url, backend, live, open_timeout_ms, read_timeout_ms } = self;
        out.pair("url", quoted(&shown(url)));
        out.pair("backend", quoted(backend.as_str()));
        out.pair("live", live);
        out.pair("open_timeout_ms", open_timeout_ms);
        out.pair("read_timeout_ms", read_timeout_ms);
    }

    fn usual(&self) -> Usual {
        let open = Duration::from_millis(self.open_timeout_ms.into()) + OPEN_EXTRA;
        let on_its_way = Duration::from_secs(1);
        if self.live {
            let within = Some(Duration::from_secs(2));
            let rule = Rule { within, on_its_way, stamps: Stamps::Exposure };
            Usual { latency_ms: STREAM_MS, frozen_after_ms: 3_500, rule, open }
        } else {
            let rule = Rule { within: None, on_its_way, stamps: Stamps::Order };
            Usual { latency_ms: 0, frozen_after_ms: 0, rule, open }
        }
    }

    /// A server accepts connections, a file is there; of a pipeline nobody can tell.
    fn is_there(&self) -> Option<bool> {
        match self.url.split_once("://") {
            Some((scheme @ ("rtsp" | "http"), rest)) => {
                let resolved: Vec<SocketAddr> = host_and_port(rest, scheme).to_socket_addrs().ok()?.collect();
                Some(resolved.iter().any(|a| TcpStream::connect_timeout(a, ANSWER).is_ok()))
            }
            None if !self.url.contains('!') => Some(Path::new(&self.url).exists()),
            _ => None,
        }
    }

    fn open(&self) -> Result<Box<dyn Device>, DeviceError> {
        match self.backend {
            #[cfg(feature = "ffmpeg")]
            Backend::Ffmpeg => {
                let ms = |ms: u32| Duration::from_millis(ms.into());
                ffmpeg::open(&self.url, self.live, ms(self.open_timeout_ms), ms(self.read_timeout_ms))
            }
            #[cfg(feature = "opencv")]
            Backend::Gstreamer => gstreamer::open(&self.url, self.live),
            #[allow(unreachable_patterns)]
            backend => Err(DeviceError::NotBuilt { what: shown(&self.url), feature: backend.feature().0 }),
        }
    }

    fn is_recording(&self) -> bool {
        !self.live
    }
}

/// The scheme of a URL that nothing here reads; a file and a pipeline have none.
fn unknown_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://").filter(|_| !url.contains('!'))?;
    (!SCHEMES.contains(&scheme)).then_some(scheme)
}

/// `host:port` of the rest of a URL; the scheme's port where none is written.
fn host_and_port(rest: &str, scheme: &str) -> String {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, scheme) {
        (true, _) => host.to_owned(),
        (false, "rtsp") => format!("{host}:{RTSP_PORT}"),
        (false, _) => format!("{host}:80"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_url() {
        let of = |url: &str| {
            let (scheme, rest) = url.split_once("://").unwrap();
            host_and_port(rest, scheme)
        };
        assert_eq!(of("rtsp://me:pw@10.0.0.7/live"), "10.0.0.7:554");
        assert_eq!(of("rtsp://10.0.0.7:8554/live?x=1"), "10.0.0.7:8554");
        assert_eq!(of("http://cam/mjpg"), "cam:80");
    }

    #[test]
    fn a_scheme_that_nothing_reads_is_told_from_files_and_pipelines() {
        for fine in
            ["rtsp://h/x", "film.mp4", "/a/b.avi", "file:///a.avi", "rtspsrc location=foo://h ! appsink"]
        {
            assert_eq!(unknown_scheme(fine), None, "{fine}");
        }
        assert_eq!(unknown_scheme("rstp://me:x@h/live"), Some("rstp"));
    }

    #[test]
    fn a_server_and_a_file_are_seen_to_come_and_go() {
        let settings = |url: String| Settings {
            url,
            backend: Backend::Ffmpeg,
            live: true,
            open_timeout_ms: 100,
            read_timeout_ms: 100,
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = settings(format!("rtsp://{}/live", listener.local_addr().unwrap()));
        assert_eq!(there.is_there(), Some(true));
        drop(listener);
        assert_eq!(there.is_there(), Some(false));
        let file = tempfile::NamedTempFile::new().unwrap();
        let there = settings(file.path().display().to_string());
        assert_eq!(there.is_there(), Some(true));
        file.close().unwrap();
        assert_eq!(there.is_there(), Some(false));
        assert_eq!(settings("videotestsrc ! appsink".into()).is_there(), None);
    }
}
