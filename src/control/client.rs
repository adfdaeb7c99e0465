//! The command's side: reaches whoever has the store, asks, and takes the answer.

use super::server::{address, own_uid, peer_uid, serve};
use super::{Answer, Heard, Refusal, Request, SEND_WAIT, SOCKET, Talk};
use crate::ipc::{BecomeUser, Channel, Child, IpcError, Program};
use crate::store::{Store, StoreOptions};
use crate::threads;
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a server may say nothing; even long work gives signs of progress.
const ANSWER_WAIT: Duration = Duration::from_mins(5);

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("{}: there is no store", dir.display())]
    NoStore { dir: PathBuf },
    /// Opening it would leave files of ours where they do not belong.
    #[error("{}: the store belongs to user {uid}; run it as that user (sudo -u '#{uid}' inspectd …) or as root", dir.display())]
    NotOurs { dir: PathBuf, uid: u32 },
    #[error("{}: {source}", dir.display())]
    Reach { dir: PathBuf, source: io::Error },
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("whoever has the store ended the connection: {0}")]
    Lost(#[from] IpcError),
    #[error("whoever has the store has said nothing for {} s", ANSWER_WAIT.as_secs())]
    Silent,
}

/// Who answers.
enum Server {
    Daemon,
    /// A thread of this process, which ends with the connection.
    Thread(Option<JoinHandle<()>>),
    /// A child that is the store's owner.
    Child(#[allow(dead_code, reason = "dropping it ends it")] Child),
}

/// A connection for one request.
pub(crate) struct Client {
    channel: Channel,
    server: Server,
}

/// One piece of an answer.
#[derive(Debug)]
pub(crate) enum Piece {
    Progress { what: String, done: u64, total: u64, note: String },
    Item { item: Value, payload: Vec<u8> },
}

impl Client {
    /// Reaches the store in `dir`: through its daemon, or by opening it, as its owner in any case.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn reach(dir: &Path) -> Result<Self, ControlError> {
        let fail = |source| ControlError::Reach { dir: dir.to_owned(), source };
        let meta = std::fs::metadata(dir).ok().filter(std::fs::Metadata::is_dir);
        let owner = meta.ok_or_else(|| ControlError::NoStore { dir: dir.to_owned() })?;
        if let Some(stream) = daemon(dir).map_err(fail)? {
            return Ok(Self { channel: Channel::over(stream), server: Server::Daemon });
        }
        match own_uid() {
            us if us == owner.uid() => Self::serve_ourselves(dir).map_err(fail),
            0 => Self::serve_as(dir, &owner).map_err(fail),
            _ => Err(ControlError::NotOurs { dir: dir.to_owned(), uid: owner.uid() }),
        }
    }

    fn serve_ourselves(dir: &Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let dir = dir.to_owned();
        let work = move || serve_dir(&dir, Channel::over(theirs));
        let thread = threads::spawn("store", work)?;
        Ok(Self { channel: Channel::over(ours), server: Server::Thread(Some(thread)) })
    }

    /// Root must not leave files in the store of a service: a child gives up its rights first.
    fn serve_as(dir: &Path, owner: &std::fs::Metadata) -> io::Result<Self> {
        let user = BecomeUser { uid: owner.uid(), gid: owner.gid(), dir: OwnedFd::from(File::open(dir)?) };
        let mut program = Program::new(["serve-store"]);
        program.become_user = Some(Arc::new(user));
        let child = Child::spawn(&program).map_err(io::Error::other)?;
        let channel = child.channel.try_clone().map_err(io::Error::other)?;
        Ok(Self { channel, server: Server::Child(child) })
    }

    /// True when a running daemon answers.
    pub(crate) const fn is_daemon(&self) -> bool {
        matches!(self.server, Server::Daemon)
    }

    /// Asks, gives every piece of the answer to `take`, and returns the summary. An item is told as taken when
    /// `take` returns, if it says so.
    ///
    /// # Errors
    /// [`ControlError`], or what `take` failed with.
    pub(crate) fn ask<E: From<ControlError>>(
        &mut self,
        request: Request,
        mut take: impl FnMut(Piece) -> Result<Taken, E>,
    ) -> Result<Value, E> {
        let lost = |e: IpcError| E::from(ControlError::Lost(e));
        match self.channel.send(&Heard::Ask(request), &[], SEND_WAIT) {
            // Who refuses before it was asked has said why.
            Ok(()) | Err(IpcError::Closed) => {}
            Err(error) => return Err(lost(error)),
        }
        loop {
            let answer = self.channel.recv::<Answer>(ANSWER_WAIT, SEND_WAIT).map_err(lost)?;
            let Some((answer, payload)) = answer else { return Err(ControlError::Silent.into()) };
            let piece = match answer {
                Answer::Done { summary } => return Ok(summary),
                Answer::Refused(refusal) => return Err(ControlError::Refused(refusal).into()),
                Answer::Progress { what, done, total, note } => Piece::Progress { what, done, total, note },
                Answer::Item { item } => Piece::Item { item, payload },
            };
            if take(piece)? == Taken::Say {
                self.channel.send(&Heard::Took, &[], SEND_WAIT).map_err(lost)?;
            }
        }
    }
}

/// Whether the server waits to hear that an item was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Silently,
    Say,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.channel.close();
        if let Server::Thread(thread) = &mut self.server {
            // It closes the store, so that the next command finds it free.
            if thread.take().is_some_and(|t| t.join().is_err()) {
                tracing::error!("the thread that had the store open panicked");
            }
        }
    }
}

/// Whether a daemon runs on the store in `dir`, which need not be there.
///
/// # Errors
/// Somebody else listens in its place, or it cannot be asked.
pub(crate) fn is_running(dir: &Path) -> io::Result<bool> {
    Ok(dir.is_dir() && daemon(dir)?.is_some())
}

/// The running daemon; `None` when none runs.
fn daemon(dir: &Path) -> io::Result<Option<UnixStream>> {
    let (path, _folder) = address(dir, SOCKET)?;
    match UnixStream::connect(path) {
        Ok(stream) => {
            // Root believes nobody else's word either.
            let uid = peer_uid(&stream)?;
            let owner = std::fs::metadata(dir)?.uid();
            if uid == owner || uid == 0 || uid == own_uid() {
                Ok(Some(stream))
            } else {
                Err(io::Error::other(format!("user {uid} listens on its socket")))
            }
        }
        // A socket that a killed daemon left behind, or none.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opens the store and serves one request.
pub(crate) fn serve_dir(dir: &Path, channel: Channel) {
    let mut talk = Talk::new(channel, Arc::default());
    // It looks; it does not tidy up.
    let options = StoreOptions { compact_above_bytes: u64::MAX, ..StoreOptions::default() };
    match Store::open(dir, options) {
        Ok(store) => serve(&store, None, &mut talk),
        Err(error) => talk.end(Err(Refusal::from(error).into())),
    }
}
