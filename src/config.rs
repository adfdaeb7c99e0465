//! The config: one TOML file and the environment in, a checked `Config` with its pipelines out.
//!
//!     FILE ----------.
//!                    +--> document (crate `config`) --> section by section --> Config
//!     INSPECTD_… ----'         every key, typed and ranged       |
//!                                                               v
//!     pipelines_dir/NAME.toml  (a camera's must be right)      Pipeline
//!
//! Every key can be set from the environment: `INSPECTD_MQTT__URL` is `[mqtt] url`, and
//! `INSPECTD_CAMERA__0__PIPELINE` the pipeline of the first camera. Unknown keys and variables are
//! errors, and all problems are reported at once, each with its file, line, key and value.
//!
//! Relative paths mean the working directory first; a file or folder that must exist and is not
//! there is looked for beside the config file. So the demo runs from the top of a checkout, and
//! `/etc/inspectd/inspectd.toml` finds `/etc/inspectd/pipelines`.
//!
//! Nothing is opened here but the config and the pipelines.

mod camera;
mod effective;
mod mqtt;
mod pair;
mod read;
#[cfg(test)]
mod tests;
mod web;

pub use camera::{DeviceConfig, Health};
pub use mqtt::{BrokerTls, Mqtt, Protocol, Secret, Sink};
pub use pair::unfit;

use crate::camera::device::Kind;
use crate::camera::folder::FileTime;
use crate::camera::window::{Rule, Stamps};
use crate::document::{self, Problem, ReadError, read_text};
use crate::domain::pipeline::Pipeline;
use crate::queue::Policy;
use crate::store::ageing::Trust;
use crate::vlm::kv::KvPrecision;
use crate::vlm::processor::Processor;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The config of an installed service, read where no other is named.
pub const DEFAULT_FILE: &str = "/etc/inspectd/inspectd.toml";
/// The exit code of sysexits.h for a bad config (EX_CONFIG); systemd does not restart after it.
pub const EXIT_CODE: u8 = 78;

/// Everything that an operator can set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub station: Station,
    pub model: Model,
    /// At least one; ids are unique.
    pub cameras: Vec<Camera>,
    /// Parts that several cameras look at; names are unique.
    pub parts: Vec<Part>,
    pub store: Store,
    pub mqtt: Mqtt,
    /// Further brokers, in the order of their names.
    pub sinks: Vec<Sink>,
    /// `None` without the section: there is no page.
    pub web: Option<Web>,
    /// `[trigger] dir`: a file in it is a trigger. `None`: there is no such folder.
    pub trigger_dir: Option<PathBuf>,
    /// Where the pipelines were read from.
    pub pipelines_dir: PathBuf,
    /// Every pipeline of that folder that has no errors, by name: those that cameras name, and those that a command
    /// may name.
    pub pipelines: BTreeMap<String, Pipeline>,
    /// What is wrong with files of that folder that no camera names.
    pub notes: Vec<String>,
    /// What is valid and risky, here and in the pipelines: above all recipes by which defective parts pass.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The file of a pipeline.
    pub fn file_of(&self, pipeline: &str) -> PathBuf {
        self.pipelines_dir.join(format!("{pipeline}.toml"))
    }

    /// The warnings about a pipeline.
    pub fn warnings_of(&self, pipeline: &str) -> impl Iterator<Item = &Problem> {
        let file = self.file_of(pipeline).display().to_string();
        self.warnings.iter().filter(move |warning| warning.file == file)
    }
}

/// The ISA-95 path of the station: each part is one level of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    pub root: String,
    pub site: String,
    pub area: String,
    pub line: String,
    pub station: String,
}

impl Station {
    /// The topic `root/site/area/line/station/suffix`, for example with the suffix `result`.
    pub fn topic(&self, suffix: &str) -> String {
        let Self { root, site, area, line, station } = self;
        format!("{root}/{site}/{area}/{line}/{station}/{suffix}")
    }
}

/// Which model answers, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The text GGUF.
    pub text: PathBuf,
    /// The vision GGUF.
    pub mmproj: PathBuf,
    /// sha256 (hex) that the files must have; `None`: that of the pair that was accepted first.
    pub text_sha256: Option<String>,
    pub mmproj_sha256: Option<String>,
    /// What computes.
    pub device: Processor,
    /// Threads that compute; 0: all.
    pub threads: usize,
    /// Memory for the whole engine, in MiB; 0: 1 GiB for keys and values beside the weights.
    pub memory_mb: u64,
    /// What keys and values are kept in.
    pub kv: KvPrecision,
    /// The model leaves memory after so long without work; `None`: never.
    pub unload_after_idle: Option<Duration>,
}

/// One camera and what is done with its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Camera {
    pub id: String,
    pub source: SourceConfig,
    /// Name of a pipeline in `Config::pipelines`.
    pub pipeline: String,
    pub trigger: TriggerConfig,
    pub queue: QueueConfig,
}

impl Camera {
    /// How pictures are matched with triggers. Without a key: a second for a camera on a cable, two for a stream and
    /// for files, and none where the order itself makes the picture.
    pub fn window(&self) -> Rule {
        let ms = Duration::from_millis;
        let (stamps, within, on_its_way) = match &self.source {
            SourceConfig::Device(device) => match &device.kind {
                Kind::OpenCv { live: false, .. } => (Stamps::Order, None, ms(1_000)),
                Kind::OpenCv { .. } => (Stamps::Exposure, Some(ms(2_000)), ms(1_000)),
                Kind::V4l2 { .. } | Kind::Genicam { .. } => (Stamps::Exposure, Some(ms(1_000)), ms(1_000)),
            },
            SourceConfig::Simulator { .. } | SourceConfig::Folder { watch: false, .. } => {
                (Stamps::Order, None, ms(1_000))
            }
            // A file that another user writes must stand still for two seconds before it counts.
            SourceConfig::Folder { time: FileTime::Arrival, .. } => {
                (Stamps::Arrival, Some(ms(2_000)), ms(3_000))
            }
            SourceConfig::Folder { time: FileTime::Modified, .. } => {
                (Stamps::Exposure, Some(ms(2_000)), ms(3_000))
            }
        };
        let latency = match &self.source {
            SourceConfig::Device(device) => ms(device.latency_ms.into()),
            _ => Duration::ZERO,
        };
        let within = self.trigger.exposed_within_ms.map(ms).or(within);
        Rule { within, on_its_way: on_its_way + latency, stamps }
    }
}

/// A part that several cameras look at, and that has one verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    /// Ids of cameras that take triggers; at least two.
    pub cameras: Vec<String>,
}

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceConfig {
    /// Rendered parts with known truth.
    Simulator {
        /// Name of the product (`simulator::Product`): all its parts share one design.
        product: String,
        /// Number of the first part; the same seed gives the same parts.
        seed: u64,
        /// Parts until the source ends; `None`: no end.
        count: Option<u64>,
        width_px: u32,
        height_px: u32,
    },
    /// Pictures in a directory.
    Folder {
        path: PathBuf,
        /// Wait for new files. Otherwise those that are there are taken once, and the source ends.
        watch: bool,
        /// What the time of a triggered part's file is.
        time: FileTime,
    },
    /// `v4l2`, `opencv` or `genicam`: a device in a capture process.
    Device(Box<DeviceConfig>),
}

impl SourceConfig {
    /// True when the source ends only with the daemon.
    pub const fn is_endless(&self) -> bool {
        !matches!(self, Self::Simulator { count: Some(_), .. } | Self::Folder { watch: false, .. })
    }
}

/// What asks for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TriggerConfig {
    pub on: TriggerOn,
    /// Milliseconds from one picture to the next; `None`: as fast as source and queue allow.
    pub interval_ms: Option<u64>,
    /// Overrides the pipeline's deadline; counted from the trigger where there is one.
    pub deadline_ms: Option<u64>,
    /// From a command to the exposure of its part, at most; `None`: as is usual for the source.
    pub exposed_within_ms: Option<u64>,
}

/// Who decides when a picture is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TriggerOn {
    /// The clock, or the source itself.
    #[default]
    Interval,
    /// A command, by MQTT, HTTP or a file.
    Command,
}

/// The queue between a camera and the inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// What happens to a frame when the queue is full. A dropped one is a review, `queue_full`.
    pub policy: Policy,
    pub frames: usize,
}

/// Where inspections are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub dir: PathBuf,
    /// Records and images together; the oldest images go first.
    pub max_bytes: u64,
    pub retain_days: u32,
    /// Who vouches for the time of day by which inspections are too old.
    pub clock: Trust,
    /// With fewer free bytes on the store's file system the line stops; 0: never.
    pub free_bytes_min: u64,
}

/// The review page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// Beyond loopback it is served with TLS only.
    pub listen: SocketAddr,
    /// Names under which browsers may ask for it, beside its address.
    pub hosts: Vec<String>,
    /// Where browsers reach the page through a proxy that ends TLS, as in `https://box.example`; without a
    /// slash at its end.
    pub public_url: Option<String>,
    /// Certificate chain and key, PEM; `None`: a pair is generated where TLS is needed.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How long a login lasts.
    pub session_hours: u32,
    /// `/metrics` asks for no login.
    pub open_metrics: bool,
}

/// Reads a config and the pipelines of its folder.
///
/// # Errors
/// `Unreadable` when the file cannot be read, `Invalid` with everything that is wrong in it, in the
/// `INSPECTD_` variables and in the pipelines.
pub fn load(path: &Path) -> Result<Config, ReadError> {
    load_file(path, false)
}

/// `load`, and also proves that the files which the config names are there: the model's, the
/// password's, the folders of folder cameras. The daemon starts with this.
///
/// # Errors
/// As `load`; a file that is missing is a problem of the key that names it.
pub fn load_with_files(path: &Path) -> Result<Config, ReadError> {
    load_file(path, true)
}

fn load_file(path: &Path, files: bool) -> Result<Config, ReadError> {
    let text = read_text(path)?;
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(document::PREFIX));
    let origin = read::Origin {
        file: path.display().to_string(),
        dir: path.parent().unwrap_or(Path::new("")).to_owned(),
        environment: environment.collect(),
        files_must_exist: files,
    };
    read::config(&origin, &text).map_err(|problems| ReadError::Invalid { problems })
}
