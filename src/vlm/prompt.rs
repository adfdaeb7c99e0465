//! The prompt of a conversation, cut into chunks that a pass reads one at a time.
//!
//! ```text
//! system's turn | tokens, CHUNK_ROWS each | … | a picture | tokens | … | rest: read with the answer
//! ```
//!
//! Where it is cut depends on what stands before alone, so that two prompts that begin the same are cut the same. What is
//! left of the tokens at the end is the rest: at least what opens the answer, and less than a chunk.

use super::batch::Picture;
use super::encoded::Piece;
use super::prefix::{Key, key_of_ids, key_of_picture};
use super::rope::image_advance;
use super::turn::Segment;
use std::sync::Arc;

/// Tokens of a chunk: half of what a pass takes of new jobs. A picture is a chunk of its own, whatever its size.
pub(super) const CHUNK_ROWS: usize = 256;

/// A prompt in chunks.
pub(super) struct Prompt {
    start: Key,
    /// With the name of each and all before it.
    pub(super) chunks: Vec<(Piece, Key)>,
    pub(super) rest: Vec<u32>,
    /// The position of the rest.
    pub(super) next: u32,
    /// All tokens, one `<|image_pad|>` for each row of a picture.
    pub(super) ids: Vec<u32>,
}

impl Prompt {
    /// Cuts the segments of a conversation; it shows `pictures`, of these hashes. `start` names what stands before the
    /// first chunk.
    pub(super) fn new(
        start: Key,
        segments: Vec<Segment>,
        pictures: &[Arc<Picture>],
        hashes: &[Key],
        image_pad: u32,
    ) -> Self {
        let mut prompt = Self { start, chunks: vec![], rest: vec![], next: 0, ids: vec![] };
        let mut pictures = pictures.iter().zip(hashes);
        let last = segments.len().saturating_sub(1);
        for (i, segment) in segments.into_iter().enumerate() {
            match segment {
                Segment::Ids(ids) => prompt.add_ids(&ids, i == last),
                Segment::Picture => {
                    if let Some((picture, hash)) = pictures.next() {
                        prompt.add_picture(picture, hash, image_pad);
                    }
                }
            }
        }
        prompt
    }

    fn before(&self) -> &Key {
        self.chunks.last().map_or(&self.start, |(_, key)| key)
    }

    fn add_ids(&mut self, ids: &[u32], is_last: bool) {
        self.ids.extend(ids);
        for chunk in ids.chunks(CHUNK_ROWS) {
            // The one that ends the prompt stands in the answer's own rows.
            if is_last && chunk.as_ptr_range().end == ids.as_ptr_range().end {
                self.rest = chunk.to_vec();
                return;
            }
            let key = key_of_ids(self.before(), chunk);
            self.chunks.push((Piece::Ids(chunk.to_vec(), self.next), key));
            self.next += chunk.len() as u32;
        }
    }

    fn add_picture(&mut self, picture: &Arc<Picture>, hash: &Key, pad: u32) {
        let key = key_of_picture(self.before(), hash);
        self.ids.extend(std::iter::repeat_n(pad, picture.rows * picture.cols));
        self.chunks.push((Piece::Picture(Arc::clone(picture), self.next), key));
        self.next += image_advance(picture.rows, picture.cols);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::START;
    use candle_core::{DType, Device, Tensor};

    fn picture(rows: usize, cols: usize) -> Arc<Picture> {
        let embeds = Tensor::zeros((rows * cols, 2), DType::F32, &Device::Cpu).unwrap();
        Arc::new(Picture { rows, cols, embeds, deepstack: vec![] })
    }

    #[test]
    fn prompts_that_begin_the_same_are_cut_the_same() {
        let ids = |from: u32, n: u32| Segment::Ids((from..from + n).collect());
        let prompt = |last: u32| {
            let segments = vec![ids(0, 5), ids(9, 600), Segment::Picture, ids(1, last)];
            Prompt::new(START, segments, &[picture(2, 3)], &[[7; 32]], 99)
        };
        let (short, long) = (prompt(3), prompt(300));
        let rows = |p: &Prompt| p.chunks.iter().map(|(piece, _)| piece.rows()).collect::<Vec<_>>();
        assert_eq!(rows(&short), [5, 256, 256, 88, 6]);
        assert_eq!(rows(&long), [5, 256, 256, 88, 6, 256]);
        let keys = |p: &Prompt| p.chunks.iter().map(|(_, key)| *key).collect::<Vec<_>>();
        assert_eq!(keys(&short), keys(&long)[..5]);
        assert_eq!((short.rest.len(), short.next), (3, 5 + 600 + 3), "a picture of 2x3 is 3 positions");
        assert_eq!((long.rest.len(), long.next), (44, 5 + 600 + 3 + 256));
        assert_eq!(short.ids.len(), 5 + 600 + 6 + 3);
        assert_eq!(short.ids.iter().filter(|id| **id == 99).count(), 6 + 1, "and the token 99 itself");
        assert_eq!(prompt(256).rest.len(), 256, "something is left for the answer's first row");
    }
}
