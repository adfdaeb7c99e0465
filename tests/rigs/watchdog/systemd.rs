//! A service manager that knows one unit: it starts it, hears it, ends it when it is silent, starts it again.
//!
//! ```text
//! Activating --READY--> Active          silent for too long: SIGABRT, SIGKILL, and again from the start
//!   START, or EXTENSION after each        WATCHDOG after each WATCHDOG=1
//!   EXTEND_TIMEOUT_USEC
//! ```

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The real one has 120 s, 30 s, and what it is asked for: 30 s.
const START: Duration = Duration::from_secs(5);
pub(super) const WATCHDOG: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(5);
/// From SIGABRT to SIGKILL.
const ABORT: Duration = Duration::from_millis(500);
/// What the line must do after all to be called going.
const PARTS: usize = 5;

struct Running {
    process: Child,
    active: bool,
    until: Instant,
}

/// The unit and what was heard of it.
pub(super) struct Unit {
    config: PathBuf,
    socket: UnixDatagram,
    address: PathBuf,
    log: PathBuf,
    pub environment: Vec<(String, PathBuf)>,
    running: Option<Running>,
    /// Since the beginning.
    pub ready: usize,
    pub feeds: usize,
    pub extensions: usize,
    pub kills: usize,
}

impl Unit {
    pub(super) fn new(dir: &Path, config: &Path) -> Self {
        let (address, log) = (dir.join("notify"), dir.join("log"));
        let socket = UnixDatagram::bind(&address).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("it may time out");
        let config = config.to_owned();
        let (environment, running) = (vec![], None);
        Self {
            config,
            socket,
            address,
            log,
            environment,
            running,
            ready: 0,
            feeds: 0,
            extensions: 0,
            kills: 0,
        }
    }

    /// Starts the process; its id.
    pub(super) fn start(&mut self) -> u32 {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.arg("run").arg("--config").arg(&self.config).stdin(Stdio::null()).stderr(log);
        command.env("NOTIFY_SOCKET", &self.address).envs(self.environment.iter().cloned());
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let process = command.spawn().expect("it starts");
        let pid = process.id();
        self.running = Some(Running { process, active: false, until: Instant::now() + START });
        pid
    }

    pub(super) fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").process.id()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Inspections so far.
    pub(super) fn parts(&self) -> usize {
        self.log().matches(" inspected seq=").count()
    }

    /// Takes in what was said; true when the unit was silent for too long.
    pub(super) fn listen(&mut self) -> bool {
        let mut bytes = [0; 512];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            said.lines().for_each(|line| self.hear(line));
        }
        let running = self.running.as_mut().expect("it runs");
        if let Some(status) = running.process.try_wait().expect("it can be asked") {
            panic!("it has ended by itself: {status}\n{}", self.log());
        }
        Instant::now() >= running.until
    }

    fn hear(&mut self, line: &str) {
        let running = self.running.as_mut().expect("it runs");
        match line {
            "READY=1" => {
                self.ready += 1;
                running.active = true;
                running.until = Instant::now() + WATCHDOG;
            }
            "WATCHDOG=1" => {
                assert!(running.active, "systemd would begin to watch a process that still starts");
                self.feeds += 1;
                running.until = Instant::now() + WATCHDOG;
            }
            line if line.starts_with("EXTEND_TIMEOUT_USEC=") => {
                assert!(!running.active, "this does not keep a running unit from the watchdog");
                self.extensions += 1;
                running.until = Instant::now() + EXTENSION;
            }
            other => panic!("{other}"),
        }
    }

    /// Listens, kills and starts again until the condition holds.
    pub(super) fn until(&mut self, within: Duration, condition: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < within, "in vain: {}", self.log());
            if self.listen() {
                self.kill(&mut || {});
                self.start();
            }
        }
    }

    /// Until it was silent for too long and was killed; `mend` comes after the kill, before the end.
    pub(super) fn until_killed(&mut self, within: Duration, mut mend: impl FnMut()) {
        let began = Instant::now();
        while !self.listen() {
            assert!(began.elapsed() < within, "in vain: {}", self.log());
        }
        self.kill(&mut mend);
        self.start();
    }

    fn kill(&mut self, mend: &mut dyn FnMut()) {
        let mut running = self.running.take().expect("it runs");
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(running.process.id() as i32, libc::SIGABRT) };
        std::thread::sleep(ABORT);
        let _ = running.process.kill();
        mend();
        running.process.wait().expect("it is reaped");
        self.kills += 1;
        // Its last words are not those of the next.
        while self.socket.recv(&mut [0; 512]).is_ok() {}
    }

    /// After its one kill: it is ready, inspects and stays. How many parts it inspected meanwhile.
    pub(super) fn goes_on(&mut self) -> usize {
        let before = self.parts();
        self.until(Duration::from_mins(5), |unit| unit.parts() >= before + PARTS);
        assert_eq!(self.kills, 1, "{}", self.log());
        self.parts() - before
    }

    /// SIGTERM, and its end.
    pub(super) fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        // SAFETY: as above.
        unsafe { libc::kill(running.process.id() as i32, libc::SIGTERM) };
        assert!(running.process.wait().expect("it ends").success(), "{}", self.log());
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.process.kill();
            let _ = running.process.wait();
        }
    }
}
