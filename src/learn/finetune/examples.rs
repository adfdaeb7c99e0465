//! Examples from pictures with their truth: tiles as the line cuts them, with the answers that would have been right.
//!
//! ```text
//! frame --plan--> regions x prompts
//!   kind defects  boxes in the tile are the answer; a box that is cut off by half makes the tile no example
//!   kind text     the lines of the region; a line that is cut off makes it no example
//!   other kinds   are not asked of the model
//! ```
//!
//! Invariant: a tile is an example only where its right answer is known. A defective part without boxes says nothing of
//! any tile of it, and a blemish that was accepted is neither a defect nor none.

use super::draw::Set;
use super::tile::{Mark, Task, Tile};
use crate::domain::frame::Frame;
use crate::domain::pipeline::{Pipeline, Prompt, PromptKind};
use crate::domain::rect::{BoxPx, Rect};
use crate::evaluate::truth::{TrueText, Truth};
use crate::inspect::fit;
use crate::inspect::plan::{Plan, question};
use crate::learn::LearnError;
use std::sync::Arc;
use vlm::{ModelInfo, Shown};

/// Fewest defective tiles with boxes, good tiles, and tiles with lines that are worth a run.
pub(crate) const TILES_MIN: usize = 8;
/// Good tiles of one part: others would be more of the same.
const GOOD_OF_A_PART: usize = 6;
/// Most bytes of all tiles' pictures.
const PICTURES_BYTES_MAX: usize = 1 << 30;
/// A box of which this share is in the tile is in the answer.
const SEEN_MIN: f32 = 0.45;
/// One of which less than this is there, and no more than a strip of so many pixels, is as good as outside.
const STRIP_SHARE_MAX: f32 = 0.15;
const STRIP_PX_MAX: f32 = 24.0;

/// What was no example, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Defective parts of which a defect has no box.
    pub without_boxes: usize,
    /// Tiles with a box, or a line, that is cut off.
    pub cut_off: usize,
    /// Tiles with a defect that the recipe does not ask for, or one that was accepted.
    pub not_asked: usize,
}

/// The labels that a model is to be asked after fine-tuning: its own, and behind them those of the recipe that it does not
/// state yet; empty when it states none.
pub(crate) fn labels(pipeline: &Pipeline, stated: &[String]) -> Vec<String> {
    let mut all = stated.to_vec();
    if !stated.is_empty() {
        all.extend(asked(pipeline).filter(|label| !stated.contains(label)).cloned());
    }
    all
}

/// The labels that the recipe lists.
pub(crate) fn asked(pipeline: &Pipeline) -> impl Iterator<Item = &String> {
    let prompts = pipeline.prompts.iter().filter(|p| matches!(p.kind, PromptKind::Defects { .. }));
    prompts.flat_map(|prompt| prompt.kind.labels())
}

/// Collects examples.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub tiles: Vec<Tile>,
    pub left_out: LeftOut,
    bytes: usize,
}

impl Collected {
    /// Adds what one picture teaches; `model` states the labels that will be asked.
    ///
    /// # Errors
    /// `Picture`: it is no proper one of the recipe. `TooMany`: there is no memory for more.
    pub(crate) fn add(
        &mut self,
        frame: &Frame,
        pipeline: &Pipeline,
        model: &ModelInfo,
        truth: &Truth,
    ) -> Result<(), LearnError> {
        let bad = |why: String| LearnError::Picture { picture: frame.origin.clone(), why };
        fit::judge(frame, pipeline).map_err(|reason| bad(reason.to_string()))?;
        let asks = |p: &Prompt| !p.clip && !matches!(p.kind, PromptKind::Reference(_));
        let prompts: Vec<Prompt> = pipeline.prompts.iter().filter(|p| asks(p)).cloned().collect();
        if prompts.is_empty() {
            let why = format!("the pipeline {} asks the model nothing about single pictures", pipeline.name);
            return Err(LearnError::Recipe { why });
        }
        let alone = Pipeline { prompts, clip: None, ..pipeline.clone() };
        let plan = Plan::to_learn(frame, &alone, model).map_err(|reason| bad(reason.to_string()))?;
        let lacks_boxes = truth.is_defective()
            && (truth.defects.is_empty() || truth.defects.iter().any(|d| d.bbox_px.is_none()));
        self.left_out.without_boxes += usize::from(lacks_boxes && knows_defects(truth));
        let mut good = 0;
        for (region, job) in plan.regions.iter().zip(plan.jobs()) {
            let Shown::Images(pictures) = &job.shown else { continue };
            let Some(picture) = pictures.first() else { continue };
            for &at in &region.prompts {
                let prompt = &alone.prompts[at];
                let asked: Arc<str> = question(prompt, model).into();
                let whole = plan.regions.iter().filter(|r| r.prompts.contains(&at)).count() == 1;
                let task = match &prompt.kind {
                    PromptKind::Defects { labels } if knows_defects(truth) && !lacks_boxes => {
                        let marks = self.marks(truth, region.tile.rect, labels);
                        marks.map(|marks| Task::Defects { question: asked, marks })
                    }
                    PromptKind::Text { .. } => {
                        let lines = self.lines(&truth.texts, region.tile.rect, whole);
                        lines.map(|lines| Task::Lines { question: asked, lines })
                    }
                    _ => None,
                };
                let Some(task) = task else { continue };
                let tile = Tile {
                    picture: Arc::clone(picture),
                    min_pixels: job.min_pixels,
                    max_pixels: job.max_pixels,
                    task,
                };
                if tile.is_of_defects() && tile.marks().is_empty() {
                    good += 1;
                    if good > GOOD_OF_A_PART {
                        continue;
                    }
                }
                self.keep(tile)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, tile: Tile) -> Result<(), LearnError> {
        self.bytes += tile.bytes();
        if self.bytes > PICTURES_BYTES_MAX {
            return Err(LearnError::TooMany { parts: self.tiles.len() });
        }
        self.tiles.push(tile);
        Ok(())
    }

    /// The defects of a tile in its own pixels; `None`: it is no example.
    fn marks(&mut self, truth: &Truth, tile: Rect, labels: &[String]) -> Option<Vec<Mark>> {
        let mut marks = vec![];
        for defect in &truth.defects {
            let Some(bbox) = defect.bbox_px else { continue };
            match seen(bbox, tile) {
                Seen::Outside => {}
                Seen::CutOff => {
                    self.left_out.cut_off += 1;
                    return None;
                }
                Seen::Inside(_) if !truth.is_defective() || !labels.contains(&defect.label) => {
                    self.left_out.not_asked += 1;
                    return None;
                }
                Seen::Inside(bbox) => marks.push(Mark {
                    label: defect.label.clone(),
                    severity: defect.severity.map(|s| s.as_str()),
                    bbox,
                }),
            }
        }
        Some(marks)
    }

    /// The lines that stand in a region. `whole`: the prompt is asked of this region alone, so that lines without a place are
    /// there.
    fn lines(&mut self, texts: &[TrueText], region: Rect, whole: bool) -> Option<Vec<String>> {
        let mut lines = vec![];
        for text in texts {
            match text.bbox_px.map(|bbox| seen(bbox, region)) {
                None if whole => lines.push(text.text.clone()),
                Some(Seen::Inside(bbox)) if is_whole(text.bbox_px, bbox) => lines.push(text.text.clone()),
                Some(Seen::Outside) => {}
                _ => {
                    self.left_out.cut_off += 1;
                    return None;
                }
            }
        }
        // That nothing was noted does not say that nothing is there.
        (!lines.is_empty()).then_some(lines)
    }
}

/// Whether it is known which defects the part has; of sets of text it is not.
fn knows_defects(truth: &Truth) -> bool {
    truth.good.is_some() || truth.texts.is_empty() || !truth.defects.is_empty()
}

/// Most of a line's sides may be missing by rounding, no more.
fn is_whole(of: Option<BoxPx>, seen: [f32; 4]) -> bool {
    let area = (seen[2] - seen[0]) * (seen[3] - seen[1]);
    of.is_some_and(|of| area >= 0.95 * of.area())
}

/// How much of a box a tile shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Outside,
    /// Neither there nor not there.
    CutOff,
    /// What is there, in pixels of the tile.
    Inside([f32; 4]),
}

fn seen(bbox: BoxPx, tile: Rect) -> Seen {
    let (x0, y0) = (tile.x0 as f32, tile.y0 as f32);
    let (left, top) = (bbox.x0.max(x0), bbox.y0.max(y0));
    let (right, bottom) = (bbox.x1.min(tile.x1 as f32), bbox.y1.min(tile.y1 as f32));
    if right <= left || bottom <= top {
        return Seen::Outside;
    }
    let share = (right - left) * (bottom - top) / bbox.area().max(f32::MIN_POSITIVE);
    if share >= SEEN_MIN {
        return Seen::Inside([left - x0, top - y0, right - x0, bottom - y0]);
    }
    let is_strip = share < STRIP_SHARE_MAX && (right - left).min(bottom - top) < STRIP_PX_MAX;
    if is_strip { Seen::Outside } else { Seen::CutOff }
}

/// Keeps of a set what is enough to learn from, and says what is not.
///
/// # Errors
/// `TooLittle`: of no kind is there enough.
pub(crate) fn enough(mut set: Set, left_out: LeftOut) -> Result<(Set, Vec<String>), LearnError> {
    let [defective, good, lines] = set.counts();
    let mut notes = vec![];
    if defective < TILES_MIN || good < TILES_MIN {
        if defective + good + left_out.without_boxes > 0 {
            notes.push(format!(
                "{defective} defective tiles with boxes and {good} good ones: at least {TILES_MIN} of each are needed"
            ));
        }
        if left_out.without_boxes > 0 {
            notes.push(format!(
                "{} defective parts have no boxes: boxes are needed, without them fine-tuning is chance",
                left_out.without_boxes
            ));
        }
        set.drop_defects();
    }
    if lines < TILES_MIN {
        if lines > 0 {
            notes.push(format!("{lines} tiles with lines of text: at least {TILES_MIN} are needed"));
        }
        set.drop_lines();
    }
    if set.counts() == [0; 3] {
        let nothing = || "nothing is known of these pictures that the recipe asks the model".to_owned();
        let why = if notes.is_empty() { nothing() } else { notes.join("; ") };
        return Err(LearnError::TooLittle { why });
    }
    Ok((set, notes))
}

#[cfg(test)]
#[path = "examples_tests.rs"]
mod tests;
