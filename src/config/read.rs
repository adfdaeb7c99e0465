//! The sections of the config file, one function each.

use super::{
    Camera, Config, Found, Model, Mqtt, Part, Prove, QueueConfig, ReadError, SHIPPED_MMPROJ, SHIPPED_TEXT,
    Share, Sink, Station, Store, TriggerConfig, TriggerOn, modbus, mqtt, opcua, pair, read_text, remote,
    sparkplug::{self, Names},
    web,
};
use crate::camera::kind::SourceConfig;
use crate::document::{Document, Origin, PATH_CHARS_MAX, Problem, Section};
use crate::domain::alarm::code_shared_by_camera;
use crate::domain::pipeline::Pipeline;
use crate::queue::Policy;
use crate::recipe::beside;
use crate::recipe::registry::Recipe;
use crate::store::ageing::Trust;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vlm::kv::KvPrecision;
use vlm::processor::Processor;

/// Where systemd shows a service its credentials.
const CREDENTIALS: &str = "/run/credentials";

/// Bytes that stay free on the store's file system where the config says nothing.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// A box has as many cameras as it can serve; more is a mistake in the file.
const CAMERAS_MAX: usize = 32;
/// Views of one part: as many fit into one entry of the store, with their reasons.
const VIEWS_MAX: usize = 8;
const PARTS_MAX: usize = 32;
/// Recipes that one station knows.
const PIPELINES_MAX: usize = 256;
/// Folder of the pipelines where the config names none.
const PIPELINES_DIR: &str = "pipelines";

/// Reads the whole config and the pipelines that its cameras name; or everything that is wrong, with what `prove` finds
/// wrong with what it says.
pub(super) fn config(origin: &Origin, text: &str, prove: Prove<'_>) -> Result<Config, Vec<Problem>> {
    let document = Document::parse(&origin.file, text, &origin.environment);
    if !document.is_fine() && document.tree().is_empty() {
        return Err(document.into_problems());
    }
    let root = Section::root(&document);
    let store = store(root.child("store"));
    let own_dir = Some(store.dir.clone()).filter(|dir| !dir.as_os_str().is_empty());
    let origin = &Origin { own_dir, ..origin.clone() };
    let station = station(root.child("station"));
    let names = Names {
        client_id: station.topic("").trim_end_matches('/').replace('/', "-"),
        group_id: format!("{}-{}", station.site, station.area),
        edge_node_id: format!("{}-{}", station.line, station.station),
    };
    let broker = root.child("mqtt");
    if !broker.is_present() {
        broker.problem_here("this section is missing");
    }
    let pipelines_dir = origin.input_of(&root, "pipelines_dir", PIPELINES_DIR);
    origin.must_be_dir(&root, "pipelines_dir", &pipelines_dir);
    let is_missing = origin.files_must_exist && !pipelines_dir.is_dir();
    let mut pipelines = Pipelines::new(pipelines_dir, is_missing);
    let (cameras, unfiled) = cameras(origin, &root, &mut pipelines);
    let notes = pipelines.read_others();
    let is_recipe = |name: &str| pipelines.knows(name);
    let modbus = modbus::read(root.child("modbus"), &cameras, is_recipe);
    let mut config = Config {
        model: model(origin, root.child("model")),
        trigger_dir: trigger_dir(origin, root.child("trigger"), &cameras),
        parts: parts(&root, &cameras),
        cameras,
        store,
        sinks: mqtt::read_sinks(&root, &names, |path| origin.input(path)),
        mqtt: mqtt::read(broker, &names, |path| origin.input(path)),
        web: web::read(origin, root.child("web")),
        modbus,
        opcua: opcua::read(origin, root.child("opcua")),
        station,
        pipelines_dir: pipelines.dir,
        recipes: pipelines.loaded,
        broken: pipelines.broken,
        unfiled,
        notes,
        warnings: vec![],
    };
    check_broker(origin, &root, &document, "mqtt", &config.mqtt);
    for sink in &config.sinks {
        check_broker(origin, &root, &document, &format!("sink.{}", sink.name), &sink.broker);
    }
    check_clients(&root, &config);
    if let (Some(web), Some(modbus)) = (&config.web, &config.modbus)
        && web.listen == modbus.listen
    {
        root.problem("modbus.listen", "the page listens there: take another port");
    }
    sparkplug::check(&root, &config);
    // Cameras are named by their places in the file, of which none may be missing then.
    let is_whole = root.children("camera").len() == config.cameras.len();
    let fits = |key: &str| !document.has_problem(key) && (is_whole || !key.starts_with("camera["));
    let Found { problems, warnings } = prove(&config);
    for (key, message) in problems.into_iter().filter(|(key, _)| fits(key)) {
        document.problem(&key, message);
    }
    for (key, message) in warnings.into_iter().filter(|(key, _)| fits(key)) {
        document.warning(&key, message);
    }
    root.finish();
    let (mut problems, warnings) = document.into_problems_and_warnings();
    if !origin.may_break {
        problems.extend(config.broken.values().flatten().cloned());
    }
    if problems.is_empty() {
        config.warnings = warnings;
        config.warnings.extend(pipelines.warnings);
        Ok(config)
    } else {
        Err(problems)
    }
}

/// What a broker's section says of files and of the way to it.
fn check_broker(origin: &Origin, root: &Section<'_>, document: &Document, at: &str, broker: &Mqtt) {
    if let Some(message) = broker.warning() {
        document.warning(&format!("{at}.url"), message);
    }
    let mut files: Vec<_> = broker.password_file.iter().map(|path| ("password_file", path)).collect();
    if let Some(tls) = &broker.tls {
        files.extend(tls.certificate.iter().flat_map(|(c, k)| [("certificate", c), ("key", k)]));
        files.push(("ca", &tls.ca));
    }
    for (key, path) in files.into_iter().filter(|(_, path)| !is_untold(origin, path)) {
        origin.must_be_file(root, &format!("{at}.{key}"), path);
    }
}

/// Credentials are there for the service alone, and only while it runs.
fn is_untold(origin: &Origin, path: &Path) -> bool {
    !origin.may_break && path.starts_with(CREDENTIALS)
}

/// Two clients of one id throw each other out at their broker.
fn check_clients(root: &Section<'_>, config: &Config) {
    let mut ids = BTreeSet::new();
    ids.insert((&config.mqtt.host, config.mqtt.port, &config.mqtt.client_id));
    for Sink { name, broker, .. } in &config.sinks {
        if !ids.insert((&broker.host, broker.port, &broker.client_id)) {
            let key = format!("sink.{name}.client_id");
            root.problem(
                &key,
                "another sink has this id at the same broker: they would throw each other out",
            );
        }
    }
}

fn station(section: Section<'_>) -> Station {
    let level = |key: &'static str, default: Option<&str>| {
        let text = match default {
            Some(default) => section.text(key, 64).unwrap_or_else(|| default.to_owned()),
            None => section.required_text(key, 64),
        };
        if text.contains(['/', '+', '#']) || text.contains(char::is_whitespace) {
            section.problem(key, "is one level of a topic: it must not hold / + # or spaces");
        } else if text.starts_with('$') {
            section.problem(key, "must not start with $: brokers keep such topics to themselves");
        }
        text
    };
    let station = Station {
        root: level("root", Some("inspectd")),
        site: level("site", None),
        area: level("area", None),
        line: level("line", None),
        station: level("station", None),
    };
    section.finish();
    station
}

fn model(origin: &Origin, section: Section<'_>) -> Model {
    let remote = remote::read(origin, &section, |path| is_untold(origin, path));
    if remote.as_ref().is_some_and(|remote| remote.share == Share::All) {
        section.finish();
        return Model {
            remote,
            text: PathBuf::new(),
            mmproj: PathBuf::new(),
            adapter: None,
            text_sha256: None,
            mmproj_sha256: None,
            device: Processor::default(),
            threads: 0,
            memory_mb: 0,
            kv: KvPrecision::default(),
            yarn: 0,
            unload_after_idle: None,
        };
    }
    let text = origin.model_of(&section, "text", SHIPPED_TEXT);
    let mmproj = origin.model_of(&section, "mmproj", SHIPPED_MMPROJ);
    let adapter = section.text("adapter", PATH_CHARS_MAX).filter(|_| remote.is_none());
    let adapter = adapter.map(|path| origin.input(Path::new(&path)));
    if let Some(adapter) = &adapter {
        origin.must_be_file(&section, "adapter", adapter);
    }
    let idle_s = section.ranged("unload_after_idle_s", 0..=86_400).unwrap_or(0);
    let model = Model {
        remote,
        text,
        mmproj,
        adapter,
        text_sha256: sha256(&section, "text_sha256"),
        mmproj_sha256: sha256(&section, "mmproj_sha256"),
        device: section.word("device", Processor::named, &Processor::NAMES).unwrap_or_default(),
        threads: section.ranged("threads", 0..=1024).unwrap_or(0),
        kv: section.word("kv", KvPrecision::named, &KvPrecision::NAMES).unwrap_or_default(),
        yarn: section.ranged("yarn", 0..=256).unwrap_or(0),
        memory_mb: section.ranged("memory_mb", 0..=1_048_576).unwrap_or(0),
        unload_after_idle: (idle_s > 0).then(|| Duration::from_secs(idle_s)),
    };
    section.finish();
    model
}

/// The hash of a file, in small letters.
fn sha256(section: &Section<'_>, key: &'static str) -> Option<String> {
    let hash: String = section.get(key)?;
    if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some(hash.to_ascii_lowercase());
    }
    section.problem(key, "must be 64 hexadecimal digits, as sha256sum and inspectd model info print them");
    None
}

/// The cameras, and by the id of each that names a recipe without a file what is to be said where nobody else knows it.
fn cameras(
    origin: &Origin,
    root: &Section<'_>,
    pipelines: &mut Pipelines,
) -> (Vec<Camera>, BTreeMap<String, Problem>) {
    let sections = root.children("camera");
    if sections.is_empty() {
        root.problem("camera", "there must be at least one [[camera]]");
    } else if sections.len() > CAMERAS_MAX {
        root.problem("camera", format!("there are {}; at most {CAMERAS_MAX} fit a box", sections.len()));
    }
    let mut ids = BTreeSet::new();
    let (mut cameras, mut unfiled) = (Vec::new(), BTreeMap::new());
    for section in sections {
        let id = section.required_id("id");
        if !id.is_empty() && !ids.insert(id.clone()) {
            section.problem("id", "two cameras have this id");
        }
        if let Some(code) = code_shared_by_camera(&id).filter(|_| !id.is_empty()) {
            section.problem("id", format!("its alarm would be {code}, which is another's: take another id"));
        }
        let pipeline = section.required_id("pipeline");
        if let Err(message) = pipelines.need(&pipeline) {
            section.problem("pipeline", message);
        }
        if let Some(message) = pipelines.unfiled.get(&pipeline) {
            unfiled.insert(id.clone(), section.problem_of("pipeline", message.clone()));
        }
        let trigger = trigger(section.child("trigger"));
        let queue = queue(section.child("queue"));
        let recipe = pipelines.loaded.get(&pipeline).map(|recipe| &*recipe.pipeline);
        check_clip(&section, recipe, trigger);
        if let Some(source) = SourceConfig::read(&section, origin, trigger) {
            if let Some(reason) = recipe.and_then(|p| pair::line_clip(&source, p)) {
                section.problem("pipeline", reason);
            }
            section.finish();
            cameras.push(Camera { id, source, pipeline, trigger, queue });
        }
    }
    (cameras, unfiled)
}

fn check_clip(section: &Section<'_>, pipeline: Option<&Pipeline>, trigger: TriggerConfig) {
    if let Some(reason) = pipeline.and_then(|p| pair::late_clip(trigger, p)) {
        section.problem("pipeline", reason);
    }
}

fn trigger(section: Section<'_>) -> TriggerConfig {
    let words = ["interval", "command"];
    let parse = |word: &str| match word {
        "interval" => Some(TriggerOn::Interval),
        "command" => Some(TriggerOn::Command),
        _ => None,
    };
    let trigger = TriggerConfig {
        on: section.word("on", parse, &words).unwrap_or_default(),
        interval_ms: section.ranged("interval_ms", 10..=86_400_000),
        deadline_ms: section.ranged("deadline_ms", 10..=3_600_000),
        exposed_within_ms: section.ranged("exposed_within_ms", 1..=3_600_000),
    };
    if trigger.on == TriggerOn::Interval && trigger.exposed_within_ms.is_some() {
        section.problem("exposed_within_ms", "only means something with on = \"command\"");
    }
    if trigger.on == TriggerOn::Command && trigger.interval_ms.is_some() {
        section.problem("interval_ms", "means nothing with on = \"command\"");
    }
    section.finish();
    trigger
}

/// Parts that several cameras look at.
fn parts(root: &Section<'_>, cameras: &[Camera]) -> Vec<Part> {
    let sections = root.children("part");
    if sections.len() > PARTS_MAX {
        root.problem("part", format!("there are {}; at most {PARTS_MAX} are possible", sections.len()));
    }
    let mut parts: Vec<Part> = Vec::new();
    for section in sections {
        let name = section.required_id("name");
        if parts.iter().any(|p| p.name == name) {
            section.problem("name", "two parts have this name");
        }
        let views = section.strings("cameras").unwrap_or_default();
        let on_command =
            |id: &String| cameras.iter().any(|c| c.id == *id && c.trigger.on == TriggerOn::Command);
        let unique: BTreeSet<_> = views.iter().collect();
        if let Some(bad) = views.iter().find(|id| !on_command(id)) {
            section.problem("cameras", format!("{bad:?} is no camera with trigger = {{ on = \"command\" }}"));
        } else if unique.len() != views.len() || !(2..=VIEWS_MAX).contains(&views.len()) {
            section.problem("cameras", format!("must name 2 to {VIEWS_MAX} cameras, each once"));
        }
        section.finish();
        parts.push(Part { name, cameras: views });
    }
    parts
}

/// The folder of triggers by file, which some camera must take.
fn trigger_dir(origin: &Origin, section: Section<'_>, cameras: &[Camera]) -> Option<PathBuf> {
    if !section.is_present() {
        return None;
    }
    let text = section.required_text("dir", PATH_CHARS_MAX);
    let dir = origin.input(Path::new(&text));
    if !text.is_empty() {
        origin.must_be_or_become_dir(&section, "dir", &dir);
        // Old files in them are removed, which must not happen elsewhere.
        let is_link = |name: &&str| dir.join(name).is_symlink();
        if let Some(link) =
            ["taken", "done", "refused"].into_iter().find(is_link).filter(|_| origin.files_must_exist)
        {
            section.problem("dir", format!("{link} in it is a link, and must be a folder of its own"));
        }
    }
    if !cameras.iter().any(|c| c.trigger.on == TriggerOn::Command) {
        section.problem("dir", "no camera has trigger = { on = \"command\" }, so that nobody takes triggers");
    }
    section.finish();
    Some(dir)
}

fn queue(section: Section<'_>) -> QueueConfig {
    let words = Policy::ALL.map(Policy::as_str);
    let queue = QueueConfig {
        policy: section.word("policy", Policy::parse, &words).unwrap_or(Policy::Wait),
        frames: section.ranged("frames", 1..=64).unwrap_or(4),
    };
    section.finish();
    queue
}

fn store(section: Section<'_>) -> Store {
    let clocks = Trust::ALL.map(Trust::as_str);
    let store = Store {
        dir: section.required_text("dir", PATH_CHARS_MAX).into(),
        max_bytes: section.ranged("max_bytes", 64_000_000..=u64::MAX >> 1).unwrap_or(20_000_000_000),
        retain_days: section.ranged("retain_days", 1..=36_500).unwrap_or(90),
        clock: section.word("clock", Trust::parse, &clocks).unwrap_or_default(),
        free_bytes_min: section.ranged("free_bytes_min", 0..=u64::MAX >> 8).unwrap_or(FREE_BYTES_MIN),
    };
    section.finish();
    store
}

/// The files of `pipelines_dir`, each read once: first those that cameras name, then the others.
struct Pipelines {
    dir: PathBuf,
    /// The folder is missing, which is a problem of its key: no name is looked for in it.
    is_missing: bool,
    loaded: BTreeMap<String, Recipe>,
    /// Names that were tried.
    tried: BTreeMap<String, Result<(), String>>,
    /// Names that cameras name and that have no file, with what there is to say of each.
    unfiled: BTreeMap<String, String>,
    /// What is wrong inside the files that cameras name, by name.
    broken: BTreeMap<String, Vec<Problem>>,
    /// What is valid and risky in them.
    warnings: Vec<Problem>,
}

impl Pipelines {
    const fn new(dir: PathBuf, is_missing: bool) -> Self {
        Self {
            dir,
            is_missing,
            loaded: BTreeMap::new(),
            tried: BTreeMap::new(),
            unfiled: BTreeMap::new(),
            broken: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads a pipeline unless it was read before. `Err` says what is wrong with the name; problems
    /// inside the file are kept apart, because they have lines of their own, and so is a file that is not there, because
    /// the station may have a recipe of this name that was made on its page.
    fn need(&mut self, name: &str) -> Result<(), String> {
        if let Some(known) = self.tried.get(name) {
            return known.clone();
        }
        let outcome = self.read(name);
        self.tried.insert(name.to_owned(), outcome.clone());
        outcome
    }

    /// Whether a recipe can be commanded, or could be without its errors; of a folder that is missing nothing is known.
    fn knows(&self, name: &str) -> bool {
        self.is_missing || self.loaded.contains_key(name) || self.broken.contains_key(name)
    }

    /// Reads the files that no camera names, which a command may name. What is wrong with one of them stands in the
    /// way of nothing but that command, and is returned.
    fn read_others(&mut self) -> Vec<String> {
        // A folder that cannot be read was reported with the first camera.
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return vec![] };
        let is_recipe = |path: &PathBuf| path.extension().is_some_and(|e| e == "toml");
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_recipe).collect();
        paths.sort();
        let mut notes = Vec::new();
        for path in paths {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).filter(|n| !n.contains('.'))
            else {
                notes.push(format!("{}: its name is no name of a pipeline", path.display()));
                continue;
            };
            if self.tried.contains_key(name) {
                continue;
            }
            if self.loaded.len() >= PIPELINES_MAX {
                notes.push(format!(
                    "{}: at most {PIPELINES_MAX} pipelines can be commanded",
                    self.dir.display()
                ));
                break;
            }
            if let Err(message) = self.need(name) {
                notes.push(message);
            }
            notes.extend(self.broken.remove(name).iter().flatten().map(ToString::to_string));
        }
        notes
    }

    fn read(&mut self, name: &str) -> Result<(), String> {
        // A name that is none was reported already, and must not become a path.
        if self.is_missing || name.is_empty() || name.contains(['/', '\\', '.']) {
            return Ok(());
        }
        let path = self.dir.join(format!("{name}.toml"));
        let file = path.display().to_string();
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(ReadError::Unreadable { source, .. }) => {
                let message = format!("{file} cannot be read: {source}");
                if source.kind() != ErrorKind::NotFound {
                    return Err(message);
                }
                self.unfiled.insert(name.to_owned(), message);
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        let files = beside::read(&path, &text);
        match Recipe::read(&file, &text, files) {
            Ok(recipe) if recipe.pipeline.name == name => {
                self.warnings.extend(recipe.warnings.iter().cloned());
                self.loaded.insert(name.to_owned(), recipe);
            }
            Ok(recipe) => {
                return Err(format!("{file} calls itself {:?}: name it as its file", recipe.pipeline.name));
            }
            Err(problems) => {
                self.broken.insert(name.to_owned(), problems);
            }
        }
        Ok(())
    }
}
