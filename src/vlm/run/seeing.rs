//! What is seen of a job's pictures: by the backbone, where a question asks for its features, and by the vision tower.
//!
//! ```text
//! unseen --group of equal size--> level --> backbone: features --> answers
//!                             '-> tower: taps -------------------> answers    a job that asks for nothing else leaves
//!                                        embeddings -------------> encoded
//! ```

use super::{Run, ms};
use crate::backbone;
use crate::batch::Picture;
use crate::cells::{Cells, Features};
use crate::encoded::{Encoded, Unseen, VISION_PATCHES_MAX, next_group};
use crate::error::VlmError;
use crate::image::{PatchGrid, Patches};
use crate::lora::Terms;
use crate::ops::with_values;
use crate::vision::VisionOut;
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What the tower says about a picture.
struct Seen {
    picture: Arc<Picture>,
    /// Empty where nobody asked.
    cells: Cells,
}

impl Run<'_> {
    /// Runs the pictures of the next jobs, all of one size, through the vision tower, and through the backbone those
    /// of which somebody wants its features.
    pub(super) fn encode(&mut self) {
        if self.queue.unseen.first().is_some_and(Unseen::is_conversation) {
            return self.encode_one();
        }
        let mut jobs = next_group(&mut self.queue.unseen);
        self.ask_the_backbone(&jobs);
        jobs.retain(|job| self.queue.open.get(&job.id).is_some_and(|open| !open.is_answered()));
        let started = Instant::now();
        let asks_for_taps = |job: &Unseen| self.queue.open[&job.id].asks_for(Features::Tower);
        let with_taps = jobs.iter().any(asks_for_taps);
        let all: Vec<&Patches> = jobs.iter().flat_map(|job| &job.patches).collect();
        let terms = jobs.first().and_then(Unseen::terms);
        let seen = self.see(&all, with_taps, terms).map(VecDeque::from);
        let (spent, patches) = (ms(started), jobs.iter().map(Unseen::count).sum::<usize>().max(1));
        let mut seen = match seen {
            Ok(seen) => seen,
            Err(e) => {
                jobs.iter().for_each(|job| self.queue.fail(job.id, &e));
                return;
            }
        };
        for job in jobs {
            let seen: Vec<Seen> = seen.drain(..job.patches.len()).collect();
            let Some(open) = self.queue.open.get_mut(&job.id) else { continue };
            open.timing.vision_ms += spent * job.count() as f64 / patches as f64;
            if open.asks_for(Features::Tower) {
                open.answer_features(
                    Features::Tower,
                    &Ok(seen.first().map_or_else(Cells::default, |s| s.cells.clone())),
                );
            }
            if open.is_answered() {
                self.queue.left.push(job.id);
                continue;
            }
            let pictures = seen.into_iter().map(|seen| seen.picture).collect();
            self.enqueue_encoded(job.rank, Encoded { job: job.id, pictures, hashes: vec![], needed: 0 });
        }
    }

    /// Answers what the backbone is asked about the pictures of some jobs; a job that asks for nothing else leaves.
    fn ask_the_backbone(&mut self, jobs: &[Unseen]) {
        let started = Instant::now();
        let asked =
            |job: &&Unseen| self.queue.open.get(&job.id).is_some_and(|o| o.asks_for(Features::Backbone));
        let asked: Vec<&Unseen> = jobs.iter().filter(asked).collect();
        let c = &self.engine.model.vision.config;
        let look = |job: &&Unseen| match job.patches.first() {
            Some(first) if c.patch == backbone::CELL_PX => {
                let (rows, cols) = (first.grid.rows, first.grid.cols);
                let pixels = first.pixels(c.patch, c.merge);
                let (height, width) = (rows * c.patch, cols * c.patch);
                Ok(backbone::features(&backbone::level(&pixels, height, width), height, width))
            }
            _ => Err(candle_core::Error::Msg(format!(
                "patches of {} px have no cells of the backbone",
                c.patch
            ))
            .into()),
        };
        let cells: Vec<Result<Cells, VlmError>> = asked.par_iter().map(look).collect();
        let each = ms(started) / asked.len().max(1) as f64;
        for (job, cells) in asked.into_iter().zip(cells) {
            let Some(open) = self.queue.open.get_mut(&job.id) else { continue };
            open.timing.vision_ms += each;
            open.answer_features(Features::Backbone, &cells);
            if open.is_answered() {
                self.queue.left.push(job.id);
            }
        }
    }

    /// Runs the next picture of the best conversation through the vision tower.
    fn encode_one(&mut self) {
        let started = Instant::now();
        let mut job = self.queue.unseen.remove(0);
        let seen = self.see(&[&job.patches[job.seen.len()]], false, job.terms());
        if let Some(open) = self.queue.open.get_mut(&job.id) {
            open.timing.vision_ms += ms(started);
        }
        match seen {
            Ok(seen) => job.seen.extend(seen.into_iter().map(|seen| seen.picture)),
            Err(e) => return self.queue.fail(job.id, &e),
        }
        if job.seen.len() < job.patches.len() {
            self.queue.unseen.insert(0, job);
        } else {
            self.enqueue_encoded(
                job.rank,
                Encoded { job: job.id, pictures: job.seen, hashes: job.hashes, needed: 0 },
            );
        }
    }

    /// What the vision tower says about each of some pictures, with the features of their cells where they are wanted.
    fn see(
        &self,
        all: &[&Patches],
        with_taps: bool,
        terms: Option<&Arc<Terms>>,
    ) -> Result<Vec<Seen>, VlmError> {
        let Some(first) = all.first() else { return Ok(vec![]) };
        let vision = &self.engine.model.vision;
        let merge = vision.config.merge;
        // Jobs with pictures of several sizes are encoded picture by picture.
        let same = all.iter().all(|p| p.is_like(first));
        // One job may show more than a pass of the tower takes.
        let at_once = (VISION_PATCHES_MAX / first.grid.patches()).max(1);
        let mut seen = vec![];
        for batch in all.chunks(if same { at_once } else { 1 }) {
            let out = vision.forward_with(batch, terms)?;
            let grid = batch[0].grid;
            let (rows, cols) = (grid.rows / merge, grid.cols / merge);
            for i in 0..batch.len() {
                let cut = |t: &Tensor| t.narrow(0, i * rows * cols, rows * cols);
                let deepstack = out.deepstack.iter().map(cut).collect::<candle_core::Result<_>>()?;
                let picture = Arc::new(Picture { rows, cols, embeds: cut(&out.embeds)?, deepstack });
                let cells = if with_taps { taps_of(&out, i, grid, merge)? } else { Cells::default() };
                seen.push(Seen { picture, cells });
            }
        }
        Ok(seen)
    }
}

/// The features of one picture of a pass.
fn taps_of(out: &VisionOut, picture: usize, grid: PatchGrid, merge: usize) -> Result<Cells, VlmError> {
    let mut parts = vec![];
    for tap in &out.taps {
        let own = tap.narrow(0, picture * grid.patches(), grid.patches())?.contiguous()?;
        with_values(&own, |values| parts.push(values.to_vec()))?;
    }
    Ok(Cells::of_patches(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), grid, merge))
}
