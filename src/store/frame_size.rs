//! The size of frames, learned: that of the first part that a person confirmed with a camera and a pipeline.
//!
//! ```text
//! review: confirmed, or decided as good --> picture's size --> state `frame_size/CAMERA/PIPELINE`, once
//! ```
//!
//! A pipeline that states a size needs none: then what was learned is forgotten, so that a new size can be learned
//! should the statement go.

use super::Store;
use super::error::StoreError;
use crate::domain::review::{Decided, Review, ReviewKind};

/// Whose values these are in the state.
const OWNER: &str = "frame_size";

fn name(camera: &str, pipeline: &str) -> String {
    format!("{OWNER}/{camera}/{pipeline}")
}

impl Store {
    /// Width and height that were learned for a camera with a pipeline.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn frame_size(&self, camera: &str, pipeline: &str) -> Result<Option<(u32, u32)>, StoreError> {
        self.remembered(&name(camera, pipeline))
    }

    /// Forgets what was learned, where something was.
    ///
    /// # Errors
    /// [`StoreError`]; after it stop.
    pub fn forget_frame_size(&self, camera: &str, pipeline: &str) -> Result<(), StoreError> {
        match self.frame_size(camera, pipeline)? {
            Some(_) => self.forget(&name(camera, pipeline)),
            None => Ok(()),
        }
    }

    /// Learns from a decision, where nothing was learned before. The decision stands whatever comes of this.
    pub(super) fn learn_frame_size(&self, review: &Review) {
        let good = review.kind == ReviewKind::Confirm || review.verdict == Some(Decided::Pass);
        if !good || review.kind == ReviewKind::Undo {
            return;
        }
        if let Err(error) = self.learn_from(review.inspection_seq) {
            tracing::warn!(%error, inspection = %review.inspection_id, "the size of its frame was not learned");
        }
    }

    fn learn_from(&self, seq: u64) -> Result<(), StoreError> {
        let Some(stored) = self.get(seq)? else { return Ok(()) };
        let (camera, pipeline) = (&stored.inspection.camera, &stored.inspection.pipeline);
        if self.frame_size(camera, pipeline)?.is_some() {
            return Ok(());
        }
        let path = stored.image.and_then(|image| self.image_path(&image.image.sha256));
        // A picture that retention has removed, or that does not read, teaches nothing.
        let Some((width, height)) = path.and_then(|path| image::image_dimensions(path).ok()) else {
            return Ok(());
        };
        tracing::info!(%camera, %pipeline, width, height, "the size of frames is learned from a confirmed part");
        self.remember(&name(camera, pipeline), &(width, height))
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::review::{Decided, Decision};
    use crate::store::tests::{open, sample};

    fn decision(verdict: Decided) -> Decision {
        Decision { verdict, reason: "seen".into(), note: String::new(), findings: None, texts: None }
    }

    #[test]
    fn the_first_confirmed_part_teaches_its_size_and_no_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let put = |n: u64, side: u32| {
            let mut jpeg = std::io::Cursor::new(vec![]);
            image::RgbImage::new(side, 40).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
            let image = store.put_image(&jpeg.into_inner(), "jpg").unwrap();
            let part = sample(n);
            store.commit(&part, Some(image)).unwrap();
            part
        };
        let (first, second) = (put(1, 64), put(2, 96));
        let learned = || store.frame_size(&first.camera, &first.pipeline).unwrap();
        assert_eq!((&first.camera, &first.pipeline), (&second.camera, &second.pipeline));
        assert_eq!(learned(), None, "a part that nobody looked at teaches nothing");
        store.review(&first.id, "anna", decision(Decided::Pass), None).unwrap();
        assert_eq!(learned(), Some((64, 40)));
        store.review(&second.id, "anna", decision(Decided::Pass), None).unwrap();
        assert_eq!(learned(), Some((64, 40)), "a later one changes nothing");
        store.forget_frame_size(&first.camera, &first.pipeline).unwrap();
        assert_eq!(learned(), None);
    }
}
