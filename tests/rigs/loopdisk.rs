//! A small ext4 file system of its own, on an image file in memory.
//!
//! Only root may mount, and only where there are loop devices (a plain container has none). Where that
//! cannot be, the rigs say so in their line; where it can, what fails is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct LoopDisk {
    pub image: PathBuf,
    pub mount: PathBuf,
    _dir: tempfile::TempDir,
}

/// Runs a program to its end; what it said when it fails.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let out =
        Command::new(program).args(args).env("PATH", path).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

fn can_mount() -> bool {
    // SAFETY: asks for a number and changes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    root && Path::new("/dev/loop-control").exists()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Mounts an image file; the journal commits only when somebody syncs.
pub(crate) fn mount(image: &Path, at: &Path) -> Result<(), String> {
    run("mount", &["-o", "loop,commit=600,noatime", text(image), text(at)])
}

pub(crate) fn unmount(at: &Path) {
    // Whoever was just killed may still hold it for a moment.
    for _ in 0..200 {
        if run("umount", &[text(at)]).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = run("umount", &["-l", text(at)]);
}

impl LoopDisk {
    /// `None`, with a line that says why, where it cannot be done.
    pub(crate) fn new(promise: &str, megabytes: u64) -> Option<Self> {
        match Self::try_new(megabytes) {
            Ok(disk) => Some(disk),
            Err(why) if can_mount() => panic!("{promise} must run here: {why}"),
            Err(why) => {
                println!("{promise}: NOT RUN on this machine, which needs root and loop devices: {why}");
                None
            }
        }
    }

    fn try_new(megabytes: u64) -> Result<Self, String> {
        let shared = Path::new("/dev/shm");
        let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
        let dir = dir.map_err(|e| e.to_string())?;
        let (image, mount_at) = (dir.path().join("image"), dir.path().join("mount"));
        std::fs::create_dir(&mount_at).map_err(|e| e.to_string())?;
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(megabytes << 20).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        mount(&image, &mount_at)?;
        Ok(Self { image, mount: mount_at, _dir: dir })
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
        // Memory, which a file system that could only be unmounted lazily would keep.
        let _ = std::fs::remove_file(&self.image);
    }
}
