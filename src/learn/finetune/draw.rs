//! Which examples a step learns from.
//!
//! ```text
//! defects asked  4 defective, 4 good --> a quarter of each is simulated
//! lines asked    8                   --> a quarter is simulated
//! both asked     by turns
//! ```
//!
//! Half of a step is defective however rare defects are, and simulated tiles keep alive what the model knew before.
//! All of it follows from the seed and the number of draws: a run that is taken up again goes on as it would have.

use super::augment::changed;
use super::tile::{Mark, Task, Tile};
use crate::simulator::{self, Mix};
use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Examples of a step.
pub(super) const BATCH: usize = 8;
/// Of each kind so many are simulated.
const SIMULATED_OF_BATCH: usize = 2;
/// Sizes of simulated tiles, in pixels: of the kinds that trained the shipped model.
const DEFECT_PX: [(usize, usize); 2] = [(256, 256), (192, 192)];
const TEXT_PX: [(usize, usize); 3] = [(256, 128), (320, 96), (384, 96)];
/// Tiles that are rendered until one is of the kind that is wanted; about half are of either.
const RENDERED_MAX: usize = 64;
/// Of the simulator's seeds; those of the shipped model's training and scores are others.
const SIMULATOR_SEED: u64 = 7_700_000;

/// All there is to learn from.
#[derive(Debug)]
pub(crate) struct Set {
    pub(super) defective: Vec<Tile>,
    pub(super) good: Vec<Tile>,
    pub(super) lines: Vec<Tile>,
    /// Simulated tiles are mixed in: the model's labels are the simulator's.
    pub(super) simulates: bool,
}

impl Set {
    /// Of tiles of all kinds; `labels` are those that the model is asked.
    pub(crate) fn new(tiles: Vec<Tile>, labels: &[String]) -> Self {
        let (of_defects, lines): (Vec<Tile>, Vec<Tile>) = tiles.into_iter().partition(Tile::is_of_defects);
        let (good, defective) = of_defects.into_iter().partition(|tile| tile.marks().is_empty());
        let simulates =
            labels.is_empty() || simulator::LABELS.iter().all(|known| labels.iter().any(|l| l == known));
        Self { defective, good, lines, simulates }
    }

    /// Defective tiles, good ones, and those whose text is read.
    pub(crate) const fn counts(&self) -> [usize; 3] {
        [self.defective.len(), self.good.len(), self.lines.len()]
    }

    /// Does without tiles whose defects are asked.
    pub(super) fn drop_defects(&mut self) {
        self.defective.clear();
        self.good.clear();
    }

    /// Does without tiles whose text is read.
    pub(super) fn drop_lines(&mut self) {
        self.lines.clear();
    }

    /// Bytes of all pictures.
    pub(crate) fn bytes(&self) -> usize {
        [&self.defective, &self.good, &self.lines].into_iter().flatten().map(Tile::bytes).sum()
    }

    /// The examples of a step. There are tiles of a kind and of its opposite, or of lines.
    pub(super) fn draw(&self, step: u64, rng: &mut ChaCha8Rng) -> Vec<Tile> {
        let has_defects = !self.defective.is_empty();
        let reads = !self.lines.is_empty() && (!has_defects || step % 2 == 1);
        let simulated = if self.simulates { SIMULATED_OF_BATCH } else { 0 };
        let mut tiles = vec![];
        for at in 0..BATCH {
            let is_simulated = at < simulated;
            let defective = at % 2 == 0;
            let tile = match (reads, is_simulated) {
                (true, true) => simulated_lines(&self.lines, rng),
                (true, false) => self.one(&self.lines, rng),
                (false, true) => simulated_defects(&self.defective, defective, rng),
                (false, false) => self.one(if defective { &self.defective } else { &self.good }, rng),
            };
            tiles.extend(tile);
        }
        tiles
    }

    fn one(&self, of: &[Tile], rng: &mut ChaCha8Rng) -> Option<Tile> {
        let like = self.defective.choose(rng).map_or_else(Vec::new, shares);
        of.choose(rng).map(|tile| changed(tile, &like, rng))
    }
}

/// The boxes of a tile as shares of its sides.
fn shares(tile: &Tile) -> Vec<[f32; 4]> {
    let (w, h) = tile.picture.dimensions();
    let (w, h) = (w as f32, h as f32);
    tile.marks().iter().map(|m| [m.bbox[0] / w, m.bbox[1] / h, m.bbox[2] / w, m.bbox[3] / h]).collect()
}

/// A rendered tile with the question and the budget of one of the others.
fn simulated_defects(others: &[Tile], defective: bool, rng: &mut ChaCha8Rng) -> Option<Tile> {
    let other = others.choose(rng)?;
    let Task::Defects { question, .. } = &other.task else { return None };
    for _ in 0..RENDERED_MAX {
        let (w, h) = *DEFECT_PX.choose(rng)?;
        let (rgb, truth) = simulator::tile(SIMULATOR_SEED, rng.r#gen(), w, h, Mix::Defect);
        if truth.defects.is_empty() == defective {
            continue;
        }
        let mark = |d: &simulator::Defect| Mark {
            label: d.label.to_owned(),
            severity: Some(d.severity),
            bbox: d.bbox.map(|v| v as f32),
        };
        let marks = truth.defects.iter().map(mark).collect();
        return rendered(rgb, w, h, other, Task::Defects { question: Arc::clone(question), marks });
    }
    None
}

fn simulated_lines(others: &[Tile], rng: &mut ChaCha8Rng) -> Option<Tile> {
    let other = others.choose(rng)?;
    let Task::Lines { question, .. } = &other.task else { return None };
    let (w, h) = *TEXT_PX.choose(rng)?;
    let (rgb, truth) = simulator::tile(SIMULATOR_SEED, rng.r#gen(), w, h, Mix::Text);
    let lines = truth.texts.iter().map(|t| t.text.clone()).collect();
    rendered(rgb, w, h, other, Task::Lines { question: Arc::clone(question), lines })
}

fn rendered(rgb: Vec<u8>, w: usize, h: usize, other: &Tile, task: Task) -> Option<Tile> {
    let picture = RgbImage::from_raw(w as u32, h as u32, rgb)?;
    Some(Tile { picture: Arc::new(picture), task, ..other.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::finetune::tile::tests::{mark, tile};
    use rand::SeedableRng;

    fn set(labels: &[&str]) -> Set {
        let task = |marks| Task::Defects { question: "?".into(), marks };
        let lines = Task::Lines { question: "!".into(), lines: vec!["A".into()] };
        let tiles =
            vec![tile(task(vec![mark("pit", [1.0, 1.0, 30.0, 30.0])])), tile(task(vec![])), tile(lines)];
        let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        Set::new(tiles, &labels)
    }

    #[test]
    fn half_of_a_step_is_defective_and_a_quarter_simulated() {
        let set = set(&simulator::LABELS);
        assert_eq!((set.counts(), set.simulates), ([1, 1, 1], true));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for step in [0, 2, 4] {
            let tiles = set.draw(step, &mut rng);
            let defective = tiles.iter().filter(|t| !t.marks().is_empty()).count();
            assert_eq!((tiles.len(), defective), (BATCH, BATCH / 2));
            // Those of the set have 64 x 96 pixels at most.
            assert_eq!(tiles.iter().filter(|t| t.picture.width() > 96).count(), SIMULATED_OF_BATCH);
            assert!(tiles.iter().all(|t| t.is_of_defects() && t.question() == "?"));
        }
        assert!(set.draw(1, &mut rng).iter().all(|t| !t.is_of_defects() && t.question() == "!"));
    }

    #[test]
    fn draws_follow_from_the_seed_and_its_place() {
        let set = set(&["pit", "burr"]);
        assert!(!set.simulates, "the simulator's other labels are none of this model's");
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        set.draw(0, &mut rng);
        let place = rng.get_word_pos();
        let pixels = |tiles: Vec<Tile>| tiles.iter().map(|t| t.picture.as_raw().clone()).collect::<Vec<_>>();
        let next = pixels(set.draw(2, &mut rng));
        let mut again = ChaCha8Rng::seed_from_u64(5);
        again.set_word_pos(place);
        assert_eq!(pixels(set.draw(2, &mut again)), next);
    }
}
