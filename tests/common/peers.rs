//! Clients of other makers, which speak the line's protocols as a plant's programs do.

use std::path::PathBuf;

/// The Python that has them: `.ci/peers` installs it beside the build.
pub(crate) fn python() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let candidates = test.ancestors().map(|folder| folder.join("peers/bin/python"));
    candidates.into_iter().find(|python| python.exists()).expect("no peers beside the build: run .ci/peers")
}
