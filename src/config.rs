//! The config: one TOML file and the environment in, a checked [`Config`] with its pipelines out.
//!
//! ```text
//! FILE ----------.
//!                +--> document (crate `config`) --> section by section --> Config
//! INSPECTD_… ----'         every key, typed and ranged       |
//!                                                           v
//! pipelines_dir/NAME.toml  (a camera's must be right)      Pipeline
//! ```
//!
//! Every key can be set from the environment: `INSPECTD_MQTT__URL` is `[mqtt] url`, and
//! `INSPECTD_CAMERA__0__PIPELINE` the pipeline of the first camera. Unknown keys and variables are
//! errors, and all problems are reported at once, each with its file, line, key and value.
//!
//! A file or folder that must exist and has a relative path is looked for beside the config file, in the
//! working directory and in `/usr/share/inspectd`, in this order. So the demo runs from the top of a
//! checkout, and `/etc/inspectd/inspectd.toml` finds `/etc/inspectd/pipelines` and the model that the
//! package brings. What is written, as `[store] dir`, is relative to the working directory.
//!
//! Nothing is opened here but the config and the pipelines.

mod effective;
mod modbus;
mod mqtt;
mod opcua;
mod pair;
mod read;
mod remote;
mod schema;
mod sparkplug;
#[cfg(test)]
mod tests;
mod web;

#[cfg(feature = "opcua")]
pub(crate) use self::opcua::Anonymous;
pub(crate) use self::opcua::Opcua;
pub(crate) use crate::camera::trigger::{TriggerConfig, TriggerOn};
pub(crate) use mqtt::{BrokerTls, Mqtt, Protocol, Secret, Sink};
pub(crate) use pair::{off_frame, unfit};
pub(crate) use remote::{Remote, Share};
pub(crate) use schema::schema;

use crate::camera::kind::SourceConfig;
use crate::camera::window::Rule;
use crate::document::{self, Origin, Problem, ReadError, read_text};
use crate::domain::network::Network;
use crate::queue::Policy;
use crate::recipe::registry::Recipe;
use crate::store::ageing::Trust;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vlm::kv::KvPrecision;
use vlm::processor::Processor;

/// The config of an installed service, read where no other is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/inspectd/inspectd.toml";
/// The pair that ships with the product: of a config, or a command, that names no other.
pub(crate) const SHIPPED_TEXT: &str = "inspectd-small.gguf";
pub(crate) const SHIPPED_MMPROJ: &str = "mmproj-inspectd-small.gguf";
/// The exit code of sysexits.h for a bad config (`EX_CONFIG`); systemd does not restart after it.
pub const EXIT_CODE: u8 = 78;

/// Everything that an operator can set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(crate) station: Station,
    pub(crate) model: Model,
    /// At least one; ids are unique.
    pub(crate) cameras: Vec<Camera>,
    /// Parts that several cameras look at; names are unique.
    pub(crate) parts: Vec<Part>,
    pub(crate) store: Store,
    pub(crate) mqtt: Mqtt,
    /// Further brokers, in the order of their names.
    pub(crate) sinks: Vec<Sink>,
    /// `None` without the section: there is no page.
    pub(crate) web: Option<Web>,
    /// `None` without the section: no PLC is served.
    pub(crate) modbus: Option<Modbus>,
    /// `None` without the section: there is no OPC UA server.
    pub(crate) opcua: Option<Opcua>,
    /// `[trigger] dir`: a file in it is a trigger. `None`: there is no such folder.
    pub(crate) trigger_dir: Option<PathBuf>,
    /// Where the pipelines were read from.
    pub(crate) pipelines_dir: PathBuf,
    /// Every pipeline of that folder that has no errors, by name: those that cameras name, and those that a command
    /// may name.
    pub(crate) recipes: BTreeMap<String, Recipe>,
    /// What is wrong with recipes that cameras name, by name; empty but for `load_to_run`.
    pub(crate) broken: BTreeMap<String, Vec<Problem>>,
    /// By the ids of cameras whose recipes have no file: what is wrong where no recipe of that name was made on the
    /// station, which only its store knows.
    pub(crate) unfiled: BTreeMap<String, Problem>,
    /// What is wrong with files of that folder that no camera names.
    pub(crate) notes: Vec<String>,
    /// What is valid and risky, here and in the pipelines: above all recipes by which defective parts pass.
    pub(crate) warnings: Vec<Problem>,
}

impl Config {
    /// The file of a pipeline.
    pub fn file_of(&self, pipeline: &str) -> PathBuf {
        self.pipelines_dir.join(format!("{pipeline}.toml"))
    }

    /// What is valid and risky in the config itself, and not in a recipe of it.
    pub(crate) fn own_warnings(&self) -> impl Iterator<Item = &Problem> {
        let is_recipes =
            |warning: &&Problem| self.recipes.values().any(|recipe| recipe.warnings.contains(*warning));
        self.warnings.iter().filter(move |warning| !is_recipes(warning))
    }

    /// Folders below the store's that cameras and triggers take files from: the station makes those that are missing.
    pub(crate) fn own_folders(&self) -> Vec<&Path> {
        let watched = self.cameras.iter().filter_map(|camera| match &camera.source {
            SourceConfig::Folder(folder) if folder.watch => Some(folder.path.as_path()),
            _ => None,
        });
        let all = watched.chain(self.trigger_dir.as_deref());
        all.filter(|path| document::is_below(path, &self.store.dir)).collect()
    }
}

/// The ISA-95 path of the station: each part is one level of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Station {
    pub root: String,
    pub site: String,
    pub area: String,
    pub line: String,
    pub station: String,
}

impl Station {
    /// The topic `root/site/area/line/station/suffix`, for example with the suffix `result`.
    pub(crate) fn topic(&self, suffix: &str) -> String {
        let Self { root, site, area, line, station } = self;
        format!("{root}/{site}/{area}/{line}/{station}/{suffix}")
    }
}

/// Which model answers, and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    /// Servers that have it, or their part of it; `None`: it is in the files below.
    pub remote: Option<Remote>,
    /// The text GGUF; empty when servers have everything, as the vision GGUF then is.
    pub text: PathBuf,
    /// The vision GGUF.
    pub mmproj: PathBuf,
    /// What is added to the weights of both.
    pub adapter: Option<PathBuf>,
    /// sha256 (hex) that the files, with the adapter, must have; `None`: that of the pair that was accepted first.
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
    /// The context is so many times that of the training, by YaRN; 0: what the model's file says.
    pub yarn: u32,
    /// The model leaves memory after so long without work; `None`: never.
    pub unload_after_idle: Option<Duration>,
}

impl Model {
    /// False when servers have everything.
    pub(crate) fn has_files(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.share == Share::Questions)
    }
}

/// One camera and what is done with its frames.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Camera {
    pub id: String,
    pub source: SourceConfig,
    /// Name of a pipeline in `Config::pipelines`.
    pub pipeline: String,
    pub trigger: TriggerConfig,
    pub queue: QueueConfig,
}

impl Camera {
    /// How pictures are matched with triggers.
    pub(crate) fn window(&self) -> Rule {
        self.source.window(self.trigger)
    }
}

/// A part that several cameras look at, and that has one verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub name: String,
    /// Ids of cameras that take triggers; at least two.
    pub cameras: Vec<String>,
}

/// The queue between a camera and the inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueConfig {
    /// What happens to a frame when the queue is full. A dropped one is a review, `queue_full`.
    pub policy: Policy,
    pub frames: usize,
}

/// Where inspections are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
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
pub(crate) struct Web {
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
    /// Programs of others may ask the model.
    pub model_api: bool,
    /// Most pixels of a picture of theirs after its resize.
    pub model_api_max_pixels: u32,
}

/// The server for PLCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modbus {
    pub listen: SocketAddr,
    /// Who may connect; empty on loopback only: any program of this machine.
    pub allow: Vec<Network>,
    /// At once.
    pub connections: usize,
    /// A connection without a frame ends after so long.
    pub idle: Duration,
    /// The control word stands so long after its client has left.
    pub watchdog: Duration,
    /// Results of a client that has left wait for the next one.
    pub keep_results: bool,
    /// Under this name the expected text goes to the recipe.
    pub expected: String,
    /// Names of recipes by their numbers, from 1.
    pub recipes: BTreeMap<u16, String>,
    /// Ids of all cameras by their units.
    pub units: BTreeMap<u8, String>,
}

/// Reads a config and the pipelines of its folder. A recipe that a camera names and that has no file may have been made
/// on the station: it is in `Config::unfiled`.
///
/// # Errors
/// `Unreadable` when the file cannot be read, `Invalid` with everything that is wrong in it, in the
/// `INSPECTD_` variables and in the pipelines.
pub fn load(path: &Path) -> Result<Config, ReadError> {
    load_file(path, false, false, &nothing)
}

/// `load`, and also proves that the files which the config names are there: the model's, the
/// password's, the folders of folder cameras; and takes what `prove` finds.
///
/// # Errors
/// As `load`; a file that is missing is a problem of the key that names it, and so is what `prove` finds.
pub(crate) fn load_with_files(path: &Path, prove: Prove<'_>) -> Result<Config, ReadError> {
    load_file(path, true, false, prove)
}

/// `load_with_files` for a station that may know an earlier version of a recipe whose file has errors: these are in
/// `Config::broken`.
///
/// # Errors
/// As `load_with_files`, but for errors in recipes.
pub(crate) fn load_to_run(path: &Path) -> Result<Config, ReadError> {
    load_file(path, true, true, &nothing)
}

/// What shows only on this machine of what a config says: keys, and what is wrong with each, or risky.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub problems: Vec<(String, String)>,
    pub warnings: Vec<(String, String)>,
}

/// Looks for it. Keys that are wrong by themselves need not be looked at.
pub(crate) type Prove<'a> = &'a dyn Fn(&Config) -> Found;

fn nothing(_: &Config) -> Found {
    Found::default()
}

fn load_file(path: &Path, files: bool, may_break: bool, prove: Prove<'_>) -> Result<Config, ReadError> {
    let text = read_text(path)?;
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(document::PREFIX));
    let origin = Origin {
        file: path.display().to_string(),
        dir: path.parent().unwrap_or(Path::new("")).to_owned(),
        environment: environment.collect(),
        files_must_exist: files,
        may_break,
        own_dir: None,
    };
    read::config(&origin, &text, prove).map_err(|problems| ReadError::Invalid { problems })
}
