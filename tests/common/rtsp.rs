//! GStreamer's RTSP server, in a process of its own.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Until the server listens, or there will be none.
const START: Duration = Duration::from_secs(30);

/// Serves rtsp://127.0.0.1:PORT/ball: a moving ball, or what a pipeline gives. It listens when this returns.
pub(crate) fn serve(port: u16, pipeline: Option<&str>) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/rtsp.py");
    // Debian's own Python, which has GStreamer's bindings.
    let server = Command::new("/usr/bin/python3").arg(script).arg(port.to_string()).args(pipeline).spawn();
    let server = server.expect("python3 is needed for this test");
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < START, "the RTSP server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}
