//! A real llama-server with the shipped pair, beside the engine on the same files: `make test-cluster`.
//!
//! ```text
//! 100 rendered parts --inspect--> this engine          --> findings, scores --+--> the same, within the bounds below
//!                    --inspect--> llama-server's model --> findings, scores --'
//! ```
//!
//! The two round differently, so that coordinates differ by a step and a picture that is nearly unsure may tip. The bounds
//! are what is asked of a server, set before the first run.

use super::{loaded, options_of};
use crate::desk::Desk;
use inspectd::camera::decode::{Depth, decode};
use inspectd::domain::frame::{Frame, Trigger};
use inspectd::domain::inspection::Inspection;
use inspectd::domain::pipeline::Pipeline;
use inspectd::engine::cluster::{Cluster, Kind, Options, Url};
use inspectd::inspect::inspect;
use inspectd::recipe::load_pipeline;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use vlm::engine::EngineOptions;
use vlm::{Qwen3Vl, Steps as _};

/// Longest start of a server with the small model.
const START_MAX: Duration = Duration::from_mins(2);
/// Rendered parts, a tile each.
const PICTURES: usize = 100;
/// Pictures of which both must find the same labels, at least.
const SAME_MIN: usize = 95;
/// Largest difference of a picture's score where both find the same.
const SCORE_OFF_MAX: f32 = 0.1;

/// A server that does not outlive its test.
struct Llama(Child);

impl Drop for Llama {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(name: &str) -> PathBuf {
    root().join("fixtures/model").join(name)
}

/// `llama-server` of `.ci/peers-llama` on a port of its own.
fn start(port: u16, template: Option<&Path>) -> Llama {
    let bin = std::env::var("PEERS_LLAMA").expect("PEERS_LLAMA names the folder of .ci/peers-llama");
    let mut command = Command::new(Path::new(&bin).join("bin/llama-server"));
    command.arg("--model").arg(shipped("inspectd-small.gguf"));
    command.arg("--mmproj").arg(shipped("mmproj-inspectd-small.gguf"));
    command.args([
        "--host",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--parallel",
        "4",
        "--ctx-size",
        "8192",
    ]);
    command.args(["--alias", "inspectd-small", "--jinja"]);
    if let Some(template) = template {
        command.arg("--chat-template-file").arg(template);
    }
    Llama(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("llama-server starts"))
}

fn at(port: u16, labels: Vec<String>) -> Options {
    let url = Url::parse(&format!("http://127.0.0.1:{port}/v1")).expect("a url");
    Options { labels, min_pixels: 8192, kind: Some(Kind::Llama), ..options_of(vec![url]) }
}

/// Waits until the server is let in, or says why it never will be.
fn let_in(options: &Options) -> Result<Cluster, String> {
    let began = Instant::now();
    loop {
        let mut cluster = Cluster::new(options.clone()).expect("a cluster");
        match cluster.load(&|| {}, &|| true).map(|_| ()) {
            Ok(()) => return Ok(cluster),
            Err(error) => {
                let why = error.to_string();
                let is_starting = why.contains("no connection") || why.contains("too much to do");
                if !is_starting || began.elapsed() > START_MAX {
                    return Err(why);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Parts as the model was trained for, in a folder that lives as long as the desk.
fn pictures(desk: &Desk) -> Vec<PathBuf> {
    let made = desk.simulate("parts", PICTURES, 4, &["--tiles", "defect"]);
    let folder = std::fs::read_dir(Path::new(&made).join("images")).expect("the parts");
    let mut all: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all
}

/// A recipe and a folder for pictures.
fn desk() -> Desk {
    Desk::new("examples-defects", "references", include_str!("../../pipelines/examples-defects.toml"))
}

fn frame(path: &Path) -> Frame {
    Frame {
        camera: "file".into(),
        pixels: Arc::new(decode(path, Depth::default()).expect("a picture")),
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger::default(),
        origin: path.display().to_string(),
        replayed: true,
    }
}

fn labels(inspection: &Inspection) -> Vec<&str> {
    let mut labels: Vec<_> = inspection.findings.iter().map(|finding| finding.label.as_str()).collect();
    labels.sort_unstable();
    labels
}

#[test]
#[ignore = "needs llama.cpp: make test-cluster"]
fn llama_server_finds_what_the_engine_finds() {
    let (text, vision) = (shipped("inspectd-small.gguf"), shipped("mmproj-inspectd-small.gguf"));
    let device = candle_core::Device::Cpu;
    let mut engine =
        Qwen3Vl::load(&text, &vision, EngineOptions::default(), &device).expect("the shipped pair");
    let own_labels = engine.info().labels.clone();
    let port = free_port();
    let _server = start(port, None);
    let mut cluster = let_in(&at(port, own_labels)).expect("it counts as we do");
    let recipe: Pipeline = load_pipeline(&root().join("pipelines/examples-defects.toml")).expect("it ships");
    let desk = desk();
    let pictures = pictures(&desk);
    assert_eq!(pictures.len(), PICTURES);
    let (mut same, mut worst) = (0, 0.0f32);
    for path in &pictures {
        let here = inspect(&mut engine, &frame(path), &recipe);
        let there = inspect(&mut cluster, &frame(path), &recipe);
        let off = (here.score - there.score).abs();
        println!(
            "{} here {:?} {:.4} {:?} there {:?} {:.4} {:?}",
            path.file_name().unwrap_or_default().to_string_lossy(),
            labels(&here),
            here.score,
            here.verdict,
            labels(&there),
            there.score,
            there.verdict,
        );
        assert_eq!(there.tiles.planned, there.tiles.inspected, "{:?}", there.verdict);
        if labels(&here) == labels(&there) {
            same += 1;
            worst = worst.max(off);
        }
    }
    println!("{same} of {PICTURES} pictures have the same labels; their scores differ by {worst:.4} at most");
    assert!(same >= SAME_MIN, "{same}");
    assert!(worst <= SCORE_OFF_MAX, "{worst}");
}

/// A template that puts a line break after each picture and text shows in the count.
#[test]
#[ignore = "needs llama.cpp: make test-cluster"]
fn llama_server_with_another_template_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let template = folder.path().join("line-break.jinja");
    let text = include_str!("qwen3-vl.jinja")
        .replace("{{- part.text -}}", "{{- part.text + '\\n' -}}")
        .replace("{{- message.content -}}", "{{- message.content + '\\n' -}}");
    std::fs::write(&template, text).expect("writes");
    let port = free_port();
    let _server = start(port, Some(&template));
    let why = let_in(&at(port, vec![])).err().expect("it does not count as we do");
    assert!(why.contains("and we count"), "{why}");
}

#[test]
#[ignore = "needs llama.cpp: make test-cluster"]
fn llama_server_that_is_killed_is_a_loss_and_its_parts_reviews() {
    let port = free_port();
    let server = start(port, None);
    let options = at(port, vec![]);
    drop(let_in(&options).expect("it counts as we do"));
    let mut cluster = loaded(options);
    drop(server);
    let recipe = load_pipeline(&root().join("pipelines/examples-defects.toml")).expect("it ships");
    let lost = inspect(&mut cluster, &frame(&shipped("examples/images/defect-256x256-00.png")), &recipe);
    assert!(matches!(lost.verdict, inspectd::domain::grade::Verdict::Review(_)), "{:?}", lost.verdict);
}
