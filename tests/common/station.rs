//! The real binary as a child process, with a config of its own.

use crate::broker::{Message, until};
use crate::config::config;
use inspectd::store::{Store, StoreOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) const PREFIX: &str = "inspectd/test/body/line1/st10";

/// A directory with a config, and what the daemon keeps there.
pub(crate) struct Station {
    pub dir: tempfile::TempDir,
}

impl Station {
    /// `sections` are those beside station, model, store and broker.
    pub(crate) fn new(port: u16, sections: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("store"), port, sections);
        std::fs::write(dir.path().join("inspectd.toml"), config).unwrap();
        Self { dir }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("inspectd.toml")
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.arg("run").arg("--config").arg(self.config()).stdin(Stdio::null());
        command.env("INSPECTD_LOG", "info,sled=warn,inspectd::daemon::capture_loop=debug");
        command
    }

    pub(crate) fn start(&self) -> Daemon {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        Daemon(self.command().stderr(log).spawn().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.dir.path().join("store"), StoreOptions::default()).unwrap()
    }
}

pub(crate) fn results(messages: &[Message]) -> Vec<serde_json::Value> {
    let is_result = |m: &&Message| m.topic == format!("{PREFIX}/result");
    messages.iter().filter(is_result).map(Message::json).collect()
}

/// A daemon that does not outlive its test.
pub(crate) struct Daemon(Child);

impl std::ops::Deref for Daemon {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn wait(child: &mut Child, what: &str) -> std::process::ExitStatus {
    let mut status = None;
    until(what, || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

/// Sends a signal to a daemon, or to the engine of one, that the test has started.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: a signal to a process that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// The engine's process of a daemon.
pub(crate) fn engine(daemon: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1).map(str::to_owned));
        let args = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent.is_some_and(|parent| parent == daemon.to_string()) && args.contains("infer")
    })
}
