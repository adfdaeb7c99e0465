//! What is known about a camera's frames over time, before one is inspected: the size that was learned, and the
//! pictures that came last.
//!
//! ```text
//! Shot --> pixels of an earlier picture, bit by bit? --yes--> review(frame: the same picture as …)
//!      --> pipeline without a size: the learned one is put in, and `inspect::fit` holds the frame to it
//! ```
//!
//! A camera has noise: it never takes the same picture twice. Frames of a recording are not compared; files are,
//! because programs that save a camera's pictures freeze, too (`[frame] repeats = "allow"` takes copies).

use super::cameras::Shot;
use crate::domain::frame::Frame;
use crate::domain::grade::Reason;
use crate::domain::pipeline::{FrameSize, Pipeline, Repeats};
use crate::store::Store;
use crate::store::error::StoreError;
use ahash::RandomState;
use image::RgbImage;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

/// Pictures of a camera that a new one is compared with: some drivers give the same few buffers in turn.
const REMEMBERED: usize = 16;

/// A picture that came.
struct Seen {
    hash: u64,
    origin: String,
    at: SystemTime,
}

/// The memory of all cameras.
pub(super) struct FrameHistory {
    store: Arc<Store>,
    hasher: RandomState,
    /// By camera, the newest last.
    seen: BTreeMap<String, VecDeque<Seen>>,
    /// Cameras and pipelines that state their size, whose learned size is forgotten.
    stated: BTreeMap<(String, String), FrameSize>,
}

impl FrameHistory {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, hasher: RandomState::new(), seen: BTreeMap::new(), stated: BTreeMap::new() }
    }

    /// The shots that are to be inspected, and those that are not, with their reasons.
    pub(super) fn sort(&mut self, shots: Vec<Shot>) -> (Vec<Shot>, Vec<(Shot, Reason)>) {
        let (mut admitted, mut refused) = (vec![], vec![]);
        for mut shot in shots {
            match self.repeated(&shot.frame, &shot.pipeline) {
                Some(message) => refused.push((shot, Reason::Frame { message })),
                None => {
                    match self.sized(&shot.frame.camera, &shot.pipeline) {
                        Ok(None) => {}
                        Ok(Some(pipeline)) => shot.pipeline = pipeline,
                        // The store is asked again when the inspection is stored, and says it there.
                        Err(error) => tracing::error!(%error, "the learned size of frames is not known"),
                    }
                    admitted.push(shot);
                }
            }
        }
        (admitted, refused)
    }

    /// The pipeline with the size that was learned, where it states none.
    fn sized(&mut self, camera: &str, pipeline: &Arc<Pipeline>) -> Result<Option<Arc<Pipeline>>, StoreError> {
        let size = pipeline.frame.size;
        if size != FrameSize::Unknown {
            let key = (camera.to_owned(), pipeline.name.clone());
            if self.stated.insert(key, size) != Some(size) {
                self.store.forget_frame_size(camera, &pipeline.name)?;
            }
            return Ok(None);
        }
        let Some((width, height)) = self.store.frame_size(camera, &pipeline.name)? else { return Ok(None) };
        let mut sized = Pipeline::clone(pipeline);
        sized.frame.size = FrameSize::Learned { width, height };
        Ok(Some(Arc::new(sized)))
    }

    /// What is said about a frame of which a picture was there before; remembers all of its pictures.
    fn repeated(&mut self, frame: &Frame, pipeline: &Pipeline) -> Option<String> {
        if frame.replayed {
            return None;
        }
        let seen = self.seen.entry(frame.camera.clone()).or_default();
        let mut found = None;
        let earlier = frame.clip.iter().map(|p| (&p.pixels, p.before));
        for (pixels, before) in earlier.chain([(&frame.pixels, std::time::Duration::ZERO)]) {
            let hash = self.hasher.hash_one((pixels.dimensions(), RgbImage::as_raw(pixels)));
            if let Some(same) = seen.iter().find(|seen| seen.hash == hash) {
                found.get_or_insert_with(|| {
                    let age = frame.captured_at.duration_since(same.at).unwrap_or_default().saturating_sub(before);
                    format!(
                        "the same picture as {}, {:.1} s before, bit by bit: nothing was exposed anew ([frame] repeats \
                         of the pipeline)",
                        same.origin,
                        age.as_secs_f64()
                    )
                });
            }
            let at = frame.captured_at.checked_sub(before).unwrap_or(frame.captured_at);
            seen.push_back(Seen { hash, origin: frame.origin.clone(), at });
        }
        while seen.len() > REMEMBERED {
            seen.pop_front();
        }
        found.filter(|_| pipeline.frame.repeats == Repeats::Review)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::frame::{ClipPicture, Trigger};
    use crate::recipe::pipeline_from_str;
    use crate::store::StoreOptions;
    use std::time::{Duration, Instant};

    const RECIPE: &str = include_str!("../../pipelines/photo.toml");

    fn recipe(size: &str) -> Arc<Pipeline> {
        let text = RECIPE.replace("size = \"any\"", size);
        Arc::new(pipeline_from_str("photo.toml", &text).unwrap())
    }

    fn picture(shade: u8) -> Arc<RgbImage> {
        Arc::new(RgbImage::from_pixel(40, 40, image::Rgb([shade; 3])))
    }

    fn shot(camera: &str, shade: u8, pipeline: &Arc<Pipeline>) -> Shot {
        let at = SystemTime::now();
        let mut frame = Frame::without_picture(camera, Trigger::default(), at);
        (frame.pixels, frame.captured, frame.origin) =
            (picture(shade), Instant::now(), format!("{shade}.png"));
        Shot { frame, pipeline: Arc::clone(pipeline) }
    }

    fn history() -> (tempfile::TempDir, FrameHistory) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        (dir, FrameHistory::new(Arc::new(store)))
    }

    /// What is said about one shot; empty: it is inspected.
    fn said(history: &mut FrameHistory, shot: Shot) -> String {
        let (admitted, refused) = history.sort(vec![shot]);
        assert_eq!(admitted.len() + refused.len(), 1);
        refused.first().map_or_else(String::new, |(_, reason)| reason.to_string())
    }

    #[test]
    fn a_frozen_picture_is_refused_by_the_name_of_its_first() {
        let (_dir, mut history) = history();
        let any = recipe("size = \"any\"");
        assert_eq!(said(&mut history, shot("cam1", 1, &any)), "");
        assert_eq!(said(&mut history, shot("cam2", 1, &any)), "", "of another camera");
        let words = said(&mut history, shot("cam1", 1, &any));
        assert!(words.starts_with("frame: the same picture as 1.png"), "{words}");
        assert_eq!(said(&mut history, shot("cam1", 2, &any)), "");
        assert!(
            said(&mut history, shot("cam1", 1, &any)).contains("the same picture"),
            "two buffers in turn"
        );
        let allowed = recipe("size = \"any\"\nrepeats = \"allow\"");
        assert_eq!(said(&mut history, shot("cam1", 1, &allowed)), "");
        let mut film = shot("cam1", 1, &any);
        film.frame.replayed = true;
        assert_eq!(said(&mut history, film), "", "a film may stand still");
    }

    #[test]
    fn a_clip_that_stands_still_is_refused() {
        let (_dir, mut history) = history();
        let any = recipe("size = \"any\"");
        let mut clip = shot("cam1", 3, &any);
        clip.frame.clip = vec![ClipPicture { pixels: picture(3), before: Duration::from_millis(100) }];
        assert!(said(&mut history, clip).contains("the same picture"));
    }

    #[test]
    fn the_learned_size_holds_until_a_size_is_stated() {
        let (_dir, mut history) = history();
        let (unknown, stated) = (recipe(""), recipe("size = [64, 64]"));
        let size = |history: &mut FrameHistory, shade, pipeline| {
            let (admitted, _) = history.sort(vec![shot("cam1", shade, pipeline)]);
            admitted[0].pipeline.frame.size
        };
        assert_eq!(size(&mut history, 1, &unknown), FrameSize::Unknown);
        let name = format!("frame_size/cam1/{}", unknown.name);
        history.store.remember(&name, &(40, 40)).unwrap();
        assert_eq!(size(&mut history, 2, &unknown), FrameSize::Learned { width: 40, height: 40 });
        assert_eq!(size(&mut history, 3, &stated), FrameSize::Stated { width: 64, height: 64 });
        assert_eq!(size(&mut history, 4, &unknown), FrameSize::Unknown, "what was learned is forgotten");
    }
}
