//! A gate in front of a broker: open, or cut.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A TCP proxy that can be shut: then it cuts what is open and refuses what is new.
pub struct Gate {
    pub port: u16,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Gate {
    pub async fn new(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, opened) = watch::channel(true);
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut inner, _)) = listener.accept().await else { continue };
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let shut = opened.wait_for(|open| !*open);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                        _ = shut => {}
                    }
                });
            }
        });
        Self { port, open, task }
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}
