//! Logits of the tokens that may follow: of the whole vocabulary, or of those parts alone in which a
//! grammar allows anything.
//!
//! ```text
//! rows of hidden states --+-- few parts allowed -> those parts of the output head, for all such rows
//!                         '-- else ------------> the whole head
//! ```
//!
//! A part is a tile of the head: [`TILE_ROWS`] adjacent tokens. Its logits are the very bits that the whole
//! head gives, so that skipping the rest changes no answer and no probability.

use super::kernel::{Activations, TILE_ROWS};
use super::linear::Linear;
use candle_core::{Result, Tensor};
use toktrie::SimpleVob;

/// Puts the tiles that hold an allowed token, rising, in the place of what `tiles` holds.
pub fn put_tiles(mask: &SimpleVob, tiles: &mut Vec<usize>) {
    // A word of the mask is two tiles.
    let halves = mask.as_slice().iter().flat_map(|word| [word & 0xffff, word >> TILE_ROWS]);
    tiles.clear();
    tiles.extend(halves.enumerate().filter_map(|(tile, bits)| (bits != 0).then_some(tile)));
}

/// Logits of what may follow one row.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    /// The tiles that the values are, one after the other; `None`: all.
    tiles: Option<&'a [usize]>,
}

impl<'a> Logits<'a> {
    /// Of the whole vocabulary.
    pub const fn whole(values: &'a [f32]) -> Self {
        Self { values, tiles: None }
    }

    /// The logit of a token; `None` where it was not computed or the vocabulary has no such token.
    pub fn get(&self, id: usize) -> Option<f32> {
        let at = match self.tiles {
            None => id,
            Some(tiles) => tiles.binary_search(&(id / TILE_ROWS)).ok()? * TILE_ROWS + id % TILE_ROWS,
        };
        self.values.get(at).copied()
    }

    /// All logits, when the whole vocabulary was computed.
    pub fn all(&self) -> Option<&'a [f32]> {
        self.tiles.is_none().then_some(self.values)
    }
}

/// Logits of what may follow some rows. Its memory is used again by every `compute`.
#[derive(Debug, Default)]
pub struct NextLogits {
    whole: Group,
    few: Group,
    /// The tiles that the values of `few` are.
    union: Vec<usize>,
    /// Of each row: whether it is in `few`, and which one it is there.
    places: Vec<(bool, usize)>,
}

/// Rows whose logits are computed together.
#[derive(Debug, Default)]
struct Group {
    rows: usize,
    /// `[rows, hidden]`.
    hidden: Vec<f32>,
    values: Vec<f32>,
}

impl Group {
    fn clear(&mut self) {
        self.rows = 0;
        self.hidden.clear();
    }

    fn add(&mut self, hidden: &[f32]) -> usize {
        self.hidden.extend_from_slice(hidden);
        self.rows += 1;
        self.rows - 1
    }
}

impl NextLogits {
    /// Computes the logits of rows of hidden states, `[rows, width]`. `tiles` says, for each of them, in which tiles
    /// tokens are allowed; `None`: anywhere.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn compute<'t>(
        &mut self,
        head: &Linear,
        (hidden, width): (&[f32], usize),
        tiles: impl Fn(usize) -> Option<&'t [usize]>,
        quantised: &mut Activations,
    ) -> Result<()> {
        let Self { whole, few, union, places } = self;
        let is_few = |tiles: &[usize]| tiles.len() < head.tiles() / 2;
        let few_of = |i: usize| tiles(i).filter(|t| is_few(t));
        union.clear();
        (0..hidden.len() / width).filter_map(few_of).for_each(|tiles| union.extend(tiles));
        union.sort_unstable();
        union.dedup();
        // Rows that allow little each may allow much together.
        let apart = is_few(union);
        whole.clear();
        few.clear();
        places.clear();
        for (i, hidden) in hidden.chunks_exact(width).enumerate() {
            let is_few = apart && few_of(i).is_some();
            places.push((is_few, if is_few { few.add(hidden) } else { whole.add(hidden) }));
        }
        if whole.rows > 0 {
            Linear::multiply([head], &whole.hidden, quantised, [&mut whole.values])?;
        }
        if few.rows > 0 {
            head.multiply_tiles(&few.hidden, union, quantised, &mut few.values)?;
        }
        Ok(())
    }

    /// As `compute`, of hidden states on another device than the CPU, over the whole vocabulary.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn compute_there(&mut self, head: &Linear, hidden: &Tensor) -> Result<()> {
        self.whole.rows = hidden.dim(0)?;
        self.whole.values = head.forward(hidden)?.flatten_all()?.to_vec1()?;
        self.places.clear();
        self.places.extend((0..self.whole.rows).map(|i| (false, i)));
        Ok(())
    }

    /// The logits of the `i`th row.
    ///
    /// # Panics
    /// When there is none.
    pub fn row(&self, i: usize) -> Logits<'_> {
        let (is_few, at) = self.places[i];
        let group = if is_few { &self.few } else { &self.whole };
        let len = group.values.len() / group.rows;
        Logits { values: &group.values[at * len..][..len], tiles: is_few.then_some(&self.union) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_those_of_the_allowed_tokens() {
        let mut mask = SimpleVob::alloc(100);
        [0, 15, 17, 64, 99].into_iter().for_each(|id| mask.allow_token(id));
        let mut tiles = vec![9];
        put_tiles(&mask, &mut tiles);
        assert_eq!(tiles, [0, 1, 4, 6]);
        put_tiles(&SimpleVob::alloc(100), &mut tiles);
        assert!(tiles.is_empty());
    }

    #[test]
    fn a_token_is_found_in_its_tile() {
        let values: Vec<f32> = (32..64).map(|v| v as f32).collect();
        let logits = Logits { values: &values, tiles: Some(&[2, 5]) };
        assert_eq!(logits.get(2 * TILE_ROWS + 3), Some(35.0));
        assert_eq!(logits.get(5 * TILE_ROWS), Some(48.0));
        assert_eq!(logits.get(3 * TILE_ROWS), None);
        assert!(logits.all().is_none());
        assert_eq!(Logits::whole(&[7.0]).get(1), None, "no such token");
    }
}
