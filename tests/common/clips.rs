//! A station whose pipeline asks about clips.

use crate::station::Station;
use std::path::Path;

/// Puts a pipeline in the place of `examples-defects` that asks the same about clips.
pub(crate) fn ask_about_clips(station: &Station, frames: usize, interval_ms: u64) {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let recipe = std::fs::read_to_string(all.join("examples-defects.toml")).unwrap();
    let clip = format!("[clip]\nframes = {frames}\ninterval_ms = {interval_ms}\n[[prompt]]\nclip = true");
    let recipe = recipe.replace("name = \"examples-defects\"", "name = \"clips\"");
    let own = station.dir.path().join("pipelines");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("clips.toml"), recipe.replacen("[[prompt]]", &clip, 1)).unwrap();
    station.edit(&all.display().to_string(), &own.display().to_string());
    station.edit("examples-defects", "clips");
}
