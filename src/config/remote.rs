//! The keys `[model] remote…`: servers that have the model, in the place of files or beside them.
//!
//! The key of an API stands in a file of its own and reaches no log.

use crate::document::{Origin, PATH_CHARS_MAX, Section, Text, path, quoted};
use crate::engine::Admission;
use crate::engine::cluster::{Kind, Options, Url, authorities};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vlm::free::QWEN_MIN_PIXELS;

/// More servers than one box asks.
const SERVERS_MAX: usize = 16;
const URL_CHARS_MAX: usize = 300;
const MODEL_CHARS_MAX: usize = 200;
const LABEL_CHARS_MAX: usize = 64;
const LABELS_MAX: usize = 64;
/// A file beyond this many bytes holds no key.
const KEY_BYTES_MAX: u64 = 8192;
/// Seconds of one request where the config says nothing: an answer of 512 tokens takes a busy server some.
const TIMEOUT_S: u64 = 30;
/// Requests under way at one server where the config says nothing.
const REQUESTS: usize = 8;
/// Why a key of the files has no place beside servers.
const OF_FILES: &str = "means nothing with remote: the servers have the model; with remote_for = \"questions\" the files have \
                        their part";
/// Keys of a model that is here.
const KEYS_OF_FILES: [&str; 10] = [
    "text",
    "mmproj",
    "adapter",
    "text_sha256",
    "mmproj_sha256",
    "device",
    "threads",
    "memory_mb",
    "kv",
    "unload_after_idle_s",
];

/// What servers are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Share {
    /// Everything: there are no files.
    #[default]
    All,
    /// What the text model answers; the features of pictures are those of the files.
    Questions,
}

impl Share {
    const NAMES: [&str; 2] = ["all", "questions"];

    fn named(name: &str) -> Option<Self> {
        match name {
            "all" => Some(Self::All),
            "questions" => Some(Self::Questions),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Servers that have the model, and how they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// At least one; each once.
    pub servers: Vec<Url>,
    pub share: Share,
    /// `None`: each says what it is.
    pub kind: Option<Kind>,
    /// `None`: the only one that they have.
    pub model: Option<String>,
    /// The labels that it was trained with, in their order; empty: it states none.
    pub labels: Vec<String>,
    pub key_file: Option<PathBuf>,
    /// The authorities of which one must have signed the servers' certificates; with `https://`.
    pub ca: Option<PathBuf>,
    /// Of one request.
    pub timeout: Duration,
    /// Under way at one server.
    pub requests: usize,
    /// Smaller pictures are enlarged to so many pixels.
    pub min_pixels: u32,
}

impl Remote {
    /// The key of the API; `None`: there is none.
    ///
    /// # Errors
    /// In words: the file cannot be read, everybody may read it, or it holds no key.
    pub(crate) fn read_key(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.key_file else { return Ok(None) };
        let shown = file.display();
        let about = std::fs::metadata(file).map_err(|error| format!("{shown}: {error}"))?;
        if about.permissions().mode() & 0o007 != 0 {
            return Err(format!("{shown} is open to everybody: chmod 640 {shown}"));
        }
        if about.len() > KEY_BYTES_MAX {
            return Err(format!("{shown}: {} bytes are no key", about.len()));
        }
        let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("{shown} holds no key: one line of visible characters"));
        }
        Ok(Some(key.to_owned()))
    }

    /// How a cluster is made of these keys.
    ///
    /// # Errors
    /// In words: the file of the key or of the authorities is of no use.
    pub(crate) fn options(&self, admission: Arc<dyn Admission>) -> Result<Options, String> {
        Ok(Options {
            servers: self.servers.clone(),
            kind: self.kind,
            model: self.model.clone(),
            labels: self.labels.clone(),
            key: self.read_key()?,
            tls: self.ca.as_deref().map(authorities).transpose()?,
            timeout: self.timeout,
            requests_max: self.requests,
            min_pixels: self.min_pixels,
            admission,
        })
    }

    /// The keys in force.
    pub(super) fn write(&self, out: &mut Text) {
        let list = |words: Vec<String>| {
            let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
            format!("[{}]", words.join(", "))
        };
        out.pair("remote", list(self.servers.iter().map(ToString::to_string).collect()));
        out.pair("remote_for", quoted(self.share.name()));
        if let Some(kind) = self.kind {
            out.pair("remote_server", quoted(kind.name()));
        }
        if let Some(model) = &self.model {
            out.pair("remote_model", quoted(model));
        }
        if !self.labels.is_empty() {
            out.pair("remote_labels", list(self.labels.clone()));
        }
        for (key, file) in [("remote_key_file", &self.key_file), ("remote_ca", &self.ca)] {
            if let Some(file) = file {
                out.pair(key, path(file));
            }
        }
        out.pair("remote_timeout_s", self.timeout.as_secs());
        out.pair("remote_requests", self.requests);
        out.pair("remote_min_pixels", self.min_pixels);
    }
}

/// Reads the keys; `None`: the model is in files.
pub(super) fn read(
    origin: &Origin,
    section: &Section<'_>,
    is_untold: impl Fn(&Path) -> bool,
) -> Option<Remote> {
    let urls = section.strings("remote");
    let file = |key: &'static str| {
        let found = section.text(key, PATH_CHARS_MAX).map(|text| origin.input(Path::new(&text)));
        found.inspect(|path| {
            if !is_untold(path) {
                origin.must_be_file(section, key, path);
            }
        })
    };
    let remote = Remote {
        servers: servers(section, urls.as_deref().unwrap_or_default()),
        share: section.word("remote_for", Share::named, &Share::NAMES).unwrap_or_default(),
        kind: section.word("remote_server", Kind::named, &Kind::NAMES),
        model: section.text("remote_model", MODEL_CHARS_MAX),
        labels: labels(section),
        key_file: file("remote_key_file"),
        ca: file("remote_ca"),
        timeout: Duration::from_secs(section.ranged("remote_timeout_s", 1..=600).unwrap_or(TIMEOUT_S)),
        requests: section.ranged("remote_requests", 1..=256).unwrap_or(REQUESTS),
        min_pixels: section.ranged("remote_min_pixels", 1024..=16_777_216).unwrap_or(QWEN_MIN_PIXELS),
    };
    let Some(urls) = urls else {
        for key in [
            "remote_for",
            "remote_server",
            "remote_model",
            "remote_labels",
            "remote_key_file",
            "remote_ca",
            "remote_timeout_s",
            "remote_requests",
            "remote_min_pixels",
        ] {
            section.refuse(key, "means nothing without remote, the list of servers");
        }
        return None;
    };
    match remote.share {
        Share::All => KEYS_OF_FILES.iter().for_each(|key| section.refuse(key, OF_FILES)),
        Share::Questions => {
            section.refuse("adapter", "means nothing with remote: what it changes is asked of the servers");
        }
    }
    if section.are_fine(&["remote"]) {
        if urls.is_empty() {
            section.problem("remote", "names no server; leave it out for a model in files");
        }
        match (remote.servers.iter().any(Url::is_tls), &remote.ca) {
            (true, None) => section.problem(
                "remote_ca",
                "is missing: https:// needs a PEM file of the authorities that may vouch for the servers; Debian's own \
                 are in /etc/ssl/certs/ca-certificates.crt",
            ),
            (false, Some(_)) => section.problem("remote_ca", "is only for https://, and no server has it"),
            _ => {}
        }
    }
    Some(remote)
}

fn servers(section: &Section<'_>, urls: &[String]) -> Vec<Url> {
    if urls.len() > SERVERS_MAX {
        section.problem("remote", format!("names {} servers; at most {SERVERS_MAX} are asked", urls.len()));
    }
    let (mut servers, mut places) = (vec![], BTreeSet::new());
    for (at, url) in (1..).zip(urls) {
        match Url::parse(url) {
            _ if url.len() > URL_CHARS_MAX => section.problem("remote", format!("server {at}: too long")),
            Ok(url) if !places.insert(url.place()) => {
                section.problem("remote", format!("{} stands twice", url.place()));
            }
            Ok(url) => servers.push(url),
            Err(why) => section.problem("remote", format!("server {at} {why}")),
        }
    }
    servers
}

fn labels(section: &Section<'_>) -> Vec<String> {
    let labels = section.strings("remote_labels").unwrap_or_default();
    let unique: BTreeSet<_> = labels.iter().collect();
    let is_label = |label: &String| {
        (1..=LABEL_CHARS_MAX).contains(&label.chars().count()) && !label.chars().any(char::is_control)
    };
    if unique.len() != labels.len() || labels.len() > LABELS_MAX || !labels.iter().all(is_label) {
        let why =
            format!("must be at most {LABELS_MAX} labels of 1 to {LABEL_CHARS_MAX} characters, each once");
        section.problem("remote_labels", why);
    }
    labels
}
