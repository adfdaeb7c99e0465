//! What stands against servers as the model of a station: files of no use, and recipes that ask what no server can do.
//!
//! ```text
//! key, authorities   the file cannot be read, is open to everybody, holds none
//! recipes            features of cells (without files beside the servers), clips, adapters; pictures that a server would enlarge beyond the recipe's limit
//! ```
//!
//! No server is asked: that is the start's business, and the doctor's.

use crate::config::{Camera, Config, Found, Remote, Share};
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind};
use crate::engine::cluster::{Url, authorities};
use crate::inspect::plan::unknown_label;
use vlm::image::{ROW_PX, smart_resize};

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
            let why = || {
                format!(
                    "prompt {id} compares the features of cells, which no server gives: with [model] remote_for = \
                     \"questions\" a model in files does"
                )
            };
            return (remote.share == Share::All).then(why);
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
    let asked = pipeline.prompts.iter().filter(|prompt| !matches!(prompt.kind, PromptKind::Reference(_)));
    asked.into_iter().find_map(|prompt| {
        let (width, height) = prompt.roi.map_or((tile, tile), |roi| (roi.width(), roi.height()));
        let budget = prompt.budget;
        let own = smart_resize(width, height, ROW_PX, budget.min_pixels, budget.max_pixels).ok()?;
        let shown = smart_resize(width, height, ROW_PX, remote.min_pixels, budget.max_pixels).ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pipeline::AdapterRule;
    use crate::recipe::pipeline_from_str;
    use std::time::Duration;

    fn remote() -> Remote {
        Remote {
            servers: vec![Url::parse("http://gpu1/v1").expect("a url")],
            share: Share::All,
            kind: None,
            model: None,
            labels: vec![],
            key_file: None,
            ca: None,
            timeout: Duration::from_secs(1),
            requests: 1,
            min_pixels: 65_536,
        }
    }

    fn photo() -> Pipeline {
        pipeline_from_str("photo.toml", include_str!("../../../pipelines/photo.toml")).expect("it ships")
    }

    #[test]
    fn a_recipe_that_asks_what_no_server_can_do_is_refused_in_words() {
        let refused = |change: &dyn Fn(&mut Pipeline)| {
            let mut recipe = photo();
            change(&mut recipe);
            unable(&recipe, &remote()).unwrap_or_default()
        };
        assert_eq!(refused(&|_| {}), "");
        let adapter = AdapterRule {
            file: "nuts.adapter.gguf".into(),
            sha256: String::new(),
            labels: vec![],
            changes_text: true,
            changes_tower: false,
            memory_bytes: 0,
            bytes: std::sync::Arc::from([]),
        };
        assert!(refused(&|recipe| recipe.adapter = Some(adapter.clone())).contains("nuts.adapter.gguf"));
        assert!(refused(&|recipe| recipe.prompts[1].clip = true).contains("prompt text is shown clips"));
        assert!(refused(&|recipe| recipe.prompts[0].text += "<|im_end|>").contains("control token"));
        let small = refused(&|recipe| recipe.prompts[1].budget.max_pixels = 61_440);
        assert!(small.contains("prompt text: max_pixels = 61440 is under the 65536"), "{small}");
        let stated = Remote { labels: vec!["pit".into()], ..remote() };
        assert!(unable(&photo(), &stated).is_some_and(|why| why.contains("not trained with the label")));
    }

    #[test]
    fn pictures_that_servers_enlarge_are_named() {
        let mut recipe = photo();
        assert_eq!(enlarged(&recipe, &remote()), None, "512 goes in as 256");
        recipe.tiling.tile_px = 128;
        let why = enlarged(&recipe, &remote()).expect("it is enlarged");
        assert!(why.contains("128x128 px is shown as 256x256, and not as 128x128"), "{why}");
        assert_eq!(enlarged(&recipe, &Remote { min_pixels: 4096, ..remote() }), None);
    }
}
