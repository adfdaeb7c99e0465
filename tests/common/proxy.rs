//! A proxy in front of a broker: open, cut, or cutting what speaks of a topic.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A TCP proxy that can be shut: then it cuts what is open and refuses what is new.
pub(crate) struct Proxy {
    pub port: u16,
    open: watch::Sender<bool>,
    forbidden: watch::Sender<Option<String>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn new(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, opened) = watch::channel(true);
        let (forbidden, word) = watch::channel(None);
        let task = tokio::spawn(async move {
            loop {
                let Ok((inner, _)) = listener.accept().await else { continue };
                let (mut opened, word) = (opened.clone(), word.clone());
                tokio::spawn(async move {
                    let Ok(outer) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let shut = opened.wait_for(|open| !*open);
                    let ((mut from_inner, mut to_inner), (mut from_outer, mut to_outer)) =
                        (inner.into_split(), outer.into_split());
                    tokio::select! {
                        () = pass_unless(&mut from_inner, &mut to_outer, word) => {}
                        _ = tokio::io::copy(&mut from_outer, &mut to_inner) => {}
                        _ = shut => {}
                    }
                });
            }
        });
        Self { port, open, forbidden, task }
    }

    /// From now on a connection is cut on which a client says this.
    #[allow(dead_code, reason = "not every test that has a proxy forbids something")]
    pub(crate) fn forbid(&self, word: Option<&str>) {
        self.forbidden.send_replace(word.map(str::to_owned));
    }

    pub(crate) fn shut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes on until the forbidden word comes, which stays here.
async fn pass_unless(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    word: watch::Receiver<Option<String>>,
) {
    let (mut chunk, mut last) = ([0; 4096], Vec::new());
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        last.extend_from_slice(&chunk[..read]);
        let word = word.borrow().clone();
        if word.is_some_and(|word| last.windows(word.len()).any(|w| w == word.as_bytes())) {
            return;
        }
        // What a word may have begun in.
        last.drain(..last.len().saturating_sub(64));
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}
