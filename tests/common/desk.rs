//! A quality engineer's desk: a recipe in a folder of its own, rendered pictures with their truth, and the command line.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

/// What a command that succeeds prints.
pub(crate) fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{}", words(out));
    serde_json::from_slice(&out.stdout).expect("one JSON object")
}

/// What a command says to people.
pub(crate) fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A recipe that learns.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
    name: &'static str,
    /// references, head.
    what: &'static str,
}

impl Desk {
    pub(crate) fn new(name: &'static str, what: &'static str, recipe: &str) -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a directory"), name, what };
        std::fs::write(desk.at(&format!("{name}.toml")), recipe).expect("writes");
        desk
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// The path of its recipe.
    pub(crate) fn recipe(&self) -> String {
        self.path(&format!("{}.toml", self.name))
    }

    /// Renders pictures with their truth into a folder, whose path comes back.
    pub(crate) fn simulate(&self, name: &str, count: usize, seed: u64, more: &[&str]) -> String {
        let (count, seed, out) = (count.to_string(), seed.to_string(), self.path(name));
        let args = ["simulate", "--count", &count, "--seed", &seed, "--out", &out];
        let rendered = run(&[&args[..], more].concat());
        assert!(rendered.status.success(), "{}", words(&rendered));
        out
    }

    pub(crate) fn learn(&self, truth: &str, more: &[&str]) -> Output {
        let recipe = self.recipe();
        run(&[&["learn", self.what, "--pipeline", &recipe, "--truth", truth, "--json"], more].concat())
    }

    pub(crate) fn replay(&self, truth: &str, more: &[&str]) -> Output {
        run(&[&["replay", truth, "--pipeline", &self.recipe(), "--json"], more].concat())
    }
}

/// Changes the lines of a directory's truth; `None` takes one away.
pub(crate) fn rewrite(dir: &str, change: impl Fn(Value) -> Option<Value>) {
    let file = Path::new(dir).join("truth.jsonl");
    let text = std::fs::read_to_string(&file).expect("reads");
    let lines = text.lines().filter_map(|line| change(serde_json::from_str(line).expect("JSON")));
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("writes");
}

pub(crate) fn is_good(truth: &Value) -> bool {
    truth["defects"].as_array().is_none_or(Vec::is_empty)
}
