//! A child process of this same binary, and framed messages to and from it.
//!
//! ```text
//! parent: Child::spawn --fork, exec /proc/self/exe--> child: Channel::of_this_process
//!    |                                                   (the socket is its standard input)
//!    '-- socket: | header bytes: u32 | payload bytes: u32 | header (JSON) | payload (raw) | --'
//! ```
//!
//! What can hang or crash (the engine, a camera's driver) runs in such a child, because a process
//! is the only thing that can be killed at any point.
//!
//! Invariants:
//! - No child outlives its parent: the kernel kills it (`PR_SET_PDEATHSIG`), and its socket closes.
//! - A dropped [`Child`] is killed and reaped; one that the kernel cannot end at once is left to a
//!   thread that waits for it, so that dropping never hangs.
//! - No length is believed: both are checked against their limits before anything is allocated.
//! - No read or write is without its limit of time.

use crate::threads;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest header: what describes a payload, never the bulk itself.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Longest payload: a picture of 85 megapixels in RGB.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a killed child is waited for before a thread takes over.
const REAP_WAIT: Duration = Duration::from_millis(500);

/// Starts that wait for the spawning thread; each caller waits for its own.
const SPAWNS_MAX: usize = 16;

/// Why a child or a message failed. After any error of a channel but `Json` its stream may stand in
/// the middle of a message: drop it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is and names its fields")]
pub enum IpcError {
    #[error("the process cannot be started: {source}")]
    Spawn { source: io::Error },
    /// The other side is gone.
    #[error("the other process has closed the connection")]
    Closed,
    /// A message began and did not end in time, or could not be sent in time.
    #[error("a message was not through after {waited_ms} ms")]
    Stalled { waited_ms: u64 },
    #[error("a {what} of {bytes} bytes, the limit is {bytes_max}")]
    TooLong { what: &'static str, bytes: usize, bytes_max: usize },
    /// The header is not what this side expects; the stream itself is in step.
    #[error("the header of a message: {source}")]
    Json { source: serde_json::Error },
    #[error("the connection to the other process: {source}")]
    Io { source: io::Error },
}

/// One end of the connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// What this end takes in.
    payload_bytes_max: usize,
}

impl Channel {
    /// The end of a process that [`Child::spawn`] started. Call it once.
    ///
    /// # Errors
    /// When standard input is no socket.
    pub fn of_this_process() -> Result<Self, IpcError> {
        let io = |source| IpcError::Io { source };
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(io)?);
        stream.peer_addr().map_err(io)?;
        Ok(Self::over(stream))
    }

    /// Takes in no longer payloads than these: what the other side has to say is known to be short.
    pub fn limit_payload(&mut self, bytes_max: usize) {
        self.payload_bytes_max = bytes_max.min(PAYLOAD_BYTES_MAX);
    }

    /// One end of a connection that was made elsewhere.
    pub const fn over(stream: UnixStream) -> Self {
        Self { stream, payload_bytes_max: PAYLOAD_BYTES_MAX }
    }

    /// A second handle, for a thread that only sends (or only receives): messages of two senders
    /// would mix.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, IpcError> {
        let stream = self.stream.try_clone().map_err(|source| IpcError::Io { source })?;
        Ok(Self { stream, ..*self })
    }

    /// Sends one message; `payload` may come in pieces, which arrive as one.
    ///
    /// # Errors
    /// `TooLong` before anything was sent; `Stalled` when the other side does not take it in time.
    pub fn send<H: Serialize>(
        &mut self,
        header: &H,
        payload: &[&[u8]],
        within: Duration,
    ) -> Result<(), IpcError> {
        let header = serde_json::to_vec(header).map_err(|source| IpcError::Json { source })?;
        let bytes = payload.iter().map(|p| p.len()).sum();
        let head = [
            checked("header", header.len(), HEADER_BYTES_MAX)?.to_be_bytes(),
            checked("payload", bytes, PAYLOAD_BYTES_MAX)?.to_be_bytes(),
        ];
        let limit = Limit::new(within);
        for mut rest in [head.as_flattened(), header.as_slice()].into_iter().chain(payload.iter().copied()) {
            while !rest.is_empty() {
                // The kernel takes 0 for "for ever".
                let left = limit.left()?.max(Duration::from_millis(1));
                self.stream.set_write_timeout(Some(left)).map_err(|source| IpcError::Io { source })?;
                let sent = limit.judge(self.stream.write(rest))?;
                rest = &rest[sent..];
            }
        }
        Ok(())
    }

    /// Waits for the next message: `None` when none began within `wait`. One that began must be
    /// through `within` its own limit.
    ///
    /// # Errors
    /// See [`IpcError`].
    pub fn recv<H: DeserializeOwned>(
        &mut self,
        wait: Duration,
        within: Duration,
    ) -> Result<Option<(H, Vec<u8>)>, IpcError> {
        let mut head = [0; 8];
        match self.fill(&mut head[..1], &Limit::new(wait)) {
            Ok(()) => {}
            Err(IpcError::Stalled { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let limit = Limit::new(within);
        self.fill(&mut head[1..], &limit)?;
        let length = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header_bytes = checked("header", length(0) as usize, HEADER_BYTES_MAX)?;
        let payload_bytes = checked("payload", length(4) as usize, self.payload_bytes_max)?;
        let mut header = vec![0; header_bytes as usize];
        self.fill(&mut header, &limit)?;
        let mut payload = vec![0; payload_bytes as usize];
        self.fill(&mut payload, &limit)?;
        let header = serde_json::from_slice(&header).map_err(|source| IpcError::Json { source })?;
        Ok(Some((header, payload)))
    }

    /// Ends the connection for both sides.
    pub fn close(&self) {
        // An error says that it has ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn fill(&mut self, mut rest: &mut [u8], limit: &Limit) -> Result<(), IpcError> {
        while !rest.is_empty() {
            self.until_readable(limit)?;
            let got = limit.judge(self.stream.read(rest))?;
            rest = &mut rest[got..];
        }
        Ok(())
    }

    /// A limit of time of the socket itself (`SO_RCVTIMEO`) counts in ticks of the kernel: where these are 4 ms, it waits for
    /// 8 ms instead of 1, and whoever looks for messages now and then does little else.
    fn until_readable(&self, limit: &Limit) -> Result<(), IpcError> {
        let left = limit.left()?;
        let timeout = libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fd = libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: one descriptor, which is open as long as `self` is, and no signal mask.
            match unsafe { libc::ppoll(&raw mut fd, 1, &raw const timeout, std::ptr::null()) } {
                0 => return Err(limit.stalled()),
                1.. => return Ok(()),
                _ => {}
            }
            let source = io::Error::last_os_error();
            if source.kind() != io::ErrorKind::Interrupted {
                return Err(IpcError::Io { source });
            }
        }
    }
}

fn checked(what: &'static str, bytes: usize, bytes_max: usize) -> Result<u32, IpcError> {
    match u32::try_from(bytes) {
        Ok(fits) if bytes <= bytes_max => Ok(fits),
        _ => Err(IpcError::TooLong { what, bytes, bytes_max }),
    }
}

/// A limit of time for several reads or writes.
struct Limit {
    began: Instant,
    within: Duration,
}

impl Limit {
    fn new(within: Duration) -> Self {
        Self { began: Instant::now(), within }
    }

    /// What is left; the first call always comes through, so that a limit of 0 still looks.
    fn left(&self) -> Result<Duration, IpcError> {
        let spent = self.began.elapsed();
        if spent > self.within.max(Duration::from_millis(1)) {
            return Err(self.stalled());
        }
        Ok(self.within.saturating_sub(spent))
    }

    fn stalled(&self) -> IpcError {
        IpcError::Stalled { waited_ms: self.began.elapsed().as_millis() as u64 }
    }

    /// Bytes that went through; 0 when it is worth another try.
    fn judge(&self, outcome: io::Result<usize>) -> Result<usize, IpcError> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, Interrupted, TimedOut, WouldBlock};
        match outcome {
            Ok(0) => Err(IpcError::Closed),
            Ok(bytes) => Ok(bytes),
            Err(error) => match error.kind() {
                Interrupted => Ok(0),
                BrokenPipe | ConnectionReset => Err(IpcError::Closed),
                WouldBlock | TimedOut => Err(self.stalled()),
                _ => Err(IpcError::Io { source: error }),
            },
        }
    }
}

/// What to start: this same binary with other arguments.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Arguments after the program's name.
    pub args: Vec<OsString>,
    /// Variables beside those that the child inherits.
    pub env: Vec<(OsString, OsString)>,
    /// Another user, and the directory that the child begins in.
    pub become_user: Option<Arc<BecomeUser>>,
}

/// What a child of root gives up before it runs.
#[derive(Debug)]
pub struct BecomeUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The working directory; open, because the user may not be allowed to walk to it.
    pub(crate) dir: OwnedFd,
}

impl BecomeUser {
    /// Called between fork and exec: allocates nothing.
    fn apply(&self) -> io::Result<()> {
        let done = |outcome: libc::c_int| match outcome {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: plain system calls with an open descriptor and numbers; the groups are none.
        unsafe {
            done(libc::fchdir(self.dir.as_raw_fd()))?;
            done(libc::setgroups(0, std::ptr::null()))?;
            done(libc::setgid(self.gid))?;
            done(libc::setuid(self.uid))
        }
    }
}

impl Program {
    /// A program of these arguments.
    pub fn new<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), env: vec![], become_user: None }
    }
}

/// What a process has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of processors.
    pub cpu: Duration,
    /// Bytes in memory.
    pub memory: u64,
}

impl Usage {
    /// Of a line of `/proc/PID/stat`, as `man 5 proc` has it; the name, which may hold anything, ends with the last `)`.
    fn of(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat.rsplit_once(')')?.1.split(' ').map(|f| f.parse().unwrap_or(0)).collect();
        // SAFETY: it asks for a constant of the system.
        let of_system = |name| u64::try_from(unsafe { libc::sysconf(name) }).ok().filter(|n| *n > 0);
        let (ticks, page) = (of_system(libc::_SC_CLK_TCK)?, of_system(libc::_SC_PAGESIZE)?);
        // The first field after the name is the third.
        let field = |number: usize| fields.get(number - 2).copied();
        let cpu = Duration::from_millis((field(14)? + field(15)?) * 1000 / ticks);
        Some(Self { cpu, memory: field(24)? * page })
    }
}

/// A running child process, killed and reaped when it is dropped.
#[derive(Debug)]
pub struct Child {
    process: Option<std::process::Child>,
    /// This process's end of the connection.
    pub channel: Channel,
}

impl Child {
    /// Starts the child. Its standard input is the connection, its standard error this process's, so
    /// that it logs to the same place.
    ///
    /// # Errors
    /// When the kernel refuses: no process, memory or descriptor left.
    pub fn spawn(program: &Program) -> Result<Self, IpcError> {
        let spawn = |source| IpcError::Spawn { source };
        let (ours, theirs) = UnixStream::pair().map_err(spawn)?;
        // The link names the running file even after an update has put another one in its place.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("inspectd").args(&program.args).envs(program.env.iter().cloned());
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        if let Some(user) = program.become_user.clone() {
            // SAFETY: `apply` makes system calls only. It comes before `PR_SET_PDEATHSIG`, which a change of
            // user would clear.
            unsafe { command.pre_exec(move || user.apply()) };
        }
        let process = spawn_from_lasting_thread(command).map_err(spawn)?;
        Ok(Self { process: Some(process), channel: Channel::over(ours) })
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, std::process::Child::id)
    }

    /// What it has taken so far; nothing when it has ended, or where `/proc` is hidden.
    pub fn usage(&self) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        Usage::of(&stat).unwrap_or_default()
    }

    /// How it ended, when it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|p| p.try_wait().ok().flatten())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // An error says that it has ended already.
        let _ = process.kill();
        let killed = Instant::now();
        while killed.elapsed() < REAP_WAIT {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!(pid = process.id(), "a killed child does not end; a thread waits for it");
        // Without the thread it is a zombie until this process ends.
        if let Err(error) = threads::spawn("reaper", move || process.wait()) {
            tracing::error!(%error, "nobody waits for the killed child");
        }
    }
}

/// A number that changes while a process computes or takes pages in, and stands still while it hangs or is stopped;
/// `None` when there is no such process.
pub fn activity(pid: u32) -> Option<u64> {
    activity_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Page faults and processor time of a line of `/proc/PID/stat`: fields 10, 12, 14 and 15, the name (the second)
/// may hold spaces.
fn activity_of(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    [7, 9, 11, 12].iter().try_fold(0_u64, |sum, at| Some(sum.wrapping_add(fields.get(*at)?.parse().ok()?)))
}

/// `PR_SET_PDEATHSIG` means the thread that forked, not its process: one thread that never ends
/// starts all children.
fn spawn_from_lasting_thread(mut command: Command) -> io::Result<std::process::Child> {
    type Order = (Command, SyncSender<io::Result<std::process::Child>>);
    static SPAWNER: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);
    let parent = std::process::id();
    // SAFETY: signal, prctl, getppid and _exit are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // Ctrl-C and systemd's SIGTERM reach the whole group; the parent still needs its children to
            // drain. They end with their socket.
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid().unsigned_abs() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let gone = || io::Error::other("the thread that starts processes has ended");
    let spawner = {
        let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
        match &*spawner {
            Some(orders) => orders.clone(),
            None => {
                let (tx, orders) = sync_channel::<Order>(SPAWNS_MAX);
                threads::spawn("spawner", move || {
                    for (mut command, answer) in orders {
                        // Its end would kill every child.
                        let child = threads::caught(|| command.spawn());
                        let _ = answer.send(child.unwrap_or_else(|words| Err(io::Error::other(words))));
                    }
                })?;
                spawner.insert(tx).clone()
            }
        }
    };
    let (tx, answer) = sync_channel(1);
    spawner.send((command, tx)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests;
