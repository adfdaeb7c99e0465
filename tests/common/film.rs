//! Films made by ffmpeg.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A film of `seconds` at 10 frames a second.
pub(crate) fn film(dir: &Path, filter: &str, seconds: u32) -> PathBuf {
    let path = dir.join("film.avi");
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-y", "-f", "lavfi", "-i"])
        .arg(format!("{filter}=size=320x240:rate=10:duration={seconds}"))
        .args(["-c:v", "mjpeg", "-q:v", "2"])
        .arg(&path)
        .stdin(Stdio::null())
        .status()
        .expect("ffmpeg is needed for this test: apt-get install ffmpeg");
    assert!(status.success());
    path
}
