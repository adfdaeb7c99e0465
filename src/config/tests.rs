//! Tests of reading: what is shipped loads, what is wrong is named, the environment overrides, and
//! secrets stay in.

use super::read;
use super::*;
use crate::camera::kind::SourceConfig;
use crate::document::Origin;
use crate::domain::grade::Grade;
use crate::domain::pipeline::PromptKind;
use crate::domain::rect::Rect;
use crate::inspect::plan::question;
use crate::recipe::{load_pipeline, pipeline_from_str};
use proptest::prelude::*;
use vlm::ModelInfo;

mod door;
mod modbus;
#[cfg(feature = "opcua")]
mod opcua;
mod recipes;
mod remote;
mod sinks;
mod sparkplug;
mod warnings;

const SMALL: &str = r#"[station]
site = "p"
area = "a"
line = "l"
station = "s"
[[camera]]
id = "cam1"
source = "simulator"
pipeline = "machined-plate"
[store]
dir = "var/test"
[mqtt]
url = "mqtt://broker"
"#;

const PLATE: &str = r#"schema = 1
name = "machined-plate"
mm_per_px = 0.05

[frame]
roi = [0, 0, 2448, 2048]          # x1, y1, x2, y2 in pixels
mask = [[1200, 0, 1400, 160]]     # never inspected

[tiling]
tile_px = 512                     # side of a tile in frame pixels; the last row and column shift inward
overlap_px = 64
max_tiles = 64
min_pixels = 4096                 # Qwen's own budgets a tile, in pixels after the resize: 512x512 goes in as 256x256 here;
max_pixels = 65536                # a prompt may set its own

[[prompt]]
id = "surface"
kind = "defects"                  # answer: [{"bbox_2d":[x1,y1,x2,y2],"label":…,"severity":…}], coordinates 0..1000 of the tile
labels = ["scratch", "dent", "crack", "pit", "stain", "chip", "misprint", "missing_screw"]
text = 'Find surface defects: {labels}. Reply with a JSON list of {"bbox_2d", "label", "severity"}, or [] if there are none.'

[[prompt]]
id = "nameplate"
kind = "text"                     # answer: ["line 1","line 2"]
roi = [300, 1500, 812, 1628]
text = 'Read the marked text. Reply with a JSON list of its lines, or [] if there is none.'
expect = [{ line = 1, regex = "^SN[0-9]{4}-[A-Z][0-9]$", from_trigger = "serial" }, { line = 2, check = "gs1" }]

[[grade]]                          # first rule that matches a finding wins
label = "scratch"
longest_mm_over = 5.0
grade = "reject"
[[grade]]
severity = "minor"
grade = "cosmetic"

[verdict]
fail_at = "reject"                # this grade or worse
review_below_confidence = 0.6
deadline_ms = 8000                # later: Review("deadline"), never Pass
"#;

const PLANT: &str = include_str!("../../config/inspectd.toml");

fn config_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variable = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let origin = Origin {
        file: "test.toml".to_owned(),
        dir: PathBuf::from("config"),
        environment: variables.iter().map(variable).collect(),
        files_must_exist: false,
        may_break: false,
        own_dir: None,
    };
    read::config(&origin, text, &nothing)
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn config_of(text: &str) -> Result<Config, Vec<String>> {
    config_with(text, &[])
}

/// The one problem that a text has.
fn only_problem(result: Result<Config, Vec<String>>) -> String {
    let problems = result.expect_err("a problem is found");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.into_iter().next().expect("one problem")
}

fn pipeline_problems(text: &str) -> Vec<String> {
    let files = crate::recipe::beside::Files::new();
    let read = crate::recipe::file::from_str("p.toml", text, crate::recipe::file::Beside::ToLearn(&files));
    let problems = read.err().unwrap_or_default();
    problems.iter().map(Problem::to_string).collect()
}

/// The cases of a table whose edit does not give exactly one problem, with the expected words in it.
/// `\\n` stands for a new line.
fn unexpected(table: &str, text: &str, problems: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let cases: Vec<_> = table.lines().filter(|line| !line.is_empty()).collect();
    assert!(cases.len() > 20, "the table was read");
    let mut wrong = Vec::new();
    for case in cases {
        let parts: Vec<_> = case.split(" => ").map(|part| part.replace("\\n", "\n")).collect();
        let [from, to, expected] = parts.as_slice() else { panic!("three parts: {case}") };
        assert!(text.contains(from), "{from} is not in the text");
        let found = problems(&text.replacen(from, to, 1));
        if found.len() != 1 || !found[0].contains(expected) {
            wrong.push(format!("{case}\n gave {found:#?}"));
        }
    }
    wrong
}

/// Takes `#key = value` lines in; comments have a space after the `#`.
fn with_optional_keys(text: &str) -> String {
    let optional = regex::Regex::new(r"^#([a-z_]+ = .*)$").expect("a regular expression");
    let lines: Vec<_> = text.lines().map(|line| optional.replace(line, "$1").into_owned()).collect();
    lines.join("\n")
}

#[test]
fn every_shipped_pipeline_loads_under_its_name() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("pipelines").expect("the pipelines are there") {
        let path = entry.expect("an entry").path();
        let pipeline = load_pipeline(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(pipeline.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        names.push(pipeline.name);
    }
    names.sort_unstable();
    assert_eq!(names, ["any-part", "examples-defects", "machined-plate", "photo"]);
}

#[test]
fn the_shipped_configs_load() {
    for file in ["config/demo.toml", "config/inspectd.toml", "config/cameras-demo.toml"] {
        let text = std::fs::read_to_string(file).expect("the config is there");
        config_of(&text).unwrap_or_else(|problems| panic!("{file}: {problems:#?}"));
    }
}

/// The comments of the plant's config are true: every key in them exists, and its value is the default.
#[test]
fn the_optional_keys_of_the_plant_config_are_the_defaults() {
    let plain = config_of(PLANT).expect("the config loads");
    let text = with_optional_keys(PLANT);
    let keys = text.lines().zip(PLANT.lines()).filter(|(new, old)| new != old).count();
    assert!(keys >= 18, "only {keys} optional keys were found");
    let mut full = config_of(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    // These have no default, and the file says so.
    assert_eq!(full.mqtt.username.take(), Some(Secret::new("st10")));
    assert!(full.mqtt.password_file.take().is_some());
    let web = full.web.as_mut().expect("the plant has its page");
    assert!(!std::mem::take(&mut web.hosts).is_empty() && web.certificate.take().is_some());
    assert!(web.public_url.take().is_some());
    assert_eq!(full.cameras[0].trigger.interval_ms.take(), Some(2000));
    let SourceConfig::Simulator(simulator) = &mut full.cameras[1].source else {
        panic!("the second camera is simulated");
    };
    assert_eq!(simulator.count.take(), Some(100));
    assert_eq!(full, plain);
}

#[test]
fn an_adapter_is_in_the_effective_config() {
    let with = format!("{SMALL}[model]\nadapter = \"part.adapter.gguf\"\n");
    let config = config_of(&with).unwrap_or_else(|p| panic!("{p:#?}"));
    assert!(config.model.adapter.as_ref().is_some_and(|path| path.ends_with("part.adapter.gguf")));
    assert_eq!(config_of(&config.effective()).unwrap_or_else(|p| panic!("{p:#?}")), config);
}

#[test]
fn a_broker_by_tls_has_its_files() {
    let keys = "\"mqtts://broker\"\nca = \"ca.pem\"\ncertificate = \"c.pem\"\nkey = \"k.pem\"";
    let config = config_of(&SMALL.replace("\"mqtt://broker\"", keys)).unwrap_or_else(|p| panic!("{p:#?}"));
    let certificate = Some(("c.pem".into(), "k.pem".into()));
    assert_eq!(config.mqtt.tls, Some(BrokerTls { ca: "ca.pem".into(), certificate }));
    assert_eq!((config.mqtt.port, config.mqtt.url().as_str()), (8883, "mqtts://broker:8883"));
    assert_eq!(config_of(&config.effective()).unwrap_or_else(|p| panic!("{p:#?}")), config);
}

#[test]
fn the_effective_config_of_every_device_loads_again_to_the_same() {
    let devices = [
        "source = \"v4l2\"\ndevice = \"/dev/video0\"\nwidth_px = 640\nheight_px = 480\nfps = 10\ncontrols = { \"White Balance\" = 5, Auto = true }\nhealth = { sharpness_min = 20, brightness_min = 1.5 }",
        "source = \"opencv\"\nurl = \"rtsp://h:554\"\nkey_frames = { policy = \"motion\", threshold = 4 }\nlens = { camera = [800, 800.5, 320, 240], distortion = [-0.3, 0, 0, 0] }",
        "source = \"opencv\"\nurl = \"a ! appsink\"\nkey_frames = { policy = \"sharpest\", ms = 300 }\nwhite_balance = \"auto\"",
        "source = \"opencv\"\nurl = \"film.mp4\"\nkey_frames = { policy = \"every\" }\ntrigger = { on = \"command\", deadline_ms = 500 }",
        "source = \"genicam\"\nname = \"10.0.0.1\"\nexposure_us = 800\ngain = 0.5\nfps = 10\npixel_format = \"Mono12p\"\nexpose = \"line\"\nline = \"Line2\"\nwhite_balance = [1.0, 1, 1.5]",
    ];
    for device in devices {
        let config =
            config_of(&SMALL.replace("source = \"simulator\"", device)).unwrap_or_else(|p| panic!("{p:#?}"));
        let again =
            config_of(&config.effective()).unwrap_or_else(|p| panic!("{p:#?}\n{}", config.effective()));
        assert_eq!(again, config);
    }
}

#[test]
fn a_pipeline_file_becomes_what_it_says() {
    let plate = pipeline_from_str("p.toml", PLATE).expect("it loads");
    assert_eq!(plate.frame.roi, Some(Rect::new(0, 0, 2448, 2048)));
    assert_eq!(plate.version.len(), 12);
    let asked = question(&plate.prompts[0], &ModelInfo::default());
    assert!(asked.starts_with("Find surface defects: scratch, dent, crack, pit,"));
    assert!(!asked.contains("{labels}"));
    assert_eq!(plate.prompts[1].roi, Some(Rect::new(300, 1500, 812, 1628)));
    assert_eq!(plate.prompts[1].budget, plate.tiling.budget);
    let PromptKind::Text { expect } = &plate.prompts[1].kind else { panic!("the nameplate is text") };
    assert_eq!(expect[0].from_trigger.as_deref(), Some("serial"));
    assert_eq!(plate.verdict.fail_at, Grade::Reject);
    assert_eq!(plate.verdict.deadline, Duration::from_secs(8));
    let edited = pipeline_from_str("p.toml", &format!("{PLATE}\n")).expect("it loads");
    assert_ne!(edited.version, plate.version, "an edit makes another version");
}

#[test]
fn the_version_is_the_start_of_the_sha256() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(crate::recipe::beside::version_of("", &BTreeMap::default()), empty[..12]);
}

/// What is wrong with `SMALL` after an edit: `from => to => the problem`.
const BAD_CONFIGS: &str = r#"
site = "p" => site = "p/q" => test.toml:2:1: station.site = "p/q": is one level
site = "p" => site = "" => test.toml:2:1: station.site = "": must not be empty
site = "p" => site = 7 => test.toml:2:1: station.site = 7: must be a string
site = "p" => site = "p"\nsites = "p" => test.toml:3:1: station.sites = "p": unknown key; known here: root,
site = "p" =>  => test.toml:1:2: station.site: is missing
id = "cam1" => id = "folder" => camera[0].id = "folder": its alarm would be trigger_folder, which is another's
id = "cam1" => id = "cam 1" => test.toml:7:1: camera[0].id = "cam 1": must be 1 to 64
"simulator" => "v4l2" => camera[0].device: is missing
"simulator" => "v4l2"\ndevice = "/dev/video0"\nwidth_px = 640 => width_px and height_px only mean something together
"simulator" => "v4l2"\ndevice = "/dev/video0"\ncontrols = { Gain = "x" } => camera[0].controls.Gain = "x": must be a whole
"simulator" => "opencv"\nurl = "x"\nbackend = "vlc" => must be one of ffmpeg, gstreamer
"simulator" => "opencv"\nurl = "x"\nkey_frames = { policy = "all", ms = 5 } => camera[0].key_frames.ms = 5
"simulator" => "opencv"\nurl = "x"\nwhite_balance = "blue" => must be "auto" or three gains
"simulator" => "opencv"\nurl = "x"\nlens = { camera = [1.0], distortion = [0.1, 0.0, 0.0, 0.0] } => must be four numbers [fx, fy, cx, cy]
"simulator" => "genicam"\nname = "x"\nline = "Line1" => only means something with expose = "line"
"simulator" => "genicam"\nname = "x"\nexpose = "line"\nkey_frames = { policy = "every" } => camera[0].key_frames: a hardware trigger
"simulator" => "genicam"\nname = "x"\nkey_frames = { policy = "motion" }\ntrigger = { on = "command" } => motion may give no picture for a trigger
"simulator" => "v4l2"\ndevice = "/dev/video0"\nkey_frames = { policy = "every" }\ntrigger = { on = "command" } => every gives no picture
"simulator" => "genicam"\nname = "x"\nkey_frames = { policy = "sharpest", ms = 1000 }\ntrigger = { on = "command" } => sharpest looks for 1000 ms; exposed_within_ms allows 1000
"simulator" => "genicam"\nname = "x"\nkey_frames = { policy = "sharpest", ms = 2000 }\ntrigger = { interval_ms = 2000 } => interval_ms is 2000
"simulator" => "simulator"\ntrigger = { exposed_within_ms = 5 } => camera[0].trigger.exposed_within_ms = 5
"simulator" => "folder"\npath = "x"\nfile_time = "modified" => camera[0].file_time = "modified"
"simulator" => "genicam"\nname = "x"\nexpose = "line"\ntrigger = { on = "command" } => camera[0].trigger: a hardware trigger
"simulator" => "genicam"\nname = "x"\nexpose = "line"\ntrigger = { interval_ms = 500 } => camera[0].trigger: a hardware trigger
"simulator" => "simulator"\ntrigger = { on = "command", interval_ms = 500 } => means nothing with on = "command"
"simulator" => "gopro" => camera[0].source = "gopro": there is no such source
"simulator" => "simulator"\npath = "x" => test.toml:9:1: camera[0].path = "x": unknown key
"simulator" => "simulator"\ncount = 0 => camera[0].count = 0: must be from 1 to
"simulator" => "simulator"\nseed = -1 => camera[0].seed = -1: must be a whole number, 0 or
"simulator" => "simulator"\ntrigger = { interval_ms = 1.5 } => :9:13: camera[0].trigger.interval_ms
"simulator" => "simulator"\ntrigger = 5 => camera[0].trigger = 5: must be a section of keys
"simulator" => "simulator"\nqueue = { policy = "lifo" } => must be one of wait, drop_oldest,
"simulator" => "folder" => test.toml:6:1: camera[0].path: is missing
"machined-plate" => "../x" => camera[0].pipeline = "../x": must be 1 to 64
"mqtt://broker" => "http://broker" => test.toml:13:1: mqtt.url = "http://broker": must start with
"mqtt://broker" => "mqtts://broker" => mqtt.ca: is missing: mqtts:// needs a PEM file
"mqtt://broker" => "mqtts://broker"\nca = "ca.pem"\nkey = "k.pem" => mqtt.certificate: is missing; a key needs
"mqtt://broker" => "mqtt://broker"\nca = "ca.pem" => test.toml:14:1: mqtt.ca = "ca.pem": is only for mqtts://
"mqtt://broker" => "mqtt://b"\nprotocol = 6 => test.toml:14:1: mqtt.protocol = 6: must be 5
"mqtt://broker" => "mqtt://b"\npassword = "x" => mqtt.password = ***: a password needs
dir = "var/test" => dir = "d"\nmax_bytes = 1 => store.max_bytes = 1: must be from 64000000
"machined-plate" => "machined-plate"\ntrigger = { on = "command" }\n[trigger]\ndir = 5 => test.toml:12:1: trigger.dir = 5: must be a string
[store] => [[part]]\nname = "p"\ncameras = ["cam1", "cam2"]\n[store] => test.toml:12:1: part[0].cameras = ["cam1", "cam2"]: "cam1" is no camera with trigger
[store] => [[part]]\nname = "p"\n[store] => part[0].cameras: must name 2 to 8 cameras
[store] => [trigger]\ndir = "in"\n[store] => trigger.dir = "in": no camera has trigger = { on = "command" }
[store] => [webb]\n[store] => test.toml:10:2: webb: unknown key; known here:
[store] => [web]\nlisten = "here"\n[store] => web.listen = "here": must be an IP address
[store] => [web]\npublic_url = "box.example"\n[store] => web.public_url = "box.example": must be https://
[store] => [web]\npublic_url = "https://box.example/st10"\n[store] => it has no path
[store] => [web]\npublic_url = "https://box.example:99999"\n[store] => web.public_url = "https://box.example:99999"
[mqtt] => [mqtt => test.toml:12:6: this is not TOML
"#;

#[test]
fn a_bad_config_is_named_by_line_key_and_value() {
    config_of(SMALL).expect("the text itself is fine");
    let wrong = unexpected(BAD_CONFIGS, SMALL, |text| config_of(text).err().unwrap_or_default());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = SMALL.replace("\"p\"", "\"p#\"").replace("cam1", "").replace("mqtt://broker", "x");
    let problems = config_of(&text).expect_err("three problems");
    let places: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
    assert_eq!(places, ["test.toml:2:1", "test.toml:7:1", "test.toml:13:1"], "{problems:#?}");
}

#[test]
fn an_empty_config_says_what_is_missing() {
    let problems = config_of("").expect_err("nothing is there").join("\n");
    for key in ["station.site", "camera", "store.dir", "mqtt"] {
        assert!(problems.contains(&format!("test.toml:1:1: {key}: ")), "{key}\n{problems}");
    }
}

#[test]
fn parts_name_cameras_that_take_triggers() {
    let camera = |id: &str| {
        format!(
            "[[camera]]\nid = \"{id}\"\nsource = \"simulator\"\npipeline = \"photo\"\ntrigger = {{ on = \"command\" }}\n"
        )
    };
    let part = |name: &str, cameras: &str| format!("[[part]]\nname = \"{name}\"\ncameras = {cameras}\n");
    let text =
        |parts: &str| SMALL.replace("[store]", &format!("{}{}{parts}[store]", camera("top"), camera("side")));
    let good = text(&part("housing", "[\"top\", \"side\"]"));
    let config = config_of(&good).expect("it loads");
    assert_eq!(config.parts, [Part { name: "housing".into(), cameras: vec!["top".into(), "side".into()] }]);
    assert_eq!(config_of(&config.effective()).expect("it loads again"), config);
    let twice = part("a", "[\"top\", \"side\"]").repeat(2);
    for (parts, words) in [
        (part("a", "[\"top\", \"cam1\"]"), "\"cam1\" is no camera with trigger"),
        (part("a", "[\"top\", \"top\"]"), "must name 2 to 8 cameras, each once"),
        (part("a", "[\"top\"]"), "must name 2 to 8 cameras, each once"),
        (twice, "part[1].name = \"a\": two parts have this name"),
    ] {
        let problem = only_problem(config_of(&text(&parts)));
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn ids_are_unique() {
    let second = "[[camera]]\nid = \"cam1\"\nsource = \"simulator\"\npipeline = \"photo\"\n[store]";
    let problem = only_problem(config_of(&SMALL.replace("[store]", second)));
    assert!(problem.starts_with("test.toml:11:1: camera[1].id = \"cam1\": two cameras"), "{problem}");
}

#[test]
fn the_environment_overrides_the_file() {
    let config = config_with(
        SMALL,
        &[
            ("INSPECTD_MQTT__URL", "mqtt://user:pa%20ss@other:1884"),
            ("INSPECTD_MQTT__PROTOCOL", "4"),
            ("INSPECTD_CAMERA__0__TRIGGER__INTERVAL_MS", "250"),
            ("INSPECTD_CAMERA__0__ID", "12"),
            ("INSPECTD_STATION__SITE", "true"),
            ("INSPECTD_MODEL__THREADS", "3"),
            ("INSPECTD_LOG", "debug"),
            ("INSPECTD_CONFIG", "elsewhere.toml"),
        ],
    )
    .expect("it loads");
    assert_eq!((config.mqtt.host.as_str(), config.mqtt.port), ("other", 1884));
    assert_eq!(config.mqtt.protocol, Protocol::V311);
    assert_eq!(config.cameras[0].trigger.interval_ms, Some(250));
    assert_eq!(config.cameras[0].id, "12", "a number can be a name");
    assert_eq!(config.station.site, "true");
    assert_eq!(config.model.threads, 3);
    assert_eq!(config.mqtt.password.expect("a password").expose(), "pa ss");
}

#[test]
fn a_bad_variable_is_named() {
    let cases: &[(&str, &str, &str)] = &[
        ("INSPECTD_MQTT__PROTOCOL", "6", "INSPECTD_MQTT__PROTOCOL=6: mqtt.protocol: must be 5"),
        ("INSPECTD_MODEL__THREADS", "many", "INSPECTD_MODEL__THREADS=many: model.threads: must be a whole"),
        ("INSPECTD_MQTT__ULR", "x", "INSPECTD_MQTT__ULR=x: mqtt.ulr: unknown key; known here: url"),
        ("INSPECTD_NOTHING", "x", "INSPECTD_NOTHING=x: nothing: unknown key"),
        ("INSPECTD_NO__THING", "x", "INSPECTD_NO__THING=***: no: unknown key"),
        ("INSPECTD_MQTT_PASSWORD", "hunter2", "INSPECTD_MQTT_PASSWORD=***: mqtt_password: unknown key"),
        (
            "INSPECTD_MQTT__URL",
            "mqtt://me:hunter2@h:x",
            "INSPECTD_MQTT__URL=mqtt://***@h:x: mqtt.url: the port",
        ),
        ("INSPECTD_MQTT", "x", "INSPECTD_MQTT=***: mqtt: this is a section"),
        (
            "INSPECTD_CAMERA__1__ID",
            "x",
            "INSPECTD_CAMERA__1__ID=***: camera[1].id: the file has no camera[1]",
        ),
        ("INSPECTD_", "x", "does not name a key"),
        ("INSPECTD_MQTT__", "x", "does not name a key"),
    ];
    for (name, value, expected) in cases {
        let problem = only_problem(config_with(SMALL, &[(name, value)]));
        assert!(problem.contains(expected), "{name} gave {problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn the_effective_config_loads_again_and_holds_no_secret() {
    let text = with_optional_keys(PLANT).replace("mqtt://127.0.0.1:1883", "mqtt://127.0.0.1:1884");
    let config = config_of(&text).expect("it loads");
    let effective = config.effective();
    let mut again = config_of(&effective).unwrap_or_else(|problems| panic!("{effective}\n{problems:#?}"));
    assert_eq!(again.mqtt.username, Some(Secret::new("***")));
    again.mqtt.username.clone_from(&config.mqtt.username);
    assert_eq!(again, config);
    assert!(!effective.contains("\"st10\"\npassword"), "{effective}");

    let secret = [("INSPECTD_MQTT__USERNAME", "hunter1"), ("INSPECTD_MQTT__PASSWORD", "hunter2")];
    let config = config_with(SMALL, &secret).expect("it loads");
    assert_eq!(config.mqtt.read_password().expect("no file"), Some(Secret::new("hunter2")));
    let shown = format!("{}{config:?}", config.effective());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains("password = \"***\""));
    let by_url = SMALL.replace("mqtt://broker", "mqtt://hunter1:hunter2@broker");
    let config = config_of(&by_url).expect("it loads");
    assert!(!format!("{}{config:?}", config.effective()).contains("hunter"));
}

#[test]
fn the_password_file_is_read_without_its_line_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "hunter2\r\n").expect("a file");
    let keys = format!("\"mqtt://u@broker\"\npassword_file = {:?}", file.to_str().expect("UTF-8"));
    let config = config_of(&SMALL.replace("\"mqtt://broker\"", &keys)).expect("it loads");
    assert_eq!(config.mqtt.read_password().expect("it is read"), Some(Secret::new("hunter2")));
    std::fs::write(&file, "\u{feff}hunter2\n").expect("a file with a byte order mark");
    assert_eq!(config.mqtt.read_password().expect("it is read"), Some(Secret::new("hunter2")));
    std::fs::remove_file(&file).expect("it was there");
    assert!(config.mqtt.read_password().is_err());
}

#[test]
fn missing_files_are_problems_of_their_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.toml");
    std::fs::create_dir(dir.path().join("recipes")).expect("a directory");
    std::fs::write(dir.path().join("recipes/machined-plate.toml"), PLATE).expect("a file");
    std::fs::write(dir.path().join("v.gguf"), "").expect("a file");
    let head = "pipelines_dir = \"recipes\"\n[model]\ntext = \"t.gguf\"\nmmproj = \"v.gguf\"\n";
    std::fs::write(&path, format!("{head}{SMALL}")).expect("a file");
    // Pipelines and vision model are found beside the config.
    let config = load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.model.mmproj, dir.path().join("v.gguf"));
    let error = load_with_files(&path, &nothing).expect_err("the text model is missing").to_string();
    let expected = format!(
        "{}:3:1: model.text = \"t.gguf\": there is no file t.gguf: looked in {}, ",
        path.display(),
        dir.path().display()
    );
    assert!(error.starts_with(&expected) && error.ends_with(", /usr/share/inspectd"), "{error}");
    assert!(matches!(load(&dir.path().join("none")), Err(ReadError::Unreadable { .. })));
}

/// What is wrong with `PLATE` after an edit: `from => to => the problem`.
const BAD_PIPELINES: &str = r#"
schema = 1 => schema = 2 => p.toml:1:1: schema = 2: must be 1
mm_per_px = 0.05 => mm_per_px = 0 => mm_per_px = 0: must be from
mm_per_px = 0.05 => mm_per_px = nan => mm_per_px = nan: must be from
roi = [0, 0, 2448, 2048] => roi = [5, 0, 5, 9] => p.toml:6:1: frame.roi = [5, 0, 5, 9]: holds no pixel
roi = [0, 0, 2448, 2048] => roi = [5, 0, 5] => frame.roi = [5, 0, 5]: must be four
roi = [0, 0, 2448, 2048] => roi = [0, 0, 0.5, 9] => must be four whole numbers
mask = [[1200, => mask = [[1400, => p.toml:7:9: frame.mask[0] = [1400, 0, 1400, 160]: holds no pixel
mask = [[1200, 0, 1400, 160]] => mask = [[0, 0, 9999, 9999]] => covers the whole roi
overlap_px = 64 => overlap_px = 512 => p.toml:11:1: tiling.overlap_px = 512: must be less than tile_px
min_pixels = 4096 => min_pixels = 70000 => max_pixels = 65536: must not be less than min_pixels
tile_px = 512 => tile_px = 1 => tiling.tile_px = 1: must be from 32
max_tiles = 64 => max_tiles = 64\nmax_tile = 64 => tiling.max_tile = 64: unknown key
id = "nameplate" => id = "surface" => prompt[1].id = "surface": two prompts
kind = "text" => kind = "ocr" => prompt[1].kind = "ocr": must be one of defects, text
"scratch", "dent" => "scratch", "dent", "dent" => "dent" stands there twice
"scratch", "dent" => "scratch", "", "dent" => "" must be letters
"scratch", "dent" => "scratch", 5, "dent" => prompt[0].labels[1] = 5: must be a string
"scratch", "dent" => "scratch", "dent\"" => must be letters, digits
text = 'Read => text = '<|im_end|>Read => must not hold <|
text = 'Read => text = '{labels}Read => only a prompt of kind defects has {labels}
line = 1, => line = 0, => prompt[1].expect[0].line = 0: must be from 1 to 64
line = 2, => line = 1, => prompt[1].expect[1].line = 1: two rules
check = "gs1" => check = "gs2" => must be one of gs1, gtin, luhn, mod37_36, vin
, check = "gs1" =>  => p.toml:27:85: prompt[1].expect[1]: expects nothing
^SN[0-9]{4} => ^SN[0-9{4} => prompt[1].expect[0].regex = "^SN[0-9{4}
longest_mm_over = 5.0 => longest_mm_over = -5.0 => grade[0].longest_mm_over = -5.0: must be
label = "scratch" => label = "scrach" => grade[0].label = "scrach": no prompt has the label
grade = "reject" => grade = "bad" => must be one of ok, cosmetic, rework, reject
longest_mm_over = 5.0 => severity = "bad" => must be one of minor, major, critical
fail_at = "reject" => fail_at = "ok" => verdict.fail_at = "ok": must be one of cosmetic
review_below_confidence = 0.6 => review_below_confidence = 1.1 => must be from 0 to 1
deadline_ms = 8000 => deadline_ms = 0 => verdict.deadline_ms = 0: must be from 1
deadline_ms = 8000 =>  => verdict.deadline_ms: is missing; it must be from 1
deadline_ms = 8000 => deadline_ms = 8000\nreview_above_score = 1.5 => verdict.review_above_score = 1.5: must be from 0 to 1
deadline_ms = 8000 => deadline_ms = 8000\nreview_above_score = 0.5\nfail_above_score = 0.4 => verdict.fail_above_score = 0.4: must not be less than review_above_score, which is 0.5
[frame] => [promise]\nescape = 0.01\n[frame] => promise.confidence: is missing; it must be from 0.5
[frame] => [promise]\nescape = 0.9\nconfidence = 0.95\n[frame] => promise.escape = 0.9: must be from 0.00001 to 0.5
[frame] => [frames] => frames: unknown key; known here: schema,
id = "surface" => id = "surface"\nclip = true => prompt[0].clip = true: there is no section [clip]
id = "surface" => id = "surface"\nclip = 1 => prompt[0].clip = 1: must be true or false
[frame] => [clip]\nframes = 4\ninterval_ms = 250\n[frame] => p.toml:5:2: clip: no prompt asks about the clip
[[prompt]] => [clip]\nframes = 1\ninterval_ms = 250\n[[prompt]]\nclip = true => clip.frames = 1: must be from 2 to 16
[[prompt]] => [clip]\nframes = 2\ninterval_ms = 9\n[[prompt]]\nclip = true => clip.interval_ms = 9: must be from 10 to 10000
[[prompt]] => [clip]\nframes = 2\n[[prompt]]\nclip = true => clip.interval_ms: is missing
[[prompt]] => [clip]\nframes = 2\ninterval_ms = 9e1\n[[prompt]]\nclip = true => clip.interval_ms = 9e1: must be a whole number
"#;

#[test]
fn a_bad_pipeline_is_named_by_line_key_and_value() {
    pipeline_from_str("p.toml", PLATE).expect("the text itself is fine");
    let wrong = unexpected(BAD_PIPELINES, PLATE, pipeline_problems);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn topics_follow_the_station() {
    let config = config_of(SMALL).expect("it loads");
    assert_eq!(config.station.topic("camera/cam1/status"), "inspectd/p/a/l/s/camera/cam1/status");
    assert_eq!(config.mqtt.client_id, "inspectd-p-a-l-s");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No text is so broken that reading it panics, and a text with a byte cut out is never silently
    /// the same recipe.
    #[test]
    fn no_mutilated_pipeline_panics(at in 0..PLATE.len(), length in 1usize..40, with in "[\\[\\]{}=\"',.0-9a-z\n-]{0,6}") {
        let before = PLATE.get(..at);
        let after = PLATE.get((at + length).min(PLATE.len())..);
        if let (Some(before), Some(after)) = (before, after) {
            let text = format!("{before}{with}{after}");
            let plate = pipeline_from_str("p.toml", PLATE).expect("it loads");
            if let Ok(pipeline) = pipeline_from_str("p.toml", &text) {
                prop_assert!(text == PLATE || pipeline.version != plate.version);
            }
            // The config reader walks the same kind of text.
            let _refused = config_of(&text);
        }
    }
}
