//! The daemon's side: listens on the socket, and serves each client on a thread of its own.

use super::{Failure, Judge, ModelGate, Refusal, SOCKET, Talk, service};
use crate::ipc::Channel;
use crate::store::Store;
use crate::threads;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients that are served at the same time.
const CLIENTS_MAX: usize = 8;
/// Pause after an accept that failed, for example for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);
/// Longest path of a Unix socket, with its zero byte.
const SOCKET_PATH_MAX: usize = 108;

/// A path by which the socket of `dir` can be bound or reached. A longer one than the kernel takes goes through an
/// open descriptor of the directory, which must be kept meanwhile.
pub(super) fn address(dir: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let path = dir.join(name);
    if path.as_os_str().len() < SOCKET_PATH_MAX {
        return Ok((path, None));
    }
    let folder = File::open(dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())), Some(folder)))
}

/// Who is at the other end: the kernel's word.
pub(super) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both point to values that live, and the size is that of the first.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    if outcome == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}

/// The user of this process.
pub(super) fn own_uid() -> u32 {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() }
}

struct Serving {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

/// The open door. Dropping it ends all work that is done through it.
pub(crate) struct Door {
    listener: Arc<UnixListener>,
    path: PathBuf,
    closing: Arc<AtomicBool>,
    judge: Judge,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens the door of a store; its directory's lock is held, so what lies there of a former process is stale.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open(dir: &Path, store: Arc<Store>) -> io::Result<Self> {
        let judge = Judge::default();
        let path = dir.join(SOCKET);
        let (fresh, _folder) = address(dir, "control.new")?;
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = Arc::new(UnixListener::bind(&fresh)?);
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        // Under its name only with its permissions; what a killed process left there is replaced.
        fs::rename(dir.join("control.new"), &path)?;
        let closing = Arc::new(AtomicBool::new(false));
        let (ears, flag, asked) = (Arc::clone(&listener), Arc::clone(&closing), Arc::clone(&judge));
        let thread = threads::spawn("control", move || listen(&ears, &store, &asked, &flag))?;
        Ok(Self { listener, path, closing, judge, thread: Some(thread) })
    }

    /// From now on models are judged before they are accepted. The first call counts.
    pub(crate) fn judge_with(&self, judge: Arc<dyn ModelGate>) {
        let _ = self.judge.set(judge);
    }

    /// True when nobody listens any more, which only a panic does.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // SAFETY: the descriptor is open; `accept` returns with an error.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RD) };
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the local door had panicked");
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(listener: &UnixListener, store: &Arc<Store>, judge: &Judge, closing: &Arc<AtomicBool>) {
    let clients: Mutex<Vec<Serving>> = Mutex::default();
    while !closing.load(Ordering::Relaxed) {
        let accepted = listener.accept();
        if closing.load(Ordering::Relaxed) {
            break;
        }
        match accepted.and_then(|(stream, _)| admit(stream, store, judge, closing, &clients)) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "a client of the local door was not served");
                std::thread::sleep(RETRY);
            }
        }
    }
    for Serving { stream, thread } in clients.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        if thread.join().is_err() {
            tracing::error!("a thread of the local door had panicked");
        }
    }
}

fn admit(
    stream: UnixStream,
    store: &Arc<Store>,
    judge: &Judge,
    closing: &Arc<AtomicBool>,
    clients: &Mutex<Vec<Serving>>,
) -> io::Result<()> {
    let uid = peer_uid(&stream)?;
    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
    clients.retain(|c| !c.thread.is_finished());
    let mut talk = Talk::new(Channel::over(stream.try_clone()?), Arc::clone(closing));
    if uid != 0 && uid != own_uid() {
        tracing::warn!(uid, "another user at the local door");
        talk.end(Err(Failure::Refused(Refusal::new("user", "only this store's user and root are served"))));
        return Ok(());
    }
    if clients.len() >= CLIENTS_MAX {
        let reason = format!("{CLIENTS_MAX} commands are being served already");
        talk.end(Err(Failure::Refused(Refusal::new("busy", reason))));
        return Ok(());
    }
    let (store, judge) = (Arc::clone(store), Arc::clone(judge));
    let work = move || serve(&store, judge.get().map(|judge| &**judge), &mut talk);
    let thread = threads::spawn("control-client", work)?;
    clients.push(Serving { stream, thread });
    Ok(())
}

/// Serves one request.
pub(crate) fn serve(store: &Store, judge: Option<&dyn ModelGate>, talk: &mut Talk) {
    if let Some(request) = talk.request() {
        let outcome = service::answer(store, request, judge, talk);
        talk.end(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Request;
    use crate::control::client::{Client, ControlError, Taken};
    use crate::store::StoreOptions;
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    const VERIFY: Request = Request::Verify { pictures: true, resume: false };

    fn ask(dir: &Path) -> Result<serde_json::Value, ControlError> {
        Client::reach(dir)?.ask(VERIFY, |_| Ok(Taken::Silently))
    }

    #[test]
    fn the_door_serves_its_user_takes_no_more_than_its_number_and_closes_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let door = Door::open(dir.path(), Arc::clone(&store)).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(ask(dir.path()).unwrap()["inspections"], 0);
        let connect = || UnixStream::connect(dir.path().join(SOCKET)).unwrap();
        // Nonsense is a closed connection, not a stopped door.
        let mut nonsense = connect();
        nonsense.write_all(&[0xff; 64]).unwrap();
        let mut rest = Vec::new();
        let _ = nonsense.read_to_end(&mut rest);
        let started = Instant::now();
        let idle: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| connect()).collect();
        let refused = ask(dir.path()).unwrap_err();
        assert!(matches!(&refused, ControlError::Refused(r) if r.code == "busy"), "{refused}");
        drop(door);
        assert!(started.elapsed() < Duration::from_secs(4), "nobody waits for those that say nothing");
        assert_eq!(Arc::strong_count(&store), 1, "nobody holds the store any more");
        drop((idle, store));
        // Without a daemon the command opens the store.
        assert_eq!(ask(dir.path()).unwrap()["broken_at"], serde_json::Value::Null);
    }

    #[test]
    fn a_long_directory_and_a_stale_socket_are_no_hindrance() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d".repeat(120));
        for _ in 0..2 {
            let store = Arc::new(Store::open(&dir, StoreOptions::default()).unwrap());
            let door = Door::open(&dir, store).unwrap();
            assert!(Client::reach(&dir).unwrap().is_daemon());
            let stale = fs::read(dir.join(SOCKET)).is_err();
            drop(door);
            assert!(stale && !dir.join(SOCKET).exists());
            let (path, _folder) = address(&dir, SOCKET).unwrap();
            drop(UnixListener::bind(path).unwrap());
            assert!(!Client::reach(&dir).unwrap().is_daemon(), "nobody listens on what a killed daemon left");
        }
    }
}
