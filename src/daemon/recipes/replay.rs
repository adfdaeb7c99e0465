//! The replay of confirmed parts by a version that is not active yet, while the line goes on.
//!
//! ```text
//! newest decisions in force --this pipeline, a still, its picture whole and of the frames' size--> sample
//!     --one part at a time--> engine, class replay (the line goes first) --Inspection--> evaluate::gate::judge --> entry of the ledger
//! ```
//!
//! Between two parts the thread serves requests, and looks whether the version is still the one that is wanted.

use super::Keeper;
use super::steps::{Candidate, Origin};
use crate::document::read_text;
use crate::domain::finding::Finding;
use crate::domain::frame::{Frame, Trigger};
use crate::domain::inspection::{ImageRef, Inspection};
use crate::domain::pipeline::{FrameSize, GateRule, Pipeline};
use crate::domain::recipe::Progress;
use crate::domain::review::Decided;
use crate::engine::{Class, Engine};
use crate::evaluate::gate::{self, Part};
use crate::inspect::under_way;
use crate::queue::Popped;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::images::hex;
use crate::store::proof::FileState;
use crate::store::recipes::{ChangedPart, PARTS_NAMED_MAX, ReplayEntry};
use image::{DynamicImage, ImageReader, RgbImage};
use sha2::{Digest as _, Sha256};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Decided parts that are looked at for a sample: reading a record and its decision takes some tens of microseconds.
const STATES_MAX: usize = 5_000;
/// A part that is not answered by then was not judged. The line goes first, for as long as it has work.
pub(in crate::daemon) const PART_MAX: Duration = Duration::from_hours(1);
/// Parts that show before and after where no gate says how many.
const UNGATED_MAX: usize = 200;
/// How far a replay is comes at most this often.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Findings of a part that an entry shows.
const FINDINGS_MAX: usize = 12;
/// Digits of the sha256 that names a sample.
const SAMPLE_DIGITS: usize = 12;

/// Whether somebody still wants what a replay will show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
}

/// A confirmed part whose picture is kept.
pub(in crate::daemon) struct Confirmed {
    pub part: Part,
    pub inspection: Inspection,
    pub image: ImageRef,
}

/// Confirmed parts of a pipeline, the newest first, and how many could not be taken.
///
/// # Errors
/// [`StoreError`] when the database cannot be read; a record that does not read is left out.
pub(in crate::daemon) fn confirmed(
    store: &Store,
    pipeline: &str,
) -> Result<(Vec<Confirmed>, usize), StoreError> {
    let (mut parts, mut left_out) = (vec![], 0);
    for (seq, state) in store.newest_review_states(STATES_MAX)? {
        let Some(effective) = state.effective else { continue };
        let (stored, review) = match (store.get(seq), store.review_entry(effective)) {
            (Ok(Some(stored)), Ok(Some(review))) => (stored, review),
            (Err(StoreError::BadRecord { .. }), _) | (_, Err(StoreError::BadRecord { .. })) => {
                left_out += 1;
                continue;
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
            _ => continue,
        };
        if stored.inspection.pipeline != pipeline {
            continue;
        }
        let image = stored.image.map(|kept| kept.image).filter(|_| review.picture.is_none());
        let is_still = stored.inspection.clip.is_empty();
        let size = image.as_ref().filter(|_| is_still).and_then(|image| store.picture_size(&image.sha256));
        match (image, size) {
            (Some(image), Some(size)) => {
                let part = Part::new(&stored.inspection, &review, size);
                parts.push(Confirmed { part, inspection: stored.inspection, image });
            }
            _ => left_out += 1,
        }
    }
    Ok((parts, left_out))
}

/// The parts whose pictures have the size of the recipe's frames, and what was decided about the others: the line asks
/// nothing about such a frame, so that a version is not to be judged by one. Where neither the recipe states a size nor
/// the camera has learned one, every size fits.
fn of_its_size(
    store: &Store,
    pipeline: &Pipeline,
    all: Vec<Confirmed>,
) -> Result<(Vec<Confirmed>, Vec<Decided>), StoreError> {
    let mut learned = BTreeMap::new();
    let (mut fitting, mut other) = (vec![], vec![]);
    for one in all {
        let camera = &one.inspection.camera;
        let size = match pipeline.frame.size {
            FrameSize::Stated { width, height } | FrameSize::Learned { width, height } => {
                Some((width, height))
            }
            FrameSize::Any => None,
            FrameSize::Unknown => match learned.get(camera) {
                Some(known) => *known,
                None => {
                    let known = store.frame_size(camera, &pipeline.name)?;
                    learned.insert(camera.clone(), known);
                    known
                }
            },
        };
        if size.is_none_or(|size| size == (one.part.truth.width, one.part.truth.height)) {
            fitting.push(one);
        } else {
            other.push(one.part.decided);
        }
    }
    Ok((fitting, other))
}

/// What the ledger says of parts of another size; nothing where there were none.
pub(super) fn other_size_words(replay: &ReplayEntry) -> String {
    match replay.other_size {
        0 => String::new(),
        1 => "1 part of another size was left out".to_owned(),
        count => format!("{count} parts of another size were left out"),
    }
}

/// The pixels, if the file is what its record says.
pub(in crate::daemon) fn picture(store: &Store, image: &ImageRef) -> Option<RgbImage> {
    let FileState::Whole(path) = store.picture(image) else { return None };
    let reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    reader.decode().ok().map(DynamicImage::into_rgb8)
}

/// The first digits of the sha256 over the ids, each with a line's end.
pub(super) fn name_of(ids: impl Iterator<Item = impl AsRef<str>>) -> String {
    let mut hasher = Sha256::new();
    for id in ids {
        hasher.update(id.as_ref().as_bytes());
        hasher.update(b"\n");
    }
    hex(&hasher.finalize().into())[..SAMPLE_DIGITS].to_owned()
}

/// The picture of a kept part as a frame that is exposed now.
pub(in crate::daemon) fn frame(inspection: &Inspection, pixels: Arc<RgbImage>) -> Frame {
    Frame {
        camera: inspection.camera.clone(),
        pixels,
        captured_at: inspection.captured_at,
        captured: Instant::now(),
        exposed: None,
        clip: vec![],
        trigger: Trigger { deadline: Some(PART_MAX), part: None, ..inspection.trigger.clone() },
        origin: inspection.origin.clone(),
        replayed: true,
    }
}

impl Keeper {
    /// Replays the sample of the gates by a pipeline on an engine; `None` as soon as `wanted`, which hears how many parts
    /// of how many are done, says no.
    ///
    /// # Errors
    /// Why it says nothing, in words.
    pub(super) fn replay(
        &self,
        engine: &Engine,
        pipeline: &Arc<Pipeline>,
        rules: &[GateRule],
        wanted: &dyn Fn(usize, usize) -> Wanted,
    ) -> Result<Option<ReplayEntry>, String> {
        let started = Instant::now();
        let store = &self.recipes.store;
        let (all, mut left_out) = confirmed(store, &pipeline.name).map_err(|e| e.to_string())?;
        let (all, other) = of_its_size(store, pipeline, all).map_err(|e| e.to_string())?;
        left_out += other.len();
        let most = rules.iter().map(|rule| rule.parts_max).max().unwrap_or(UNGATED_MAX);
        let sample = gate::stratified(all, most, |one| one.part.kind());
        let (total, mut replayed) = (sample.len(), Vec::with_capacity(sample.len()));
        for (done, Confirmed { part, inspection, image }) in sample.into_iter().enumerate() {
            if wanted(done, total) == Wanted::No {
                return Ok(None);
            }
            let Some(pixels) = picture(store, &image) else {
                left_out += 1;
                continue;
            };
            let frame = frame(&inspection, Arc::new(pixels));
            let go_on = || !self.stop.is_set();
            let now = under_way::inspect(engine, Class::Replay, frame, Arc::clone(pipeline), &go_on);
            let Some(now) = now else { return Ok(None) };
            if replayed.first().is_some_and(|(_, first): &(Part, Inspection)| first.model != now.model) {
                return Err("the model was exchanged meanwhile".into());
            }
            replayed.push((part, now));
        }
        let mut entry = judged(rules, pipeline, &replayed);
        entry.left_out = left_out;
        entry.other_size = other.len();
        if !rules.is_empty() {
            let judged: Vec<_> = replayed.iter().map(|(part, _)| part.decided).collect();
            entry.failed.extend(gate::unshown(&other, &judged));
        }
        entry.ms = started.elapsed().as_millis() as u64;
        Ok(Some(entry))
    }

    /// Replays a candidate, and serves requests meanwhile.
    ///
    /// # Errors
    /// As `replay`.
    pub(super) fn replay_candidate(
        &self,
        candidate: &Candidate<'_>,
        pipeline: &Arc<Pipeline>,
        rules: &[GateRule],
    ) -> Result<Option<ReplayEntry>, String> {
        let published = Cell::new(None::<Instant>);
        let wanted = |done, total| {
            if published.get().is_none_or(|at| at.elapsed() >= PUBLISH_EVERY) {
                published.set(Some(Instant::now()));
                self.recipes.publish_progress(candidate, done, total);
            }
            let (pipeline, version) = (pipeline.name.clone(), candidate.version.clone());
            self.recipes.set_progress(Some(Progress { pipeline, version, done, total }));
            if self.is_outdated(candidate) { Wanted::No } else { Wanted::Yes }
        };
        let replayed = self.replay(&self.engine, pipeline, rules, &wanted);
        self.recipes.set_progress(None);
        replayed
    }

    /// Serves requests; true when the candidate is not wanted any more.
    pub(super) fn is_outdated(&self, candidate: &Candidate<'_>) -> bool {
        while let Popped::Item(request) = self.recipes.requests.pop(Some(Duration::ZERO)) {
            // A look comes by itself, after this.
            let _ = self.serve(request);
        }
        let is_edited = || match &candidate.origin {
            Origin::Folder => {
                let now = read_text(&self.recipes.file(candidate.pipeline)).ok();
                now.is_some_and(|text| text != candidate.text)
            }
            Origin::Learned { file, cancel, .. } => {
                cancel.by().is_some() || self.recipes.version_of_file(candidate.pipeline) != *file
            }
        };
        self.stop.is_set()
            || is_edited()
            // A store that cannot be read ends the station by itself.
            || self.recipes.is_decided(candidate).unwrap_or(true)
    }
}

/// What a replay gave, as the ledger keeps it.
pub(super) fn judged(
    rules: &[GateRule],
    pipeline: &Pipeline,
    replayed: &[(Part, Inspection)],
) -> ReplayEntry {
    let outcome = gate::judge(rules, pipeline, replayed);
    let model = replayed.first().map(|(_, inspection)| inspection.model.clone());
    let named = |those: &[usize]| {
        let of = |i: &usize| changed(&replayed[*i].0, &replayed[*i].1);
        those.iter().take(PARTS_NAMED_MAX).map(of).collect()
    };
    ReplayEntry {
        sample: name_of(replayed.iter().map(|(part, _)| &part.id)),
        parts: replayed.len(),
        left_out: 0,
        other_size: 0,
        text_sha256: model.as_ref().map(|m| m.text_sha256.clone()).unwrap_or_default(),
        mmproj_sha256: model.map(|m| m.mmproj_sha256).unwrap_or_default(),
        figures: serde_json::to_value(&outcome.figures).unwrap_or_default(),
        lost: named(&outcome.lost),
        alarms: named(&outcome.alarms),
        lost_count: outcome.lost.len(),
        alarms_count: outcome.alarms.len(),
        failed: outcome.failed,
        ms: 0,
    }
}

fn changed(part: &Part, now: &Inspection) -> ChangedPart {
    let finding = |f: &Finding| (f.label.clone(), [f.bbox_px.x0, f.bbox_px.y0, f.bbox_px.x1, f.bbox_px.y1]);
    ChangedPart {
        id: part.id.clone(),
        decided: part.decided.as_str().to_owned(),
        was: verdict(&part.was),
        now: verdict(&now.verdict),
        findings: now.findings.iter().take(FINDINGS_MAX).map(finding).collect(),
    }
}

/// `pass`, or the verdict with its reason.
fn verdict(verdict: &crate::domain::grade::Verdict) -> String {
    let word = verdict.as_str();
    verdict.reason().map_or_else(|| word.to_owned(), |reason| format!("{word}, {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::review::Decision;
    use crate::recipe::load_pipeline;
    use crate::store::StoreOptions;
    use crate::store::tests::sample;
    use image::ImageFormat;
    use std::io::Cursor;
    use std::path::Path;

    /// Stores part `n` of a camera with a picture of that size, decided as good.
    fn part(store: &Store, n: u64, camera: &str, size: (u32, u32)) -> String {
        let mut inspection = sample(n);
        inspection.camera = camera.to_owned();
        let mut png = Cursor::new(vec![]);
        RgbImage::new(size.0, size.1).write_to(&mut png, ImageFormat::Png).unwrap();
        let image = store.put_image(&png.into_inner(), "png").unwrap();
        store.commit(&inspection, Some(image)).unwrap();
        let (verdict, reason) = (Decided::Pass, "seen on the part".to_owned());
        let decision = Decision { verdict, reason, note: String::new(), findings: None, texts: None };
        store.review(&inspection.id, "anna", decision, None).unwrap();
        inspection.id
    }

    #[test]
    fn parts_of_another_size_are_left_out_camera_by_camera() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pipeline = load_pipeline(&root.join("pipelines/machined-plate.toml")).unwrap();
        assert_eq!(pipeline.name, sample(1).pipeline);
        let first = part(&store, 1, "top", (64, 48));
        let other = part(&store, 2, "top", (32, 48));
        let side = part(&store, 3, "side", (32, 48));
        let mut fitting = |size| {
            pipeline.frame.size = size;
            let (all, gone) = confirmed(&store, &pipeline.name).unwrap();
            assert_eq!((all.len(), gone), (3, 0));
            let (mut fitting, other) = of_its_size(&store, &pipeline, all).unwrap();
            assert_eq!((fitting.len() + other.len(), other.iter().all(|d| *d == Decided::Pass)), (3, true));
            fitting.sort_by(|a, b| a.part.id.cmp(&b.part.id));
            fitting.into_iter().map(|one| one.part.id).collect::<Vec<_>>()
        };
        assert_eq!(fitting(FrameSize::Any), [&first, &other, &side].map(String::clone));
        let learned = [&first, &side].map(String::clone);
        assert_eq!(fitting(FrameSize::Unknown), learned, "each camera has learned its own size");
        let stated = FrameSize::Stated { width: 32, height: 48 };
        assert_eq!(fitting(stated), [&other, &side].map(String::clone));
    }

    #[test]
    fn the_ledger_says_how_many_were_of_another_size() {
        let words = |other_size| other_size_words(&ReplayEntry { other_size, ..ReplayEntry::default() });
        assert_eq!(words(0), "");
        assert_eq!(words(1), "1 part of another size was left out");
        assert_eq!(words(3), "3 parts of another size were left out");
    }
}
