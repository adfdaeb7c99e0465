//! Known pictures out of confirmed parts: the proof of a model that names none.
//!
//! ```text
//! decisions in force, newest part first --> its recipe as it is today, a still, no tile left out
//!    fail: the model's own sure finding, left by the person --> the tile that shows it          Found
//!    pass: the model was sure that nothing is there         --> a tile it said nothing about    Clean
//!                 '--> the picture, whole by its sha256, cut as the line cuts it --> Proof
//!
//! let in --> what held is kept beside the pin --> firm at the next load of the same pair
//! ```
//!
//! Only what a person and a model agree about is asked: what a sound model has missed before it misses again, and that
//! says nothing about its files. A picture at which a model wavers says as little.
//!
//! Invariants:
//! - The same store and the same recipes give the same pictures.
//! - However much was decided, a load looks at [`REVIEW_STATES_MAX`] parts and opens [`PICTURES_MAX`] pictures at most.

use crate::domain::finding::Finding;
use crate::domain::inspection::{ImageRef, Inspection};
use crate::domain::pipeline::Pipeline;
use crate::domain::rect::{BoxPx, Rect};
use crate::domain::review::{Decided, Review};
use crate::inspect::plan::{AskedDefects, asked_of_a_still, cut};
use crate::inspect::proof::{Expected, Known, Outcome, Proof};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::images::hex;
use crate::store::pins::ProofPin;
use crate::store::proof::FileState;
use crate::store::review::ReviewState;
use image::{DynamicImage, ImageReader, RgbImage};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use vlm::ModelInfo;

/// Pictures of each kind. A model that has lost its sight tells none of six; a large one on a processor answers twelve
/// tiles in about the time that it takes to load.
const KNOWN_MAX: usize = 6;
/// Decided parts that are looked at for them. A record and its decision are read in some tens of microseconds.
const REVIEW_STATES_MAX: usize = 512;
/// Pictures that are hashed and decoded for them, the wrong ones included: each takes milliseconds.
const PICTURES_MAX: usize = 24;
/// Pictures that are remembered as told: those of the last few loads. With their digests the value stays far below
/// the longest that the store keeps.
const HELD_MAX: usize = 64;
/// How sure the model was, by the part's score, that something is there or that nothing is. Pictures are kept as JPEG,
/// and kernels differ: what it was less sure of may turn out otherwise without a fault of its files. How sure it is of
/// the label does not matter here.
const SURE: f32 = 0.75;
/// A tile shows a finding when it holds more than this share of its box.
const SHOWN_MIN: f32 = 0.5;

/// The known pictures for a model; none when no part was confirmed.
///
/// # Errors
/// [`StoreError`] when the database cannot be read. Records and files that do not read are passed over.
pub(super) fn proof(
    store: &Store,
    pipelines: &BTreeMap<String, Pipeline>,
    model: &ModelInfo,
) -> Result<Proof, StoreError> {
    let held = held(store, model);
    let (mut known, mut seen, mut opened) = (Vec::<Known>::new(), Vec::new(), 0);
    for (seq, review_state) in store.newest_review_states(REVIEW_STATES_MAX)? {
        let Some(decided) = review_state.verdict else { continue };
        let is_found = decided == Decided::Fail;
        if known.iter().filter(|k| k.expected.is_found() == is_found).count() == KNOWN_MAX {
            continue;
        }
        let Some(part) = Part::read(store, seq, review_state, pipelines, model)? else { continue };
        let Some(asked) = (if is_found { part.found() } else { part.clean(seq) }) else { continue };
        // A part that was shown twice is one picture.
        let this = (part.image.sha256.clone(), asked.tile, asked.prompt);
        if seen.contains(&this) {
            continue;
        }
        seen.push(this);
        if opened == PICTURES_MAX {
            break;
        }
        opened += 1;
        let Some(picture) = picture(store, &part.image) else { continue };
        let labels = asked.labels.clone();
        let mut one = Known {
            name: format!("inspection {}, tile {}", part.inspection.id, asked.tile.index),
            picture: cut(&picture, asked.tile),
            budget: asked.budget,
            question: Arc::clone(&asked.question),
            expected: if is_found { Expected::Found { labels } } else { Expected::Clean { labels } },
            firm: false,
        };
        one.firm = held.contains(&digest(&one));
        known.push(one);
    }
    Ok(Proof { known })
}

/// Keeps what a model that was let in has told; what another pair has told counts no longer.
pub(super) fn keep_held(store: &Store, model: &ModelInfo, proof: &Proof, outcomes: &[Outcome]) {
    let told = proof.known.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    let mut now: Vec<String> = told.map(|(known, _)| digest(known)).collect();
    tracing::info!("{} of {} pictures of confirmed parts held", now.len(), proof.known.len());
    let before = held(store, model);
    let earlier: Vec<String> = before.iter().filter(|digest| !now.contains(digest)).cloned().collect();
    now.extend(earlier);
    now.truncate(HELD_MAX);
    if now == before {
        return;
    }
    let pin = ProofPin {
        text_sha256: model.text_sha256.clone(),
        mmproj_sha256: model.mmproj_sha256.clone(),
        held: now,
    };
    if let Err(error) = store.pin_proof(&pin) {
        // They are asked once more as for the first time.
        tracing::error!(%error, "which pictures of confirmed parts held was not kept");
    }
}

/// What this very pair has told.
fn held(store: &Store, model: &ModelInfo) -> Vec<String> {
    match store.proof_pin() {
        Ok(Some(pin)) if pin.text_sha256 == model.text_sha256 && pin.mmproj_sha256 == model.mmproj_sha256 => {
            pin.held
        }
        Ok(_) => vec![],
        Err(error) => {
            tracing::error!(%error, "which pictures of confirmed parts held cannot be read");
            vec![]
        }
    }
}

/// Sixteen hex digits that stand for a picture, its question and what is known of it.
fn digest(known: &Known) -> String {
    let mut hasher = Sha256::new();
    let numbers = [
        known.picture.width(),
        known.picture.height(),
        known.budget.min_pixels,
        known.budget.max_pixels,
        u32::from(known.expected.is_found()),
    ];
    numbers.iter().for_each(|number| hasher.update(number.to_be_bytes()));
    hasher.update(known.picture.as_raw());
    hasher.update(known.question.as_bytes());
    hex(&hasher.finalize().into())[..16].to_owned()
}

/// A decided part whose tiles can be asked again.
struct Part<'a> {
    inspection: Inspection,
    review: Review,
    image: ImageRef,
    pipeline: &'a Pipeline,
    asked: Vec<AskedDefects>,
}

impl<'a> Part<'a> {
    /// `None`: the line would not ask it so today, or it was not looked at as a whole.
    fn read(
        store: &Store,
        seq: u64,
        review_state: ReviewState,
        pipelines: &'a BTreeMap<String, Pipeline>,
        model: &ModelInfo,
    ) -> Result<Option<Self>, StoreError> {
        let Some(effective) = review_state.effective else { return Ok(None) };
        let Some(stored) = readable(store.get(seq))? else { return Ok(None) };
        let (inspection, image) = (stored.inspection, stored.image.map(|stored| stored.image));
        // What an adapter answers proves nothing of the pair.
        let pipeline = pipelines.get(&inspection.pipeline).filter(|pipeline| pipeline.adapter.is_none());
        let (Some(image), Some(pipeline)) = (image, pipeline) else {
            return Ok(None);
        };
        let tiles = inspection.tiles;
        let is_whole = tiles.planned > 0 && tiles.planned == tiles.inspected;
        let is_still = pipeline.clip.is_none() && inspection.clip.is_empty();
        if pipeline.version != inspection.pipeline_version || !is_whole || !is_still {
            return Ok(None);
        }
        let Some(review) = readable(store.review_entry(effective))? else { return Ok(None) };
        let size = store.picture_size(&image.sha256).filter(|_| review.picture.is_none());
        let asked = size.and_then(|(width, height)| asked_of_a_still(width, height, pipeline, model).ok());
        Ok(asked.map(|asked| Self { inspection, review, image, pipeline, asked }))
    }

    /// The tile that shows most of the surest finding of the model that the person left.
    fn found(&self) -> Option<&AskedDefects> {
        if self.inspection.score.is_nan() || self.inspection.score < SURE {
            return None;
        }
        let left = self.inspection.findings.iter().filter(|finding| self.is_left(finding));
        let shown = left.flat_map(move |finding| {
            let asked = self.asked.iter().filter(move |asked| self.lists(asked, &finding.label));
            let answered = asked.filter(move |asked| self.has_answered(asked));
            answered.map(move |asked| (finding.confidence, share(&finding.bbox_px, asked.tile.rect), asked))
        });
        let shown = shown.filter(|(_, share, _)| *share > SHOWN_MIN);
        let best = shown.reduce(|a, b| if (b.0, b.1) > (a.0, a.1) { b } else { a });
        best.map(|(_, _, asked)| asked)
    }

    /// The person drew nothing, or the same defect.
    fn is_left(&self, finding: &Finding) -> bool {
        let Some(drawn) = &self.review.findings else { return true };
        let smaller = |b: &BoxPx| b.area().min(finding.bbox_px.area());
        let same = |b: &BoxPx| b.overlap(&finding.bbox_px) > SHOWN_MIN * smaller(b);
        drawn.iter().any(|b| b.label == finding.label && same(&b.bbox_px))
    }

    /// A tile that was asked and about which the model said nothing and the person neither; which of several, the part's
    /// number says.
    fn clean(&self, seq: u64) -> Option<&AskedDefects> {
        if self.inspection.score.is_nan() || self.inspection.score > 1.0 - SURE {
            return None;
        }
        let marked = |asked: &AskedDefects| {
            let drawn = self.review.findings.iter().flatten().map(|b| &b.bbox_px);
            let mut boxes = self.inspection.findings.iter().map(|f| &f.bbox_px).chain(drawn);
            boxes.any(|b| b.overlap(&box_of(asked.tile.rect)) > 0.0)
        };
        let clean: Vec<&AskedDefects> = self
            .asked
            .iter()
            .filter(|a| !self.was_skipped(a) && !self.has_answered(a) && !marked(a))
            .collect();
        let at = seq.checked_rem(clean.len() as u64)?;
        clean.get(at as usize).copied()
    }

    /// The recipe asks about this label there.
    fn lists(&self, asked: &AskedDefects, label: &str) -> bool {
        self.pipeline.prompts[asked.prompt].kind.labels().iter().any(|listed| listed == label)
    }

    /// The model was not asked, and has said nothing.
    fn was_skipped(&self, asked: &AskedDefects) -> bool {
        let prompt = &self.pipeline.prompts[asked.prompt].id;
        self.inspection.skipped.iter().any(|s| s.tile == asked.tile.index && s.prompt == *prompt)
    }

    /// The model said that something is there.
    fn has_answered(&self, asked: &AskedDefects) -> bool {
        let prompt = &self.pipeline.prompts[asked.prompt].id;
        self.inspection.answers.iter().any(|a| a.tile == asked.tile.index && a.prompt == *prompt)
    }
}

/// What can be read, with what cannot as what is not there.
fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::BadRecord { .. }) => Ok(None),
        other => other,
    }
}

/// The pixels, if the file is what its record says.
fn picture(store: &Store, image: &ImageRef) -> Option<RgbImage> {
    let FileState::Whole(path) = store.picture(image) else { return None };
    let reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    reader.decode().ok().map(DynamicImage::into_rgb8)
}

fn box_of(rect: Rect) -> BoxPx {
    BoxPx::new(rect.x0 as f32, rect.y0 as f32, rect.x1 as f32, rect.y1 as f32)
}

/// How much of a box lies in a tile, 0..=1.
fn share(finding: &BoxPx, tile: Rect) -> f32 {
    finding.overlap(&box_of(tile)) / finding.area()
}

#[cfg(test)]
mod tests;
