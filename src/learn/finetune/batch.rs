//! Several examples as one batch: rows of tokens and cells, what is learned of them, and what is known of each cell.
//!
//! ```text
//! prefix | cells of the picture | question | answer
//!                                          '-- each token is learned from the row before it, by its weight
//! ```

use super::text::Rows;
use super::tile::{Answer, Mark, Tile};
use super::weights::Pair;
use crate::learn::LearnError;
use vlm::VlmError;
use vlm::image::{Patches, preprocess};
use vlm::rope::{image_advance, image_positions, text_positions};
use vlm::template::{Opening, Template};
use vlm::tokenizer::Tokenizer;
use vlm::vision::VisionConfig;

/// Weight of the token that says whether there is any defect: by it a part is judged.
const FIRST_TOKEN_WEIGHT: f32 = 8.0;
/// Longest answer that is learned, in tokens; a longer one is left out as the line would cut it off.
const ANSWER_TOKENS_MAX: usize = 512;

/// What a batch is made with.
pub(super) struct Maker {
    tokenizer: Tokenizer,
    template: Template,
    vision: VisionConfig,
    /// In the order of the helper's rows.
    labels: Vec<String>,
}

/// A batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub pictures: Vec<Patches>,
    pub rows: Rows,
    /// Of cells whose labels are known: the cell's place among those of all pictures.
    pub known: Vec<u32>,
    /// `[known, labels]`: 1 where a box of the label touches the cell.
    pub touched: Vec<f32>,
    /// Cells that a box touches, and the box as shares of the picture.
    pub boxed: Vec<(u32, [f32; 4])>,
    /// Cells so far.
    pub cells: usize,
}

impl Maker {
    /// For a pair; `labels` are those that may be asked for.
    ///
    /// # Errors
    /// The text file has no vocabulary of Qwen's.
    pub(super) fn new(pair: &Pair, labels: &[String]) -> Result<Self, VlmError> {
        let tokenizer = Tokenizer::from_gguf(&pair.text)?;
        let template = Template::from_gguf(&pair.text, &tokenizer)?;
        Ok(Self { tokenizer, template, vision: pair.vision_config.clone(), labels: labels.to_vec() })
    }

    /// Puts examples together.
    ///
    /// # Errors
    /// A picture cannot be resized, or an answer is too long.
    pub(super) fn batch(&self, tiles: &[Tile]) -> Result<Batch, LearnError> {
        let mut batch = Batch::default();
        for tile in tiles {
            self.add(&mut batch, tile)?;
        }
        let tokens = batch.rows.ids.len() as u32;
        // Tokens stand before cells in what rows are chosen from.
        for place in &mut batch.rows.order {
            *place = match place.checked_sub(CELL) {
                Some(cell) => tokens + cell,
                None => *place,
            };
        }
        Ok(batch)
    }

    fn add(&self, batch: &mut Batch, tile: &Tile) -> Result<(), LearnError> {
        let (patch, merge) = (self.vision.patch, self.vision.merge);
        let patches = preprocess(&tile.picture, patch, merge, tile.min_pixels, tile.max_pixels)?;
        let (rows, cols) = (patches.grid.rows / merge, patches.grid.cols / merge);
        let prefix = self.template.prefix();
        let question = self.template.question(&self.tokenizer, tile.question(), true, Opening::Bound)?;
        let (answer, weights) = self.answer(&tile.answer(), tile.is_of_defects())?;
        let start = batch.rows.positions.len();
        batch.add_tokens(&prefix, 0);
        let first_cell = batch.cells;
        batch.add_cells(rows, cols, prefix.len() as u32);
        let behind = prefix.len() as u32 + image_advance(rows, cols);
        batch.add_tokens(&question, behind);
        let before_answer = batch.rows.positions.len() - 1;
        batch.add_tokens(&answer[..answer.len() - 1], behind + question.len() as u32);
        let learned = answer.iter().zip(weights).enumerate();
        batch.rows.learned.extend(
            learned.filter(|(_, (_, w))| *w > 0.0).map(|(i, (id, w))| ((before_answer + i) as u32, *id, w)),
        );
        batch.rows.parts.push(start..batch.rows.positions.len());
        if tile.is_of_defects() {
            let size = tile.picture.dimensions();
            batch.add_known(first_cell, (rows, cols), tile.marks(), size, &self.labels);
        }
        batch.pictures.push(patches);
        Ok(())
    }

    /// The tokens of an answer with the one that ends it, and their weights.
    fn answer(&self, answer: &Answer, of_defects: bool) -> Result<(Vec<u32>, Vec<f32>), LearnError> {
        let mut ids = self.tokenizer.encode(&answer.text)?;
        if ids.len() >= ANSWER_TOKENS_MAX {
            let why = format!(
                "an answer of {} tokens is longer than {ANSWER_TOKENS_MAX}: {:.80}",
                ids.len(),
                answer.text
            );
            return Err(LearnError::Recipe { why });
        }
        let mut at = 0;
        let mut weights: Vec<f32> = ids
            .iter()
            .map(|id| {
                let token = at..at + self.tokenizer.bytes(*id).len();
                at = token.end;
                let is_unknown = answer.unknown.iter().any(|r| r.start < token.end && token.start < r.end);
                if is_unknown { 0.0 } else { 1.0 }
            })
            .collect();
        if let Some(first) = weights.first_mut().filter(|_| of_defects) {
            *first = FIRST_TOKEN_WEIGHT;
        }
        ids.push(self.template.im_end);
        weights.push(1.0);
        Ok((ids, weights))
    }
}

/// Added to the place of a cell until all tokens are known.
const CELL: u32 = 1 << 31;

impl Batch {
    /// What all weights of learned tokens come to.
    pub(super) fn weight(&self) -> f32 {
        self.rows.learned.iter().map(|(_, _, weight)| weight).sum()
    }

    fn add_tokens(&mut self, ids: &[u32], position: u32) {
        let from = self.rows.ids.len() as u32;
        self.rows.ids.extend_from_slice(ids);
        self.rows.order.extend(from..from + ids.len() as u32);
        self.rows.positions.extend(text_positions(position, ids.len()));
    }

    fn add_cells(&mut self, rows: usize, cols: usize, position: u32) {
        let (row, cell) = (self.rows.positions.len() as u32, self.cells as u32);
        let n = (rows * cols) as u32;
        self.rows.order.extend((cell..cell + n).map(|cell| CELL + cell));
        self.rows.cells.extend(row..row + n);
        self.rows.positions.extend(image_positions(position, rows, cols));
        self.cells += rows * cols;
    }

    /// What is known of the cells of one picture of this size.
    fn add_known(
        &mut self,
        first: usize,
        (rows, cols): (usize, usize),
        marks: &[Mark],
        (width, height): (u32, u32),
        labels: &[String],
    ) {
        for cell in 0..rows * cols {
            let (row, col) = (cell / cols, cell % cols);
            let at = self.touched.len();
            self.touched.resize(at + labels.len(), 0.0);
            self.known.push((first + cell) as u32);
            for mark in marks {
                let [x1, y1, x2, y2] = mark.bbox;
                let shares = [x1 / width as f32, y1 / height as f32, x2 / width as f32, y2 / height as f32];
                let overlaps = |low: f32, high: f32, i: usize, n: usize| {
                    low * (n as f32) < (i + 1) as f32 && high * n as f32 > i as f32
                };
                if overlaps(shares[0], shares[2], col, cols) && overlaps(shares[1], shares[3], row, rows) {
                    if let Some(label) = labels.iter().position(|label| *label == mark.label) {
                        self.touched[at + label] = 1.0;
                    }
                    self.boxed.push(((first + cell) as u32, shares));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::finetune::tests::shipped;
    use crate::learn::finetune::tile::Task;
    use crate::learn::finetune::tile::tests::{mark, tile};

    #[test]
    fn each_token_of_an_answer_is_learned_from_the_row_before_it() {
        let labels = ["pit".to_owned(), "dent".to_owned()];
        let maker = Maker::new(&shipped(), &labels).expect("a maker");
        let good = tile(Task::Defects { question: "Find: pit.".into(), marks: vec![] });
        let marks = vec![mark("dent", [33.0, 0.0, 60.0, 30.0])];
        let bad = tile(Task::Defects { question: "Find: pit.".into(), marks });
        let batch = maker.batch(&[good, bad]).expect("a batch");
        let rows = &batch.rows;
        // 64 x 96 px is 2 x 3 cells.
        assert_eq!((batch.known.len(), rows.cells.len(), rows.parts.len()), (12, 12, 2));
        assert_eq!((rows.positions.len(), rows.order.len()), (rows.parts[1].end, rows.parts[1].end));
        // The cell right and above, of the second picture.
        assert_eq!(
            batch.touched.iter().enumerate().filter(|(_, t)| **t > 0.0).map(|(i, _)| i).collect::<Vec<_>>(),
            [7 * 2 + 1]
        );
        assert_eq!(batch.boxed.iter().map(|(cell, _)| *cell).collect::<Vec<_>>(), [7]);
        let (row, first, weight) = rows.learned[0];
        assert_eq!((row as usize, weight), (rows.parts[0].end - 2, FIRST_TOKEN_WEIGHT));
        assert_eq!(maker.tokenizer.bytes(first), b"[]");
        // The row before a token holds the token before it.
        for pair in rows.learned.windows(2).filter(|pair| pair[1].0 == pair[0].0 + 1) {
            assert_eq!(rows.ids[rows.order[pair[1].0 as usize] as usize], pair[0].1);
        }
        // The words of a severity that nobody stated are not learned.
        let learned =
            |word: &[u8]| rows.learned.iter().any(|(_, id, _)| maker.tokenizer.bytes(*id).ends_with(word));
        assert!(learned(b"dent") && !learned(b"major"));
        let ends = rows.learned.iter().filter(|(_, id, _)| *id == maker.template.im_end).count();
        assert_eq!(ends, 2);
    }
}
