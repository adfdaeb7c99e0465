//! Positions of text and pictures, and Qwen3-VL's interleaved multimodal rotary angles.
//!
//! A token has three positions: time, height, width. They are equal for text. A picture that starts
//! at position p has time p for all its rows, height p + row and width p + column on the merged
//! grid; the text behind it goes on at p + max(rows, columns).
//!
//! For contexts beyond that of the training the frequencies are scaled ([`Scaling`]).

use super::scaling::Scaling;

/// Position of one token: time, height, width.
pub type Position = [u32; 3];

/// Positions of `n` text tokens from `start`.
pub fn text_positions(start: u32, n: usize) -> impl Iterator<Item = Position> {
    (start..).take(n).map(|p| [p; 3])
}

/// Positions of a picture of `rows` x `cols` merged blocks from `start`, row by row.
pub fn image_positions(start: u32, rows: usize, cols: usize) -> impl Iterator<Item = Position> {
    let (rows, cols) = (rows as u32, cols as u32);
    (0..rows).flat_map(move |r| (0..cols).map(move |c| [start, start + r, start + c]))
}

/// Positions that a picture takes from the text behind it.
pub const fn image_advance(rows: usize, cols: usize) -> u32 {
    if rows > cols { rows as u32 } else { cols as u32 }
}

/// The frequencies of a text model and the axis that turns each of them.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `head_dim / 2` frequencies.
    frequencies: Vec<f32>,
    /// Index into a [`Position`] for each frequency.
    axes: Vec<usize>,
    /// What cosines and sines are multiplied by.
    amplitude: f32,
}

impl Rope {
    /// `sections` are the numbers of frequencies of time, height and width: [24, 20, 20] in
    /// Qwen3-VL. They are interleaved: index i belongs to height when i % 3 == 1 and to width when
    /// i % 3 == 2, each for as many as its section says, else to time.
    pub fn new(head_dim: usize, base: f64, sections: [usize; 3], scaling: Scaling) -> Self {
        let half = head_dim / 2;
        let axis = |i: usize| match i % 3 {
            1 if i < 3 * sections[1] => 1,
            2 if i < 3 * sections[2] => 2,
            _ => 0,
        };
        let trained = |i: usize| 1.0 / base.powf(2.0 * i as f64 / head_dim as f64);
        let kept = scaling.kept(head_dim, base);
        let frequency = |i: usize| (trained(i) * (kept(i) + (1.0 - kept(i)) / scaling.factor())) as f32;
        Self {
            frequencies: (0..half).map(frequency).collect(),
            axes: (0..half).map(axis).collect(),
            amplitude: scaling.amplitude(),
        }
    }

    /// Half of the head's dimension.
    pub fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// Cosines and sines of `positions`, `[positions, half]`, row after row.
    pub fn turns<'a>(&'a self, positions: &'a [Position]) -> impl Iterator<Item = (f32, f32)> + 'a {
        let row = |p: &'a Position| {
            self.frequencies.iter().zip(&self.axes).map(|(f, a)| {
                let (sin, cos) = (p[*a] as f32 * f).sin_cos();
                (cos * self.amplitude, sin * self.amplitude)
            })
        };
        positions.iter().flat_map(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_interleave() {
        let rope = Rope::new(128, 5e6, [24, 20, 20], Scaling::None);
        assert_eq!(rope.axes[..6], [0, 1, 2, 0, 1, 2]);
        assert_eq!(rope.axes[57..64], [0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(rope.axes.iter().filter(|a| **a == 0).count(), 24);
    }

    #[test]
    fn a_picture_stands_still_in_time() {
        let p: Vec<_> = image_positions(5, 2, 3).collect();
        assert_eq!(p, [[5, 5, 5], [5, 5, 6], [5, 5, 7], [5, 6, 5], [5, 6, 6], [5, 6, 7]]);
        assert_eq!(image_advance(2, 3), 3);
        assert_eq!(text_positions(8, 2).collect::<Vec<_>>(), [[8; 3], [9; 3]]);
    }
}
