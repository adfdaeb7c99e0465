//! Logits of the tokens that may follow: of the whole vocabulary, or of those parts alone in which a
//! grammar allows anything.
//!
//!     rows of hidden states --+-- few parts allowed -> those parts of the output head, for all such rows
//!                             '-- else ------------> the whole head
//!
//! A part is a tile of the head: `TILE_ROWS` adjacent tokens. Its logits are the very bits that the whole
//! head gives, so that skipping the rest changes no answer and no probability.

use super::kernel::TILE_ROWS;
use super::linear::Linear;
use candle_core::{Result, Tensor};
use std::sync::Arc;
use toktrie::SimpleVob;

/// The tiles that hold an allowed token, rising.
pub fn tiles_of(mask: &SimpleVob) -> Vec<usize> {
    // A word of the mask is two tiles.
    let halves = mask.as_slice().iter().flat_map(|word| [word & 0xffff, word >> TILE_ROWS]);
    halves.enumerate().filter_map(|(tile, bits)| (bits != 0).then_some(tile)).collect()
}

/// Logits of what may follow one row.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Of several rows.
    values: Arc<Vec<f32>>,
    /// Where the row starts, and how many values it has.
    start: usize,
    len: usize,
    /// The tiles that the values are, one after the other; `None`: all.
    tiles: Option<Arc<[usize]>>,
}

impl Logits {
    /// Of one row and the whole vocabulary.
    pub fn whole(values: Vec<f32>) -> Self {
        Self { start: 0, len: values.len(), values: Arc::new(values), tiles: None }
    }

    /// The logit of a token; `None` where it was not computed or the vocabulary has no such token.
    pub fn get(&self, id: usize) -> Option<f32> {
        let at = match &self.tiles {
            None => id,
            Some(tiles) => tiles.binary_search(&(id / TILE_ROWS)).ok()? * TILE_ROWS + id % TILE_ROWS,
        };
        self.values[self.start..][..self.len].get(at).copied()
    }

    /// All logits, when the whole vocabulary was computed.
    pub fn all(&self) -> Option<&[f32]> {
        self.tiles.is_none().then(|| &self.values[self.start..][..self.len])
    }
}

/// Logits of some rows of hidden states, `[rows, hidden]`. `tiles` says, for each of `rows`, in which tiles
/// tokens are allowed; `None`: anywhere.
///
/// # Errors
/// When a row lies outside.
pub fn logits(
    head: &Linear,
    hidden: &Tensor,
    rows: &[usize],
    tiles: &[Option<Vec<usize>>],
) -> Result<Vec<Logits>> {
    let is_few = |tiles: &[usize]| tiles.len() < head.tiles() / 2;
    let few: Vec<bool> = tiles.iter().map(|t| t.as_ref().is_some_and(|t| is_few(t))).collect();
    let mut union: Vec<usize> = tiles
        .iter()
        .zip(&few)
        .filter(|(_, few)| **few)
        .flat_map(|(t, _)| t.iter().flatten().copied())
        .collect();
    union.sort_unstable();
    union.dedup();
    // Rows that allow little each may allow much together.
    let apart = is_few(&union);
    let mut out = vec![None; rows.len()];
    for tiles in [None, Some(union)] {
        let takes = |i: &usize| (few[*i] && apart) == tiles.is_some();
        let chosen: Vec<usize> = (0..rows.len()).filter(takes).collect();
        if chosen.is_empty() {
            continue;
        }
        let ids: Vec<u32> = chosen.iter().map(|i| rows[*i] as u32).collect();
        let x = hidden.index_select(&Tensor::new(ids, hidden.device())?, 0)?;
        let values = Arc::new(head.values(&x, tiles.as_deref())?);
        let tiles: Option<Arc<[usize]>> = tiles.map(Into::into);
        let len = values.len() / chosen.len();
        for (row, i) in chosen.into_iter().enumerate() {
            let (values, tiles) = (Arc::clone(&values), tiles.clone());
            out[i] = Some(Logits { values, start: row * len, len, tiles });
        }
    }
    Ok(out.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_those_of_the_allowed_tokens() {
        let mut mask = SimpleVob::alloc(100);
        [0, 15, 17, 64, 99].into_iter().for_each(|id| mask.allow_token(id));
        assert_eq!(tiles_of(&mask), [0, 1, 4, 6]);
        assert!(tiles_of(&SimpleVob::alloc(100)).is_empty());
    }

    #[test]
    fn a_token_is_found_in_its_tile() {
        let values = Arc::new((0..96).map(|v| v as f32).collect());
        let logits = Logits { values, start: 32, len: 32, tiles: Some([2, 5].into()) };
        assert_eq!(logits.get(2 * TILE_ROWS + 3), Some(35.0));
        assert_eq!(logits.get(5 * TILE_ROWS), Some(48.0));
        assert_eq!(logits.get(3 * TILE_ROWS), None);
        assert!(logits.all().is_none());
        assert_eq!(Logits::whole(vec![7.0]).get(1), None, "no such token");
    }
}
