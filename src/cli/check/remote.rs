//! What stands against servers as the model of a station: files of no use, and recipes that ask what no server can do.
//!
//! ```text
//! key, authorities   the file cannot be read, is open to everybody, holds none
//! recipes            features of cells, clips, adapters; pictures that a server would enlarge beyond the recipe's limit
//! ```
//!
//! No server is asked: that is the start's business, and the doctor's.

use crate::config::{Camera, Config, Found, Remote};
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind};
use crate::engine::cluster::{FACTOR, Url, authorities};
use crate::inspect::plan::unknown_label;
use crate::vlm::image::smart_resize;

/// Keys of the config, and what is wrong with each, or risky.
pub(super) fn found(config: &Config, remote: &Remote) -> Found {
    let mut found = Found::default();
    let key = remote.key_file.as_ref().filter(|file| file.is_file()).and_then(|_| remote.read_key().err());
    found.problems.extend(key.map(|why| ("model.remote_key_file".to_owned(), why)));
    let ca = remote.ca.as_ref().filter(|file| file.is_file()).and_then(|file| authorities(file).err());
    found.problems.extend(ca.map(|why| ("model.remote_ca".to_owned(), why)));
    if let Some(open) = remote.servers.iter().find(|url| url.is_open()) {
        let key = if remote.key_file.is_some() { "pictures and the key go" } else { "pictures go" };
        let why = format!("{key} to {} in clear text; use https:// with remote_ca", open.place());
        found.warnings.push(("model.remote".to_owned(), why));
    }
    for (at, camera) in config.cameras.iter().enumerate() {
        let (unable, risky) = of_camera(config, camera, remote);
        let with_key =
            |why: String| (format!("camera[{at}].pipeline"), format!("{}: {why}", camera.pipeline));
        found.problems.extend(unable.map(with_key));
        found.warnings.extend(risky.map(with_key));
    }
    found
}

/// What a camera's recipe asks that no server can do, and what it would get otherwise than it says.
fn of_camera(config: &Config, camera: &Camera, remote: &Remote) -> (Option<String>, Option<String>) {
    let Some(recipe) = config.recipes.get(&camera.pipeline) else { return (None, None) };
    (unable(&recipe.pipeline, remote), enlarged(&recipe.pipeline, remote))
}

fn unable(pipeline: &Pipeline, remote: &Remote) -> Option<String> {
    if let Some(adapter) = &pipeline.adapter {
        return Some(format!(
            "adapter = {:?} is added to a model in files, and to no server's",
            adapter.file
        ));
    }
    let of = |prompt: &Prompt| {
        let id = &prompt.id;
        if let PromptKind::Reference(_) = prompt.kind {
            return Some(format!("prompt {id} compares the features of cells, which no server gives"));
        }
        if prompt.clip {
            return Some(format!("prompt {id} is shown clips, which no server takes"));
        }
        if prompt.text.contains("<|") {
            return Some(format!(
                "prompt {id}: its text holds <|, which a server may take for a control token"
            ));
        }
        let (max, least) = (prompt.budget.max_pixels, remote.min_pixels);
        if max < least {
            return Some(format!(
                "prompt {id}: max_pixels = {max} is under the {least} pixels to which the servers enlarge every picture: \
                 raise it, or lower [model] remote_min_pixels where the servers are started with a lower minimum"
            ));
        }
        unknown_label(prompt, &remote.labels)
    };
    pipeline.prompts.iter().find_map(of)
}

/// A prompt whose pictures are shown larger than its own budget would show them.
fn enlarged(pipeline: &Pipeline, remote: &Remote) -> Option<String> {
    let tile = pipeline.tiling.tile_px;
    pipeline.prompts.iter().find_map(|prompt| {
        let (width, height) = prompt.roi.map_or((tile, tile), |roi| (roi.width(), roi.height()));
        let budget = prompt.budget;
        let own = smart_resize(width, height, FACTOR, budget.min_pixels, budget.max_pixels).ok()?;
        let shown = smart_resize(width, height, FACTOR, remote.min_pixels, budget.max_pixels).ok()?;
        (own.0 * own.1 < remote.min_pixels).then(|| {
            format!(
                "prompt {}: a picture of {width}x{height} px is shown as {}x{}, and not as {}x{}: servers enlarge it to {} \
                 pixels",
                prompt.id, shown.0, shown.1, own.0, own.1, remote.min_pixels
            )
        })
    })
}

/// The servers in words, as `check` and `doctor` print them.
pub(in crate::cli) fn named(remote: &Remote) -> String {
    remote.servers.iter().map(Url::to_string).collect::<Vec<_>>().join(", ")
}
